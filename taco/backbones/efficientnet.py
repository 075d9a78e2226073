"""EfficientNet-Lite0 and -Lite2 as image encoders; class weights are the word vectors.

The network is written in plain torch and uses the weights file of the package alone. Its last features lie in [0, 6], so the
tokens are non-negative, as soft non-negative factorization needs them (paper section 3.3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taco.backbones.base import unknown_words_error
from taco.backbones.engine_export import IN_TORCH, Runtime
from taco.backbones.mobile_blocks import InvertedResidual, OnBytes, SameConv2d, fold_batch_norms, make_batch_norm, relu6
from taco.backbones.onnx_export import Example
from taco.errors import WeightsError
from taco.types import ImageFeatures, Kinds, Tokens, VideoFrame

# (kernel, stride, expansion, channels out, how often) of Lite0's seven stages. Lite: no squeeze-and-excitation, ReLU6,
# stem and head of the same width in all variants, first and last stage never repeated more often.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
VARIANTS = {"efficientnet-lite0": (1.0, 1.0), "efficientnet-lite2": (1.1, 1.2)}  # name -> width and depth against Lite0
STEM, FEATURES, CLASSES = 32, 1280, 1000
OUTPUTS = ("res2", "res3", "res4", "res5")


def _stages(variant: str) -> list[list[tuple[int, int, int, int]]]:
    """For each stage the (kernel, stride, expansion, channels out) of its blocks."""
    width, depth = VARIANTS[variant]
    out = []
    for index, (kernel, stride, expansion, channels, repeats) in enumerate(STAGES):
        channels = _round_to_eight(channels * width)
        repeats = repeats if index in (0, len(STAGES) - 1) else math.ceil(repeats * depth)
        out.append([(kernel, stride, expansion, channels)] + [(kernel, 1, expansion, channels)] * (repeats - 1))
    return out


def _round_to_eight(channels: float) -> int:
    """The nearest multiple of 8 that is at most a tenth below; as in the published networks."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


class EfficientNetLite(nn.Module):
    """(B, 3, H, W) in about [-1, 1] -> (B, 1280, H/32, W/32) in [0, 6]. Module names follow the weights file."""

    def __init__(self, variant: str):
        super().__init__()
        self.variant = variant
        stages = _stages(variant)
        blocks = [block for stage in stages for block in stage]
        ends = [sum(map(len, stages[: index + 1])) for index in range(len(stages))]
        self._ends = {ends[1]: "res2", ends[2]: "res3", ends[4]: "res4"}  # number of blocks done -> name of the stage
        self._n_fine = ends[2]  # number of blocks at strides 2 to 8
        self._conv_stem, self._bn0 = SameConv2d(3, STEM, 3, 2), make_batch_norm(STEM)
        inputs = [STEM] + [outputs for *_, outputs in blocks]
        self._blocks = nn.ModuleList(InvertedResidual(n, *block) for n, block in zip(inputs, blocks))
        self._conv_head, self._bn1 = SameConv2d(inputs[-1], FEATURES, 1), make_batch_norm(FEATURES)
        self._fc = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The stages "res2" (stride 4), "res3" (8), "res4" (16) and the head "res5" (32)."""
        # A CPU's cache holds the wide fine maps of one image, not of several: a batch takes 1.4 to 1.8 times as long.
        fine = [self._fine(image) for image in (x.chunk(len(x)) if len(x) > 1 and x.device.type == "cpu" else (x,))]
        stages = {name: torch.cat([maps[name] for maps in fine]) for name in fine[0]} if len(fine) > 1 else fine[0]
        x = self._run(stages["res3"], self._n_fine, len(self._blocks), stages)
        stages["res5"] = relu6(self._bn1(self._conv_head(x)))
        return stages

    def _fine(self, x: Tensor) -> dict[str, Tensor]:
        stages: dict[str, Tensor] = {}
        self._run(relu6(self._bn0(self._conv_stem(x))), 0, self._n_fine, stages)
        return stages

    def _run(self, x: Tensor, first: int, end: int, stages: dict[str, Tensor]) -> Tensor:
        """Blocks first to end - 1; the named stages on the way go into ``stages``."""
        for done, block in enumerate(self._blocks[first:end], first + 1):
            x = block(x)
            if done in self._ends:
                stages[self._ends[done]] = x
        return x


class EfficientNetLite0(EfficientNetLite):
    """The smallest variant."""

    def __init__(self) -> None:
        super().__init__("efficientnet-lite0")


def fold_network(network: EfficientNetLite) -> EfficientNetLite:
    """The network itself, made ready for inference: see ``fold_batch_norms``."""
    return fold_batch_norms(network, {"_bn0": "_conv_stem", "_bn1": "_conv_head"})


class EfficientNetEncoder:
    """Image encoder over EfficientNet-Lite.

    words: each word's ImageNet class numbers.
    image_size: px; the image is resized, its aspect ratio kept within half a token, to about image_size * image_size pixels.
    Tokens are the head's features, one every 32 of those pixels.
    runtime: what runs the network; ``run`` is the network in it, on ``device``.
    """

    name = "efficientnet-lite0"  # the variant's own name in an encoder

    def __init__(
        self,
        network: EfficientNetLite,
        words: Mapping[str, Sequence[int]],
        image_size: int = 448,
        runtime: Runtime = IN_TORCH,
    ):
        self.device = network._fc.weight.device
        network = fold_network(network)
        # Every side is a multiple of 32 (``_input_size``), so that the same padding is right at all sizes.
        example = Example((torch.zeros(1, 3, 320, 416, dtype=torch.uint8, device=self.device),), ((0, 2, 3),), ("image",))
        self.run = runtime.network(OnBytes(network, 127.0, 128.0), network.variant, OUTPUTS, example)
        self.name, self.image_size = network.variant, image_size
        self._words = {word: tuple(classes) for word, classes in words.items()}
        rows = network._fc.weight.detach().cpu()
        self._classes = rows - rows.mean(0)  # less their mean: what sets a class apart from objects in general

    @classmethod
    def from_file(
        cls,
        path: Path,
        words: Mapping[str, Sequence[int]],
        image_size: int = 448,
        device: str | torch.device = "cpu",
        name: str = name,
        runtime: Runtime = IN_TORCH,
    ) -> EfficientNetEncoder:
        """From the package's .pth file of this variant; WeightsError where it is missing, damaged or of another network."""
        network = EfficientNetLite(name)
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except Exception as error:  # of damaged bytes the unpickler makes what it likes
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise WeightsError(
                f"{path}: wanted EfficientNet-Lite{name[-1]} weights, got {reason}; run `taco weights fetch embedded`"
            ) from None
        return cls(network.to(device), words, image_size, runtime)

    @property
    def engine(self) -> str:
        """What runs the network."""
        return self.run.engine

    @property
    def precision(self) -> str:
        """Of its numbers."""
        return self.run.precision

    def encode(self, frame: VideoFrame) -> ImageFeatures:
        """Tokens (h/32 * w/32, 1280) in [0, 6]; pyramid "res2" (stride 4) to "res5" (stride 32)."""
        return self.encode_batch([frame])[0]

    def encode_batch(self, frames: Sequence[VideoFrame]) -> list[ImageFeatures]:
        """Several images, those of one shape in one pass; the same as one by one up to rounding."""
        sizes = [self._input_size(frame) for frame in frames]
        out: dict[int, ImageFeatures] = {}
        for size in dict.fromkeys(sizes):
            chosen = [index for index, own in enumerate(sizes) if own == size]
            with torch.inference_mode():
                stages = self.run(torch.cat([self._pixels(frames[index], size) for index in chosen]))
            top = stages["res5"].cpu()  # what follows is small, and meets the sound's tokens on the CPU
            for row, index in enumerate(chosen):
                tokens = Tokens(top[row].flatten(1).T.contiguous(), (top.shape[-2], top.shape[-1]))
                own = {name: values[row : row + 1] for name, values in stages.items()}
                out[index] = ImageFeatures(tokens, own, size, size)
        return [out[index] for index in range(len(frames))]

    def _input_size(self, frame: VideoFrame) -> tuple[int, int]:
        scale = self.image_size / (frame.size[0] * frame.size[1]) ** 0.5
        height, width = (max(1, round(side * scale / 32)) * 32 for side in frame.size)
        return height, width

    def _pixels(self, frame: VideoFrame, size: tuple[int, int]) -> Tensor:
        """(1, 3, h, w) uint8 on the network's device; resized as bytes, which is three times as fast."""
        pixels = torch.from_numpy(np.require(frame.rgb, requirements=["C", "W"])).to(self.device).permute(2, 0, 1)[None]
        return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """(M, 1280): for each word the mean of its classes' weights, less the mean of all classes."""
        rows = [self._classes[numbers].mean(0) for numbers in self._numbers(words)]
        return torch.stack(rows) if rows else self._classes[:0]

    def encode_kinds(self, words: Sequence[str]) -> Kinds:
        """The classes of each word, by themselves."""
        numbers = self._numbers(words)
        counts = torch.tensor([len(own) for own in numbers], dtype=torch.long)
        rows = self._classes[[number for own in numbers for number in own]]
        return Kinds(rows, torch.arange(len(words)).repeat_interleave(counts))

    def encode_others(self, words: Sequence[str], left_out: Sequence[int] = ()) -> Tensor:
        """(L, 1280): vectors of the ImageNet classes that none of the words covers, without those of ``left_out``."""
        covered = {number for word in words for number in self._words.get(word, ())} | set(left_out)
        return self._classes[[number for number in range(len(self._classes)) if number not in covered]]

    def _numbers(self, words: Sequence[str]) -> list[list[int]]:
        unknown = [word for word in words if word not in self._words]
        if unknown:
            raise unknown_words_error(unknown, self._words, self.name)
        return [list(self._words[word]) for word in words]
