"""Sound messages of three packages as AudioChunk: ours, audio_common_msgs of ros-drivers (stamped or not) and of mgonzs13."""

from __future__ import annotations

import array

import numpy as np

from taco_ros.msg import AudioChunk as AudioChunkMsg
from taco_ros.stamps import NS, MessageError, ns_to_stamp, stamp_to_ns

# Topic type -> what the setting audio.type calls it.
KINDS = {
    "taco_ros/msg/AudioChunk": "taco",
    "audio_common_msgs/msg/AudioDataStamped": "audio_common",
    "audio_common_msgs/msg/AudioStamped": "audio_common_mgonzs13",
    "audio_common_msgs/msg/AudioData": "audio_common_unstamped",  # both packages have it; only that of ros-drivers is published
}
CLASSES = {kind: name.rpartition("/")[2] for name, kind in KINDS.items()}
MP3_HELP = "audio_capture sends mp3 by default: start it with `format:=wave` (raw S16LE)"
# Names of raw PCM in AudioInfo.sample_format (those of GStreamer): numpy type, full scale, zero level.
PCM = {
    "S8": ("i1", 128.0, 0.0),
    "U8": ("u1", 128.0, 128.0),
    "S16LE": ("<i2", 32768.0, 0.0),
    "S16BE": (">i2", 32768.0, 0.0),
    "S24LE": ("packed", 8388608.0, 0.0),
    "S24BE": ("packed", 8388608.0, 0.0),
    "S24_32LE": ("<i4", 8388608.0, 0.0),  # 24 bits in the lower three bytes of four
    "S24_32BE": (">i4", 8388608.0, 0.0),
    "S32LE": ("<i4", 2147483648.0, 0.0),
    "S32BE": (">i4", 2147483648.0, 0.0),
    "F32LE": ("<f4", 1.0, 0.0),
    "F32BE": (">f4", 1.0, 0.0),
}
# PortAudio's sample formats, as in mgonzs13's AudioInfo.format: field, full scale, zero level.
PORTAUDIO = {
    1: ("float32_data", np.float32, 1.0, 0.0),
    2: ("int32_data", np.int32, 2147483648.0, 0.0),
    8: ("int16_data", np.int16, 32768.0, 0.0),
    16: ("int8_data", np.int8, 128.0, 0.0),
    32: ("uint8_data", np.uint8, 128.0, 128.0),
}


def message_class(kind: str):
    """The message class of a kind; MessageError names the package to install."""
    if kind == "taco":
        return AudioChunkMsg
    try:
        import audio_common_msgs.msg as package
    except ImportError:
        raise MessageError("audio_type", f"audio.type {kind}: wanted the package audio_common_msgs, got none") from None
    name = CLASSES[kind]
    found = getattr(package, name, None)
    if found is None or (kind == "audio_common_unstamped" and "data" not in found.get_fields_and_field_types()):
        raise MessageError(
            "audio_type",
            f"audio.type {kind}: wanted audio_common_msgs/msg/{name}, but the audio_common_msgs installed is "
            "the other package of that name; use the one that the microphone's node was built with",
        )
    return found


def check_stamps(kind: str, config) -> None:
    """MessageError where the messages of this kind carry no stamp and the settings expect one."""
    if kind == "audio_common_unstamped" and config.stamp_reference != "arrival":
        raise MessageError(
            "audio_stamp",
            "sound: audio_common_msgs/msg/AudioData carries no stamp; next: set audio.stamp_reference to arrival "
            "(or use the stamped topic, audio_stamped)",
        )


def to_chunk(message, kind: str, config, info=None, arrival_ns: int = 0):
    """A sound message as taco.types.AudioChunk.

    config: the AudioConfig (stamp_reference, offset_s; rate and channels of raw PCM without ``info``).
    info: the last AudioInfo of ros-drivers. arrival_ns: the node's clock when the message came.
    MessageError with reason ``audio_format``, ``audio_size`` or ``audio_stamp``.
    """
    from taco.types import AudioChunk  # not at the top: it brings torch, which the microphone node has no use for

    if kind == "taco":
        samples, rate = _interleaved(np.frombuffer(message.samples, np.float32), message.channels), message.sample_rate
    elif kind == "audio_common":
        samples, rate = _raw_pcm(message.audio.data, config, info)
    elif kind == "audio_common_unstamped":
        check_stamps(kind, config)
        samples, rate = _raw_pcm(message.data, config, info)
    else:
        samples, rate = _portaudio(message.audio)
    if not 1000 <= rate <= 768_000:
        raise MessageError("audio_format", f"sound: wanted a sample rate of 1000 to 768000 Hz, got {rate}")
    return AudioChunk(
        samples, int(rate), _first_sample_ns(getattr(message, "header", None), len(samples), rate, config, arrival_ns)
    )


def _first_sample_ns(header, count: int, rate: int, config, arrival_ns: int) -> int:
    duration_ns = round(count * NS / rate)
    offset_ns = round(config.offset_s * NS)
    if config.stamp_reference == "arrival":
        return arrival_ns - duration_ns + offset_ns
    stamp_ns = stamp_to_ns(header.stamp)
    if stamp_ns <= 0:
        raise MessageError(
            "audio_stamp", "sound: wanted a stamp, got 0; if the driver has none set audio.stamp_reference=arrival"
        )
    return stamp_ns + offset_ns - (duration_ns if config.stamp_reference == "end" else 0)


def _interleaved(values: np.ndarray, channels: int) -> np.ndarray:
    if not 1 <= channels <= 64:
        raise MessageError("audio_format", f"sound: wanted 1 to 64 channels, got {channels}")
    if not len(values) or len(values) % channels:
        raise MessageError("audio_size", f"sound: wanted a multiple of {channels} channels, got {len(values)} samples")
    return np.array(values, np.float32).reshape(-1, channels)


def _raw_pcm(data, config, info) -> tuple[np.ndarray, int]:
    rate, channels, name, coding = config.sample_rate, config.channels, "S16LE", "wave"
    if info is not None:
        rate, channels = info.sample_rate or rate, info.channels or channels
        name, coding = info.sample_format or name, info.coding_format or coding
    raw = np.frombuffer(data, np.uint8)
    if coding.lower() not in ("wave", "raw", "pcm") or _looks_like_mp3(raw):
        raise MessageError("audio_format", f"sound: wanted raw PCM, got {coding if coding != 'wave' else 'mp3'}; {MP3_HELP}")
    if name.upper() not in PCM:
        raise MessageError("audio_format", f"sound: wanted one of {', '.join(PCM)}, got sample_format {name!r}")
    dtype, scale, zero = PCM[name.upper()]
    size = 3 if dtype == "packed" else np.dtype(dtype).itemsize
    if len(raw) % size:
        raise MessageError("audio_size", f"sound: wanted whole {name} samples, got {len(raw)} bytes")
    if dtype == "packed":
        values = _packed_24(raw, name.upper().endswith("BE"))
    else:
        values = raw.view(dtype)
        if "_32" in name.upper():  # what is in the fourth byte is not told: the sign comes from the third
            values = (values.astype(np.int32) << 8) >> 8
    return _interleaved((values.astype(np.float32) - zero) / scale, channels), rate


def _packed_24(raw: np.ndarray, big_endian: bool) -> np.ndarray:
    """Three bytes a sample -> int32."""
    three = raw.reshape(-1, 3)[:, ::-1] if big_endian else raw.reshape(-1, 3)
    padded = np.zeros((len(three), 4), np.uint8)
    padded[:, 1:] = three
    return padded.view("<i4")[:, 0] >> 8


def _looks_like_mp3(raw: np.ndarray) -> bool:
    """An ID3 tag, or the frame header of MPEG audio layer III at the start; used where no AudioInfo came yet."""
    if len(raw) < 4:
        return False
    header = raw[0] == 0xFF and raw[1] in (0xFB, 0xFA, 0xF3, 0xF2, 0xE3, 0xE2)
    valid = raw[2] >> 4 not in (0, 15) and (raw[2] >> 2) & 3 != 3  # bit rate and sampling rate of a real header
    return bytes(raw[:3]) == b"ID3" or bool(header and valid)


def _portaudio(audio) -> tuple[np.ndarray, int]:
    info = audio.info
    if info.format not in PORTAUDIO:
        raise MessageError(
            "audio_format", f"sound: wanted a PortAudio format of {', '.join(map(str, PORTAUDIO))}, got {info.format}"
        )
    field, dtype, scale, zero = PORTAUDIO[info.format]
    values = np.frombuffer(getattr(audio.audio_data, field), dtype)
    return _interleaved((values.astype(np.float32) - zero) / scale, info.channels), info.rate


def chunk_message(samples: np.ndarray, sample_rate: int, stamp_ns: int, frame_id: str = "microphone") -> AudioChunkMsg:
    """(n, channels) float32 in [-1, 1] -> AudioChunk message; stamp_ns: time of the first sample."""
    samples = np.ascontiguousarray(samples, np.float32)
    message = AudioChunkMsg(sample_rate=sample_rate, channels=samples.shape[1], samples=array.array("f", samples.tobytes()))
    message.header.stamp, message.header.frame_id = ns_to_stamp(stamp_ns), frame_id
    return message
