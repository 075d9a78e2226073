"""The straight line: one call a frame, the same answer from the same start, silence forgets, settings change live."""

import dataclasses

import numpy as np
import pytest
import torch

import taco.pipeline
from taco.backbones import shared_encodings
from taco.config import TacoConfig
from taco.errors import ConfigError, ShapeError, ValueRangeError
from taco.pipeline import TacoPipeline
from taco.segmentation.base import Segmentation
from taco.types import VERDICTS, AudioWindow, SoundingObject, VideoFrame

RATE = 16000
TONES = {"red": 300.0, "green": 1000.0, "blue": 4000.0}


@pytest.fixture(scope="module")
def pipeline():
    return TacoPipeline(TacoConfig().updated({"models.image": "standin", "segmentation.refine": "none"}))


def picture(stamp_ns: int = 7) -> VideoFrame:
    """Red on the left, green on the right."""
    rgb = np.full((96, 128, 3), 90, np.uint8)
    rgb[30:70, 10:50] = (230, 20, 20)
    rgb[30:70, 80:120] = (20, 230, 20)
    return VideoFrame(rgb, stamp_ns)


def tone(word: str, level: float = 0.3) -> AudioWindow:
    time_s = np.arange(RATE) / RATE
    wobble = 1 + 0.5 * np.sin(2 * np.pi * 5 * time_s)
    return AudioWindow((level / 1.5 * wobble * np.sin(2 * np.pi * TONES[word] * time_s)).astype(np.float32), RATE, 3)


@pytest.mark.parametrize(("word", "columns"), [("red", slice(10, 50)), ("green", slice(80, 120))])
def test_the_sound_chooses_the_object(pipeline, word, columns):
    pipeline.reset()
    scene = pipeline.process(picture(), tone(word))
    assert scene.verdict == "sounding" and scene.objects[0].label == word
    inside = np.zeros((96, 128), bool)
    inside[30:70, columns] = True
    mask = scene.objects[0].mask
    assert (mask & inside).sum() > 0.5 * mask.sum()
    assert (scene.stamp_ns, scene.window_start_ns, scene.window_end_ns) == (7, 3, 3 + 10**9)
    assert {"image", "sound", "factorize", "name", "segment"} <= set(scene.stage_ms)
    assert 0 <= scene.confidence.min() <= scene.confidence.max() <= 1 and scene.confidence.shape == (96, 128)


def test_silence_is_empty_and_forgets(pipeline):
    pipeline.reset()
    assert pipeline.process(picture(), tone("red")).factorization.restart == "cold"
    assert pipeline.process(picture(), tone("red")).factorization.restart == ""
    silent = pipeline.process(picture(), AudioWindow(np.zeros(RATE, np.float32), RATE, 0))
    assert (silent.verdict, silent.objects, silent.sounding_score, silent.factorization) == ("silent", (), 0.0, None)
    assert pipeline.process(picture(), tone("red")).factorization.restart == "cold"


def test_a_sound_without_its_object_is_told_as_not_in_view(pipeline):
    pipeline.reset()
    rgb = np.zeros((96, 128, 3), np.uint8)
    rgb[:, :64, 0] = rgb[:, 64:, 1] = 230  # red and green everywhere
    scene = pipeline.process(VideoFrame(rgb, 0), tone("blue"))
    assert scene.verdict == "not_in_view" and not scene.objects and scene.sounding_score < 0.5
    assert scene.heard[0][0] == "blue" and scene.heard[0][1] > 0.5


def test_steady_noise_ends_before_any_model_runs_where_the_gate_is_asked_for(pipeline):
    config = pipeline.config
    pipeline.set_config(config.updated({"concepts.min_structure": 0.4}))
    pipeline.reset()
    assert pipeline.process(picture(), tone("red")).factorization.restart == "cold"
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    scene = pipeline.process(picture(), AudioWindow(noise, RATE, 0))
    assert (scene.verdict, scene.objects, scene.sounding_score, scene.stage_ms) == ("unknown", (), 0.0, {})
    assert pipeline.process(picture(), tone("red")).factorization.restart == "cold"  # forgotten, as in silence
    pipeline.set_config(config)  # off, as it comes
    assert pipeline.process(picture(), AudioWindow(noise, RATE, 0)).factorization is not None


def test_two_sounds_at_once_outline_two_objects(pipeline):
    time_s = np.arange(RATE) / RATE
    percussive = np.sin(2 * np.pi * TONES["green"] * time_s) * np.exp(-(time_s % 0.125) / 0.006)
    harmonic = np.sin(2 * np.pi * TONES["red"] * time_s) * np.sqrt(2 * np.mean(percussive**2))

    def found(samples, **settings):
        pipeline.reset()
        pipeline.set_config(pipeline.config.updated(settings))
        scene = pipeline.process(picture(), AudioWindow((0.4 * samples).astype(np.float32), RATE, 3))
        return {thing.label: thing.mask for thing in scene.objects}

    both = found(harmonic + percussive)
    assert set(both) == {"red", "green"} and not (both["red"] & both["green"]).any()
    assert both["red"][:, :64].sum() == both["red"].sum() and both["green"][:, 64:].sum() == both["green"].sum()
    assert set(found(harmonic)) == {"red"} and set(found(percussive)) == {"green"}
    assert len(found(harmonic + percussive, **{"concepts.max_concepts": 1})) == 1
    found(harmonic, **{"concepts.max_concepts": 3})


class Boxes:
    """A segmenter that finds no outline, and notes what it is given of the frame before and of the settings."""

    name = "boxes"

    def __init__(self):
        self.before, self.configs = [], []

    def segment(self, frame, features, factorization, concepts, anchors, config, before=None):
        self.before.append(before)
        self.configs.append(config)
        things = tuple(SoundingObject.from_box((1, 2, 30, 40), frame.size, c.labels, c.score) for c in concepts)
        return Segmentation(np.zeros(frame.size, np.float32), things, memory=len(self.before))


def test_what_is_heard_and_seen_but_has_no_outline_is_told_with_its_box(pipeline):
    other = pipeline.sibling(segmenter=Boxes())
    scene = other.process(picture(), tone("red"))
    assert scene.verdict == "no_mask" and scene.objects[0].label == "red" and not scene.objects[0].mask.any()
    assert scene.objects[0].box == (1, 2, 30, 40) and scene.sounding_score > 0.5


def test_each_stream_keeps_what_its_segmenter_remembers_and_its_own_settings(pipeline):
    masks = Boxes()
    left = pipeline.sibling(segmenter=masks)
    right = left.sibling(pipeline.config.updated({"segmentation.threshold": 0.9}))
    for stream in (left, right, left, right):
        stream.process(picture(), tone("red"))
    assert [before and before.memory for before in masks.before] == [None, None, 1, 2]
    assert [config.threshold for config in masks.configs] == [0.5, 0.9, 0.5, 0.9]
    left.reset()
    right.process(picture(), tone("blue"))  # nothing to outline: what was outlined last is kept
    for stream in (left, right):
        stream.process(picture(), tone("red"))
    assert [before and before.memory for before in masks.before[4:]] == [None, 4]


def test_a_given_segmenter_follows_the_pipelines_settings(pipeline):
    """It once kept its own: three thresholds gave one mask."""
    areas = []
    for threshold in (0.2, 0.5, 0.95):
        config = pipeline.config.updated({"segmentation.threshold": threshold})
        own = TacoPipeline(config, backbones=pipeline.backbones, segmenter=pipeline.segmenter)
        areas.append(int(own.process(picture(), tone("red")).objects[0].mask.sum()))
    assert areas[0] > areas[1] > areas[2] > 0


def test_more_factors_than_tokens_are_refused_before_the_first_frame(pipeline):
    most = len(pipeline.encodings().sound(tone("red")).values)
    TacoPipeline(pipeline.config.updated({"factorization.n_factors": most}), backbones=pipeline.backbones)
    with pytest.raises(ValueRangeError, match=f"n_factors: wanted 1 to {most} .*{most} audio tokens.*got {most + 1}"):
        TacoPipeline(pipeline.config.updated({"factorization.n_factors": most + 1}), backbones=pipeline.backbones)
    assert most >= TacoConfig().factorization.n_factors


def test_every_frame_starts_from_the_one_before(pipeline, monkeypatch):
    calls, inner = [], taco.pipeline.factorize

    def noted(*args, **kwargs):
        calls.append((kwargs.get("init"), kwargs.get("previous")))
        return inner(*args, **kwargs)

    monkeypatch.setattr(taco.pipeline, "factorize", noted)
    pipeline.reset()
    scenes = [pipeline.process(picture(stamp), tone("red")) for stamp in (1, 2)]
    assert calls[0] == (None, None)
    assert calls[1][0] is scenes[0].factorization and calls[1][1] is scenes[0].factorization


def test_a_clip_is_one_problem_and_silence_divides_it(pipeline, monkeypatch):
    calls, inner = [], taco.pipeline.factorize

    def noted(visual, *args, **kwargs):
        calls.append((len(visual), args[2].temporal))
        return inner(visual, *args, **kwargs)

    monkeypatch.setattr(taco.pipeline, "factorize", noted)
    quiet = AudioWindow(np.zeros(RATE, np.float32), RATE, 3)
    windows = [tone("red"), tone("green"), quiet, tone("red"), tone("red"), tone("red")]
    frames = [picture(stamp * 10**9) for stamp in range(6)]
    scenes = pipeline.process_clip(frames, windows)
    assert calls == [(2, "joint"), (3, "joint")]
    assert [scene.objects[0].label if scene.objects else None for scene in scenes] == ["red", "green", None, "red", "red", "red"]
    assert [scene.stamp_ns for scene in scenes] == [frame.stamp_ns for frame in frames] and scenes[2].verdict == "silent"
    assert {"image", "sound", "factorize", "name", "segment"} <= set(scenes[0].stage_ms)
    again = pipeline.process_clip(frames[:2], windows[:2])
    assert pipeline.process_clip([], []) == [] and again[0].sounding_score == pytest.approx(scenes[0].sounding_score, abs=0.05)
    with pytest.raises(ShapeError, match="a window for each of 6 frames, got 5"):
        pipeline.process_clip(frames, windows[:5])


def test_encodings_are_shared_and_nothing_is_encoded_twice(pipeline):
    frame, window, encodings = picture(), tone("red"), pipeline.encodings()
    pipeline.reset()
    pipeline.process(frame, window, encodings)
    spent = encodings.total_ms
    pipeline.reset()
    pipeline.process(frame, window, encodings)
    assert encodings.total_ms == spent and spent["image"] > 0


def test_same_start_same_answer(pipeline):
    def run():
        pipeline.reset()
        return [pipeline.process(picture(), tone(word)) for word in ("red", "red", "green")]

    for one, other in zip(run(), run()):
        assert one.sounding_score == other.sounding_score
        np.testing.assert_array_equal(one.instance_mask(), other.instance_mask())
        assert torch.equal(one.factorization.visual_factors, other.factorization.visual_factors)


def test_what_was_heard_counts_on_for_a_while_and_ends_with_the_sound(pipeline):
    config = pipeline.config
    quiet = AudioWindow(np.zeros(RATE, np.float32), RATE, 3)

    def label(word, at_s):
        frame = VideoFrame(picture().rgb, round(at_s * 1e9))
        objects = pipeline.process(frame, quiet if word is None else tone(word)).objects
        return objects[0].label if objects else None

    try:
        pipeline.set_config(config.updated({"concepts.memory_s": 1.0}))
        pipeline.reset()
        assert [label("red", 10.0), label("green", 10.1), label("green", 13.0)] == ["red", "red", "green"]
        assert [label("red", 20.0), label(None, 20.1), label("green", 20.2)] == ["red", None, "green"]
        pipeline.reset()
        assert label("red", 20.3) == "red"
        pipeline.set_config(config.updated({"concepts.memory_s": 0.0}))
        assert [label("red", 30.0), label("green", 30.1)] == ["red", "green"]
    finally:
        pipeline.set_config(config)


def test_a_new_threshold_holds_at_once(pipeline):
    pipeline.reset()
    config = pipeline.config
    try:
        assert pipeline.process(picture(), tone("red")).objects
        pipeline.set_config(config.updated({"concepts.min_score": 1.0}))
        assert not pipeline.process(picture(), tone("red")).objects
    finally:
        pipeline.set_config(config)
    assert pipeline.process(picture(), tone("red")).objects


def test_word_bank_changes_and_a_wrong_one_is_refused(pipeline):
    try:
        pipeline.set_words(["green", "blue"])
        assert pipeline.anchors.words == ("green", "blue")
        with pytest.raises(ConfigError, match="violet"):
            pipeline.set_words(["violet"])
        assert pipeline.anchors.words == pipeline.config.models.word_bank == ("green", "blue")
        pipeline.set_config(pipeline.config.updated({"models.word_bank": ["red"]}))  # one owner: the setting
        assert pipeline.anchors.words == ("red",)
    finally:
        pipeline.set_words([])
    assert pipeline.anchors.words == ("red", "green", "blue")


def test_the_warm_up_outlines_whatever_is_reported_later():
    config = TacoConfig().updated({"models.image": "standin", "concepts.min_score": 1.0})
    pipeline = TacoPipeline(config)
    assert "segment" in pipeline.warm_up() and pipeline.config is config


@pytest.mark.data
def test_the_embedded_models_run_the_same_line():
    pipeline = TacoPipeline(TacoConfig().updated({"models.allow_download": True}))
    times = pipeline.warm_up()
    assert times["image"] > 0 and len(pipeline.anchors.words) >= 75
    scene = pipeline.process(picture(), tone("green"))
    assert scene.size == (96, 128) and scene.verdict in VERDICTS


def in_turn(first: str, second: str, share: float = 0.5) -> AudioWindow:
    """One tone for a share of the window, then the other."""
    samples, change = tone(first).samples.copy(), round(share * RATE)
    samples[change:] = tone(second).samples[change:]
    return AudioWindow(samples, RATE, 3)


@pytest.mark.parametrize("order", [("red", "green"), ("green", "red")])
@pytest.mark.parametrize("share", [0.4, 0.6])
def test_two_objects_that_sound_one_after_the_other_are_two_objects_with_their_own_sound(pipeline, order, share):
    pipeline.reset()
    scene = pipeline.process(picture(), in_turn(*order, share))
    assert [thing.label for thing in scene.objects] == [order[1], order[0]]
    middles = (np.arange(8) + 0.5) / 8
    for thing, sounds in zip(scene.objects, (middles > share, middles < share)):
        assert thing.sound_map.shape == (1, 8) and thing.sound_map.dtype == np.float32
        assert thing.sound_map[0, sounds].sum() > 0.75 * thing.sound_map.sum() > 0
        columns = slice(10, 50) if thing.label == "red" else slice(80, 120)
        assert thing.mask[:, columns].sum() > 0.5 * thing.mask.sum()
    np.testing.assert_array_equal(scene.sound_map, scene.objects[0].sound_map)


def test_with_the_sounds_factors_shuffled_the_second_of_two_in_turn_is_lost(pipeline, monkeypatch):
    """What names the second is its own pair of factors: the sound's half decides."""
    real, found = taco.pipeline.factorize, []
    for shift in range(1, 8):

        def shuffled(*args, shift=shift, **kwargs):
            f = real(*args, **kwargs)
            moved = {"audio_activations": f.audio_activations.roll(shift, 1), "audio_factors": f.audio_factors.roll(shift, 0)}
            return dataclasses.replace(f, **moved)

        monkeypatch.setattr(taco.pipeline, "factorize", shuffled)
        for order in (("red", "green"), ("green", "red")):
            pipeline.reset()
            found.append(len(pipeline.process(picture(), in_turn(*order)).objects) == 2)
    assert np.mean(found) <= 0.5


def test_the_parts_of_the_sound_are_not_asked_for_where_the_pairs_tell(pipeline, monkeypatch):
    def never(window):
        raise AssertionError("asked for the parts of the sound")

    monkeypatch.setattr(shared_encodings, "sound_parts", never)
    pipeline.reset()
    assert len(pipeline.process(picture(), in_turn("red", "green")).objects) == 2
    pipeline.reset()
    with pytest.raises(AssertionError, match="asked for the parts"):
        pipeline.process(picture(), tone("red"))  # at once, perhaps: the image shows two


def test_the_times_of_the_sounds_tokens_reach_the_factorization_and_the_map(pipeline, monkeypatch):
    """A window that is heard backwards: its first token is the newest."""
    encode = pipeline.backbones.audio.encode

    def backwards(window):
        tokens = encode(window)
        return dataclasses.replace(tokens, values=tokens.values.flip(0), times=(torch.arange(8.0).flip(0) + 0.5) / 8)

    monkeypatch.setattr(pipeline.backbones.audio, "encode", backwards)
    for clip in (False, True):
        pipeline.reset()
        window = in_turn("red", "green")
        scene = pipeline.process_clip([picture()], [window])[0] if clip else pipeline.process(picture(), window)
        assert int(scene.factorization.visual_factors[scene.factorization.sounding].view(3, -1).sum(1).argmax()) == 1, "green"
