"""Sound messages of three packages as AudioChunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from taco.clock import NS
from taco.config import AudioConfig
from taco.errors import MessageError, shown

if TYPE_CHECKING:
    from taco.types import AudioChunk

# Topic type -> what the setting audio.type calls it.
AUDIO_TYPES = {
    "taco_ros/msg/AudioChunk": "taco",
    "audio_common_msgs/msg/AudioDataStamped": "audio_common",
    "audio_common_msgs/msg/AudioStamped": "audio_common_mgonzs13",
    "audio_common_msgs/msg/AudioData": "audio_common_unstamped",  # both packages have it; only that of ros-drivers is published
}
# Names of raw PCM in ros-drivers' AudioInfo.sample_format (those of GStreamer), as numpy types; "i3" is packed 24 bit.
PCM = {"S8": "i1", "U8": "u1", "S16LE": "<i2", "S16BE": ">i2", "S24LE": "<i3", "S24BE": ">i3"}
PCM |= {"S24_32LE": "<i4", "S24_32BE": ">i4", "S32LE": "<i4", "S32BE": ">i4", "F32LE": "<f4", "F32BE": ">f4"}
# PortAudio's sample formats, as in mgonzs13's AudioInfo.format.
PORTAUDIO = {
    1: ("float32_data", np.float32),
    2: ("int32_data", np.int32),
    8: ("int16_data", np.int16),
    16: ("int8_data", np.int8),
    32: ("uint8_data", np.uint8),
}
MP3_HELP = "audio_capture sends mp3 by default: start it with `format:=wave` (raw S16LE)"


def chunk_of(message: Any, config: AudioConfig, info: Any = None, arrival_ns: int = 0) -> AudioChunk:
    """A sound message, recognised by its fields -> AudioChunk, stamped with the time of its first sample.

    config: the AudioConfig (stamp_reference; rate and channels of raw PCM without ``info``; offset_s is not applied).
    info: the last AudioInfo of ros-drivers or None. arrival_ns: when the message came, for stamp_reference arrival
    and for messages without a header. MessageError with reason ``audio_format``, ``audio_size`` or ``audio_stamp``.
    """
    from taco.types import AudioChunk  # not at the top: it imports torch, which the microphone node does not need

    if hasattr(message, "samples"):
        samples, rate = interleaved(np.frombuffer(message.samples, np.float32), message.channels), message.sample_rate
    elif hasattr(getattr(message, "audio", None), "info"):
        samples, rate = portaudio(message.audio.audio_data, message.audio.info), message.audio.info.rate
    else:
        samples, rate = _raw_message(getattr(message, "audio", message), config, info)
    if not 1000 <= rate <= 768_000:  # as msg/AudioChunk.msg says
        raise MessageError("audio_format", f"sound: wanted a sample rate of 1000 to 768000 Hz, got {rate}; see its driver")
    return AudioChunk(samples, int(rate), _first_sample_ns(message, round(len(samples) * NS / rate), config, arrival_ns))


def _first_sample_ns(message: Any, duration_ns: int, config: AudioConfig, arrival_ns: int) -> int:
    if config.stamp_reference == "arrival" or not hasattr(message, "header"):
        return arrival_ns - duration_ns
    stamp_ns: int = message.header.stamp.sec * NS + message.header.stamp.nanosec
    if stamp_ns <= 0:
        raise MessageError(
            "audio_stamp", "sound: wanted a stamp, got 0; if the driver has none set audio.stamp_reference=arrival"
        )
    return stamp_ns - (duration_ns if config.stamp_reference == "end" else 0)


def interleaved(values: np.ndarray, channels: int) -> np.ndarray:
    """(n * channels,) -> (n, channels) float32, a copy; MessageError with reason ``audio_format`` or ``audio_size``."""
    if not 1 <= channels <= 64:
        raise MessageError("audio_format", f"sound: wanted 1 to 64 channels, got {channels}; see its driver")
    if not len(values) or len(values) % channels:
        got = f"{len(values)} samples; are audio.channels or its driver wrong?"
        raise MessageError("audio_size", f"sound: wanted a multiple of {channels} channels, got {got}")
    return np.array(values, np.float32).reshape(-1, channels)


def raw_pcm(data: np.ndarray, sample_format: str, channels: int) -> np.ndarray:
    """(bytes,) uint8 of raw PCM in one of ``PCM`` -> (n, channels) float32 in [-1, 1].

    MessageError with reason ``audio_format`` or ``audio_size``.
    """
    name = sample_format.upper()
    if name not in PCM:
        wanted = f"one of {', '.join(PCM)}"
        raise MessageError("audio_format", f"sound: wanted {wanted}, got sample_format {shown(sample_format)}; set another one")
    size = int(PCM[name][-1])
    if len(data) % size:
        got = f"{len(data)} bytes; is sample_format right?"
        raise MessageError("audio_size", f"sound: wanted whole {sample_format} samples, got {got}")
    values = _packed_24(data, PCM[name][0] == ">") if size == 3 else data.view(PCM[name])
    if "_32" in name:  # the fourth byte is undefined: the sign is in the third
        values = values.astype(np.int32) << 8
    return interleaved(_full_scale(values), channels)


def portaudio(audio_data: Any, info: Any) -> np.ndarray:
    """mgonzs13's AudioData and AudioInfo -> (n, channels) float32 in [-1, 1]; MessageError as ``raw_pcm``."""
    if info.format not in PORTAUDIO:
        wanted = f"a PortAudio format of {', '.join(map(str, PORTAUDIO))}"
        raise MessageError("audio_format", f"sound: wanted {wanted}, got {info.format}; set another one in its driver")
    field, kind = PORTAUDIO[info.format]
    return interleaved(_full_scale(np.frombuffer(getattr(audio_data, field), kind)), info.channels)


def _raw_message(body: Any, config: AudioConfig, info: Any) -> tuple[np.ndarray, int]:
    """Bytes of ros-drivers' AudioData -> samples (n, channels), Hz."""
    if not hasattr(body, "data"):
        raise MessageError(
            "audio_format",
            "sound: wanted raw bytes, got the bare AudioData of mgonzs13, which has no rate; use its AudioStamped",
        )
    rate, channels, name, coding = config.sample_rate, config.channels, "S16LE", "wave"
    if info is not None:
        rate, channels = info.sample_rate or rate, info.channels or channels
        name, coding = info.sample_format or name, info.coding_format or coding
    data = np.frombuffer(body.data, np.uint8)
    if coding.lower() not in ("wave", "raw", "pcm") or _looks_like_mp3(data):
        got = shown(coding) if coding != "wave" else "mp3"
        raise MessageError("audio_format", f"sound: wanted raw PCM, got {got}; {MP3_HELP}")
    return raw_pcm(data, name, channels), rate


def _full_scale(values: np.ndarray) -> np.ndarray:
    """Whole numbers over their type's range, unsigned ones about the middle of it -> float32 in [-1, 1]; floats as they are."""
    kind = values.dtype
    if kind.kind == "f":
        return values.astype(np.float32)
    half = np.float32(2.0 ** (8 * kind.itemsize - 1))
    return (values.astype(np.float32) - (half if kind.kind == "u" else 0)) / half


def _packed_24(data: np.ndarray, big_endian: bool) -> np.ndarray:
    """Three bytes a sample -> int32, 24 bits in the upper three bytes."""
    three = data.reshape(-1, 3)[:, ::-1] if big_endian else data.reshape(-1, 3)
    padded = np.zeros((len(three), 4), np.uint8)
    padded[:, 1:] = three
    return padded.view("<i4")[:, 0]


def _looks_like_mp3(data: np.ndarray) -> bool:
    """An ID3 tag, or the frame header of MPEG audio layer III at the start; used where no AudioInfo came yet."""
    if len(data) < 4:
        return False
    header = data[0] == 0xFF and data[1] in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)
    valid = data[2] >> 4 not in (0, 15) and (data[2] >> 2) & 3 != 3  # bit rate and sampling rate of a real header
    return bytes(data[:3]) == b"ID3" or bool(header and valid)
