"""False positives when the sound is replaced by silence, noise or another's."""

from __future__ import annotations

import dataclasses
import functools
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from taco.errors import ConfigError, MediaError
from taco.evaluation.datasets import Dataset, EvaluationFrame
from taco.evaluation.scores import Record
from taco.types import AudioWindow

if TYPE_CHECKING:
    from taco.evaluation.composed.sources import SceneSources

AUDIO = ("silence", "noise", "other", "offscreen", "speech", "weather", "music")
ACCEPTED = 0.95  # ours: share of truly sounding frames that the chosen threshold accepts
LEVEL = 0.1  # ours: RMS of synthetic noise where the true sound is silent


def replaced(sample: EvaluationFrame, audio: str, dataset: Dataset, number: int, window_s: float) -> EvaluationFrame:
    """The frame with a wrong sound, always the same one for the same frame.

    silence: zeros.
    noise: white noise at the level of the true sound.
    other: the sound of another clip of the data set, of something that is not in view.
    offscreen: a recording of something like that from outside the data set, of the same split (val or test).
    speech, weather, music: a recording of those; MediaError for speech where a person is in view.

    number: the clip's place in the data set. The truth becomes empty: nothing in view sounds.
    """
    rng = np.random.default_rng(zlib.crc32(f"{audio}/{sample.id}".encode()))
    window = sample.window
    if audio == "silence":
        samples, rate = np.zeros_like(window.samples), window.sample_rate
    elif audio == "noise":
        level = float(np.sqrt(np.mean(np.square(window.samples)))) or LEVEL
        samples, rate = rng.normal(0, level, len(window.samples)), window.sample_rate
    elif audio == "other":
        samples, rate = _of_another(sample, dataset, number, window_s, rng)
    elif audio == "offscreen":
        samples, rate = _offscreen(sample, "sound", dataset.split, len(window.samples) / window.sample_rate, rng)
    elif audio in ("speech", "weather", "music"):
        if audio == "speech" and "person" in sample.words_in_view:
            raise MediaError(f"--audio speech: wanted a clip with nobody in view, got {sample.id}; leave such clips out")
        samples, rate = _offscreen(sample, audio, dataset.split, len(window.samples) / window.sample_rate, rng)
    else:
        raise ConfigError(f"--audio: wanted one of {', '.join(AUDIO)}, got {audio!r}")
    wrong = AudioWindow(np.clip(samples, -1, 1).astype(np.float32), rate, window.start_ns)
    truth = None if sample.truth is None else np.zeros_like(sample.truth)
    return dataclasses.replace(sample, window=wrong, truth=truth, word="", sounding_objects=())


def _of_another(
    sample: EvaluationFrame, dataset: Dataset, number: int, window_s: float, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    """The window of a frame of another clip, of something not in view (of any other clip where the words are not known)."""
    others = [clip for i, clip in enumerate(dataset.clips) if i != number]
    for index in rng.permutation(len(others))[:50]:
        frames = others[index].load(window_s)
        frame = frames[int(rng.integers(len(frames)))]
        sounding = {frame.word, *(word for word, _ in frame.sounding_objects)}
        if not sample.words_in_view & sounding and np.any(frame.window.samples):
            return frame.window.samples, frame.window.sample_rate
    seen = ", ".join(sorted(sample.words_in_view)) or "nothing known"
    raise MediaError(
        f"--audio other: {sample.id} shows {seen}: wanted a clip that sounds of something else, got none in {dataset.name}"
    )


def _offscreen(
    sample: EvaluationFrame, role: str, split: str, seconds: float, rng: np.random.Generator
) -> tuple[np.ndarray, int]:
    from taco.evaluation.composed.scenes import SOUND_RATE, excerpt
    from taco.evaluation.composed.sources import SPLITS, catalogue

    split = split if split in SPLITS else SPLITS[-1]
    in_view = sample.words_in_view
    entries = [e for e in catalogue() if (e.role, e.split) == (role, split) and not e.made and not _alike(e.word, in_view)]
    entry = entries[int(rng.integers(len(entries)))]
    samples, rate = _sources().sound(entry.source, 0)
    return excerpt(samples, rate, round(seconds * SOUND_RATE), rng), SOUND_RATE


def _alike(word: str, in_view: set[str]) -> bool:
    """May the word's sound come from what is in view? Data sets name objects their own way ("dog barking")."""
    return any(word in seen for seen in in_view)


@functools.cache
def _sources() -> SceneSources:
    """One reader of the packages a process."""
    from taco.evaluation.composed.sources import SceneSources

    return SceneSources()


@dataclasses.dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold of the sounding score and what it does; rates in percent.

    threshold: in [0, 1].
    accepted: share of the truly sounding frames.
    frames: share of the wrong-sound frames that report anything.
    pixels: share of their pixels.
    """

    threshold: float
    accepted: float
    frames: float
    pixels: float


def roc(right: Sequence[float], wrong: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(thresholds, true positive rate, false positive rate): shares of right and of wrong scores >= falling thresholds."""
    groups = np.asarray(right, float), np.asarray(wrong, float)
    if not len(right) or not len(wrong):
        raise MediaError(f"roc: wanted scores of both kinds, got {len(right)} right and {len(wrong)} wrong")
    thresholds = np.r_[np.inf, np.unique(np.r_[groups])[::-1]]
    true_rate, false_rate = (np.array([(scores >= t).mean() for t in thresholds]) for scores in groups)
    return thresholds, true_rate, false_rate


def auc(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Area under the ROC: chance that a right score beats a wrong one, ties half."""
    _, tpr, fpr = roc(right, wrong)
    return float((np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2).sum())


def threshold_for(right: Sequence[Record], accepted: float = ACCEPTED) -> float:
    """The greatest threshold at which this share of the right frames is accepted."""
    scores = np.sort([r["score"] for r in right])[::-1]
    return float(scores[int(np.ceil(accepted * len(scores))) - 1])


def at_threshold(right: Sequence[Record], wrong: Sequence[Record], threshold: float) -> OperatingPoint:
    """What a threshold does: a frame reports something where its score reaches it, is over 0 and its mask is not empty."""

    def reports(r: Record) -> bool:
        return bool(r["score"] >= threshold and r["score"] > 0 and r["area"] > 0)

    frames = [reports(r) for r in wrong]
    pixels = [r["area"] * said for r, said in zip(wrong, frames)]
    rates = (np.mean([reports(r) for r in right]), np.mean(frames), np.mean(pixels))
    return OperatingPoint(threshold, *(100.0 * float(rate) for rate in rates))
