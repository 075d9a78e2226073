"""One pass of the image model and one of the sound model for frames of several cameras that share both."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from taco.backbones.base import Backbones, encode_images
from taco.types import AudioWindow, ImageFeatures, Tokens, VideoFrame


class EncodedTogether:
    """Encodes on the first request, so that frames in silence cost nothing. For one thread, and for these frames once.

    backbones: the shared models. frames: all images of the pass. ``problem``: why a pass for all failed, if it did; every
    image is then encoded by itself, so that one that cannot be used loses no other. ``ms``: of both models so far.
    """

    def __init__(self, backbones: Backbones, frames: Sequence[VideoFrame]):
        self.problem: Exception | None = None
        self.ms: dict[str, float] = {}
        self._backbones = backbones
        self._frames = list(frames)
        self._features: dict[int, ImageFeatures] = {}
        self._sounds: list[tuple[AudioWindow, Tokens]] = []

    def image(self, frame: VideoFrame) -> ImageFeatures:
        """The features of one of the frames."""
        start = time.perf_counter()
        if not self._features and self.problem is None:
            try:
                features = encode_images(self._backbones.image, self._frames)
                self._features = {id(one): found for one, found in zip(self._frames, features)}
            except Exception as error:
                self.problem = error
        found = self._features.get(id(frame)) or self._backbones.image.encode(frame)
        self._took("image", start)
        return found

    def sound(self, window: AudioWindow) -> Tokens:
        """The tokens of a window; equal windows are encoded once."""
        for known, tokens in self._sounds:
            if _equal(known, window):
                return tokens
        start = time.perf_counter()
        tokens = self._backbones.audio.encode(window)
        self._took("sound", start)
        self._sounds.append((window, tokens))
        return tokens

    def _took(self, model: str, start: float) -> None:
        self.ms[model] = self.ms.get(model, 0.0) + 1000.0 * (time.perf_counter() - start)


def _equal(one: AudioWindow, other: AudioWindow) -> bool:
    return one is other or (one.sample_rate == other.sample_rate and np.array_equal(one.samples, other.samples))
