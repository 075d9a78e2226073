"""How the live line behaves over time: steadiness of masks and words, and how soon a mask follows a change of sound."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taco.evaluation import metrics
from taco.evaluation.composed.dataset import StampClip, stamps_of
from taco.evaluation.composed.scenes import FRAME_RATE, SOUND_RATE
from taco.evaluation.datasets import Sample
from taco.evaluation.methods import Bench, Outcome, resized, u_map
from taco.types import AudioWindow, VideoFrame

NO_MEMORY = {"concepts.memory_s": 0.0, "concepts.switch_margin": 0.0}
# name -> (how the clip is solved, settings, what it stands for)
MODES = {
    "warm": ("causal", {}, "each frame starts from the last, with the causal term, words averaged over time: the live line"),
    "warm, no term": ("causal", {"factorization.temporal_weight": 0.0}, "the same without the temporal term"),
    "warm, no memory": ("causal", NO_MEMORY, "the same with every frame heard by itself"),
    "cold": ("none", {}, "every frame by itself"),
    "joint": ("joint", {}, "the clip solved as one problem: the paper's, sees the future"),
}
BEFORE_S, AFTER_S = 2.0, 3.0  # sound of the first thing, then of the second
BACKGROUND = 10 ** (-50 / 20)  # RMS of the noise below the sounds


@dataclass(frozen=True, slots=True)
class SwitchClip:
    """Two things in view; the first sounds for BEFORE_S, then the other for AFTER_S, seen by a still camera at 10 Hz."""

    split: str
    seed: int
    words: tuple[str, ...]
    bank: str = "all"
    background: str = "natural"

    @property
    def id(self) -> str:
        """For tables and files."""
        return f"switch-{self.split}-{self.seed:04d}"

    @property
    def change(self) -> int:
        """The first frame after the change."""
        return round(BEFORE_S * FRAME_RATE)

    def load(self, window_s: float = 1.0) -> list[Sample]:
        """The frames; the truth is the thing that sounds at the frame's own time."""
        stamps = stamps_of(self.words, window_s, self.bank, self.background)
        scene = stamps.compose("two", self.split, self.seed)
        shown, rng = scene.frames[0], np.random.default_rng([7, self.seed])
        first = next(thing for thing in shown.things if thing.sounding)
        second = next(thing for thing in shown.things if not thing.sounding)
        parts = [stamps.recording(first.word, self.split, window_s + BEFORE_S, rng)]
        parts.append(stamps.recording(second.word, self.split, AFTER_S, rng))
        track = np.concatenate(parts)
        track = np.clip(track + rng.normal(0, BACKGROUND, len(track)), -1, 1).astype(np.float32)
        out = []
        for number in range(round((BEFORE_S + AFTER_S) * FRAME_RATE)):
            end = round((window_s + (number + 1) / FRAME_RATE) * SOUND_RATE)
            start = end - round(window_s * SOUND_RATE)
            window = AudioWindow(track[start:end], SOUND_RATE, round(start * 1e9 / SOUND_RATE))
            rgb = np.clip(shown.frame.rgb + rng.normal(0, 2.0, shown.frame.rgb.shape), 0, 255).astype(np.uint8)
            now, other = (first, second) if number < self.change else (second, first)
            frame = VideoFrame(rgb, window.end_ns)
            out.append(Sample(f"{self.id}/{number}", frame, window, now.mask, 0, now.word, ((now.word, now.mask),), other.mask))
        return out


def stream_figures(
    bench: Bench,
    words: Sequence[str],
    split: str = "test",
    count: int = 6,
    modes: Sequence[str] = tuple(MODES),
    progress=None,
    *,
    bank: str = "all",
    background: str = "natural",
) -> dict[str, dict[str, float]]:
    """{mode: figures} over ``count`` clips with a moving camera and ``count`` with a change of sound.

    iou: mask IoU at threshold 0.5, %. stability: IoU of consecutive masks, % (moving camera). flips: changes of the word in 100
    frames while one thing sounds. delay_s: from the change until the mask covers the new thing more than the old, clips that
    never follow counted with all their time. followed: share that do, %. ms: model time a frame. u_iou, u_stability: of the
    activations at half their range instead of the masks, for models that segment by the word alone.
    """
    words = tuple(words)
    clips = [StampClip("motion", split, seed, words, bank, background) for seed in range(count)]
    clips += [SwitchClip(split, seed, words, bank, background) for seed in range(count)]
    window_s = bench.config.audio.window_s
    kept: dict[str, list] = {mode: [] for mode in modes}
    for done, clip in enumerate(clips):
        if progress:
            progress(done, len(clips))
        samples = clip.load(window_s)
        for mode in modes:
            outcomes = run_mode(bench, mode, samples, zlib.crc32(clip.id.encode()))
            kept[mode].append(_measured(clip, samples, outcomes, [_u_mask(bench, *pair) for pair in zip(samples, outcomes)]))
        bench.forget()
    if progress:
        progress(len(clips), len(clips))
    return {mode: _means(items) for mode, items in kept.items()}


def run_mode(bench: Bench, mode: str, samples: Sequence[Sample], seed: int = 0) -> list[Outcome]:
    """The outcomes of one mode."""
    how, settings, _ = MODES[mode]
    return bench.run("taco", samples, seed=seed, temporal=how, settings=settings)


def steadiness(masks: Sequence[np.ndarray], labels: Sequence[str]) -> tuple[float, float]:
    """(mean IoU of consecutive masks in [0, 1], changes of the label in 100 transitions); two empty masks are alike."""
    pairs = list(zip(masks, masks[1:]))
    alike = [metrics.mask_iou(a, b) if b.any() else float(not a.any()) for a, b in pairs]
    return float(np.mean(alike)), 100.0 * float(np.mean([a != b for a, b in zip(labels, labels[1:])]))


def delay(masks: Sequence[np.ndarray], new: np.ndarray, old: np.ndarray, change: int) -> int | None:
    """Frames from ``change`` until a mask overlaps ``new`` more than ``old``; None where none does."""
    for number, mask in enumerate(masks[change:]):
        if mask.any() and (mask & new).sum() / new.sum() > (mask & old).sum() / old.sum():
            return number
    return None


def _u_mask(bench: Bench, sample: Sample, outcome: Outcome) -> np.ndarray:
    """(H, W) bool: where the outcome's factor is active."""
    if outcome.factorization is None or outcome.factor < 0:
        return np.zeros(sample.frame.size, bool)
    features, _ = bench.encoded(sample)
    return resized(u_map(features, outcome.factorization, outcome.factor), sample.frame.size, "bilinear") > 0.5


def _measured(clip, samples: Sequence[Sample], outcomes: Sequence[Outcome], u_masks: Sequence[np.ndarray]) -> dict[str, float]:
    masks = [resized(o.map, s.frame.size, "bilinear") > 0.5 for o, s in zip(outcomes, samples)]
    labels = [o.label for o in outcomes]
    out = {}
    for name, shown in (("iou", masks), ("u_iou", u_masks)):
        scored = [metrics.mask_iou(m, s.truth) for m, s in zip(shown, samples) if s.truth is not None]
        out[name] = 100 * float(np.mean(scored))
    out["ms"] = float(np.mean([sum(o.ms.values()) for o in outcomes]))
    if not _is_switch(clip):
        stability, out["flips"] = steadiness(masks, labels)
        return out | {"stability": 100 * stability, "u_stability": 100 * steadiness(u_masks, labels)[0]}
    frames = delay(masks, samples[-1].truth, samples[-1].silent, clip.change)
    out["followed"] = 100.0 * (frames is not None)
    return out | {"delay_s": (AFTER_S * FRAME_RATE if frames is None else frames) / FRAME_RATE}


def _is_switch(clip) -> bool:
    return isinstance(clip, SwitchClip)


def _means(items: Sequence[dict[str, float]]) -> dict[str, float]:
    names = ("iou", "stability", "flips", "delay_s", "followed", "u_iou", "u_stability", "ms")
    return {name: float(np.mean([item[name] for item in items if name in item])) for name in names}
