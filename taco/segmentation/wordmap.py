"""Where a word is in the image, as the factors tell it: what they reconstruct of the word, on the token grid."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from taco.types import Anchors, Factorization, Tokens

THING = 0.3  # share of a map's maximum from which a place belongs to the thing (chosen on natural scenes, val)


def factor_weights(factors: Tensor, prompt: Tensor, anchors: Anchors | None = None) -> Tensor:
    """(K, C) factors, (C,) prompt -> (K,) how much of the word each factor shows.

    Products where products with the anchors are logits (closed vocabularies), so that a factor may also speak against
    the word. Where words are compared by cosines (CLIP): shares relative to the best factor, by the model's own scale.
    """
    prompt = prompt.to(factors)
    scale = getattr(anchors, "visual_logit_scale", None)
    if scale is None:
        return factors @ prompt
    cosines = torch.nn.functional.cosine_similarity(factors, prompt[None], dim=-1)
    return (scale * (cosines - cosines.max())).exp()


def word_map(factorization: Factorization, prompt: Tensor, tokens: Tokens, anchors: Anchors | None = None) -> np.ndarray:
    """(rows, columns) float32 in [0, 1], its maximum 1: sum_k U_k w_k, the factorization's own answer to the word.

    All 0 where the factors speak against the word everywhere.
    """
    weights = factor_weights(factorization.visual_factors, prompt, anchors)
    answer = (factorization.visual_activations.to(weights) @ weights).clamp_min(0)
    top = float(answer.max())
    if not top > 1e-12:
        return np.zeros(tokens.grid, np.float32)
    return tokens.on_grid(answer / top).float().cpu().numpy()


def enlarge(coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) float32, bicubic, kept in [0, 1]."""
    return np.clip(cv2.resize(coarse.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


Box = tuple[int, int, int, int]  # x, y, width, height in px


def thing_box(coarse: np.ndarray, size: tuple[int, int], pad: float = 0.0) -> Box:
    """The box (x, y, width, height) px, in an image of ``size`` (height, width), of the map where it is at least THING.

    It is widened on each side by ``pad`` tokens, and cut at the image's edges. The whole image where the map is nowhere that
    strong.
    """
    rows, columns = np.flatnonzero((coarse >= THING).any(1)), np.flatnonzero((coarse >= THING).any(0))
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
