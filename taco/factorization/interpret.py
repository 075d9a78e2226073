"""What a factor means: nearest words, map on the image, map on the sound."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taco.errors import ShapeError, ValueRangeError
from taco.factorization.anchors import prepared_anchors
from taco.factorization.temporal import mean_of_rounds
from taco.types import Anchors, Factorization, WordScore


@dataclass(frozen=True, slots=True)
class FactorMeaning:
    """One pair of factors, explained.

    factor: its index.
    visual_words, audio_words: the nearest words with cosines in [-1, 1], best first.
    visual_map: (rows, columns) activation on the image in [0, 1].
    sound_map: (frequency bands, time steps) activation on the sound in [0, 1] (the paper's spectrogram segmentation).
    """

    factor: int
    visual_words: tuple[WordScore, ...]
    audio_words: tuple[WordScore, ...]
    visual_map: Tensor
    sound_map: Tensor


@torch.no_grad()
def nearest_words(
    factorization: Factorization, anchors: Anchors, factor: int, n: int = 5
) -> tuple[tuple[WordScore, ...], tuple[WordScore, ...]]:
    """The ``n`` words nearest to image factor and to sound factor (paper Eq. 5: cosines, sound after the projection).

    Returns two tuples of (word, cosine in [-1, 1]), best first; fewer where the bank has fewer words.
    Raises ValueRangeError for a factor that is not there, ShapeError where the bank has other dimensions.
    """
    _check(factorization, factor)
    rows_v, rows_a = factorization.visual_factors[factor], factorization.audio_factors[factor]
    if rows_v.shape[0] != anchors.visual.shape[1]:
        raise ShapeError(f"anchors.visual: wanted dimension {rows_v.shape[0]} as the factors have, got {anchors.visual.shape[1]}")
    bank = prepared_anchors(anchors, rows_a.shape[0], rows_v.dtype, rows_v.device)
    visual, audio = bank.visual_logits(rows_v[None])[0][0], bank.audio_logits(rows_a[None], grad=False)[0][0] / bank.scale
    return _top(visual, anchors.words, n), _top(audio, anchors.words, n)


def visual_map(factorization: Factorization, factor: int, grid: tuple[int, int]) -> Tensor:
    """U_v[:, factor] on the token grid: (rows, columns) in [0, 1]."""
    _check(factorization, factor)
    return _on_grid("visual grid", factorization.visual_activations[:, factor], grid)


def sound_map(factorization: Factorization, factor: int, grid: tuple[int, int], times: Tensor | None = None) -> Tensor:
    """U_a[:, factor] on the token grid: (frequency bands, time steps) in [0, 1].

    times: of the steps (``Tokens.times``), by which they are put in order and rounds of one window into one.
    """
    _check(factorization, factor)
    return mean_of_rounds(_on_grid("audio grid", factorization.audio_activations[:, factor], grid), times)


def explain_factors(
    factorization: Factorization,
    anchors: Anchors,
    visual_grid: tuple[int, int],
    audio_grid: tuple[int, int],
    n: int = 5,
    audio_times: Tensor | None = None,
) -> list[FactorMeaning]:
    """Every factor of a result, in order. audio_times: as for ``sound_map``."""
    out = []
    for factor in range(factorization.visual_factors.shape[0]):
        words = nearest_words(factorization, anchors, factor, n)
        maps = visual_map(factorization, factor, visual_grid), sound_map(factorization, factor, audio_grid, audio_times)
        out.append(FactorMeaning(factor, *words, *maps))
    return out


def _top(cosines: Tensor, words: tuple[str, ...], n: int) -> tuple[WordScore, ...]:
    values, index = cosines.clamp(-1, 1).topk(min(n, len(words)))
    return tuple((words[i], value) for i, value in zip(index.tolist(), values.tolist()))


def _check(factorization: Factorization, factor: int) -> None:
    k = factorization.visual_factors.shape[0]
    if isinstance(factor, bool) or not isinstance(factor, int) or not 0 <= factor < k:
        raise ValueRangeError(f"factor: wanted 0 to {k - 1}, got {factor!r}")


def _on_grid(name: str, column: Tensor, grid: tuple[int, int]) -> Tensor:
    if len(grid) != 2 or grid[0] * grid[1] != len(column):
        raise ShapeError(f"{name}: wanted two sizes with product {len(column)}, got {tuple(grid)}")
    return column.reshape(grid)
