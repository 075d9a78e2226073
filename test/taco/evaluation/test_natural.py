"""Whole natural photographs: outlines inside their pictures, splits, pairs, moving crops, and what is counted as lost.

Those marked ``data`` read the real packages, fetched by name where missing.
"""

import json
from importlib.resources import files
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from taco.errors import MediaError, ValueRangeError
from taco.evaluation import natural, scores
from taco.evaluation.datasets import EvaluationFrame
from taco.evaluation.methods import Outcome
from taco.evaluation.natural import CLIP_SIZE, Photograph, filled, moved, photograph_set, photographs
from taco.evaluation.natural_scores import SHEET_TILE, Cell, drawn, frame_result, natural_figures, write_sheet
from taco.types import AudioWindow, SoundingObject, VideoFrame

SPLITS = ("val", "test")
CONFIG = SimpleNamespace(concepts=SimpleNamespace(min_score=0.5, silence_dbfs=-60.0))
BENCH = SimpleNamespace(config=CONFIG)


def test_every_photograph_belongs_to_one_split_and_is_no_background_of_the_scenes():
    from taco.evaluation.composed.canvas import backgrounds

    places = [(photograph.package, photograph.file) for photograph in photographs()]
    assert len(places) == len(set(places)) >= 24 and {p.split for p in photographs()} == set(SPLITS)
    rooms = {source.removeprefix("rooms:") for split in SPLITS for source in backgrounds()[split]}
    assert not rooms & {photograph.file.rpartition("/")[2] for photograph in photographs()}


def test_outlines_are_fractions_with_enough_points():
    table = json.loads(files("taco.evaluation").joinpath("natural_outlines.json").read_text())
    for photograph in table["photographs"]:
        for item in photograph.get("objects", ()):
            for polygon in item["polygons"]:
                points = np.array(polygon)
                assert len(points) >= 11 and points.min() >= 0 and points.max() <= 1, (photograph["file"], item["word"])


def test_a_polygon_is_filled_where_it_says():
    mask = filled([((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))], (40, 80))
    assert mask[10:30, 20:60].mean() > 0.98 and abs(mask.mean() - 0.25) < 0.03
    two = filled([((0, 0), (0.2, 0), (0.2, 1), (0, 1)), ((0.8, 0), (1, 0), (1, 1), (0.8, 1))], (40, 80))
    assert two[:, 2].all() and two[:, -2].all() and not two[:, 40].any()


def test_a_moving_crop_keeps_outline_and_picture_together_and_never_leaves_the_photograph():
    image = np.zeros((300, 500, 3), np.uint8)
    image[100:200, 200:300] = 255
    mask = np.zeros((300, 500), bool)
    mask[100:200, 200:300] = True
    places = []
    for time_s in np.arange(0, 30, 0.5):
        seen, masks = moved(image, {"box": mask}, time_s)
        assert seen.shape == (*CLIP_SIZE, 3)
        assert ((seen[..., 0] > 127) ^ masks["box"]).mean() < 0.01
        places.append(np.argwhere(masks["box"]).mean(0) if masks["box"].any() else (0, 0))
    assert np.linalg.norm(np.diff(places, axis=0), axis=1).max() < 120 and np.std(places, 0).min() > 15


# --- what is counted


def frame(truth, silent=None, word="dog"):
    window = AudioWindow(np.full(16000, 0.1, np.float32), 16000, 0)
    image = VideoFrame(np.zeros((*truth.shape, 3), np.uint8), 1)
    return EvaluationFrame("photo-x-dog-0/0", image, window, truth, 0, word, ((word, truth),), silent, ())


def outcome(mask, map_=None, label="dog", score=0.9):
    objects = (SoundingObject.from_mask(mask, ((label, score),), score),) if mask.any() else ()
    return Outcome(mask.astype(np.float32) if map_ is None else map_, mask, label, score, objects)


def square(top, left, side=20, size=(60, 80)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_a_right_mask_is_outlined_on_the_thing_and_not_lost():
    truth = square(10, 10)
    found = frame_result(frame(truth, square(10, 50)), outcome(truth), BENCH, "photo")
    assert found.live_iou == pytest.approx(1) and found.on_object and found.on_silent is False
    assert found.placed and found.outlined and not found.lost


def test_a_right_word_and_place_without_a_mask_are_lost_by_the_mask_step():
    truth = square(10, 10)
    nothing, beside = np.zeros_like(truth), square(40, 60, 3)
    for mask in (nothing, beside):
        found = frame_result(frame(truth), outcome(mask, truth.astype(np.float32)), BENCH, "photo")
        assert found.placed and found.lost and not found.outlined and found.live_iou == 0


@pytest.mark.parametrize(("change", "placed"), [({"label": "cat"}, False), ({"score": 0.1}, False), ({}, True)])
def test_only_right_and_accepted_answers_can_be_lost(change, placed):
    truth = square(10, 10)
    found = frame_result(frame(truth), outcome(np.zeros_like(truth), truth.astype(np.float32), **change), BENCH, "photo")
    assert found.placed is placed and found.lost is placed


def test_an_answer_with_the_true_word_counts_whatever_its_score():
    truth = square(10, 10)
    found = frame_result(frame(truth), outcome(truth, label="x", score=0.0), BENCH, "photo", uses_true_word=True)
    assert found.right and found.accepted and found.live_iou == pytest.approx(1)


def test_a_mask_on_the_silent_thing_is_told():
    found = frame_result(frame(square(10, 10), square(10, 50)), outcome(square(10, 50)), BENCH, "pair")
    assert found.on_silent and not found.on_object


def test_the_middle_of_a_ring_is_the_pixel_of_it_that_is_nearest_to_its_centroid():
    ring = square(10, 10, 40)
    ring[20:40, 20:40] = False
    found = frame_result(frame(ring), outcome(ring), BENCH, "photo")
    assert found.on_object


def test_figures_leave_out_frames_without_the_thing_and_count_losses_among_the_placed():
    truth = square(10, 10)
    items = [
        frame_result(frame(truth), outcome(truth), BENCH, "photo"),
        frame_result(frame(truth), outcome(np.zeros_like(truth), truth.astype(np.float32)), BENCH, "photo"),
        frame_result(frame(truth), outcome(truth, label="cat"), BENCH, "photo"),
        frame_result(frame(np.zeros_like(truth)), outcome(truth), BENCH, "photo"),
    ]
    figures = natural_figures(items)
    assert figures["frames"] == 3 and figures["placed"] == pytest.approx(200 / 3)
    assert figures["lost"] == pytest.approx(50) and figures["outlined"] == pytest.approx(50)
    assert figures["right_word"] == pytest.approx(200 / 3) and natural_figures([]) == {}


# --- the sheet


def test_the_worst_come_first_on_a_sheet(tmp_path):
    truth = square(10, 10)
    shades = {0.9: 250, 0.1: 100, 0.5: 180}
    cells = []
    for score, shade in shades.items():
        sample = frame(truth)
        sample.frame.rgb[:] = shade
        cells.append(Cell(drawn(sample, np.zeros_like(truth)), score, "name\nfigures"))
    write_sheet(tmp_path / "sheet.png", cells)
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    gap = (sheet.shape[1] - 3 * SHEET_TILE) // 4
    middles = [gap + n * (SHEET_TILE + gap) + SHEET_TILE // 2 for n in range(3)]
    assert [int(sheet[gap + 200, middle, 0]) for middle in middles] == [100, 180, 250]
    with pytest.raises(MediaError, match="wanted to write"):
        write_sheet(tmp_path / "no" / "sheet.png", cells)
    with pytest.raises(MediaError, match="wanted a picture file"):
        write_sheet(tmp_path / "sheet.xyz", cells)


def test_the_mask_and_the_true_outline_are_drawn():
    truth, mask = square(10, 10), square(30, 40)
    shown = drawn(frame(truth), mask)
    assert shown[40, 50].tolist() != [0, 0, 0]
    assert shown[10, 20, 1] > 120 > shown[20, 20, 1]


# --- the set


@pytest.fixture
def made(monkeypatch):
    """Two photographs of val, of a dog and of a cat."""
    pictures = tuple(Photograph("package", f"{word}.jpg", "val", "", ((word, ()),)) for word in ("dog", "cat"))
    shown = {p.file: (np.full((120, 160, 3), 90 + 60 * n, np.uint8), {p.objects[0][0]: square(20, 30, 40, (120, 160))})
             for n, p in enumerate(pictures)}  # fmt: skip
    monkeypatch.setattr(natural, "photographs", lambda: pictures)
    monkeypatch.setattr(Photograph, "load", lambda self: shown[self.file])
    monkeypatch.setattr(natural, "sound_of", lambda word, split, seconds, rng, number: np.full(round(seconds * 48000), 0.1, "f"))
    return photograph_set(("dog", "cat"), "val")


def test_pairs_show_the_thing_and_a_silent_one_beside_each_other(made):
    pair = next(clip for clip in made.clips if clip.kind == "pair")
    (sample,) = pair.load(1.0)
    assert sample.frame.size == (420, 1120) and sample.word == "dog" and sample.silent_words == ("cat",)
    halves = [part.any() for part in np.split(sample.truth, 2, axis=1)]
    assert sorted(halves) == [False, True] and not (sample.truth & sample.silent).any()
    assert sample.window.end_ns == sample.frame.stamp_ns


def test_a_clip_has_thirty_seconds_of_frames_at_ten_hertz(made):
    (clip,) = [c for c in photograph_set(("dog", "cat"), "val", ("clip",)).clips if c.word == "dog"]
    samples = clip.load(1.0)
    assert len(samples) == 300 and len(samples[7].window.samples) == 48000
    assert set(np.diff([s.frame.stamp_ns for s in samples])) == {100_000_000}


def test_bad_kinds_splits_and_banks_are_said(made):
    with pytest.raises(ValueRangeError, match="photo, pair or clip"):
        photograph_set(("dog",), "val", ("film",))
    with pytest.raises(ValueRangeError, match="val or test"):
        photograph_set(("dog",), "train")
    with pytest.raises(ValueRangeError, match="object of the photographs"):
        photograph_set(("gong",), "val")


@pytest.mark.data
@pytest.mark.parametrize("split", SPLITS)
def test_real_photographs_have_their_outlines(split):
    words = set()
    for photograph in photographs():
        if photograph.split == split:
            image, masks = photograph.load()
            assert max(image.shape[:2]) == natural.SIDE and masks
            assert all(mask.shape == image.shape[:2] and 0.003 < mask.mean() < 0.7 for mask in masks.values())
            words |= set(masks)
    assert len(words) >= 9


@pytest.mark.data
def test_a_real_clip_has_the_sound_of_its_split():
    dataset = photograph_set(("dog", "cat", "bird"), "test", ("photo",))
    sample = dataset.clips[0].load(1.0)[0]
    assert -26 < sample.window.level_dbfs < -14 and sample.truth.any()
    assert scores.union_of_masks(sample, Outcome(np.zeros((2, 2)), np.zeros((2, 2), bool))).sum() == 0
