"""The straight line: an image and its sound in, outlined and named sounding objects out."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch

from taco.backbones import build_anchors, load_backbones
from taco.backbones.base import Backbones, token_counts
from taco.backbones.device import release_memory
from taco.backbones.shared_encodings import SharedEncodings, StillImage
from taco.clock import NS
from taco.concepts import Naming, SoundEvidence, likeliest_words, name_concepts, name_further
from taco.config import FactorizationConfig, TacoConfig
from taco.errors import ShapeError
from taco.factorization import check_factor_count, factorize
from taco.factorization.grouping import source_activations
from taco.factorization.temporal import mean_of_rounds
from taco.segmentation import load_segmenter
from taco.segmentation.base import Segmentation, Segmenter
from taco.sound_separation import departure_from_noise
from taco.threads import leave_threads_to_engine, model_threads, use_threads
from taco.types import (
    AudioWindow,
    Concept,
    Factorization,
    ImageFeatures,
    SoundingObject,
    SoundingScene,
    Tokens,
    VideoFrame,
    WordScore,
)


@dataclass(frozen=True, slots=True)
class _Memory:
    """The previous frame, from which the next one starts.

    stamp_ns: its stamp.
    factorization: its factors.
    naming: its words; None where new settings hold.
    segmentation: of the last frame that had one.
    """

    stamp_ns: int
    factorization: Factorization
    naming: Naming | None
    segmentation: Segmentation | None


class TacoPipeline:
    """Frozen models, a word bank and the memory of the last frame. Use it from one thread.

    config: every setting; the word bank is ``config.models.word_bank``, and ``anchors`` are always its.
    backbones, segmenter: given ones are used instead of the configured ones.
    Raises WeightsError, DeviceError, ConfigError or MissingPackageError where the configured models cannot run.
    """

    def __init__(
        self, config: TacoConfig | None = None, *, backbones: Backbones | None = None, segmenter: Segmenter | None = None
    ):
        self.config = config or TacoConfig()
        use_threads(model_threads(self.config.models.threads))
        self.backbones = backbones or load_backbones(self.config.models)
        self.segmenter = segmenter or load_segmenter(self.config, self.backbones)
        in_torch = any(getattr(model, "only_torch", False) for model in (self.backbones.audio, self.segmenter))
        if getattr(self.backbones.image, "engine", "torch") != "torch" and not in_torch:
            leave_threads_to_engine()
        release_memory()
        self.anchors = build_anchors(self.backbones, self.config.models.word_bank)
        if self.config.factorization.n_factors > TacoConfig().factorization.n_factors:  # the default fits every encoder
            check_factor_count(self.config.factorization, *token_counts(self.backbones, self.config.audio.window_s))
        self._memory: _Memory | None = None
        self.reset()

    def sibling(self, config: TacoConfig | None = None, segmenter: Segmenter | None = None) -> TacoPipeline:
        """A pipeline on the same models with a memory of its own: another camera, or other settings (not of models)."""
        other = copy.copy(self)
        other.segmenter = segmenter or self.segmenter
        other.reset()
        other.set_config(config or self.config)
        return other

    def set_words(self, words: Sequence[str]) -> None:
        """Listen for these words (empty: the models' own list); forgets the last frame. ConfigError changes nothing."""
        self.set_config(self.config.updated({"models.word_bank": tuple(words)}))

    def set_config(self, config: TacoConfig) -> None:
        """Use other live settings from the next frame on; models stay as they are. ConfigError (words) changes nothing."""
        if config.models.word_bank != self.config.models.word_bank:
            self.anchors = build_anchors(self.backbones, config.models.word_bank)
            self.reset()
        elif config.concepts != self.config.concepts and self._memory:
            # A new threshold holds at once, for the words of the frame before too.
            self._memory = dataclasses.replace(self._memory, naming=None)
        self.config = config

    def reset(self, seed: int = 0) -> None:
        """Forget the last frame: the next one starts cold, its image is encoded. seed: of the random numbers of cold starts."""
        self._memory = None
        self._still = StillImage()
        self._generator = torch.Generator().manual_seed(seed)

    def warm_up(self, size: tuple[int, int] = (480, 640)) -> dict[str, float]:
        """Run one made frame of (height, width) px, so that the first real one is not slow; returns its times in ms."""
        noise = np.random.default_rng(0)
        frame = VideoFrame(noise.integers(0, 255, (*size, 3), np.uint8), 0)
        rate = 16000
        time_s = np.arange(round(self.config.audio.window_s * rate)) / rate
        samples = (0.3 * np.sin(2 * np.pi * 440 * time_s) * np.exp(-8 * (time_s % 0.25))).astype(np.float32)
        config = self.config
        self.config = config.updated({"concepts.min_score": 0.0})  # so that something is outlined, too
        try:
            scene = self.process(frame, AudioWindow(samples, rate, 0))
        finally:
            self.config = config
            self.reset()
        return dict(scene.stage_ms)

    def encodings(self, frames: Sequence[VideoFrame] = ()) -> SharedEncodings:
        """Encodings of images and sounds that several calls of ``process`` share.

        frames: images that go through the image model in one pass (several cameras).
        """
        return SharedEncodings(self.backbones, frames)

    def is_still(self, frame: VideoFrame) -> bool:
        """Will ``process`` use the features of an image before, as nothing has moved (``models.still_tolerance``)?"""
        return self._known_features(frame) is not None

    @torch.inference_mode()
    def process(self, frame: VideoFrame, window: AudioWindow, encodings: SharedEncodings | None = None) -> SoundingScene:
        """The scene of one frame; the next frame starts from it (warm start, temporal term).

        encodings: shared with other calls on the same models (other cameras, other methods, an explanation).
        """
        empty = self._without_models(frame, window)
        if empty:
            self._memory = None
            return empty
        encodings = encodings or self.encodings()
        naming_before = self._memory.naming if self._memory else None
        encodings.begin(window, parts=self._takes_apart(naming_before))
        times: dict[str, float] = {}
        with _timed(times, "image"):
            features = self._image_features(frame, encodings)
        with _timed(times, "sound"):
            audio = encodings.sound(window)
        last = self._memory.factorization if self._memory else None
        with _timed(times, "factorize"):
            found = factorize(
                features.tokens.values,
                audio.values,
                self.anchors,
                self.config.factorization,
                init=last,
                previous=last,
                generator=self._generator,
                visual_grid=features.tokens.grid,
                audio_grid=audio.grid,
                audio_times=audio.times,
            )
        factorization = cast(Factorization, found)  # one frame in, one result out
        return self._name_and_outline(frame, window, features, audio, factorization, encodings, times)

    @torch.inference_mode()
    def process_clip(
        self, frames: Sequence[VideoFrame], windows: Sequence[AudioWindow], encodings: SharedEncodings | None = None
    ) -> list[SoundingScene]:
        """All frames of a clip, solved as one problem with the joint temporal term (paper Eq. 7): it sees the future.

        Silent frames divide the clip. The memory of the last frame is dropped before, so that the clip stands alone.
        """
        if len(frames) != len(windows):
            raise ShapeError(f"process_clip: wanted a window for each of {len(frames)} frames, got {len(windows)}")
        self._memory = None
        encodings, joint = encodings or self.encodings(), dataclasses.replace(self.config.factorization, temporal="joint")
        scenes: list[SoundingScene] = []
        pairs = list(zip(frames, windows))
        while len(scenes) < len(pairs):
            rest = pairs[len(scenes) :]
            empty = [self._without_models(*pair) for pair in rest]
            if empty[0]:
                self._memory = None
                scenes.append(empty[0])
                continue
            run = rest[: next((n for n, scene in enumerate(empty) if scene), len(rest))]
            scenes += self._process_run(run, encodings, joint)
        return scenes

    def _process_run(
        self, run: Sequence[tuple[VideoFrame, AudioWindow]], encodings: SharedEncodings, config: FactorizationConfig
    ) -> list[SoundingScene]:
        """The scenes of (frame, window) pairs without silence among them."""
        times: dict[str, float] = {}
        with _timed(times, "image"):
            features = [encodings.image(frame) for frame, _ in run]
        with _timed(times, "sound"):
            audio = [encodings.sound(window) for _, window in run]
        with _timed(times, "factorize"):
            found = factorize(
                torch.stack([each.tokens.values for each in features]),
                torch.stack([each.values for each in audio]),
                self.anchors,
                config,
                generator=self._generator,
                visual_grid=features[0].tokens.grid,
                audio_grid=audio[0].grid,
                audio_times=audio[0].times,
            )
        each = {stage: ms / len(run) for stage, ms in times.items()}
        return [
            self._name_and_outline(frame, window, image, sound, factorization, encodings, dict(each))
            for (frame, window), image, sound, factorization in zip(run, features, audio, cast(list[Factorization], found))
        ]

    def _takes_apart(self, naming: Naming | None) -> bool:
        """Is more than one sound looked for, where this is named? From frame to frame it is mostly the same."""
        return naming is not None and naming.may_be_several and self.config.concepts.max_concepts > 1

    def _known_features(self, frame: VideoFrame) -> ImageFeatures | None:
        every_image = getattr(self.backbones.image, "every_image", False)
        return self._still.features(frame, 0.0 if every_image else self.config.models.still_tolerance)

    def _image_features(self, frame: VideoFrame, encodings: SharedEncodings) -> ImageFeatures:
        features = self._known_features(frame)
        if features is None:
            features = encodings.image(frame)
            self._still.keep(frame, features)
        return features

    def _without_models(self, frame: VideoFrame, window: AudioWindow) -> SoundingScene | None:
        """The scene of a frame that needs no model: silence or, with ``min_structure``, steady noise; None for all others."""
        concepts = self.config.concepts
        if window.level_dbfs < concepts.silence_dbfs:
            return _scene(frame, window, "silent")
        if concepts.min_structure and departure_from_noise(window) < concepts.min_structure:
            return _scene(frame, window, "unknown")
        return None

    def _name_and_outline(
        self,
        frame: VideoFrame,
        window: AudioWindow,
        features: ImageFeatures,
        audio: Tokens,
        factorization: Factorization,
        encodings: SharedEncodings,
        times: dict[str, float],
    ) -> SoundingScene:
        """The scene of solved factors: naming, then outlines. Keeps what the next frame starts from."""
        last = self._memory
        before, elapsed_s = (last.naming, (frame.stamp_ns - last.stamp_ns) / NS) if last else (None, math.inf)
        with _timed(times, "name"):
            bank = self.anchors, self.config.concepts
            naming = name_concepts(factorization, features.tokens, audio, *bank, before, elapsed_s)
            if self._takes_apart(naming):
                parts = () if naming.in_succession else encodings.parts(window)
                naming = name_further(naming, parts, *bank, before, elapsed_s)
        segmentation, masks_before = None, last.segmentation if last else None
        if naming.concepts:
            with _timed(times, "segment"):
                asked = factorization, naming.concepts, self.anchors, self.config.segmentation, masks_before
                segmentation = self.segmenter.segment(frame, features, *asked)
        self._memory = _Memory(frame.stamp_ns, factorization, naming, segmentation or masks_before)
        reported = naming.concepts[0].factor if naming.concepts else factorization.sounding
        return _scene(
            frame,
            window,
            _verdict(naming, segmentation),
            naming.score,
            objects=_with_sound_maps(segmentation.objects, naming.concepts, factorization, audio) if segmentation else (),
            confidence=segmentation.confidence if segmentation else None,
            sound_map=None if factorization.sounding < 0 else _sound_map(factorization, reported, audio),
            stage_ms=times,
            factorization=factorization,
            heard=self._likeliest_sounds(naming.sound),
            concepts=naming.concepts,
        )

    def _likeliest_sounds(self, sound: SoundEvidence | None) -> tuple[WordScore, ...]:
        """Words, and names of sounds outside the bank, with probabilities, best first, in view or not."""
        count, encoder = self.config.concepts.n_heard, self.backbones.audio
        if sound is None:
            return ()
        if hasattr(encoder, "likeliest_sounds"):
            found: tuple[WordScore, ...] = encoder.likeliest_sounds(sound.component, count)
            return found
        return likeliest_words(sound, self.anchors.words, count)

    def close(self) -> None:
        """Free the models' memory; the pipeline cannot be used afterwards."""
        for name in ("_memory", "anchors", "segmenter", "backbones"):
            vars(self).pop(name, None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _scene(frame: VideoFrame, window: AudioWindow, verdict: str, score: float = 0.0, **found: Any) -> SoundingScene:
    head = frame.stamp_ns, frame.size, window.start_ns, window.end_ns, window.level_dbfs
    return SoundingScene(*head, score, verdict, **found)


def _verdict(naming: Naming, segmentation: Segmentation | None) -> str:
    if segmentation is None or not segmentation.objects:  # SAM 3 may see none of the words
        return "not_in_view" if naming.sound is not None and naming.sound.known else "unknown"
    return "sounding" if any(found.mask.any() for found in segmentation.objects) else "no_mask"


@contextmanager
def _timed(times: dict[str, float], stage: str) -> Iterator[None]:
    """Note the milliseconds of a stage."""
    start = time.perf_counter()
    yield
    times[stage] = 1000.0 * (time.perf_counter() - start)


def _sound_map(factorization: Factorization, factor: int, audio: Tokens) -> np.ndarray:
    """(bands, steps) float32 in [0, 1]: where in the window's sound the factor's source is."""
    return mean_of_rounds(audio.on_grid(source_activations(factorization)[:, factor]), audio.times).float().cpu().numpy()


def _with_sound_maps(
    objects: Sequence[SoundingObject], concepts: Sequence[Concept], factorization: Factorization, audio: Tokens
) -> tuple[SoundingObject, ...]:
    """The objects, each with the sound of its concept's factor: of the concept with its word, else of the first."""
    factors = {concept.label: concept.factor for concept in reversed(concepts)}
    found = [(item, factors.get(item.label, concepts[0].factor)) for item in objects]
    return tuple(dataclasses.replace(item, sound_map=_sound_map(factorization, k, audio)) for item, k in found)
