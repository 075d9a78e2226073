"""A person detector (SSDLite over MobileNetV2) in plain torch.

It was trained on images resized to 300 x 300, and runs here on the whole image at any size. Each place of six feature maps
(strides 16 to 512) has a few boxes of fixed shape; for each the network says how likely a person fills it, and how to move it
to fit. The constants are those of the published graph.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from taco.backbones.mobile_blocks import InvertedResidual, SameConv2d, fold_batch_norms, make_batch_norm, relu6
from taco.backbones.tensorflow_files import read_constants
from taco.errors import WeightsError

# (stride, expansion, channels out, how often) of MobileNetV2's stages; kernels are 3 x 3.
STAGES = ((1, 1, 16, 1), (2, 6, 24, 2), (2, 6, 32, 3), (2, 6, 64, 4), (1, 6, 96, 3), (2, 6, 160, 3), (1, 6, 320, 1))
TAPPED = 13  # the block whose widened input, at stride 16, is the finest map with boxes
FEATURES = 1280
EXTRA = ((256, 512), (128, 256), (128, 256), (64, 128))  # the coarser maps: channels between, channels out
TRAINED_SIZE = 300  # px; box sizes are shares of it
SCALES = (0.2, 0.35, 0.5, 0.65, 0.8, 0.95)  # side of the boxes of each map
FINEST = ((0.1, 1.0), (0.2, 2.0), (0.2, 0.5))  # (side, width : height) of the finest map's boxes
ASPECTS = (1.0, 2.0, 0.5, 3.0, 1 / 3)  # of the boxes of the other maps; one more lies between this map's side and the next
CENTRE_STEP, SIZE_STEP = 10.0, 5.0  # the network moves boxes in tenths of their side, and resizes them in fifths of a log


class _Extra(nn.Module):
    """A map at twice the stride: narrow, filter, widen."""

    def __init__(self, inputs: int, middle: int, outputs: int):
        super().__init__()
        self.narrow, self.narrow_norm = SameConv2d(inputs, middle, 1), make_batch_norm(middle)
        self.depthwise, self.depthwise_norm = SameConv2d(middle, middle, 3, 2, middle), make_batch_norm(middle)
        self.widen, self.widen_norm = SameConv2d(middle, outputs, 1), make_batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = relu6(self.narrow_norm(self.narrow(x)))
        x = relu6(self.depthwise_norm(self.depthwise(x)))
        return relu6(self.widen_norm(self.widen(x)))


class _Head(nn.Module):
    """The answers of one map for each of its boxes: a 3 x 3 filter of each channel, then a linear layer."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.depthwise, self.depthwise_norm = SameConv2d(inputs, inputs, 3, 1, inputs), make_batch_norm(inputs)
        self.linear = SameConv2d(inputs, outputs, 1, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(relu6(self.depthwise_norm(self.depthwise(x))))
        return out


class PersonNetwork(nn.Module):
    """(B, 3, H, W) RGB in [-1, 1] -> (B, A) log-odds of a person, (B, A, 4) boxes y0 x0 y1 x1 in input pixels."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv2d(3, 32, 3, 2), make_batch_norm(32)
        blocks = [
            (3, stride if index == 0 else 1, expansion, channels)
            for stride, expansion, channels, repeats in STAGES
            for index in range(repeats)
        ]
        inputs = [32] + [outputs for *_, outputs in blocks]
        self._blocks = nn.ModuleList(InvertedResidual(n, *block) for n, block in zip(inputs, blocks))
        self._conv_head, self._bn1 = SameConv2d(inputs[-1], FEATURES, 1), make_batch_norm(FEATURES)
        widths = [6 * inputs[TAPPED], FEATURES, *(outputs for _, outputs in EXTRA)]
        self.extra = nn.ModuleList(_Extra(n, *shape) for n, shape in zip(widths[1:], EXTRA))
        shapes = [len(self.box_shapes(level)) for level in range(len(widths))]
        self.persons = nn.ModuleList(_Head(n, count) for n, count in zip(widths, shapes))
        self.boxes = nn.ModuleList(_Head(n, 4 * count) for n, count in zip(widths, shapes))
        side = TRAINED_SIZE
        for module in self.modules():
            if isinstance(module, SameConv2d) and module.stride[0] == 2:
                module.padded_for, side = side, -(-side // 2)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self._conv_stem.weight.device

    @staticmethod
    def box_shapes(level: int) -> list[tuple[float, float]]:
        """(height, width) in input pixels of the boxes at each place of a map."""
        if level == 0:
            shapes = list(FINEST)
        else:
            upper = SCALES[level + 1] if level + 1 < len(SCALES) else 1.0
            shapes = [(SCALES[level], aspect) for aspect in ASPECTS] + [(math.sqrt(SCALES[level] * upper), 1.0)]
        return [(TRAINED_SIZE * side / aspect**0.5, TRAINED_SIZE * side * aspect**0.5) for side, aspect in shapes]

    def features(self, x: Tensor) -> list[Tensor]:
        """The six maps, each (B, C, h, w) in [0, 6], finest first."""
        x = relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks[:TAPPED]:
            x = block(x)
        tapped = self._blocks[TAPPED]
        assert isinstance(tapped, InvertedResidual)
        maps = [tapped.widen(x)]
        x = tapped.narrow(maps[0])
        for block in self._blocks[TAPPED + 1 :]:
            x = block(x)
        maps.append(relu6(self._bn1(self._conv_head(x))))
        for extra in self.extra:
            maps.append(extra(maps[-1]))
        return maps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        size = (x.shape[-2], x.shape[-1])
        odds, boxes = [], []
        for level, values in enumerate(self.features(x)):
            odds.append(self.persons[level](values).permute(0, 2, 3, 1).flatten(1))
            moved = self.boxes[level](values).permute(0, 2, 3, 1).unflatten(-1, (-1, 4))  # (B, h, w, boxes, 4)
            boxes.append(self._placed(moved, level, size).flatten(1, 3))
        return torch.cat(odds, 1), torch.cat(boxes, 1)

    def _placed(self, moved: Tensor, level: int, size: tuple[int, int]) -> Tensor:
        """The boxes' own shapes and places, moved as the network says. In training the maps divided the picture evenly."""
        shapes = moved.new_tensor(self.box_shapes(level))  # (boxes, 2)
        centres = [self._centres(count, level, side) for count, side in zip(moved.shape[1:3], size)]
        centre = torch.stack(torch.meshgrid(*centres, indexing="ij"), -1)[:, :, None]  # (h, w, 1, 2)
        centre = centre + moved[..., :2] / CENTRE_STEP * shapes
        half = (moved[..., 2:] / SIZE_STEP).exp() * shapes / 2
        return torch.cat([centre - half, centre + half], -1)

    @staticmethod
    def _centres(count: int, level: int, side: int) -> Tensor:
        """(count,) input pixels. At other sizes than the trained one a place lies as far from the next as the map's stride."""
        stride = 16 << level
        trained = -(-TRAINED_SIZE // stride)
        if side == TRAINED_SIZE:
            return (torch.arange(count) + 0.5) * side / trained
        return TRAINED_SIZE / 2 + (torch.arange(count) - (trained - 1) / 2) * stride

    @classmethod
    def from_file(cls, path: Path) -> PersonNetwork:
        """From ``frozen_inference_graph.pb``, folded; WeightsError where it is missing, damaged or of another network."""
        network = cls()
        try:
            network.load_state_dict(_state(read_constants(path)))
        except (KeyError, IndexError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise WeightsError(
                f"{path}: wanted the person detector's weights, got {reason}; run `taco weights fetch embedded`"
            ) from None
        pairs = {"_bn0": "_conv_stem", "_bn1": "_conv_head", "narrow_norm": "narrow"}
        pairs |= {"depthwise_norm": "depthwise", "widen_norm": "widen"}
        return fold_batch_norms(network, pairs)


def _state(constants: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The graph's constants under this module's names, laid out for torch."""
    state: dict[str, Tensor] = {}
    norms = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}

    def convolution(theirs: str, ours: str, our_norm: str, weights: str = "weights") -> None:
        kernel = torch.from_numpy(constants[f"{theirs}/{weights}"])  # height, width, channels in, channels out
        depthwise = weights != "weights"
        state[f"{ours}.weight"] = kernel.permute(2, 3, 0, 1) if depthwise else kernel.permute(3, 2, 0, 1)
        for their_name, our_name in norms.items():
            state[f"{our_norm}.{our_name}"] = torch.from_numpy(constants[f"{theirs}/BatchNorm/{their_name}"])
        state[f"{our_norm}.num_batches_tracked"] = torch.tensor(0)

    trunk = "FeatureExtractor/MobilenetV2"
    convolution(f"{trunk}/Conv", "_conv_stem", "_bn0")
    convolution(f"{trunk}/Conv_1", "_conv_head", "_bn1")
    for index in range(sum(repeats for *_, repeats in STAGES)):
        theirs, ours = f"{trunk}/expanded_conv" + (f"_{index}" if index else ""), f"_blocks.{index}"
        if index:
            convolution(f"{theirs}/expand", f"{ours}._expand_conv", f"{ours}._bn0")
        convolution(f"{theirs}/depthwise", f"{ours}._depthwise_conv", f"{ours}._bn1", "depthwise_weights")
        convolution(f"{theirs}/project", f"{ours}._project_conv", f"{ours}._bn2")
    for index, (middle, outputs) in enumerate(EXTRA):
        ours, wide = f"extra.{index}", f"{trunk}/layer_19_2_Conv2d_{index + 2}_3x3_s2_{outputs}"
        convolution(f"{trunk}/layer_19_1_Conv2d_{index + 2}_1x1_{middle}", f"{ours}.narrow", f"{ours}.narrow_norm")
        convolution(f"{wide}_depthwise", f"{ours}.depthwise", f"{ours}.depthwise_norm", "depthwise_weights")
        convolution(wide, f"{ours}.widen", f"{ours}.widen_norm")
    for level in range(len(EXTRA) + 2):
        for name, ours in (("ClassPredictor", f"persons.{level}"), ("BoxEncodingPredictor", f"boxes.{level}")):
            theirs = f"BoxPredictor_{level}/{name}"
            convolution(f"{theirs}_depthwise", f"{ours}.depthwise", f"{ours}.depthwise_norm", "depthwise_weights")
            weight, bias = (torch.from_numpy(constants[f"{theirs}/{part}"]) for part in ("weights", "biases"))
            weight = weight.permute(3, 2, 0, 1)
            if name == "ClassPredictor":  # background and person, independent of each other: only the person is wanted
                weight, bias = weight[1::2], bias[1::2]
            state[f"{ours}.linear.weight"], state[f"{ours}.linear.bias"] = weight, bias
    return state
