"""The metrics of the paper's tables, by the rules of the public evaluation code.

Maps are (H, W) arrays of confidence, truths (H, W) arrays in which a pixel is set where the value is
over 0.5; numpy arrays and torch tensors are both taken. Counts and sums are float64 throughout: the
float32 sums of common libraries differ in the seventh digit. All figures are percent.

Two figures must not be confused: *mask IoU* looks at the sounding pixels only, *mean IoU* averages
over classes with the background among them (paper, supplementary section 8).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from taco.errors import ShapeError, ValueRangeError

IOU_THRESHOLDS = np.arange(1, 20) / 20.0  # 0.05 ... 0.95, a pixel counts where map > threshold
F_THRESHOLDS = np.linspace(0.0, 1.0 - 1e-10, 255)  # a pixel counts where map >= threshold
BETA2 = 0.3  # weight of recall in F, as in salient object detection
POOLED_THRESHOLDS = 20  # of the data set's own range, for ADE Sound Prompted


def best_threshold_scores(maps: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> tuple[float, float]:
    """(mask IoU %, F %) at the best threshold for the whole set, as S4 and MS3 are scored.

    maps: N maps scaled to [0, 1]. truths: N masks.
    IoU: for each of IOU_THRESHOLDS the mean over frames, then the best: an oracle, since the threshold
    is chosen on the frames that are scored; ``fixed_threshold_scores`` is the honest figure.
    A frame with an empty truth counts as true negatives / pixels.
    F: the F curve over F_THRESHOLDS of every frame, averaged over the frames, then its maximum. Frames with
    an empty truth are skipped; NaN where every truth is empty.
    """
    return combine_thresholds([threshold_statistics(m, t) for m, t in paired(maps, truths)])[:2]


def fixed_threshold_scores(
    maps: Sequence[np.ndarray], truths: Sequence[np.ndarray], threshold: float = 0.5
) -> tuple[float, float]:
    """(mask IoU %, F %) with one threshold for all (``>``), the rules for empty truths as above."""
    pairs = list(paired(maps, truths))
    ious = [mask_iou(m > threshold, t) for m, t in pairs]
    fs = [f_score(m > threshold, t) for m, t in pairs if t.any()]
    return 100.0 * float(np.mean(ious)), 100.0 * float(np.mean(fs)) if fs else float("nan")


def detection_scores(maps: Sequence[np.ndarray], truths: Sequence[np.ndarray], class_ids: Sequence[int]) -> tuple[float, float]:
    """(IoU %, average precision %), means over classes, as ADE Sound Prompted is scored.

    class_ids: the class of each frame. The pixels of all frames of a class are pooled. IoU: the best of 20
    thresholds (``>``), evenly spaced from the least to the greatest pooled value. Average
    precision: exact, of the pooled pixels, equal values taken together; 0 where no pixel is set.
    """
    scores = detection_by_class(maps, truths, class_ids)
    iou, precision = (100.0 * float(np.mean([pair[i] for pair in scores.values()])) for i in (0, 1))
    return iou, precision


def detection_by_class(
    maps: Sequence[np.ndarray], truths: Sequence[np.ndarray], class_ids: Sequence[int]
) -> dict[int, tuple[float, float]]:
    """{class: (IoU, average precision)} in [0, 1], the rules of ``detection_scores``."""
    pairs = list(paired(maps, truths))
    ids = [i.item() if hasattr(i, "item") else i for i in class_ids]
    if len(ids) != len(pairs):
        raise ShapeError(f"class_ids: wanted one for each of {len(pairs)} maps, got {len(ids)}")
    out = {}
    for wanted in dict.fromkeys(ids):
        of_class = [pair for pair, own in zip(pairs, ids) if own == wanted]
        values = np.concatenate([m.ravel() for m, _ in of_class])
        truth = np.concatenate([t.ravel() for _, t in of_class])
        thresholds = np.linspace(values.min(), values.max(), POOLED_THRESHOLDS)
        chosen, hits = _counts_above(values, truth, thresholds, "left")
        union = chosen + truth.sum() - hits
        iou = np.divide(hits, union, out=np.zeros(len(union)), where=union > 0)
        out[wanted] = float(iou.max()), average_precision(values, truth)
    return out


def semantic_scores(labels: Sequence[np.ndarray], truths: Sequence[np.ndarray], n_classes: int) -> tuple[float, float]:
    """(mean IoU %, F %) over classes, as AVSS and ADE Sound Prompted Semantic are scored.

    labels: N maps of integers 0 ... n_classes - 1, 0 the background. truths: the same, a negative value is not
    scored. For each image IoU and F of every class come from its histogram; each class is
    averaged over the images in which prediction or truth holds it, then over the classes that occurred, the background
    included. F is 0 where precision and recall are both 0 or undefined.
    """
    return combine_semantic([semantic_statistics(a, b, n_classes) for a, b in zip(*_same_length(labels, truths))])[:2]


# --- one frame, so that a set can be stopped, resumed and spread over machines


@dataclass(frozen=True, slots=True)
class ThresholdStatistics:
    """One frame: IoU at IOU_THRESHOLDS (19,), F at F_THRESHOLDS (255,) or None where the truth is empty."""

    iou: np.ndarray
    f: np.ndarray | None


def threshold_statistics(map_: Any, truth: Any) -> ThresholdStatistics:
    """What one frame adds to ``best_threshold_scores``."""
    (m, t), *_ = paired([map_], [truth])
    values, truth, positives = m.ravel(), t.ravel(), int(t.sum())
    chosen, hits = _counts_above(values, truth, IOU_THRESHOLDS, "left")
    if not positives:
        return ThresholdStatistics((values.size - chosen) / values.size, None)
    iou = hits / (chosen + positives - hits)
    chosen, hits = _counts_above(values, truth, F_THRESHOLDS, "right")
    return ThresholdStatistics(iou, _f(hits, chosen, positives))


def combine_thresholds(frames: Sequence[ThresholdStatistics]) -> tuple[float, float, float]:
    """(mask IoU %, F %, the threshold of that IoU) of a set of frames."""
    if not frames:
        raise ValueRangeError("metrics: wanted at least one frame, got none")
    mean = np.mean([frame.iou for frame in frames], 0)
    curves = [frame.f for frame in frames if frame.f is not None]
    f = float(np.mean(curves, 0).max()) if curves else float("nan")
    return 100.0 * float(mean.max()), 100.0 * f, float(IOU_THRESHOLDS[mean.argmax()])


def semantic_statistics(labels: Any, truth: Any, n_classes: int) -> np.ndarray:
    """What one image adds to ``semantic_scores``: (n_classes, 3) pixels of intersection, prediction, truth."""
    a, b = _labels("labels", labels, 0, n_classes), _labels("truths", truth, None, n_classes)
    if a.shape != b.shape:
        raise ShapeError(f"metrics: wanted labels and truth of one size, got {a.shape} and {b.shape}")
    scored = b >= 0
    a, b = a[scored], b[scored]
    counts = [np.bincount(part, minlength=n_classes) for part in (a[a == b], a, b)]
    return np.stack(counts, 1)


def combine_semantic(images: Sequence[np.ndarray]) -> tuple[float, float, dict[int, tuple[float, float]]]:
    """(mean IoU %, F %, {class: (IoU, F) in [0, 1]}) of the images' counts."""
    if not len(images):
        raise ValueRangeError("metrics: wanted at least one image, got none")
    hits, chosen, positives = np.stack(images, 1).transpose(2, 0, 1)  # each (classes, images)
    union = chosen + positives - hits
    seen = (union > 0).sum(1)
    iou = np.divide(hits, union, out=np.zeros(union.shape), where=union > 0).sum(1)
    f = _f(hits, chosen, positives).sum(1)
    by_class = {int(c): (float(iou[c] / seen[c]), float(f[c] / seen[c])) for c in np.flatnonzero(seen)}
    if not by_class:
        raise ValueRangeError("metrics: wanted at least one scored pixel, got none")
    means = np.mean(list(by_class.values()), 0)
    return 100.0 * float(means[0]), 100.0 * float(means[1]), by_class


def mask_iou(mask: Any, truth: Any) -> float:
    """IoU of the set pixels in [0, 1]; true negatives / pixels where the truth is empty."""
    mask, truth = np.asarray(mask, bool), np.asarray(truth, bool)
    if not truth.any():
        return float(1.0 - mask.mean())
    return float((mask & truth).sum() / (mask | truth).sum())


def mean_iou(mask: Any, truth: Any) -> float:
    """Mean of the IoU of the set and of the unset pixels, in [0, 1]; a class that occurs in neither is left out."""
    mask, truth = np.asarray(mask, bool), np.asarray(truth, bool)
    parts = [((a & b).sum(), (a | b).sum()) for a, b in ((mask, truth), (~mask, ~truth))]
    return float(np.mean([inter / union for inter, union in parts if union]))


def f_score(mask: Any, truth: Any) -> float:
    """F with beta^2 = 0.3 in [0, 1]; 0 where nothing is hit."""
    mask, truth = np.asarray(mask, bool), np.asarray(truth, bool)
    return float(_f((mask & truth).sum(), mask.sum(), truth.sum()))


def average_precision(values: Any, truth: Any) -> float:
    """Area under the precision-recall steps, sum of (R_i - R_{i-1}) P_i, in [0, 1]; 0 where no truth is set."""
    values, truth = np.asarray(values, np.float64).ravel(), np.asarray(truth, bool).ravel()
    if not truth.any():
        return 0.0
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], np.cumsum(truth[order])
    last = np.r_[np.flatnonzero(np.diff(values)), len(values) - 1]  # the last of each run of equal values
    return float((np.diff(np.r_[0, hits[last]]) * (hits[last] / (last + 1.0))).sum() / hits[-1])


# --- helpers


def paired(maps: Iterable[Any], truths: Iterable[Any]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """Checked pairs: map as float64, truth as bool, of one 2-d shape, at least one pair."""
    for i, (m, t) in enumerate(zip(*_same_length(maps, truths))):
        m, t = _numpy(m), _numpy(t)
        if m.ndim != 2 or m.shape != t.shape or not m.size:
            raise ShapeError(f"metrics: wanted map and truth {i} of one (H, W), got {m.shape} and {t.shape}")
        m = m.astype(np.float64)
        if not np.isfinite(m).all():
            raise ValueRangeError(f"metrics: wanted finite numbers in map {i}, got NaN or infinity")
        yield m, t > 0.5


def _same_length(first: Iterable[Any], second: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    first, second = list(first), list(second)
    if len(first) != len(second):
        raise ShapeError(f"metrics: wanted as many truths as maps, got {len(second)} and {len(first)}")
    if not first:
        raise ValueRangeError("metrics: wanted at least one map, got none")
    return first, second


def _numpy(value: Any) -> np.ndarray:
    array: np.ndarray = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
    return array


def _labels(name: str, value: Any, low: int | None, n_classes: int) -> np.ndarray:
    value = _numpy(value)
    whole: np.ndarray = value.astype(np.int64)
    if value.ndim != 2 or (whole != value).any():
        raise ShapeError(f"{name}: wanted an (H, W) map of whole numbers, got {value.shape} of {value.dtype}")
    if (whole >= n_classes).any() or (low is not None and (whole < low).any()):
        raise ValueRangeError(f"{name}: wanted classes below {n_classes}, got {whole.min()} to {whole.max()}")
    return whole


def _counts_above(values: Any, truth: Any, thresholds: Any, side: Literal["left", "right"]) -> tuple[np.ndarray, np.ndarray]:
    """For each rising threshold how many values, and how many with truth set, lie above it.

    side "left" counts values > threshold, "right" values >= threshold.
    """
    passed = np.searchsorted(thresholds, values, side)  # how many thresholds each value passes
    bins = len(thresholds) + 1
    counts = np.bincount(passed, minlength=bins), np.bincount(passed[truth], minlength=bins)
    chosen, hits = (np.cumsum(count[::-1])[::-1][1:] for count in counts)
    return chosen, hits


def _f(hits: Any, chosen: Any, positives: Any) -> Any:
    """F = (1 + b) P R / (b P + R) = (1 + b) hits / (b positives + chosen), 0 without hits."""
    hits, below = np.asarray(hits, np.float64), BETA2 * np.asarray(positives) + np.asarray(chosen)
    return np.divide((1.0 + BETA2) * hits, below, out=np.zeros(np.broadcast(hits, below).shape), where=below > 0)
