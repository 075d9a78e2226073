"""A pair of models without weights for tests and ``taco bench node``: known answer, chosen duration.

``models.image=standin`` or ``standin:30`` (milliseconds for an image). The tokens of the image are colours, those of the sound
the pitch of a tone: red goes with tones below 500 Hz, green with 500 to 2000 Hz, blue with higher ones. Waiting for the
duration leaves the processor free, as work on a GPU does. All constants are ours.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from taco.backbones.base import Backbones
from taco.config import ModelsConfig
from taco.errors import ConfigError
from taco.types import AudioWindow, ImageFeatures, Tokens, VideoFrame

WORDS = ("red", "green", "blue")
EDGES_HZ = (500.0, 2000.0)
WIDTH = 16  # channels of a word, so that tokens have a real model's rank to factorize
GRID = (12, 16)
STEPS = 8


def load(models: ModelsConfig) -> Backbones:
    """The pair; ConfigError where the duration is no number of milliseconds."""
    text = models.image.partition(":")[2] or "0"
    try:
        milliseconds = float(text)
    except ValueError:
        raise ConfigError(f"models.image: wanted standin:MILLISECONDS, got {models.image!r}") from None
    return Backbones(StandInImageEncoder(milliseconds), StandInAudioEncoder(), WORDS)


def _vectors(words: Sequence[str]) -> Tensor:
    unknown = [word for word in words if word not in WORDS]
    if unknown:
        raise ConfigError(f"word bank: the stand-in knows {', '.join(WORDS)}, got {unknown[0]!r}")
    vectors: Tensor = torch.eye(len(WORDS))[[WORDS.index(word) for word in words]].repeat_interleave(WIDTH, 1) / WIDTH**0.5
    return vectors


class StandInImageEncoder:
    """(12 x 16 tokens, 48): how red, green and blue each place is."""

    every_image = True  # it stands for the time that a model takes

    def __init__(self, milliseconds: float = 0.0):
        self.name = f"standin:{milliseconds:g}"
        self._seconds = milliseconds / 1000.0

    def encode(self, frame: VideoFrame) -> ImageFeatures:
        """Block means of the picture; takes at least the chosen time."""
        return self.encode_batch([frame])[0]

    def encode_batch(self, frames: Sequence[VideoFrame]) -> list[ImageFeatures]:
        """All of them in the time of one, as a GPU does."""
        end = time.perf_counter() + self._seconds
        features = [self._features(frame) for frame in frames]
        time.sleep(max(0.0, end - time.perf_counter()))
        return features

    def _features(self, frame: VideoFrame) -> ImageFeatures:
        rows = np.linspace(0, frame.size[0] - 1, GRID[0] * 2, dtype=int)
        columns = np.linspace(0, frame.size[1] - 1, GRID[1] * 2, dtype=int)
        small = frame.rgb[rows][:, columns].reshape(GRID[0], 2, GRID[1], 2, 3).mean((1, 3), dtype=np.float32) / 255.0
        strength = np.clip(small - 0.5 * (small.sum(-1, keepdims=True) - small), 0, None)  # grey has none of a colour
        values = 8.0 * torch.from_numpy(strength.reshape(-1, 3)).repeat_interleave(WIDTH, 1) / WIDTH**0.5
        texture = 0.02 * torch.rand(values.shape, generator=torch.Generator().manual_seed(0))
        return ImageFeatures(Tokens(values + texture, GRID), {}, GRID, frame.size)

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """(M, 48) vectors of the colours."""
        return _vectors(words)


class StandInAudioEncoder:
    """(8 time steps, 48): how much of the sound is low, middle and high."""

    name = "standin"
    logit_scale = 20.0

    def encode(self, window: AudioWindow) -> Tokens:
        """Share of the energy in the three bands, step by step."""
        length = len(window.samples) // STEPS
        steps = window.samples[: length * STEPS].reshape(STEPS, length)
        power = np.abs(np.fft.rfft(steps, axis=1)) ** 2
        band = np.digitize(np.fft.rfftfreq(length, 1.0 / window.sample_rate), EDGES_HZ)
        shares = np.stack([power[:, band == index].sum(1) for index in range(3)], 1)
        shares = shares / np.maximum(shares.sum(1, keepdims=True), 1e-12)
        shares *= np.where(np.arange(STEPS) % 2, 0.25, 1.75)[:, None]  # lively as a real sound: steady noise counts as nothing
        values = torch.from_numpy(shares.astype(np.float32)).repeat_interleave(WIDTH, 1) / WIDTH**0.5
        return Tokens(values, (1, STEPS))

    def project(self, values: Tensor) -> Tensor:
        """The tokens' space is the words' space."""
        return values

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """(M, 48) vectors of the tones that go with the colours."""
        return _vectors(words)
