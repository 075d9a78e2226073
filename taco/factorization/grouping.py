"""Which factors belong together. *Ours.*

An object is all of its factors: image factors that show the same as the sounding one are merged into it. The objective does not
mind how many factors share an object, so that the sounding factor alone may hold half of it. Factors that were merged into
another have no activation left; the next warm start points them at what is explained worst (``revive_idle``).

Sources: the sound's factors, each beside the image factor that it shares a word with. The objective pairs one factor of the image
with one of the sound, the sounding one, and leaves the others to chance. Paired by what they mean, each pair says of one object
where it is and how it sounds.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from taco.config import FactorizationConfig
from taco.factorization.anchors import image_evidence, unit
from taco.factorization.assignment import best_assignment
from taco.factorization.objective import Problem, State, add_row, loss_weights, squared_residual, take_row
from taco.types import Factorization

PARALLEL = 0.9  # cosine of two rows of V from which they show the same: halves of a made object have .96, two objects .65
ACTIVE = 0.5  # share of a factor's maximum from which a token belongs to it
SURE = 0.2  # probability of a word from which a factor shows it; both chosen on composed scenes, val


def merges_factors(config: FactorizationConfig) -> bool:
    """Does a solve with these settings end with merged factors?

    Not where it follows the paper (unless ``merge`` is "always"), nor without a penalty: then the image's factors do not depend
    on the sound.
    """
    ours = config.solver == "block" and config.binding == "recent"
    return loss_weights(config)[2] > 0 and (config.merge == "always" or (config.merge == "auto" and ours))


def merge_factors(problem: Problem, state: State) -> State:
    """``state`` with all image factors that show what the sounding one shows gone into it; they become zero themselves.

    Where the object has a word each factor counts as much as its row speaks for the word: so is the mean row weighed, and so
    are the activations, which then answer to the word as all of them did. Without one, of parallel rows, it is their mean by
    activation, and the activations of the least-squares fit. The sound's factors stay as they are. No value is looked at from
    the host.
    """
    u, v, k = state.visual_u, state.visual_v, state.sounding
    assert k is not None, "a solved state"
    cross = u @ problem.visual if state.products is None else state.products.visual_cross
    sure, word = _words(problem, u, cross)
    group = take_row(_joined(show_the_same(u, v, sure, word, problem.visual_grid)), k)  # (B, K)
    toward = problem.bank.anchors.visual.to(v)[word.gather(1, k[:, None])]  # (B, 1, C): the word of the object
    speaks = (v * toward).sum(-1).clamp_min(0)
    named = (sure.gather(1, k[:, None]) > 0) & (speaks.gather(1, k[:, None]) > 0)  # (B, 1)
    mass = group * u.sum(-1) * torch.where(named, speaks, 1.0)
    row = (mass[:, None] @ v) / mass.sum(-1)[:, None, None].clamp_min(1e-12)  # (B, 1, C)
    along = torch.where(named[..., None], toward, row)
    fit = group * (v * along).sum(-1).clamp_min(0) / (row * along).sum(-1).clamp_min(1e-30)
    whole = fit[:, None] @ u
    peak = whole.amax(-1, keepdim=True).clamp_min(1.0)
    alone = group.sum(-1)[:, None, None] == 1

    def gathered(rows: Tensor, one: Tensor) -> Tensor:
        rest = rows.masked_fill(group[..., None], 0.0)
        return torch.where(alone, rows, add_row(rest, k, one))

    new_u, new_v = gathered(u, whole / peak), gathered(v, row * peak)
    cross = gathered(cross, fit[:, None] @ cross / peak)
    norm = squared_residual(problem.visual, problem.visual_square, new_u, new_v, cross, new_u @ new_u.mT)
    products = state.products and replace(
        state.products,
        visual_cross=cross,
        visual_norm=norm.clamp_min(0).sqrt(),
        visual_logits=problem.bank.visual_logits(cross if problem.config.descriptor == "component" else new_v)[0],
    )
    return replace(state, visual_u=new_u, visual_v=new_v, products=products)


def _words(problem: Problem, u: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K) each: how likely each factor shows its word, 0 where that is not sure; and the word's index.

    Only an encoder that knows objects outside the bank can be sure of a word.
    """
    anchors = problem.bank.anchors
    sure, word = image_evidence(cross / u.sum(-1, keepdim=True).clamp_min(1e-12), anchors).max(-1)
    if anchors.visual_others is None:
        return torch.zeros_like(sure), word
    return sure * (sure > SURE), word


def show_the_same(u: Tensor, v: Tensor, sure: Tensor, word: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """(B, K, K) bool: do two factors show the same? The same word, both sure, or rows nearly parallel that are not two words;

    and they touch: tokens in which they are active overlap or are neighbours (all do where no grid is known).
    """
    rows = unit(v)
    both = (sure[:, None] > 0) & (sure[..., None] > 0)
    one_word = word[:, None] == word[..., None]
    same = torch.where(both, one_word, rows @ rows.mT > PARALLEL)
    shown = u.sum(-1) > 0
    return same & shown[:, None] & shown[..., None] & _touching(u, grid)


def _touching(u: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """(B, K, K) bool: have two factors active tokens that overlap or are neighbours?"""
    if grid is None:
        return torch.ones_like(u @ u.mT, dtype=torch.bool)
    inside = (u > ACTIVE * u.amax(-1, keepdim=True)).to(u)
    wide = torch.nn.functional.max_pool2d(inside.reshape(*inside.shape[:-1], *grid), 3, 1, 1).flatten(-2)
    return wide @ inside.mT > 0


def _joined(same: Tensor) -> Tensor:
    """(B, K, K) bool: are two factors of one group, directly or by way of others?"""
    k = same.shape[-1]
    reach = same | torch.eye(k, dtype=torch.bool, device=same.device)
    for _ in range((k - 1).bit_length()):
        reach = (reach.float() @ reach.float()) > 0
    return reach


def revive_idle(tokens: Tensor, u: Tensor, v: Tensor) -> Tensor:
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


def pairs_sources(config: FactorizationConfig) -> bool:
    """Does a solve with these settings end with paired sources? Not where it follows the paper, nor without a penalty."""
    return config.solver == "block" and config.binding == "recent" and any(loss_weights(config)[2:])


def pair_sources(problem: Problem, state: State) -> tuple[State, Tensor]:
    """``state`` with the sound's factors in another order, nothing else changed; and the factors' audio logits (B, K, M).

    The order is the assignment with the greatest sum of ``word_agreement``, so that one word's sound goes where the word is seen.
    """
    cross = state.products.audio_cross if state.products else state.audio_u @ problem.audio
    logits = problem.bank.audio_logits(cross, grad=False)[0]
    agreed = word_agreement(problem, state, logits)
    order = torch.stack([torch.from_numpy(best_assignment(each)) for each in agreed.cpu().numpy()])
    order = order.to(agreed.device)[..., None]

    def moved(rows: Tensor) -> Tensor:
        return rows.gather(1, order.expand_as(rows))

    products = state.products and replace(state.products, audio_cross=moved(cross))
    return replace(state, audio_u=moved(state.audio_u), audio_v=moved(state.audio_v), products=products), moved(logits)


def source_activations(factorization: Factorization) -> Tensor:
    """(T, K) in [0, 1]: where in the sound each factor's source is: U_a of all the factors that sound like it, together."""
    rows = unit(factorization.audio_factors)
    parallel = (rows @ rows.mT > PARALLEL).to(rows)
    return (factorization.audio_activations @ parallel).clamp(0, 1)


def word_agreement(problem: Problem, state: State, audio_logits: Tensor) -> Tensor:
    """(B, K, K) in [0, 1]: how likely image factor i and sound factor j mean the same word of the bank.

    audio_logits: (B, K, M) of U_a^T X_a. A factor without activation agrees with none.
    """
    visual_cross = state.products.visual_cross if state.products else state.visual_u @ problem.visual
    area = state.visual_u.sum(-1, keepdim=True)
    shown = image_evidence(visual_cross / area.clamp_min(1e-12), problem.bank.anchors) * (area > 0)
    sounding = audio_logits.softmax(-1) * (state.audio_u.sum(-1, keepdim=True) > 0)
    return shown @ sounding.mT
