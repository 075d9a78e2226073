"""The demo tells the truth: its scores on known answers, its truth against its pictures, its failures."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tools"))

import demo  # noqa: E402
import demo_score  # noqa: E402
import demo_show  # noqa: E402

from taco.errors import TacoError  # noqa: E402
from taco.evaluation.stamp_sources import StampSources  # noqa: E402
from taco.media.writing import VideoWriter  # noqa: E402
from taco.types import AudioChunk  # noqa: E402


def moment(sounding: int, settled: bool = True, cut: float = 0.0) -> demo_show.Moment:
    """Two things side by side, the first in columns 0 to 19, the second in 30 to 49, of 60; ``cut``: share out of view."""
    first, second = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    first[10:30, :20], second[10:30, 30:50] = True, True
    full = tuple(round(mask.sum() / (1 - cut)) for mask in (first, second))
    return demo_show.Moment(0, 0, (first, second), full, ("violin", "dog"), sounding, settled)


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_middle_is_inside_even_for_a_ring():
    ring = box(5, 5, 30, 30) & ~box(10, 10, 18, 18)
    assert ring[demo_score.middle(ring)]
    assert demo_score.middle(box(10, 20, 11, 5)) in {(row, 22) for row in range(12, 19)}


@pytest.mark.parametrize(
    ("mask", "place"),
    [(box(12, 2, 10, 10), "sounding"), (box(12, 32, 10, 10), "silent"), (box(0, 20, 5, 5), "background"), (None, "none")],
)
def test_where_the_middle_lies(mask, place):
    assert demo_score.hits(mask, moment(0)) == place


def test_summary_of_known_answers():
    good, bad = box(10, 0, 20, 20), box(10, 30, 20, 20)
    answers = [
        (moment(0), good),
        (moment(0), good),
        (moment(0), bad),
        (moment(0), None),
        (moment(0, settled=False), bad),  # the sound has just changed: not judged
        (moment(0, cut=0.7), bad),  # a sliver at the edge: not judged
        (moment(-1), None),
        (moment(-1), bad),
        (moment(-2), None),
    ]
    scores = demo_score.summary(answers)
    assert scores == {
        "frames": 4,
        "on_sounding": 0.5,
        "on_silent": 0.25,
        "iou": 0.5,
        "silence_empty": 0.5,
        "offscreen_empty": 1.0,
    }
    assert demo_score.summary([])["on_sounding"] is None


def test_an_answer_that_heard_what_was_before_is_not_judged():
    just = dataclasses.replace(moment(-1), steady_s=1.1)
    assert just.heard_late(0.1 - 1e-9).settled and not just.heard_late(0.2).settled
    assert not dataclasses.replace(just, settled=False).heard_late(0.0).settled


@pytest.mark.data
def test_truth_lies_where_the_picture_changed():
    """Each mask covers just the pixels that its thing changed in the empty room."""
    sources = StampSources()
    for index, scene in enumerate(demo_show.scenes()):
        wide, masks = demo_show.panorama(sources, scene, index)
        bare, _ = demo_show.panorama(sources, demo_show.Scene(scene.name, 1, (), ((0, None),), scene.pan), index)
        changed = np.abs(wide.astype(int) - bare).max(2) > 40
        everything = np.any(masks, 0)
        assert changed[~everything].mean() < 0.01, scene.name
        assert changed[everything].mean() > 0.6, scene.name
        assert not (masks[0] & masks[1]).any()


@pytest.mark.data
def test_sound_is_where_the_script_says():
    sources = StampSources()
    for index, scene in enumerate(demo_show.scenes()):
        sound = demo_show.sound_of(sources, scene, index)
        assert len(sound) == scene.seconds * demo_show.RATE and np.abs(sound).max() <= 1
        level = 10 * np.log10(np.mean(sound[demo_show.RATE // 2 : 2 * demo_show.RATE] ** 2))
        if scene.sounds[0][1] is None:
            assert level == pytest.approx(demo_show.FLOOR_DBFS, abs=1)
        else:
            assert level == pytest.approx(demo_show.LEVEL_DBFS, abs=6)


@pytest.mark.ros
def test_a_graph_that_fails_is_an_error_that_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "OUT", tmp_path)
    monkeypatch.setattr(demo, "SETTINGS", {"models.audio": "no-such-model"})
    video = tmp_path / "show.mp4"
    with VideoWriter(video, fps=10, sample_rate=16000) as writer:
        for i in range(10):
            writer.write(np.zeros((48, 64, 3), np.uint8), i * 100_000_000)
        writer.write_audio(AudioChunk(np.zeros((16000, 1), np.float32), 16000, 0))
    with pytest.raises(TacoError, match="wanted taco_node to run.*no-such-model"):
        demo.run_graph(video)


@pytest.mark.ros
@pytest.mark.data
@pytest.mark.timeout(240)
def test_the_real_graph_finds_what_sounds(monkeypatch, tmp_path, capfd):
    """Player, taco_node and recorder as processes over the middleware, on one short scene: found, drawn, told."""
    monkeypatch.setattr(demo, "OUT", tmp_path)
    violin, dog = demo_show.VIOLIN, demo_show.DOG
    things = (demo_show.Thing(violin, "violin", 190, 240, 230), demo_show.Thing(dog, "dog", 480, 300, 240))
    show = (
        demo_show.Scene("a violin, then silence", 7.0, things, ((0.0, 0), (4.0, None))),
        demo_show.Scene("a dog is silent", 1.0, things[1:], ((0.0, None),)),
    )
    video = tmp_path / "show.mp4"
    moments = demo_show.make(StampSources(), video, show)
    recorded = demo.run_graph(video)
    answers = demo.answers_of(recorded, moments)
    scores = demo_score.summary([(moment, demo.mask_of(result)) for moment, result, _ in answers if result])
    assert len(recorded["images"]) >= 0.95 * len(moments), "camera images were lost"
    assert scores["frames"] >= 5 and scores["on_sounding"] >= 0.7 and scores["on_silent"] <= 0.1
    assert scores["silence_empty"] == 1.0
    assert "violin  score" in capfd.readouterr().out
    demo.pictures(answers, recorded, [scene.name for scene in show])
    assert (tmp_path / "overlay.mp4").stat().st_size > 10_000 and (tmp_path / "contact_sheet.png").stat().st_size > 10_000
