"""Maps of factors and words, and words standing where factors stand: what the methods of the tables share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taco.types import Anchors, Factorization, ImageFeatures, Tokens


def as_factors(anchors: Anchors, chosen: Sequence[int], visual: Tokens, audio: Tokens, clamp: bool = False) -> Factorization:
    """A word bank standing where factors stand: one row a word, the first of the chosen ones sounding.

    Activations of the chosen words are the tokens' positive products with them, at most 1, those of the others 0: a map read
    out of it is the tokens' own. All sound belongs to the first.
    """
    rows = anchors.visual.clamp_min(0) if clamp else anchors.visual
    index, count, steps = chosen[0], len(anchors.words), audio.values.shape[0]
    products = (visual.values @ rows[list(chosen)].to(visual.values).T).clamp_min(0)
    activations = torch.zeros(len(visual.values), count).to(products)
    activations[:, list(chosen)] = products / products.amax(0).clamp_min(1e-12)
    heard = torch.zeros(steps, count).to(audio.values)
    heard[:, index] = 1.0
    sounds = torch.zeros(count, audio.values.shape[1]).to(audio.values)
    sounds[index] = audio.values.mean(0)
    return Factorization(activations, rows, heard, sounds, index)


def nearest_words(factor: Tensor, anchors: Anchors, count: int = 5) -> tuple[tuple[str, float], ...]:
    """Words by cosine with a visual factor, best first (the paper's label, section 5.2)."""
    cosines = F.normalize(anchors.visual, dim=-1) @ F.normalize(factor.to(anchors.visual), dim=-1)
    best = cosines.topk(min(count, len(anchors.words)))
    return tuple((anchors.words[int(i)], float(v)) for v, i in zip(*best))


def among(winners: Tensor, chosen: Sequence[int]) -> Tensor:
    """Bool of the shape of ``winners``: is it one of the chosen numbers?"""
    return torch.isin(winners, torch.tensor(list(chosen), device=winners.device))


def u_map(features: ImageFeatures, factors: Factorization, factor: int) -> np.ndarray:
    """(rows, columns) activations of a factor, scaled to [0, 1]."""
    return minmax(features.tokens.on_grid(factors.visual_activations[:, factor]))


def minmax(values: Tensor) -> np.ndarray:
    """Scaled to [0, 1]; all 0 where flat."""
    values = values.float()
    low, high = values.min(), values.max()
    return ((values - low) / (high - low) if high > low else torch.zeros_like(values)).cpu().numpy()


def resized(values: np.ndarray, size: tuple[int, int], mode: str = "bicubic") -> np.ndarray:
    """(h, w) -> (H, W), corners aligned, as the public runs compare maps; the same array where the size is right."""
    if values.shape == tuple(size):
        return values
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    return F.interpolate(tensor, size, mode=mode, align_corners=True)[0, 0].numpy()
