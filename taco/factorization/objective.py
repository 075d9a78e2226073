"""The co-factorization objective (paper Eqs. 4 to 6) and its gradients in closed form.

Everything is batched: activations are kept transposed, U^T (B, K, N), factors V (B, K, C), tokens
X (B, N, C). One pass U^T X gives the pooled components, the gradient on V and most of |X - U V|_F.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from taco.config import FactorizationConfig
from taco.factorization.words import WordBank

# Below this share of |X|^2 the Gram form of |X - U V|^2 has lost its digits and the residual is formed.
CANCELLATION = {torch.float32: 1e-3, torch.float64: 1e-9}


@dataclass(slots=True)
class Penalty:
    """What the semantic penalty says of one set of components.

    visual, audio: (B, K) cross-entropies CE_v and CE_a. sounding: (B,) long, argmin CE_v.
    value: (B,) b3 min CE_v + b4 min CE_a (or means). visual_gradient, audio_gradient: of value with
    respect to what was compared, (B, K, C_v) and (B, K, C_a); None where no gradient was asked for.
    """

    visual: Tensor
    audio: Tensor
    sounding: Tensor
    value: Tensor
    visual_gradient: Tensor | None = None
    audio_gradient: Tensor | None = None


def weights(config: FactorizationConfig) -> tuple[float, float, float, float]:
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
    bank: WordBank,
    visual: Tensor,
    audio: Tensor,
    config: FactorizationConfig,
    gradient: bool = True,
    visual_logits: Tensor | None = None,
) -> Penalty:
    """The semantic penalty of descriptors of ``visual`` (B, K, C_v) and ``audio`` (B, K, C_a).

    The targets of both cross-entropies are not detached: each side pulls on the other. visual_logits:
    those of ``visual``, where they are known and no gradient is wanted.
    """
    _, _, b3, b4 = weights(config)
    gradient = gradient and (b3 > 0 or b4 > 0)
    d_v, pull_v = bank.visual_logits(visual) if gradient or visual_logits is None else (visual_logits, None)
    d_a, pull_a = bank.audio_logits(audio, grad=gradient)
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


def unit(vectors: Tensor) -> Tensor:
    """Rows (..., C) scaled to length 1; zero rows stay zero."""
    return vectors / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(1e-12)
