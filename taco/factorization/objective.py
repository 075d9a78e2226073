"""The co-factorization objective (paper Eqs. 4 to 6) and its gradients in closed form.

Everything is batched: activations are kept transposed, U^T (B, K, N), factors V (B, K, C), tokens
X (B, N, C). One pass U^T X gives the pooled components, the gradient on V and most of |X - U V|_F.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from taco.config import FactorizationConfig
from taco.factorization.anchors import PreparedAnchors, no_pull
from taco.factorization.temporal import clip_consistency, cosine_pull, neighbours

# Ours: below this share of |X|^2 the Gram form of |X - U V|^2 has lost its digits and the residual is formed. Some ten thousand
# times the machine's epsilon of float32, more of float64.
CANCELLATION = {torch.float32: 1e-3, torch.float64: 1e-9}


@dataclass(slots=True)
class Penalty:
    """The semantic penalty of one set of descriptors.

    visual, audio: (B, K) cross-entropies CE_v and CE_a.
    sounding: (B,) long, argmin CE_v.
    value: (B,) b3 min CE_v + b4 min CE_a (or means).
    visual_gradient, audio_gradient: of value with respect to the descriptors, (B, K, C_v) and (B, K, C_a); None where no
        gradient was asked for.
    """

    visual: Tensor
    audio: Tensor
    sounding: Tensor
    value: Tensor
    visual_gradient: Tensor | None = None
    audio_gradient: Tensor | None = None


def loss_weights(config: FactorizationConfig) -> tuple[float, float, float, float]:
    """(b1, b2, b3, b4) of Eq. 6; the last two are 0 with penalty="none"."""
    b1, b2 = config.reconstruction_weights
    if config.penalty == "none":
        return b1, b2, 0.0, 0.0
    return b1, b2, config.penalty_weight, config.reverse_penalty_weight


def cross_entropies(visual_logits: Tensor, audio_logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """CE_v, CE_a (B, K), and the log-softmaxes (B, K, M) of both descriptors."""
    log_v, log_a = visual_logits.log_softmax(-1), audio_logits.log_softmax(-1)
    return -(log_a.exp() * log_v).sum(-1), -(log_v.exp() * log_a).sum(-1), log_v, log_a


def penalty(
    bank: PreparedAnchors,
    visual: Tensor,
    audio: Tensor,
    config: FactorizationConfig,
    gradient: bool = True,
    visual_logits: Tensor | None = None,
    audio_logits: Tensor | None = None,
) -> Penalty:
    """The semantic penalty of descriptors of ``visual`` (B, K, C_v) and ``audio`` (B, K, C_a).

    The targets of both cross-entropies are not detached: each side pulls on the other. visual_logits, audio_logits:
    those of ``visual`` and ``audio``, where they are known; with known audio logits there is no gradient.
    """
    _, _, b3, b4 = loss_weights(config)
    gradient = gradient and audio_logits is None and (b3 > 0 or b4 > 0)
    d_v, pull_v = bank.visual_logits(visual, visual_logits)
    d_a, pull_a = bank.audio_logits(audio, grad=gradient) if audio_logits is None else (audio_logits, no_pull)
    ce_v, ce_a, log_v, log_a = cross_entropies(d_v, d_a)
    sounding = ce_v.argmin(-1)
    if config.penalty == "mean":
        value = b3 * ce_v.mean(-1) + b4 * ce_a.mean(-1)
    else:
        value = b3 * ce_v.amin(-1) + b4 * ce_a.amin(-1)
    out = Penalty(ce_v, ce_a, sounding, value)
    if not gradient:
        return out
    if config.penalty == "mean":
        w_v, w_a = torch.full_like(ce_v, b3 / ce_v.shape[-1]), torch.full_like(ce_a, b4 / ce_a.shape[-1])
    else:
        w_v = torch.zeros_like(ce_v).scatter_(-1, sounding[:, None], b3)
        w_a = torch.zeros_like(ce_a).scatter_(-1, ce_a.argmin(-1)[:, None], b4)
    p_v, p_a = log_v.exp(), log_a.exp()
    w_v, w_a = w_v[..., None], w_a[..., None]
    g_v = w_v * (p_v - p_a)
    g_a = -w_v * p_a * (log_v + ce_v[..., None])
    if b4 > 0:
        g_v -= w_a * p_v * (log_a + ce_a[..., None])
        g_a += w_a * (p_a - p_v)
    out.visual_gradient, out.audio_gradient = pull_v(g_v), pull_a(g_a)
    return out


def squared_residual(tokens: Tensor, square: Tensor, activations: Tensor, factors: Tensor, cross: Tensor, gram: Tensor) -> Tensor:
    """|X - U V|_F^2 (B,) from Gram matrices.

    square: (B,) |X|^2. activations: U^T (B, K, N). cross: U^T X (B, K, C). gram: U^T U (B, K, K).
    Where U V is so near to X that the difference has lost its digits, the residual is formed.
    """
    value = square - 2 * (cross * factors).sum((-1, -2)) + (gram * (factors @ factors.mT)).sum((-1, -2))
    limit = CANCELLATION.get(tokens.dtype, 1e-3) * square
    if tokens.is_cuda:  # no look at the values from the host: form it always, it is one more product
        exact = (tokens - activations.mT @ factors).square().sum((-1, -2))
        return torch.where(value < limit, exact, value)
    if bool((value < limit).any()):
        return (tokens - activations.mT @ factors).square().sum((-1, -2))
    return value


@dataclass(slots=True)
class SolverProducts:
    """What a solver has at hand at its end, so that it is not computed again.

    visual_cross, audio_cross: U^T X (B, K, C) of each side.
    visual_norm, audio_norm: |X - U V|_F (B,) of each side.
    visual_logits: (B, K, M) of what is compared with the words.
    """

    visual_cross: Tensor
    audio_cross: Tensor
    visual_norm: Tensor
    audio_norm: Tensor
    visual_logits: Tensor


@dataclass(slots=True)
class State:
    """U and V of both modalities, at the start or the end of a solve.

    visual_u, audio_u: U^T, (B, K, N) and (B, K, T).
    visual_v, audio_v: V, (B, K, C_v) and (B, K, C_a).
    sounding: (B,) long, k*; None before it is chosen.
    products: of the block solver at its end.
    """

    visual_u: Tensor
    visual_v: Tensor
    audio_u: Tensor
    audio_v: Tensor
    sounding: Tensor | None = None
    products: SolverProducts | None = None


@dataclass(slots=True)
class Problem:
    """What both solvers work on: B frames, checked.

    visual, audio: X_v (B, N, C_v) and X_a (B, T, C_a), both >= 0.
    visual_square, audio_square: (B,) |X|^2.
    bank: the word bank in both spaces.
    config: the settings.
    recent: (B, C_a) mean of the sound's tokens, the newest counting most.
    recent_logits: (B, 1, M) its logits.
    visual_grid: (rows, columns) of the image tokens, where they are known.
    previous_visual, previous_audio: (B, C) unit rows that the causal term pulls the sounding factors toward; zero rows where
        a frame has no past. None without that term.
    linked: (B - 1,) 1 where two frames of a clip are coupled (joint term), else None.
    """

    visual: Tensor
    audio: Tensor
    visual_square: Tensor
    audio_square: Tensor
    bank: PreparedAnchors
    config: FactorizationConfig
    recent: Tensor
    recent_logits: Tensor
    visual_grid: tuple[int, int] | None = None
    previous_visual: Tensor | None = None
    previous_audio: Tensor | None = None
    linked: Tensor | None = None

    @property
    def frames(self) -> int:
        """B."""
        return self.visual.shape[0]

    def select(self, frames: Tensor) -> Problem:
        """The problem of some frames (never of a coupled clip)."""
        names = ["visual", "audio", "visual_square", "audio_square", "recent", "recent_logits", "previous_visual"]
        parts = {name: getattr(self, name) for name in [*names, "previous_audio"]}
        chosen: dict[str, Any] = {name: None if part is None else part[frames] for name, part in parts.items()}
        return replace(self, **chosen)

    @property
    def temporal_weight(self) -> float:
        """Weight of the term in the summed loss: a joint term is added to each of the B losses."""
        return self.config.temporal_weight * (self.frames if self.linked is not None else 1)

    def temporal_target(self, rows: Tensor, visual: bool) -> Tensor | None:
        """(B, C) that the sounding rows are pulled toward, None without a temporal term."""
        if self.linked is not None:
            return neighbours(rows, self.linked)
        return self.previous_visual if visual else self.previous_audio

    def temporal_gradient(self, factors: Tensor, sounding: Tensor, visual: bool) -> Tensor | None:
        """Gradient of - weight * cosines on the sounding rows (B, 1, C) of factors (B, K, C)."""
        if self.config.temporal_weight == 0:
            return None
        rows = take_row(factors, sounding)
        target = self.temporal_target(rows, visual)
        return None if target is None else cosine_pull(rows, target)[:, None] * -self.temporal_weight


def take_row(rows: Tensor, index: Tensor) -> Tensor:
    """rows[b, index[b]] of rows (B, K, n): (B, n)."""
    return rows.gather(1, index[:, None, None].expand(-1, 1, rows.shape[-1])).squeeze(1)


def add_row(rows: Tensor, index: Tensor, value: Tensor) -> Tensor:
    """rows with value (B, 1, n) added at row index[b]; in place."""
    return rows.scatter_add_(1, index[:, None, None].expand(-1, 1, rows.shape[-1]), value)


def loss_terms(problem: Problem, state: State, audio_logits: Tensor | None = None) -> dict[str, Tensor]:
    """Every term of the objective at ``state``, each (B,), unweighted, and their weighted "total".

    audio_logits: (B, K, M) of the pooled components U_a^T X_a, where they are known. "temporal" is the sum of cosines that is
    subtracted; for a clip it is the whole clip's.
    """
    config = problem.config
    b1, b2, b3, b4 = loss_weights(config)
    products = state.products
    if products is not None:
        cross_v, cross_a, norm_v, norm_a = products.visual_cross, products.audio_cross, products.visual_norm, products.audio_norm
    else:
        cross_v, cross_a = state.visual_u @ problem.visual, state.audio_u @ problem.audio
        norm_v = _norm(problem.visual, problem.visual_square, state.visual_u, state.visual_v, cross_v)
        norm_a = _norm(problem.audio, problem.audio_square, state.audio_u, state.audio_v, cross_a)
    if config.descriptor == "component":
        described = cross_v / problem.visual.shape[1], cross_a / problem.audio.shape[1]
    else:
        described = state.visual_v, state.audio_v
    known = products.visual_logits if products else None, audio_logits if config.descriptor == "component" else None
    found = penalty(problem.bank, *described, config, False, *known)
    reduce: Callable[[Tensor, int], Tensor] = torch.mean if config.penalty == "mean" else torch.amin
    forward, reverse = reduce(found.visual, -1), reduce(found.audio, -1)
    sounding = state.sounding if state.sounding is not None else found.sounding
    rows = take_row(state.visual_v, sounding), take_row(state.audio_v, sounding)
    temporal = torch.zeros_like(norm_v)
    if problem.linked is not None:
        temporal = temporal + sum(clip_consistency(part, problem.linked) for part in rows)
    else:
        for part, past in zip(rows, (problem.previous_visual, problem.previous_audio)):
            if past is not None:
                temporal = temporal + torch.cosine_similarity(part, past, dim=-1)
    total = b1 * norm_v + b2 * norm_a + b3 * forward + b4 * reverse - config.temporal_weight * temporal
    return {
        "visual_reconstruction": norm_v,
        "audio_reconstruction": norm_a,
        "penalty": forward,
        "reverse_penalty": reverse,
        "temporal": temporal,
        "total": total,
    }


def _norm(tokens: Tensor, square: Tensor, u: Tensor, v: Tensor, cross: Tensor) -> Tensor:
    return squared_residual(tokens, square, u, v, cross, u @ u.mT).clamp_min(0).sqrt()
