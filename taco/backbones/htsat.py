"""HTS-AT, CLAP's sound transformer: front end and checkpoint names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from taco.errors import ValueRangeError

_DROPPED = re.compile(r"attn_mask$|^(tscam_conv|head|spectrogram_extractor|logmel_extractor)\.")
_RENAMED = (
    (r"^bn0\.", "batch_norm."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.relative_position_", ".attention.self.relative_position_"),
)


def clap_audio_state(htsat: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """HTS-AT's tensors under the names of ``ClapAudioModel``; without what only training and classification need."""
    out = {}
    for key, value in htsat.items():
        if _DROPPED.search(key):
            continue
        for pattern, replacement in _RENAMED:
            key = re.sub(pattern, replacement, key)
        key = "audio_encoder." + key
        if ".attn.qkv." in key and value.shape[0] % 3 == 0:
            for part, third in zip(("query", "key", "value"), value.chunk(3)):
                out[key.replace(".attn.qkv.", f".attention.self.{part}.")] = third
        else:
            # Some files keep these integers as floats.
            out[key] = value.long() if key.endswith(("relative_position_index", "num_batches_tracked")) else value
    counter = "audio_encoder.batch_norm.num_batches_tracked"
    out[counter] = out.get(counter, torch.zeros(1, dtype=torch.long)).reshape(())
    return out


class SoundTower(nn.Module):
    """(B, 1, frames, bands) log-mel in dB -> the last map (B, C, frequency, time) of ``transformers``' CLAP sound model."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, mel: Tensor) -> Tensor:
        last: Tensor = self.model(input_features=mel).last_hidden_state
        return last


def fit_length(samples: np.ndarray, count: int) -> np.ndarray:
    """Exactly ``count`` samples: shorter sounds are repeated, of longer ones the newest part is kept."""
    if len(samples) >= count:
        return samples[len(samples) - count :]
    return np.tile(samples, -(-count // len(samples)))[:count]


def times_in_window(window_s: float, tiled_s: float, steps: int) -> Tensor:
    """(steps,) in [0, 1]: the places in a window of ``window_s`` seconds of equal steps over the ``tiled_s`` of ``fit_length``.

    A shorter window is repeated there, so that the place of a step is its phase within the window.
    """
    middles = (torch.arange(steps) + 0.5) / steps
    return middles if window_s >= tiled_s else (middles * (tiled_s / window_s)) % 1.0


def check_samples(samples: np.ndarray) -> None:
    """ValueRangeError where there is no sample, or one that is not finite."""
    if not len(samples):
        raise ValueRangeError("AudioWindow.samples: wanted at least one sample, got none")
    if not np.isfinite(samples).all():
        raise ValueRangeError(
            f"AudioWindow.samples: wanted finite numbers, got {int((~np.isfinite(samples)).sum())} NaN or infinite"
        )


def log_mel(samples: Tensor, mel: Tensor, hop: int) -> Tensor:
    """(B, T) samples -> (B, 1, frames, bands) in dB.

    Power spectrum of a centred, reflected Hann window of 2 (F - 1) samples; mel: (F, bands);
    10 log10 of at least 1e-10, without a floor below the maximum.
    """
    size = 2 * (mel.shape[0] - 1)
    window = torch.hann_window(size, device=samples.device, dtype=samples.dtype)
    spectrum = torch.stft(samples, size, hop, window=window, center=True, pad_mode="reflect", return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return 10.0 * torch.log10((power.transpose(1, 2) @ mel).clamp(min=1e-10))[:, None]


def tokens_of_map(hidden: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """(1, C, frequency, time) last map -> tokens (frequency x time, C) and their grid, before any pooling."""
    return hidden[0].flatten(1).T.float().contiguous(), (hidden.shape[-2], hidden.shape[-1])
