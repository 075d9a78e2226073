"""Bags read and written without ROS."""

import json
import shutil

import cv2
import numpy as np
import pytest

from test import ROOT

pytest.importorskip("rosbags")

from rosbags.highlevel import AnyReader
from rosbags.typesys import get_types_from_msg

from taco import cli, segment
from taco.clock import NS
from taco.config import AudioConfig
from taco.errors import MediaError
from taco.io import bags
from taco.types import SoundingObject, SoundingScene
from test.taco.io.made_bags import AUDIO_COMMON, BASE_NS, MGONZS13, MakeBag, tone


def whole_sound(reader):
    chunks = list(reader.chunks())
    return np.concatenate([c.samples for c in chunks]), chunks[0]


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
@pytest.mark.parametrize("single", [False, True])
def test_images_and_sound_of_both_storages(tmp_path, storage, single):
    with MakeBag(tmp_path / "bag", storage) as bag:
        bag.images(pad=4)
        bag.sound()
    path = next(p for p in (tmp_path / "bag").iterdir() if p.suffix in (".mcap", ".db3")) if single else tmp_path / "bag"
    assert bags.is_bag(path)
    reader = bags.BagReader(path)
    assert (reader.image_topic, reader.audio_topic, reader.origin_ns) == ("/camera/image_raw", "/audio", BASE_NS)
    assert abs(reader.duration_s - 1.95) < 0.01 and abs(reader.fps - 10) < 1
    frames = list(reader.frames())
    assert [f.stamp_ns for f in frames] == [BASE_NS + i * NS // 10 for i in range(20)]
    assert all((f.rgb == 10 * i).all() for i, f in enumerate(frames)) and frames[0].rgb.shape == (24, 32, 3)
    assert set(reader.frame_ids.values()) == {"cam_optical"}
    samples, first = whole_sound(reader)
    assert first.stamp_ns == BASE_NS and first.sample_rate == 16000
    assert np.abs(samples - np.concatenate([tone(16000, 1, i) for i in range(40)])).max() < 1e-6
    assert [f.stamp_ns for f in reader.frames(0.5, 0.8)] == [BASE_NS + i * NS // 10 for i in (5, 6, 7)]
    assert BASE_NS + NS - NS // 10 <= next(reader.chunks(1.0)).stamp_ns <= BASE_NS + NS


@pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "mono8"])
def test_image_encodings(tmp_path, encoding):
    rgb = np.zeros((4, 6, 3), np.uint8)
    rgb[..., 0], rgb[..., 2] = 200, 50
    pixels = {"bgr8": rgb[..., ::-1], "rgba8": np.dstack([rgb, rgb[..., 0]]), "mono8": rgb[..., 0]}[encoding]
    with MakeBag(tmp_path / "bag") as bag:
        bag.image(BASE_NS, np.ascontiguousarray(pixels), encoding=encoding, pad=3)
        bag.sound()
    (frame,) = bags.BagReader(tmp_path / "bag").frames()
    assert (frame.rgb == (np.full_like(rgb, 200) if encoding == "mono8" else rgb)).all()


def test_compressed_images_beside_raw_ones_and_alone(tmp_path):
    rgb = np.zeros((16, 16, 3), np.uint8)
    rgb[..., 0] = 250
    data = cv2.imencode(".png", rgb[..., ::-1])[1].ravel()
    for name in ("alone", "both"):
        with MakeBag(tmp_path / name) as bag:
            fields = {"header": bag.header(BASE_NS), "format": "png", "data": data}
            bag.write("/camera/image_raw/compressed", "sensor_msgs/msg/CompressedImage", BASE_NS, **fields)
            bag.sound()
            if name == "both":
                bag.images()
    (frame,) = bags.BagReader(tmp_path / "alone").frames()
    assert (frame.rgb == rgb).all()
    assert bags.BagReader(tmp_path / "both").image_topic == "/camera/image_raw"


def test_raw_pcm_of_audio_common(tmp_path):
    with MakeBag(tmp_path / "bag", definitions=AUDIO_COMMON) as bag:
        bag.images()
        info = {"channels": 2, "sample_rate": 48000, "sample_format": "S16LE", "bitrate": 0, "coding_format": "wave"}
        bag.write("/audio_info", "audio_common_msgs/msg/AudioInfo", BASE_NS, **info)
        data = bag.kind("audio_common_msgs/msg/AudioData")
        for i in range(40):
            ns = BASE_NS + i * NS // 20
            raw = (tone(48000, 2, i) * 32768).round().astype("<i2").ravel().view(np.uint8)
            bag.write("/mic", "audio_common_msgs/msg/AudioDataStamped", ns, header=bag.header(ns), audio=data(data=raw))
    samples, first = whole_sound(bags.BagReader(tmp_path / "bag"))
    assert first.sample_rate == 48000 and samples.shape == (96000, 2) and first.stamp_ns == BASE_NS
    assert np.abs(samples - np.concatenate([tone(48000, 2, i) for i in range(40)])).max() < 1e-4


def test_unstamped_sound_takes_the_bags_time_as_its_end(tmp_path):
    with MakeBag(tmp_path / "bag", definitions=AUDIO_COMMON) as bag:
        bag.images()
        raw = np.zeros(1600, "<i2").view(np.uint8)
        bag.write("/mic", "audio_common_msgs/msg/AudioData", BASE_NS + NS, data=raw)
    (chunk,) = bags.BagReader(tmp_path / "bag", audio=AudioConfig(sample_rate=16000)).chunks()
    assert chunk.stamp_ns == BASE_NS + NS - NS // 10 and len(chunk.samples) == 1600


FORMATS = [(1, "float32_data", np.float32, 1, 0), (8, "int16_data", np.int16, 32768, 0), (32, "uint8_data", np.uint8, 128, 128)]


@pytest.mark.parametrize(("number", "field", "dtype", "scale", "zero"), FORMATS)
def test_portaudio_formats(tmp_path, number, field, dtype, scale, zero):
    with MakeBag(tmp_path / "bag", definitions=MGONZS13) as bag:
        bag.images()
        kind = lambda name: bag.kind(f"audio_common_msgs/msg/{name}")  # noqa: E731
        empty = {
            "float32_data": np.float32,
            "int32_data": np.int32,
            "int16_data": np.int16,
            "int8_data": np.int8,
            "uint8_data": np.uint8,
        }
        values = {name: np.zeros(0, t) for name, t in empty.items()}
        values[field] = (tone(16000, 1, 0)[:, 0] * scale + zero).round(0 if scale > 1 else 7).astype(dtype)
        audio = kind("Audio")(
            audio_data=kind("AudioData")(**values), info=kind("AudioInfo")(format=number, channels=1, rate=16000, chunk=512)
        )
        bag.write("/audio", "audio_common_msgs/msg/AudioStamped", BASE_NS, header=bag.header(BASE_NS), audio=audio)
    (chunk,) = bags.BagReader(tmp_path / "bag").chunks()
    assert np.abs(chunk.samples - tone(16000, 1, 0)).max() < 1.5 / scale


def test_bad_bags_are_one_clear_line(tmp_path):
    with MakeBag(tmp_path / "mute") as bag:
        bag.images()
    with MakeBag(tmp_path / "blind") as bag:
        bag.sound()
    with MakeBag(tmp_path / "two") as bag:
        bag.images()
        bag.images(topic="/rear/image_raw")
        bag.sound()
    with MakeBag(tmp_path / "mp3", definitions=AUDIO_COMMON) as bag:
        bag.images()
        info = {"channels": 1, "sample_rate": 16000, "sample_format": "S16LE", "bitrate": 0, "coding_format": "mp3"}
        bag.write("/audio_info", "audio_common_msgs/msg/AudioInfo", BASE_NS, **info)
        data = bag.kind("audio_common_msgs/msg/AudioData")(data=np.zeros(32, np.uint8))
        bag.write("/mic", "audio_common_msgs/msg/AudioDataStamped", BASE_NS, header=bag.header(BASE_NS), audio=data)
    shutil.copytree(tmp_path / "two", tmp_path / "cut")
    file = next((tmp_path / "cut").glob("*.db3"))
    file.write_bytes(file.read_bytes()[:5000])
    (tmp_path / "text.mcap").write_text("not a bag")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/metadata.yaml").write_text("")
    cases = [
        ("mute", {}, r"wanted a topic with sound .* got /camera/image_raw \(sensor_msgs/msg/Image\)"),
        ("blind", {}, r"wanted a topic with images .* got /audio"),
        ("two", {}, "several topics with images: /camera/image_raw, /rear/image_raw; choose one with --image-topic"),
        ("two", {"image_topic": "/nose"}, "wanted images on /nose, got /camera/image_raw, /rear/image_raw"),
        ("two", {"image_topic": "/rear/image_raw", "audio_topic": "/x"}, "wanted sound on /x, got /audio"),
        ("cut", {"image_topic": "/rear/image_raw"}, "wanted a whole ROS 2 bag"),
        ("text.mcap", {}, "wanted a whole ROS 2 bag"),
        ("empty", {}, "wanted a whole ROS 2 bag"),
        ("mp3", {}, "wanted raw PCM, got 'mp3'"),
    ]
    for name, topics, says in cases:
        with pytest.raises(MediaError, match=says) as error:
            reader = bags.BagReader(tmp_path / name, **topics)
            list(reader.frames())
            list(reader.chunks())
        assert "\n" not in str(error.value)


def scene(stamp_ns=BASE_NS + 5):
    mask = np.zeros((24, 32), bool)
    mask[4:9, 10:20] = True
    outlined = SoundingObject.from_mask(mask, [("dog", 0.5), ("cat", 0.25)], 0.75, id=300)
    head = (stamp_ns, (24, 32), stamp_ns - NS, stamp_ns, -12.5, 0.5, "sounding")
    return SoundingScene(*head, (outlined,), heard=(("Bark", 0.75), ("Rain", 0.25)))


@pytest.mark.parametrize("storage", ["sqlite3", "mcap"])
def test_written_messages_are_those_of_the_node(tmp_path, storage):
    """Read back by rosbags with the definitions that are in the bag, and by ROS, against the node's own."""
    with bags.BagWriter(tmp_path / "out", storage) as writer:
        writer.write(scene(), "cam_optical")
    with AnyReader([tmp_path / "out"]) as reader:
        found = {c.topic: (c.msgtype, raw, reader.deserialize(raw, c.msgtype), t) for c, t, raw in reader.messages()}
    assert set(found) == {"/taco_node/objects", "/taco_node/mask"}
    kind, raw, message, t = found["/taco_node/objects"]
    assert kind == "taco_ros/msg/SoundingObjectArray" and t == BASE_NS + 5 and message.header.frame_id == "cam_optical"
    assert (message.verdict, message.heard, message.heard_scores.tolist()) == ("sounding", ["Bark", "Rain"], [0.75, 0.25])
    (outlined,) = message.objects
    assert (outlined.id, outlined.label, outlined.score, len(outlined.place)) == (300, "dog", 0.75, 0)
    assert outlined.mask.data.tolist() == [255] * 50 and (outlined.bounding_box.x_offset, outlined.bounding_box.width) == (10, 10)
    mask = found["/taco_node/mask"][2]
    assert mask.data.reshape(24, 32)[5, 12] == (300 - 1) % 255 + 1 and mask.data.sum() == 50 * 45
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    pytest.importorskip("rclpy")
    from rclpy.serialization import deserialize_message
    from std_msgs.msg import Header

    from taco_ros import conversions

    header = Header(stamp=conversions.ns_to_stamp(BASE_NS + 5), frame_id="cam_optical")
    for topic, wanted in (
        ("objects", conversions.scene_message(scene(), header)),
        ("mask", conversions.mask_message(scene(), header)),
    ):
        assert deserialize_message(bytes(found[f"/taco_node/{topic}"][1]), type(wanted)) == wanted


def test_definitions_are_those_of_the_msg_folder():
    for name, text in bags.DEFINITIONS.items():
        path = ROOT / "msg" / f"{name.rpartition('/')[2]}.msg"
        assert get_types_from_msg(text, name) == get_types_from_msg(path.read_text(), name)


def test_a_failed_bag_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), bags.BagWriter(tmp_path / "out") as writer:
        writer.write(scene())
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(MediaError, match="it exists"):
        bags.BagWriter(tmp_path / "there")


def test_segment_of_a_bag_into_a_bag(tmp_path, monkeypatch, capsys):
    class Pipeline:
        def __init__(self, config):
            pass

        def reset(self):
            pass

        def process(self, frame, window):
            mask = np.zeros(frame.size, bool)
            mask[2:9, 3:12] = True
            outlined = SoundingObject.from_mask(mask, [("dog", 1.0)], 0.5)
            return SoundingScene(
                frame.stamp_ns, frame.size, window.start_ns, window.end_ns, window.level_dbfs, 0.5, "sounding", (outlined,)
            )

    monkeypatch.setattr(segment, "make_pipeline", Pipeline)
    monkeypatch.chdir(tmp_path)
    with MakeBag(tmp_path / "drive", "mcap") as bag:
        bag.images()
        bag.sound()
    assert cli.main(["segment", "drive", "-o", "out", "--bag", "found", "--start", "0.5"]) == 0
    lines = [json.loads(line) for line in (tmp_path / "out/objects.jsonl").open()]
    assert [line["stamp_ns"] for line in lines] == [BASE_NS + i * NS // 10 for i in range(5, 20)]
    assert lines[-1]["window_ns"] == [BASE_NS + 9 * NS // 10, BASE_NS + 19 * NS // 10]
    with AnyReader([tmp_path / "found"]) as reader:
        heads = [reader.deserialize(raw, c.msgtype).header for c, _, raw in reader.messages()]
    assert {h.frame_id for h in heads} == {"cam_optical"} and len(heads) == 30
    assert (tmp_path / "out/overlay.mp4").exists()
    with MakeBag(tmp_path / "mute") as bag:
        bag.images()
    assert cli.main(["segment", "mute", "-o", "none"]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "none").exists()


def test_an_interrupted_run_of_a_bag_goes_on_with_its_sound(tmp_path, monkeypatch):
    levels = []

    class Pipeline:
        stop = 7

        def __init__(self, config):
            pass

        def reset(self):
            pass

        def process(self, frame, window):
            if len(levels) == Pipeline.stop:
                raise KeyboardInterrupt
            levels.append(round(window.level_dbfs, 3))
            return SoundingScene(frame.stamp_ns, frame.size, window.start_ns, window.end_ns, window.level_dbfs, 0.0, "silent")

    monkeypatch.setattr(segment, "make_pipeline", Pipeline)
    monkeypatch.chdir(tmp_path)
    with MakeBag(tmp_path / "drive") as bag:
        bag.images()
        bag.sound()
    Pipeline.stop = None
    assert cli.main(["segment", "drive", "-o", "whole"]) == 0
    wanted = list(levels)
    levels.clear()
    Pipeline.stop = 7
    assert cli.main(["segment", "drive", "-o", "out"]) == 130
    Pipeline.stop = None
    assert cli.main(["segment", "drive", "-o", "out"]) == 0
    assert levels == wanted and len(wanted) == 20 and wanted[-1] > -20
