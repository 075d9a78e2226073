"""The straight line: one image and its sound in, the outlined and named sounding things out."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import contextmanager

import numpy as np
import torch

from taco.backbones import build_anchors, load_backbones
from taco.backbones.base import Backbones
from taco.backbones.together import EncodedTogether
from taco.concepts import Heard, listen, name_concepts, pooled_sound, told
from taco.config import TacoConfig
from taco.factorization import factorize
from taco.segmentation import load_segmenter
from taco.segmentation.base import Segmenter
from taco.spectral import sound_parts, structure
from taco.types import AudioWindow, Factorization, ImageFeatures, SoundingScene, Tokens, VideoFrame, WordScore


class TacoPipeline:
    """Frozen models, a word bank and the memory of the last frame. Use it from one thread.

    heard: what the last frame was named by; None after silence and steady noise, and before the first.
    config: every setting. backbones, segmenter: given ones are used instead of the configured ones.
    Raises WeightsError, DeviceError, ConfigError or MissingPackageError where the configured models cannot run.
    """

    def __init__(
        self, config: TacoConfig | None = None, *, backbones: Backbones | None = None, segmenter: Segmenter | None = None
    ):
        self.config = config or TacoConfig()
        if self.config.models.threads:
            torch.set_num_threads(self.config.models.threads)
        self.backbones = backbones or load_backbones(self.config.models)
        self.segmenter = segmenter or load_segmenter(self.config, self.backbones)
        self.set_words(self.config.models.word_bank)
        self.reset()

    def set_words(self, words: Sequence[str]) -> None:
        """Listen for these words (empty: the models' own list); forgets the last frame."""
        self.anchors = build_anchors(self.backbones, words)
        self.reset()

    def set_config(self, config: TacoConfig) -> None:
        """Use other live settings (thresholds) from the next frame on; models stay as they are."""
        if config.concepts != self.config.concepts:
            self.heard = None  # a new threshold holds at once, for the words of the frame before too
        self.config = config
        self.segmenter.config = config.segmentation

    def reset(self, seed: int = 0) -> None:
        """Forget the last frame: the next one starts cold. seed: of the random numbers of cold starts."""
        self._last: Factorization | None = None
        self.heard: Heard | None = None
        self._heard_ns = 0
        if hasattr(self.segmenter, "reset"):
            self.segmenter.reset()
        self._generator = torch.Generator().manual_seed(seed)

    def warm_up(self, size: tuple[int, int] = (480, 640)) -> dict[str, float]:
        """Run one made frame of (height, width) px, so that the first real one is not slow; returns its times in ms."""
        noise = np.random.default_rng(0)
        frame = VideoFrame(noise.integers(0, 255, (*size, 3), np.uint8), 0)
        rate = 16000
        time_s = np.arange(round(self.config.audio.window_s * rate)) / rate
        samples = (0.3 * np.sin(2 * np.pi * 440 * time_s) * np.exp(-8 * (time_s % 0.25))).astype(np.float32)
        scene = self.process(frame, AudioWindow(samples, rate, 0))
        self.reset()
        return dict(scene.stage_ms)

    @torch.inference_mode()
    def encode(self, frame: VideoFrame, window: AudioWindow) -> tuple[ImageFeatures, Tokens]:
        """Image features and audio tokens, one pass of each frozen model."""
        return self.backbones.image.encode(frame), self.backbones.audio.encode(window)

    def name(
        self,
        window: AudioWindow,
        features: ImageFeatures,
        audio: Tokens,
        factorization: Factorization,
        before: Heard | None = None,
        elapsed_s: float = math.inf,
        hear=None,
    ) -> Heard:
        """What is heard and seen, for factors found elsewhere too. Remembers nothing.

        before: what was heard ``elapsed_s`` seconds ago. hear: encodes the window's parts; None takes the sound model.
        """
        hear = hear or self.backbones.audio.encode

        def parts():
            return [hear(part) for part in sound_parts(window) or ()]

        concepts = self.config.concepts
        return name_concepts(factorization, features.tokens, audio, self.anchors, concepts, before, elapsed_s, parts)

    def told(self, audio: Tokens) -> tuple[WordScore, ...]:
        """What is heard, in view or not: words, and names of sounds without one, with probabilities, best first."""
        component, count, encoder = pooled_sound(audio), self.config.concepts.n_heard, self.backbones.audio
        if hasattr(encoder, "heard"):
            return encoder.heard(component, count)
        return told(listen(component, self.anchors), self.anchors.words, count)

    @torch.inference_mode()
    def process(self, frame: VideoFrame, window: AudioWindow, together: EncodedTogether | None = None) -> SoundingScene:
        """What is heard and seen in one frame; the next frame starts from it (warm start, temporal term).

        together: a pass that this frame shares with those of other pipelines with the same models (several cameras).
        """
        times: dict[str, float] = {}
        level = window.level_dbfs

        def scene(verdict: str, score: float = 0.0, **found) -> SoundingScene:
            return SoundingScene(
                frame.stamp_ns, frame.size, window.start_ns, window.end_ns, level, score, verdict, stage_ms=times, **found
            )

        if level < self.config.concepts.silence_dbfs:
            self._last = self.heard = None
            return scene("silent")
        least = self.config.concepts.min_structure
        if least and structure(window) < least:
            self._last = self.heard = None
            return scene("unknown")
        with _timed(times, "image"):
            features = together.image(frame) if together else self.backbones.image.encode(frame)
        hear = together.sound if together else self.backbones.audio.encode
        with _timed(times, "sound"):
            audio = hear(window)
        with _timed(times, "factorize"):
            factorization = factorize(
                features.tokens.values,
                audio.values,
                self.anchors,
                self.config.factorization,
                init=self._last,
                previous=self._last,
                generator=self._generator,
                visual_grid=features.tokens.grid,
                audio_grid=audio.grid,
            )
        self._last = factorization
        with _timed(times, "name"):
            elapsed_s = (frame.stamp_ns - self._heard_ns) / 1e9
            heard = self.name(window, features, audio, factorization, self.heard, elapsed_s, hear)
            self.heard, self._heard_ns = heard, frame.stamp_ns
            sound_map = _sound_map(factorization, audio)
        found = {"factorization": factorization, "sound_map": sound_map, "heard": self.told(audio)}
        if not heard.concepts:
            known = heard.sound is not None and heard.sound.known
            return scene("not_in_view" if known else "unknown", heard.score, **found)
        with _timed(times, "segment"):
            masks = self.segmenter.segment(frame, features, factorization, heard.concepts, self.anchors)
        verdict = "sounding" if any(thing.mask.any() for thing in masks.objects) else "no_mask"
        return scene(verdict, heard.score, objects=masks.objects, confidence=masks.confidence, **found)

    def close(self) -> None:
        """Free the models' memory; the pipeline cannot be used afterwards."""
        self._last = self.anchors = self.segmenter = self.backbones = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@contextmanager
def _timed(times: dict[str, float], stage: str):
    start = time.perf_counter()
    yield
    times[stage] = 1000.0 * (time.perf_counter() - start)


def _sound_map(factorization: Factorization, audio: Tokens) -> np.ndarray | None:
    if factorization.sounding < 0:
        return None
    activations = factorization.audio_activations[:, factorization.sounding]
    return audio.on_grid(activations).float().cpu().numpy()
