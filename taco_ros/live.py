"""From a waiting image to its scene, on the models' thread. No topics here."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from taco.audio import AudioBuffer
from taco.backbones.device import release_memory
from taco.backbones.word_bank import named_like_file
from taco.clock import JUMP_BACK_NS, NS
from taco.config import TacoConfig
from taco.errors import AudioGapError, ConfigError, TacoError
from taco.mailbox import PendingImage
from taco.pipeline import TacoPipeline
from taco.tracking import Track, Tracker
from taco.types import AudioWindow, Factorization, SoundingScene, VideoFrame
from taco_ros.conversions import MessageError, image_to_frame, restore, restore_scene
from taco_ros.diagnostics import Statistics

LATE_SOUND_NS = 2 * NS  # ours: how long a centered window waits for late sound beyond its own half
PERSISTENT = 3  # ours: stamps in succession of an earlier time line that make a camera start over
STEP_NS = 10 * NS  # ours: ... each at most this much after the one before
WARM_UP_SIZE = (480, 640, 3)  # ours: a common camera's image


@dataclass(frozen=True, slots=True)
class Result:
    """A processed image.

    camera: its name, "" for a single one.
    header: of the image message.
    rgb: (H, W, 3) uint8, the camera's own pixels.
    scene: what was found in them.
    tracks: after this image.
    """

    camera: str
    header: object
    rgb: np.ndarray
    scene: SoundingScene
    tracks: tuple[Track, ...] = ()


class LivePipeline:
    """The pipelines, one per camera, which share models and sound. Only the models' thread may call it.

    audio: the ring that the sound callback fills.
    now_ns: the node's clock.
    warn: called with (reason, line) for every image that could not be used; it counts and logs.
    newest: the last scene of any camera, without maps; None before the first.
    pipelines: by camera.
    """

    def __init__(self, config: TacoConfig, audio: AudioBuffer, statistics: Statistics, now_ns: Callable, warn: Callable):
        self.audio = audio
        self.newest: SoundingScene | None = None
        self._statistics, self._now_ns, self._warn = statistics, now_ns, warn
        self._last_stamp_ns: dict[str, int] = {}  # by camera, of the last image that had its sound
        self._earlier_ns: dict[str, list[int]] = {}  # by camera, stamps in succession of an earlier time line
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
        """Run a made image through the models; the time it took in ms."""
        start = time.perf_counter()
        self._first.warm_up()
        if len(self.pipelines) > 1:  # the first pass for all cameras together is slow too
            blank = [VideoFrame(np.zeros(WARM_UP_SIZE, np.uint8), 0) for _ in self.pipelines]
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
        """Listen for other words in all cameras; returns how many. ConfigError changes nothing."""
        self.set_config(self.config.updated({"models.word_bank": tuple(words)}))
        return len(self.words)

    def set_config(self, config: TacoConfig) -> None:
        """Use other live settings from the next image on; ConfigError (words) changes nothing.

        Words only: whoever may set a live parameter or call a service must not make the node read files.
        """
        words = config.models.word_bank
        if words != self.config.models.word_bank and len(words) == 1 and named_like_file(words[0]):
            raise ConfigError(f"models.word_bank: wanted words, got {words[0][:80]!r}; a file of words is read at configure only")
        for pipeline, tracker in zip(self.pipelines.values(), self._trackers.values()):
            pipeline.set_config(config)  # they share the models: what the first accepts, all accept
            tracker.config = config.tracking

    def reset(self) -> None:
        """A new time line: forget the last frames and tracks."""
        self.newest = None
        self._last_stamp_ns.clear()
        self._earlier_ns.clear()
        for pipeline, tracker in zip(self.pipelines.values(), self._trackers.values()):
            pipeline.reset()
            tracker.reset()

    def ready(self, item: PendingImage) -> bool:
        """Whether this image may be taken. With a centered window it waits until the second half of its sound is there."""
        if self.config.audio.alignment != "centered":
            return True
        half_ns = round(self.config.audio.window_s * NS / 2)
        newest_ns = self.audio.newest_ns
        complete = newest_ns is not None and newest_ns >= item.stamp_ns + half_ns
        return complete or self._now_ns() - item.arrival_ns > half_ns + LATE_SOUND_NS

    def process(self, batch: Sequence[PendingImage]) -> Iterator[Result]:
        """The scenes of the waiting images, each as soon as it is done; unusable images are dropped and counted.

        Images of several cameras go through the image model together; equal windows (equal stamps) are encoded once.
        """
        inputs, windows = [], {}
        for item in batch:
            with self._dropped_if_unusable():
                self._check_time(item)
                inputs.append((item, *self._convert(item, windows)))
                self._last_stamp_ns[item.camera] = item.stamp_ns  # not before: a wild stamp has no sound
        shared = len(inputs) > 1
        moved = [frame for item, frame, *_ in inputs if shared and not self.pipelines[item.camera].is_still(frame)]
        encodings = self._first.encodings(moved)
        for item, frame, window, converted_ms in inputs:
            result = None
            with self._dropped_if_unusable():
                result = self._process(item, frame, window, converted_ms, encodings, shared)
            if result is not None:
                yield result
        for model, ms in encodings.total_ms.items() if shared else ():  # of the pass for all cameras
            self._statistics.sample(f"stage.{model}", ms)
        if encodings.problem:
            line = " ".join(str(encodings.problem).split())
            self._warn("not_together", f"images had to be encoded one by one: {type(encodings.problem).__name__}: {line}")

    @contextmanager
    def _dropped_if_unusable(self):
        """Count and log an error of one camera, so that the other cameras keep their images."""
        try:
            yield
        except (MessageError, AudioGapError) as error:
            self._warn(error.reason, str(error))
        except TacoError as error:
            self._warn("failed", str(error))
        except Exception as error:
            self._warn("failed", f"processing failed: {type(error).__name__}: {' '.join(str(error).split())}")

    def _check_time(self, item: PendingImage) -> None:
        if item.stamp_ns <= 0:
            raise MessageError("image_stamp", "image: wanted a stamp, got 0; the camera driver must stamp its images")
        last_ns = self._last_stamp_ns.get(item.camera)
        if last_ns is not None and item.stamp_ns <= last_ns and not self._starts_over(item, last_ns):
            behind_ms = (last_ns - item.stamp_ns) / 1e6
            raise MessageError("out_of_order", f"image: wanted a stamp after the last one, got one {behind_ms:.1f} ms before it")
        self._earlier_ns.pop(item.camera, None)
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

    def _starts_over(self, item: PendingImage, last_ns: int) -> bool:
        """Reset a camera whose stamps lie before the last one, once several do in succession; the other cameras go on."""
        earlier_ns = self._earlier_ns.setdefault(item.camera, [])
        if earlier_ns and not 0 < item.stamp_ns - earlier_ns[-1] <= STEP_NS:
            earlier_ns.clear()
        if not earlier_ns and item.stamp_ns > last_ns - JUMP_BACK_NS:
            return False
        earlier_ns.append(item.stamp_ns)
        if len(earlier_ns) < PERSISTENT:
            return False
        self._statistics.count("time_jumps")
        self.pipelines[item.camera].reset()
        self._trackers[item.camera].reset()
        return True

    def _convert(self, item: PendingImage, windows: dict[int, AudioWindow]) -> tuple[VideoFrame, AudioWindow, float]:
        """Image, sound and the time it took in ms. windows: by stamp, shared by images taken at the same moment."""
        start = time.perf_counter()
        node = self.config.node
        frame = image_to_frame(item.message, node.rotation, node.mirror, node.max_pixels)
        window = windows.get(frame.stamp_ns) or windows.setdefault(frame.stamp_ns, self.audio.window(frame.stamp_ns))
        return frame, window, 1000.0 * (time.perf_counter() - start)

    def _process(
        self, item: PendingImage, frame: VideoFrame, window: AudioWindow, converted_ms: float, encodings, shared: bool
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
        rgb = restore(frame.rgb, node.rotation, node.mirror) if node.rotation or node.mirror else frame.rgb
        return Result(item.camera, item.message.header, rgb, scene, tracker.tracks)

    def _note_start(self, found: Factorization, ms: float) -> None:
        """Times and losses of frames that started warm, and of the last that started cold: what the warm start saves."""
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
        release_memory()
