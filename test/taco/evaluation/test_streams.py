"""``taco evaluate streams``: steadiness, delays, and the set of scenes whose sound changes."""

import json

import numpy as np
import pytest

from taco.evaluation import streams
from taco.evaluation.composed import scenes
from taco.evaluation.methods import MethodRunner
from test.taco.evaluation import made_models as models
from test.taco.evaluation.test_runner import CONFIG, MadeClip
from test.taco.evaluation.test_tables import Whole, run


def test_steadiness_by_hand():
    a, b = np.zeros((2, 4), bool), np.zeros((2, 4), bool)
    a[:, :2], b[:, 1:3] = True, True
    empty = np.zeros((2, 4), bool)
    assert streams.steadiness([a, b, b], ["x", "x", "y"]) == (pytest.approx((1 / 3 + 1) / 2), 50.0)
    assert streams.steadiness([empty, empty, a], ["x"] * 3) == (0.5, 0.0)
    assert streams.steadiness([a, empty], ["x"] * 2)[0] == 0.0


def test_delay_by_hand():
    old, new = np.zeros((1, 4), bool), np.zeros((1, 4), bool)
    old[0, 0], new[0, 2:] = True, True
    both = old | new
    assert streams.delay([old, old, old, both, new, new], new, old, 2) == 2  # equal shares do not count
    assert streams.delay([old, new], new, old, 1) == 0
    assert streams.delay([old, old, ~both], new, old, 1) is None


def test_modes_of_a_stream():
    clip = MadeClip("walk", (("red", "blue", "blue"),) * 4 + (("red", "blue", "red"),) * 4)
    method_runner = MethodRunner(CONFIG, pipeline=models.pipeline(CONFIG))
    samples = clip.load()
    restarts = {mode: [o.factorization.restart for o in streams.run_mode(method_runner, mode, samples)] for mode in streams.MODES}
    assert set(restarts["cold"]) == {"cold"} and restarts["warm"][1:4] == ["", "", ""]
    assert restarts["warm, no term"][1:4] == ["", "", ""]
    labels = {
        mode: [o.label for o in streams.run_mode(method_runner, mode, samples)] for mode in ("warm", "warm, no memory", "joint")
    }
    assert labels["warm, no memory"] == ["blue"] * 4 + ["red"] * 4
    assert labels["warm"][:5] == labels["joint"][:5] == ["blue"] * 5 and labels["warm"][-1] == labels["joint"][-1] == "red"
    outcomes = streams.run_mode(method_runner, "warm", samples)
    u_masks = [streams._u_mask(method_runner, *pair) for pair in zip(samples, outcomes)]
    figures = streams._measured(clip, samples, outcomes, u_masks)
    assert figures["iou"] > 40 and figures["stability"] > 40 and figures["ms"] > 0
    activations = outcomes[0].factorization.visual_activations[:, outcomes[0].factor]
    share = (activations > activations.aminmax().max / 2).float().mean()  # they start near 0
    assert u_masks[0].shape == (64, 64) and abs(u_masks[0].mean() - float(share)) < 0.1
    assert figures["u_iou"] > 30 and figures["u_stability"] > 30


# --- composed scenes from made cut-outs and sounds


class MadeSources:
    """In place of the packages: a coloured square for each picture, a tone for each sound."""

    distractors = {"val": ("a.png", "b.png", "c.png"), "test": ("d.png", "e.png", "f.png")}

    def cutout(self, source):
        rgba = np.full((80, 80, 4), 255, np.uint8)
        rgba[..., :3] = np.frombuffer(source.encode().ljust(3, b"x")[-7:-4].ljust(3, b"x"), np.uint8)
        return rgba

    def sound(self, source, seed=0):
        pitch = 200 + 50 * (sum(source.encode()) % 40)
        return (0.5 * np.sin(2 * np.pi * pitch * np.arange(48000) / 48000)).astype(np.float32), 48000


WORDS = ("guitar", "piano", "violin", "cello", "harp", "flute", "drums")


@pytest.fixture
def composer(monkeypatch):
    from taco.evaluation import wrong_sounds
    from taco.evaluation.composed.scenes import SceneComposer

    made = SceneComposer(WORDS, sources=MadeSources(), size=(120, 160), bank="instruments", background="painted")
    monkeypatch.setattr(scenes, "composer_for", lambda words, window_s, *material: made)
    monkeypatch.setattr(streams, "composer_for", lambda words, window_s, *material: made)
    monkeypatch.setattr(wrong_sounds, "_sources", MadeSources)
    return made


def test_scenes_as_a_data_set(composer):
    data = scenes.composed_set(WORDS, "val", 20, bank="instruments")
    assert {kind: sum(c.kind == kind for c in data.clips) for kind in scenes.SCORED_KINDS} == {
        "one": 20, "two": 20, "both": 20, "distractors": 20, "motion": 2,
    }  # fmt: skip
    first = {kind: next(c for c in data.clips if c.kind == kind).load() for kind in scenes.SCORED_KINDS}
    (two,) = first["two"]
    assert (
        len(two.sounding_objects) == 1
        and two.word == two.sounding_objects[0][0]
        and np.array_equal(two.truth, two.sounding_objects[0][1])
    )
    assert two.silent.any() and not (two.silent & two.truth).any()
    (both,) = first["both"]
    assert (
        len(both.sounding_objects) == 2
        and both.word == ""
        and np.array_equal(both.truth, both.sounding_objects[0][1] | both.sounding_objects[1][1])
    )
    assert len(first["motion"]) == 30 and sum(s.truth is not None for s in first["motion"]) == 6
    (quiet,) = scenes.composed_set(WORDS, "val", 1, kinds=("offscreen",)).clips[0].load()
    assert not quiet.truth.any() and quiet.sounding_objects == () and quiet.word == "" and np.any(quiet.window.samples)


def test_the_sound_changes_from_one_thing_in_view_to_the_other(composer):
    clip = streams.SwitchClip("val", 3, WORDS)
    samples = clip.load(1.0)
    assert len(samples) == 50 and clip.change == 20
    words = [s.word for s in samples]
    assert len(set(words[:20])) == len(set(words[20:])) == 1 and words[0] != words[20]
    assert np.array_equal(samples[0].truth, samples[-1].silent) and np.array_equal(samples[-1].truth, samples[0].silent)
    assert len({len(s.window.samples) for s in samples}) == 1

    def pitch(samples):
        return int(np.abs(np.fft.rfft(samples)).argmax())

    before, after = pitch(samples[0].window.samples), pitch(samples[-1].window.samples)
    assert before != after and pitch(samples[19].window.samples) == before
    newest = samples[20].window.samples[-4800:]  # the tenth of a second before the first changed frame
    assert abs(pitch(newest) * 10 - after) <= 10


def test_offscreen_sounds_are_of_other_things(composer):
    from taco.evaluation import wrong_sounds

    data = scenes.composed_set(WORDS, "val", 2, kinds=("two",))
    (sample,) = data.clips[0].load()
    wrong = wrong_sounds.replaced(sample, "offscreen", data, 0, 1.0)
    assert wrong.window.level_dbfs > -30 and len(wrong.window.samples) == 48000 and not wrong.truth.any()


def test_streams_from_end_to_end(made_models, monkeypatch, tmp_path, capsys):
    still, walk = ("red", "blue", "red"), ("red", "blue", "blue")

    class Switch(MadeClip):
        change = 4

    monkeypatch.setattr(
        streams, "ComposedClip", lambda kind, split, seed, words, *material: MadeClip(f"walk-{seed}", (still,) * 6)
    )
    monkeypatch.setattr(
        streams, "SwitchClip", lambda split, seed, words, *material: Switch(f"switch-{seed}", (still,) * 4 + (walk,) * 5)
    )

    page = tmp_path / "streams.html"
    status, out, err = run("streams", "--limit", 2, "--html", page, "--json", capsys=capsys)
    found = json.loads(out)
    assert status == 0 and found["clips"] == 4 and set(found["rows"]) == set(streams.MODES)
    warm = {key: value[0] for key, value in found["rows"]["warm"].items()}
    assert (
        warm["followed"] == 100 and warm["delay_s"] <= 0.4 and warm["stability"] > 80 and warm["flips"] == 0 and warm["iou"] > 50
    )
    assert warm["u_iou"] > 50 and warm["u_stability"] > 80
    Whole().feed(page.read_text())
    assert "streams: 100%" in err and "4/4" in err
