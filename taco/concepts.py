"""From factors to words: which factor sounds, its word, its score, and when to report nothing.

Knows tokens and word vectors only, so that it serves any pair of encoders. The paper names k* by its
nearest word and never says "nothing" (section 3.4); naming with both senses, and the score, are *ours*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from taco.config import ConceptsConfig
from taco.factorization.anchors import image_evidence, prepared_anchors
from taco.factorization.grouping import source_activations
from taco.factorization.temporal import course_change, recency_weights
from taco.types import Anchors, Concept, Factorization, Tokens, WordScore

# Ours: added to probabilities, so that neither sound nor image alone can rule a word out.
SOUND_FLOOR, IMAGE_FLOOR = 3e-3, 1e-2
SHOWN = 0.05  # ours: least product of what two factors show of two words from which both may sound
# Of two words that may sound at once, in nats: what the factors show of both, plus APART times how much one part of the sound
# prefers the first and another the second, plus ALONE times the log-odds of the second, in the whole or in a part. Words with
# less than AUDIBLE log-odds are left out. TWO: constant and weight that turn the sum into the log-odds that the second sounds
# (chosen on composed scenes and pairs of photographs, val).
APART, ALONE, AUDIBLE, TWO = 0.5, 0.3, -6.0, (2.0, 1.5)
# The same of two words that may sound one after the other, from the pairs of factors: constant, weights of what is shown, of how
# much each pair's sound prefers its own word, and of the logarithm of the second's share in its own (composed scenes, val).
PAIR = (2.5, 1.0, 0.12, 0.4)
CHANGES = 0.35  # change of the sound within the window from which one sound follows another (composed scenes, val)
SECOND = 0.4  # ours: least score of what sounds beside the first, however low ``min_score`` is
SCORE = (1.39, 0.79, 0.57)  # of ``sounding_score``: constant, weight of what agrees, of what does not (composed scenes, val)
KNOWN = 0.2  # ours: least probability of the likeliest word for the sound to count as one of the bank
REPORTED = 0.1  # ours: least probability of a word that is reported
EPS = 1e-6  # keeps logarithms and quotients finite


@dataclass(frozen=True, slots=True)
class SoundEvidence:
    """Probabilities of the word bank's words in the sound.

    share: (M,) in [0, 1], of each word in the whole sound, sum <= 1.
    present: (M,) in [0, 1], that each word sounds at all, whatever else does.
    other: in [0, 1], the same for the likeliest sound without a word.
    names: how many sounds it could be.
    total: 1 where the probabilities of all these add up to it, else 0.
    component: (C_a,) the pooled tokens of this frame's sound, what all this was read from.
    """

    share: Tensor
    present: Tensor
    other: float = 0.0
    names: int = 0
    total: float = 0.0
    component: Tensor | None = None

    @property
    def known(self) -> bool:
        """Is the clearest sound a word of the bank?"""
        return float(self.present.max()) >= max(self.other, KNOWN)

    def averaged(self, before: SoundEvidence | None, past: float) -> SoundEvidence:
        """Averaged with the evidence before, which keeps the share ``past`` in [0, 1]."""
        if before is None or past == 0:
            return self
        share, present = (now + past * (then - now) for now, then in ((self.share, before.share), (self.present, before.present)))
        return replace(self, share=share, present=present, other=self.other + past * (before.other - self.other))


@dataclass(frozen=True, slots=True)
class Naming:
    """What sounds and is in view in one frame.

    score: in [0, 1], how likely something in view sounds.
    concepts: best first; empty below ``min_score``.
    sound: the words of the sound, averaged over frames; None where nothing can be read from it.
    parts: the same of the parts of the sound, where they were needed.
    seen: (K, M) in [0, 1], how likely each factor shows each word.
    own: of each factor, the words of its own sound in this frame: in succession, and with the paper's naming.
    in_succession: does one sound follow another within the window?
    first: (factor, word) of what is named by both senses, reported or not; None where it was not (the paper's naming).
    """

    score: float
    concepts: tuple[Concept, ...]
    sound: SoundEvidence | None = field(default=None, repr=False, compare=False)
    parts: tuple[SoundEvidence, ...] = field(default=(), repr=False, compare=False)
    seen: Tensor | None = field(default=None, repr=False, compare=False)
    own: tuple[SoundEvidence, ...] = field(default=(), repr=False, compare=False)
    in_succession: bool = False
    first: tuple[int, int] | None = field(default=None, repr=False, compare=False)

    @property
    def words(self) -> tuple[str, ...]:
        """The words of what sounds."""
        return tuple(concept.label for concept in self.concepts)

    @property
    def may_be_several(self) -> bool:
        """Do two factors show two words, so that both may sound (``name_further``)?"""
        if self.first is None or self.seen is None:
            return False
        best, words = self.seen.max(1)  # of each factor
        return bool(((best[:, None] * best >= SHOWN) & (words[:, None] != words)).any())


NOTHING = Naming(0.0, ())


def name_concepts(
    factorization: Factorization,
    visual: Tokens,
    audio: Tokens,
    anchors: Anchors,
    config: ConceptsConfig,
    before: Naming | None = None,
    elapsed_s: float = math.inf,
) -> Naming:
    """What sounds and is in view in one frame: one concept at most. before: of the frame before, ``elapsed_s`` seconds ago.

    The sound's probabilities are averaged over frames (``memory_s``), another word must beat those of the
    frame before by ``switch_margin`` log-odds (joint naming), and to those ``hysteresis`` applies.
    naming "joint": sound and image both vote for every pair of factor and word, and the best pair
    wins. naming "factor" (the paper's): the sounding factor k*, called by the word nearest to it.
    "auto": the paper's where the image model is compared by cosines, as the paper's is. The score is
    the same in both: see ``sounding_score``.
    """
    if factorization.sounding < 0 or not bool(torch.isfinite(audio.values).all()):
        return NOTHING
    before = before or NOTHING
    sound = sound_evidence(pooled_sound(audio), anchors).averaged(before.sound, _past(config, elapsed_s))
    seen = image_evidence(pooled_components(factorization, visual), anchors)
    score = sounding_score(sound.present, seen, sound.other, sound.names, sound.total)
    if score < config.min_score * (config.hysteresis if before.concepts else 1.0):
        return Naming(score, (), sound, seen=seen)
    by_factor = config.naming == "factor" or (config.naming == "auto" and anchors.visual_logit_scale is not None)
    in_succession = course_change(audio.values, audio.grid, audio.times) > CHANGES
    own: tuple[SoundEvidence, ...] = ()
    if by_factor or in_succession:
        own = tuple(sounds_evidence(sound_components(factorization, audio), anchors))
    if by_factor:
        first, concept = None, _paper_concept(factorization, own[factorization.sounding], anchors, config, score)
    else:
        votes = _Votes(sound, seen, anchors, config, before.words)
        first = votes.one()
        concept = votes.concept(*first, score)
    reported = _reported([concept], score, config, before)
    return Naming(score, reported, sound, seen=seen, own=own, in_succession=in_succession, first=first)


def name_further(
    naming: Naming,
    parts: Sequence[Tokens],
    anchors: Anchors,
    config: ConceptsConfig,
    before: Naming | None = None,
    elapsed_s: float = math.inf,
) -> Naming:
    """Adds what else sounds in the window, ``max_concepts`` in all; see ``_Votes.further``. *Ours.*

    Sounds one after the other are told apart by the pairs of factors, sounds at once by their parts.
    parts: the tokens of the sounds that the window can be taken apart into; none where it cannot, and not used in succession.
    before, elapsed_s: as above.
    """
    if naming.sound is None or naming.seen is None or naming.first is None:
        return naming
    before = before or NOTHING
    past = _past(config, elapsed_s)
    found = sounds_evidence(torch.stack([pooled_sound(part) for part in parts]), anchors) if parts else []
    apart = _in_order(found, before.parts, past)
    votes = _Votes(naming.sound, naming.seen, anchors, config, before.words)
    by = _Pairs(naming.own) if naming.in_succession else _Parts(naming.sound, apart)
    named = [(*naming.first, naming.score), *votes.further(naming.first, by)]
    concepts = [
        votes.concept(factor, word, score, naming.own[factor] if naming.in_succession else None) for factor, word, score in named
    ]
    return replace(naming, concepts=_reported(concepts, naming.score, config, before), parts=apart)


def _past(config: ConceptsConfig, elapsed_s: float) -> float:
    """Share of the previous frame in the average of the sound's words."""
    return math.exp(-elapsed_s / config.memory_s) if config.memory_s and elapsed_s > 0 else 0.0


def _reported(concepts: list[Concept], score: float, config: ConceptsConfig, before: Naming) -> tuple[Concept, ...]:
    """Below the threshold, within the hysteresis, only the words of the frame before."""
    return tuple(concept for concept in concepts if score >= config.min_score or concept.label in before.words)


def sound_evidence(component: Tensor, anchors: Anchors) -> SoundEvidence:
    """The words of a pooled component (C_a,) of the sound."""
    return sounds_evidence(component[None], anchors)[0]


def sounds_evidence(components: Tensor, anchors: Anchors) -> list[SoundEvidence]:
    """The words of each of n pooled components (n, C_a) of the sound; nothing else reads words from sound.

    Sound models that score every sound by itself (their anchors have ``audio_others``, the last of which is "none of them")
    give log-odds against that one; of the others (``sounds_compete``, or no ``audio_others``) a word is as present as its share.
    """
    logits, count = _sound_logits(components, anchors), len(anchors.words)
    every, names = logits.softmax(-1), logits.shape[1]
    shares = every[:, :count]
    if anchors.audio_others is None or anchors.sounds_compete:
        odds, rest, total = every, every[:, count:], 1.0
    else:
        odds, total = (logits - logits[:, -1:]).sigmoid(), 0.0
        rest = odds[:, count:-1]
    others = rest.amax(1).tolist() if rest.shape[1] else [0.0] * len(odds)
    rows = zip(shares, odds[:, :count], others, components)
    return [SoundEvidence(share, present, other, names, total, one) for share, present, other, one in rows]


def likeliest_words(sound: SoundEvidence, words: Sequence[str], count: int) -> tuple[WordScore, ...]:
    """The ``count`` likeliest words with a probability of at least 0.1, best first."""
    order = sound.present.argsort(descending=True)[:count].tolist()
    return tuple((words[n], float(sound.present[n])) for n in order if sound.present[n] >= REPORTED)


class _Votes:
    """Sound and image vote for every pair of factor and word.

    seen: (K, M). before: the words of the frame before, which others must beat by a margin.
    """

    def __init__(self, sound: SoundEvidence, seen: Tensor, anchors: Anchors, config: ConceptsConfig, before: tuple[str, ...]):
        self.sound, self.seen, self.anchors, self.config = sound, seen, anchors, config
        self.before = {anchors.words.index(word) for word in before}
        self.image = config.image_weight * (seen + IMAGE_FLOOR).log()
        self.votes = (sound.share + SOUND_FLOOR).log() + self.image

    def one(self) -> tuple[int, int]:
        """(factor, word) with the most votes."""
        votes = self.votes.clone()
        votes[:, list(self.before)] += self.config.switch_margin
        return divmod(int(votes.argmax()), votes.shape[1])

    def further(self, first: tuple[int, int], by: _Parts | _Pairs) -> list[tuple[int, int, float]]:
        """(factor, word, score) of what sounds beside ``first``, best first; mostly nothing. *Ours.*

        Of the words that other factors show, each must be likely beside every one that is named already: first by the image,
        which limits the words to choose from, so that the sound model need not tell all its words apart; then by how much of
        the sound prefers the one and how much the other, and by how likely it sounds at all.
        """
        named, scores = [first], []
        while len(named) < self.config.max_concepts:
            rest = self.seen.clone()
            rest[[k for k, _ in named]] = 0.0
            shown, factors = rest.max(0)  # (M,)
            odds = torch.stack([by.odds(k, w, factors, (shown * self.seen[k, w]).clamp_min(EPS).log()) for k, w in named]).amin(0)
            odds[shown * min(float(self.seen[k, w]) for k, w in named) < SHOWN] = -torch.inf
            odds[[w for _, w in named]] = -torch.inf
            word = int(odds.argmax())
            score = 1.0 / (1.0 + math.exp(-max(-50.0, float(odds[word]))))
            least = max(self.config.min_score, SECOND) * (self.config.hysteresis if word in self.before else 1.0)
            if score < least:
                break
            named.append((int(factors[word]), word))
            scores.append(score)
        return [(k, w, score) for (k, w), score in zip(named[1:], scores)]

    def concept(self, factor: int, word: int, score: float, own: SoundEvidence | None = None) -> Concept:
        """A factor by its word; further words by their votes for the factor. own: its sound, where it isn't the whole."""
        shares = torch.softmax(self.votes[factor], 0)
        shares[word] = shares.max()  # of two, one may not be its factor's best word
        labels = _labels(shares, self.anchors.words, self.config.n_labels, first=word)
        return Concept(factor, labels, score, self.anchors.visual[word].clone(), (own or self.sound).share)


class _Parts:
    """What sounds at once, by the sounds that the window can be taken apart into; which of them is whose is not known."""

    def __init__(self, whole: SoundEvidence, parts: Sequence[SoundEvidence]):
        self.parts = torch.stack([_log_odds(one.present) for one in parts or [whole]])
        self.alone = torch.maximum(_log_odds(whole.present), self.parts.amax(0))

    def odds(self, factor: int, word: int, factors: Tensor, shown: Tensor) -> Tensor:
        """(M,) log-odds that each word sounds beside ``word``. shown: (M,) logarithm of how likely both are in view."""
        prefers = self.parts[:, word, None] - self.parts  # (P, M): how much each part prefers the word that is named
        own = torch.minimum(prefers.amax(0), (-prefers).amax(0))
        odds = TWO[0] + TWO[1] * (shown + APART * own + ALONE * self.alone)
        # Else no part prefers it, or none the other: one sound that has both names.
        return odds.masked_fill((own <= 0) | (self.alone < AUDIBLE), -torch.inf)


class _Pairs:
    """What sounds one after the other, by the factors' own sounds: each pair says where an object is and how it sounds.

    own: of each factor.
    """

    def __init__(self, own: Sequence[SoundEvidence]):
        self.own = torch.stack([_log_odds(one.present) for one in own])  # (K, M)
        self.share = torch.stack([one.share + SOUND_FLOOR for one in own]).log()

    def odds(self, factor: int, word: int, factors: Tensor, shown: Tensor) -> Tensor:
        """As above. factors: (M,) the image factor that shows each word."""
        its = self.own[factors]  # (M, M): log-odds of all words in the sound of each word's factor
        alone = its.diagonal()
        own = torch.minimum(self.own[factor, word] - self.own[factor], alone - its[:, word])
        constant, image, apart, share = PAIR
        odds = constant + image * shown + apart * own + share * self.share[factors].diagonal()
        return odds.masked_fill(alone < AUDIBLE, -torch.inf)


def _log_odds(probabilities: Tensor) -> Tensor:
    return torch.logit(probabilities, eps=EPS)


def _in_order(now: list[SoundEvidence], before: tuple[SoundEvidence, ...], past: float) -> tuple[SoundEvidence, ...]:
    """Parts averaged with those of the frame before, each with the one that it is most alike: they come in no order."""
    if not now or len(now) != len(before):
        return tuple(now)
    alike = torch.stack([F.cosine_similarity(one.present[None], torch.stack([b.present for b in before])) for one in now])
    if len(now) == 2 and alike[0, 1] + alike[1, 0] > alike[0, 0] + alike[1, 1]:
        now = now[::-1]
    return tuple(one.averaged(then, past) for one, then in zip(now, before))


def word_probabilities(components: Tensor, anchors: Anchors) -> Tensor:
    """(n, C_a) pooled audio -> (n, M) softmax(s cos(P(component), A_a)), the paper's softmax(d_a) (section 3.3).

    *Ours*: over ``audio_others`` too, where the sound model hears more than the bank has words for. A share, then: what is
    heard beside it is taken from it.
    """
    return torch.softmax(_sound_logits(components, anchors), -1)[..., : len(anchors.words)]


def _sound_logits(components: Tensor, anchors: Anchors) -> Tensor:
    bank = prepared_anchors(anchors, components.shape[-1], components.dtype, components.device)
    return bank.all_sound_logits(components)


def pooled_sound(audio: Tokens) -> Tensor:
    """(C_a,) mean of the window's tokens, the newest counting most: the same that binds the sounding factor."""
    weights = recency_weights(len(audio.values), audio.grid, audio.values.dtype, audio.values.device, audio.times)
    return weights @ audio.values


def pooled_components(factorization: Factorization, visual: Tokens) -> Tensor:
    """(K, C_v) mean token of each factor, weighted by its activations: the paper's component less its size (section 3.3)."""
    activations = factorization.visual_activations
    return activations.T @ visual.values / activations.sum(0)[:, None].clamp_min(EPS)


def sound_components(factorization: Factorization, audio: Tokens) -> Tensor:
    """(K, C_a) mean token of each factor's source; of a factor without one that of all tokens."""
    activations = source_activations(factorization)
    area = activations.sum(0)[:, None]
    return torch.where(area > EPS, activations.T @ audio.values / area.clamp_min(EPS), audio.values.mean(0))


def sounding_score(present: Tensor, seen: Tensor, other: float = 0.0, names: int = 0, total: float = 0.0) -> float:
    """In [0, 1]: how likely something in view sounds, for any size of the word bank.

    present: (M,) that each word sounds. seen: (K, M) that each factor shows it. other: that something without a word sounds.
    names: how many names both models could have meant, M where it is less. total: what the sound's probabilities of all of them
    add up to, where they compete; else those of the words count.
    inside = max_k sum_w present[w] seen[k, w], less what chance would give: sound
    and image mean the same word, in the best factor.
    A sound or an image that says nothing of any word agrees with all of them, by chance (Cohen's kappa takes it off likewise).
    outside = the likeliest sound that no factor shows: max_w present[w] (1 - max_k seen[k, w]), or ``other``.
    The score is a logistic function of the log-odds of inside and the logarithm of outside, fitted on the composed scenes (val).
    """
    chance = present.sum().clamp_min(total) * seen.sum(1) / max(names, len(present), 2)
    inside = float(((seen @ present - chance) / (1 - chance.clamp_max(0.9))).max())
    inside = min(max(inside, EPS), 1 - EPS)
    outside = max(float((present * (1.0 - seen.amax(0))).max()), other, EPS)
    constant, agrees, differs = SCORE
    odds = constant + agrees * math.log(inside / (1 - inside)) - differs * math.log(outside)
    return 1.0 / (1.0 + math.exp(-max(-50.0, min(50.0, odds))))


def _paper_concept(
    factorization: Factorization, sound: SoundEvidence, anchors: Anchors, config: ConceptsConfig, score: float
) -> Concept:
    """k* with argmax_w cos(V_v[k*], A_v); its prompt is V_v[k*] (paper section 3.4)."""
    factor = factorization.sounding
    vector = factorization.visual_factors[factor]
    cosines = F.cosine_similarity(vector[None], anchors.visual, dim=-1).clamp(0, 1)
    labels = _labels(cosines, anchors.words, config.n_labels, int(cosines.argmax()))
    return Concept(factor, labels, score, vector.clone(), sound.share)


def _labels(scores: Tensor, words: tuple[str, ...], count: int, first: int) -> tuple[tuple[str, float], ...]:
    order = [first] + [index for index in scores.argsort(descending=True).tolist() if index != first]
    return tuple((words[index], min(1.0, float(scores[index]))) for index in order[:count])
