"""Figures on whole natural photographs: is the right thing outlined, and what did the mask step lose?"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from taco.evaluation import metrics
from taco.evaluation.datasets import Dataset, Sample
from taco.evaluation.methods import Bench, Outcome, method_named, resized
from taco.evaluation.scores import FIXED, FOUND_IOU, points_at
from taco.evaluation.wrong_sounds import replaced

LOST_IOU = 0.1  # below this a mask has lost the thing that word and map had found


@dataclass(frozen=True, slots=True)
class Judged:
    """One frame of one method. ious in [0, 1].

    live_iou: of the published masks, 0 where nothing is accepted; fixed_iou: of the map at 0.5, acceptance apart. on_thing,
    on_silent: does the middle of the mask lie on the sounding thing, on a silent one (False without a mask). right: the word.
    heard: accepted by score and level. placed: right and heard, and the map's maximum lies on the thing. lost: placed, but
    the published mask misses it. outlined: placed, and the mask overlaps it by FOUND_IOU or more. in_view: any of it is.
    """

    id: str
    kind: str
    word: str
    label: str
    score: float
    live_iou: float
    fixed_iou: float
    on_thing: bool
    on_silent: bool | None
    right: bool
    heard: bool
    placed: bool
    lost: bool
    outlined: bool
    in_view: bool
    ms: float


def judged(sample: Sample, outcome: Outcome, bench: Bench, kind: str, told: bool = False) -> Judged:
    """What one outcome is worth. told: the word was given, so that a score accepts nothing and no word can be wrong."""
    config = bench.config.concepts
    heard = told or (outcome.score >= config.min_score and sample.window.level_dbfs >= config.silence_dbfs)
    mask = published(sample, outcome) if heard else np.zeros(sample.frame.size, bool)
    map_ = resized(outcome.map, sample.frame.size)
    right = told or outcome.label == sample.word
    live = metrics.mask_iou(mask, sample.truth)
    placed = bool(right and heard and points_at(map_, sample.truth))
    return Judged(
        sample.id,
        kind,
        sample.word,
        outcome.label,
        float(outcome.score),
        live,
        metrics.mask_iou(map_ > FIXED, sample.truth),
        _middle_on(mask, sample.truth),
        None if sample.silent is None else _middle_on(mask, sample.silent),
        right,
        bool(heard),
        placed,
        placed and live < LOST_IOU,
        placed and live >= FOUND_IOU,
        bool(sample.truth.any()),
        float(sum(outcome.ms.values())),
    )


def published(sample: Sample, outcome: Outcome) -> np.ndarray:
    """(H, W) bool: union of the objects' masks."""
    union = np.zeros(sample.frame.size, bool)
    for thing in outcome.objects:
        union |= thing.mask
    return union


def _middle_on(mask: np.ndarray, thing: np.ndarray) -> bool:
    """Does the mask's centroid lie on the thing, or, where the mask is hollow there, its own pixel nearest to the centroid?"""
    ys, xs = np.nonzero(mask)
    if not len(ys):
        return False
    y, x = ys.mean(), xs.mean()
    if not mask[round(y), round(x)]:
        nearest = ((ys - y) ** 2 + (xs - x) ** 2).argmin()
        y, x = ys[nearest], xs[nearest]
    return bool(thing[round(y), round(x)])


def judge(
    bench: Bench,
    dataset: Dataset,
    methods: Sequence[str],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[str, Sample, Outcome, Judged], None] | None = None,
) -> dict[str, list[Judged]]:
    """{method: every frame judged}. keep: called with each, as pictures are not kept otherwise."""
    out: dict[str, list[Judged]] = {name: [] for name in methods}
    told = {name: method_named(name).told for name in methods}
    for done, clip in enumerate(dataset.clips):
        if progress:
            progress(done, len(dataset.clips))
        samples = clip.load(bench.config.audio.window_s)
        for name in methods:
            own = zlib.crc32(f"{seed}/{clip.id}".encode())
            outcomes = bench.run(name, samples, seed=own, temporal=dataset.rules.temporal)
            for sample, outcome in zip(samples, outcomes):
                result = judged(sample, outcome, bench, clip.group, told[name])
                out[name].append(result)
                if keep:
                    keep(name, sample, outcome, result)
        bench.forget()
    if progress:
        progress(len(dataset.clips), len(dataset.clips))
    return out


def natural_figures(items: Sequence[Judged]) -> dict[str, float]:
    """Percent over frames in which the thing is in view; "lost" and "outlined" are shares of the placed ones; ms a frame."""
    items = [item for item in items if item.in_view]
    if not items:
        return {}

    def share(values) -> float:
        values = [float(value) for value in values]
        return 100.0 * float(np.mean(values)) if values else float("nan")

    placed = [item for item in items if item.placed]
    return {
        "live_iou": share(i.live_iou for i in items),
        "fixed_iou": share(i.fixed_iou for i in items),
        "on_thing": share(i.on_thing for i in items),
        "on_silent": share(i.on_silent for i in items if i.on_silent is not None),
        "right_word": share(i.right for i in items),
        "heard": share(i.heard for i in items),
        "placed": share(i.placed for i in items),
        "lost": share(i.lost for i in placed),
        "outlined": share(i.outlined for i in placed),
        "ms": float(np.mean([i.ms for i in items])),
        "frames": float(len(items)),
    }


def by(items: Sequence[Judged], key: Callable[[Judged], str]) -> Mapping[str, list[Judged]]:
    """The items in groups, by name."""
    groups: dict[str, list[Judged]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return dict(sorted(groups.items()))


def false_reports(bench: Bench, dataset: Dataset, audio: str, methods: Sequence[str], progress=None) -> dict[str, float]:
    """{method: % of the photographs with another sound (``robustness.AUDIO``) of which anything is published}.

    One clip of each photograph and word; for speech only where nobody is in view.
    """
    kept: dict[str, list[bool]] = {name: [] for name in methods if not method_named(name).told}
    clips = [(n, c) for n, c in enumerate(dataset.clips) if c.number == 0]
    window_s, config = bench.config.audio.window_s, bench.config.concepts
    for done, (number, clip) in enumerate(clips):
        if progress:
            progress(done, len(clips))
        sample = clip.load(window_s)[0]
        if audio == "speech" and "person" in sample.words_in_view:
            continue
        sample = replaced(sample, audio, dataset, number, window_s)
        for name in kept:
            outcome = bench.run(name, [sample], seed=number)[0]
            heard = outcome.score >= config.min_score and sample.window.level_dbfs >= config.silence_dbfs
            kept[name].append(bool(heard and published(sample, outcome).any()))
        bench.forget()
    if progress:
        progress(len(clips), len(clips))
    return {name: 100.0 * float(np.mean(values)) if values else float("nan") for name, values in kept.items()}
