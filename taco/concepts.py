"""From factors to words: which factor is heard, what it is called, and whether anything in view is heard at all.

Knows tokens and word vectors only, so that it serves any pair of encoders. *Ours*, except for the
word probabilities: the paper always names a sounding factor (its section 3.4).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from taco.config import ConceptsConfig
from taco.types import Anchors, Concept, Factorization, Tokens

FLOOR = 1e-3  # of a word's probability: below it the sound says nothing more about a word


@dataclass(frozen=True, slots=True)
class Heard:
    """score: in [0, 1], how sure we are that something in view is heard. concepts: best first; empty below ``min_score``."""

    score: float
    concepts: tuple[Concept, ...]


def name_concepts(factorization: Factorization, visual: Tokens, audio: Tokens, anchors: Anchors, config: ConceptsConfig) -> Heard:
    """Sounding concepts of one frame.

    A word is judged by the sound (its probability) and by the image (how strongly the tokens of a
    factor point at it); the best pair of factor and word wins.
    """
    if factorization.sounding < 0 or not bool(torch.isfinite(audio.values).all()):
        return Heard(0.0, ())
    heard = word_probabilities(audio.values.mean(0, keepdim=True), anchors)[0]
    seen = image_evidence(factorization, visual, anchors)
    joint = (heard + FLOOR).log() + config.image_weight * seen  # (K, M)
    factor, word = divmod(int(joint.argmax()), joint.shape[1])
    scores = torch.softmax(joint[factor], 0)
    score = float((heard[word] * torch.sigmoid(seen[factor, word] - 1.0)).clamp(0, 1))
    if score < config.min_score:
        return Heard(score, ())
    best = scores.topk(min(config.n_labels, len(scores)))
    labels = tuple((anchors.words[int(index)], float(value)) for value, index in zip(*best))
    return Heard(score, (Concept(factor, labels, score, anchors.visual[word].clone()),))


def word_probabilities(components: Tensor, anchors: Anchors) -> Tensor:
    """(n, C_a) pooled audio -> (n, M) softmax(s cos(P(component), A_a)), the paper's d_a (section 3.3)."""
    projected = anchors.audio_projection(components) if anchors.audio_projection else components
    cosines = F.normalize(projected, dim=-1) @ F.normalize(anchors.audio, dim=-1).T
    return torch.softmax(anchors.audio_logit_scale * cosines, -1)


def image_evidence(factorization: Factorization, visual: Tokens, anchors: Anchors) -> Tensor:
    """(K, M): how strongly the most telling token of each factor points at each word; products, not cosines.

    A token's length tells how much of a thing it is, which a cosine would throw away.
    """
    tokens = (visual.values @ anchors.visual.T).unsqueeze(1)  # (N, 1, M)
    return (factorization.visual_activations.unsqueeze(2) * tokens).amax(0)
