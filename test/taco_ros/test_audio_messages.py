"""Sound messages of three packages; the two named audio_common_msgs here as plain objects with the same fields."""

import array
from types import SimpleNamespace as Fields

import numpy as np
import pytest
from std_msgs.msg import Header

from taco.clock import NS
from taco.config import AudioConfig
from taco_ros import audio_messages
from taco_ros.audio_messages import chunk_message, to_chunk
from taco_ros.conversions import MessageError, ns_to_stamp

HEADER = Header(stamp=ns_to_stamp(100 * NS), frame_id="mic")
WAVE = np.round(np.sin(np.arange(480) / 7) * 0.5 * 127) / 128  # exact in 8 bits and more


def drivers(data: bytes):
    return Fields(header=HEADER, audio=Fields(data=array.array("B", data)))


def info(rate=8000, channels=1, form="S16LE", coding="wave"):
    return Fields(sample_rate=rate, channels=channels, sample_format=form, coding_format=coding, bitrate=0)


def portaudio(code, **data):
    fields = {name: [] for name in ("float32_data", "int32_data", "int16_data", "int8_data", "uint8_data")}
    return Fields(
        header=HEADER, audio=Fields(audio_data=Fields(**{**fields, **data}), info=Fields(format=code, channels=1, rate=8000))
    )


@pytest.mark.parametrize("rate", (8000, 16000, 44100, 48000))
@pytest.mark.parametrize("channels", (1, 2, 6))
def test_own_messages(rate, channels):
    samples = np.random.default_rng(0).uniform(-1, 1, (rate // 20, channels)).astype(np.float32)
    chunk = to_chunk(chunk_message(samples, rate, 100 * NS), "taco", AudioConfig())
    assert np.array_equal(chunk.samples, samples) and (chunk.sample_rate, chunk.stamp_ns) == (rate, 100 * NS)


@pytest.mark.parametrize(
    "form, dtype, scale, zero",
    (("S8", "i1", 128, 0), ("U8", "u1", 128, 128), ("S16LE", "<i2", 32768, 0), ("S16BE", ">i2", 32768, 0))
    + (("S32LE", "<i4", 2**31, 0), ("F32LE", "<f4", 1, 0)),
)
def test_raw_pcm_of_ros_drivers(form, dtype, scale, zero):
    message = drivers((WAVE * scale + zero).astype(dtype).tobytes())
    chunk = to_chunk(message, "audio_common", AudioConfig(), info(form=form))
    assert chunk.sample_rate == 8000 and np.allclose(chunk.samples[:, 0], WAVE, atol=1e-6)


@pytest.mark.parametrize("form", ("S24LE", "S24BE", "S24_32LE", "S24_32BE", "s24le"))
@pytest.mark.parametrize("fourth_byte", ("sign", "zero"))
def test_24_bits_packed_and_in_four_bytes(form, fourth_byte):
    """Written byte by byte, by hand; whether the unused byte carries the sign is up to the driver."""
    values = [0, 1, -1, 2**23 - 1, -(2**23), 4660, -4660]
    order = "big" if form.upper().endswith("BE") else "little"
    raw = b""
    for value in values:
        if "_32" not in form:
            raw += value.to_bytes(3, order, signed=True)
        elif fourth_byte == "sign":
            raw += value.to_bytes(4, order, signed=True)
        else:
            raw += (value % 2**24).to_bytes(4, order)
    chunk = to_chunk(drivers(raw), "audio_common", AudioConfig(), info(form=form))
    assert chunk.samples[:, 0].tolist() == [value / 2**23 for value in values]


def test_raw_pcm_without_stamp_wants_the_arrival():
    message = Fields(data=array.array("B", (WAVE * 32768).astype("<i2").tobytes()))
    with pytest.raises(MessageError, match="set audio.stamp_reference to arrival") as caught:
        to_chunk(message, "audio_common_unstamped", AudioConfig())
    assert caught.value.reason == "audio_stamp"
    chunk = to_chunk(message, "audio_common_unstamped", AudioConfig(stamp_reference="arrival"), info(), arrival_ns=50 * NS)
    assert chunk.stamp_ns == 50 * NS - 60_000_000 and np.allclose(chunk.samples[:, 0], WAVE, atol=1e-6)


def test_raw_pcm_without_info_uses_the_settings():
    message = drivers((WAVE * 32768).astype("<i2").tobytes())
    chunk = to_chunk(message, "audio_common", AudioConfig(sample_rate=44100, channels=2))
    assert chunk.sample_rate == 44100 and chunk.samples.shape == (240, 2)


@pytest.mark.parametrize(
    "message_info, data",
    ((info(coding="mp3"), b"\0" * 64), (None, b"\xff\xfb\x90\x64" + b"\0" * 60), (None, b"ID3\3" + b"\0" * 60)),
)
def test_mp3_is_refused_with_the_setting_to_change(message_info, data):
    with pytest.raises(MessageError, match="format:=wave") as caught:
        to_chunk(drivers(data), "audio_common", AudioConfig(), message_info)
    assert caught.value.reason == "audio_format"


@pytest.mark.parametrize("start", (b"\xff\xfb\xf0\x00", b"\xff\xfb\x00\x00", b"\xff\xfb\x9c\x00", b"\xff\xfb"))
def test_loud_samples_that_look_a_little_like_mp3_are_sound(start):
    """-1025 is FF FB: a frame of MPEG audio is told by a bit rate and a sampling rate that exist, too."""
    chunk = to_chunk(drivers(start + bytes(60)), "audio_common", AudioConfig())
    assert chunk.samples[0, 0] == -1025 / 32768


@pytest.mark.parametrize(
    "code, field, kind, scale, zero",
    ((1, "float32_data", "f", 1, 0), (2, "int32_data", "i", 2**31, 0), (8, "int16_data", "h", 32768, 0))
    + ((16, "int8_data", "b", 128, 0), (32, "uint8_data", "B", 128, 128)),
)
def test_five_formats_of_mgonzs13(code, field, kind, scale, zero):
    values = WAVE * scale + zero
    data = array.array(kind, values.tolist() if kind == "f" else [int(value) for value in values])
    chunk = to_chunk(portaudio(code, **{field: data}), "audio_common_mgonzs13", AudioConfig())
    assert chunk.sample_rate == 8000 and np.allclose(chunk.samples[:, 0], WAVE, atol=1e-6)


def test_what_the_stamp_tells():
    message = chunk_message(np.zeros((800, 1), np.float32), 16000, 100 * NS)
    for reference, wanted_s in (("start", 100.0), ("end", 99.95), ("arrival", 109.95)):
        config = AudioConfig(stamp_reference=reference, offset_s=0.25)
        assert to_chunk(message, "taco", config, arrival_ns=110 * NS).stamp_ns == round((wanted_s + 0.25) * NS)


@pytest.mark.parametrize(
    "changes, reason",
    (
        ({"sample_rate": 0}, "audio_format"),
        ({"channels": 0}, "audio_format"),
        ({"channels": 3}, "audio_size"),
        ({"samples": array.array("f")}, "audio_size"),
        ({"header": Header()}, "audio_stamp"),
    ),
)
def test_bad_sound_names_its_fault(changes, reason):
    message = chunk_message(np.zeros((800, 1), np.float32), 16000, 100 * NS)
    for name, value in changes.items():
        setattr(message, name, value)
    with pytest.raises(MessageError, match="wanted") as caught:
        to_chunk(message, "taco", AudioConfig())
    assert caught.value.reason == reason


def test_arrival_needs_no_stamp():
    message = chunk_message(np.zeros((800, 1), np.float32), 16000, 0)
    assert to_chunk(message, "taco", AudioConfig(stamp_reference="arrival"), arrival_ns=NS).stamp_ns == round(0.95 * NS)


def test_half_a_sample_of_24_bits_is_refused():
    with pytest.raises(MessageError, match="whole S24LE samples, got 8 bytes"):
        to_chunk(drivers(b"\0" * 8), "audio_common", AudioConfig(), info(form="S24LE"))


@pytest.mark.parametrize("message, reason", ((drivers(b"\0" * 3), "audio_size"), (portaudio(4), "audio_format")))
def test_bad_foreign_sound(message, reason):
    kind = "audio_common" if hasattr(message.audio, "data") else "audio_common_mgonzs13"
    with pytest.raises(MessageError) as caught:
        to_chunk(message, kind, AudioConfig())
    assert caught.value.reason == reason


def test_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "audio_common_msgs", None)
    with pytest.raises(MessageError, match="wanted the package audio_common_msgs"):
        audio_messages.message_class("audio_common")
