"""One sound encoder out of several closed-vocabulary sound models.

Tokens are the models' features side by side, non-negative; ``project`` takes them to word space,
where the words' vectors are unit rows and the cosine times ``logit_scale`` is the word's logit.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taco.backbones.birdnet import SAMPLE_RATE as BIRDNET_RATE
from taco.backbones.birdnet import BirdNET
from taco.backbones.efficientnet import unknown_words
from taco.backbones.musicnn import HOP, TAGS, MusiCNN
from taco.backbones.musicnn import SAMPLE_RATE as MUSICNN_RATE
from taco.errors import ShapeError
from taco.types import AudioWindow, Tokens

TIME_STEPS = 8  # tokens of a window
LOGIT_LIMIT = 12.0  # logits are kept within +- this


class SoundHead(Protocol):
    """A sound model as the encoder uses it. words: what it can name. norm: length its features are brought to for naming."""

    dim: int
    sample_rate: int
    words: tuple[str, ...]

    def tokens(self, samples: np.ndarray, steps: int) -> Tensor:
        """(steps, dim) features >= 0 of equal stretches of the window, of mean length about 1."""

    def logits(self, values: Tensor) -> Tensor:
        """(..., dim) features of any positive length -> (..., words) logits."""


class MusicnnHead:
    """musicnn: instruments. Each word's tags are pooled by their maximum."""

    dim, sample_rate = 200, MUSICNN_RATE
    norm = 34.0  # usual length of the features, alike for all sounds

    def __init__(self, network: MusiCNN, words: Mapping[str, Sequence[str]]):
        self._network = network
        self.words = tuple(word for word, tags in words.items() if tags)
        weights, bias = network.tag_layer()
        self._rows = [[TAGS.index(tag) for tag in words[word]] for word in self.words]
        self._weights, self._bias = weights.detach(), bias.detach()

    def tokens(self, samples: np.ndarray, steps: int) -> Tensor:
        # Every frame's features come from the whole window; only the pooling looks at a part of it.
        shortest = 16 * HOP
        sound = torch.from_numpy(samples if len(samples) >= shortest else np.resize(samples, shortest))
        frames = self._network.frames(self._network.log_mel(sound[None]))
        count = frames.shape[2]
        length = max(count // 2, min(count, 8))
        starts = [round(step * (count - length) / max(steps - 1, 1)) for step in range(steps)]
        parts = torch.cat([frames[:, :, start : start + length] for start in starts])
        return self._network.pooled(parts) / self.norm

    def logits(self, values: Tensor) -> Tensor:
        features = F.normalize(values, dim=-1) * self.norm
        tags = features @ self._weights.T + self._bias
        return torch.stack([tags[..., rows].amax(-1) for rows in self._rows], -1)


class BirdnetHead:
    """BirdNET: animals and a few noises. A word's species are pooled by log-sum-exp."""

    dim, sample_rate = 1024, BIRDNET_RATE
    norm = 18.0

    def __init__(self, network: BirdNET, words: Mapping[str, Sequence[str]]):
        self._network = network
        found = {
            word: [n for n, name in enumerate(network.names) if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
            for word, patterns in words.items()
        }
        self.words = tuple(word for word, rows in found.items() if rows)
        used = sorted({row for word in self.words for row in found[word]})
        self._weights, self._bias = torch.from_numpy(network.weights[used]), torch.from_numpy(network.bias[used])
        place = {row: position for position, row in enumerate(used)}
        self._rows = [[place[row] for row in found[word]] for word in self.words]

    def tokens(self, samples: np.ndarray, steps: int) -> Tensor:
        # One pass over the whole window (it costs most of a frame): its features stand at every step.
        features = torch.from_numpy(self._network.features(samples))
        return (features / self.norm).expand(steps, -1)

    def logits(self, values: Tensor) -> Tensor:
        species = F.normalize(values, dim=-1) * self.norm @ self._weights.T + self._bias
        return torch.stack([species[..., rows].logsumexp(-1) for rows in self._rows], -1)


class EmbeddedAudioEncoder:
    """Sound encoder over one or more heads. words: the words, each with the mean and deviation of its logit unheard.

    A word counts by how far its logit stands out from where it stands while other things sound, in
    deviations: models and words differ in how freely they answer.
    """

    def __init__(self, heads: Sequence[SoundHead], words: Mapping[str, tuple[float, float]]):
        self._heads = tuple(heads)
        self.words = tuple(word for word in words if any(word in head.words for head in heads))
        self.dim = sum(head.dim for head in heads)
        self._means, self._deviations = torch.tensor([words[word] for word in self.words]).T
        # Logits z as exact cosines: (z, sqrt(R^2 - |z|^2)) has length R whatever z is, so that its cosine
        # with the unit row of word w, times R, is z_w.
        self.logit_scale = LOGIT_LIMIT * len(self.words) ** 0.5
        self.name = "+".join(type(head).__name__.removesuffix("Head").lower() for head in heads)

    def encode(self, window: AudioWindow) -> Tokens:
        """(8, dim) tokens >= 0 on the grid (1, 8): eight equally spaced, overlapping stretches of the window."""
        if len(window.samples) < 2:
            raise ShapeError(f"AudioWindow: wanted at least 2 samples, got {len(window.samples)}; check the window's length")
        with torch.inference_mode():
            parts = [head.tokens(_resampled(window, head.sample_rate), TIME_STEPS) for head in self._heads]
        return Tokens(torch.cat(parts, 1).float().clone(), (1, TIME_STEPS))

    def project(self, values: Tensor) -> Tensor:
        """(..., dim) -> (..., words + 1) of length ``logit_scale``; the length of ``values`` does not matter."""
        logits = self.word_logits(values)
        rest = (self.logit_scale**2 - logits.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()
        return torch.cat([logits, rest], -1)

    def word_logits(self, values: Tensor) -> Tensor:
        """(..., dim) -> (..., words) in [-12, 12]: deviations above where the word stands unheard."""
        found: dict[str, Tensor] = {}
        at = 0
        for head in self._heads:
            logits = head.logits(values[..., at : at + head.dim])
            at += head.dim
            for position, word in enumerate(head.words):
                one = logits[..., position]
                found[word] = torch.maximum(found[word], one) if word in found else one
        logits = torch.stack([found[word] for word in self.words], -1)
        return ((logits - self._means) / self._deviations).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """(M, words + 1) unit rows."""
        unknown = [word for word in words if word not in self.words]
        if unknown:
            raise unknown_words(unknown, self.words, self.name)
        return torch.eye(len(self.words) + 1)[[self.words.index(word) for word in words]]


def _resampled(window: AudioWindow, rate: int) -> np.ndarray:
    if window.sample_rate == rate:
        return window.samples
    import soxr

    return soxr.resample(window.samples, window.sample_rate, rate).astype(np.float32, copy=False)
