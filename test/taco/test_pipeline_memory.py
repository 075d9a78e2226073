"""What a pipeline remembers from frame to frame, and what makes it forget."""

from types import SimpleNamespace

import numpy as np
import pytest

import taco.pipeline
from taco.config import TacoConfig
from taco.pipeline import TacoPipeline
from taco.types import AudioWindow, VideoFrame
from test.taco.test_pipeline import RATE, picture, tone


@pytest.fixture
def pipeline():
    return TacoPipeline(TacoConfig().updated({"models.image": "standin", "segmentation.refine": "none"}))


def start(pipeline, word="red", stamp_ns=7):
    """How the factorization of one more frame begins: "cold", or "" where it goes on from the one before."""
    return pipeline.process(picture(stamp_ns), tone(word)).factorization.restart


def test_other_words_start_anew(pipeline):
    assert [start(pipeline), start(pipeline)] == ["cold", ""]
    pipeline.set_words(["green", "red"])
    assert [start(pipeline), start(pipeline)] == ["cold", ""]
    pipeline.set_words(["green", "red"])  # the same ones: nothing changes
    assert start(pipeline) == ""


def test_a_sibling_has_a_memory_of_its_own(pipeline):
    assert [start(pipeline), start(pipeline)] == ["cold", ""]
    other = pipeline.sibling()
    assert start(other) == "cold" and start(pipeline) == "" and other.backbones is pipeline.backbones


def test_warming_up_leaves_nothing_behind(pipeline):
    assert pipeline.warm_up((96, 128))["image"] > 0
    assert start(pipeline) == "cold"


def test_a_clip_stands_alone(pipeline):
    """What was heard before it does not count, though it was a moment ago; what is heard in it does."""
    pipeline.set_config(pipeline.config.updated({"concepts.memory_s": 5.0}))
    frames, windows = [picture(stamp * 10**8) for stamp in (1, 2)], [tone("red"), tone("red")]
    alone = pipeline.process_clip(frames, windows)
    pipeline.reset()
    pipeline.process(picture(0), tone("blue"))
    after = pipeline.process_clip(frames, windows)
    assert [scene.heard for scene in after] == [scene.heard for scene in alone]


def test_the_times_of_a_clips_frames_add_up_to_the_clips(pipeline, monkeypatch):
    clock = iter(range(10_000))
    monkeypatch.setattr(taco.pipeline, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    scenes = pipeline.process_clip([picture(stamp) for stamp in range(4)], [tone("red")] * 4)
    assert [scene.stage_ms["image"] for scene in scenes] == [scene.stage_ms["factorize"] for scene in scenes] == [250.0] * 4
    assert [scene.stage_ms["name"] for scene in scenes] == [1000.0] * 4


def test_a_sound_is_taken_apart_only_where_a_second_object_may_be_told(pipeline, monkeypatch):
    asked, inner = [], taco.pipeline.sound_parts
    monkeypatch.setattr(taco.pipeline, "sound_parts", lambda window: asked.append(1) or inner(window))
    start(pipeline)
    assert asked == [1]
    pipeline.set_config(pipeline.config.updated({"concepts.max_concepts": 1}))
    start(pipeline)
    assert asked == [1]


def test_a_steady_sound_is_in_no_hurry_to_be_forgotten_by_noise_the_gate_lets_through(pipeline):
    """Silence forgets; a frame that names nothing does not: the next one still starts warm."""
    start(pipeline)
    noise = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    pipeline.process(VideoFrame(picture().rgb, 8), AudioWindow(noise, RATE, 3))
    assert start(pipeline, stamp_ns=9) != "cold"
