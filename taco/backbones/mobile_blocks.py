"""What the mobile image networks are made of: TensorFlow's SAME padding and inverted residual blocks."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-3  # of every batch normalisation, as in the published networks


class Same(nn.Conv2d):
    """A convolution, bias-free until folded, padded as TensorFlow's SAME: the odd pixel goes to the right and bottom.

    ``padded_for``: if set, pad as for maps of that side, whatever theirs is, so that places stay where they were in training.
    """

    padded_for: int | None = None

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False):
        super().__init__(inputs, outputs, kernel, stride, 0, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        sides = x.shape[-2:] if self.padded_for is None else (self.padded_for, self.padded_for)
        total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in sides]
        total = [max(pixels, kernel - size) for pixels, size in zip(total, x.shape[-2:])]  # never smaller than the kernel
        if total[0] == total[1] and total[0] % 2 == 0:  # symmetric: the convolution pads by itself, without a copy
            return F.conv2d(x, self.weight, self.bias, self.stride, total[0] // 2, 1, self.groups)
        x = F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


def relu6(x: Tensor) -> Tensor:
    """``x`` cut at [0, 6] in place: on a CPU a new map of this size costs more than the arithmetic. Inference only."""
    return F.hardtanh_(x, 0.0, 6.0)


def norm(channels: int) -> nn.BatchNorm2d:
    """A batch normalisation with these networks' epsilon."""
    return nn.BatchNorm2d(channels, eps=NORM_EPS)


class Block(nn.Module):
    """Inverted residual: widen by ``expansion``, filter each channel, narrow to ``outputs``; ReLU6 between."""

    def __init__(self, inputs: int, kernel: int, stride: int, expansion: int, outputs: int):
        super().__init__()
        middle = inputs * expansion
        self.expands, self.keeps = expansion != 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = Same(inputs, middle, 1), norm(middle)
        self._depthwise_conv, self._bn1 = Same(middle, middle, kernel, stride, middle), norm(middle)
        self._project_conv, self._bn2 = Same(middle, outputs, 1), norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.widen(x))
        return y.add_(x) if self.keeps else y

    def widen(self, x: Tensor) -> Tensor:
        """The block's first half, in [0, 6]."""
        return relu6(self._bn0(self._expand_conv(x))) if self.expands else x

    def narrow(self, x: Tensor) -> Tensor:
        """The rest of the block, from its widened input and without the shortcut."""
        return self._bn2(self._project_conv(relu6(self._bn1(self._depthwise_conv(x)))))


@torch.no_grad()
def fold(network: nn.Module, pairs: dict[str, str]) -> nn.Module:
    """A copy that gives the same, sooner: every normalisation is folded into the convolution before it.

    pairs: name of a normalisation -> name of its convolution, in the same module, for modules that are no ``Block``.
    """
    network = copy.deepcopy(network).eval()
    own = {"_bn0": "_expand_conv", "_bn1": "_depthwise_conv", "_bn2": "_project_conv"}
    for module in list(network.modules()):
        for norm_name, conv_name in (own if isinstance(module, Block) else pairs).items():
            if not isinstance(getattr(module, norm_name, None), nn.BatchNorm2d) or not hasattr(module, conv_name):
                continue
            conv, batch_norm = getattr(module, conv_name), getattr(module, norm_name)
            gain = batch_norm.weight * (batch_norm.running_var + batch_norm.eps).rsqrt()
            conv.weight.mul_(gain[:, None, None, None])
            conv.bias = nn.Parameter(batch_norm.bias - batch_norm.running_mean * gain)
            setattr(module, norm_name, nn.Identity())
    return network
