"""Maps of a word: from the factors on the token grid, and refined to the image's edges.

The coarse map is what the factors reconstruct of the word. The guided filter (He, Sun and Tang 2010, for colours) extends it
to the image's own edges, without a network.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from taco.types import Anchors, Factorization, Tokens

Rectangle = tuple[int, int, int, int]  # x, y, width, height in px
OBJECT_LEVEL = 0.3  # share of a map's maximum from which a place belongs to the object (chosen on natural scenes, val)
GUIDE_SIDE = 128  # px, longer side of the image that guides; ours
RADIUS = 20  # px of that, half the filter's window; ours
SMOOTHNESS = 1e-4  # variance of colours in [0, 1] below which the map is smoothed (epsilon in the paper); ours


def factor_weights(factors: Tensor, prompt: Tensor, anchors: Anchors | None = None) -> Tensor:
    """(K, C) factors, (C,) prompt -> (K,) weight of the word in each factor.

    Closed vocabularies: the products, which are logits, so that a factor can also speak against the word. Words compared by
    cosines (CLIP): shares relative to the best factor, by the model's own scale.
    """
    prompt = prompt.to(factors)
    scale = getattr(anchors, "visual_logit_scale", None)
    if scale is None:
        return factors @ prompt
    cosines = torch.nn.functional.cosine_similarity(factors, prompt[None], dim=-1)
    return torch.exp(scale * (cosines - cosines.max()))


def word_map(factorization: Factorization, prompt: Tensor, tokens: Tokens, anchors: Anchors | None = None) -> np.ndarray:
    """(rows, columns) float32 in [0, 1], its maximum 1: sum_k U_k w_k, what the factorization reconstructs of the word.

    All 0 where the factors speak against the word everywhere.
    """
    weights = factor_weights(factorization.visual_factors, prompt, anchors)
    answer = (factorization.visual_activations.to(weights) @ weights).clamp_min(0)
    top = float(answer.max())
    if not top > 1e-12:
        return np.zeros(tokens.grid, np.float32)
    return tokens.on_grid(answer / top).float().cpu().numpy()


def factor_map(factorization: Factorization, factor: int, tokens: Tokens) -> np.ndarray:
    """(rows, columns) float32 in [0, 1], its maximum 1: where a factor is active."""
    column = factorization.visual_activations[:, factor]
    return tokens.on_grid(column / column.max().clamp_min(1e-12)).float().cpu().numpy()


def enlarge(coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) float32, bicubic, kept in [0, 1]."""
    return np.clip(cv2.resize(coarse.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def map_rectangle(coarse: np.ndarray, size: tuple[int, int], pad: float = 0.0) -> Rectangle:
    """The rectangle of the map where it is at least OBJECT_LEVEL, in an image of ``size`` (height, width).

    It is widened on each side by ``pad`` tokens and cut at the image's edges. Where the map reaches that level nowhere, it is
    the whole image.
    """
    rows, columns = np.flatnonzero((coarse >= OBJECT_LEVEL).any(1)), np.flatnonzero((coarse >= OBJECT_LEVEL).any(0))
    if not len(rows):
        return (0, 0, size[1], size[0])
    spans = []
    for found, count, length in ((columns, coarse.shape[1], size[1]), (rows, coarse.shape[0], size[0])):
        token = length / count
        low, high = found[0] * token, (found[-1] + 1) * token
        first = int(np.clip(np.floor(low - pad * token), 0, length - 1))
        spans.append((first, int(np.clip(np.ceil(high + pad * token), first + 1, length))))
    (left, right), (top, bottom) = spans
    return (left, top, right - left, bottom - top)


def small_size(size: tuple[int, int], side: int = GUIDE_SIDE) -> tuple[int, int]:
    """(height, width) of an image scaled down so that its longer side is at most ``side`` px; at least 2 x 2."""
    scale = min(1.0, side / max(size))
    return max(2, round(size[0] * scale)), max(2, round(size[1] * scale))


def spread_along_colours(coarse: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """(h, w) map in [0, 1] and an (H, W, 3) uint8 image -> the map at ``small_size``, float32 in [0, 1].

    In each window the map is fitted by a linear function of the colours, so that it reaches as far as they do.
    """
    size = small_size(rgb.shape[:2])
    guide = cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    reach: np.ndarray = np.clip(guided_filter(guide, enlarge(coarse, size)), 0, 1)
    return reach


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int = RADIUS, smoothness: float = SMOOTHNESS) -> np.ndarray:
    """guide: (h, w, 3) float32 in [0, 1]. values: (h, w) float32 -> (h, w) float32."""

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(x, -1, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    radius = min(radius, min(values.shape) - 1)  # the border is mirrored once at most
    r, g, b = cv2.split(guide)
    mr, mg, mb = mean(r), mean(g), mean(b)
    mv = mean(values)
    cr, cg, cb = mean(r * values) - mr * mv, mean(g * values) - mg * mv, mean(b * values) - mb * mv
    rr, gg, bb = (mean(c * c) - m * m + smoothness for c, m in ((r, mr), (g, mg), (b, mb)))
    rg, rb, gb = mean(r * g) - mr * mg, mean(r * b) - mr * mb, mean(g * b) - mg * mb
    # The 3 x 3 systems, one a pixel, by cofactors: the matrices are positive definite.
    a, d, f = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    e, h, i = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    det = np.maximum(rr * a + rg * d + rb * f, 1e-20)
    wr = (a * cr + d * cg + f * cb) / det
    wg = (d * cr + e * cg + h * cb) / det
    wb = (f * cr + h * cg + i * cb) / det
    shift = mv - wr * mr - wg * mg - wb * mb
    filtered: np.ndarray = mean(wr) * r + mean(wg) * g + mean(wb) * b + mean(shift)
    return filtered
