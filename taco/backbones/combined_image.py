"""Two eyes side by side: an image encoder that knows things, and a detector that knows people, on one token grid.

A token is the encoder's features with one number more: how surely a person is there. Each word's vector is zero where the
other eye's features lie, so that nothing behind has to know that there are two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taco.backbones.efficientnet import EfficientNetEncoder
from taco.backbones.person import TRAINED_SIZE, PersonNetwork
from taco.types import ImageFeatures, Kinds, VideoFrame

# Log-odds of a person from which a box counts. Small is one below half the picture (the root of its share of the area): where
# nobody is, it gets less far than a great one (photographs without people, val).
LEAST, LEAST_SMALL, SMALL = -3.0, -4.0, 0.5
BOXES = 100  # of an image, the surest
ROUNDNESS = 4.0  # a box fades to its edges as 1 - |x|^4 - |y|^4, as a figure fills it
GAIN = 32.0  # of the evidence in a token: how much it counts among the other features where tokens are compared
LOGIT = 3.0  # of the evidence in a word's product: how much it counts against the words of the other eye
# What people wear: classes of ImageNet that a person looks like to the other eye, so no other thing where a person is a word.
# fmt: off
WORN = (
    399, 400, 411, 414, 433, 443, 445, 451, 452, 457, 459, 461, 465, 474, 490, 501, 502, 514, 515, 518, 524, 529, 560, 568,
    570, 578, 584, 601, 608, 610, 614, 617, 629, 630, 638, 639, 643, 652, 655, 658, 667, 678, 689, 691, 697, 715, 735, 748,
    770, 774, 775, 793, 796, 806, 808, 824, 834, 836, 837, 841, 842, 869, 887, 903, 906, 981, 982, 983,
)
# fmt: on


class PersonEye:
    """Where people are, on any grid. size: px, the side that the picture is squeezed to.

    As in the detector's training by default; a smaller picture misleads its coarse maps, a greater one hardly shows it more.
    """

    def __init__(self, network: PersonNetwork, size: int = TRAINED_SIZE):
        self.network, self.size = network, size

    def boxes(self, frames: Sequence[VideoFrame]) -> list[tuple[Tensor, Tensor]]:
        """Each image's surest boxes: (n,) evidence > 0, log-odds over ``LEAST``; (n, 4) y0 x0 y1 x1 in shares of its sides."""
        device = self.network._conv_stem.weight.device
        with torch.inference_mode():
            pixels = torch.cat([_squeezed(frame, self.size, device) for frame in frames])
            odds, boxes = self.network((pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last))
        out = []
        for own, places in zip(odds.cpu(), boxes.cpu() / self.size):
            sides = (places[:, 2:] - places[:, :2]).prod(1).sqrt()
            least = torch.where(sides < SMALL, LEAST_SMALL, LEAST)
            best = (own - least).topk(min(BOXES, len(own)))
            kept = best.indices[best.values > 0]
            out.append((best.values[: len(kept)], places[kept]))
        return out


def painted(evidence: Tensor, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(rows, columns) >= 0: at each token the evidence of the surest box over it, fading to the box's edges."""
    sides = boxes.new_tensor(grid)
    half = ((boxes[:, 2:] - boxes[:, :2]) / 2).maximum(0.75 / sides)  # so that some token lies inside
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    rows, columns = (((torch.arange(n) + 0.5) / n - centre[:, axis, None]) / half[:, axis, None] for axis, n in enumerate(grid))
    cover = 1 - rows.abs().pow(ROUNDNESS)[:, :, None] - columns.abs().pow(ROUNDNESS)[:, None]
    return torch.cat([evidence[:, None, None] * cover, torch.zeros(1, *grid)]).amax(0)


def _squeezed(frame: VideoFrame, side: int, device: torch.device) -> Tensor:
    pixels = torch.from_numpy(np.ascontiguousarray(frame.rgb)).to(device).permute(2, 0, 1)[None]
    return F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)


class SideBySideEyes:
    """``things`` with one number more a token, of ``people``. words: what the second eye calls what it sees (one or several)."""

    def __init__(self, things: EfficientNetEncoder, people: PersonEye, words: Sequence[str] = ("person",)):
        self.things, self.people = things, people
        self.words = tuple(words)
        self.name = f"{things.name}+person"

    @property
    def image_size(self) -> int:
        """px, of the first eye."""
        return self.things.image_size

    def encode(self, frame: VideoFrame) -> ImageFeatures:
        """Tokens (N, C + 1), not negative; the pyramid is the first eye's."""
        return self.encode_batch([frame])[0]

    def encode_batch(self, frames: Sequence[VideoFrame]) -> list[ImageFeatures]:
        """Several images; the same as one by one up to rounding."""
        out = []
        for features, found in zip(self.things.encode_batch(frames), self.people.boxes(frames)):
            tokens = features.tokens
            evidence = GAIN * painted(*found, tokens.grid).flatten()[:, None].to(tokens.values)
            out.append(replace(features, tokens=replace(tokens, values=torch.cat([tokens.values, evidence], 1))))
        return out

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """(M, C + 1): the first eye's vectors and a zero, or zeros and what makes evidence a logit; ConfigError for others."""
        known = iter(_apart(self.things.encode_text(self._seen(words))))
        return torch.stack([self._person() if word in self.words else next(known) for word in words])

    def encode_kinds(self, words: Sequence[str]) -> Kinds:
        """The kinds by which the first eye knows its words, the second knows one of each."""
        seen = [index for index, word in enumerate(words) if word not in self.words]
        kinds = self.things.encode_kinds(self._seen(words))
        people = [index for index, word in enumerate(words) if word in self.words]
        vectors = [_apart(kinds.vectors), *(self._person()[None] for _ in people)]
        owners = torch.cat([torch.tensor(seen, dtype=torch.long)[kinds.words], torch.tensor(people, dtype=torch.long)])
        return Kinds(torch.cat(vectors), owners)

    def encode_others(self, words: Sequence[str]) -> Tensor:
        """(L, C + 1): of the first eye's classes that no word covers; without what people wear where a person is a word."""
        seen = self._seen(words)
        return _apart(self.things.encode_others(seen, WORN if len(seen) < len(words) else ()))

    def _seen(self, words: Sequence[str]) -> list[str]:
        """The words of the first eye."""
        return [word for word in words if word not in self.words]

    def _person(self) -> Tensor:
        width = self.things.encode_others(()).shape[1]
        return F.pad(torch.full((1,), LOGIT / GAIN), (width, 0))


def _apart(rows: Tensor) -> Tensor:
    """(n, C) -> (n, C + 1): zero where the second eye looks."""
    return F.pad(rows, (0, 1))
