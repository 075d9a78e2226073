"""Pictures, sounds and videos on disk."""

from taco.media.reading import AudioFeed, MediaInfo, chunks, frames, is_image, pairs, probe, read_audio, read_image
from taco.media.writing import VideoWriter, atomic, reason

__all__ = [
    "AudioFeed",
    "MediaInfo",
    "VideoWriter",
    "atomic",
    "chunks",
    "frames",
    "is_image",
    "pairs",
    "probe",
    "read_audio",
    "read_image",
    "reason",
]
