"""From a waiting image to its scene: the live use of ``TacoPipeline``. Runs on the models' thread; knows no topic."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from taco.audio import AudioBuffer
from taco.config import TacoConfig
from taco.errors import AudioGapError, TacoError
from taco.pipeline import TacoPipeline
from taco.tracking import Track, Tracker
from taco.types import AudioWindow, Factorization, SoundingScene, VideoFrame
from taco_ros.conversions import NS, MessageError, image_to_frame, restore_scene, restored
from taco_ros.diagnostics import Statistics
from taco_ros.mailbox import Pending

JUMP_BACK_NS = NS  # image stamps that fall back further than this are a new time line (a loop, another bag)
LATE_SOUND_NS = 2 * NS  # how long a centered window may wait for sound beyond its own half


@dataclass(frozen=True, slots=True)
class Result:
    """A processed image: camera name, its header, the camera's own pixels (H, W, 3) uint8, what was found in them, tracks."""

    camera: str
    header: object
    rgb: np.ndarray
    scene: SoundingScene
    tracks: tuple[Track, ...] = ()


class Processor:
    """Owns the pipelines, one per camera, which share models and sound. Only the models' thread may call it.

    audio: the ring that the sound callback fills. now_ns: the node's clock. warn: called with (reason, line) for
    every image that could not be used; it counts and logs. newest: the last scene of any camera, None before the first.
    """

    def __init__(self, config: TacoConfig, audio: AudioBuffer, statistics: Statistics, now_ns: Callable, warn: Callable):
        self.audio = audio
        self.newest: SoundingScene | None = None
        self._statistics, self._now_ns, self._warn = statistics, now_ns, warn
        self._last_stamp_ns: dict[str, int] = {}
        names = config.node.cameras or ("",)
        first = TacoPipeline(config)
        self.pipelines: dict[str, TacoPipeline] = dict(zip(names, [first, *(first.sibling() for _ in names[1:])]))
        self._trackers = {name: Tracker(config.tracking) for name in names}

    @property
    def _first(self) -> TacoPipeline:
        return next(iter(self.pipelines.values()))

    @property
    def config(self) -> TacoConfig:
        """The settings in use."""
        return self._first.config

    def warm_up(self) -> float:
        """Run a made frame through the models; milliseconds it took."""
        start = time.perf_counter()
        self._first.warm_up()
        if len(self.pipelines) > 1:  # what all cameras together take, takes them a first time too
            blank = [VideoFrame(np.zeros((480, 640, 3), np.uint8), 0) for _ in self.pipelines]
            self._first.encodings(blank).image(blank[0])
        return 1000.0 * (time.perf_counter() - start)

    @property
    def words(self) -> Sequence[str]:
        """The words listened for."""
        return self._first.anchors.words

    @property
    def models(self) -> str:
        """Names of the models in use."""
        first = self._first
        return f"{first.backbones.image.name}, {first.backbones.audio.name}, {first.segmenter.name}"

    @property
    def device(self) -> str:
        """Where the models run."""
        return str(getattr(self._first.backbones.image, "device", self.config.models.device))

    def set_words(self, words: Sequence[str]) -> int:
        """Listen for other words in all cameras, or change nothing and raise ConfigError; returns how many."""
        self.set_config(self.config.updated({"models.word_bank": tuple(words)}))
        return len(self.words)

    def set_config(self, config: TacoConfig) -> None:
        """Use other live settings from the next image on; ConfigError (words) changes nothing."""
        for pipeline, tracker in zip(self.pipelines.values(), self._trackers.values()):
            pipeline.set_config(config)  # what the first takes, all take: they share the models
            tracker.config = config.tracking

    def reset(self) -> None:
        """A new time line: forget the last frames and tracks."""
        self.newest = None
        self._last_stamp_ns.clear()
        for pipeline, tracker in zip(self.pipelines.values(), self._trackers.values()):
            pipeline.reset()
            tracker.reset()

    def ready(self, item: Pending) -> bool:
        """May this image be taken? A centered window waits until its second half has been heard."""
        if self.config.audio.alignment != "centered":
            return True
        half_ns = round(self.config.audio.window_s * NS / 2)
        newest_ns = self.audio.newest_ns
        heard = newest_ns is not None and newest_ns >= item.stamp_ns + half_ns
        return heard or self._now_ns() - item.arrival_ns > half_ns + LATE_SOUND_NS

    def process(self, batch: Sequence[Pending]) -> Iterator[Result]:
        """The scenes of the waiting images, each as soon as it is done; unusable images are dropped and counted.

        Images of several cameras go through the image model together; equal windows (equal stamps) are encoded once.
        """
        inputs, windows = [], {}
        for item in batch:
            with self._dropped_if_unusable():
                self._check_time(item)
                inputs.append((item, *self._convert(item, windows)))
        shared = len(inputs) > 1
        encodings = self._first.encodings([frame for _, frame, *_ in inputs] if shared else ())
        for item, frame, window, converted_ms in inputs:
            result = None
            with self._dropped_if_unusable():
                result = self._process(item, frame, window, converted_ms, encodings, shared)
            if result is not None:
                yield result
        for model, ms in encodings.total_ms.items() if shared else ():  # of the whole pass, not of the camera that was first
            self._statistics.sample(f"stage.{model}", ms)
        if encodings.problem:
            line = " ".join(str(encodings.problem).split())
            self._warn("not_together", f"images had to be encoded one by one: {type(encodings.problem).__name__}: {line}")

    @contextmanager
    def _dropped_if_unusable(self):
        """One camera's fault must not cost the other cameras their images."""
        try:
            yield
        except (MessageError, AudioGapError) as error:
            self._warn(error.reason, str(error))
        except TacoError as error:
            self._warn("failed", str(error))
        except Exception as error:
            self._warn("failed", f"processing failed: {type(error).__name__}: {' '.join(str(error).split())}")

    def _check_time(self, item: Pending) -> None:
        if item.stamp_ns <= 0:
            raise MessageError("image_stamp", "image: wanted a stamp, got 0; the camera driver must stamp its images")
        last_ns = self._last_stamp_ns.get(item.camera)
        if last_ns is not None and item.stamp_ns <= last_ns:
            if item.stamp_ns > last_ns - JUMP_BACK_NS:
                behind_ms = (last_ns - item.stamp_ns) / 1e6
                raise MessageError(
                    "out_of_order", f"image: wanted a stamp after the last one, got one {behind_ms:.1f} ms before it"
                )
            self._statistics.count("time_jumps")
            self.reset()
        self._last_stamp_ns[item.camera] = item.stamp_ns
        limit_s = self.config.node.max_age_s
        if limit_s and self.config.audio.alignment == "centered":
            limit_s += self.config.audio.window_s / 2
        age_s = (self._now_ns() - item.stamp_ns) / NS
        if limit_s and age_s > limit_s:
            raise MessageError(
                "too_old",
                f"image is {age_s:.2f} s old, node.max_age_s is {self.config.node.max_age_s:g}; "
                "is the camera's clock right? (bag replay: use_sim_time)",
            )

    def _convert(self, item: Pending, windows: dict[int, AudioWindow]) -> tuple[VideoFrame, AudioWindow, float]:
        """Image, sound and the milliseconds it took. windows: by stamp, for images that were taken at the same moment."""
        start = time.perf_counter()
        frame = image_to_frame(item.message, self.config.node.rotation, self.config.node.mirror)
        window = windows.get(frame.stamp_ns) or windows.setdefault(frame.stamp_ns, self.audio.window(frame.stamp_ns))
        return frame, window, 1000.0 * (time.perf_counter() - start)

    def _process(
        self, item: Pending, frame: VideoFrame, window: AudioWindow, converted_ms: float, encodings, shared: bool
    ) -> Result:
        node = self.config.node
        scene = self.pipelines[item.camera].process(frame, window, encodings)
        tracker = self._trackers[item.camera]
        scene = restore_scene(tracker.update(scene), node.rotation, node.mirror)
        for stage, ms in {"convert": converted_ms, **scene.stage_ms}.items():
            if not (shared and stage in encodings.total_ms):
                self._statistics.sample(f"stage.{stage}", ms)
        if scene.factorization is not None:
            self._note_start(scene.factorization, scene.stage_ms["factorize"])
        self._statistics.count(scene.verdict)
        self.newest = dataclasses.replace(scene, objects=(), confidence=None, sound_map=None, factorization=None, concepts=())
        rgb = restored(frame.rgb, node.rotation, node.mirror) if node.rotation or node.mirror else frame.rgb
        return Result(item.camera, item.message.header, rgb, scene, tracker.tracks)

    def _note_start(self, found: Factorization, ms: float) -> None:
        """What the warm start saves: times and losses of frames that started warm, and of the last that started cold."""
        self._statistics.sample("iterations", found.iterations)
        self._statistics.count(f"start.{found.restart or 'warm'}")
        for name, value in (("factorize", ms), ("loss", found.losses["total"])):
            if found.restart:
                self._statistics.note(f"cold.{name}", value)
            else:
                self._statistics.sample(f"warm.{name}", value)

    def close(self) -> None:
        """Free the models and give the memory back to the system."""
        for pipeline in self.pipelines.values():
            pipeline.close()
        self.pipelines.clear()
        self._trackers.clear()
        gc.collect()
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (AttributeError, OSError):  # another C library: nothing to give back by hand
            pass
