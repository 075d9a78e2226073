"""The block solver's start: clusters of a smoothed, low-rank view, guided by the sound.

k-means with k-means++ seeding, batched over frames and restarts.

Randomness comes in as uniform numbers, so that the answer is a pure function of its arguments.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taco.factorization.objective import Problem, State

# All numbers here are ours, from trials on made scenes.
RANK = 20  # of the view in which the image's tokens are clustered
RESTARTS = 8  # as many as the paper's k-means
ITERATIONS = 6  # of Lloyd: the sweeps that follow do the rest
NEAREST = 8  # tokens nearest to what the sound means, one of which seeds half of the restarts
LEAST_TOKENS = 6  # of a cluster that may become the sounding factor
INSIDE, OUTSIDE = 0.9, 0.02  # activations of a cluster's own tokens and of all others


def guided_draws(problem: Problem) -> list[tuple[str, tuple[int, ...]]]:
    """The random numbers that ``guided_start`` takes."""
    k = problem.config.n_factors
    return [("uniform", (RESTARTS, k)), ("uniform", (RESTARTS // 2, k))]


def guided_start(problem: Problem, seeds: Sequence[Tensor]) -> State:
    """Clusters as factors: U = 0.9 inside and 0.02 outside, V = cluster means, factor 0 the one that fits the sound.

    seeds: as ``guided_draws`` says, one set a frame. Without a penalty the sound has no say.
    """
    k = problem.config.n_factors
    n = problem.visual.shape[1]
    by_sound = problem.config.penalty != "none" and problem.config.penalty_weight > 0
    word_probabilities = problem.recent_logits.squeeze(1).softmax(-1)
    scores = low_rank_scores(problem.visual, min(RANK, n, problem.visual.shape[2]))
    scores = smoothed(scores, problem.visual_grid)
    first = None
    if by_sound:
        direction = word_probabilities @ problem.bank.visual - problem.bank.visual_mean
        fit = (problem.visual @ direction[..., None]).squeeze(-1)
        near = fit.topk(min(NEAREST, n), dim=-1).indices
        pick = (seeds[0][:, : RESTARTS // 2, 0] * near.shape[1]).long().clamp_max(near.shape[1] - 1)
        first = near.gather(1, pick)
    labels = kmeans(scores, seeds[0], ITERATIONS, first)[1]
    visual_u, visual_v = _factors(problem.visual, labels, k)
    audio_u, audio_v = _factors(problem.audio, kmeans(problem.audio, seeds[1], ITERATIONS)[1], k)
    state = State(visual_u, visual_v, audio_u, audio_v)
    if by_sound:
        logits, _ = problem.bank.visual_logits(visual_v)
        fit = -(word_probabilities[:, None] * logits.log_softmax(-1)).sum(-1)
        count = torch.nn.functional.one_hot(labels, k).sum(1)
        fit = fit.masked_fill(count < min(LEAST_TOKENS, max(1, n // k)), torch.inf)
        swap_first(fit.argmin(-1), state.visual_u, state.visual_v)
        near = (torch.nn.functional.normalize(audio_v, dim=-1) @ problem.recent[..., None]).squeeze(-1)
        swap_first(near.argmax(-1), state.audio_u, state.audio_v)
        state.audio_v[:, 0] = problem.recent
    state.sounding = torch.zeros(problem.frames, dtype=torch.long, device=visual_u.device)
    return state


def low_rank_scores(tokens: Tensor, rank: int) -> Tensor:
    """(B, N, rank) coordinates of the tokens in a basis found by two subspace iterations from evenly spaced tokens."""
    index = torch.linspace(0, tokens.shape[1] - 1, rank, device=tokens.device).long()
    rows = tokens[:, index]
    for _ in range(2):
        rows = orthonormal((rows @ tokens.mT) @ tokens)
    return tokens @ rows.mT


def orthonormal(rows: Tensor) -> Tensor:
    """Rows (B, R, C) made orthonormal; on a GPU by Gram-Schmidt, since the library call cannot be captured in a graph."""
    return gram_schmidt(rows) if rows.is_cuda else torch.linalg.qr(rows.mT)[0].mT


def gram_schmidt(rows: Tensor) -> Tensor:
    """Orthonormal rows (B, R, C) of the same span, each row cleared of those before it twice over."""
    done: list[Tensor] = []
    for row in (row[:, None] for row in rows.unbind(1)):
        for _ in range(2 if done else 0):
            basis = torch.cat(done, 1)
            row = row - (row @ basis.mT) @ basis
        done.append(torch.nn.functional.normalize(row, dim=-1))
    return torch.cat(done, 1)


def smoothed(scores: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """Half the scores (B, N, R), half their 3 x 3 means on the grid; the scores alone where no grid is known."""
    if grid is None or min(grid) < 2:
        return scores
    batch, n, rank = scores.shape
    image = scores.mT.reshape(batch, rank, *grid)
    mean = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    return (image + mean).div_(2).reshape(batch, rank, n).mT


def swap_first(index: Tensor, *arrays: Tensor) -> None:
    """Exchange row 0 and row index[b] of each (B, K, n) array, in place."""
    for array in arrays:
        where = index[:, None, None].expand(-1, 1, array.shape[-1])
        chosen, head = array.gather(1, where), array[:, :1].clone()
        array.scatter_(1, where, head)
        array[:, :1] = chosen


def _factors(tokens: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """U^T (B, K, N) and V (B, K, C) of clusters; an empty cluster gets the mean of all tokens."""
    member = torch.nn.functional.one_hot(labels, k).to(tokens.dtype).mT
    count = member.sum(-1, keepdim=True)
    mean = tokens.mean(1, keepdim=True)
    return torch.where(member > 0, INSIDE, OUTSIDE).to(tokens.dtype), torch.where(
        count > 0, member @ tokens / count.clamp_min(1), mean
    )


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
    labels: Tensor | None = None
    for step in range(iterations + 1):
        flat = centres.reshape(batch, restarts * k, dim)
        half = flat.square().sum(-1) / 2
        score = torch.baddbmm(half[..., None], flat, points.mT, alpha=-1).view(batch, restarts, k, n)
        best, nearest = score.min(2)
        if step == iterations or (labels is not None and not points.is_cuda and torch.equal(nearest, labels)):
            break
        labels = nearest
        member = torch.zeros(batch, restarts, k, n, dtype=points.dtype, device=points.device)
        member.scatter_(2, labels[:, :, None], 1.0)
        count = member.sum(-1, keepdim=True)
        sums = (member.view(batch, restarts * k, n) @ points).view(batch, restarts, k, dim)
        centres = torch.where(count > 0, sums / count.clamp_min(1), centres)
    return centres, nearest, (square[:, None] + 2 * best.sum(-1)).clamp_min_(0)


def kmeans(points: Tensor, uniforms: Tensor, iterations: int = 100, first: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The restart with the lowest sum of squares: centres (B, K, D) and labels (B, N) of points (B, N, D).

    uniforms: (B, R, K) in [0, 1), for R restarts. first: (B, r) seeds for the first r of them.
    """
    batch = points.shape[0]
    index = plus_plus(points, uniforms, first)
    dim = points.shape[-1]
    centres = points.gather(1, index.flatten(1)[..., None].expand(-1, -1, dim)).view(*index.shape, dim)
    centres, labels, inertia = lloyd(points, centres, iterations)
    frame, best = torch.arange(batch, device=points.device), inertia.argmin(-1)
    return centres[frame, best], labels[frame, best]
