"""EfficientNet-Lite0 as an image encoder: ImageNet features whose class weights are the word vectors.

The network is written out here in plain torch; only the weights file of the package is used. Its
last features are cut at [0, 6], so the tokens are non-negative as soft non-negative factorization
wants them (paper section 3.3).
"""

from __future__ import annotations

import copy
import difflib
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taco.errors import ConfigError, WeightsError
from taco.types import ImageFeatures, Tokens, VideoFrame

# (kernel, stride, expansion, channels out) of the 16 blocks; Lite: no squeeze-and-excitation, ReLU6, fixed stem and head.
BLOCKS = (
    [(3, 1, 1, 16)]
    + [(3, 2, 6, 24), (3, 1, 6, 24)]
    + [(5, 2, 6, 40), (5, 1, 6, 40)]
    + [(3, 2, 6, 80), (3, 1, 6, 80), (3, 1, 6, 80)]
    + [(5, 1, 6, 112)] * 3
    + [(5, 2, 6, 192)]
    + [(5, 1, 6, 192)] * 3
    + [(3, 1, 6, 320)]
)
FINE_BLOCKS = 5  # so many blocks work at strides 2 to 8
FEATURES = 1280


class _Same(nn.Conv2d):
    """A convolution, bias-free until folded, padded as TensorFlow's SAME: the odd pixel goes to the right and bottom."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1):
        super().__init__(inputs, outputs, kernel, stride, 0, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        total = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x.shape[-2:]]
        if total[0] == total[1] and total[0] % 2 == 0:  # symmetric: the convolution pads by itself, without a copy
            return F.conv2d(x, self.weight, self.bias, self.stride, total[0] // 2, 1, self.groups)
        x = F.pad(x, (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2))
        return F.conv2d(x, self.weight, self.bias, self.stride, 0, 1, self.groups)


class _Block(nn.Module):
    def __init__(self, inputs: int, kernel: int, stride: int, expansion: int, outputs: int):
        super().__init__()
        middle = inputs * expansion
        self.expands, self.keeps = expansion != 1, stride == 1 and inputs == outputs
        if self.expands:
            self._expand_conv, self._bn0 = _Same(inputs, middle, 1), nn.BatchNorm2d(middle, eps=1e-3)
        self._depthwise_conv, self._bn1 = _Same(middle, middle, kernel, stride, middle), nn.BatchNorm2d(middle, eps=1e-3)
        self._project_conv, self._bn2 = _Same(middle, outputs, 1), nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.keeps else y


class EfficientNetLite0(nn.Module):
    """(B, 3, H, W) in about [-1, 1] -> (B, 1280, H/32, W/32) in [0, 6]. Module names follow the weights file."""

    def __init__(self):
        super().__init__()
        self._conv_stem, self._bn0 = _Same(3, 32, 3, 2), nn.BatchNorm2d(32, eps=1e-3)
        inputs = [32] + [outputs for *_, outputs in BLOCKS]
        self._blocks = nn.ModuleList(_Block(n, *block) for n, block in zip(inputs, BLOCKS))
        self._conv_head, self._bn1 = _Same(320, FEATURES, 1), nn.BatchNorm2d(FEATURES, eps=1e-3)
        self._fc = nn.Linear(FEATURES, 1000)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The stages "res2" (stride 4), "res3" (8), "res4" (16) and the head "res5" (32)."""
        # A CPU's cache holds the wide fine maps of one image, not of several: all at once they take 1.4 to 1.8 times as long.
        fine = [self._fine(image) for image in (x.split(1) if len(x) > 1 and x.device.type == "cpu" else (x,))]
        stages = {name: torch.cat([maps[name] for maps in fine]) for name in fine[0]} if len(fine) > 1 else fine[0]
        x = stages["res3"]
        for index, block in enumerate(self._blocks[FINE_BLOCKS:], FINE_BLOCKS):
            x = block(x)
            if index == 10:
                stages["res4"] = x
        stages["res5"] = F.relu6(self._bn1(self._conv_head(x)))
        return stages

    def _fine(self, x: Tensor) -> dict[str, Tensor]:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        stages = {}
        for index, block in enumerate(self._blocks[:FINE_BLOCKS]):
            x = block(x)
            if index == 2:
                stages["res2"] = x
        return stages | {"res3": x}


@torch.no_grad()
def folded(network: EfficientNetLite0) -> EfficientNetLite0:
    """A copy that gives the same, sooner: every normalisation is folded into the convolution before it."""
    network = copy.deepcopy(network).eval()
    pairs = {"_bn1": "_depthwise_conv", "_bn2": "_project_conv", "_bn0": "_expand_conv"}
    for module, names in [(block, pairs) for block in network._blocks] + [
        (network, {"_bn0": "_conv_stem", "_bn1": "_conv_head"})
    ]:
        for norm_name, conv_name in names.items():
            if not hasattr(module, conv_name):
                continue
            conv, norm = getattr(module, conv_name), getattr(module, norm_name)
            gain = norm.weight * (norm.running_var + norm.eps).rsqrt()
            conv.weight.mul_(gain[:, None, None, None])
            conv.bias = nn.Parameter(norm.bias - norm.running_mean * gain)
            setattr(module, norm_name, nn.Identity())
    return network


class EfficientNetEncoder:
    """Image encoder over EfficientNet-Lite0. ``words`` maps each word to its ImageNet class numbers.

    The image is resized (its aspect ratio kept within half a token) so that it has about
    image_size * image_size pixels; tokens are the head's features, one every 32 of those pixels.
    """

    name = "efficientnet-lite0"

    def __init__(self, network: EfficientNetLite0, words: Mapping[str, Sequence[int]], image_size: int = 448):
        self.network = folded(network).requires_grad_(False).to(memory_format=torch.channels_last)
        self.image_size = image_size
        self._words = {word: tuple(classes) for word, classes in words.items()}
        rows = network._fc.weight.detach().cpu()
        self._classes = rows - rows.mean(0)  # less their mean: what sets a class apart from things in general

    @classmethod
    def from_file(cls, path: Path, words: Mapping[str, Sequence[int]], image_size: int = 448, device="cpu"):
        """From the package's .pth file; WeightsError where it is missing, damaged or of another network."""
        network = EfficientNetLite0()
        try:
            network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        except (OSError, RuntimeError, EOFError, AttributeError, TypeError, pickle.UnpicklingError) as error:
            reason = str(error).strip().splitlines()[0]
            raise WeightsError(
                f"{path}: wanted EfficientNet-Lite0 weights, got {reason}; run `taco weights fetch embedded`"
            ) from None
        return cls(network.to(device), words, image_size)

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
                pixels = torch.cat([self._pixels(frames[index], size) for index in chosen])
                pixels = ((pixels.float() - 127.0) / 128.0).contiguous(memory_format=torch.channels_last)
                stages = self.network(pixels)
            top = stages["res5"].cpu()  # what follows is small, and meets the sound's tokens on the CPU
            for row, index in enumerate(chosen):
                tokens = Tokens(top[row].flatten(1).T.contiguous(), tuple(top.shape[-2:]))
                own = {name: values[row : row + 1] for name, values in stages.items()}
                out[index] = ImageFeatures(tokens, own, size, size)
        return [out[index] for index in range(len(frames))]

    def _input_size(self, frame: VideoFrame) -> tuple[int, int]:
        scale = self.image_size / (frame.size[0] * frame.size[1]) ** 0.5
        return tuple(max(1, round(side * scale / 32)) * 32 for side in frame.size)

    def _pixels(self, frame: VideoFrame, size: tuple[int, int]) -> Tensor:
        """(1, 3, h, w) uint8 on the network's device; resized as bytes, which is 3 x faster."""
        pixels = torch.from_numpy(np.ascontiguousarray(frame.rgb)).to(self.network._fc.weight.device).permute(2, 0, 1)[None]
        return F.interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """(M, 1280): for each word the mean of its classes' weights, less the mean of all classes."""
        unknown = [word for word in words if word not in self._words]
        if unknown:
            raise unknown_words(unknown, self._words, self.name)
        return torch.stack([self._classes[list(self._words[word])].mean(0) for word in words])

    def encode_others(self, words: Sequence[str]) -> Tensor:
        """(L, 1280): vectors of the ImageNet classes that none of the words covers."""
        covered = {number for word in words for number in self._words.get(word, ())}
        return self._classes[[number for number in range(len(self._classes)) if number not in covered]]


def unknown_words(unknown: Sequence[str], known: Sequence[str], model: str) -> ConfigError:
    """The error for words that a closed vocabulary lacks."""
    near = difflib.get_close_matches(unknown[0], list(known), 1)
    hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(list(known)[:12])}, ..."
    return ConfigError(f"models.word_bank: {model} does not know {', '.join(map(repr, unknown[:5]))}; {hint}")
