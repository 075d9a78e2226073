"""One sound encoder of one or several closed-vocabulary sound models.

A token is the models' features side by side, non-negative. ``project`` takes it to word space, where the vectors of the words
are unit rows, and the cosine times ``logit_scale`` is the logit of the word.
"""

from __future__ import annotations

import abc
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taco.audio import resample
from taco.backbones.base import unknown_words_error
from taco.backbones.birdnet import SAMPLE_RATE as BIRDNET_RATE
from taco.backbones.birdnet import BirdNET
from taco.backbones.engine_export import IN_TORCH, Runtime
from taco.backbones.musicnn import HOP as MUSICNN_HOP
from taco.backbones.musicnn import MELS as MUSICNN_MELS
from taco.backbones.musicnn import SAMPLE_RATE as MUSICNN_RATE
from taco.backbones.musicnn import TAGS, MusiCNN
from taco.backbones.onnx_export import Example, Part
from taco.backbones.yamnet import MELS, PATCH, PATCH_SAMPLES, YAMNet
from taco.backbones.yamnet import SAMPLE_RATE as YAMNET_RATE
from taco.errors import ShapeError
from taco.types import AudioWindow, Tokens, WordScore

BANDS, STEPS = 2, 6  # the grid of a window's tokens: frequency as YAMNet has it, time ours
LOGIT_LIMIT = 12.0  # logits are clamped to [-12, 12]; ours
LEAST_PROBABILITY = 0.1  # of a reported sound; ours
CLEAR_PROBABILITY = 0.15  # general names are reported only where no specific one reaches this; ours
LEAST_SHARE = 0.02  # of a feature in [0, 6], added to that of each third of the window (chosen on stamps, val)


class SoundHead(Protocol):
    """A sound model as the encoder uses it.

    name: of the model.
    dim: width of its features.
    sample_rate: Hz.
    words: those that it knows.
    others: its classes that no word covers.
    """

    name: str
    dim: int
    sample_rate: int
    words: tuple[str, ...]
    others: tuple[str, ...]

    def tokens(self, samples: np.ndarray) -> Tensor:
        """(BANDS * STEPS, dim) features >= 0 of the window, row-major over (frequency, time)."""

    def means(self, windows: Sequence[np.ndarray]) -> Tensor:
        """(n, dim) features of each window as a whole, without its course."""

    def logits(self, values: Tensor) -> Tensor:
        """(..., dim) means of tokens -> (..., words + others): log-odds that each sounds."""


class YamnetHead:
    """YAMNet: everyday sounds. A word is as likely as the likeliest of its classes.

    general: classes that name no more than a kind ("Animal", "Music") or a place. They are reported, but speak neither for a
    word nor against one.
    runtime: what runs the network; ``run`` is the network in it. Where that is not torch, the network keeps only what torch
    still runs.
    """

    name: str = "yamnet"
    dim: int = 1024
    sample_rate: int = YAMNET_RATE

    def __init__(
        self, network: YAMNet, words: Mapping[str, Sequence[int]], general: Sequence[int] = (), runtime: Runtime = IN_TORCH
    ):
        self._network = network
        example = Example((torch.zeros(4, PATCH, MELS),), ((0,),), ("log_mel",))  # a window and its thirds
        self.run = runtime.network(Part(network, "tokens"), self.name, ("tokens",), example)
        if self.run.engine != "torch":
            network.drop_convolutions()
        self.words = tuple(word for word, classes in words.items() if classes)
        rows = [list(words[word]) for word in self.words]
        # Row w: the numbers of word w's classes, filled up with its first, so that the largest is found in one step.
        longest = max(map(len, rows), default=0)
        filled = [own + own[:1] * (longest - len(own)) for own in rows]
        self._classes = torch.tensor(filled, dtype=torch.long).reshape(len(rows), longest)
        covered = {number for own in rows for number in own} | set(general)
        self._rest = torch.tensor([n for n in range(len(network.names)) if n not in covered], dtype=torch.long)
        self._general = list(general)
        self.others = tuple(network.names[number] for number in self._rest.tolist())

    def tokens(self, samples: np.ndarray) -> Tensor:
        """Features of the newest whole patch, with their course over time."""
        # A token sees nearly the whole patch. So the features of the newest whole patch are distributed over time as passes over
        # its thirds find them. Each third is mirrored to a ring of the length that the network expects, and the ring is turned
        # by half a token: of its three tokens the first then lies at the third's end and the second at its start.
        mel = self._log_mel(samples)
        third = mel.view(3, -1, mel.shape[1])
        rings = torch.cat([third, third.flip(1), third], 1).roll(-PATCH // STEPS, 1)
        whole, *parts = self.run(torch.cat([mel[None], rings]))["tokens"]  # each (bands, 3, dim)
        course = torch.cat([part[:, [1, 0]] for part in parts], 1) + LEAST_SHARE
        found: Tensor = whole.mean(1, keepdim=True) * course / course.mean(1, keepdim=True)
        return found.reshape(BANDS * STEPS, -1)

    def means(self, windows: Sequence[np.ndarray]) -> Tensor:
        """The mean over each window's newest whole patch: a quarter of the work of ``tokens``."""
        return self.run(torch.stack([self._log_mel(samples) for samples in windows]))["tokens"].mean((1, 2))

    def _log_mel(self, samples: np.ndarray) -> Tensor:
        """(PATCH, MELS) of the newest whole patch; shorter sounds are repeated."""
        patch = samples[-PATCH_SAMPLES:] if len(samples) >= PATCH_SAMPLES else np.resize(samples, PATCH_SAMPLES)
        return self._network.log_mel(torch.from_numpy(np.require(patch, requirements=["C", "W"])))

    def logits(self, values: Tensor) -> Tensor:
        """(..., dim) -> (..., words + others) log-odds."""
        found: Tensor = self._network.classes(values)
        if not self.words:
            return found[..., self._rest]
        return torch.cat([found[..., self._classes].amax(-1), found[..., self._rest]], -1)

    def general(self, values: Tensor) -> list[WordScore]:
        """The general classes' names and probabilities for (dim,) values."""
        odds = self._network.classes(values)[self._general].sigmoid().tolist()
        return [(self._network.names[number], value) for number, value in zip(self._general, odds)]


class _CalibratedHead(abc.ABC):
    """A model whose logits compare only with those of the same word.

    background: of each word, mean and deviation of its logit in sounds of other objects. A word's log-odds count the
    deviations above that mean.
    """

    gain, offset = 2.0, 3.0  # log-odds a deviation; deviations at even odds: chosen beside YAMNet on recordings of val

    def __init__(self, words: Sequence[str], background: Mapping[str, tuple[float, float]]):
        self.words, self.others = tuple(words), tuple[str, ...]()
        self._means, self._deviations = torch.tensor([background[word] for word in self.words]).T

    @abc.abstractmethod
    def tokens(self, samples: np.ndarray) -> Tensor:
        """As every head's."""

    def means(self, windows: Sequence[np.ndarray]) -> Tensor:
        """The mean over each window's tokens."""
        return torch.stack([self.tokens(samples).mean(0) for samples in windows])

    def _log_odds(self, logits: Tensor) -> Tensor:
        log_odds: Tensor = self.gain * ((logits - self._means) / self._deviations - self.offset)
        return log_odds


class MusicnnHead(_CalibratedHead):
    """musicnn: instruments. A word is as likely as the likeliest of its tags."""

    name: str = "musicnn"
    dim: int = 200
    sample_rate: int = MUSICNN_RATE
    norm = 34.0  # usual length of the features, nearly the same for all sounds; measured, ours

    def __init__(
        self,
        network: MusiCNN,
        words: Mapping[str, Sequence[str]],
        background: Mapping[str, tuple[float, float]],
        runtime: Runtime = IN_TORCH,
    ):
        super().__init__([word for word, tags in words.items() if tags], background)
        self._network = network
        example = Example((torch.zeros(1, 63, MUSICNN_MELS),), ((1,),), ("log_mel",))
        self.run = runtime.network(Part(network, "frames"), self.name, ("frames",), example)
        weights, bias = network.tag_layer()
        self._rows = [[TAGS.index(tag) for tag in words[word]] for word in self.words]
        self._weights, self._bias = weights.detach(), bias.detach()

    def tokens(self, samples: np.ndarray) -> Tensor:
        """Features of six overlapping halves of the window, the same in both bands."""
        # Every frame's features come from the whole window; only the pooling looks at a part of it.
        shortest = 16 * MUSICNN_HOP
        samples = samples if len(samples) >= shortest else np.resize(samples, shortest)
        sound = torch.from_numpy(np.require(samples, requirements=["C", "W"]))
        frames = self.run(self._network.log_mel(sound[None]))["frames"]
        count = frames.shape[2]
        length = max(count // 2, min(count, 8))
        starts = [round(step * (count - length) / (STEPS - 1)) for step in range(STEPS)]
        parts = torch.cat([frames[:, :, start : start + length] for start in starts])
        return (self._network.pooled(parts) / self.norm).repeat(BANDS, 1)

    def logits(self, values: Tensor) -> Tensor:
        """(..., dim) -> (..., words) log-odds."""
        tags = F.normalize(values, dim=-1) * self.norm @ self._weights.T + self._bias
        return self._log_odds(torch.stack([tags[..., rows].amax(-1) for rows in self._rows], -1))


class BirdnetHead(_CalibratedHead):
    """BirdNET: animals and a few noises. The logits of a word's species are pooled by log-sum-exp."""

    name: str = "birdnet"
    dim: int = 1024
    sample_rate: int = BIRDNET_RATE
    norm = 18.0  # as for musicnn

    def __init__(self, network: BirdNET, words: Mapping[str, Sequence[str]], background: Mapping[str, tuple[float, float]]):
        found = {
            word: [n for n, name in enumerate(network.names) if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
            for word, patterns in words.items()
        }
        super().__init__([word for word, rows in found.items() if rows], background)
        self._network = network
        used = sorted({row for word in self.words for row in found[word]})
        self._weights, self._bias = torch.from_numpy(network.weights[used]), torch.from_numpy(network.bias[used])
        place = {row: position for position, row in enumerate(used)}
        self._rows = [[place[row] for row in found[word]] for word in self.words]

    def tokens(self, samples: np.ndarray) -> Tensor:
        """Features of the whole window, the same at every token: one pass already takes most of a frame's time."""
        return torch.from_numpy(self._network.features(samples) / self.norm).expand(BANDS * STEPS, -1)

    def logits(self, values: Tensor) -> Tensor:
        """(..., dim) -> (..., words) log-odds."""
        species = F.normalize(values, dim=-1) * self.norm @ self._weights.T + self._bias
        return self._log_odds(torch.stack([species[..., rows].logsumexp(-1) for rows in self._rows], -1))


class EmbeddedAudioEncoder:
    """Sound encoder over one or more heads.

    words: the words wanted, in order; those that no head knows are left out. A word that several heads know has the greatest of
    their log-odds. Classes that no word covers have vectors too: see ``encode_others``.
    """

    def __init__(self, heads: Sequence[SoundHead], words: Sequence[str]):
        self._heads = tuple(heads)
        self.networks = {head.name: head.run for head in heads if isinstance(head, (YamnetHead, MusicnnHead))}  # for an export
        self.words = tuple(word for word in words if any(word in head.words for head in heads))
        self.dim = sum(head.dim for head in heads)
        known = list(dict.fromkeys([*self.words, *(name for head in heads for name in (*head.words, *head.others))]))
        self._names = tuple(known)  # of the coordinates of word space, without the last two
        self._columns = [torch.tensor([known.index(name) for name in (*head.words, *head.others)]) for head in heads]
        # Logits z as exact cosines: (z, 0, sqrt(R^2 - |z|^2)) has length R for any z, so that its cosine with the unit row of
        # word w, times R, is z_w. The coordinate that is always 0 is "none of the names".
        self.logit_scale = LOGIT_LIMIT * len(known) ** 0.5
        self.name = "+".join(head.name for head in heads)

    def encode(self, window: AudioWindow) -> Tokens:
        """(12, dim) tokens >= 0 on the grid (2, 6): two bands of frequency at six equally spaced times."""
        if len(window.samples) < 2:
            raise ShapeError(f"AudioWindow: wanted at least 2 samples, got {len(window.samples)}; check the window's length")
        with torch.inference_mode():
            parts = [head.tokens(resample(window.samples, window.sample_rate, head.sample_rate)) for head in self._heads]
        return Tokens(torch.cat(parts, 1).float().clone(), (BANDS, STEPS))

    def encode_means(self, windows: Sequence[AudioWindow]) -> list[Tokens]:
        """Of each window one token (1, dim), its features as a whole: see ``AudioEncoder``."""
        rates = [head.sample_rate for head in self._heads]
        with torch.inference_mode():
            parts = [
                head.means([resample(window.samples, window.sample_rate, rate) for window in windows])
                for head, rate in zip(self._heads, rates)
            ]
        return [Tokens(values[None].float().clone(), (1, 1)) for values in torch.cat(parts, 1)]

    def project(self, values: Tensor) -> Tensor:
        """(..., dim) means of tokens -> (..., D): log-odds of every name, 0, and what completes the length ``logit_scale``."""
        logits = self.log_odds(values)
        rest = (self.logit_scale**2 - logits.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()
        return torch.cat([logits, torch.zeros_like(rest), rest], -1)

    def log_odds(self, values: Tensor) -> Tensor:
        """(..., dim) -> (..., names) in [-12, 12]: that each word, and each class without a word, sounds."""
        out = values.new_full((*values.shape[:-1], len(self._names)), -LOGIT_LIMIT)
        at = 0
        for head, columns in zip(self._heads, self._columns):
            found = head.logits(values[..., at : at + head.dim])
            out = out.index_copy(-1, columns, torch.maximum(out[..., columns], found))
            at += head.dim
        return out.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """(M, D) unit rows."""
        unknown = [word for word in words if word not in self.words]
        if unknown:
            raise unknown_words_error(unknown, self.words, self.name)
        return self._rows([self._names.index(word) for word in words])

    def encode_others(self, words: Sequence[str]) -> Tensor:
        """(L, D) unit rows of all other sounds: other words, classes without a word, and none of all."""
        return self._rows([number for number, name in enumerate(self._names) if name not in set(words)] + [len(self._names)])

    def _rows(self, columns: Sequence[int]) -> Tensor:
        return torch.eye(len(self._names) + 2)[list(columns)]

    def likeliest_sounds(self, values: Tensor, count: int) -> tuple[WordScore, ...]:
        """The likeliest sounds of (dim,) means of tokens, best first: words or names of other classes, with probabilities.

        At most ``count``, each of at least 0.1; general names ("Animal", "Music") only where no specific one reaches 0.15.
        """
        named = list(zip(self._names, self.log_odds(values).sigmoid().tolist()))
        if max(value for _, value in named) < CLEAR_PROBABILITY:
            at = 0
            for head in self._heads:
                named += head.general(values[at : at + head.dim]) if hasattr(head, "general") else []
                at += head.dim
        named = sorted((pair for pair in named if pair[1] >= LEAST_PROBABILITY), key=lambda pair: -pair[1])
        return tuple(named[:count])
