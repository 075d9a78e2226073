"""From factors to words: which factor is heard, what it is called, and whether anything in view is heard at all.

Knows tokens and word vectors only, so that it serves any pair of encoders. The paper names k* by its
nearest word and never says "nothing" (section 3.4); naming with both senses, and the score, are *ours*.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from taco.config import ConceptsConfig
from taco.types import Anchors, Concept, Factorization, Tokens

HEARD_FLOOR, SEEN_FLOOR = 1e-3, 1e-2  # of probabilities, so that no single sense can veto a word for good
BANK_WEIGHT, BANK_POWER = 1.25, 0.6  # measured with banks of 7 and 69 words
SHOWN = 0.15  # least product of what two factors show of the two words that might sound at once
MARGIN = 0.3  # log-odds by which each part of the sound must prefer its own word to the other's,
MARGIN_PER_DB, EVEN_DB = 0.15, -6.0  # ... by so much more for every dB that it is weaker than this against the whole
OTHERS = -3.0  # log-odds of things outside the word bank against those in it, before looking
EPS = 1e-6


@dataclass(frozen=True, slots=True)
class Heard:
    """score: in [0, 1], how sure we are that something in view is heard. concepts: best first; empty below ``min_score``.

    sound: (M,) probabilities of the words, averaged over frames; parts: of the held and of the struck part, where asked for.
    """

    score: float
    concepts: tuple[Concept, ...]
    sound: Tensor | None = field(default=None, repr=False, compare=False)
    parts: tuple[Tensor, Tensor] | None = field(default=None, repr=False, compare=False)

    @property
    def words(self) -> tuple[str, ...]:
        """The words of what sounds."""
        return tuple(concept.label for concept in self.concepts)


@dataclass(frozen=True, slots=True)
class SoundPart:
    """Tokens of the held or of the struck part of a sound. level_db: its level against the whole's, <= about 0."""

    tokens: Tokens
    level_db: float


Parts = Callable[[], tuple[SoundPart, SoundPart] | None]  # the held and the struck part of the sound, if it has both


def name_concepts(
    factorization: Factorization,
    visual: Tokens,
    audio: Tokens,
    anchors: Anchors,
    config: ConceptsConfig,
    before: Heard | None = None,
    elapsed_s: float = math.inf,
    parts: Parts | None = None,
) -> Heard:
    """What is heard and seen in one frame. before: what was in the frame before, ``elapsed_s`` seconds ago.

    The sound's probabilities are averaged over frames (``memory_s``), another word must beat those of the
    frame before by ``switch_margin`` log-odds (joint naming), and to those ``hysteresis`` applies.
    naming "joint": sound and image both vote for every pair of factor and word, and the best pair
    wins. naming "factor" (the paper's): the sounding factor k*, called by the word nearest to it.
    "auto": the paper's where the image model is compared by cosines, as the paper's is. The score is
    the same in both: see ``sounding_score``. parts: asked only where the image shows two words, for
    a second thing that sounds at the same time (joint naming, ``max_concepts`` 2): see ``_two_at_once``.
    """
    if factorization.sounding < 0 or not bool(torch.isfinite(audio.values).all()):
        return Heard(0.0, ())
    before = before or Heard(0.0, ())
    past = math.exp(-elapsed_s / config.memory_s) if config.memory_s and elapsed_s > 0 else 0.0  # its share of the average

    def hear(tokens: Tokens, then: Tensor | None) -> Tensor:
        now = word_probabilities(pooled_sound(tokens)[None], anchors)[0]
        return now if then is None else now + past * (then - now)

    heard = hear(audio, before.sound)  # (M,)
    seen = image_evidence(pooled_components(factorization, visual), anchors)  # (K, M)
    score = sounding_score(heard, seen)
    if score < config.min_score * (config.hysteresis if before.concepts else 1.0):
        return Heard(score, (), heard)
    halves = None
    if config.naming == "factor" or (config.naming == "auto" and anchors.visual_logit_scale is not None):
        concepts = [_paper_concept(factorization, anchors, config, score)]
    else:
        votes = _Votes(heard, seen, anchors.words, config, before.words)
        found = parts() if parts and config.max_concepts > 1 and _shows_two(seen) else None
        if found:
            halves = tuple(hear(part.tokens, then) for part, then in zip(found, before.parts or (None, None)))
        pairs = votes.two(*halves, *(part.level_db for part in found)) if halves else None
        concepts = [_concept(votes, pair, anchors, score) for pair in pairs or [votes.one()]]
    if score < config.min_score:
        concepts = [concept for concept in concepts if concept.label in before.words]
    return Heard(score, tuple(concepts), heard, halves)


class _Votes:
    """Sound and image vote for every pair of factor and word.

    heard: (M,) probabilities. seen: (K, M). before: the words of the frame before, which others must beat by a margin.
    """

    def __init__(self, heard: Tensor, seen: Tensor, words: tuple[str, ...], config: ConceptsConfig, before: tuple[str, ...]):
        self.heard, self.seen, self.n_labels = heard, seen, config.n_labels
        self.before = {words.index(word) for word in before}
        self.margin = config.switch_margin
        self.image = config.image_weight * (seen + SEEN_FLOOR).log()
        self.whole = (heard + HEARD_FLOOR).log()

    def one(self) -> tuple[int, int]:
        """(factor, word) with the most votes."""
        votes = self.whole + self.image
        votes[:, list(self.before)] += self.margin
        return divmod(int(votes.argmax()), votes.shape[1])

    def shares(self, factor: int, word: int) -> Tensor:
        """(M,) probabilities of the words for a factor that is called ``word``."""
        shares = torch.softmax((self.whole + self.image)[factor], 0)
        shares[word] = shares.max()  # of two, one may not be its factor's best word
        return shares

    def two(self, held: Tensor, struck: Tensor, held_db: float, struck_db: float) -> list[tuple[int, int]] | None:
        """(factor, word) of two things that sound at once, the better heard first; None where it is one, or not told. *Ours.*

        Two words are in view, the held and the struck part of the sound, (M,) probabilities each, are named each by itself,
        and each prefers its own word, a weak part by more. Whole sound and part vote with equal weight, beside the image.
        Two things that are both struck, or both held, cannot be told from one this way.
        """
        held, struck = (held + HEARD_FLOOR).log(), (struck + HEARD_FLOOR).log()
        one, other = ((self.whole + part) / 2 + self.image for part in (held, struck))
        total = one[:, :, None, None] + other[None, None]  # (K, M, K, M): factor and word of the held, of the struck part
        factors, words = (torch.eye(size, dtype=torch.bool, device=total.device) for size in self.seen.shape)
        total = total.masked_fill(factors[:, None, :, None] | words[None, :, None, :], -torch.inf)
        k, a, j, b = (int(i) for i in torch.unravel_index(total.argmax(), total.shape))
        odds = [
            float(held[a] - held[b]) + MARGIN_PER_DB * (held_db - EVEN_DB),
            float(struck[b] - struck[a]) + MARGIN_PER_DB * (struck_db - EVEN_DB),
        ]
        wanted = MARGIN + (0.0 if not self.before else -self.margin if self.before == {a, b} else self.margin)
        if min(odds) < wanted or float(self.seen[k, a] * self.seen[j, b]) < SHOWN:
            return None
        return sorted([(k, a), (j, b)], key=lambda pair: -float(self.heard[pair[1]]))


def _concept(votes: _Votes, pair: tuple[int, int], anchors: Anchors, score: float) -> Concept:
    factor, word = pair
    labels = _labels(votes.shares(factor, word), anchors.words, votes.n_labels, first=word)
    return Concept(factor, labels, score, anchors.visual[word].clone())


def _shows_two(seen: Tensor) -> bool:
    """Do two factors show two words?"""
    best, words = seen.max(1)  # of each factor
    return bool(((best[:, None] * best >= SHOWN) & (words[:, None] != words)).any())


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


def _paper_concept(factorization: Factorization, anchors: Anchors, config: ConceptsConfig, score: float) -> Concept:
    """k* with argmax_w cos(V_v[k*], A_v); its prompt is V_v[k*] (paper section 3.4)."""
    factor = factorization.sounding
    vector = factorization.visual_factors[factor]
    cosines = F.cosine_similarity(vector[None], anchors.visual, dim=-1).clamp(0, 1)
    return Concept(factor, _labels(cosines, anchors.words, config.n_labels, int(cosines.argmax())), score, vector.clone())


def _labels(scores: Tensor, words: tuple[str, ...], count: int, first: int) -> tuple[tuple[str, float], ...]:
    order = [first] + [index for index in scores.argsort(descending=True).tolist() if index != first]
    return tuple((words[index], min(1.0, float(scores[index]))) for index in order[:count])
