"""Metrics: answers known by hand, the definitions written out slowly, and torchmetrics where it has the metric."""

import math

import numpy as np
import pytest
import torch

from taco.backbones.vendors import ensure_torchvision
from taco.errors import ShapeError, ValueRangeError
from taco.evaluation import metrics


def random_set(seed, n=6, size=(13, 17), empty=()):
    rng = np.random.default_rng(seed)
    maps = [rng.random(size) for _ in range(n)]
    truths = [np.zeros(size, bool) if i in empty else rng.random(size) < rng.uniform(0.1, 0.9) for i in range(n)]
    return maps, truths


def slow_best_threshold(maps, truths):
    best = 0.0
    for k in range(1, 20):
        ious = []
        for m, t in zip(maps, truths):
            p = m > k * 0.05
            ious.append((~p & ~t).sum() / t.size if t.sum() == 0 else (p & t).sum() / (p | t).sum())
        best = max(best, np.mean(ious))
    curves = []
    for m, t in zip(maps, truths):
        if t.sum() == 0:
            continue
        curve = []
        for threshold in np.linspace(0, 1 - 1e-10, 255):
            p = m >= threshold
            hit = (p & t).sum()
            precision, recall = (hit / p.sum() if p.sum() else 0.0), hit / t.sum()
            curve.append(1.3 * precision * recall / (0.3 * precision + recall) if hit else 0.0)
        curves.append(curve)
    return 100 * best, 100 * np.max(np.mean(curves, 0))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("empty", [(), (1, 4)])
def test_best_threshold_equals_the_definition_written_out(seed, empty):
    maps, truths = random_set(seed, empty=empty)
    assert metrics.best_threshold_scores(maps, truths) == pytest.approx(slow_best_threshold(maps, truths), abs=1e-9)


def test_best_threshold_by_hand():
    truth = np.array([[1, 1, 0, 0]])
    # > .05 ... .4: IoU 2/3; > .45: 1/2 (0.4 falls out); the map's own 0.4 is not over 0.4
    iou, f = metrics.best_threshold_scores([np.array([[0.9, 0.4, 0.35, 0.0]])], [truth])
    assert iou == pytest.approx(100.0)  # at 0.35: 0.35 > 0.35 is false, 0.4 is over it
    assert f == pytest.approx(100.0)
    iou, _ = metrics.best_threshold_scores([np.array([[0.9, 0.35, 0.4, 0.0]])], [truth])
    assert iou == pytest.approx(100 * 2 / 3)


def test_f_has_255_thresholds():
    """A map that rises from the 100th threshold on by a hundredth of a step: only with as many thresholds one lies between."""
    step = (1 - 1e-10) / 254
    values = np.array([[100 * step - 1e-6, 100 * step + 1e-6]])
    _, f = metrics.best_threshold_scores([values], [np.array([[False, True]])])
    assert f == pytest.approx(100.0) and len(metrics.F_THRESHOLDS) == 255


def test_a_truth_of_exactly_a_half_is_not_set():
    truth = np.array([[0.5, 0.51, 0.0]])
    assert metrics.fixed_threshold_scores([np.array([[0.0, 1.0, 0.0]])], [truth])[0] == pytest.approx(100.0)


def test_one_threshold_serves_the_whole_set():
    a, b = np.array([[0.9, 0.6]]), np.array([[0.4, 0.1]])
    truth = np.array([[1, 0]])
    # a alone is perfect at 0.6, b alone at 0.1; together the best is 0.1 ... 0.35: (1/2 + 1) / 2
    assert metrics.best_threshold_scores([a, b], [truth, truth])[0] == pytest.approx(75.0)


def test_f_averages_curves_not_maxima():
    a, b = np.array([[0.9, 0.8]]), np.array([[0.2, 0.1]])
    truth = np.array([[1, 0]])
    both = 1.3 * 0.5 / (0.3 * 0.5 + 1.0)
    # between 0.8 and 0.9: a is perfect, b empty: mean 1/2; between 0.1 and 0.2: b perfect, a both: (both + 1) / 2
    assert metrics.best_threshold_scores([a, b], [truth, truth])[1] == pytest.approx(100 * (both + 1) / 2)


def test_empty_truth_counts_true_negatives_and_is_left_out_of_f():
    iou, f = metrics.best_threshold_scores([np.array([[0.97, 0.0, 0.0, 0.0]])], [np.zeros((1, 4))])
    assert iou == pytest.approx(75.0)
    assert math.isnan(f)


def test_fixed_threshold_is_not_the_oracle():
    maps, truths = [np.array([[0.4, 0.2, 0.1]])], [np.array([[1, 0, 0]])]
    assert metrics.best_threshold_scores(maps, truths)[0] == 100.0
    assert metrics.fixed_threshold_scores(maps, truths) == (0.0, 0.0)
    assert metrics.fixed_threshold_scores(maps, truths, 0.15)[0] == pytest.approx(50.0)


def test_a_frame_without_truth_counts_for_iou_and_not_for_f():
    maps, truths = [np.array([[0.9, 0.1]])] * 2, [np.array([[1, 0]]), np.array([[0, 0]])]
    assert metrics.fixed_threshold_scores(maps, truths) == (75.0, 100.0)
    assert math.isnan(metrics.fixed_threshold_scores(maps[1:], truths[1:])[1])


def slow_detection(maps, truths, ids):
    ious, aps = [], []
    for c in sorted(set(ids)):
        values = np.concatenate([m.ravel() for m, i in zip(maps, ids) if i == c])
        truth = np.concatenate([t.ravel() for t, i in zip(truths, ids) if i == c])
        best = 0.0
        for threshold in np.linspace(values.min(), values.max(), 20):
            p = values > threshold
            if (p | truth).any():
                best = max(best, (p & truth).sum() / (p | truth).sum())
        ious.append(best)
        precision = [truth[values >= v].mean() for v in values[truth]]  # precision where each true pixel is found
        aps.append(np.mean(precision))
    return 100 * np.mean(ious), 100 * np.mean(aps)


@pytest.mark.parametrize("seed", range(4))
def test_detection_equals_the_definition_written_out(seed):
    maps, truths = random_set(seed, n=7)
    ids = [3, 3, 900, 2, 900, 3, 2]
    assert metrics.detection_scores(maps, truths, ids) == pytest.approx(slow_detection(maps, truths, ids), abs=1e-9)


def test_detection_pools_before_it_scores():
    # each frame alone is ranked perfectly; pooled, the second frame's false pixel outranks the first's true one
    maps = [np.array([[0.3, 0.1]]), np.array([[0.9, 0.5]])]
    truths = [np.array([[1, 0]])] * 2
    assert metrics.detection_scores(maps, truths, ["dog", "dog"])[1] == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert metrics.detection_scores(maps, truths, ["dog", "cat"]) == (100.0, 100.0)


def test_equal_values_are_taken_together():
    assert metrics.average_precision(np.full(4, 0.5), [1, 0, 0, 0]) == pytest.approx(0.25)
    assert metrics.average_precision([0.9, 0.1], [0, 0]) == 0.0


def torchmetrics_functional():
    assert ensure_torchvision()
    import torchmetrics.functional.classification as functional

    return functional


def test_average_precision_and_jaccard_agree_with_torchmetrics():
    functional = torchmetrics_functional()
    maps, truths = random_set(11, n=3, size=(40, 40))
    for m, t in zip(maps, truths):
        m = np.round(m, 2)  # ties
        theirs = functional.binary_average_precision(torch.tensor(m), torch.tensor(t).int())
        assert metrics.average_precision(m, t) == pytest.approx(float(theirs), abs=2e-6)  # theirs sums in float32
        theirs = functional.binary_jaccard_index(torch.tensor(m > 0.4), torch.tensor(t).int())
        assert metrics.mask_iou(m > 0.4, t) == pytest.approx(float(theirs), abs=2e-6)
        theirs = functional.multiclass_jaccard_index(torch.tensor(m > 0.4).int(), torch.tensor(t).int(), 2, average="macro")
        assert metrics.mean_iou(m > 0.4, t) == pytest.approx(float(theirs), abs=2e-6)
        theirs = functional.binary_fbeta_score(torch.tensor(m > 0.4).int(), torch.tensor(t).int(), beta=math.sqrt(0.3))
        assert metrics.f_score(m > 0.4, t) == pytest.approx(float(theirs), abs=2e-6)


def test_mask_iou_and_mean_iou_differ():
    mask, truth = np.array([[1, 1, 0, 0]], bool), np.array([[1, 0, 0, 0]], bool)
    assert metrics.mask_iou(mask, truth) == pytest.approx(1 / 2)
    assert metrics.mean_iou(mask, truth) == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert metrics.mean_iou(np.zeros((1, 3)), np.zeros((1, 3))) == 1.0


def slow_semantic(labels, truths, n):
    ious, fs = {}, {}
    for a, b in zip(labels, truths):
        a = np.where(b >= 0, a, -1)
        for c in range(n):
            inter, union = ((a == c) & (b == c)).sum(), ((a == c) | (b == c)).sum()
            if not union:
                continue
            ious.setdefault(c, []).append(inter / union)
            precision = inter / (a == c).sum() if (a == c).any() else 0
            recall = inter / (b == c).sum() if (b == c).any() else 0
            fs.setdefault(c, []).append(1.3 * precision * recall / (0.3 * precision + recall) if inter else 0.0)
    return tuple(100 * np.mean([np.mean(v) for v in d.values()]) for d in (ious, fs))


@pytest.mark.parametrize("seed", range(4))
def test_semantic_equals_the_definition_written_out(seed):
    rng = np.random.default_rng(seed)
    truths = [rng.integers(-1 if seed % 2 else 0, 3, (9, 8)) * rng.integers(1, 3) for _ in range(5)]
    labels = [np.where(rng.random((9, 8)) < 0.5, abs(t), rng.integers(0, 6, (9, 8))) for t in truths]
    assert metrics.semantic_scores(labels, truths, 8) == pytest.approx(slow_semantic(labels, truths, 8), abs=1e-9)


def test_semantic_by_hand_background_included():
    truth, labels = np.array([[0, 0, 2, 2]]), np.array([[0, 2, 2, 2]])
    iou, f = metrics.semantic_scores([labels], [truth], 5)
    assert iou == pytest.approx(100 * (1 / 2 + 2 / 3) / 2)
    assert f == pytest.approx(100 * (1.3 * 0.5 / (0.3 + 0.5) + 1.3 * (2 / 3) / (0.3 * 2 / 3 + 1)) / 2)


def test_a_class_is_averaged_over_its_own_images_first():
    right, wrong = np.array([[1, 1]]), np.array([[0, 0]])
    # class 1: images 1, 2, 3 give 1, 0, 0; background: images 2, 3 give 0
    iou, _ = metrics.semantic_scores([right, wrong, wrong], [right, right, right], 2)
    assert iou == pytest.approx(100 * (1 / 3 + 0) / 2)


def test_tensors_and_other_kinds_of_numbers_are_taken():
    maps, truths = random_set(5)
    expected = metrics.best_threshold_scores(maps, truths)
    as_tensors = [torch.tensor(m) for m in maps], [torch.tensor(t).to(torch.uint8) * 255 for t in truths]
    assert metrics.best_threshold_scores(*as_tensors) == expected
    assert metrics.best_threshold_scores(np.stack(maps), np.stack(truths).astype(float)) == expected


@pytest.mark.parametrize(
    "call, error",
    [
        (lambda: metrics.best_threshold_scores([], []), ValueRangeError),
        (lambda: metrics.best_threshold_scores([np.zeros((2, 2))], []), ShapeError),
        (lambda: metrics.best_threshold_scores([np.zeros((2, 2))], [np.zeros((2, 3))]), ShapeError),
        (lambda: metrics.best_threshold_scores([np.full((2, 2), np.nan)], [np.ones((2, 2))]), ValueRangeError),
        (lambda: metrics.detection_scores([np.zeros((2, 2))], [np.zeros((2, 2))], [1, 2]), ShapeError),
        (lambda: metrics.semantic_scores([np.full((2, 2), 0.5)], [np.zeros((2, 2))], 3), ShapeError),
        (lambda: metrics.semantic_scores([np.full((2, 2), 3)], [np.zeros((2, 2))], 3), ValueRangeError),
    ],
)
def test_bad_input_is_a_clear_error(call, error):
    with pytest.raises(error, match="wanted .* got"):
        call()


def test_a_value_on_the_threshold():
    # IoU counts map > threshold: 0.95 is not over the last threshold, so an empty truth is met by it
    assert metrics.best_threshold_scores([np.full((1, 4), 0.95)], [np.zeros((1, 4))])[0] == 100.0
    # F counts map >= threshold: at threshold 0 everything is chosen
    assert metrics.best_threshold_scores([np.zeros((1, 2))], [np.array([[1, 0]])])[1] == pytest.approx(100 * 0.65 / 1.15)
