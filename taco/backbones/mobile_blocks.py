"""Building blocks of the mobile image networks: SAME padding, inverted residuals."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)

NORM_EPS = 1e-3  # of every batch normalisation, as in the published networks


class SameConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: the odd pixel goes to the right and bottom. Without a bias until folded.

    padded_for: px; if set, maps of any size are padded as maps of that side, so that places stay where they were in training.
    """

    padded_for: int | None = None

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, bias: bool = False):
        super().__init__(inputs, outputs, kernel, stride, 0, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        height, width = (int(side) for side in x.shape[-2:])  # plain numbers, so that an export keeps no arithmetic on sizes
        sides = (height, width) if self.padded_for is None else (self.padded_for, self.padded_for)
        total = [max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in sides]
        total = [max(pixels, kernel - size) for pixels, size in zip(total, (height, width))]  # never smaller than the kernel
        if total[0] == total[1] and total[0] % 2 == 0:  # symmetric: the convolution pads by itself, without a copy
            return F.conv2d(x, self.weight, self.bias, self.stride, total[0] // 2, 1, self.groups)
        x = F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


def relu6(x: Tensor) -> Tensor:
    """``x`` cut at [0, 6] in place: on a CPU a new map of this size costs more than the arithmetic. Inference only."""
    return F.hardtanh_(x, 0.0, 6.0)


def make_batch_norm(channels: int) -> nn.BatchNorm2d:
    """A batch normalisation with these networks' epsilon."""
    return nn.BatchNorm2d(channels, eps=NORM_EPS)


class OnBytes(nn.Module):
    """A network for images in about [-1, 1], as one for their bytes: normalised to (byte - middle) / deviation.

    So an engine gets a quarter of the data, and torch has no work beside it.
    """

    def __init__(self, network: nn.Module, middle: float, deviation: float):
        super().__init__()
        self.network, self.middle, self.deviation = network, middle, deviation

    def extra_repr(self) -> str:
        return f"middle={self.middle}, deviation={self.deviation}"

    def forward(self, pixels: Tensor) -> Any:
        """(B, 3, H, W) uint8 -> what the network gives."""
        return self.network(((pixels.float() - self.middle) * (1 / self.deviation)).contiguous(memory_format=torch.channels_last))


class InvertedResidual(nn.Module):
    """Inverted residual: widen by ``expansion``, filter each channel, narrow to ``outputs``; ReLU6 between."""

    def __init__(self, inputs: int, kernel: int, stride: int, expansion: int, outputs: int):
        super().__init__()
        middle = inputs * expansion
        self.expands, self.has_shortcut = expansion != 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = SameConv2d(inputs, middle, 1), make_batch_norm(middle)
        self._depthwise_conv, self._bn1 = SameConv2d(middle, middle, kernel, stride, middle), make_batch_norm(middle)
        self._project_conv, self._bn2 = SameConv2d(middle, outputs, 1), make_batch_norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(self.widen(x))
        return y.add_(x) if self.has_shortcut else y

    def widen(self, x: Tensor) -> Tensor:
        """The block's first half, in [0, 6]."""
        return relu6(self._bn0(self._expand_conv(x))) if self.expands else x

    def narrow(self, x: Tensor) -> Tensor:
        """The rest of the block, from its widened input and without the shortcut."""
        out: Tensor = self._bn2(self._project_conv(relu6(self._bn1(self._depthwise_conv(x)))))
        return out


@torch.no_grad()
def fold_batch_norms(network: M, pairs: dict[str, str]) -> M:
    """The network itself, which now gives the same sooner: every normalisation is folded into the convolution before it.

    pairs: name of a normalisation -> name of its convolution, in the same module, for modules that are no ``Block``.
    """
    network.eval()
    own = {"_bn0": "_expand_conv", "_bn1": "_depthwise_conv", "_bn2": "_project_conv"}
    for module in list(network.modules()):
        for norm_name, conv_name in (own if isinstance(module, InvertedResidual) else pairs).items():
            if not isinstance(getattr(module, norm_name, None), nn.BatchNorm2d) or not hasattr(module, conv_name):
                continue
            conv, batch_norm = getattr(module, conv_name), getattr(module, norm_name)
            gain = batch_norm.weight * (batch_norm.running_var + batch_norm.eps).rsqrt()
            conv.weight.mul_(gain[:, None, None, None])
            conv.bias = nn.Parameter(batch_norm.bias - batch_norm.running_mean * gain)
            setattr(module, norm_name, nn.Identity())
    network.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return network
