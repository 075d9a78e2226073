"""Block-coordinate descent on the paper's loss: rows of V and columns of U in closed form, one factor at a time.

An un-squared norm is turned into a weight, d|R| = d|R|^2 / (2 |R|), so that each row has a least-squares
answer that is then clipped to its range. The semantic penalty enters linearised through the
components (factors with descriptor="factor") at several strengths; of those, and of "unchanged", the
lowest true loss is kept. Hence without a box and a temporal term the loss never rises.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taco.factorization.objective import cross_entropies, squared_residual, unit, weights
from taco.factorization.problem import Problem, State, add_row, take

COLD_SWEEPS = 4
WARM_SWEEPS = 2
STRENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.0)
LEAST_AREA = 4.0  # summed activation below which a factor cannot be the sounding one
CONVERGED = 1e-6  # relative change of the loss that ends a solve


@dataclass(slots=True)
class Side:
    """One modality during a solve: tokens x (B, n, C), u (B, K, n), v (B, K, C), cross = u x, loss = |x - u^T v|."""

    x: Tensor
    square: Tensor
    weight: float
    u: Tensor
    v: Tensor
    cross: Tensor
    visual: bool
    norm: Tensor | None = None

    def measure(self) -> Tensor:
        """|R|_F (B,) at the present u, v."""
        gram = self.u @ self.u.mT
        self.norm = squared_residual(self.x, self.square, self.u, self.v, self.cross, gram).clamp_min(1e-30).sqrt()
        return self.norm


def solve_block(problem: Problem, start: State, sweeps: int) -> tuple[State, int]:
    """``sweeps`` sweeps at most from ``start``; returns the state and the sweeps done."""
    b1, b2, _, _ = weights(problem.config)
    sides = []
    for x, square, weight, u, v, visual in (
        (problem.visual, problem.visual_square, b1, start.visual_u, start.visual_v, True),
        (problem.audio, problem.audio_square, b2, start.audio_u, start.audio_v, False),
    ):
        u, v = u.clone(), v.clone()
        sides.append(Side(x, square, weight, u, v, u @ x, visual))
    return _Solve(problem, *sides, start.sounding).run(sweeps)


class _Solve:
    def __init__(self, problem: Problem, visual: Side, audio: Side, sounding: Tensor | None):
        config = problem.config
        self.problem, self.visual, self.audio, self.config = problem, visual, audio, config
        self.b3, self.b4 = weights(config)[2:]
        self.penalised = self.b3 > 0 or self.b4 > 0
        self.recent = config.binding == "recent"
        # Only one factor feels the penalty, unless it is averaged or goes both ways.
        self.single = config.penalty == "min" and self.b4 == 0
        self.by_component = config.descriptor == "component"
        self.box = config.trust_region if self.recent and config.trust_region > 0 else None
        self.reference: Tensor | None = None
        self.sounding = sounding

    def run(self, sweeps: int) -> tuple[State, int]:
        for side in (self.visual, self.audio):
            side.measure()
        # Binding to the recent sound: the first sweep only reconstructs, and its answer is the centre of the box.
        plain_first = self.recent and self.penalised
        if not plain_first or self.sounding is None:
            self.bind()
        last = None if plain_first else self.total()
        done = 0
        for done in range(1, sweeps + 1):
            self.sweep(penalised=self.penalised and not (plain_first and done == 1))
            if plain_first and done == 1:
                self.reference = self.visual.u.clone()
            self.bind()
            if not self.visual.x.is_cuda and not (plain_first and done == 1):
                now = self.total()
                if last is not None and bool(((last - now).abs() <= CONVERGED * now.abs()).all()):
                    break
                last = now
        if self.recent and self.penalised:
            self.pair()
        return State(self.visual.u, self.visual.v, self.audio.u, self.audio.v, self.sounding), done

    def described(self, side: Side) -> Tensor:
        """What is compared with the words: pooled components, or the factors (B, K, C)."""
        return side.cross / side.x.shape[1] if self.by_component else side.v

    def audio_logits(self) -> Tensor:
        """(B, K or 1, M) logits that the image factors should agree with."""
        if self.recent:
            return self.problem.heard
        return self.problem.bank.audio_logits(self.described(self.audio), grad=False)[0]

    def bind(self) -> None:
        """k* = argmin CE_v; bound to the recent sound, among factors with some area."""
        self.visual_logits = self.problem.bank.visual_logits(self.described(self.visual))[0]
        self.heard = self.audio_logits()
        self.ce_v, self.ce_a, _, _ = cross_entropies(self.visual_logits, self.heard)
        if self.recent:
            small = self.visual.u.sum(-1) < LEAST_AREA
            small = small & ~small.all(-1, keepdim=True)
            self.sounding = self.ce_v.masked_fill(small, torch.inf).argmin(-1)
        else:
            self.sounding = self.ce_v.argmin(-1)

    def pair(self) -> None:
        """Exchange audio factors so that the one nearest to the recent sound is the sounding factor's partner."""
        near = (unit(self.audio.v) @ self.problem.recent[..., None]).squeeze(-1).argmax(-1)
        for rows in (self.audio.u, self.audio.v, self.audio.cross):
            here = self.sounding[:, None, None].expand(-1, 1, rows.shape[-1])
            there = near[:, None, None].expand(-1, 1, rows.shape[-1])
            a, b = rows.gather(1, here), rows.gather(1, there)
            rows.scatter_(1, there, a).scatter_(1, here, b)

    def total(self) -> Tensor:
        """(B,) the loss of Eq. 6 as bound."""
        return self.visual.weight * self.visual.norm + self.audio.weight * self.audio.norm + self.value(self.ce_v, self.ce_a)

    def value(self, ce_v: Tensor, ce_a: Tensor) -> Tensor:
        """Weighted penalty of cross-entropies (..., K)."""
        if self.config.penalty == "mean":
            return self.b3 * ce_v.mean(-1) + self.b4 * ce_a.mean(-1)
        return self.b3 * ce_v.amin(-1) + self.b4 * ce_a.amin(-1)

    def sweep(self, penalised: bool) -> None:
        """Once over V and U of both modalities."""
        for side in (self.visual, self.audio):
            feels = penalised and (side.visual or not self.recent)
            self.update_factors(side, feels and not self.by_component)
            self.update_activations(side, feels and self.by_component)
            side.measure()

    def update_factors(self, side: Side, penalised: bool) -> None:
        gram = side.u @ side.u.mT
        cross = side.cross
        past = self.problem.temporal_gradient(side.v, self.sounding, side.visual) if self.sounding is not None else None
        if past is not None and side.weight > 0:
            cross = add_row(cross.clone(), self.sounding, past * (-side.norm / side.weight)[:, None, None])
        if penalised:
            self.line_search(side, side.v, cross, gram, side.u @ side.u.mT, of_factors=True)
        else:
            solve_rows(side.v, cross, gram)

    def update_activations(self, side: Side, penalised: bool) -> None:
        gram, cross = side.v @ side.v.mT, None
        if penalised:
            self.line_search(side, side.u, cross, gram, None, of_factors=False)
        else:
            solve_rows(side.u, side.v @ side.x.mT, gram, upper=1.0)
            side.cross = side.u @ side.x

    def line_search(self, side: Side, rows: Tensor, cross: Tensor | None, gram: Tensor, _unused, of_factors: bool) -> None:
        """Rows that feel the penalty at several strengths, the others in closed form; the lowest true loss wins.

        rows: u or v of the side, changed in place. Candidates of all frames are solved at once.
        """
        gradient = self.penalty_gradient(side)  # (B, a, C): a = 1 (the sounding row) or K
        batch, k, n = rows.shape
        active = self.sounding[:, None] if self.single else torch.arange(k, device=rows.device).expand(batch, k)
        a = active.shape[1]
        if of_factors:
            slope = gradient
        else:
            both = torch.cat([side.v, gradient / side.x.shape[1]], 1) @ side.x.mT
            cross, slope = both[:, :k], both[:, k:]
        if self.single:
            frozen = torch.zeros(batch, k, dtype=torch.bool, device=rows.device).scatter_(1, active, True)
            solve_rows(rows, cross, gram, upper=None if of_factors else 1.0, frozen=frozen)
        strengths = torch.tensor(STRENGTHS, dtype=rows.dtype, device=rows.device)
        c = len(STRENGTHS)
        # (B, c, K, n) copies, of which only the active rows move.
        step = (side.norm / max(side.weight, 1e-6))[:, None, None, None] * strengths[:, None, None] * slope[:, None]
        many = rows[:, None].expand(-1, c, -1, -1).reshape(batch * c, k, n).clone()
        where = active[:, None, :, None].expand(-1, c, -1, n).reshape(batch * c, a, n)
        pushed = cross[:, None].expand(-1, c, -1, -1).reshape(batch * c, k, n).clone()
        pushed.scatter_add_(1, where, -step.reshape(batch * c, a, n))
        grams = gram[:, None].expand(-1, c, -1, -1).reshape(batch * c, k, k)
        if self.single:
            still = frozen[:, None].expand(-1, c, -1).reshape(batch * c, k)
            solve_rows(many, pushed, grams, upper=None if of_factors else 1.0, frozen=~still)
        else:
            solve_rows(many, pushed, grams, upper=None if of_factors else 1.0)
        many = many.view(batch, c, k, n)
        if self.box is not None and not of_factors and self.reference is not None:
            low, high = (self.reference - self.box)[:, None], (self.reference + self.box)[:, None]
            many = torch.minimum(torch.maximum(many, low), high).clamp_(0, 1) if not self.single else many
            if self.single:
                inner = active[:, None, :, None].expand(-1, c, -1, n)
                chosen = many.gather(2, inner)
                chosen = torch.minimum(torch.maximum(chosen, low.gather(2, inner[:, :1])), high.gather(2, inner[:, :1]))
                many = many.scatter(2, inner, chosen.clamp_(0, 1))
        many = torch.cat([many, rows[:, None]], 1)  # the last candidate: unchanged
        # |R|^2 of every candidate from Gram matrices.
        square = side.square[:, None] - 2 * (cross[:, None] * many).sum((-1, -2))
        square = square + (gram[:, None] * (many @ many.mT)).sum((-1, -2))
        norms = square.clamp_min(0).sqrt()
        if of_factors:
            crosses, described = None, many
        else:
            if self.single:  # one product for the rows all candidates share and for the active row of each
                inner = active[:, None, :, None].expand(-1, c + 1, -1, n)
                moved = many.gather(2, inner).squeeze(2)
                products = torch.cat([rows, moved], 1) @ side.x
                crosses = products[:, None, :k].expand(-1, c + 1, -1, -1)
                into = active[:, None, :, None].expand(-1, c + 1, -1, side.x.shape[2])
                crosses = crosses.scatter(2, into, products[:, k:, None])
            else:
                crosses = many.flatten(1, 2).matmul(side.x).view(batch, c + 1, k, -1)
            described = crosses / side.x.shape[1]
        losses = side.weight * norms + self.candidate_penalty(side, described, active)
        best = losses.argmin(-1)
        rows.copy_(take4(many, best))
        if not of_factors:
            side.cross = take4(crosses, best)
        else:
            side.v = rows

    def penalty_gradient(self, side: Side) -> Tensor:
        """d penalty / d described rows that feel it: (B, 1, C), or (B, K, C) where all do."""
        rows = self.described(side)
        other = self.heard if side.visual else self.problem.bank.visual_logits(self.described(self.visual))[0]
        if self.single:
            rows = take(rows, self.sounding)[:, None]
            other = other if other.shape[1] == 1 else take(other, self.sounding)[:, None]
        logits, pull = self.problem.bank.visual_logits(rows) if side.visual else self.problem.bank.audio_logits(rows)
        ce_v, ce_a, log_v, log_a = cross_entropies(*((logits, other) if side.visual else (other, logits)))
        if self.config.penalty == "mean":
            w_v, w_a = self.b3 / ce_v.shape[-1], self.b4 / ce_v.shape[-1]
        else:
            w_v = torch.zeros_like(ce_v).scatter_(-1, ce_v.argmin(-1, keepdim=True), self.b3)[..., None]
            w_a = torch.zeros_like(ce_a).scatter_(-1, ce_a.argmin(-1, keepdim=True), self.b4)[..., None]
        p_v, p_a = log_v.exp(), log_a.exp()
        if side.visual:
            return pull(w_v * (p_v - p_a) - w_a * p_v * (log_a + ce_a[..., None]))
        return pull(w_a * (p_a - p_v) - w_v * p_a * (log_v + ce_v[..., None]))

    def candidate_penalty(self, side: Side, described: Tensor, active: Tensor) -> Tensor:
        """Weighted penalty (B, c) of candidates' descriptors (B, c, K, C)."""
        bank = self.problem.bank
        other = self.heard if side.visual else self.visual_logits
        if self.single:
            described = described.gather(2, active[:, None, :, None].expand(-1, described.shape[1], -1, described.shape[-1]))
            other = other if other.shape[1] == 1 else take(other, self.sounding)[:, None]
        logits = bank.visual_logits(described)[0] if side.visual else bank.audio_logits(described, grad=False)[0]
        other = other[:, None].expand(-1, logits.shape[1], -1, -1)
        ce_v, ce_a, _, _ = cross_entropies(*((logits, other) if side.visual else (other, logits)))
        return self.value(ce_v, ce_a)


def take4(many: Tensor, best: Tensor) -> Tensor:
    """many[b, best[b]] of (B, c, K, n): (B, K, n)."""
    return many.gather(1, best[:, None, None, None].expand(-1, 1, *many.shape[2:])).squeeze(1)


def solve_rows(rows: Tensor, cross: Tensor, gram: Tensor, upper: float | None = None, frozen: Tensor | None = None) -> Tensor:
    """One pass of exact least squares over rows (B, K, n), one row at a time, in place.

    Minimises |X - U V|^2 over each row in turn, the others fixed, and clips it to [0, upper]:
    row_k = (cross_k - sum_j!=k gram_kj row_j) / gram_kk. For V: cross = U^T X, gram = U^T U; for U^T:
    cross = V X^T, gram = V V^T. Rows that are frozen (B, K), or whose counterpart is zero, stay.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    still = diagonal <= 1e-12 * diagonal.amax(-1, keepdim=True).clamp_min(1e-30)
    if frozen is not None:
        still = still | frozen
    inverse = torch.where(still, 0.0, 1 / diagonal.clamp_min(1e-30))[..., None]
    target = torch.where(still[..., None], rows, cross * inverse)
    others = gram * inverse
    others.diagonal(dim1=-2, dim2=-1).zero_()
    for k in range(rows.shape[1]):
        row = torch.baddbmm(target[:, k : k + 1], others[:, k : k + 1], rows, alpha=-1)
        torch.clamp(row, 0.0, upper, out=rows[:, k : k + 1])
    return rows
