"""A thing is all of its factors: image factors that show the same thing become one. *Ours.*

The objective does not mind how many factors share a thing, so that the sounding factor alone may hold half of it. The factors
that go into another are left without activation; the next warm start points them at what is explained worst (``revived``).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from taco.config import FactorizationConfig
from taco.factorization.objective import squared_residual, unit, weights
from taco.factorization.problem import Problem, State
from taco.factorization.words import image_evidence

PARALLEL = 0.9  # cosine of two rows of V from which they show the same: halves of a made thing have .96, two things .65
SURE = 0.2  # probability of a word from which a factor shows it; both chosen on stamps, val


def merges(config: FactorizationConfig) -> bool:
    """Does a solve with these settings end with merged factors? By itself not where it is to be the paper's."""
    ours = config.solver == "block" and config.binding == "recent"
    return config.merge == "always" or (config.merge == "auto" and ours)


def merged(problem: Problem, state: State) -> State:
    """``state`` with every group of alike image factors in one: the sounding one, else the largest.

    A group with a word counts each of its factors as much as its row speaks for the word: so is the mean row weighed, and
    so are the activations, which then answer to the word as all of them did. A group of parallel rows without a word has their
    mean by activation, and the activations of the least-squares fit. The others of the group become zero. The sound's factors
    stay as they are. No value is looked at from the host.
    """
    u, v = state.visual_u, state.visual_v
    cross = u @ problem.visual if state.known is None else state.known.visual_cross
    sure, word = _words(problem, u, cross)
    joined = _joined(alike(u, v, sure, word))
    area = rank = u.sum(-1)
    if weights(problem.config)[2] > 0:  # else the sound has no say
        rank = area.scatter(-1, state.sounding[:, None], torch.inf)
    leader = rank[:, None].masked_fill(~joined, -1.0).argmax(-1)  # (B, K): whom each factor goes into
    into = torch.nn.functional.one_hot(leader, u.shape[1]).mT.to(u)  # (B, leaders, members)
    toward = problem.bank.anchors.visual.to(v)[word.gather(-1, leader)]  # the word of the group
    speaks = (v * toward).sum(-1).clamp_min(0)
    named = (sure > 0).gather(-1, leader) & (speaks.gather(-1, leader) > 0)
    mass = into * torch.where(named, area * speaks, area)[:, None]
    mean = mass @ v / mass.sum(-1, keepdim=True).clamp_min(1e-12)
    heads = mean.gather(1, leader[..., None].expand_as(v))  # the row that stands for each factor
    along = torch.where(named[..., None], toward, heads)
    fit = torch.where(named, speaks, (v * heads).sum(-1)) / (heads * along).sum(-1).clamp_min(1e-30)
    share = into * fit[:, None]
    peak = (share @ u).amax(-1, keepdim=True).clamp_min(1.0)
    share, rows = share / peak, mean * peak
    alone = joined.sum(-1, keepdim=True) == 1
    new_u, new_v = torch.where(alone, u, share @ u), torch.where(alone, v, rows)
    cross = torch.where(alone, cross, share @ cross)
    norm = squared_residual(problem.visual, problem.visual_square, new_u, new_v, cross, new_u @ new_u.mT)
    known = state.known and replace(
        state.known,
        visual_cross=cross,
        visual_norm=norm.clamp_min(0).sqrt(),
        visual_logits=problem.bank.visual_logits(cross if problem.config.descriptor == "component" else new_v)[0],
    )
    sounding = leader.gather(-1, state.sounding[:, None]).squeeze(-1)
    return replace(state, visual_u=new_u, visual_v=new_v, sounding=sounding, known=known)


def _words(problem: Problem, u: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) each: how likely each factor shows its word, 0 where that is not sure; and the word's index.

    Sure of a word is only who could say that it is none of the bank's.
    """
    anchors = problem.bank.anchors
    sure, word = image_evidence(cross / u.sum(-1, keepdim=True).clamp_min(1e-12), anchors).max(-1)
    if anchors.visual_others is None:
        return torch.zeros_like(sure), word
    return sure * (sure > SURE), word


def alike(u: Tensor, v: Tensor, sure: Tensor, word: Tensor) -> Tensor:
    """(B, K, K) bool: do two factors show the same? The same word, both sure; or rows nearly parallel, but not two words.

    They need not touch: several of a kind are one thing here, and a thing behind another comes in pieces.
    """
    rows = unit(v)
    both = (sure[:, None] > 0) & (sure[..., None] > 0)
    one_word = word[:, None] == word[..., None]
    same = torch.where(both, one_word, rows @ rows.mT > PARALLEL)
    shown = u.sum(-1) > 0
    return same & shown[:, None] & shown[..., None]


def _joined(pairs: Tensor) -> Tensor:
    """(B, K, K) bool: are two factors of one group, directly or by way of others?"""
    k = pairs.shape[-1]
    reach = pairs | torch.eye(k, dtype=torch.bool, device=pairs.device)
    for _ in range((k - 1).bit_length()):
        reach = (reach.float() @ reach.float()) > 0
    return reach


def revived(tokens: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """V (B, K, C) in which every factor without activation points at what the others explain worst.

    tokens: X (B, N, C), u: U^T (B, K, N). Each takes the positive part of the residual of the token with most of it; what of
    the others' residuals lies along that no longer counts for the next one.
    """
    idle = u.sum(-1) <= 0  # (B, K)
    some = range(v.shape[1]) if tokens.is_cuda else idle.any(0).nonzero().flatten().tolist()
    if not some:
        return v
    residual = tokens - u.mT @ v
    left = residual.square().sum(-1)  # (B, N)
    v = v.clone()
    for k in some:
        row = residual.gather(1, left.argmax(-1)[:, None, None].expand(-1, 1, v.shape[-1]))
        along = (residual @ unit(row).mT).squeeze(-1)
        left = left - along.square() * idle[:, k, None]
        v[:, k] = torch.where(idle[:, k, None], row.squeeze(1).clamp_min(0), v[:, k])
    return v
