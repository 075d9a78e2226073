"""Camera, microphone and models in real time without ROS: what ``taco live`` shows."""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from taco.audio import AudioBuffer
from taco.backbones.word_bank import named_like_file
from taco.clock import NS
from taco.config import TacoConfig
from taco.errors import AudioGapError, ConfigError, MediaError, TacoError
from taco.io.live_inputs import LiveInput
from taco.io.video_writer import VideoWriter
from taco.mailbox import Mailbox, PendingImage
from taco.palette import colour_of
from taco.pipeline import TacoPipeline
from taco.tracking import Tracker
from taco.types import AudioChunk, AudioWindow, SoundingScene, VideoFrame
from taco.view import draw

IDLE_S = 0.1  # ours: longest sleep of the models' thread, so that it notices the end
REOPEN_S = 2.0  # ours: wait before a lost camera or microphone is opened again
RATE_ANSWERS = 20  # ours: answers that the speed is measured over
JPEG_QUALITY = 85  # libjpeg's; ours

Answer = dict[str, Any]  # of one image, as the page gets it


class Pipeline(Protocol):
    """What a session needs of ``TacoPipeline``."""

    anchors: Any

    def process(self, frame: VideoFrame, window: AudioWindow) -> SoundingScene:
        """The scene of an image and its sound."""

    def set_words(self, words: Sequence[str]) -> None:
        """Listen for other words."""

    def reset(self) -> None:
        """Forget the last frame."""


class LiveSession:
    """One camera and one microphone through one pipeline: the newest image wins, sound waits in the ring, as in the ROS node.

    camera, microphone: opened. folder: of recorded clips. pipeline: made from ``config`` where it is left out.
    on_answer: called on the models' thread with the answer to each image and its overlay as JPEG.
    problems: of "camera", "microphone", "models", each in one line; empty while all is well.
    counts: of images that could not be used, by reason.
    """

    def __init__(
        self,
        config: TacoConfig,
        camera: LiveInput,
        microphone: LiveInput,
        folder: Path,
        on_answer: Callable[[Answer, bytes], None],
        pipeline: Pipeline | None = None,
    ):
        if config.audio.alignment != "trailing":
            raise ConfigError(f"taco live: wanted audio.alignment trailing, got {config.audio.alignment}")
        self.config, self.folder = config, folder
        self.pipeline: Pipeline = pipeline or TacoPipeline(config)
        self.audio, self.mailbox, self.clip = AudioBuffer(config.audio), Mailbox(), ClipRecorder()
        self.problems: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.paused = False
        self._inputs = {"camera": camera, "microphone": microphone}
        self._on_answer = on_answer
        self._tracker = Tracker(config.tracking)
        self._answered: deque[float] = deque(maxlen=RATE_ANSWERS)
        self._jobs: queue.SimpleQueue[tuple[Callable[[], object], Future[Any]]] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._receive, args=("camera", self._take_image), name="camera", daemon=True),
            threading.Thread(target=self._receive, args=("microphone", self._take_sound), name="microphone", daemon=True),
            threading.Thread(target=self._work, name="models", daemon=True),
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End the threads and a clip that is being recorded."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident:
                thread.join(5.0)
        self.clip.stop()

    @property
    def words(self) -> tuple[str, ...]:
        """The words listened for."""
        return tuple(self.pipeline.anchors.words)

    def set_words(self, words: Sequence[str]) -> Future[None]:
        """Listen for other words from the next image on (none: the models' own list); the Future has a ConfigError if it fails.

        Words only: a page must not make this program read files.
        """
        if len(words) == 1 and named_like_file(words[0]):
            raise ConfigError(f"wanted words, got {words[0][:80]!r}, which looks like a file")
        future: Future[None] = Future()
        self._jobs.put((lambda: self.pipeline.set_words(words), future))
        return future

    def record(self) -> Path:
        """Begin to record a clip into ``folder``; its path. It is a file once it is stopped."""
        return self.clip.start(self.folder / f"taco-{datetime.now():%Y%m%d-%H%M%S}.mp4", self.audio.sample_rate)

    def _receive(self, kind: str, take: Callable[[Any], None]) -> None:
        """Take what an input gives; a lost one is opened again until the end."""
        while not self._stop.is_set():
            try:
                for piece in self._inputs[kind].pieces(self._stop):
                    self.problems.pop(kind, None)
                    take(piece)
            except TacoError as error:
                self.problems[kind] = str(error)
            except Exception as error:  # of a driver: the other threads go on
                self.problems[kind] = f"{kind}: {type(error).__name__}: {' '.join(str(error).split())}"
            self._stop.wait(REOPEN_S)

    def _take_image(self, frame: VideoFrame) -> None:
        self.clip.write(frame)
        if not self.paused:
            self.mailbox.put(PendingImage("", frame, frame.stamp_ns, time.monotonic_ns()))

    def _take_sound(self, chunk: AudioChunk) -> None:
        self.audio.push(chunk)
        self.clip.write(chunk)

    def _work(self) -> None:
        """Jobs first, then the newest image."""
        last_ns = 0
        while not self._stop.is_set():
            self._run_jobs()
            with self.mailbox.condition:
                wait_s = self.mailbox.wait_s() if len(self.mailbox) else IDLE_S
                if wait_s:
                    self.mailbox.condition.wait(wait_s)
                    continue
            for item in self.mailbox.take():
                assert isinstance(item.message, VideoFrame)
                try:
                    if item.stamp_ns <= last_ns:  # the camera was opened again
                        self.pipeline.reset()
                        self._tracker.reset()
                    last_ns = item.stamp_ns
                    self._answer(item.message)
                    self.problems.pop("models", None)
                except AudioGapError as error:
                    self.counts[error.reason] += 1
                    self._on_answer(self._without_sound(item.message, str(error)), _jpeg(item.message.rgb))
                except Exception as error:  # of one image: the next one may do
                    self.counts["failed"] += 1
                    self.problems["models"] = f"models: {type(error).__name__}: {' '.join(str(error).split())}"

    def _run_jobs(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                job, future = self._jobs.get_nowait()
                try:
                    job()
                except Exception as error:
                    future.set_exception(error)
                else:
                    future.set_result(None)

    def _answer(self, frame: VideoFrame) -> None:
        scene = self._tracker.update(self.pipeline.process(frame, self.audio.window(frame.stamp_ns)))
        picture = draw.overlay(frame.rgb, scene, strip=False)
        self._answered.append(time.monotonic())
        answer = {
            **self._state(frame),
            "verdict": scene.verdict,
            "told": draw.VERDICT_WORDS[scene.verdict],
            "level_dbfs": round(scene.level_dbfs, 1),
            "score": round(float(scene.sounding_score), 3),
            "heard": [[word, round(float(p), 3)] for word, p in scene.heard],
            "objects": [
                {
                    "id": item.id,
                    "word": item.label,
                    "score": round(float(item.score), 3),
                    "box": list(map(int, item.box)),
                    "colour": "#{:02x}{:02x}{:02x}".format(*colour_of(item.label)),
                }
                for item in scene.objects
            ],
        }
        self._on_answer(answer, _jpeg(picture))

    def _without_sound(self, frame: VideoFrame, why: str) -> Answer:
        return {
            **self._state(frame),
            "verdict": "skipped",
            "told": why,
            "level_dbfs": None,
            "score": 0,
            "heard": [],
            "objects": [],
        }

    def _state(self, frame: VideoFrame) -> Answer:
        times = list(self._answered)
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
        return {
            "time_s": round(frame.stamp_ns / NS, 3),
            "size": list(frame.size),
            "age_ms": round((time.monotonic_ns() - frame.stamp_ns) / 1e6),
            "frames_per_s": round(rate, 1),
            "words": len(self.words),
            "recording": str(self.clip.path or ""),
            "problems": dict(self.problems),
        }


def _jpeg(rgb: np.ndarray) -> bytes:
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


class ClipRecorder:
    """A clip of the camera's own images and the microphone's sound. Images and sound may come from different threads.

    path: of the clip that is being recorded, else None.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self._lock = threading.Lock()
        self._writer: VideoWriter | None = None
        self._stack = contextlib.ExitStack()
        self._from_ns: int | None = None

    def start(self, path: Path, sample_rate: int) -> Path:
        """Begin; one that is being recorded goes on. sample_rate: of the sound, Hz. Returns the path."""
        with self._lock:
            if self.path is None:
                writer = VideoWriter(path, sample_rate=sample_rate)
                self._writer, self.path, self._from_ns = self._stack.enter_context(writer), path, None
            return self.path

    def write(self, piece: VideoFrame | AudioChunk) -> None:
        """Add an image or a piece of sound, where a clip is being recorded. Sound from before the first image is left out."""
        with self._lock, self._cut_at_error():
            if self._writer is None:
                return
            if isinstance(piece, VideoFrame):
                self._from_ns = piece.stamp_ns if self._from_ns is None else self._from_ns
                self._writer.write(piece.rgb, piece.stamp_ns)
            elif self._from_ns is not None and piece.end_ns > self._from_ns:
                self._writer.write_audio(piece)

    def stop(self) -> Path | None:
        """End the clip; its path, None where there is none."""
        with self._lock:
            path, self.path, self._writer = self.path, None, None
            try:
                self._stack.close()
            except MediaError:  # no image came: no file
                return None
            return path

    @contextlib.contextmanager
    def _cut_at_error(self) -> Iterator[None]:
        """A full disk ends the clip, not the session."""
        try:
            yield
        except MediaError:
            self.path = self._writer = None
            with contextlib.suppress(MediaError):
                self._stack.__exit__(*sys.exc_info())
            raise
