"""Behaviour over time: steadiness of masks and words, delay after a change of sound."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from taco.evaluation import metrics, report
from taco.evaluation.composed.scenes import FRAME_RATE, INSTRUMENTS, SOUND_RATE, ComposedClip, composer_for
from taco.evaluation.datasets import EvaluationFrame
from taco.evaluation.methods import MethodRunner, Outcome, resized, u_map
from taco.evaluation.runner import ProgressBar
from taco.types import AudioWindow, VideoFrame

NO_MEMORY: dict[str, object] = {"concepts.memory_s": 0.0, "concepts.switch_margin": 0.0}
# name -> (how the clip is solved, settings, what it stands for)
MODES: dict[str, tuple[str, dict[str, object], str]] = {
    "warm": ("causal", {}, "each frame starts from the last, with the causal term, words averaged over time: the live pipeline"),
    "warm, no term": ("causal", {"factorization.temporal_weight": 0.0}, "the same without the temporal term"),
    "warm, no memory": ("causal", NO_MEMORY, "the same with every frame processed by itself"),
    "cold": ("none", {}, "every frame by itself"),
    "joint": ("joint", {}, "the clip solved as one problem: the paper's, sees the future"),
}
BEFORE_S, AFTER_S = 2.0, 3.0  # ours: sound of the first object, then of the second
BACKGROUND = 10 ** (-50 / 20)  # ours: RMS of the noise below the sounds


@dataclass(frozen=True, slots=True)
class SwitchClip:
    """Two objects in view; the first sounds for BEFORE_S, then the other for AFTER_S, seen by a still camera at 10 Hz."""

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
        """The first frame after the change of sound."""
        return round(BEFORE_S * FRAME_RATE)

    def load(self, window_s: float = 1.0) -> list[EvaluationFrame]:
        """The frames; the truth is the object that sounds at the frame's own time."""
        composer = composer_for(self.words, window_s, self.bank, self.background)
        scene = composer.compose("two", self.split, self.seed)
        shown, rng = scene.frames[0], np.random.default_rng([7, self.seed])
        first = next(item for item in shown.objects if item.sounding)
        second = next(item for item in shown.objects if not item.sounding)
        parts = [composer.recording(first.word, self.split, window_s + BEFORE_S, rng)]
        parts.append(composer.recording(second.word, self.split, AFTER_S, rng))
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
            out.append(
                EvaluationFrame(f"{self.id}/{number}", frame, window, now.mask, 0, now.word, ((now.word, now.mask),), other.mask)
            )
        return out


def stream_figures(
    method_runner: MethodRunner,
    words: Sequence[str],
    split: str = "test",
    count: int = 6,
    modes: Sequence[str] = tuple(MODES),
    progress: Callable[[int, int], None] | None = None,
    *,
    bank: str = "all",
    background: str = "natural",
) -> dict[str, dict[str, float]]:
    """{mode: figures} over ``count`` clips with a moving camera and ``count`` with a change of sound.

    iou: mask IoU at threshold 0.5, %.
    stability: IoU of consecutive masks, % (moving camera).
    flips: changes of the word in 100 frames while one object sounds.
    delay_s: from the change until the mask covers the new object more than the old; all the time where it never does.
    followed: share of the changes that the mask follows, %.
    ms: model time a frame.
    u_iou, u_stability: of the activations at half their range instead of the masks, for models that segment by the word alone.
    """
    words = tuple(words)
    clips: list[ComposedClip | SwitchClip] = [
        ComposedClip("motion", split, seed, words, bank, background) for seed in range(count)
    ]
    clips += [SwitchClip(split, seed, words, bank, background) for seed in range(count)]
    window_s = method_runner.config.audio.window_s
    kept: dict[str, list[dict[str, float]]] = {mode: [] for mode in modes}
    for done, clip in enumerate(clips):
        if progress:
            progress(done, len(clips))
        samples = clip.load(window_s)
        for mode in modes:
            outcomes = run_mode(method_runner, mode, samples, zlib.crc32(clip.id.encode()))
            kept[mode].append(
                _measured(clip, samples, outcomes, [_u_mask(method_runner, *pair) for pair in zip(samples, outcomes)])
            )
        method_runner.forget()
    if progress:
        progress(len(clips), len(clips))
    return {mode: _means(items) for mode, items in kept.items()}


def run_mode(method_runner: MethodRunner, mode: str, samples: Sequence[EvaluationFrame], seed: int = 0) -> list[Outcome]:
    """The outcomes of one mode."""
    how, settings, _ = MODES[mode]
    return method_runner.run("taco", samples, seed=seed, temporal=how, settings=settings)


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


def _u_mask(method_runner: MethodRunner, sample: EvaluationFrame, outcome: Outcome) -> np.ndarray:
    """(H, W) bool: where the outcome's factor is active."""
    if outcome.factorization is None or outcome.factor < 0:
        return np.zeros(sample.frame.size, bool)
    features, _ = method_runner.encoded(sample)
    return resized(u_map(features, outcome.factorization, outcome.factor), sample.frame.size, "bilinear") > 0.5


def _measured(
    clip: ComposedClip | SwitchClip,
    samples: Sequence[EvaluationFrame],
    outcomes: Sequence[Outcome],
    u_masks: Sequence[np.ndarray],
) -> dict[str, float]:
    masks = [resized(o.map, s.frame.size, "bilinear") > 0.5 for o, s in zip(outcomes, samples)]
    labels = [o.label for o in outcomes]
    out = {}
    for name, shown in (("iou", masks), ("u_iou", u_masks)):
        scored = [metrics.mask_iou(m, s.truth) for m, s in zip(shown, samples) if s.truth is not None]
        out[name] = 100 * float(np.mean(scored))
    out["ms"] = float(np.mean([sum(o.ms.values()) for o in outcomes]))
    change: int | None = getattr(clip, "change", None)
    if change is None:
        stability, out["flips"] = steadiness(masks, labels)
        return out | {"stability": 100 * stability, "u_stability": 100 * steadiness(u_masks, labels)[0]}
    new, old = samples[-1].truth, samples[-1].silent
    assert new is not None and old is not None  # a clip with a change has two objects
    frames = delay(masks, new, old, change)
    out["followed"] = 100.0 * (frames is not None)
    return out | {"delay_s": (AFTER_S * FRAME_RATE if frames is None else frames) / FRAME_RATE}


def _means(items: Sequence[dict[str, float]]) -> dict[str, float]:
    names = ("iou", "stability", "flips", "delay_s", "followed", "u_iou", "u_stability", "ms")
    return {name: float(np.mean([item[name] for item in items if name in item])) for name in names}


class StreamEvaluation:
    """Warm against cold, joint against causal, on composed clips: ``result()`` measures, ``text()`` and ``page()`` show.

    count: clips of each sort. bank, background: as of composed scenes.
    """

    def __init__(
        self, method_runner: MethodRunner, split: str = "test", count: int = 6, bank: str = "auto", background: str = "natural"
    ):
        self.method_runner, self.split, self.count = method_runner, split, count
        self.material = {"bank": "instruments" if bank == "instruments" else "all", "background": background}
        if bank == "instruments":
            method_runner.set_words(INSTRUMENTS)

    def result(self) -> dict[str, Any]:
        """Everything that was measured."""
        words = self.method_runner.anchors.words
        progress = ProgressBar("streams")
        found = stream_figures(self.method_runner, words, self.split, self.count, progress=progress, **self.material)
        return {
            "warning": report.warning(self.method_runner.base.backbones),
            "dataset": "streams",
            "split": self.split,
            "clips": 2 * self.count,
            "rows": {mode: {key: (value, 0.0) for key, value in figures.items()} for mode, figures in found.items()},
            "modes": {mode: MODES[mode][-1] for mode in found},
        }

    def notes(self, result: dict[str, Any]) -> list[str]:
        """What was run."""
        half = result["clips"] // 2
        out = [result["warning"]] if result["warning"] else []
        clips = f"{half} clips with a moving camera, {half} with a change of sound, 10 frames a second"
        out.append(f"streams {result['split']}: {clips}")
        return out + [f"{mode}: {meaning}" for mode, meaning in result["modes"].items()]

    def text(self, result: dict[str, Any]) -> str:
        """The result as text."""
        return "\n".join([*self.notes(result), "", report.text_table("streams", result["rows"])])

    def page(self, result: dict[str, Any]) -> str:
        """The result as one HTML file."""
        return report.html_page("TACO on streams", self.notes(result), "streams", result["rows"])
