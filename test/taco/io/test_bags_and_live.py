"""What a message means does not depend on where it comes from: the same bytes, live and of a bag, give the same result."""

import array
import math
import sqlite3
from types import SimpleNamespace as Fields

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags")
pytest.importorskip("rclpy")

from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from taco.clock import NS
from taco.config import AudioConfig
from taco.errors import MediaError
from taco.io import bags, pcm, pixels
from taco_ros.audio_messages import chunk_message, to_chunk
from taco_ros.conversions import MessageError, image_to_frame, ns_to_stamp
from test.taco.io.made_bags import AUDIO_COMMON, BASE_NS, MGONZS13, MakeBag

RNG = np.random.default_rng(5)
HEADER = Header(stamp=ns_to_stamp(BASE_NS), frame_id="cam")
ARRIVAL_NS = BASE_NS + 7_000_000
ROWS, COLUMNS = 12, 10


def file_of(bag):
    """A bag's only file, which is quicker to open than the bag: no metadata are read."""
    return next(bag.glob("*.db3"))


def random_bytes(count):
    return RNG.integers(0, 256, count, np.uint8)


def image(encoding, *, padding=0, big=False, cut=0, columns=COLUMNS):
    size, channels, _ = pixels.ENCODINGS.get(encoding, (4, 1, ""))
    step = columns * size * channels + padding
    data = array.array("B", random_bytes(ROWS * step - cut).tobytes())
    head = {"header": HEADER, "height": ROWS, "width": columns, "encoding": encoding}
    return Image(**head, step=step, is_bigendian=int(big), data=data)


def compressed(kind, data=None, deep=False):
    picture = RNG.integers(0, 60000, (8, 9, 3), np.uint16) if deep else RNG.integers(0, 256, (8, 9, 3), np.uint8)
    data = cv2.imencode(f".{kind}", picture)[1].tobytes() if data is None else data
    return CompressedImage(header=HEADER, format=f"bgr8; {kind} compressed bgr8", data=array.array("B", data))


IMAGES = {f"{name}, padding {padding}": image(name, padding=padding) for name in pixels.ENCODINGS for padding in (0, 5)}
IMAGES |= {f"{name}, big endian": image(name, big=True) for name in pixels.ENCODINGS if "16" in name}
IMAGES |= {f"{name}, last row unpadded": image(name, padding=6, cut=6) for name in ("rgb8", "mono16", "bayer_gbrg8")}
IMAGES |= {"png": compressed("png"), "png of 16 bit": compressed("png", deep=True), "jpeg": compressed("jpg")}
BAD_IMAGES = {
    "unknown encoding": image("32FC1"),
    "too few bytes": image("rgb8", cut=1),
    "no pixel": image("rgb8", columns=0),
    "junk": compressed("png", b"junk"),
    "nothing": compressed("jpg", b""),
    "depth": CompressedImage(header=HEADER, format="16UC1; compressedDepth png", data=array.array("B", b"x" * 40)),
    "no stamp": Image(height=1, width=1, encoding="mono8", step=1, data=array.array("B", b"x")),
}


def frames_of(path, message):
    """The message's way through a bag."""
    from rclpy.serialization import serialize_message

    name = f"sensor_msgs/msg/{type(message).__name__}"
    with MakeBag(path) as bag:
        topic = bag.writer.add_connection("/image", name, typestore=bag.store)
        bag.writer.write(topic, ARRIVAL_NS, serialize_message(message))
        bag.chunk(BASE_NS, np.zeros((160, 1), np.float32))
    return list(bags.BagReader(file_of(path)).frames())


@pytest.mark.parametrize("name", IMAGES)
def test_images(name, tmp_path):
    live = image_to_frame(IMAGES[name])
    (frame,) = frames_of(tmp_path / "bag", IMAGES[name])
    assert np.array_equal(frame.rgb, live.rgb) and frame.stamp_ns == live.stamp_ns == BASE_NS
    assert live.rgb.std() > 20, "random bytes are no flat picture"


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_images_that_cannot_be_used(name, tmp_path):
    with pytest.raises(MessageError) as live:
        image_to_frame(BAD_IMAGES[name])
    with pytest.raises(MediaError) as error:
        frames_of(tmp_path / "bag", BAD_IMAGES[name])
    told = str(live.value) if name != "no stamp" else "the camera driver must stamp its images"
    assert told in str(error.value) and "/image" in str(error.value) and "\n" not in str(error.value)


def info(form="S16LE", channels=2, rate=16000, coding="wave"):
    return {"channels": channels, "sample_rate": rate, "sample_format": form, "bitrate": 0, "coding_format": coding}


def number(code, channels=2, rate=16000, **data):
    kinds = {"float32_data": "f4", "int32_data": "i4", "int16_data": "i2", "int8_data": "i1", "uint8_data": "u1"}
    fields = {name: np.asarray(data.get(name, ()), kind) for name, kind in kinds.items()}
    return fields, {"format": code, "channels": channels, "rate": rate, "chunk": 24}


# Name -> (AudioInfo of ros-drivers or None, bytes), or (AudioData, AudioInfo) of mgonzs13.
FLOATS = RNG.uniform(-1, 1, 48)
DRIVERS = {form: (info(form), random_bytes(48 * int(kind[-1]))) for form, kind in pcm.PCM.items() if "F" not in form}
DRIVERS |= {form: (info(form), FLOATS.astype(kind).view(np.uint8)) for form, kind in pcm.PCM.items() if "F" in form}
DRIVERS |= {
    "lower case": (info("s24le"), random_bytes(144)),
    "no info": (None, random_bytes(96)),
    "empty info": (info("", 0, 0, ""), random_bytes(96)),
    "raw": (info(coding="RAW"), random_bytes(96)),
    "six channels": (info(channels=6, rate=44100), random_bytes(96)),
}
BAD_DRIVERS = {
    "mp3": (info(coding="mp3"), random_bytes(96)),
    "mp3 by its looks": (None, np.frombuffer(b"\xff\xfb\x90\x64" + bytes(60), np.uint8)),
    "ID3": (None, np.frombuffer(b"ID3\3" + bytes(60), np.uint8)),
    "unknown format": (info("MULAW"), random_bytes(96)),
    "half a sample": (info("S24LE"), random_bytes(8)),
    "channels that do not fit": (info("S16LE", 5), random_bytes(96)),
    "nothing": (info(), random_bytes(0)),
    "too fast": (info(rate=1_000_000), random_bytes(96)),
}
WHOLE = {"int32_data": 31, "int16_data": 15, "int8_data": 7}
PORTAUDIO = {
    "float": number(1, float32_data=FLOATS),
    **{
        name: number(code, **{name: RNG.integers(-(2 ** WHOLE[name]), 2 ** WHOLE[name], 48)})
        for code, name in ((2, "int32_data"), (8, "int16_data"), (16, "int8_data"))
    },
    "unsigned": number(32, uint8_data=RNG.integers(0, 256, 48)),
}
BAD_PORTAUDIO = {
    "packed 24 bit": number(4, uint8_data=[0] * 48),
    "65 channels": number(1, 65, float32_data=[0] * 65),
    "no channel": number(1, 0, float32_data=[0] * 48),
    "an empty one": number(8),
}
DRIVERS |= BAD_DRIVERS
PORTAUDIO |= BAD_PORTAUDIO


def live(name):
    """What the node makes of it."""
    if name in DRIVERS:
        told, data = DRIVERS[name]
        message = Fields(header=HEADER, audio=Fields(data=array.array("B", data.tobytes())))
        return to_chunk(message, "audio_common", AudioConfig(), told and Fields(**told), ARRIVAL_NS)
    data, told = PORTAUDIO[name]
    data = {name: array.array(values.dtype.char.replace("l", "i"), values.tobytes()) for name, values in data.items()}
    message = Fields(header=HEADER, audio=Fields(audio_data=Fields(**data), info=Fields(**told)))
    return to_chunk(message, "audio_common_mgonzs13", AudioConfig(), None, ARRIVAL_NS)


def chunks_of(path, name, defined=True):
    """The same message's way through a bag; defined: are the definitions of its messages in it?"""
    with MakeBag(path, definitions=AUDIO_COMMON if name in DRIVERS else MGONZS13) as bag:
        bag.image(BASE_NS, np.zeros((2, 2, 3), np.uint8))
        kind = lambda name: bag.kind(f"audio_common_msgs/msg/{name}")  # noqa: E731
        if name in DRIVERS:
            told, data = DRIVERS[name]
            if told:
                bag.write("/audio_info", "audio_common_msgs/msg/AudioInfo", ARRIVAL_NS, **told)
            of, audio = "AudioDataStamped", kind("AudioData")(data=data)
        else:
            data, told = PORTAUDIO[name]
            of, audio = "AudioStamped", kind("Audio")(audio_data=kind("AudioData")(**data), info=kind("AudioInfo")(**told))
        bag.write("/audio", f"audio_common_msgs/msg/{of}", ARRIVAL_NS, header=bag.header(BASE_NS), audio=audio)
    if not defined:  # as rosbag2 of Humble records
        with sqlite3.connect(file_of(path)) as base:
            base.execute("DELETE FROM message_definitions")
    return list(bags.BagReader(file_of(path)).chunks())


GOOD_SOUNDS = sorted({*DRIVERS, *PORTAUDIO} - {*BAD_DRIVERS, *BAD_PORTAUDIO})


@pytest.mark.parametrize("name, defined", [(name, True) for name in GOOD_SOUNDS] + [("S24LE", False), ("int16_data", False)])
def test_sounds(name, defined, tmp_path):
    (chunk,), wanted = chunks_of(tmp_path / "bag", name, defined), live(name)
    assert np.array_equal(chunk.samples, wanted.samples) and chunk.samples.dtype == np.float32
    assert (chunk.sample_rate, chunk.stamp_ns) == (wanted.sample_rate, wanted.stamp_ns)
    assert wanted.samples.std() > 0.2 and np.abs(wanted.samples).max() <= 1


@pytest.mark.parametrize("name", [*BAD_DRIVERS, *BAD_PORTAUDIO])
def test_sounds_that_cannot_be_used(name, tmp_path):
    with pytest.raises(MessageError) as wanted:
        live(name)
    with pytest.raises(MediaError) as error:
        chunks_of(tmp_path / "bag", name)
    assert str(wanted.value) in str(error.value) and "/audio" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("reference", ("start", "end", "arrival"))
def test_own_sound_under_every_meaning_of_the_stamp(reference, tmp_path):
    from rclpy.serialization import serialize_message

    config = AudioConfig(stamp_reference=reference)
    message = chunk_message(RNG.uniform(-1, 1, (800, 3)).astype(np.float32), 16000, BASE_NS)
    with MakeBag(tmp_path / "bag") as bag:
        bag.images()
        topic = bag.writer.add_connection("/audio", "taco_ros/msg/AudioChunk", typestore=bag.store)
        bag.writer.write(topic, ARRIVAL_NS, serialize_message(message))
    wanted = to_chunk(message, "taco", config, None, ARRIVAL_NS)
    (chunk,) = bags.BagReader(tmp_path / "bag", audio=config).chunks()
    assert np.array_equal(chunk.samples, wanted.samples) and chunk.stamp_ns == wanted.stamp_ns
    shift_ns = {"start": 0, "end": -50_000_000, "arrival": ARRIVAL_NS - BASE_NS - 50_000_000}[reference]
    assert wanted.stamp_ns == BASE_NS + shift_ns


def test_sound_without_a_stamp_is_refused_alike(tmp_path):
    with MakeBag(tmp_path / "bag") as bag:
        bag.images()
        fields = {"sample_rate": 16000, "channels": 1, "samples": np.zeros(800, np.float32)}
        bag.write("/audio", "taco_ros/msg/AudioChunk", ARRIVAL_NS, header=bag.header(0), **fields)
    with pytest.raises(MessageError) as live:
        to_chunk(chunk_message(np.zeros((800, 1), np.float32), 16000, 0), "taco", AudioConfig())
    with pytest.raises(MediaError) as error:
        list(bags.BagReader(tmp_path / "bag").chunks())
    assert str(live.value) in str(error.value)
    (chunk,) = bags.BagReader(tmp_path / "bag", audio=AudioConfig(stamp_reference="arrival")).chunks()
    assert chunk.end_ns == ARRIVAL_NS


def test_the_format_may_change_while_it_runs_and_is_that_of_the_same_namespace(tmp_path):
    """Live the newest AudioInfo counts; what came before the first one waits for it in a bag."""
    with MakeBag(tmp_path / "bag", definitions=AUDIO_COMMON) as bag:
        bag.images()
        data = bag.kind("audio_common_msgs/msg/AudioData")
        raw = random_bytes(96)
        for step, told in enumerate((None, info("S16LE", 1, 8000), info("S24BE", 2, 48000))):
            ns = ARRIVAL_NS + step * NS // 100
            bag.write("/other/audio_info", "audio_common_msgs/msg/AudioInfo", ns, **info("U8", 1, 11025))
            if told:
                bag.write("/head/audio_info", "audio_common_msgs/msg/AudioInfo", ns, **told)
            head = bag.header(BASE_NS + step * NS // 100)
            bag.write("/head/audio", "audio_common_msgs/msg/AudioDataStamped", ns + 1, header=head, audio=data(data=raw))
    chunks = list(bags.BagReader(tmp_path / "bag").chunks())
    assert [(chunk.sample_rate, chunk.samples.shape) for chunk in chunks] == [(8000, (48, 1))] * 2 + [(48000, (16, 2))]


def test_images_before_the_clock_ran_and_with_stamps_that_do_not_rise_are_left_out(tmp_path):
    """Simulated time starts at 0, which means no stamp; the node leaves them out, too."""
    with MakeBag(tmp_path / "bag") as bag:
        for number, at_s in enumerate((None, None, 0, 1, 1, 0.5, 2)):
            stamp_ns = 0 if at_s is None else BASE_NS + round(at_s * NS)
            bag.image(stamp_ns, np.zeros((4, 4, 3), np.uint8), recorded_ns=BASE_NS + number)
        bag.sound()
    reader = bags.BagReader(tmp_path / "bag")
    stamps = [frame.stamp_ns for frame in reader.frames(0, math.inf)]
    assert reader.origin_ns == BASE_NS and stamps == [BASE_NS, BASE_NS + NS, BASE_NS + 2 * NS]
