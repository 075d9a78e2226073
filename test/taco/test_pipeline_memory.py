"""What a pipeline remembers from frame to frame, and what makes it forget."""

import contextlib
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import taco.pipeline
from taco.backbones import shared_encodings
from taco.config import TacoConfig
from taco.errors import TacoError
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
    asked, inner = [], shared_encodings.sound_parts
    monkeypatch.setattr(shared_encodings, "sound_parts", lambda window: asked.append(1) or inner(window))
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


@pytest.fixture
def counted(pipeline, monkeypatch):
    """The images that the image encoder was given."""
    encoder, seen = pipeline.backbones.image, []
    encode = type(encoder).encode
    monkeypatch.setattr(type(encoder), "every_image", False)
    monkeypatch.setattr(type(encoder), "encode", lambda self, frame: (seen.append(frame), encode(self, frame))[1])
    return seen


def seen_by_a_camera(scene, stamp_ns, rng, noise=4.0):
    """An image of the scene with a camera's noise."""
    return VideoFrame(np.clip(scene + rng.normal(0, noise, scene.shape), 0, 255).astype(np.uint8), stamp_ns)


def test_an_image_in_which_nothing_moves_is_not_encoded_again(pipeline, counted):
    rng = np.random.default_rng(1)
    scene = picture(0).rgb.astype(float)
    scene = np.kron(scene, np.ones((8, 8, 1)))
    scenes = [pipeline.process(seen_by_a_camera(scene, n * 10**8, rng), tone("red")) for n in range(5)]
    assert len(counted) == 1 and all(found.objects for found in scenes)
    masks = [found.objects[0].mask for found in scenes]
    always = pipeline.sibling(pipeline.config.updated({"models.still_tolerance": 0.0}))
    rng = np.random.default_rng(1)
    for n, mask in enumerate(masks):
        wanted = always.process(seen_by_a_camera(scene, n * 10**8, rng), tone("red")).objects[0].mask
        assert (mask & wanted).sum() > 0.97 * (mask | wanted).sum()
    assert len(counted) == 6


def test_an_image_is_encoded_again_as_soon_as_something_moves_in_it(pipeline, counted):
    rng = np.random.default_rng(2)
    scene = np.full((480, 640, 3), 90.0)
    for n in range(6):
        moved = scene.copy()
        moved[200:212, 100 + 20 * n : 112 + 20 * n] = 150  # a thing of 12 px
        pipeline.process(seen_by_a_camera(moved, n * 10**8, rng), tone("red"))
    assert len(counted) == 6


def test_features_that_are_not_finite_are_not_kept(pipeline, monkeypatch):
    """An error of the moment (a GPU without memory, a broken engine) does not last as long as the picture."""
    encoder, asked = pipeline.backbones.image, []
    encode = type(encoder).encode

    def broken_once(self, frame):
        features = encode(self, frame)
        asked.append(frame)
        values = features.tokens.values
        return replace(features, tokens=replace(features.tokens, values=values * torch.nan)) if len(asked) == 1 else features

    monkeypatch.setattr(type(encoder), "every_image", False)
    monkeypatch.setattr(type(encoder), "encode", broken_once)
    still = np.full((96, 128, 3), 120, np.uint8)
    with contextlib.suppress(TacoError):
        pipeline.process(VideoFrame(still, 1), tone("red"))
    for n in (2, 3):
        pipeline.process(VideoFrame(still, n), tone("red"))
    assert len(asked) == 2


def test_an_encoder_that_wants_every_image_gets_it(pipeline, counted, monkeypatch):
    monkeypatch.setattr(type(pipeline.backbones.image), "every_image", True)
    for n in range(3):
        pipeline.process(VideoFrame(np.full((96, 128, 3), 120, np.uint8), n), tone("red"))
    assert len(counted) == 3


def test_slow_changes_add_up_until_the_image_is_encoded_again(pipeline, counted):
    for n in range(10):  # a cloud before the sun: half a grey level an image
        pipeline.process(VideoFrame(np.full((480, 640, 3), 100 - (n + 1) // 2, np.uint8), n * 10**8), tone("red"))
    assert [frame.stamp_ns // 10**8 for frame in counted] == [0, 7]


def test_another_size_and_a_reset_are_encoded(pipeline, counted):
    def seen(side, stamp):
        pipeline.process(VideoFrame(np.full((side, 2 * side, 3), 120, np.uint8), stamp), tone("red"))
        return len(counted)

    assert [seen(96, 1), seen(96, 2), seen(192, 3), seen(192, 4)] == [1, 1, 2, 2]
    pipeline.reset()
    assert seen(192, 5) == 3


def test_the_sound_and_what_its_parts_need_begin_beside_the_image(monkeypatch):
    """The image waits for them: it would wait in vain if they began after it."""
    settings = {"models.image": "standin", "segmentation.refine": "none", "models.threads": 2}
    pipeline, sound, parts, late = TacoPipeline(TacoConfig().updated(settings)), threading.Event(), threading.Event(), []
    image_encoder, sound_encoder = pipeline.backbones.image, pipeline.backbones.audio
    encode_image, encode_sound, apart = image_encoder.encode, sound_encoder.encode, shared_encodings.sound_parts
    waits = [sound]
    monkeypatch.setattr(sound_encoder, "encode", lambda window: (sound.set(), encode_sound(window))[1])
    monkeypatch.setattr(shared_encodings, "sound_parts", lambda window: (parts.set(), apart(window))[1])

    def encode(frame):
        late.extend(event for event in waits if not event.wait(10))
        return encode_image(frame)

    monkeypatch.setattr(image_encoder, "encode", encode)
    start(pipeline)
    assert parts.is_set(), "a second object may be told"
    sound.clear(), parts.clear()
    waits.append(parts)
    start(pipeline, stamp_ns=8)
    assert not late
