"""The methods of the paper's tables, TACO and its rivals, on one shared set of models.

Every method sees the same encoded image and sound; only the middle differs. TACO and its variants run
``TacoPipeline.process`` with other settings; the others choose a word and prompt the segmenter with its vector.

Maps of factors and words, and words standing where factors stand: what the methods of the tables share.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taco.concepts import pooled_components, pooled_sound, sound_evidence
from taco.config import SegmentationConfig, TacoConfig
from taco.errors import ConfigError
from taco.evaluation.datasets import EvaluationFrame
from taco.factorization import factorize, nearest_words
from taco.factorization.anchors import image_evidence
from taco.pipeline import TacoPipeline
from taco.segmentation.base import Segmentation
from taco.sound_separation import departure_from_noise
from taco.types import (
    Anchors,
    Concept,
    Factorization,
    ImageFeatures,
    SoundingObject,
    SoundingScene,
    Tokens,
    VideoFrame,
    WordScore,
)

# Of the image's evidence against the sound's log-probability in late fusion, for unscaled tokens: the best of
# .05, .1, .15, .2, .3, .5, .8 on the scenes of val, so that the rival is at its best.
FUSION_WEIGHT = 0.2
FUSION_FLOOR = 1e-3  # added to the sound's probabilities there
# Rejection is judged afterwards from the score, so that one run gives every operating point.
NEVER_REJECT = {"concepts.min_score": 0.0, "concepts.silence_dbfs": -200.0, "concepts.min_structure": 0.0}


@dataclass(frozen=True, slots=True)
class Method:
    """One row of a table.

    settings: what it changes in the configuration.
    choose: how a method without factors finds its word: (seen (M,), heard (M,)) -> its index.
    score: (seen, heard) -> score of that word in [0, 1].
    uses_true_word: the data set gives the word.
    clamp: negative parts of the prompt set to 0.
    """

    help: str
    settings: Mapping[str, object] = field(default_factory=dict)
    choose: Callable[[Tensor, Tensor], int] | None = None
    score: Callable[[Tensor, Tensor], Tensor] = lambda seen, heard: heard
    uses_true_word: bool = False
    clamp: bool = False
    segmenter: bool = True


def _fused(seen: Tensor, heard: Tensor) -> int:
    return int(((heard + FUSION_FLOOR).log() + seen).argmax())


def _fused_score(seen: Tensor, heard: Tensor) -> Tensor:
    return heard * torch.sigmoid(seen / FUSION_WEIGHT - 1.0)


def _best_heard(seen: Tensor, heard: Tensor) -> int:
    return int(heard.argmax())


def _best_seen(seen: Tensor, heard: Tensor) -> int:
    return int(seen.argmax())


METHODS: dict[str, Method] = {
    "taco": Method("the method as configured"),
    "u": Method("the activation map of the sounding factor, no segmenter", segmenter=False),
    "a-fcclip": Method("segmenter prompted with the best word of the sound", choose=_best_heard),
    "a+-fcclip": Method("the same with the word's vector clamped at 0", choose=_best_heard, clamp=True),
    "late-fusion": Method("word by the sound's posterior times the image's evidence", choose=_fused, score=_fused_score),
    "no-sound": Method("word by the image alone", choose=_best_seen, score=lambda seen, heard: seen.sigmoid()),
    "true-word": Method("the right word instead of the sound: the ceiling", uses_true_word=True),
    "no-penalty": Method("without the semantic penalty", {"factorization.penalty": "none"}),
    "no-component": Method("factors instead of components as descriptors", {"factorization.descriptor": "factor"}),
    "no-min": Method("penalty averaged over the factors", {"factorization.penalty": "mean"}),
    "block": Method("the fast solver", {"factorization.solver": "block"}),
    "gradient": Method("the paper's solver", {"factorization.solver": "gradient"}),
    "no-temporal": Method("without the temporal term", {"factorization.temporal": "none"}),
}
# The same read out as ``u``: with models that segment by the word alone, a change of the factorization shows only here.
BY_U = tuple(f"u-{name}" for name, method in METHODS.items() if method.settings)


@dataclass(slots=True)
class Outcome:
    """What a method gives for one frame.

    map: (h, w) float32 confidence in [0, 1] before any resizing.
    winner: (h, w) bool, where the prompt wins over the others.
    score, objects: as the live pipeline gives them with rejection off.
    ms: model times and the rest.
    words: the nearest five.
    sound_map: (frequency, time) or None.
    factorization: None for word methods.
    factor: its sounding one.
    """

    map: np.ndarray
    winner: np.ndarray
    label: str = ""
    score: float = 0.0
    objects: tuple[SoundingObject, ...] = ()
    ms: dict[str, float] = field(default_factory=dict)
    words: tuple[WordScore, ...] = ()
    sound_map: np.ndarray | None = None
    factorization: Factorization | None = None
    factor: int = -1


class UMapSegmenter:
    """No segmenter: the visual activations of the sounding factor on the token grid (U_I in the paper's tables)."""

    name = "u"

    def segment(
        self,
        frame: VideoFrame,
        features: ImageFeatures,
        factorization: Factorization,
        concepts: Sequence[Concept],
        anchors: Anchors,
        config: SegmentationConfig,
        before: Segmentation | None = None,
    ) -> Segmentation:
        """The map of the first concept's factor, scaled to [0, 1] and brought to image size."""
        heat = resized(u_map(features, factorization, concepts[0].factor), frame.size, "bicubic").clip(0, 1)
        found = SoundingObject.from_mask(heat >= config.threshold, concepts[0].labels, concepts[0].score)
        return Segmentation(heat, (found,) if found else ())


class MethodRunner:
    """One set of frozen models and the methods over it. Encodes every frame of a clip once, whatever the methods.

    words: the word bank, () for the models' own. pipeline: an existing one instead of the configured models.
    """

    def __init__(self, config: TacoConfig, words: Sequence[str] = (), *, pipeline: TacoPipeline | None = None):
        self.config = config
        self.base = pipeline or TacoPipeline(config)
        self._variants: dict[tuple[object, ...], TacoPipeline] = {}
        self.forget()
        if words:
            self.set_words(words)

    def set_words(self, words: Sequence[str]) -> None:
        """Listen for these words."""
        self.base.set_words(tuple(words))
        self._variants.clear()

    @property
    def anchors(self) -> Anchors:
        """The word bank."""
        return self.base.anchors

    def run(
        self,
        name: str,
        samples: Sequence[EvaluationFrame],
        *,
        seed: int = 0,
        temporal: str = "none",
        settings: Mapping[str, object] | None = None,
    ) -> list[Outcome]:
        """What method ``name`` says of the frames of one clip, in order.

        temporal: "none" takes every frame by itself, "causal" carries the past along, "joint" solves the clip as one problem.
        settings: changes of this run.
        """
        method = method_named(name)
        if hasattr(self.base.segmenter, "keep_proposals"):
            self.base.segmenter.keep_proposals(len(samples))
        if method.choose or method.uses_true_word:
            return [self._by_word(method, sample) for sample in samples]
        changes = dict(NEVER_REJECT) | dict(settings or {}) | dict(method.settings)
        changes.setdefault("factorization.temporal", temporal)
        pipeline = self._variant(changes, method.segmenter)
        pipeline.reset(seed)
        if temporal == changes["factorization.temporal"] == "joint":
            frames, windows = [sample.frame for sample in samples], [sample.window for sample in samples]
            scenes = pipeline.process_clip(frames, windows, self._encodings)
            return [self._by_factors(pipeline, *each) for each in zip(samples, scenes)]
        out = []
        for number, sample in enumerate(samples):
            if temporal != "causal" and number:
                pipeline.reset(seed + number)
            scene = pipeline.process(sample.frame, sample.window, self._encodings)
            out.append(self._by_factors(pipeline, sample, scene))
        return out

    def forget(self) -> None:
        """Drop what was remembered of a clip."""
        self._encodings = self.base.encodings()
        if hasattr(self.base.segmenter, "keep_proposals"):
            self.base.segmenter.keep_proposals(0)

    def encoded(self, sample: EvaluationFrame) -> tuple[ImageFeatures, Tokens]:
        """What the models make of a frame's image and sound."""
        with torch.inference_mode():
            return self._encodings.image(sample.frame), self._encodings.sound(sample.window)

    def evidence(self, sample: EvaluationFrame) -> tuple[Tensor, Tensor]:
        """(seen (M,), heard (M,)): what the image and the sound alone say of each word.

        heard: the sound's probabilities, as naming has them. seen: the greatest product of a token and the word, weighted; for
        encoders with a temperature of their own (CLIP) the log-probability of the greatest cosine.
        """
        features, audio = self.encoded(sample)
        heard = sound_evidence(pooled_sound(audio), self.anchors).share
        scale = self.anchors.visual_logit_scale
        tokens, words = features.tokens.values, self.anchors.visual
        if scale is None:
            return FUSION_WEIGHT * (tokens @ words.T).amax(0), heard
        cosines = F.normalize(tokens, dim=-1) @ F.normalize(words, dim=-1).T
        return (float(scale) * cosines.amax(0)).log_softmax(-1), heard

    # --- the two middles

    def _by_factors(self, pipeline: TacoPipeline, sample: EvaluationFrame, scene: SoundingScene) -> Outcome:
        features, _ = self.encoded(sample)
        found = (self._score(sample, scene.sounding_score), scene.objects, scene.confidence, scene.sound_map)
        times = dict(scene.stage_ms) | self._encoding_ms(sample)
        return self._outcome(pipeline, features, scene.factorization, scene.concepts, *found, times)

    def _encoding_ms(self, sample: EvaluationFrame) -> dict[str, float]:
        return {"image": self._encodings.image_ms(sample.frame), "sound": self._encodings.sound_ms(sample.window)}

    @torch.inference_mode()
    def _by_word(self, method: Method, sample: EvaluationFrame) -> Outcome:
        start = time.perf_counter()
        seen, heard = self.evidence(sample)
        features, audio = self.encoded(sample)
        if method.uses_true_word:
            anchors, indices = self._with_words(tuple(word for word, _ in sample.sounding_objects) or (sample.word,))
            seen, heard = (F.pad(part, (0, len(anchors.words) - len(part))) for part in (seen, heard))
        else:
            assert method.choose is not None  # ``run`` brings only methods with one of the two
            anchors, indices = self.anchors, [method.choose(seen, heard)]
        index = indices[0]
        score = 1.0 if method.uses_true_word else float(method.score(seen[index], heard[index]).clamp(0, 1))
        if method.uses_true_word and anchors.visual_logit_scale is None:  # segmenters without factors take the word itself
            factors = self._solved(features, audio, anchors)
            seen = image_evidence(pooled_components(factors, features.tokens), anchors)
            pairs = [(int(seen[:, i].argmax()), i, anchors.visual[i]) for i in indices]
        else:
            factors = as_factors(anchors, indices, features.tokens, audio, method.clamp)
            pairs = [(i, i, factors.visual_factors[i]) for i in indices]
        concepts = tuple(Concept(k, ((anchors.words[i], score),), score, prompt) for k, i, prompt in pairs)
        times = self._encoding_ms(sample)
        masks = self.base.segmenter.segment(sample.frame, features, factors, concepts, anchors, self.config.segmentation)
        times["segment"] = 1000.0 * (time.perf_counter() - start)
        found = (score, masks.objects, masks.confidence, None, times)
        out = self._outcome(self.base, features, factors, concepts, *found)
        out.label, out.words, out.factorization = anchors.words[index], concepts[0].labels, None
        return out

    # --- pieces

    def _solved(self, features: ImageFeatures, audio: Tokens, anchors: Anchors) -> Factorization:
        """The configured factorization of one frame by itself, so that the ceiling has the method's own map."""
        values = features.tokens.values, audio.values, anchors, self.config.factorization
        found = factorize(*values, visual_grid=features.tokens.grid, audio_grid=audio.grid, audio_times=audio.times)
        assert isinstance(found, Factorization)  # one frame in, one result out
        return found

    def _score(self, sample: EvaluationFrame, score: float) -> float:
        """As the live line judges it: sound that is but noise scores 0."""
        least = self.config.concepts.min_structure
        return score if not least or departure_from_noise(sample.window) >= least else 0.0

    def _variant(self, changes: Mapping[str, object], segmenter: bool) -> TacoPipeline:
        key = (tuple(sorted(changes.items())), segmenter)
        if key not in self._variants:
            bank = {"models.word_bank": self.base.config.models.word_bank}
            config = self.config.updated({**changes, **bank})
            self._variants[key] = self.base.sibling(config, None if segmenter else UMapSegmenter())
        return self._variants[key]

    def _with_words(self, words: Sequence[str]) -> tuple[Anchors, list[int]]:
        """The bank with these words in it, and where they stand."""
        if not all(words):
            raise ConfigError("true-word: wanted a data set that tells what sounds, got frames without a word")
        new = [word for word in words if word not in self.anchors.words]
        anchors = self._extended(new) if new else self.anchors
        return anchors, [anchors.words.index(word) for word in words]

    def _extended(self, words: Sequence[str]) -> Anchors:
        own, image, audio = self.anchors, self.base.backbones.image, self.base.backbones.audio
        visual = torch.cat([own.visual, image.encode_text(words).to(own.visual)])
        sounds = torch.cat([own.audio, audio.encode_text(words).to(own.audio)])
        return replace(own, words=(*own.words, *words), visual=visual, audio=sounds)

    def _outcome(
        self,
        pipeline: TacoPipeline,
        features: ImageFeatures,
        factors: Factorization | None,
        concepts: Sequence[Concept],
        score: float,
        objects: Sequence[SoundingObject],
        confidence: np.ndarray | None,
        sound_map: np.ndarray | None,
        times: dict[str, float],
    ) -> Outcome:
        """concepts: what the live line reports (with the paper's models k* and its nearest word); without any, k* stands in."""
        size = features.size
        if factors is None or factors.sounding < 0:
            return Outcome(np.zeros(size, np.float32), np.zeros(size, bool), score=score, ms=times)
        chosen = [concept.factor for concept in concepts] or [factors.sounding]
        if isinstance(pipeline.segmenter, UMapSegmenter):
            heat = np.max([u_map(features, factors, factor) for factor in chosen], 0)
            winner = features.tokens.on_grid(among(factors.visual_activations.argmax(1), chosen)).cpu().numpy()
        elif hasattr(pipeline.segmenter, "maps") and hasattr(pipeline.segmenter, "propose"):
            maps = pipeline.segmenter.maps(features, factors.visual_factors, pipeline.segmenter.propose(features))
            heat = np.max([minmax(maps[factor]) for factor in chosen], 0)
            winner = among(maps.argmax(0), chosen).cpu().numpy()
        else:
            heat = confidence if confidence is not None else np.zeros(size, np.float32)
            winner = heat >= pipeline.config.segmentation.threshold
        words, _ = nearest_words(factors, pipeline.anchors, chosen[0])
        label = concepts[0].label if concepts else words[0][0]
        return Outcome(heat, winner, label, score, tuple(objects), times, words, sound_map, factors, chosen[0])


def method_named(name: str) -> Method:
    """The method, "u-" before a variant of TACO for its activation map; ConfigError names the nearest known one."""
    import difflib

    if name in METHODS:
        return METHODS[name]
    if name in BY_U:
        inner = METHODS[name.removeprefix("u-")]
        return replace(inner, help=f"{inner.help}, read out as u", segmenter=False)
    known = (*METHODS, *BY_U)
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"--method: wanted one of {', '.join(known)}, got {name!r}{hint}")


def as_factors(anchors: Anchors, chosen: Sequence[int], visual: Tokens, audio: Tokens, clamp: bool = False) -> Factorization:
    """A word bank standing where factors stand: one row a word, the first of the chosen ones sounding.

    Activations of the chosen words are the tokens' positive products with them, at most 1, those of the others 0: a map read
    out of it is the tokens' own. All sound belongs to the first.
    """
    rows = anchors.visual.clamp_min(0) if clamp else anchors.visual
    index, count, steps = chosen[0], len(anchors.words), audio.values.shape[0]
    products = (visual.values @ rows[list(chosen)].to(visual.values).T).clamp_min(0)
    activations = torch.zeros(len(visual.values), count).to(products)
    activations[:, list(chosen)] = products / products.amax(0).clamp_min(1e-12)
    heard = torch.zeros(steps, count).to(audio.values)
    heard[:, index] = 1.0
    sounds = torch.zeros(count, audio.values.shape[1]).to(audio.values)
    sounds[index] = audio.values.mean(0)
    return Factorization(activations, rows, heard, sounds, index)


def among(winners: Tensor, chosen: Sequence[int]) -> Tensor:
    """Bool of the shape of ``winners``: is it one of the chosen numbers?"""
    return torch.isin(winners, torch.tensor(list(chosen), device=winners.device))


def u_map(features: ImageFeatures, factors: Factorization, factor: int) -> np.ndarray:
    """(rows, columns) activations of a factor, scaled to [0, 1]."""
    return minmax(features.tokens.on_grid(factors.visual_activations[:, factor]))


def minmax(values: Tensor) -> np.ndarray:
    """Scaled to [0, 1]; all 0 where flat."""
    values = values.float()
    low, high = values.min(), values.max()
    return ((values - low) / (high - low) if high > low else torch.zeros_like(values)).cpu().numpy()


def resized(values: np.ndarray, size: tuple[int, int], mode: str = "bicubic") -> np.ndarray:
    """(h, w) -> (H, W), corners aligned, as the public runs compare maps; the same array where the size is right."""
    if values.shape == tuple(size):
        return values
    tensor = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    return F.interpolate(tensor, size, mode=mode, align_corners=True)[0, 0].numpy()
