"""A run: records kept and resumed, seeds, figures, wrong sounds."""

import argparse
import dataclasses
import sys

import numpy as np
import pytest

from taco.errors import ConfigError, MediaError, MissingPackageError
from taco.evaluation import datasets, runner, scores, wrong_sounds
from taco.evaluation.datasets import Dataset, EvaluationFrame, ScoringRules
from taco.evaluation.methods import MethodRunner, Outcome
from taco.parallel import ClipExecutor, executor_from
from taco.types import SoundingObject
from test.taco.evaluation import made_models as models
from test.taco.evaluation.made_models import CONFIG, MadeClip, made, method_runner


class Counting(MethodRunner):
    """Counts runs; stops like Ctrl+C after some."""

    def __init__(self, stop_after=10**9):
        super().__init__(CONFIG, pipeline=models.pipeline(CONFIG))
        self.runs, self.stop_after = 0, stop_after

    def run(self, *args, **more):
        if self.runs == self.stop_after:
            raise KeyboardInterrupt
        self.runs += 1
        return super().run(*args, **more)


def test_a_stopped_run_goes_on_where_it_stopped(tmp_path):
    run = runner.Run(made(4), ("taco", "late-fusion"), (0, 1), CONFIG)
    with pytest.raises(KeyboardInterrupt):
        runner.evaluate(run, tmp_path, method_runner=Counting(stop_after=6))
    steps = []
    second = Counting()
    found = runner.evaluate(run, tmp_path, method_runner=second, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert second.runs == 3 * 4  # one of four clips was there already
    whole = runner.evaluate(run, tmp_path / "fresh", method_runner=method_runner())
    assert set(found) == {"taco", "late-fusion"} and set(found["taco"]) == {0, 1}
    for row in found:
        for seed in (0, 1):
            for a, b in zip(found[row][seed], whole[row][seed]):
                assert a["id"] == b["id"] and a["score"] == b["score"] and np.array_equal(a["iou"], b["iou"])


def test_more_methods_later_add_to_what_is_there(tmp_path):
    runner.evaluate(runner.Run(made(), ("taco",), (0,), CONFIG), tmp_path, method_runner=method_runner())
    later = Counting()
    runner.evaluate(runner.Run(made(), ("taco", "u"), (0,), CONFIG), tmp_path, method_runner=later)
    assert later.runs == 3


def test_other_settings_are_not_taken_for_the_same_run():
    run = runner.Run(made(), ("taco",), (0,), CONFIG)
    other = dataclasses.replace(run, config=CONFIG.updated({"segmentation.threshold": 0.4}))
    assert len({run.fingerprint(), other.fingerprint(), dataclasses.replace(run, audio="noise").fingerprint()}) == 3
    assert run.fingerprint() == dataclasses.replace(run, seeds=(0, 1), methods=("u",)).fingerprint()
    fewer = dataclasses.replace(run, dataset=made(2))
    assert run.fingerprint() == fewer.fingerprint()
    swapped = [dataclasses.replace(r, audio="other").fingerprint() for r in (run, fewer)]
    assert swapped[0] != swapped[1]  # sounds come from the other clips


def test_records_of_another_engine_are_not_mixed_in(monkeypatch):
    run = runner.Run(made(), ("taco",), (0,), CONFIG)
    here = run.fingerprint()
    monkeypatch.setattr(runner, "installed_engines", lambda: ("another",))
    assert run.fingerprint() != here


def test_a_damaged_record_is_made_again(tmp_path):
    run = runner.Run(made(), ("taco",), (0,), CONFIG)
    runner.evaluate(run, tmp_path, method_runner=method_runner())
    victim = next(tmp_path.rglob("*.npz"))
    victim.write_bytes(victim.read_bytes()[:100])
    again = Counting()
    runner.evaluate(run, tmp_path, method_runner=again)
    assert again.runs == 1


def test_records_survive_the_disk(tmp_path):
    records = {"taco@0": [{"id": "x", "iou": np.arange(3.0), "map": np.ones((2, 2), np.float32), "words": [["a", 0.1]]}]}
    runner.save_records(tmp_path / "a.npz", records)
    (back,) = runner.load_records(tmp_path / "a.npz")["taco@0"]
    assert np.array_equal(back["iou"], np.arange(3.0)) and back["map"].dtype == np.float32 and back["words"] == [["a", 0.1]]
    assert runner.load_records(tmp_path / "none.npz") == {}


def test_figures_of_a_made_set(tmp_path):
    data = made(6)
    found = runner.evaluate(runner.Run(data, ("taco", "true-word"), (0,), CONFIG), tmp_path, method_runner=method_runner())
    figures = scores.figures(data, found["true-word"][0], threshold=0.4)
    assert figures["iou"] >= figures["fixed_iou"] > 50 and figures["right_word"] == 100 and figures["hit"] == 100
    assert figures["iou"] >= figures["tuned_iou"] > 50 and figures["hit_silent"] == 0
    assert figures["f"] > 60 and figures["ms"] > 0
    assert scores.best_threshold(found["true-word"][0]) == figures["threshold"]


def test_over_seeds_is_mean_and_population_deviation():
    assert scores.over_seeds([{"iou": 1.0}, {"iou": 3.0}]) == {"iou": (2.0, 1.0)}


def outcome(word, mask, score=0.9, label=None):
    heat = mask.astype(np.float32)
    return Outcome(heat, mask, label or word, score, (SoundingObject.from_mask(mask, ((word, score),), score),))


def test_a_record_knows_the_level_gate_and_the_threshold():
    (sample,) = MadeClip("x", (("red", "blue", "blue"),)).load()
    data = made()
    good = scores.record(data, sample, outcome("blue", sample.truth), CONFIG)
    assert good["accepted"] and good["live_iou"] == 1.0 and good["found"] == [True] and good["hit"]
    unsure = scores.record(data, sample, outcome("blue", sample.truth, score=0.01), CONFIG)
    assert not unsure["accepted"] and unsure["live_iou"] == 0.0 and unsure["found"] == [False]
    assert unsure["area"] == good["area"] == pytest.approx(sample.truth.mean())
    quiet = dataclasses.replace(sample, window=models.AudioWindow(np.zeros(8000, np.float32), 8000, 0))
    assert scores.record(data, quiet, outcome("blue", sample.truth), CONFIG)["score"] == 0.0


@pytest.mark.parametrize(
    "word, shrink, found", [("blue", 1.0, True), ("red", 1.0, False), ("blue", 0.5, True), ("blue", 0.15, False)]
)
def test_a_thing_is_found_with_its_word_and_a_quarter_of_overlap(word, shrink, found):
    (sample,) = MadeClip("x", (("red", "blue", "blue"),)).load()
    mask = sample.truth.copy()
    rows = np.flatnonzero(mask.any(1))
    mask[rows[0] + round(len(rows) * shrink) :] = False
    assert scores.record(made(), sample, outcome(word, mask), CONFIG)["found"] == [found]


def test_pointing_by_hand():
    mask = np.array([[1, 1, 0, 0]], bool)
    assert scores.points_at(np.array([[0.2, 0.9, 0.8, 0.1]]), mask)
    assert scores.points_at(np.array([[1.0, 1.0, 1.0, 0.1]]), mask)  # two of three equal maxima
    assert not scores.points_at(np.array([[1.0, 0.2, 1.0, 1.0]]), mask)
    assert not scores.points_at(np.zeros((1, 4)), mask)


def test_semantic_labels_are_painted_where_the_prompt_wins():
    words = ("background", "dog", "violin")
    data = Dataset("avss", "test", (), ScoringRules("semantic", "argmax", bank="specific"), words)
    truth = np.zeros((4, 4), np.int64)
    truth[:2] = 2
    frame, _ = models.picture("red", None, (8, 8))
    sample = EvaluationFrame("x", frame, models.tone("red"), truth)
    winner = np.zeros((8, 8), bool)
    winner[:4] = True
    found = scores.record(data, sample, Outcome(np.zeros((8, 8), np.float32), winner, "violin"), CONFIG)
    assert found["counts"].tolist() == [[8, 8, 8], [0, 0, 0], [8, 8, 8]]
    assert scores.figures(data, [found])["miou"] == 100.0
    unknown = scores.record(data, sample, Outcome(np.zeros((8, 8), np.float32), winner, "cat"), CONFIG)
    assert unknown["counts"].tolist() == [[8, 16, 8], [0, 0, 0], [0, 0, 8]]
    ade = dataclasses.replace(data, rules=ScoringRules("semantic"), words=("dog", "violin"))
    heat = winner.astype(np.float32) * 0.6
    found = scores.record(ade, sample, Outcome(heat, ~winner, "violin"), CONFIG)
    assert found["counts"].tolist() == [[8, 8, 8], [0, 0, 0], [8, 8, 8]]


def test_public_sets_run_through(tmp_path):
    from test.taco.evaluation import made_datasets as trees

    for name, build, key in (("s4", trees.s4, "iou"), ("ade-sp", trees.ade, "map"), ("avss", trees.avss, "miou")):
        data = datasets.load(name, build(tmp_path / name))
        small = dataclasses.replace(data, clips=data.clips[:2])
        found = runner.evaluate(runner.Run(small, ("taco", "u"), (0,), CONFIG), tmp_path / "out", method_runner=method_runner())
        assert len(found["u"][0]) == sum(len(c.images) for c in small.clips)
        assert 0 <= scores.figures(small, found["taco"][0])[key] <= 100


# --- wrong sounds


def test_wrong_sounds(tmp_path):
    data = made(4)
    (sample,) = data.clips[0].load()
    for kind in ("silence", "noise", "other"):
        wrong = wrong_sounds.replaced(sample, kind, data, 0, 1.0)
        assert not wrong.truth.any() and wrong.word == "" and wrong.sounding_objects == ()
        assert np.array_equal(wrong.window.samples, wrong_sounds.replaced(sample, kind, data, 0, 1.0).window.samples)
        if kind == "silence":
            assert wrong.window.level_dbfs == -200
        else:
            assert not np.array_equal(wrong.window.samples, sample.window.samples)
    noise = wrong_sounds.replaced(sample, "noise", data, 0, 1.0).window
    assert noise.level_dbfs == pytest.approx(sample.window.level_dbfs, abs=0.5)
    with pytest.raises(ConfigError, match="wanted one of silence, noise, other, offscreen"):
        wrong_sounds.replaced(sample, "loud", data, 0, 1.0)
    alike = dataclasses.replace(data, clips=data.clips[:1] * 2)
    with pytest.raises(MediaError, match="--audio other: .*got none in made"):
        wrong_sounds.replaced(sample, "other", alike, 0, 1.0)


def test_the_sound_of_another_clip_is_of_nothing_in_view():
    data = made(4)
    samples = [clip.load()[0] for clip in data.clips]
    first = samples[0]
    others = {s.word for s in samples} - {first.word}
    assert len(others) > 1  # so that there is something to leave out
    for silent in sorted(others):  # what stands there unheard may not be heard either: it would be right to report it
        shown = dataclasses.replace(first, silent_words=(silent,))
        wrong = wrong_sounds.replaced(shown, "other", data, 0, 1.0).window.samples
        (word,) = {s.word for s in samples if np.array_equal(s.window.samples, wrong)}
        assert word in others - {silent}


def test_roc_and_operating_point_by_hand():
    right = [{"score": s, "area": 0.5} for s in (0.9, 0.8, 0.7, 0.6, 0.1)]
    wrong = [{"score": s, "area": a} for s, a in ((0.75, 0.4), (0.5, 0.3), (0.0, 0.2), (0.65, 0.0))]
    assert wrong_sounds.auc([r["score"] for r in right], [w["score"] for w in wrong]) == pytest.approx((4 + 4 + 3 + 2 + 1) / 20)
    assert wrong_sounds.threshold_for(right, 0.8) == 0.6
    point = wrong_sounds.at_threshold(right, wrong, 0.6)
    assert (point.accepted, point.frames) == (80.0, 25.0) and point.pixels == pytest.approx(10.0)
    assert wrong_sounds.at_threshold(right, wrong, 0.0).frames == 50.0  # a score of 0 is never reported
    assert wrong_sounds.threshold_for(right, 0.95) == 0.1


# --- progress and engines


def test_progress_without_a_terminal_is_lines(monkeypatch, capsys):
    monkeypatch.setattr("taco.progress.LINE_S", 0.0)
    show = runner.ProgressBar("made")
    for done in range(10, 41):
        show(done, 40)
    text = capsys.readouterr().err
    lines = text.splitlines()
    assert lines[0] == "made: 10 of 40 clips are there already" and "\r" not in text
    assert "25%" in lines[1] and lines[-1].startswith("made: 100%") and "40/40" in lines[-1]


def test_nothing_is_shown_where_all_is_there_already(capsys):
    runner.ProgressBar("made")(4, 4)
    assert capsys.readouterr().err == ""


def test_engine_names_are_checked(monkeypatch):
    with pytest.raises(ConfigError, match="--engine: wanted local or ray"):
        ClipExecutor("dask")
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    with pytest.raises(MissingPackageError, match="pip install 'taco-sounding\\[ray\\]'"):
        list(ClipExecutor("ray").map(lambda: str, [1]))


@pytest.mark.parametrize(
    ("device", "workers", "has", "wanted"),
    [
        ("auto", 0, {"CPU": 8.0}, (3, 0.0)),
        ("auto", 0, {"CPU": 8.0, "GPU": 2.0}, (2, 1.0)),  # a worker without a GPU of its own would not see any
        ("cuda", 0, {"CPU": 8.0, "GPU": 2.0}, (2, 1.0)),
        ("cuda", 5, {"CPU": 8.0, "GPU": 2.0}, (5, 1.0)),
        ("cpu", 0, {"CPU": 8.0, "GPU": 2.0}, (3, 0.0)),
        ("cuda", 0, {"CPU": 8.0}, "wanted a CPU and 1 GPU for a worker, got a cluster of 8 CPUs and 0 GPUs"),
        ("cpu", 0, {}, "wanted a CPU for a worker"),
    ],
)
def test_places_on_a_cluster_of_three_nodes(device, workers, has, wanted):
    args = argparse.Namespace(engine="ray", address="auto", workers=workers)
    engine = executor_from(args, CONFIG.updated({"models.device": device}))
    if isinstance(wanted, str):
        with pytest.raises(ConfigError, match=wanted):
            engine.places(has, nodes=3)
    else:
        assert engine.places(has, nodes=3) == wanted


def told(score, label, word="dog", **more):
    return {"score": score, "label": label, "word": word, "scored": True, "hit": True} | more


def test_reliability_counts_right_words_in_right_places_against_scores():
    right = [told(0.95, "dog"), told(0.91, "dog"), told(1.0, "cat"), told(0.97, "dog", hit=False), told(0.15, "dog")]
    right += [told(0.95, "dog", scored=False), told(0.95, "dog", word="")]  # not judged; two things sound
    rows = scores.reliability(right, [told(0.92, "cat", word="")])
    assert [(row["from"], row["count"]) for row in rows] == [(0.1, 1), (0.9, 5)]
    assert rows[1]["right"] == pytest.approx(2 / 5) and rows[1]["score"] == pytest.approx((0.95 + 0.91 + 1 + 0.97 + 0.92) / 5)
    assert scores.reliability([]) == []


def test_confusions_are_told_the_most_frequent_first():
    records = [told(0.5, "cat"), told(0.1, "cat"), told(0.9, "wolf"), told(0.9, "dog"), told(0.9, "cat", scored=False)]
    assert scores.confusions(records) == [("dog", "cat", 2), ("dog", "wolf", 1)] and scores.confusions(records, 1) == [
        ("dog", "cat", 2)
    ]
