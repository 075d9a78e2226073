"""An image encoder for objects and a detector of people, combined on one token grid.

A token is the encoder's features and one number more: the evidence that a person is there. The word vectors of each of the
two models are zero in the features of the other, so that the rest of the pipeline sees one image encoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taco.backbones.efficientnet import EfficientNetEncoder
from taco.backbones.engine_export import IN_TORCH, Runtime
from taco.backbones.mobile_blocks import OnBytes
from taco.backbones.onnx_export import Example
from taco.backbones.person import TRAINED_SIZE, PersonNetwork
from taco.threads import SideThread
from taco.types import ImageFeatures, Kinds, VideoFrame

# Log-odds of a person from which a box counts, chosen on photographs without people (val). A box is small where the square
# root of its share of the image's area is below SMALL; small false boxes have lower odds than large ones.
LEAST_ODDS, LEAST_ODDS_SMALL, SMALL = -3.0, -4.0, 0.5
BOXES = 100  # the surest of an image; ours
ROUNDNESS = 4.0  # a box fades to its edges as 1 - |x|^4 - |y|^4, as a figure fills it; ours
GAIN = 32.0  # scale of the evidence in a token, beside the other features where tokens are compared; ours, chosen on val
LOGIT = 3.0  # scale of the evidence in the word's product, beside the encoder's words; ours, chosen on val
# What people wear: ImageNet classes that the encoder sees in a person; no other objects where "person" is a word.
# fmt: off
CLOTHING = (
    399, 400, 411, 414, 433, 443, 445, 451, 452, 457, 459, 461, 465, 474, 490, 501, 502, 514, 515, 518, 524, 529, 560, 568,
    570, 578, 584, 601, 608, 610, 614, 617, 629, 630, 638, 639, 643, 652, 655, 658, 667, 678, 689, 691, 697, 715, 735, 748,
    770, 774, 775, 793, 796, 806, 808, 824, 834, 836, 837, 841, 842, 869, 887, 903, 906, 981, 982, 983,
)
# fmt: on


class PersonEvidence:
    """Where people are, on any grid.

    size: px, the side of the square that the image is resized to. The default is that of the detector's training; a smaller
    image misleads its coarse maps, a larger one hardly helps.
    runtime: what runs the network; ``run`` is the network in it, on ``device``.
    """

    def __init__(self, network: PersonNetwork, size: int = TRAINED_SIZE, runtime: Runtime = IN_TORCH):
        self.device, self.size = network.device, size
        example = Example((torch.zeros(1, 3, size, size, dtype=torch.uint8, device=self.device),), ((0,),), ("image",))
        self.run = runtime.network(OnBytes(network, 127.5, 127.5), "person", ("odds", "boxes"), example)

    def boxes(self, frames: Sequence[VideoFrame]) -> list[tuple[Tensor, Tensor]]:
        """Each image's surest boxes: (n,) evidence > 0, log-odds over the least; (n, 4) y0 x0 y1 x1 as shares of its sides."""
        with torch.inference_mode():
            found = self.run(torch.cat([_resize_square(frame, self.size, self.device) for frame in frames]))
        out = []
        for own, places in zip(found["odds"].cpu(), found["boxes"].cpu() / self.size):
            sides = (places[:, 2:] - places[:, :2]).prod(1).sqrt()
            least = torch.where(sides < SMALL, LEAST_ODDS_SMALL, LEAST_ODDS)
            best = (own - least).topk(min(BOXES, len(own)))
            kept = best.indices[best.values > 0]
            out.append((best.values[: len(kept)], places[kept]))
        return out


def paint_boxes(evidence: Tensor, boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(rows, columns) >= 0: at each token the evidence of the surest box over it, fading to the box's edges."""
    sides = boxes.new_tensor(grid)
    half = ((boxes[:, 2:] - boxes[:, :2]) / 2).maximum(0.75 / sides)  # so that some token lies inside
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    rows, columns = (((torch.arange(n) + 0.5) / n - centre[:, axis, None]) / half[:, axis, None] for axis, n in enumerate(grid))
    cover = 1 - rows.abs().pow(ROUNDNESS)[:, :, None] - columns.abs().pow(ROUNDNESS)[:, None]
    return torch.cat([evidence[:, None, None] * cover, torch.zeros(1, *grid)]).amax(0)


def _resize_square(frame: VideoFrame, side: int, device: torch.device) -> Tensor:
    pixels = torch.from_numpy(np.require(frame.rgb, requirements=["C", "W"])).to(device).permute(2, 0, 1)[None]
    return F.interpolate(pixels, (side, side), mode="bilinear", align_corners=False, antialias=True)


class CombinedImageEncoder:
    """An encoder whose tokens have one number more: the evidence of a person.

    encoder: knows objects. person: finds people, on the thread ``side`` where there is one. words: those that mean a person, one
    or several.
    """

    def __init__(
        self,
        encoder: EfficientNetEncoder,
        person: PersonEvidence,
        words: Sequence[str] = ("person",),
        side: SideThread | None = None,
    ):
        self.encoder, self.person, self.side = encoder, person, side
        self.words = tuple(words)
        self.name = f"{encoder.name}+person"

    @property
    def image_size(self) -> int:
        """px, of the encoder."""
        return self.encoder.image_size

    @property
    def engine(self) -> str:
        """What runs the encoder's network."""
        return self.encoder.engine

    @property
    def precision(self) -> str:
        """Of that network's numbers."""
        return self.encoder.precision

    def encode(self, frame: VideoFrame) -> ImageFeatures:
        """Tokens (N, C + 1), not negative; the pyramid is the encoder's."""
        return self.encode_batch([frame])[0]

    def encode_batch(self, frames: Sequence[VideoFrame]) -> list[ImageFeatures]:
        """Several images; the same as one by one up to rounding."""
        out = []
        people = self.side.submit(lambda: self.person.boxes(frames)) if self.side else None
        features_of_each = self.encoder.encode_batch(frames)
        for features, found in zip(features_of_each, people.result() if people else self.person.boxes(frames)):
            tokens = features.tokens
            evidence = GAIN * paint_boxes(*found, tokens.grid).flatten()[:, None].to(tokens.values)
            out.append(replace(features, tokens=replace(tokens, values=torch.cat([tokens.values, evidence], 1))))
        return out

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """(M, C + 1): the encoder's vectors and a zero; for a person zeros and what makes evidence a logit.

        ConfigError names words that neither knows.
        """
        known = iter(_with_zero_column(self.encoder.encode_text(self._encoder_words(words))))
        return torch.stack([self._person_vector() if word in self.words else next(known) for word in words])

    def encode_kinds(self, words: Sequence[str]) -> Kinds:
        """The kinds of the encoder's words; a person is one kind."""
        seen = [index for index, word in enumerate(words) if word not in self.words]
        kinds = self.encoder.encode_kinds(self._encoder_words(words))
        people = [index for index, word in enumerate(words) if word in self.words]
        vectors = [_with_zero_column(kinds.vectors), *(self._person_vector()[None] for _ in people)]
        owners = torch.cat([torch.tensor(seen, dtype=torch.long)[kinds.words], torch.tensor(people, dtype=torch.long)])
        return Kinds(torch.cat(vectors), owners)

    def encode_others(self, words: Sequence[str]) -> Tensor:
        """(L, C + 1): the encoder's classes that no word covers, without clothing where a person is a word."""
        seen = self._encoder_words(words)
        return _with_zero_column(self.encoder.encode_others(seen, CLOTHING if len(seen) < len(words) else ()))

    def _encoder_words(self, words: Sequence[str]) -> list[str]:
        return [word for word in words if word not in self.words]

    def _person_vector(self) -> Tensor:
        width = self.encoder.encode_others(()).shape[1]
        return F.pad(torch.full((1,), LOGIT / GAIN), (width, 0))


def _with_zero_column(rows: Tensor) -> Tensor:
    """(n, C) -> (n, C + 1), zero for the evidence of a person."""
    return F.pad(rows, (0, 1))
