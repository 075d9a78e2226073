"""k-means with k-means++ seeding, batched over frames and restarts.

Randomness comes in as uniform numbers, so that the answer is a pure function of its arguments.
"""

from __future__ import annotations

import torch
from torch import Tensor


def plus_plus(points: Tensor, uniforms: Tensor, given: Tensor | None = None) -> Tensor:
    """Seeds chosen as k-means++ does: (B, R, K) indices of points (B, N, D); uniforms (B, R, K) in [0, 1).

    given: (B, r) first seeds of the first r restarts. Each next
    seed is drawn with probability proportional to the squared distance to the nearest seed.
    """
    batch, restarts, k = uniforms.shape
    n = points.shape[1]
    square = points.square().sum(-1)
    first = (uniforms[..., 0] * n).long().clamp_max(n - 1)
    if given is not None:
        first[:, : given.shape[1]] = given
    chosen = [first]
    near = _squared_distance(points, square, first)
    for index in range(1, k):
        # A tiny floor draws evenly where every point lies on a seed already.
        cumulative = (near + 1e-30).cumsum(-1)
        target = (uniforms[..., index : index + 1] * cumulative[..., -1:]).contiguous()
        pick = torch.searchsorted(cumulative, target, right=True).squeeze(-1).clamp_max(n - 1)
        chosen.append(pick)
        near = torch.minimum(near, _squared_distance(points, square, pick))
    return torch.stack(chosen, -1)


def _squared_distance(points: Tensor, square: Tensor, index: Tensor) -> Tensor:
    seeds = points.gather(1, index[..., None].expand(-1, -1, points.shape[-1]))
    cross = seeds @ points.mT
    return (square[:, None] - 2 * cross + square.gather(1, index)[..., None]).clamp_min_(0)


def lloyd(points: Tensor, centres: Tensor, iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lloyd's iterations from centres (B, R, K, D); empty clusters keep their centre.

    Returns centres, labels (B, R, N) and the sum of squared distances (B, R). On the CPU it stops
    when no label changes.
    """
    batch, restarts, k, dim = centres.shape
    n = points.shape[1]
    square = points.square().sum((-1, -2))
    labels = None
    for step in range(iterations + 1):
        flat = centres.reshape(batch, restarts * k, dim)
        half = flat.square().sum(-1) / 2
        score = torch.baddbmm(half[..., None], flat, points.mT, alpha=-1).view(batch, restarts, k, n)
        best, new = score.min(2)
        if step == iterations or (labels is not None and not points.is_cuda and torch.equal(new, labels)):
            labels = new
            break
        labels = new
        member = torch.zeros(batch, restarts, k, n, dtype=points.dtype, device=points.device)
        member.scatter_(2, labels[:, :, None], 1.0)
        count = member.sum(-1, keepdim=True)
        sums = (member.view(batch, restarts * k, n) @ points).view(batch, restarts, k, dim)
        centres = torch.where(count > 0, sums / count.clamp_min(1), centres)
    return centres, labels, (square[:, None] + 2 * best.sum(-1)).clamp_min_(0)


def kmeans(points: Tensor, uniforms: Tensor, iterations: int = 100) -> tuple[Tensor, Tensor]:
    """The best of R restarts: centres (B, K, D) and labels (B, N) of points (B, N, D); uniforms (B, R, K)."""
    batch = points.shape[0]
    index = plus_plus(points, uniforms)
    dim = points.shape[-1]
    centres = points.gather(1, index.flatten(1)[..., None].expand(-1, -1, dim)).view(*index.shape, dim)
    centres, labels, inertia = lloyd(points, centres, iterations)
    frame, best = torch.arange(batch, device=points.device), inertia.argmin(-1)
    return centres[frame, best], labels[frame, best]
