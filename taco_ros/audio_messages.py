"""The types of sound messages that the node takes, and messages of our own type."""

from __future__ import annotations

import array
import dataclasses

import numpy as np

from taco.clock import NS
from taco.errors import MessageError
from taco.io.pcm import AUDIO_TYPES, chunk_of
from taco_ros.msg import AudioChunk as AudioChunkMsg
from taco_ros.ros_time import ns_to_stamp

CLASS_NAMES = {kind: name.rpartition("/")[2] for name, kind in AUDIO_TYPES.items()}


def message_class(kind: str):
    """The message class of a kind; MessageError names the package to install."""
    if kind == "taco":
        return AudioChunkMsg
    try:
        import audio_common_msgs.msg as package
    except ImportError:
        raise MessageError("audio_type", f"audio.type {kind}: wanted the package audio_common_msgs, got none") from None
    name = CLASS_NAMES[kind]
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
    """A sound message as taco.types.AudioChunk, offset_s applied; see ``taco.io.pcm.chunk_of``."""
    check_stamps(kind, config)
    chunk = chunk_of(message, config, info, arrival_ns)
    return dataclasses.replace(chunk, stamp_ns=chunk.stamp_ns + round(config.offset_s * NS))


def chunk_message(samples: np.ndarray, sample_rate: int, stamp_ns: int, frame_id: str = "microphone") -> AudioChunkMsg:
    """(n, channels) float32 in [-1, 1] -> AudioChunk message; stamp_ns: time of the first sample."""
    samples = np.ascontiguousarray(samples, np.float32)
    message = AudioChunkMsg(sample_rate=sample_rate, channels=samples.shape[1], samples=array.array("f", samples.tobytes()))
    message.header.stamp, message.header.frame_id = ns_to_stamp(stamp_ns), frame_id
    return message
