"""The player as a process: files and bags come out as a robot's topics, in time."""

import time

import cv2
import numpy as np
import pytest
import soundfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from taco.clock import NS
from taco.io.video_writer import VideoWriter
from taco.types import AudioChunk as Sound
from taco_ros import player as player_module
from taco_ros.conversions import ns_to_stamp, stamp_to_ns
from taco_ros.msg import AudioChunk
from taco_ros.player import file_events, main
from test.taco_ros.graph import RATE, parameters, scene_image, wait_until

pytestmark = pytest.mark.ros


def tone(seconds, rate=RATE, channels=1, frequency=300):
    wave = 0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave.astype(np.float32)[:, None], channels, 1)


@pytest.fixture
def files(tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(12):
        rgb = scene_image()
        rgb[:20, :20] = index * 20
        cv2.imwrite(str(pictures / f"{index:02d}.png"), rgb[..., ::-1])
    soundfile.write(tmp_path / "sound.wav", tone(1.0, 44100, 2), 44100, subtype="FLOAT")
    return pictures, tmp_path / "sound.wav"


def test_pictures_and_sound_keep_their_rates(files, start, robot):
    images, chunks, late_s = [], robot.listen(AudioChunk, "audio", 100), []

    def on_image(message):
        images.append(message)
        late_s.append((time.time_ns() - stamp_to_ns(message.header.stamp)) / NS)

    robot.node.create_subscription(Image, "image", on_image, robot.best_effort)
    player = start("player", files[0], "--sound", files[1], "--image-rate", "10", "--chunk-s", "0.05", "--wait", "20")
    assert player.wait() == 0, player.log
    wait_until(lambda: len(images) >= 12 and len(chunks) >= 24, 5, "everything")
    stamps = np.array([stamp_to_ns(m.header.stamp) for m in images])
    assert len(images) == 12 and np.array_equal(np.diff(stamps), np.full(11, NS // 10))
    assert [int(np.asarray(m.data[0])) for m in images] == [index * 20 for index in range(12)]
    assert min(late_s) > -0.01 and np.median(late_s) < 0.3  # in real time
    assert images[0].encoding == "rgb8" and images[0].header.frame_id == "camera"
    starts = np.array([stamp_to_ns(m.header.stamp) for m in chunks])
    assert starts[0] == stamps[0] and {(m.sample_rate, m.channels) for m in chunks} == {(44100, 2)}
    heard = np.concatenate([np.asarray(m.samples, np.float32).reshape(-1, 2) for m in chunks])
    assert len(heard) == round(1.2 * 44100)  # silence to the end of the pictures
    assert np.array_equal(heard[:44100], tone(1.0, 44100, 2)) and not heard[44100:].any()


def test_the_whole_graph(files, start, robot):
    """Player -> node -> listener: what `make demo` does."""
    node = start("taco_node", *parameters(models__image="standin:5"))
    robot.node.destroy_publisher(robot.audio)
    robot.node.destroy_publisher(robot.image)
    player = start("player", files[0], "--sound", files[1], "--loop", "--wait", "40")
    message = robot.wait_objects("red", 40)
    assert message.header.frame_id == "camera"
    assert player.stop() == 0 and node.stop() == 0 and "Traceback" not in player.log + node.log


def test_in_a_loop_the_clock_never_goes_back_and_the_sound_has_no_gap(files, start, robot):
    """A node on the player's clock answers without starting over; the sound (1.0 s) is padded to the pictures (1.2 s)."""
    ticks = robot.listen(Clock, "/clock", 1000)
    chunks = robot.listen(AudioChunk, "audio", 1000)
    node = start("taco_node", *parameters(models__image="standin:5", use_sim_time=True))
    robot.node.destroy_publisher(robot.audio)
    robot.node.destroy_publisher(robot.image)
    player = start("player", files[0], "--sound", files[1], "--loop", "--clock", "--wait", "40", "--subscribers", "1")
    robot.wait_objects("red", 60)
    wait_until(lambda: len(chunks) > 3 * 24 + 5, 40, "three rounds")
    assert player.stop() == 0 and node.stop() == 0
    told = np.array([stamp_to_ns(tick.clock) for tick in ticks])
    assert len(told) > 300 and (np.diff(told) >= 0).all()
    assert "time jumped back" not in node.log and len(robot.received) > 5
    starts = np.array([stamp_to_ns(m.header.stamp) for m in chunks])
    ends = starts + np.array([len(m.samples) // m.channels * NS // m.sample_rate for m in chunks])
    assert np.abs(starts[1:] - ends[:-1]).max() < 1000, "ns between the end of a chunk and the start of the next"


def test_a_small_step_back_of_the_clock_is_jitter_and_a_large_one_a_new_time_line(start, robot):
    clock = robot.node.create_publisher(Clock, "/clock", 10)
    node = start("taco_node", *parameters(models__image="standin:5", use_sim_time=True))
    node.wait_log("active")
    wait_until(clock.get_subscription_count, 20, "the clock's subscriber")
    for seconds in (10.0, 10.1, 10.02, 10.2, 10.11):
        clock.publish(Clock(clock=ns_to_stamp(round(seconds * NS))))
        time.sleep(0.1)
    assert "time jumped back" not in node.log
    clock.publish(Clock(clock=ns_to_stamp(5 * NS)))
    node.wait_log("time jumped back")
    time.sleep(0.2)
    assert node.log.count("time jumped back") == 1


def test_video_with_its_sound(tmp_path, start, robot):
    path = tmp_path / "clip.mp4"
    with VideoWriter(path, fps=10.0, sample_rate=RATE) as video:
        for index in range(10):
            video.write(scene_image(240, 320), index * NS // 10)
        video.write_audio(Sound(tone(1.0), RATE, 0))
    images = robot.listen(CompressedImage, "image/compressed", robot.best_effort)
    chunks = robot.listen(AudioChunk, "audio", 100)
    player = start("player", path, "--compressed", "png", "--wait", "20", "--image-rate", "5")
    assert player.wait() == 0, player.log
    wait_until(lambda: len(images) == 5 and len(chunks) >= 18, 5, "five pictures and their sound")
    pixels = cv2.imdecode(np.frombuffer(images[0].data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels.shape == (240, 320, 3) and images[0].format == "rgb8; png compressed bgr8"
    assert 0.2 < np.abs(np.asarray(chunks[5].samples)).max() < 0.4


def test_bags_are_replayed_with_new_stamps(tmp_path, start, robot):
    from rclpy.serialization import serialize_message
    from rosbags.rosbag2 import Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    from taco_ros.audio_messages import chunk_message
    from taco_ros.player import picture_message
    from test.taco_ros.graph import ROOT

    store = get_typestore(Stores.ROS2_JAZZY)
    store.register(get_types_from_msg((ROOT / "msg" / "AudioChunk.msg").read_text(), "taco_ros/msg/AudioChunk"))
    with Writer(tmp_path / "bag", version=9) as bag:
        image = bag.add_connection("/front/image", "sensor_msgs/msg/Image", typestore=store)
        sound = bag.add_connection("/front/audio", "taco_ros/msg/AudioChunk", typestore=store)
        for index in range(10):
            stamp_ns = 1_000 * NS + index * NS // 10
            bag.write(image, stamp_ns + 5_000_000, serialize_message(picture_message(scene_image(60, 80), stamp_ns, "front")))
            bag.write(sound, stamp_ns + 5_000_000, serialize_message(chunk_message(tone(0.1), RATE, stamp_ns)))
    images, chunks = robot.listen(Image, "/front/image", 10), robot.listen(AudioChunk, "/front/audio", 10)
    before_ns = time.time_ns()
    player = start("player", tmp_path / "bag", "--wait", "20")
    assert player.wait() == 0, player.log
    wait_until(lambda: len(images) == 10 and len(chunks) == 10, 5, "the bag")
    stamps = [stamp_to_ns(m.header.stamp) for m in images]
    assert before_ns < stamps[0] < time.time_ns() and np.array_equal(np.diff(stamps), np.full(9, NS // 10))
    assert stamps == [stamp_to_ns(m.header.stamp) for m in chunks] and images[0].header.frame_id == "front"


@pytest.mark.parametrize(
    "arguments, status, told",
    (
        (["nothing.mp4"], 1, "no such file"),
        ([], 1, "got nothing"),
        (["--sound", "SOUND", "--speed", "2"], 2, "--speed needs --clock"),
        (["EMPTY"], 1, "wanted a folder with pictures"),
        (["JUNK"], 1, "cannot read"),
        (["--sound", "SOUND", "--wait", "0.2"], 1, "wanted a subscriber of /audio"),
    ),
)
def test_bad_input_is_one_clear_line(arguments, status, told, files, tmp_path, domain, monkeypatch, capsys):
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    (tmp_path / "empty").mkdir()
    (tmp_path / "junk.mp4").write_bytes(b"not a video at all" * 100)
    names = {"SOUND": files[1], "EMPTY": tmp_path / "empty", "JUNK": tmp_path / "junk.mp4"}
    assert main(["player", *[str(names.get(word, word)) for word in arguments]]) == status
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("player: ") and told in line


def test_events_come_in_order_of_time(files):
    events = list(file_events(files[0], files[1], 10.0, 0.05))
    dues = [event.due_ns for event in events]
    assert dues == sorted(dues) and sum(event.kind == "image" for event in events) == 12
    single = list(file_events(files[0] / "00.png", files[1], 0.0, 0.1))
    assert sum(event.kind == "image" for event in single) == 10  # one picture is held as long as the sound lasts
    sounds = [event for event in single if event.kind == "sound"]
    assert all(event.due_ns - event.stamp_ns == NS // 10 for event in sounds) and len(sounds) == 10


def test_sound_that_starts_late_in_its_file_starts_with_silence(monkeypatch):
    late = [Sound(tone(0.5), RATE, NS // 5), Sound(tone(0.5), RATE, NS // 5 + NS // 2)]
    monkeypatch.setattr(player_module, "chunks", lambda path: iter(late))
    events = list(player_module._sound("a.mp4", 0.1, 1.5))
    heard = np.concatenate([event.payload[0] for event in events])[:, 0]
    assert events[0].stamp_ns == 0 and events[-1].due_ns == 1.5 * NS and len(heard) == 1.5 * RATE
    assert not heard[: RATE // 5].any() and np.array_equal(heard[RATE // 5 :][: RATE // 2], tone(0.5)[:, 0])
