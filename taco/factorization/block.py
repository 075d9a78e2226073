"""Our solver: block coordinate descent on the paper's loss, in closed form.

An un-squared norm is turned into a weight, d|R| = d|R|^2 / (2 |R|), so that each row has a least-squares
answer that is then clipped to its range. The semantic penalty enters linearised through the
components (factors with descriptor="factor") at several strengths; of those, and of "unchanged", the
lowest true loss is kept. Hence without a trust region and a temporal term the loss never rises.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor

from taco.factorization.bounded_lstsq import solve_rows
from taco.factorization.grouping import revive_idle
from taco.factorization.objective import (
    Problem,
    SolverProducts,
    State,
    add_row,
    cross_entropies,
    loss_weights,
    squared_residual,
    take_row,
)

# All numbers here are ours. More sweeps lower the loss and spoil the masks (trials on made scenes).
COLD_SWEEPS = 2
WARM_SWEEPS = 2
STRENGTHS = (1.0, 0.5, 0.25, 0.1, 0.03, 0.0)  # of the penalty's slope, that are tried
LEAST_AREA = 4.0  # summed activation below which a factor cannot be the sounding one
PASSES = 4  # over the image's activations with one set of token products: the products cost the most
CONVERGED = 1e-6  # relative change of the loss that ends a solve


@dataclass(slots=True)
class Side:
    """One modality during a solve.

    x: (B, n, C) tokens.
    square: (B,) |x|^2.
    weight: of its reconstruction in the loss.
    u: (B, K, n) U^T.
    v: (B, K, C) V.
    cross: (B, K, C) u x.
    visual: the image's, else the sound's.
    norm: (B,) |x - u^T v|_F at the present u, v.
    """

    x: Tensor
    square: Tensor
    weight: float
    u: Tensor
    v: Tensor
    cross: Tensor
    visual: bool
    norm: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.measure_norm()

    def measure_norm(self) -> None:
        """Bring ``norm`` up to date with u, v and cross."""
        gram = self.u @ self.u.mT
        self.norm = squared_residual(self.x, self.square, self.u, self.v, self.cross, gram).clamp_min(1e-30).sqrt()

    def slope_scale(self) -> Tensor:
        """(B, 1, 1): turns a slope of the loss into one of |R|^2 / 2."""
        scale: Tensor = self.norm / max(self.weight, 1e-6)
        return scale[:, None, None]


def solve_block(problem: Problem, start: State, sweeps: int) -> tuple[State, int]:
    """``sweeps`` sweeps at most from ``start``; returns the state and the sweeps done."""
    b1, b2, _, _ = loss_weights(problem.config)
    visual_v = revive_idle(problem.visual, start.visual_u, start.visual_v)
    u, v = start.visual_u.clone(), visual_v.clone()
    visual = Side(problem.visual, problem.visual_square, b1, u, v, u @ problem.visual, True)
    u, v = start.audio_u.clone(), start.audio_v.clone()
    audio = Side(problem.audio, problem.audio_square, b2, u, v, u @ problem.audio, False)
    return BlockSolver(problem, visual, audio, start.sounding).run(sweeps)


class BlockSolver:
    """One solve over a batch of frames."""

    def __init__(self, problem: Problem, visual: Side, audio: Side, sounding: Tensor | None):
        config = problem.config
        self.problem, self.bank, self.config = problem, problem.bank, config
        self.visual, self.audio = visual, audio
        self.bound = sounding is not None
        if sounding is not None:
            self.sounding = sounding
        self.b3, self.b4 = loss_weights(config)[2:]
        self.penalised = self.b3 > 0 or self.b4 > 0
        self.recent = config.binding == "recent"
        # Only one factor feels the penalty, unless it is averaged or goes both ways.
        self.one_feels = config.penalty != "mean" and self.b4 == 0
        self.by_component = config.descriptor == "component"
        self.trust_region = config.trust_region if self.recent and self.by_component else 0.0
        self.trusted: Tensor | None = None  # activations that the penalty may move by no more than that
        self.logits: Tensor | None = None  # of the image factors, where the last step left them
        self.target = problem.recent_logits.softmax(-1)

    def run(self, sweeps: int) -> tuple[State, int]:
        """Sweep, bind, and stop where the loss stands still (on the CPU: no look at values from the host on a GPU)."""
        # Binding to the recent sound: the first sweep only reconstructs, and its answer is the centre of the trust region.
        plain_first = self.recent and self.penalised
        if not plain_first or not self.bound:
            self.bind()
        last = None if plain_first else self.total_loss()
        done = 0
        for done in range(1, sweeps + 1):
            plain = plain_first and done == 1
            self.sweep(self.penalised and not plain)
            if plain:
                self.trusted = self.visual.u.clone()
            self.bind()
            if done < sweeps and not plain and not self.visual.x.is_cuda:
                now = self.total_loss()
                if last is not None and bool(((last - now).abs() <= CONVERGED * now.abs()).all()):
                    break
                last = now
        visual, audio = self.visual, self.audio
        products = SolverProducts(visual.cross, audio.cross, visual.norm, audio.norm, self.visual_logits)
        return State(visual.u, visual.v, audio.u, audio.v, self.sounding, products), done

    def described(self, side: Side) -> Tensor:
        """What is compared with the words: pooled components, or the factors (B, K, C)."""
        return side.cross / side.x.shape[1] if self.by_component else side.v

    def bind(self) -> None:
        """k* = argmin CE_v; bound to the recent sound, among factors with some area."""
        logits = self.bank.visual_logits(self.described(self.visual))[0] if self.logits is None else self.logits
        self.visual_logits, self.logits = logits, None
        self.audio_logits = self.problem.recent_logits
        if not self.recent:
            self.audio_logits = self.bank.audio_logits(self.described(self.audio), grad=False)[0]
        self.ce_v, self.ce_a = self.entropies(logits, self.audio_logits)
        if self.recent:
            small = self.visual.u.sum(-1) < LEAST_AREA
            small &= ~small.all(-1, keepdim=True)
            self.sounding = self.ce_v.masked_fill(small, torch.inf).argmin(-1)
        else:
            self.sounding = self.ce_v.argmin(-1)

    def entropies(self, logits_v: Tensor, logits_a: Tensor) -> tuple[Tensor, Tensor | None]:
        """CE_v, and CE_a where it has a weight: (..., K)."""
        if self.recent and self.b4 == 0:  # a fixed target: - sum q (d - logsumexp d)
            fit = (logits_v @ self.target.mT).squeeze(-1)
            return logits_v.logsumexp(-1) - fit, None
        return cross_entropies(logits_v, logits_a)[:2]

    def total_loss(self) -> Tensor:
        """(B,) the loss of Eq. 6 as bound."""
        return (
            self.visual.weight * self.visual.norm + self.audio.weight * self.audio.norm + self.penalty_value(self.ce_v, self.ce_a)
        )

    def penalty_value(self, ce_v: Tensor, ce_a: Tensor | None) -> Tensor:
        """Weighted penalty of cross-entropies (..., K)."""
        mean = self.config.penalty == "mean"
        value = self.b3 * (ce_v.mean(-1) if mean else ce_v.amin(-1))
        return value if ce_a is None or self.b4 == 0 else value + self.b4 * (ce_a.mean(-1) if mean else ce_a.amin(-1))

    def sweep(self, penalised: bool) -> None:
        """Once over V and U of both modalities."""
        for side in (self.visual, self.audio):
            feels = penalised and (side.visual or not self.recent)
            self.update_factors(side, feels and not self.by_component)
            self.update_activations(side, feels and self.by_component)
            side.measure_norm()

    def update_factors(self, side: Side, penalised: bool) -> None:
        """V of a side, in place, with the temporal term."""
        gram, cross = side.u @ side.u.mT, side.cross
        past = self.problem.temporal_gradient(side.v, self.sounding, side.visual) if side.weight > 0 else None
        if past is not None:
            cross = add_row(cross.clone(), self.sounding, -past * side.slope_scale())
        if penalised:
            self.update_with_penalty(side, side.v, cross, gram, self.penalty_slope(side), None)
        else:
            solve_rows(side.v, cross, gram)

    def update_activations(self, side: Side, penalised: bool) -> None:
        """U of a side, in place; ``cross`` follows."""
        gram = side.v @ side.v.mT
        if penalised:
            slope = self.penalty_slope(side) / side.x.shape[1]
            both = torch.cat([side.v, slope], 1) @ side.x.mT  # one pass over the tokens for both
            k = side.v.shape[1]
            self.update_with_penalty(side, side.u, both[:, :k], gram, both[:, k:], 1.0)
        else:
            solve_rows(side.u, side.v @ side.x.mT, gram, 1.0, passes=PASSES if side.visual else 1)
            side.cross = side.u @ side.x

    def update_with_penalty(
        self, side: Side, rows: Tensor, cross: Tensor, gram: Tensor, slope: Tensor, upper: float | None
    ) -> None:
        """Rows that feel the penalty at several strengths, the others in closed form; the lowest true loss wins.

        rows: u (upper 1) or v (upper None) of the side, changed in place; slope: of the penalty, (B, 1, n) on
        the sounding row or (B, K, n) on all.
        """
        strengths = _strengths(rows.dtype, rows.device)
        candidates = self.candidates_of_one if self.one_feels else self.candidates_of_all
        many, norms = candidates(side, rows, cross, gram, slope * side.slope_scale(), strengths, upper)
        batch, c, a, n = many.shape  # a = 1 row or K rows a candidate
        if upper is None:
            products, described = None, many
        else:  # one pass over the tokens for the rows that all share and those of each candidate
            products = torch.cat([rows, many.flatten(1, 2)], 1) @ side.x
            described = products / side.x.shape[1]
        k = rows.shape[1]
        logits = (self.bank.visual_logits if side.visual else self.bank.audio_logits)(
            described if upper is not None else torch.cat([rows, many.flatten(1, 2)], 1), *(() if side.visual else (False,))
        )[0]
        other = self.audio_logits if side.visual else self.visual_logits
        if self.one_feels and other.shape[1] > 1:
            other = take_row(other, self.sounding)[:, None]
        mine, other = logits[:, k:].view(batch, c, a, -1), other[:, None]
        ce_v, ce_a = self.candidate_entropies(side, mine, other)
        best = (side.weight * norms + self.penalty_value(ce_v, ce_a)).argmin(-1)

        def chosen(all_rows: Tensor, into: Tensor) -> Tensor:
            picked = all_rows.gather(1, best[:, None, None, None].expand(-1, 1, a, all_rows.shape[-1])).squeeze(1)
            return picked if a == k and not self.one_feels else set_row(into, self.sounding, picked)

        rows.copy_(chosen(many, rows.clone()))
        if products is not None:
            side.cross = chosen(products[:, k:].view(batch, c, a, -1), products[:, :k].clone())
        if side.visual:
            self.logits = chosen(mine, logits[:, :k].clone())
            self.visual_logits = self.logits

    def candidate_entropies(self, side: Side, mine: Tensor, other: Tensor) -> tuple[Tensor, Tensor | None]:
        """Cross-entropies (B, c, a) of candidates' logits (B, c, a, M) with the other side's (B, 1, 1 or a, M)."""
        if self.recent and self.b4 == 0:
            fit = (mine @ self.target[:, None].mT).squeeze(-1)
            return mine.logsumexp(-1) - fit, None
        return cross_entropies(*((mine, other) if side.visual else (other, mine)))[:2]

    def candidates_of_one(
        self, side: Side, rows: Tensor, cross: Tensor, gram: Tensor, slope: Tensor, strengths: Tensor, upper: float | None
    ) -> tuple[Tensor, Tensor]:
        """Others solved, then the sounding row: (B, c + 1, 1, n) candidates, the last one unchanged, and |R| (B, c + 1)."""
        index = self.sounding
        frozen = torch.zeros(rows.shape[:2], dtype=torch.bool, device=rows.device).scatter_(1, index[:, None], True)
        solve_rows(rows, cross, gram, upper, frozen, PASSES)
        row, against, own = take_row(rows, index)[:, None], take_row(gram, index)[:, None], take_row(cross, index)[:, None]
        weight = against.gather(2, index[:, None, None]).clamp_min(1e-30)
        alone = own - against @ rows + weight * row  # what is left for this row to explain
        many = ((alone - slope * strengths) / weight).clamp_(0.0, upper)
        if self.trust_region > 0 and self.trusted is not None and upper is not None:
            many = self.within_trust_region(many, take_row(self.trusted, index)[:, None]).clamp_(0.0, upper)
        many = torch.cat([many, row], 1)
        gain = (weight * many - 2 * alone).mul_(many).sum(-1)
        now = side.square - 2 * (cross * rows).sum((-1, -2)) + (gram * (rows @ rows.mT)).sum((-1, -2))
        square = now[:, None] + gain - gain[:, -1:]
        return many[:, :, None], square.clamp_min(0).sqrt()

    def candidates_of_all(
        self, side: Side, rows: Tensor, cross: Tensor, gram: Tensor, slope: Tensor, strengths: Tensor, upper: float | None
    ) -> tuple[Tensor, Tensor]:
        """All rows solved together at each strength: (B, c + 1, K, n), the last one unchanged, and |R| (B, c + 1)."""
        batch, k, n = rows.shape
        c = len(strengths)
        pushed = (cross[:, None] - strengths[..., None] * slope[:, None]).flatten(0, 1)
        many = rows.repeat_interleave(c, 0)
        solve_rows(many, pushed, gram.repeat_interleave(c, 0), upper, passes=PASSES)
        many = many.view(batch, c, k, n)
        if self.trust_region > 0 and self.trusted is not None and upper is not None:
            many = self.within_trust_region(many, self.trusted[:, None]).clamp_(0.0, upper)
        many = torch.cat([many, rows[:, None]], 1)
        square = side.square[:, None] - 2 * (cross[:, None] * many).sum((-1, -2))
        square = square + (gram[:, None] * (many @ many.mT)).sum((-1, -2))
        return many, square.clamp_min(0).sqrt()

    def within_trust_region(self, rows: Tensor, centre: Tensor) -> Tensor:
        """Rows moved to at most ``trust_region`` from ``centre``."""
        return torch.minimum(torch.maximum(rows, centre - self.trust_region), centre + self.trust_region)

    def penalty_slope(self, side: Side) -> Tensor:
        """d penalty / d described rows that feel it: (B, 1, C), or (B, K, C) where all do."""
        rows = self.described(side)
        other = self.audio_logits if side.visual else self.visual_logits
        if self.one_feels:
            rows = take_row(rows, self.sounding)[:, None]
            other = other if other.shape[1] == 1 else take_row(other, self.sounding)[:, None]
        if side.visual:
            known = take_row(self.visual_logits, self.sounding)[:, None] if self.one_feels else self.visual_logits
            logits, pull = self.bank.visual_logits(rows, known)
        else:
            logits, pull = self.bank.audio_logits(rows)
        if self.recent and self.one_feels:
            return pull(self.b3 * (logits.softmax(-1) - self.target))
        ce_v, ce_a, log_v, log_a = cross_entropies(*((logits, other) if side.visual else (other, logits)))
        if self.config.penalty == "mean":
            w_v, w_a = torch.full_like(ce_v, self.b3 / ce_v.shape[-1]), torch.full_like(ce_a, self.b4 / ce_v.shape[-1])
        else:
            w_v = torch.zeros_like(ce_v).scatter_(-1, ce_v.argmin(-1, keepdim=True), self.b3)
            w_a = torch.zeros_like(ce_a).scatter_(-1, ce_a.argmin(-1, keepdim=True), self.b4)
        w_v, w_a = w_v[..., None], w_a[..., None]
        p_v, p_a = log_v.exp(), log_a.exp()
        if side.visual:
            return pull(w_v * (p_v - p_a) - w_a * p_v * (log_a + ce_a[..., None]))
        return pull(w_a * (p_a - p_v) - w_v * p_a * (log_v + ce_v[..., None]))


@functools.cache
def _strengths(dtype: torch.dtype, device: torch.device) -> Tensor:
    """STRENGTHS (c, 1), made once: copying them to a GPU within a solve would wait for the host."""
    return torch.tensor(STRENGTHS, dtype=dtype, device=device)[:, None]


def set_row(rows: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """rows (B, K, n) with value (B, 1, n) at row index[b], in place."""
    return rows.scatter_(1, index[:, None, None].expand(-1, 1, rows.shape[-1]), value)
