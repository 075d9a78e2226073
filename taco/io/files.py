"""Read pictures, sounds and videos: any container, sample rate and variable frame rate.

Time in a file starts at its first video frame, or at its first sample where it has no video.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taco.audio import AudioBuffer
from taco.clock import NS
from taco.config import AudioConfig
from taco.errors import MediaError, MissingPackageError
from taco.io import scratch
from taco.types import AudioChunk, AudioWindow, VideoFrame

if TYPE_CHECKING:
    import av
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Still pictures that Pillow reads; HEIF with the extra [heic]. A GIF is one where it does not move.
HEIF_SUFFIXES = (".heic", ".heif")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif", *HEIF_SUFFIXES)
CUT_OFF_S = 1.0  # ours: a file that ends this much, or CUT_OFF_SHARE of its length, before its header says is cut off
CUT_OFF_SHARE = 0.05


def is_image(path: str | Path) -> bool:
    """Whether the name ends like that of a still picture; of a GIF, whether it has one picture."""
    suffix = Path(path).suffix.lower()
    return suffix in IMAGE_SUFFIXES or (suffix == ".gif" and _is_still_gif(path))


def _is_still_gif(path: str | Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as file:
            return not getattr(file, "is_animated", False)
    except (OSError, ValueError, SyntaxError):
        return False


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What a file holds.

    size: (height, width) px, None without video.
    fps: mean frames per second, 0 unknown.
    duration_s: length, 0 unknown.
    sample_rate: Hz, 0 without sound.
    channels: of the sound, 0 without sound.
    still: it is one picture, of a kind that is not read as one.
    """

    size: tuple[int, int] | None
    fps: float
    duration_s: float
    sample_rate: int
    channels: int
    still: bool = False


def probe(path: str | Path) -> MediaInfo:
    """What is in the file; MediaError where it cannot be read."""
    with _open_container(path) as container:
        video = next(iter(_videos(container)), None)
        audio = next(iter(_sounds(container)), None)
        return MediaInfo(
            (video.height, video.width) if video else None,
            float(video.average_rate or 0) if video else 0.0,
            _duration_s(container, video or audio),
            audio.rate if audio else 0,
            audio.channels if audio else 0,
            container.format.name.endswith("_pipe") or container.format.name == "image2",  # FFmpeg's readers of pictures
        )


def read_image(path: str | Path) -> np.ndarray:
    """A still picture as (H, W, 3) uint8, turned as its EXIF orientation says."""
    from PIL import Image, ImageOps

    if Path(path).suffix.lower() in HEIF_SUFFIXES:
        _register_heif(path)
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.mode.startswith("I"):
                deep = np.asarray(picture).astype(np.float32) / 257.0
                return np.repeat(deep.clip(0, 255).round().astype(np.uint8)[..., None], 3, 2)
            return np.array(picture.convert("RGB"))
    except FileNotFoundError:
        raise MediaError(f"no such file: {path}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"wanted a picture, cannot read {path}: {error_line(error)}") from None


def _register_heif(path: str | Path) -> None:
    """Teach Pillow HEIF, a phone's photographs."""
    try:
        import pillow_heif
    except ImportError:
        wanted = f"{path}: wanted pillow-heif to read HEIF pictures, got none"
        raise MediaError(f"{wanted}; run `pip install 'taco-sounding[heic]'`, or save the picture as JPEG") from None
    pillow_heif.register_heif_opener()


def read_audio(path: str | Path) -> AudioChunk:
    """The whole sound of any sound or video file; stamp_ns is where it starts in the file's time."""
    parts = list(chunks(path))
    first = parts[0]
    return AudioChunk(np.concatenate([p.samples for p in parts]), first.sample_rate, first.stamp_ns)


def frames(
    path: str | Path, start_s: float = 0.0, end_s: float = math.inf, wanted: Callable[[int], bool] = lambda stamp_ns: True
) -> Iterator[VideoFrame]:
    """The video's images in [start_s, end_s) in order, turned upright, stamped with their own times (variable rates kept).

    wanted: called with each frame's stamp once, in order; False skips the frame before the costly conversion.
    MediaError: no such file, no video in it, nothing decodable, or cut off before its own end.
    """
    with _open_container(path) as container:
        stream = next(iter(_videos(container)), None)
        if stream is None:
            raise MediaError(f"{path}: wanted video, got only sound; give a picture or a video with it")
        stream.thread_type = "AUTO"
        reordered = container.format.name != "avi"  # AVI has no presentation times: the decoding times count from the first frame
        origin_ns = _origin_ns(container) if reordered else None
        if start_s > 1 and origin_ns is not None:
            _seek(container, stream, start_s + origin_ns / NS)
        step_ns, stamp_ns, seen = round(NS / float(stream.average_rate or 25)), None, 0
        for frame in _decoded(container, stream):
            seen += 1
            ticks = frame.pts if reordered else frame.dts
            time_ns = None if ticks is None else round(ticks * stream.time_base * NS)
            origin_ns = (time_ns or 0) if origin_ns is None else origin_ns
            if time_ns is None or (stamp_ns is not None and time_ns - origin_ns <= stamp_ns):
                stamp_ns = 0 if stamp_ns is None else stamp_ns + step_ns  # no time, or one that does not rise
            else:
                step_ns = time_ns - origin_ns - stamp_ns if stamp_ns is not None else step_ns
                stamp_ns = time_ns - origin_ns
            if stamp_ns >= end_s * NS:
                return
            if stamp_ns >= start_s * NS - 1000 and wanted(stamp_ns):
                yield VideoFrame(_upright(frame), stamp_ns)
        _check_end(path, container, stream, seen, (stamp_ns or 0) / NS)


def chunks(path: str | Path, start_s: float = -math.inf) -> Iterator[AudioChunk]:
    """The file's sound from about ``start_s`` on, in the pieces it is stored in, at its own rate and channels."""
    import av

    with _open_container(path) as container:
        stream = next(iter(_sounds(container)), None)
        if stream is None:
            raise MediaError(f"{path}: wanted sound, got none in it; give a sound file as second argument")
        origin_ns = _origin_ns(container)
        if start_s > 1:
            _seek(container, stream, start_s + origin_ns / NS)
        shape, end_ns = None, None
        for frame in _decoded(container, stream):
            if shape != (frame.layout.name, frame.sample_rate):  # planar is made with the first frame
                shape = (frame.layout.name, frame.sample_rate)
                planar = av.AudioResampler("fltp", frame.layout, frame.sample_rate)
            stamp_ns = (end_ns or 0) if frame.time is None else round(frame.pts * frame.time_base * NS) - origin_ns
            samples = np.concatenate([part.to_ndarray() for part in planar.resample(frame)], 1).T
            chunk = AudioChunk(np.ascontiguousarray(samples, np.float32), frame.sample_rate, stamp_ns)
            end_ns = chunk.end_ns
            if len(samples) and end_ns >= start_s * NS:
                yield chunk
        if end_ns is None:
            raise MediaError(f"{path}: wanted sound, nothing in it can be decoded; is it damaged?")


def pairs(
    images: Iterator[VideoFrame], sound: Iterator[AudioChunk], config: AudioConfig
) -> Iterator[tuple[VideoFrame, AudioWindow]]:
    """Each image with its sound, cut as the live node cuts it (AudioBuffer, alignment); silence outside the sound's ends.

    Raises AudioGapError, as the buffer does, for a hole in the sound: use ``AudioFeed`` to go on after one.
    """
    feed = AudioFeed(sound, config)
    for frame in images:
        yield frame, feed.window(frame.stamp_ns)


class AudioFeed:
    """Sound read just as far as the next window needs it."""

    def __init__(self, sound: Iterator[AudioChunk], config: AudioConfig):
        self.config = config
        self.buffer = AudioBuffer(config)
        self._sound = iter(sound)
        self._ended = False

    def window(self, stamp_ns: int) -> AudioWindow:
        """The window of an image; stamps must not fall. AudioGapError for a hole in the sound."""
        offset_ns = round(self.config.offset_s * NS)
        ahead_ns = round(self.config.window_s * NS / 2) if self.config.alignment == "centered" else 0
        while not self._ended and (self.buffer.newest_ns is None or self.buffer.newest_ns < stamp_ns + ahead_ns):
            chunk = next(self._sound, None)
            if chunk is None:
                self._ended = True
                break
            self.buffer.push(AudioChunk(chunk.samples, chunk.sample_rate, chunk.stamp_ns + offset_ns))
        return self.buffer.window(stamp_ns, pad=True)


class StreamForFFmpeg(io.FileIO):
    """A file for FFmpeg, which tries places that a damaged file names: a wrong one is a number below 0, no exception."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        try:
            return super().seek(offset, whence)
        except OSError:
            return -1


@contextlib.contextmanager
def _open_container(path: str | Path) -> Iterator[InputContainer]:
    try:
        import av
    except ImportError:
        raise MissingPackageError("reading video and sound files needs PyAV; install it with `pip install av`") from None

    path = Path(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "a device or a pipe"
        raise MediaError(f"no such file: {path}" if not path.exists() else f"wanted a file, got {got}: {path}")
    try:
        # FFmpeg gets the open file and may open no other: playlists (m3u8, ffconcat) would read whatever they name.
        alone = {"protocol_whitelist": "none"}
        with StreamForFFmpeg(path) as stream, av.open(stream, "r", options=alone, metadata_errors="replace") as container:
            if not (container.streams.video or _sounds(container)):
                raise MediaError(
                    f"{path}: wanted a video or sound file, got nothing playable in it; it is cut off or of another kind"
                )
            yield container
    except (av.error.InvalidDataError, av.error.EOFError):
        raise MediaError(
            f"{path}: wanted a video or sound file, cannot read this one; it is cut off or of another kind"
        ) from None
    except (av.error.FFmpegError, PermissionError) as error:
        raise MediaError(f"cannot read {path}: {error_line(error)}") from None


def _videos(container: InputContainer) -> list[VideoStream]:
    """Video streams that FFmpeg can decode (see ``_sounds``) and that are not the cover of a music file."""
    from av.stream import Disposition

    streams = [stream for stream in container.streams.video if stream.codec_context is not None]
    return [stream for stream in streams if not stream.disposition & Disposition.attached_pic]


def _sounds(container: InputContainer) -> list[AudioStream]:
    """Sound tracks that FFmpeg can decode: of a damaged file a track may be left without its kind."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def _decoded(container: InputContainer, stream: VideoStream | AudioStream) -> Iterator[Any]:
    """Frames of a stream; packets that cannot be decoded are left out."""
    import av

    for packet in container.demux(stream):
        with contextlib.suppress(av.error.InvalidDataError):
            yield from packet.decode()


def _seek(container: InputContainer, stream: VideoStream | AudioStream, time_s: float) -> None:
    import av

    with contextlib.suppress(av.error.FFmpegError):  # not seekable: frames before the start are skipped instead
        container.seek(max(0, round(time_s / _time_base(stream))), stream=stream)


def _time_base(stream: VideoStream | AudioStream) -> Fraction:
    assert stream.time_base is not None, "FFmpeg sets it for every stream of an open file"
    return stream.time_base


def _origin_ns(container: InputContainer) -> int:
    stream: VideoStream | AudioStream = (_videos(container) or _sounds(container))[0]
    return round((stream.start_time or 0) * _time_base(stream) * NS)


def _duration_s(container: InputContainer, stream: VideoStream | AudioStream | None) -> float:
    if stream is not None and stream.duration:
        return float(stream.duration * _time_base(stream))
    return container.duration / 1e6 if container.duration else 0.0


def _check_end(path: str | Path, container: InputContainer, stream: VideoStream, seen: int, end_s: float) -> None:
    """Decoding stops silently where a file is cut: compare with the length in its header."""
    if not seen:
        raise MediaError(f"{path}: wanted video, no frame of it can be decoded; is it damaged?")
    stated_s = _duration_s(container, stream)
    if stated_s - end_s > max(CUT_OFF_S, CUT_OFF_SHARE * stated_s) + 1 / float(stream.average_rate or 25):
        raise MediaError(f"{path}: cut off at {end_s:.1f} s of {stated_s:.1f} s; --end {end_s:.1f} uses what is there")


def _upright(frame: av.VideoFrame) -> np.ndarray:
    rgb = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path`` that gets the final name when the block ends well and is removed when not.

    OSError (full disk, no permission) becomes MediaError in one line; so does a link under the temporary name.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    made = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(scratch.create(part))
        made = True
        yield part
        os.replace(part, path)
    except OSError as error:
        raise MediaError(f"cannot write {path}: {error_line(error)}") from None
    finally:
        if made:
            with contextlib.suppress(OSError):
                part.unlink()


def error_line(error: BaseException) -> str:
    """The text of an error in one line; of an OSError the system's."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
