"""Encodings computed once: shared by cameras, methods and explanations, and kept while a camera's image stands still."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import cv2
import numpy as np

from taco.backbones.base import Backbones, encode_images, encode_means
from taco.sound_separation import sound_parts
from taco.types import AudioWindow, ImageFeatures, Tokens, VideoFrame

Result = TypeVar("Result")
BLOCKS = 40  # along an image's longer side: large enough to average a camera's noise, small enough to see small things move; ours
SAMPLES = 16  # of a block's side that are looked at, of large images; ours


class StillImage:
    """The features of one camera's image, kept while no part of the image changes."""

    def __init__(self) -> None:
        self._kept: tuple[tuple[int, int], np.ndarray, ImageFeatures] | None = None  # (height, width), its blocks, its features
        self._measured: tuple[VideoFrame, np.ndarray] | None = None

    def features(self, frame: VideoFrame, tolerance: float) -> ImageFeatures | None:
        """The kept features, where the image is still the one that they are of; else None.

        tolerance: grey levels of 255 by which the mean colour of any block may differ. The comparison is with the image that was
        encoded, so that slow changes add up. 0: never.
        """
        if self._kept is None or tolerance <= 0:
            return None
        size, before, features = self._kept
        same = frame.size == size and float(np.abs(self._block_means(frame) - before).max()) <= tolerance
        return features if same else None

    def keep(self, frame: VideoFrame, features: ImageFeatures) -> None:
        """Keep the features of an image that was encoded; those that are not finite, an error of the moment, are not kept."""
        finite = bool(features.tokens.values.isfinite().all())
        self._kept = (frame.size, self._block_means(frame), features) if finite else None

    def _block_means(self, frame: VideoFrame) -> np.ndarray:
        """(rows, columns, 3) float32: mean colours of square blocks; measured once for a frame."""
        if self._measured is None or self._measured[0] is not frame:
            longest = max(frame.size)
            step = max(1, longest // (BLOCKS * SAMPLES))
            rows, columns = (max(1, round(side * BLOCKS / longest)) for side in frame.size)
            some = np.ascontiguousarray(frame.rgb[::step, ::step]).astype(np.float32)
            self._measured = frame, cv2.resize(some, (columns, rows), interpolation=cv2.INTER_AREA)
        return self._measured[1]


class SharedEncodings:
    """Encodes at the first request and remembers the result; frames in silence cost nothing. For one thread.

    Sounds are encoded on the side thread of the backbones, where they have one.

    backbones: the shared models.
    frames: images that go through the image model in one pass; others go one by one.
    problem: the error of that pass, or None. After an error each image is encoded alone, so that a bad one spoils no other.
    """

    def __init__(self, backbones: Backbones, frames: Sequence[VideoFrame] = ()):
        self.problem: Exception | None = None
        self._backbones = backbones
        self._batch = list(frames)
        # By identity; the frame is kept with its features, so that no other can get its id. Sounds by their samples.
        self._images: dict[int, tuple[VideoFrame, ImageFeatures, float]] = {}
        self._sounds: dict[tuple[int, bytes], tuple[Tokens, float]] = {}
        self._parts: dict[tuple[int, bytes], list[Tokens]] = {}
        self._begun: dict[object, Future[Any]] = {}

    def image(self, frame: VideoFrame) -> ImageFeatures:
        """The features of an image."""
        if id(frame) not in self._images and any(frame is one for one in self._batch):
            batch, self._batch = self._batch, []
            start = time.perf_counter()
            try:
                features = encode_images(self._backbones.image, batch)
                each = _ms_since(start) / len(batch)
                self._images |= {id(one): (one, found, each) for one, found in zip(batch, features)}
            except Exception as error:
                self.problem = error
        if id(frame) not in self._images:
            start = time.perf_counter()
            self._images[id(frame)] = (frame, self._backbones.image.encode(frame), _ms_since(start))
        return self._images[id(frame)][1]

    def begin(self, window: AudioWindow, parts: bool = False) -> None:
        """Begin with the tokens of a window beside this thread, before they are asked for; parts: and of its parts."""
        side, key = self._backbones.side, _key(window)
        if side and key not in self._sounds and key not in self._begun:
            self._begun[key] = side.submit(lambda: self._encode(window))
        if side and parts and key not in self._parts and ("parts", key) not in self._begun:
            self._begun["parts", key] = side.submit(lambda: self._take_apart(window))

    def sound(self, window: AudioWindow) -> Tokens:
        """The tokens of a window; equal windows are encoded once."""
        key = _key(window)
        if key not in self._sounds:
            self._sounds[key] = self._result(key, lambda: self._encode(window))
        return self._sounds[key][0]

    def parts(self, window: AudioWindow) -> list[Tokens]:
        """The tokens of the sounds that a window can be taken apart into, without a course; none where it cannot."""
        key = _key(window)
        if key not in self._parts:
            self._parts[key] = self._result(("parts", key), lambda: self._take_apart(window))
        return self._parts[key]

    def _result(self, key: object, work: Callable[[], Result]) -> Result:
        """Of what was begun, else of ``work`` now; on the side thread where there is one, as the encoder is for one thread."""
        begun: Future[Result] | None = self._begun.pop(key, None)
        if begun is None and self._backbones.side:
            begun = self._backbones.side.submit(work)
        return begun.result() if begun else work()

    def _encode(self, window: AudioWindow) -> tuple[Tokens, float]:
        start = time.perf_counter()
        return self._backbones.audio.encode(window), _ms_since(start)

    def _take_apart(self, window: AudioWindow) -> list[Tokens]:
        return encode_means(self._backbones.audio, sound_parts(window) or ())

    def image_ms(self, frame: VideoFrame) -> float:
        """Milliseconds that an image took, its share of a common pass; 0 where it was not encoded."""
        return self._images[id(frame)][2] if id(frame) in self._images else 0.0

    def sound_ms(self, window: AudioWindow) -> float:
        """Milliseconds that a sound took; 0 where it was not encoded."""
        return self._sounds[_key(window)][1] if _key(window) in self._sounds else 0.0

    @property
    def total_ms(self) -> dict[str, float]:
        """Milliseconds of each model so far; an unused model has no entry."""
        totals = {"image": [ms for *_, ms in self._images.values()], "sound": [ms for _, ms in self._sounds.values()]}
        return {model: sum(each) for model, each in totals.items() if each}


def _key(window: AudioWindow) -> tuple[int, bytes]:
    return window.sample_rate, window.samples.tobytes()


def _ms_since(start: float) -> float:
    return 1000.0 * (time.perf_counter() - start)
