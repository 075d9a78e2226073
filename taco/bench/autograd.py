"""The paper's solver as one would write it with autograd: what ``taco bench solver`` measures against.

Written to be fair: anchors are normalised once and compared by matrix products, gradients come from one backward call.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from taco.config import FactorizationConfig
from taco.types import Anchors, Factorization

HALVED_AT = (500, 1000, 1500)


def loss_of(visual, audio, parts, anchors: Anchors, words_v: Tensor, words_a: Tensor, config: FactorizationConfig):
    """Loss of one frame (penalty "min", descriptor "component") and k*; parts: u_v, v_v, u_a, v_a."""
    u_v, v_v, u_a, v_a = parts
    c_v, c_a = u_v.T @ visual / len(visual), u_a.T @ audio / len(audio)
    if anchors.audio_projection is not None:
        c_a = anchors.audio_projection(c_a)
    d_v = F.normalize(c_v, dim=-1) @ words_v.T
    d_a = anchors.audio_logit_scale * F.normalize(c_a, dim=-1) @ words_a.T
    ce = -(d_a.softmax(-1) * d_v.log_softmax(-1)).sum(-1)
    norms = torch.linalg.norm(visual - u_v @ v_v) + torch.linalg.norm(audio - u_a @ v_a)
    return norms + config.penalty_weight * ce.min(), int(ce.argmin())


def solve_autograd(visual: Tensor, audio: Tensor, anchors: Anchors, config: FactorizationConfig, init: Factorization, steps: int):
    """``steps`` of plain gradient descent from ``init``; returns a Factorization (without losses)."""
    words_v, words_a = F.normalize(anchors.visual, dim=-1), F.normalize(anchors.audio, dim=-1)
    logits_v = torch.logit(init.visual_activations, eps=1e-7).requires_grad_()
    logits_a = torch.logit(init.audio_activations, eps=1e-7).requires_grad_()
    v_v, v_a = init.visual_factors.clone().requires_grad_(), init.audio_factors.clone().requires_grad_()
    leaves, rate, best = (logits_v, v_v, logits_a, v_a), config.learning_rate, 0
    u_v, u_a = init.visual_activations, init.audio_activations
    for step in range(steps):
        rate /= 2 if step in HALVED_AT else 1
        u_v, u_a = logits_v.sigmoid(), logits_a.sigmoid()
        loss, best = loss_of(visual, audio, (u_v, v_v, u_a, v_a), anchors, words_v, words_a, config)
        loss.backward()
        with torch.no_grad():
            for leaf in leaves:
                leaf -= rate * leaf.grad
                leaf.grad = None
            v_v.clamp_(min=0)
            v_a.clamp_(min=0)
    parts = [part.detach() for part in (u_v, v_v, u_a, v_a)]
    return Factorization(*parts, sounding=best, iterations=steps)
