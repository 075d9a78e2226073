"""The sound's factors as sources: each beside the image factor that it shares a word with. *Ours.*

The objective pairs one factor of the image with one of the sound, the sounding one; which of the others stand side by side is
left to chance. Put beside each other by what they mean, every pair says of one thing where it is and how it sounds.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from taco.config import FactorizationConfig
from taco.factorization.merge import PARALLEL
from taco.factorization.objective import unit, weights
from taco.factorization.problem import Problem, State
from taco.factorization.words import image_evidence
from taco.types import Factorization


def pairs(config: FactorizationConfig) -> bool:
    """Does a solve with these settings end with paired sources? Not where it is to be the paper's, nor without a penalty."""
    return config.solver == "block" and config.binding == "recent" and any(weights(config)[2:])


def paired(problem: Problem, state: State) -> State:
    """``state`` with the sound's factors in another order; nothing else changes.

    The order is the assignment with the greatest sum of ``agreement``, so that one word's sound goes where the word is seen.
    """
    cross = state.known.audio_cross if state.known else state.audio_u @ problem.audio
    agreed = agreement(problem, state, cross)
    order = torch.stack([torch.from_numpy(linear_sum_assignment(each, maximize=True)[1]) for each in agreed.cpu().numpy()])
    order = order.to(agreed.device)[..., None]

    def moved(rows: Tensor) -> Tensor:
        return rows.gather(1, order.expand_as(rows))

    known = state.known and replace(state.known, audio_cross=moved(cross))
    return replace(state, audio_u=moved(state.audio_u), audio_v=moved(state.audio_v), known=known)


def source_activations(factorization: Factorization) -> Tensor:
    """(T, K) in [0, 1]: where in the sound each factor's source is: U_a of all the factors that sound like it, together."""
    rows = unit(factorization.audio_factors)
    alike = (rows @ rows.mT > PARALLEL).to(rows)
    return (factorization.audio_activations @ alike).clamp(0, 1)


def agreement(problem: Problem, state: State, audio_cross: Tensor) -> Tensor:
    """(B, K, K) in [0, 1]: how likely image factor i and sound factor j mean the same word of the bank.

    audio_cross: U_a^T X_a (B, K, C_a). A factor without activation agrees with none.
    """
    visual_cross = state.known.visual_cross if state.known else state.visual_u @ problem.visual
    area = state.visual_u.sum(-1, keepdim=True)
    seen = image_evidence(visual_cross / area.clamp_min(1e-12), problem.bank.anchors) * (area > 0)
    heard = problem.bank.audio_logits(audio_cross, grad=False)[0].softmax(-1) * (state.audio_u.sum(-1, keepdim=True) > 0)
    return seen @ heard.mT
