"""What ``taco segment`` reads: images with their times and the sound that goes with them."""

from __future__ import annotations

import dataclasses
import math
import mimetypes
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from taco.clock import NS
from taco.config import AudioConfig
from taco.errors import MediaError
from taco.io import bags, files
from taco.types import AudioChunk, VideoFrame

Wanted = Callable[[int], bool]


def _all(stamp_ns: int) -> bool:
    return True


class Source:
    """Images with their times, and the sound that goes with them.

    name: of the results; unique among the sources that are opened together.
    inputs: the files that are read.
    fps: images per second, 0 unknown.
    duration_s: length, 0 unknown.
    sample_rate: of the sound, Hz.
    channels: of the sound.
    origin_s: stamp of the first image, in s.
    """

    name: str
    inputs: list[Path]
    fps: float = 0.0
    duration_s: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    origin_s: float = 0.0

    def frames(self, start_s: float = 0.0, end_s: float = math.inf, wanted: Wanted = _all) -> Iterator[VideoFrame]:
        """Images in [start_s, end_s) after the first one. wanted(stamp_ns): called once per image in order, False skips it."""
        raise NotImplementedError

    def sound(self, start_s: float = -math.inf) -> Iterator[AudioChunk]:
        """The sound from about ``start_s`` on, on the clock of the images."""
        raise NotImplementedError

    def window_settings(self, audio: AudioConfig) -> AudioConfig:
        """How sound windows are cut for this source, given the settings."""
        return audio


class VideoSource(Source):
    """A video file, with its own sound or that of another file."""

    def __init__(self, video: Path, sound: Path | None = None):
        self.name, self.video, self.sound_path = video.stem, video, sound or video
        self.inputs = [video] + ([sound] if sound else [])
        info = files.probe(video)
        if info.size is None:
            raise MediaError(f"{video}: wanted video, got only sound; give a picture or a video with it")
        if info.still:
            raise MediaError(f"{video}: wanted a video, got one picture; save it as PNG or JPEG, with that ending")
        self.fps, self.duration_s = info.fps, info.duration_s
        sound_info = files.probe(self.sound_path)
        if not sound_info.sample_rate:
            raise MediaError(f"{self.sound_path}: wanted sound, got none in it; give a sound file as second argument")
        self.sample_rate, self.channels = sound_info.sample_rate, sound_info.channels

    def frames(self, start_s: float = 0.0, end_s: float = math.inf, wanted: Wanted = _all) -> Iterator[VideoFrame]:
        """Images in [start_s, end_s)."""
        return files.frames(self.video, start_s, end_s, wanted)

    def sound(self, start_s: float = -math.inf) -> Iterator[AudioChunk]:
        """The sound from about ``start_s`` on."""
        return files.chunks(self.sound_path, start_s)


class StillSource(Source):
    """One picture and a sound: the picture is processed once for every window of the sound."""

    def __init__(self, image: Path, sound: Path, window_s: float):
        self.name, self.inputs, self.fps = image.stem, [image, sound], 10.0
        self.rgb, self._sound = files.read_image(image), files.read_audio(sound)
        self.sample_rate, self.channels = self._sound.sample_rate, self._sound.samples.shape[1]
        self.duration_s = len(self._sound.samples) / self.sample_rate
        self.window_s = min(window_s, self.duration_s)

    def stamps_s(self) -> list[float]:
        """Ends of the windows: one after the other, and a last one that ends with the sound."""
        whole = int(self.duration_s / self.window_s + 1e-6)
        ends = [self.window_s * (i + 1) for i in range(whole)]
        return ends + ([self.duration_s] if self.duration_s - ends[-1] > self.window_s / 4 else [])

    def frames(self, start_s: float = 0.0, end_s: float = math.inf, wanted: Wanted = _all) -> Iterator[VideoFrame]:
        """The picture at the end of every window that lies in [start_s, end_s]."""
        for stamp_s in self.stamps_s():
            stamp_ns = round(stamp_s * NS)
            if stamp_s - self.window_s >= start_s - 1e-6 and stamp_s <= end_s + 1e-6 and wanted(stamp_ns):
                yield VideoFrame(self.rgb, stamp_ns)

    def sound(self, start_s: float = -math.inf) -> Iterator[AudioChunk]:
        """The sound, in pieces of a tenth of a second."""
        return _pieces(self._sound)

    def window_settings(self, audio: AudioConfig) -> AudioConfig:
        """Windows end at the picture's stamps and are no longer than the sound."""
        return dataclasses.replace(audio, window_s=max(0.1, self.window_s), alignment="trailing")  # 0.1: the setting's minimum


class PictureSequenceSource(Source):
    """A folder of numbered pictures at a fixed rate, and a sound."""

    def __init__(self, pictures: list[Path], sound: Path, fps: float):
        self.name, self.inputs, self.pictures, self.fps = pictures[0].parent.name, [*pictures, sound], pictures, fps
        self._sound = files.read_audio(sound)
        self.sample_rate, self.channels = self._sound.sample_rate, self._sound.samples.shape[1]
        self.duration_s = len(pictures) / fps

    def frames(self, start_s: float = 0.0, end_s: float = math.inf, wanted: Wanted = _all) -> Iterator[VideoFrame]:
        """Pictures in [start_s, end_s)."""
        for index, path in enumerate(self.pictures):
            stamp_ns = round(index * NS / self.fps)
            if start_s * NS <= stamp_ns < end_s * NS and wanted(stamp_ns):
                yield VideoFrame(files.read_image(path), stamp_ns)

    def sound(self, start_s: float = -math.inf) -> Iterator[AudioChunk]:
        """The sound, in pieces of a tenth of a second."""
        return _pieces(self._sound)


class BagSource(Source):
    """A ROS 2 bag; times count from its first image."""

    def __init__(self, path: Path, image_topic: str, audio_topic: str, audio: AudioConfig | None):
        self.name, self.inputs = path.stem, [path]
        self.bag = bags.BagReader(path, image_topic=image_topic, audio_topic=audio_topic, audio=audio)
        self.fps, self.duration_s, self.origin_s = self.bag.fps, self.bag.duration_s, self.bag.origin_ns / NS
        first = next(iter(self.sound()), None)
        if first is None:
            raise MediaError(f"{path}: wanted sound on {self.bag.audio_topic}, got no message; is the bag damaged?")
        self.sample_rate, self.channels = first.sample_rate, first.samples.shape[1]

    def frames(self, start_s: float = 0.0, end_s: float = math.inf, wanted: Wanted = _all) -> Iterator[VideoFrame]:
        """Images in [start_s, end_s), stamped as in the bag."""
        return self.bag.frames(start_s, end_s, wanted)

    def sound(self, start_s: float = -math.inf) -> Iterator[AudioChunk]:
        """The sound from about ``start_s`` on, stamped as in the bag."""
        return self.bag.chunks(start_s)


class UnreadableSource(Source):
    """One of several inputs that cannot be read, and why."""

    def __init__(self, path: Path, error: MediaError):
        self.name, self.inputs, self.error = path.stem, [path], error


def open_sources(
    paths: Iterable[str | Path],
    *,
    window_s: float,
    fps: float = 10.0,
    image_topic: str = "",
    audio_topic: str = "",
    audio: AudioConfig | None = None,
) -> list[Source]:
    """The sources of a command line, in order: videos, bags, folders, or a picture, folder or video followed by its sound.

    window_s: length of the sound window. fps: rate of folders of pictures, Hz. image_topic, audio_topic, audio: for bags.
    One that is missing or cannot be read raises MediaError where it is the only one, else it is an UnreadableSource.
    """
    left = [Path(path) for path in paths]
    sources: list[Source] = []
    while left:
        path = left.pop(0)
        sound = left.pop(0) if left and (files.is_image(path) or _sound_only(left[0])) else None
        try:
            for given in filter(None, (path, sound)):
                if not given.exists():
                    raise MediaError(f"no such file or folder: {given}")
            if bags.is_bag(path):
                sources.append(BagSource(path, image_topic, audio_topic, audio))
            elif path.is_dir():
                sources += _folder(path, sound, window_s, fps)
            elif files.is_image(path):
                if sound is None:
                    raise MediaError(f"{path}: wanted a sound to go with the picture, got none; give a sound file after it")
                sources.append(StillSource(path, sound, window_s))
            else:
                sources.append(VideoSource(path, sound))
        except MediaError as error:
            sources.append(UnreadableSource(path, error))
    if len(sources) == 1 and isinstance(sources[0], UnreadableSource):
        raise sources[0].error
    names: set[str] = set()
    for source in sources:
        while source.name in names:
            source.name += "_"
        names.add(source.name)
    return sources


def _folder(folder: Path, sound: Path | None, window_s: float, fps: float) -> list[Source]:
    """A numbered picture sequence where a sound is given with it; else every clip and every picture with its sound."""
    paths = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    pictures = [path for path in paths if files.is_image(path)]
    if sound is not None:
        if not pictures:
            raise MediaError(f"{folder}: wanted pictures in the folder, got none")
        return [PictureSequenceSource(pictures, sound, fps)]
    others = [path for path in paths if not files.is_image(path)]
    sounds = {picture: path for picture in pictures for path in reversed(others) if path.stem == picture.stem}
    clips = [path for path in others if path not in sounds.values() and (_has_video(path) or _named_as_video(path))]
    sources: list[Source] = []
    for path in sorted([*sounds, *clips]):
        try:
            sources.append(StillSource(path, sounds[path], window_s) if path in sounds else VideoSource(path))
        except MediaError as error:
            sources.append(UnreadableSource(path, error))
    if not sources:
        raise MediaError(f"{folder}: wanted clips, or pictures with a sound of the same name, got neither; give a sound file too")
    return sources


def _sound_only(path: Path) -> bool:
    return path.is_file() and not files.is_image(path) and not bags.is_bag(path) and _has_video(path) is False


def _has_video(path: Path) -> bool | None:
    """None where it is neither video nor sound."""
    try:
        return files.probe(path).size is not None
    except MediaError:
        return None


def _named_as_video(path: Path) -> bool:
    return (mimetypes.guess_type(path.name)[0] or "").startswith("video/")


def _pieces(chunk: AudioChunk) -> Iterator[AudioChunk]:
    step = max(1, chunk.sample_rate // 10)
    for first in range(0, len(chunk.samples), step):
        stamp_ns = chunk.stamp_ns + round(first * NS / chunk.sample_rate)
        yield AudioChunk(chunk.samples[first : first + step], chunk.sample_rate, stamp_ns)
