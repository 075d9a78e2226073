"""Temporal consistency (paper Eq. 7 and a causal form), and when a stream starts afresh."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from taco.factorization.anchors import unit

RECENCY = 0.25  # time constant of the token weights, in windows; ours, from trials on made scenes
CUT = 0.6  # block-mean score above which the image counts as cut: at most .51 without, at least 1.1 with a cut (made scenes)
SOUND_CHANGE = 0.5  # ours: total variation of the word probabilities, or 1 - cosine of the sound tokens, that is another sound


@dataclass(frozen=True, slots=True)
class StreamMemory:
    """What a stream's next solve compares with; travels in ``Factorization.memory``.

    blocks: (S, C_v) block means of the visual tokens.
    word_probabilities: (M,) of the newest sound.
    sound: (C_a,) mean of the newest sound tokens.
    """

    blocks: Tensor
    word_probabilities: Tensor
    sound: Tensor


def guess_grid(n: int) -> tuple[int, int] | None:
    """The square grid of n tokens, None where n is no square."""
    side = math.isqrt(n)
    return (side, side) if side * side == n else None


def block_means(tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """(B, S, C) means over 3 x 3 blocks of the grid, or over at most 9 runs of tokens where no grid is known."""
    batch, n, dim = tokens.shape
    if grid is None or min(grid) < 3:
        parts = [part.mean(1) for part in tokens.tensor_split(min(9, n), 1)]
    else:
        rows = tokens.view(batch, grid[0], grid[1] * dim).tensor_split(3, 1)
        # First down the rows (contiguous, the large sum), then across the columns.
        strips = torch.stack([row.mean(1).view(batch, grid[1], dim) for row in rows], 1)
        parts = [column.mean(2) for column in strips.tensor_split(3, 2)]
        return torch.cat(parts, 1)
    return torch.stack(parts, 1)


def recency_weights(
    n: int, grid: tuple[int, int] | None, dtype: torch.dtype, device: torch.device | str, times: Tensor | None = None
) -> Tensor:
    """(n,) weights exp((tau - 1) / 0.25), sum 1; tau in [0, 1] is a token's place in time.

    grid: (frequency bands, time steps), row-major; None: one band. times: (steps,) tau; None: evenly from 0 to 1.
    """
    bands, steps = grid or (1, n)
    if times is not None:
        tau = times.to(device=device, dtype=dtype)
    else:
        tau = torch.linspace(0, 1, steps, dtype=dtype, device=device) if steps > 1 else torch.ones(1, dtype=dtype, device=device)
    weights = ((tau - 1) / RECENCY).exp().repeat(bands)
    return weights / weights.sum()


def mean_of_rounds(rows: Tensor, times: Tensor | None) -> Tensor:
    """(bands, steps) values of a sound's tokens in the order of time; rounds of the same window become their mean.

    times: (steps,) in [0, 1] as above; they begin again with every round. None: the steps are in order.
    """
    if times is None:
        return rows
    rounds = 1 + int((times.diff() < 0).sum())
    parts = rows[:, times.argsort().to(rows.device)].tensor_split(max(1, round(len(times) / rounds)), 1)
    return torch.stack([part.mean(1) for part in parts], 1)


def course_change(tokens: Tensor, grid: tuple[int, int], times: Tensor | None = None) -> float:
    """In [0, 1]: how much the sound (n, C) changes within the window: 1 - the least cosine between the means of its thirds.

    times: as above. 0 for a sound that goes on, or less than three steps; near 1 where one sound follows another.
    """
    steps = tokens.view(*grid, -1).mean(0)
    if len(steps) < 3:
        return 0.0
    order = steps if times is None else steps[times.argsort().to(steps.device)]
    thirds = unit(torch.stack([part.mean(0) for part in order.tensor_split(3)]))
    return float(1 - (thirds @ thirds.T).min())


def cut_score(blocks: Tensor, before: Tensor) -> Tensor:
    """|S_t - S_{t-1}|^2 / (|S_t - mean|^2 + |S_{t-1} - mean|^2) of block means (S, C): 0 the same, 1 unrelated."""
    spread = (blocks - blocks.mean(0)).square().sum() + (before - before.mean(0)).square().sum()
    change: Tensor = (blocks - before).square().sum()
    return change / spread.clamp_min(1e-12)


def sound_change(word_probabilities: Tensor, sound: Tensor, memory: StreamMemory) -> Tensor:
    """How much another sound it is, in [0, 1]: by words (total variation) or by tokens (1 - cosine), the larger."""
    words = 0.5 * (word_probabilities - memory.word_probabilities).abs().sum()
    return torch.maximum(words, 1 - unit(sound) @ unit(memory.sound))


def cosine_pull(factors: Tensor, target: Tensor) -> Tensor:
    """Gradient of cos(v, target) for rows v (..., C); the targets need not have length 1 (a sum of unit vectors)."""
    norm: Tensor = torch.linalg.vector_norm(factors, dim=-1, keepdim=True).clamp_min(1e-12)
    direction = factors / norm
    return (target - direction * (direction * target).sum(-1, keepdim=True)) / norm


def neighbours(rows: Tensor, linked: Tensor) -> Tensor:
    """For each frame of a clip the sum of its neighbours' unit rows; rows (B, C), linked (B - 1,) 0 or 1 a pair."""
    ahead = unit(rows)
    out = torch.zeros_like(ahead)
    out[:-1] += ahead[1:] * linked[:, None]
    out[1:] += ahead[:-1] * linked[:, None]
    return out


def clip_consistency(rows: Tensor, linked: Tensor) -> Tensor:
    """Sum over consecutive frames of the cosines of their rows (B, C): Eq. 7, one modality."""
    rows = unit(rows)
    return ((rows[:-1] * rows[1:]).sum(-1) * linked).sum()
