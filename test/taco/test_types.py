"""The records check their own shapes, and say what was wanted and what came."""

import numpy as np
import pytest
import torch

from taco.errors import ShapeError, ValueRangeError
from taco.types import (
    Anchors,
    AudioChunk,
    AudioWindow,
    Concept,
    Factorization,
    SoundingObject,
    SoundingScene,
    Tokens,
    VideoFrame,
)

RGB = np.zeros((4, 6, 3), np.uint8)


def factorization(**changes) -> Factorization:
    values = {
        "visual_activations": torch.rand(6, 2),
        "visual_factors": torch.rand(2, 5),
        "audio_activations": torch.rand(3, 2),
        "audio_factors": torch.rand(2, 4),
        "sounding": 0,
    }
    return Factorization(**{**values, **changes})


@pytest.mark.parametrize(
    "make",
    [
        lambda: VideoFrame(RGB.astype(np.float32), 0),
        lambda: VideoFrame(RGB[..., :2], 0),
        lambda: VideoFrame(RGB[:0], 0),
        lambda: VideoFrame(RGB, 0.5),
        lambda: VideoFrame(RGB.tolist(), 0),
        lambda: AudioChunk(np.zeros(4, np.float32), 16000, 0),
        lambda: AudioChunk(np.zeros((4, 1), np.int16), 16000, 0),
        lambda: AudioChunk(np.zeros((4, 0), np.float32), 16000, 0),
        lambda: AudioWindow(np.zeros((4, 1), np.float32), 16000, 0),
        lambda: Tokens(torch.zeros(6, 4), (2, 2)),
        lambda: Tokens(torch.zeros(6), (2, 3)),
        lambda: Tokens(torch.zeros(6, 4, dtype=torch.int32), (2, 3)),
        lambda: Anchors(("a",), torch.zeros(2, 3), torch.zeros(2, 3)),
        lambda: factorization(audio_factors=torch.rand(3, 4)),
        lambda: factorization(visual_factors=np.zeros((2, 5))),
        lambda: SoundingObject(1, (("dog", 1.0),), 0.5, np.ones((4, 6), bool), (0, 0, 7, 4)),
        lambda: SoundingObject.from_box((2, 1, 5, 2), (4, 6), [("dog", 1.0)], 0.5),
        lambda: SoundingObject.from_box((2, 1, 0, 2), (4, 6), [("dog", 1.0)], 0.5),
        lambda: SoundingScene(
            0, (5, 6), 0, 1, -20.0, 0.5, "sounding", (SoundingObject.from_mask(np.ones((4, 6), bool), [("dog", 1.0)], 0.5),)
        ),
    ],
)
def test_wrong_shapes(make):
    with pytest.raises(ShapeError, match="wanted .*got") as caught:
        make()
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AudioChunk(np.zeros((4, 1), np.float32), 0, 0),
        lambda: AudioChunk(np.zeros((4, 1), np.float32), 16000.0, 0),
        lambda: Anchors((), torch.zeros(0, 3), torch.zeros(0, 3)),
        lambda: Anchors(("a",), torch.zeros(1, 3), torch.zeros(1, 3), audio_logit_scale=float("nan")),
        lambda: factorization(sounding=2),
        lambda: Concept(0, (), 0.5, torch.zeros(3)),
        lambda: Concept(0, (("dog", 1.0),), 1.5, torch.zeros(3)),
        lambda: SoundingScene(0, (4, 6), 0, 1, -20.0, 0.5, "loud"),
        lambda: SoundingScene(0, (4, 6), 0, 1, -20.0, 0.5, "rejected"),
        lambda: SoundingScene(0, (4, 6), 0, 1, -20.0, 0.5, "unknown", heard=(("", 0.5),)),
        lambda: SoundingScene(0, (4, 6), 0, 1, -20.0, 0.5, "unknown", heard=(("Rain", 1.5),)),
        lambda: SoundingScene(0, (4, 6), 0, 1, -20.0, 0.5, "unknown", heard=(("Rain", float("nan")),)),
        lambda: SoundingScene(0, (4, 6), 0, 1, -20.0, 0.5, "unknown", heard=(("Rain", 0.2), ("Wind", 0.4))),
    ],
)
def test_wrong_values(make):
    with pytest.raises(ValueRangeError, match="wanted .*got"):
        make()


def test_chunk_and_window_know_their_end():
    assert AudioChunk(np.zeros((800, 2), np.float32), 16000, 7).end_ns == 50_000_007
    assert AudioWindow(np.zeros(44100, np.float32), 44100, -5).end_ns == 999_999_995


@pytest.mark.parametrize(
    ("samples", "level"), [(np.ones(9), 0.0), (np.full(9, 0.1), -20.0), (np.zeros(9), -200.0), (np.zeros(0), -200.0)]
)
def test_level(samples, level):
    assert AudioWindow(samples.astype(np.float32), 16000, 0).level_dbfs == pytest.approx(level, abs=1e-4)


def test_object_from_mask_has_the_tight_box_and_the_centroid():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 3:9] = True
    thing = SoundingObject.from_mask(mask, [("dog", 0.9), ("cat", 0.1)], 0.7, id=4)
    assert thing.box == (3, 2, 6, 3) and thing.label == "dog" and thing.centre == (5.5, 3.0) and thing.id == 4
    assert SoundingObject.from_mask(np.zeros((3, 3), bool), [("dog", 1.0)], 0.5) is None


def test_an_object_without_an_outline_has_its_box_and_the_middle_of_it():
    box, size = (3, 2, 6, 3), (10, 20)
    thing = SoundingObject.from_box(box, size, [("dog", 0.9)], 0.7, id=4)
    filled = np.zeros(size, bool)
    filled[2:5, 3:9] = True
    assert thing.box == box and thing.mask.shape == size and not thing.mask.any() and thing.id == 4
    assert thing.centre == SoundingObject.from_mask(filled, [("dog", 0.9)], 0.7).centre


def test_an_object_without_an_outline_leaves_the_instance_mask_and_its_numbers_alone():
    other = SoundingObject.from_mask(np.ones((4, 6), bool), [("cat", 1.0)], 0.4)
    scene = SoundingScene(
        0, (4, 6), 0, 1, -20.0, 0.9, "sounding", (SoundingObject.from_box((0, 0, 6, 4), (4, 6), [("dog", 1.0)], 0.9), other)
    )
    assert (scene.instance_mask() == 2).all()


@pytest.mark.parametrize("verdict", ["sounding", "silent", "unknown", "not_in_view", "no_mask"])
def test_a_scene_tells_what_is_heard_whatever_is_in_view(verdict):
    scene = SoundingScene(0, (4, 6), 0, 1, -20.0, 0.5, verdict, heard=[("Rain", 1), ("Wind", np.float32(0.5))])
    assert scene.heard == (("Rain", 1.0), ("Wind", 0.5)) and all(type(p) is float for _, p in scene.heard)
    assert SoundingScene(0, (4, 6), 0, 1, -20.0, 0.5, verdict).heard == ()


def test_instance_mask_gives_the_overlap_to_the_better_score():
    first, second = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    first[:, :4], second[:, 2:] = True, True
    objects = tuple(SoundingObject.from_mask(m, [("x", 1.0)], s) for m, s in ((first, 0.9), (second, 0.4)))
    scene = SoundingScene(0, (4, 6), 0, 1, -20.0, 0.9, "sounding", objects)
    np.testing.assert_array_equal(scene.instance_mask()[0], [1, 1, 1, 1, 2, 2])


def test_tokens_on_grid_is_row_major():
    tokens = Tokens(torch.zeros(6, 4), (2, 3))
    assert tokens.on_grid(torch.arange(6.0)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_times_of_tokens_are_one_for_every_step():
    assert Tokens(torch.zeros(6, 2), (2, 3), torch.zeros(3)).times.shape == (3,)
    for wrong in (torch.zeros(2), torch.zeros(6), torch.zeros(3, 1)):
        with pytest.raises(ShapeError, match="Tokens.times: wanted 3 numbers"):
            Tokens(torch.zeros(6, 2), (2, 3), wrong)


def test_sound_in_float64_is_taken_as_float32():
    window = AudioWindow(np.linspace(-1, 1, 5), 16000, 0)
    chunk = AudioChunk(np.zeros((4, 2)), 16000, 0)
    assert window.samples.dtype == chunk.samples.dtype == np.float32 and window.samples[-1] == 1
    with pytest.raises(ShapeError, match="samples"):
        AudioWindow(np.zeros(5, np.int16), 16000, 0)
