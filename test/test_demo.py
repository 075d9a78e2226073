"""The demo's scores on known answers, its ground truth against its pictures, and its failures."""

import dataclasses

import numpy as np
import pytest

from taco.demo import __main__ as demo
from taco.demo import score, show, stored
from taco.demo.page import write_demo_page
from taco.errors import TacoError
from taco.evaluation.composed.canvas import backgrounds
from taco.evaluation.composed.sources import SceneSources, catalogue
from taco.io.video_writer import VideoWriter
from taco.types import AudioChunk


def moment(sounding: int, settled: bool = True, cut: float = 0.0) -> show.FrameTruth:
    """Two objects side by side, the first in columns 0 to 19, the second in 30 to 49, of 60; ``cut``: share out of view."""
    first, second = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    first[10:30, :20], second[10:30, 30:50] = True, True
    full = tuple(round(mask.sum() / (1 - cut)) for mask in (first, second))
    return show.FrameTruth(0, 0, (first, second), full, ("violin", "dog"), sounding, settled)


def box(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_middle_is_inside_even_for_a_ring():
    ring = box(5, 5, 30, 30) & ~box(10, 10, 18, 18)
    assert ring[score.middle(ring)]
    assert score.middle(box(10, 20, 11, 5)) in {(row, 22) for row in range(12, 19)}


@pytest.mark.parametrize(
    ("mask", "place"),
    [(box(12, 2, 10, 10), "sounding"), (box(12, 32, 10, 10), "silent"), (box(0, 20, 5, 5), "background"), (None, "none")],
)
def test_where_the_middle_lies(mask, place):
    assert score.hits(mask, moment(0)) == place


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
    scores = score.summary_of_masks(answers)
    assert scores == {
        "frames": 4,
        "on_sounding": 0.5,
        "on_silent": 0.25,
        "iou": 0.5,
        "silence_empty": 0.5,
        "offscreen_empty": 1.0,
    }
    assert score.summary_of_masks([])["on_sounding"] is None


def test_an_answer_about_the_sound_before_is_not_judged():
    just = dataclasses.replace(moment(-1), steady_s=1.1)
    assert just.heard_late(0.1 - 1e-9).settled and not just.heard_late(0.2).settled
    assert not dataclasses.replace(just, settled=False).heard_late(0.0).settled


def test_the_first_word_is_scored_apart_from_the_first_three():
    dog, silence = dataclasses.replace(moment(0), heard="dog"), dataclasses.replace(moment(-1), heard="")
    rain = dataclasses.replace(moment(-2), heard="rain")
    unsettled = dataclasses.replace(dog, settled=False)
    answers = [
        (dog, ["dog", "wolf"]),
        (dog, ["Animal", "wolf", "dog", "cat"]),
        (dog, ["Animal", "wolf", "cat", "dog"]),
        (dog, []),
        (rain, ["Rain"]),
        (silence, ["dog"]),
        (unsettled, ["dog"]),
    ]
    assert score.naming_shares(answers) == {"heard_first": 0.4, "heard_of_three": 0.6}
    assert score.naming_shares([(silence, [])]) == {"heard_first": None, "heard_of_three": None}


def test_a_second_mask_on_a_silent_object_is_counted():
    sounding, silent = box(10, 0, 20, 20), box(10, 30, 20, 20)
    answers = [(moment(0), [sounding, silent]), (moment(0), [sounding]), (moment(-1), [silent]), (moment(0), [])]
    assert score.also_silent(answers) == {"also_silent": pytest.approx(1 / 3, abs=1e-4)}


def recorded(stamp_s: float, verdict: str, heard: tuple, words: tuple) -> dict:
    """A result as the recorder keeps it, each word outlined as a 10 x 20 px block."""
    mask = np.packbits(np.ones((20, 10), bool), axis=None)
    objects = [{"id": n, "labels": [(w, 0.8)], "score": 0.8, "box": (5, 6, 10, 20), "mask": mask} for n, w in enumerate(words)]
    stamp = round(stamp_s * 1e9)
    return {"stamp_ns": stamp, "age_ms": 100.0, "verdict": verdict, "heard": heard, "objects": objects}


def test_the_report_has_verdict_and_recognised_words_of_each_frame():
    sheet = dataclasses.replace(moment(0), masks=(np.zeros(show.SIZE, bool),) * 2, heard="dog")
    away = dataclasses.replace(sheet, scene=1, sounding=-2, heard="rain", stamp_ns=1_000_000_000)
    results = [
        recorded(0, "sounding", (("dog", 0.9), ("Animal", 0.5)), ("dog",)),
        recorded(1, "unknown", (("Rain", 0.7),), ()),
    ]
    kept = {"results": results, "images": {0: b"", 1_000_000_000: b""}}
    result = score.report(kept, 2, list(zip((sheet, away), results)), ["a dog", "rain"], "yamnet", {"late fusion": {}})
    assert result["frames"][0] == {
        "seconds": 0.0,
        "scene": "a dog",
        "truth": "dog sounds",
        "verdict": "sounding",
        "heard": {"dog": 0.9, "Animal": 0.5},
        "found": [("dog", 0.8)],
    }
    assert result["frames"][1]["verdict"] == "unknown" and result["frames"][1]["truth"] == "rain out of view"
    assert result["scenes"]["rain"]["offscreen_empty"] == 1.0 and result["scenes"]["a dog"]["heard_first"] == 1.0
    last = score.summary_text(result, ()).splitlines()[-1]
    assert last.startswith("2 scenes: ") and "for sounds out of view 100 %" in last and "age p50 100 ms" in last


def test_a_frame_is_judged_by_its_window_of_sound():
    silence = dataclasses.replace(moment(-1), heard="")
    assert score.truth_of(silence) == "silence"
    assert score.truth_of(dataclasses.replace(silence, settled=False)) == "silence, and in the window what was before"


def test_the_page_shows_the_video_the_sheet_the_tables_and_what_is_next(tmp_path):
    scores = dict.fromkeys([*score.SCENE_COLUMNS, *score.METHOD_COLUMNS], 0.5) | {"on_sounding": 0.83, "also_silent": None}
    report = {"taco": scores, "late fusion": scores, "scenes": {"a <dog> barks": scores}, "frames_per_second": 8.0}
    page = write_demo_page(tmp_path / "index.html", report | {"age_ms": {"p50": 90.0, "p95": 210.0}}, ["late fusion"]).read_text()
    for name in ("overlay.mp4", "poster.jpg", "contact_sheet.png", "report.json"):
        assert f'="{name}"' in page
    assert "<td>a &lt;dog&gt; barks</td><td>83 %</td>" in page and "<td>late fusion</td><td>83 %</td>" in page
    assert "mask centre on the sounding object 83 %" in page and "taco.cli live" in page and "http" not in page


def test_the_show_is_a_day_of_five_to_seven_scenes_in_under_a_minute():
    scenes = show.scenes()
    assert 5 <= len(scenes) <= 7 and 45 <= sum(scene.seconds for scene in scenes) <= 60
    assert len({scene.name for scene in scenes}) == len(scenes)
    heard = [source for scene in scenes for _, source in scene.sounds]
    assert None in heard and any(isinstance(source, show.Recording) for source in heard)
    assert any(scene.pan[1] for scene in scenes) and any(item.to_x for scene in scenes for item in scene.objects)
    for scene in scenes:
        assert len(scene.objects) >= 2, f"{scene.name}: nothing silent beside"
        assert scene.sounds[0][0] == 0 and scene.sounds[-1][0] <= scene.seconds - 3, "each sound has time to be judged"
        for _, source in scene.sounds:
            assert not isinstance(source, int) or scene.objects[source].voice
            assert not isinstance(source, show.Recording) or source.word not in {item.word for item in scene.objects}


def test_pictures_sounds_and_places_are_of_the_catalogue_by_their_words():
    objects = {(entry.word, entry.source) for entry in catalogue() if entry.role == "object"}
    sounds = {entry.source: entry.word for entry in catalogue() if entry.role in ("sound", "speech", "weather")}
    places = {source for split in backgrounds().values() for source in split}
    for scene in show.scenes():
        assert scene.place in places
        for item in scene.objects:
            assert (item.word, item.picture) in objects
            assert not item.voice or sounds[item.voice] == item.word
        for _, source in scene.sounds:  # of a vacuum cleaner the packages have a recording, but no photograph
            if isinstance(source, show.Recording) and source.word not in ("vacuum cleaner", "rain"):
                assert sounds[source.source] == source.word


@pytest.mark.data
def test_an_object_that_does_not_fit_is_an_error():
    scene = show.scenes()[0]
    giant = dataclasses.replace(scene.objects[0], height=470)
    with pytest.raises(ValueError, match="dog of .* does not fit"):
        show.panorama(SceneSources(), dataclasses.replace(scene, objects=(giant,)), 0)


@pytest.mark.data
def test_truth_lies_where_the_picture_changed(monkeypatch):
    """Each mask covers just the pixels that its object changed in the empty place, its shadow on the ground left out."""
    monkeypatch.setattr(show, "SHADOW", 0.0)
    sources = SceneSources()
    for index, scene in enumerate(show.scenes()):
        wide, masks = show.panorama(sources, scene, index, share=0.5)
        bare, _ = show.panorama(sources, dataclasses.replace(scene, objects=()), index)
        changed = np.abs(wide.astype(int) - bare).max(2) > 40
        everything = np.any(masks, 0)
        assert changed[~everything].mean() < 0.03, scene.name  # soft edges
        assert changed[everything].mean() > 0.6, scene.name
        assert (np.sum(masks, 0) <= 1).all(), "of two objects at a place the one in front is visible"


@pytest.mark.data
def test_objects_stand_on_the_ground_in_natural_sizes():
    sources = SceneSources()
    for index, scene in enumerate(show.scenes()):
        _, masks = show.panorama(sources, scene, index, share=0.5)
        tall = {}
        for item, mask in zip(scene.objects, masks):
            rows = np.flatnonzero(mask.any(1))
            assert 0.01 < mask.mean() < 0.25, f"{scene.name}: {item.word} takes {mask.mean():.2f} of the picture"
            assert rows[-1] > 0.6 * show.SIZE[0], f"{scene.name}: {item.word} floats"
            tall[item.word] = item.height
        smaller = {"chicken": "dog", "guitar": "person", "piano": "person", "drums": "person", "goose": "sheep", "sheep": "cow"}
        for small, big in smaller.items():
            assert small not in tall or big not in tall or tall[small] < tall[big], scene.name


@pytest.mark.data
def test_a_passing_object_crosses_the_picture_and_is_loudest_in_its_middle():
    sources = SceneSources()
    index, scene = next((n, s) for n, s in enumerate(show.scenes()) if s.objects[0].to_x)
    middles = [np.nonzero(show.panorama(sources, scene, index, share)[1][0])[1].mean() for share in (0.2, 0.5, 0.8)]
    assert middles[0] < 240 < middles[1] < 400 < middles[2]
    level = np.mean(show.sound_of(sources, scene, index).reshape(-1, round(scene.seconds / 4 * show.RATE)) ** 2, 1)
    assert min(level[1], level[2]) > 1.4 * max(level[0], level[3])


@pytest.mark.data
def test_sound_is_where_the_script_says():
    sources = SceneSources()
    for index, scene in enumerate(show.scenes()):
        sound = show.sound_of(sources, scene, index)
        assert len(sound) == scene.seconds * show.RATE and np.abs(sound).max() <= 1
        ends = [since for since, _ in scene.sounds[1:]] + [scene.seconds]
        for (since, source), until in zip(scene.sounds, ends):
            part = sound[round((since + 0.1) * show.RATE) : round((until - 0.1) * show.RATE)]
            level = 10 * np.log10(np.mean(part**2))
            if source is None:
                assert level == pytest.approx(show.FLOOR_DBFS, abs=1)
            else:
                assert -30 < level < show.LEVEL_DBFS + 2, f"{scene.name}, from {since} s"
                each = np.mean(part[: len(part) // 8000 * 8000].reshape(-1, 8000) ** 2, 1)
                assert 10 * np.log10(each.min()) > -55, f"{scene.name}: half a second without a sound"


def test_what_is_stored_comes_back_without_pickle(tmp_path):
    truth = dataclasses.replace(moment(0), heard="dog")
    stored.save(tmp_path / "a.npz", {"truth": [dataclasses.asdict(truth)], "images": {17: b"jpeg"}, "scores": (1.5, None)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as file:
        assert len(file.files) == 4
    back = stored.load(tmp_path / "a.npz")
    again = show.FrameTruth.from_dict(back["truth"][0])
    assert all(np.array_equal(a, b) for a, b in zip(again.masks, truth.masks)) and again.words == truth.words
    assert dataclasses.replace(again, masks=truth.masks) == truth
    assert back["images"]["17"].tobytes() == b"jpeg" and back["scores"] == [1.5, None]


@pytest.mark.ros
def test_a_graph_that_fails_is_an_error_with_its_cause(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "OUT", tmp_path)
    monkeypatch.setattr(demo, "CACHE", tmp_path)
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
    """Player, taco_node and recorder as processes over the middleware, on one short scene: found, drawn, reported."""
    monkeypatch.setattr(demo, "OUT", tmp_path)
    monkeypatch.setattr(demo, "CACHE", tmp_path)
    barking = show.scenes()[0]
    scenes = (
        dataclasses.replace(barking, seconds=7.0, sounds=((0.0, 0), (4.0, None))),
        dataclasses.replace(barking, name="a hen is silent", seconds=1.0, objects=barking.objects[1:], sounds=((0.0, None),)),
    )
    video = tmp_path / "show.mp4"
    moments = show.make(SceneSources(), video, scenes)
    recorded = demo.run_graph(video)
    answers = demo.answers_of(recorded, moments)
    scores = score.summary_of_masks([(moment, score.mask_of(result)) for moment, result, _ in answers if result])
    assert len(recorded["images"]) >= 0.95 * len(moments), "camera images were lost"
    assert scores["frames"] >= 5 and scores["on_sounding"] >= 0.7 and scores["on_silent"] <= 0.1
    assert scores["silence_empty"] == 1.0
    assert "dog  score" in capfd.readouterr().out
    demo.pictures(answers, recorded, [scene.name for scene in scenes])
    assert (tmp_path / "overlay.mp4").stat().st_size > 10_000 and (tmp_path / "contact_sheet.png").stat().st_size > 10_000
    assert (tmp_path / "poster.jpg").exists()
