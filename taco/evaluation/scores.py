"""From a frame's outcome to a record, and from records to figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from taco.config import TacoConfig
from taco.evaluation import metrics
from taco.evaluation.datasets import Dataset, EvaluationFrame
from taco.evaluation.methods import Outcome, resized

FIXED = 0.5  # the threshold beside the oracle one
FOUND_IOU = 0.25  # from which a mask counts as having found an object

Record = dict[str, Any]


def record(dataset: Dataset, sample: EvaluationFrame, outcome: Outcome, config: TacoConfig) -> Record:
    """What is kept of one frame: plain numbers, words and arrays.

    accepted: would the live pipeline report it (level gate, ``concepts.min_score``, a mask). area: share of pixels in the
    objects' masks, acceptance apart. live_iou: of the live masks, 0 area where not accepted. hit: does the map's
    maximum lie on the truth.
    """
    union = union_of_masks(sample, outcome)
    level = sample.window.level_dbfs
    loud_and_sure = level >= config.concepts.silence_dbfs and outcome.score >= config.concepts.min_score
    accepted = bool(loud_and_sure and union.any())
    out: Record = {
        "id": sample.id,
        "score": float(outcome.score) if level >= config.concepts.silence_dbfs else 0.0,
        "accepted": accepted,
        "scored": sample.truth is not None,
        "area": float(union.mean()),
        "level_dbfs": level,
        "label": outcome.label,
        "word": sample.word,
        "words": [list(pair) for pair in outcome.words],
        "ms": {stage: float(value) for stage, value in outcome.ms.items()},
    }
    if sample.sounding_objects:
        out["found"] = (
            [_found(outcome, word, mask) for word, mask in sample.sounding_objects]
            if accepted
            else [False] * len(sample.sounding_objects)
        )
    if sample.truth is None:
        return out
    if dataset.rules.metric == "semantic":
        return out | _semantic(dataset, sample.truth, outcome)
    truth = sample.truth
    size = (dataset.rules.size,) * 2 if dataset.rules.size else truth.shape
    map_ = resized(outcome.map, size)
    live = resized(union.astype(np.float32), truth.shape, "bilinear") > 0.5 if accepted else np.zeros(truth.shape, bool)
    statistics = metrics.threshold_statistics(map_, truth)
    out |= {
        "iou": statistics.iou,
        "fixed_f": metrics.f_score(map_ > FIXED, truth) if truth.any() else float("nan"),
        "live_iou": metrics.mask_iou(live, truth),
        "mean_iou": metrics.mean_iou(map_ > FIXED, truth),
        "hit": points_at(map_, truth),
    }
    if sample.silent is not None:
        out["hit_silent"] = points_at(map_, resized(sample.silent.astype(np.float32), size, "bilinear") > 0.5)
    if statistics.f is not None:
        out["f"] = statistics.f
    if dataset.rules.metric == "detection":
        out |= {"class_id": sample.class_id, "map": map_.astype(np.float32), "truth": truth}
    return out


def figures(dataset: Dataset, records: Sequence[Record], threshold: float | None = None) -> dict[str, float]:
    """The figures of one method and one seed, percent where not said otherwise.

    threshold: chosen elsewhere (on ``val``); gives "tuned_iou" at the nearest of the metric's thresholds.
    """
    out: dict[str, float] = {}
    records = [r for r in records if r["scored"]]
    scored = [r for r in records if "iou" in r]
    if dataset.rules.metric == "semantic":
        counts = [r["counts"] for r in records]
        out["miou"], out["f"], _ = metrics.combine_semantic(counts)
    elif scored:
        frames = [metrics.ThresholdStatistics(r["iou"], r.get("f")) for r in scored]
        iou, f, best = metrics.combine_thresholds(frames)
        if dataset.rules.metric == "detection":
            columns = zip(*[(r["map"], r["truth"], r["class_id"]) for r in scored])
            out["iou"], out["map"] = metrics.detection_scores(*columns)
        else:
            out["iou"], out["f"], out["threshold"] = iou, f, best
        ious = np.mean([r["iou"] for r in scored], 0)
        out["fixed_iou"] = 100.0 * float(ious[_nearest(FIXED)])
        fixed_f = [r["fixed_f"] for r in scored if np.isfinite(r["fixed_f"])]
        out["fixed_f"] = 100.0 * float(np.mean(fixed_f)) if fixed_f else float("nan")
        if threshold is not None:
            out["tuned_iou"] = 100.0 * float(ious[_nearest(threshold)])
        if all("hit_silent" in r for r in scored):
            out["hit_silent"] = 100.0 * float(np.mean([r["hit_silent"] for r in scored]))
        out |= {f"{name}": 100.0 * float(np.mean([r[name] for r in scored])) for name in ("live_iou", "mean_iou", "hit")}
    named = [r for r in records if r["word"]]
    if named:
        out["right_word"] = 100.0 * float(np.mean([r["label"] == r["word"] for r in named]))
    found = [all(r["found"]) for r in records if r.get("found")]
    if found:
        out["all_found"] = 100.0 * float(np.mean(found))
    out["accepted"] = 100.0 * float(np.mean([r["accepted"] for r in records]))
    out["ms"] = float(np.mean([sum(r["ms"].values()) for r in records]))
    return out


def by_class(dataset: Dataset, records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """{class: its figures} where classes are scored, percent: IoU and F of a semantic set, IoU and mAP of a pooled one."""
    records = [r for r in records if r["scored"]]
    if dataset.rules.metric == "semantic":
        _, _, found = metrics.combine_semantic([r["counts"] for r in records])
        names = dataset.words if dataset.has_background else ("background", *dataset.words)
        return {names[number]: {"miou": 100 * iou, "f": 100 * f} for number, (iou, f) in found.items()}
    if dataset.rules.metric == "detection":
        found = metrics.detection_by_class(*zip(*[(r["map"], r["truth"], r["class_id"]) for r in records]))
        words = {r["class_id"]: r["word"] or f"class {r['class_id']}" for r in records}
        return {words[number]: {"iou": 100 * iou, "map": 100 * ap} for number, (iou, ap) in found.items()}
    return {}


def reliability(right: Sequence[Record], wrong: Sequence[Record] = (), steps: int = 10) -> list[dict[str, float]]:
    """Are scores probabilities? Rows by score: from, to, count, the mean score and the share that was right, both in [0, 1].

    right: frames with one word to find; such a frame is right where the word is the true one and the map points at it.
    wrong: frames in which nothing in view sounds: never right.
    """
    cases = [(r["score"], r["label"] == r["word"] and r.get("hit", True)) for r in right if r["scored"] and r["word"]]
    cases += [(r["score"], False) for r in wrong if r["scored"]]
    out = []
    for step in range(steps):
        low, high = step / steps, (step + 1) / steps
        inside = [case for case in cases if low <= case[0] < high or (step == steps - 1 and case[0] == 1.0)]
        if inside:
            score, share = (float(np.mean([case[n] for case in inside])) for n in (0, 1))
            out.append({"from": low, "to": high, "count": len(inside), "score": score, "right": share})
    return out


def confusions(records: Sequence[Record], most: int = 12) -> list[tuple[str, str, int]]:
    """(true word, word that was reported, frames), the most frequent first: what is taken for what, whether accepted or not."""
    pairs = Counter((r["word"], r["label"]) for r in records if r["scored"] and r["word"] and r["label"] != r["word"])
    return [(true, reported, count) for (true, reported), count in pairs.most_common(most)]


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    """{figure: (mean, standard deviation)} over seeds; the deviation is of the population, as in the public runs."""
    return {name: (float(np.mean([r[name] for r in runs])), float(np.std([r[name] for r in runs]))) for name in runs[0]}


def best_threshold(records: Sequence[Record]) -> float:
    """The map threshold with the best mean IoU on these frames."""
    frames = [metrics.ThresholdStatistics(r["iou"], r.get("f")) for r in records if "iou" in r]
    return metrics.combine_thresholds(frames)[2]


def union_of_masks(sample: EvaluationFrame, outcome: Outcome) -> np.ndarray:
    """(H, W) bool: union of the objects' masks."""
    return np.any([item.mask for item in outcome.objects], 0) if outcome.objects else np.zeros(sample.frame.size, bool)


def points_at(map_: np.ndarray, mask: np.ndarray) -> bool:
    """Does the map's maximum lie on the mask? Of several equal ones more than half must; a flat map points nowhere."""
    return bool(map_.max() > map_.min() and mask[map_ == map_.max()].mean() > 0.5)


def _nearest(threshold: float) -> int:
    return int(np.abs(metrics.IOU_THRESHOLDS - threshold).argmin())


def _found(outcome: Outcome, word: str, mask: np.ndarray) -> bool:
    return any(item.label == word and metrics.mask_iou(item.mask, mask) >= FOUND_IOU for item in outcome.objects)


def _semantic(dataset: Dataset, truth: np.ndarray, outcome: Outcome) -> Record:
    region = outcome.winner if dataset.rules.readout == "argmax" else outcome.map > FIXED
    rows, columns = (np.arange(new) * old // new for new, old in zip(truth.shape, region.shape))
    painted = region[rows[:, None], columns].astype(np.int64) * dataset.class_of(outcome.label)
    return {"counts": metrics.semantic_statistics(painted, truth, dataset.n_classes)}
