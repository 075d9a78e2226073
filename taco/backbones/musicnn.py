"""musicnn (MagnaTagATune) as a sound model: log-mel front end and network in plain torch.

Written after the published architecture (Pons and Serra, "musicnn: pre-trained convolutional neural networks for music audio
tagging"), from which the constants come; its weights are read without TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taco.audio import mel_bank
from taco.backbones.tensorflow_files import read_bundle
from taco.errors import WeightsError

SAMPLE_RATE = 16000  # Hz
FFT_SIZE, HOP, MELS = 512, 256, 96
FEATURES = 200
TAGS = """
guitar|classical|slow|techno|strings|drums|electronic|rock|fast|piano|ambient|beat|violin|vocal|synth|female|indian|
opera|male|singing|vocals|no vocals|harpsichord|loud|quiet|flute|woman|male vocal|no vocal|pop|soft|sitar|solo|man|
classic|choir|voice|new age|dance|male voice|female vocal|beats|harp|cello|no voice|weird|country|metal|female voice|choral
""".replace("\n", "").split("|")


class MusiCNN(nn.Module):
    """16 kHz sound -> features. ``dense`` gives the 200 features before their normalisation, all >= 0."""

    mel: Tensor
    hann: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.bn_in = nn.BatchNorm2d(1, eps=1e-3)
        self.timbral = nn.ModuleList(nn.Conv2d(1, 204, (7, bands)) for bands in (38, 67))
        self.temporal = nn.ModuleList(nn.Conv2d(1, 51, (length, 1)) for length in (128, 64, 32))
        self.front_bn = nn.ModuleList(nn.BatchNorm2d(n, eps=1e-3) for n in (204, 204, 51, 51, 51))
        self.middle = nn.ModuleList(nn.Conv1d(n, 64, 7, padding=3) for n in (561, 64, 64))
        self.middle_bn = nn.ModuleList(nn.BatchNorm1d(64, eps=1e-3) for _ in range(3))
        self.pool_bn = nn.BatchNorm1d(1506, eps=1e-3)
        self.dense = nn.Linear(1506, FEATURES)
        self.dense_bn = nn.BatchNorm1d(FEATURES, eps=1e-3)
        self.tags = nn.Linear(FEATURES, len(TAGS))
        self.register_buffer("mel", torch.from_numpy(mel_bank(SAMPLE_RATE, FFT_SIZE, MELS)), persistent=False)
        self.register_buffer("hann", torch.hann_window(FFT_SIZE), persistent=False)

    @classmethod
    def from_bundle(cls, index: Path, data: Path) -> MusiCNN:
        """The trained network; WeightsError where the checkpoint is of another model."""
        network = cls()
        try:
            missing, unexpected = network.load_state_dict(_state(read_bundle(index, data)), strict=False)
            if unexpected or any(not name.endswith("num_batches_tracked") for name in missing):
                raise KeyError(f"{[*missing, *unexpected][0]} does not fit")
        except (KeyError, RuntimeError) as error:
            raise WeightsError(
                f"{index}: wanted musicnn's MTT weights, got another model ({str(error).splitlines()[0]})"
            ) from None
        return network.eval().requires_grad_(False)

    def log_mel(self, samples: Tensor) -> Tensor:
        """(B, n) samples in [-1, 1] at 16 kHz -> (B, n // 256 + 1, 96)."""
        spectrum = torch.stft(samples, FFT_SIZE, HOP, window=self.hann, center=True, pad_mode="reflect", return_complex=True)
        return torch.log10(1 + 10000 * (self.mel @ spectrum.abs().square())).transpose(1, 2)

    def frames(self, log_mel: Tensor) -> Tensor:
        """(B, T, 96) -> (B, 753, T): the features of each frame, before pooling over time."""
        x = self.bn_in(log_mel[:, None])
        padded, parts = F.pad(x, (0, 0, 3, 3)), []
        for conv, norm in zip(self.timbral, self.front_bn[:2]):
            parts.append(norm(F.relu(conv(padded))).amax(3))
        for conv, norm in zip(self.temporal, self.front_bn[2:]):
            assert isinstance(conv, nn.Conv2d)
            length = conv.kernel_size[0]
            y = F.pad(x, (0, 0, (length - 1) // 2, length // 2))
            parts.append(norm(F.relu(conv(y))).amax(3))
        first = torch.cat(parts, 1)
        parts, y = [first], first
        for number, (conv, norm) in enumerate(zip(self.middle, self.middle_bn)):
            z = norm(F.relu(conv(y)))
            y = z if number == 0 else y + z
            parts.append(y)
        return torch.cat(parts, 1)

    def pooled(self, frames: Tensor) -> Tensor:
        """(B, 753, T) -> (B, 200) features >= 0 of that stretch of time."""
        both = torch.stack([frames.amax(2), frames.mean(2)], 2).flatten(1)
        return F.relu(self.dense(self.pool_bn(both)))

    def tag_layer(self) -> tuple[Tensor, Tensor]:
        """(50, 200) weights and (50,) bias that turn ``pooled`` features into tag logits."""
        norm = self.dense_bn
        assert norm.running_mean is not None and norm.running_var is not None
        gain = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * gain
        return self.tags.weight * gain, self.tags.bias + self.tags.weight @ shift


def _state(bundle: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
    """The checkpoint's tensors under this module's names, laid out for torch."""

    def numbered(kind: str, number: int) -> str:
        return f"{kind}_{number}" if number else kind

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(bundle[name].copy())

    state = {}
    norms = ["bn_in", *(f"front_bn.{n}" for n in range(5)), *(f"middle_bn.{n}" for n in range(3)), "pool_bn", "dense_bn"]
    parts = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
    for number, ours in enumerate(norms):
        for part, theirs in parts.items():
            state[f"{ours}.{part}"] = tensor(f"{numbered('batch_normalization', number)}/{theirs}")
    convs = ["timbral.0", "timbral.1", "temporal.0", "temporal.1", "temporal.2", "middle.0", "middle.1", "middle.2"]
    for number, ours in enumerate(convs):
        kernel = tensor(f"{numbered('conv2d', number)}/kernel")  # height, width, in, out
        state[f"{ours}.weight"] = kernel[:, :, 0].permute(2, 1, 0) if ours.startswith("middle") else kernel.permute(3, 2, 0, 1)
        state[f"{ours}.bias"] = tensor(f"{numbered('conv2d', number)}/bias")
    for number, ours in enumerate(("dense", "tags")):
        state[f"{ours}.weight"] = tensor(f"{numbered('dense', number)}/kernel").T.contiguous()
        state[f"{ours}.bias"] = tensor(f"{numbered('dense', number)}/bias")
    return state
