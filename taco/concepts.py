"""From factors to words: which factor is heard, what it is called, and whether anything in view is heard at all.

Knows tokens and word vectors only, so that it serves any pair of encoders. The paper names k* by its
nearest word and never says "nothing" (section 3.4); naming with both senses, and the score, are *ours*.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from taco.config import ConceptsConfig
from taco.types import Anchors, Concept, Factorization, Tokens

HEARD_FLOOR, SEEN_FLOOR = 1e-3, 1e-2  # of probabilities, so that no single sense can veto a word for good
BANK_WEIGHT, BANK_POWER = 1.25, 0.6  # measured with banks of 7 and 69 words
STEADY_WIDTH = 0.003  # how softly min_variation sets in
OTHERS = -3.0  # log-odds of things outside the word bank against those in it, before looking
EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Heard:
    """score: in [0, 1], how sure we are that something in view is heard. concepts: best first; empty below ``min_score``."""

    score: float
    concepts: tuple[Concept, ...]


def name_concepts(
    factorization: Factorization, visual: Tokens, audio: Tokens, anchors: Anchors, config: ConceptsConfig, before: str = ""
) -> Heard:
    """What is heard and seen in one frame. before: the word of the frame before, for which ``hysteresis`` holds.

    naming "joint": sound and image both vote for every pair of factor and word, and the best pair
    wins. naming "factor" (the paper's): the sounding factor k*, called by the word nearest to it.
    "auto": the paper's where the image model is compared by cosines, as the paper's is. The score is
    the same in both: see ``sounding_score`` and ``liveliness``.
    """
    if factorization.sounding < 0 or not bool(torch.isfinite(audio.values).all()):
        return Heard(0.0, ())
    heard = word_probabilities(pooled_sound(audio)[None], anchors)[0]  # (M,)
    seen = image_evidence(pooled_components(factorization, visual), anchors)  # (K, M)
    score = sounding_score(heard, seen)
    # Steady noise has to convince by far more: a long note may be steady too, but ear and eye agree on it.
    alive = liveliness(audio, config.min_variation)
    score *= alive + (1.0 - alive) * score**4
    if score < config.min_score * (config.hysteresis if before else 1.0):
        return Heard(score, ())
    if config.naming == "factor" or (config.naming == "auto" and anchors.visual_logit_scale is not None):
        concepts = [_paper_concept(factorization, anchors, config, score)]
    else:
        concepts = _joint_concepts(heard, seen, anchors, config, score)
    held = score >= config.min_score or concepts[0].label == before
    return Heard(score, tuple(concepts) if held else ())


def _joint_concepts(heard: Tensor, seen: Tensor, anchors: Anchors, config: ConceptsConfig, score: float) -> list[Concept]:
    votes = (heard + HEARD_FLOOR).log() + config.image_weight * (seen + SEEN_FLOOR).log()
    concepts = []
    for factor, word in _best_pairs(votes, heard, seen, config.max_concepts):
        shares = torch.softmax(votes[factor], 0)
        shares[word] = shares.max()  # later concepts are named by their own word
        labels = _labels(shares, anchors.words, config.n_labels, first=word)
        concepts.append(Concept(factor, labels, score, anchors.visual[word].clone()))
    return concepts


def word_probabilities(components: Tensor, anchors: Anchors) -> Tensor:
    """(n, C_a) pooled audio -> (n, M) softmax(s cos(P(component), A_a)), the paper's softmax(d_a) (section 3.3)."""
    projected = anchors.audio_projection(components) if anchors.audio_projection else components
    cosines = F.normalize(projected, dim=-1) @ F.normalize(anchors.audio, dim=-1).T
    return torch.softmax(anchors.audio_logit_scale * cosines, -1)


def pooled_sound(audio: Tokens) -> Tensor:
    """(C_a,) mean of the window's tokens, the newest counting e times the oldest: a change of sound is followed sooner."""
    weights = torch.linspace(-1, 0, audio.grid[1]).exp().to(audio.values)
    return (audio.on_grid(audio.values).mean(0) * (weights / weights.sum())[:, None]).sum(0)


def pooled_components(factorization: Factorization, visual: Tokens) -> Tensor:
    """(K, C_v) mean token of each factor, weighted by its activations: the paper's component less its size (section 3.3)."""
    activations = factorization.visual_activations
    return activations.T @ visual.values / activations.sum(0)[:, None].clamp_min(EPS)


def image_evidence(components: Tensor, anchors: Anchors) -> Tensor:
    """(K, C_v) -> (K, M) in [0, 1]: how likely each component shows each word rather than another or a thing outside the bank.

    A softmax over the words, and over ``visual_others`` where the encoder has them: of cosines times the
    image model's own scale where it has one, else of products (closed vocabularies: they are logits).
    """

    def logits(vectors: Tensor) -> Tensor:
        if anchors.visual_logit_scale is None:
            return components @ vectors.T
        return anchors.visual_logit_scale * F.normalize(components, dim=-1) @ F.normalize(vectors, dim=-1).T

    found = logits(anchors.visual)
    if anchors.visual_others is None or not len(anchors.visual_others):
        return found.softmax(-1)
    rest = logits(anchors.visual_others).logsumexp(-1, keepdim=True) + OTHERS
    return torch.cat([found, rest], -1).softmax(-1)[:, :-1]


def sounding_score(heard: Tensor, seen: Tensor) -> float:
    """In [0, 1]: what is heard and in view against the best guess for something out of view.

    inside = max_k sum_w heard[w] seen[k, w]: that ear and eye mean the same word, in the best factor.
    outside = max_w heard[w] (1 - max_k seen[k, w]): the likeliest word that no factor shows. The score
    is the odds inside : outside times 1.25 M^0.6, as a probability: of M words, the luckiest wrong one
    stands out the more the more there are. 0.5 lets about nine of ten true frames pass (stamps, val).
    """
    inside = float((seen @ heard).max())
    outside = float((heard * (1.0 - seen.amax(0))).max())
    weighted = inside * BANK_WEIGHT * len(heard) ** BANK_POWER
    return weighted / max(weighted + outside, EPS)


def liveliness(audio: Tokens, least: float) -> float:
    """In [0, 1]: near 0 for steady noise, whose tokens vary less than ``least`` of their length over the window.

    Frozen sound models name noises freely, but steadily. Features that a model gives only once a
    window tell nothing here and are left out; with none left, or least 0, the answer is 1.
    """
    values = audio.on_grid(audio.values).mean(0)
    values = values[:, (values != values[:1]).any(0)]
    if least <= 0 or not values.numel():
        return 1.0
    variation = ((values - values.mean(0)).norm(dim=-1) / values.norm(dim=-1).clamp_min(EPS)).mean()
    return float(torch.sigmoid((variation - least) / STEADY_WIDTH))


def _best_pairs(votes: Tensor, heard: Tensor, seen: Tensor, count: int) -> list[tuple[int, int]]:
    """(factor, word) of the best pair and of further ones: another factor, another word, half as audible, above chance."""
    left, pairs = votes.clone(), []
    while len(pairs) < min(count, *votes.shape):
        factor, word = divmod(int(left.argmax()), left.shape[1])
        if pairs:
            clear = heard[word] >= 0.5 * heard[pairs[0][1]] and len(heard) * float(heard[word] * seen[factor, word]) > 1.0
            if not clear:
                break
        pairs.append((factor, word))
        left[factor] = left[:, word] = -torch.inf
    return pairs


def _paper_concept(factorization: Factorization, anchors: Anchors, config: ConceptsConfig, score: float) -> Concept:
    """k* with argmax_w cos(V_v[k*], A_v); its prompt is V_v[k*] (paper section 3.4)."""
    factor = factorization.sounding
    vector = factorization.visual_factors[factor]
    cosines = F.cosine_similarity(vector[None], anchors.visual, dim=-1).clamp(0, 1)
    return Concept(factor, _labels(cosines, anchors.words, config.n_labels, int(cosines.argmax())), score, vector.clone())


def _labels(scores: Tensor, words: tuple[str, ...], count: int, first: int) -> tuple[tuple[str, float], ...]:
    order = [first] + [index for index in scores.argsort(descending=True).tolist() if index != first]
    return tuple((words[index], min(1.0, float(scores[index]))) for index in order[:count])
