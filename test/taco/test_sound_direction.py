"""Sound directions against made things: what the sound comes from stays, what it does not come from loses score."""

import dataclasses
import math

import numpy as np
import pytest

from taco.clock import NS
from taco.config import DirectionConfig
from taco.geometry import Camera
from taco.sound_direction import azimuths, directed, from_fixed_mount, support
from taco.types import SoundingObject, SoundingScene

SIZE = (120, 160)
CAMERA = Camera(
    SIZE, np.array([[80.0, 0, 79.5], [0, 80, 59.5], [0, 0, 1]]), np.zeros(5), "plumb_bob", np.eye(3), np.zeros((3, 4))
)
LEFT, RIGHT = -math.atan(60 / 80), math.atan(60 / 80)  # of things around columns 20 and 139


def dog(x, id=1, score=0.8, size=20, word="dog"):
    mask = np.zeros(SIZE, bool)
    mask[50 : 50 + size, x - size // 2 : x + size // 2] = True
    return SoundingObject.from_mask(mask, [(word, 0.7)], score, id)


def scene(*things, verdict="sounding"):
    return SoundingScene(NS, SIZE, 0, NS, -20.0, 0.8, verdict, tuple(things))


def told(*angles, weights=None):
    return np.array(angles, float), np.array(weights or [1.0] * len(angles))


def rescored(things, directions, least=0.28, **settings):
    return directed(scene(*things), CAMERA, directions, DirectionConfig(**settings), least)


def test_the_scenes_score_never_rises():
    seen = scene(dog(20, 1, 0.9), dog(140, 2, 0.85))
    assert directed(seen, CAMERA, told(LEFT), DirectionConfig(), 0.28).sounding_score == seen.sounding_score == 0.8


@pytest.mark.parametrize("angle, wanted", ((LEFT, 1), (RIGHT, 2)))
def test_of_two_equal_dogs_the_one_that_barks_stays(angle, wanted):
    out = rescored((dog(20, 1), dog(140, 2)), told(angle, angle + 0.03, angle - 0.02))
    assert [item.id for item in out.objects] == [wanted] and out.objects[0].score > 0.78 and out.verdict == "sounding"


@pytest.mark.parametrize("angle, side", ((LEFT, slice(0, 80)), (RIGHT, slice(80, 160))))
def test_of_two_dogs_in_one_mask_the_one_that_barks_stays(angle, side):
    both = dataclasses.replace(dog(20), mask=dog(20).mask | dog(140).mask, box=(10, 50, 140, 20), sound_map=np.ones((2, 2)))
    (left,) = rescored((both,), told(angle)).objects
    assert left.mask[:, side].sum() == 400 == left.mask.sum() and left.box[2:] == (20, 20)
    assert (left.id, left.labels, left.sound_map.shape) == (1, both.labels, (2, 2))


def test_both_stay_where_both_bark_and_nothing_changes_while_no_direction_comes():
    pair = (dog(20, 1), dog(140, 2, 0.7))
    out = rescored(pair, told(LEFT, RIGHT, LEFT, RIGHT))
    assert [(item.id, item.score) for item in out.objects] == [(1, pytest.approx(0.8)), (2, pytest.approx(0.7))]
    untouched = scene(*pair)
    assert directed(untouched, CAMERA, told(), DirectionConfig(), 0.28) is untouched
    assert directed(untouched, CAMERA, told(LEFT), DirectionConfig(weight=0.0), 0.28) is untouched


def test_the_best_supported_comes_first_and_little_weight_only_reorders():
    out = rescored((dog(20, 1), dog(140, 2, 0.7)), told(RIGHT), weight=0.5)
    assert [item.id for item in out.objects] == [2, 1]
    assert out.objects[0].score == pytest.approx(0.7, abs=0.01) and out.objects[1].score == pytest.approx(0.4, abs=0.01)


def test_a_sound_from_behind_is_not_in_view():
    out = rescored((dog(20), dog(140, 2)), told(math.pi, -3.1, 3.0))
    assert out.objects == () and out.verdict == "not_in_view" and out.sounding_score == 0


def test_an_object_is_as_wide_as_its_mask():
    wide = dog(80, size=100)
    narrow = dog(80, size=10)
    angle = math.atan(45 / 80)
    (seen,) = rescored((wide,), told(angle)).objects
    assert seen.score == pytest.approx(0.8)
    assert rescored((narrow,), told(angle), tolerance_deg=5).objects == ()


def test_a_few_stray_directions_change_little():
    spans = np.array([[LEFT - 0.1, LEFT + 0.1], [RIGHT - 0.1, RIGHT + 0.1]])
    many = told(*[LEFT] * 9, RIGHT)
    assert support(spans, *many, 0.1) == pytest.approx([1, 1 / 9], abs=0.01)
    quiet = told(LEFT, RIGHT, weights=[0.2, 1.0])
    assert support(spans, *quiet, 0.1) == pytest.approx([0.2, 1], abs=0.01), "a source's activity is its weight"


def test_support_falls_with_the_tolerance_as_a_normal_distribution_does():
    spans = np.array([[0.0, 0.1]])
    for away in (0.0, 0.1, 0.25):
        wanted = math.exp(-0.5 * (away / 0.25) ** 2)
        both_ends = [support(spans, *told(angle), 0.25)[0] for angle in (0.1 + away, -away)]
        assert both_ends == pytest.approx([wanted, wanted])
    assert support(np.array([[3.1, 3.1]]), *told(-3.1), 0.1)[0] == pytest.approx(math.exp(-0.5 * 0.832**2), abs=1e-3), (
        "the circle closes"
    )


def test_a_box_without_an_outline_and_a_speck_are_judged_too():
    bare = SoundingObject.from_box((130, 50, 20, 20), SIZE, [("dog", 0.7)], 0.8)
    assert rescored((bare,), told(RIGHT)).objects[0].score > 0.78 and rescored((bare,), told(LEFT)).objects == ()
    speckled = dog(20)
    speckled.mask[0, 159] = True
    assert rescored((speckled,), told(LEFT)).objects[0].mask[0, 159], "specks are no things of their own"


def test_directions_up_have_no_azimuth():
    angles, weights = azimuths(np.array([[0, -1.0, 0.05], [1.0, -1.0, 1.0], [-1.0, 0, 0]]), np.array([1.0, 0.5, 0.25]))
    assert angles == pytest.approx([math.pi / 4, -math.pi / 2]) and weights == pytest.approx([0.5, 0.25])


def test_a_fixed_array_is_turned_by_its_heading():
    ahead, left, up = np.eye(3)
    turned = from_fixed_mount(np.array([ahead, left, up]), 0.0)
    assert turned == pytest.approx(np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])), "x ahead, y left, z up to REP-103's optical"
    assert from_fixed_mount(np.array([ahead]), 90.0)[0] == pytest.approx([-1, 0, 0]), "the array's x axis points to the left"
    assert from_fixed_mount(np.array([left]), 90.0)[0] == pytest.approx([0, 0, -1])


def test_a_pixel_beyond_the_lens_leaves_its_object_alone():
    bent = dataclasses.replace(CAMERA, d=np.array([-3.0, 0, 0, 0, 0]))
    things = (dog(20),)
    assert directed(scene(*things), bent, told(RIGHT), DirectionConfig(), 0.28).objects == things
