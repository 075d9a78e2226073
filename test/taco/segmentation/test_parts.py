"""Choosing among the parts of an outline, and single objects among several of a kind."""

import numpy as np
import pytest

from taco.segmentation.instances import single_objects
from taco.segmentation.parts import chosen_parts, is_clear, kept_strength, map_overlap, object_in_outline, uncovered_parts, widen


def boxes(*places, size=(60, 80)):
    mask = np.zeros(size, bool)
    for top, bottom, left, right in places:
        mask[top:bottom, left:right] = True
    return mask


ONE, OTHER, CRUMB = (10, 30, 10, 30), (10, 30, 50, 70), (50, 52, 10, 12)


def test_only_parts_that_the_map_touches_are_kept():
    mask = boxes(ONE, OTHER, CRUMB)
    heat = boxes(ONE).astype(np.float32)
    assert np.array_equal(chosen_parts(mask, heat), boxes(ONE))
    assert np.array_equal(chosen_parts(mask, np.maximum(heat, 0.8 * boxes(OTHER))), boxes(ONE, OTHER))
    assert not chosen_parts(mask, 0.4 * heat).any() and not chosen_parts(np.zeros_like(mask), heat).any()


def test_crumbs_and_parts_that_are_touched_at_an_edge_only_are_left_out():
    mask = boxes(ONE, OTHER, CRUMB)
    heat = boxes(ONE, (10, 30, 50, 53), CRUMB).astype(np.float32)
    assert np.array_equal(chosen_parts(mask, heat), boxes(ONE))


def test_an_outline_lies_where_its_region_does_even_partly_out_of_view():
    outline = np.zeros((20, 20), np.float32)
    outline[5:15, 5:15] = 1
    heat = np.ones((6, 8), np.float32)
    inside = object_in_outline(outline, (20, 10, 40, 40), heat, heat, (60, 80))
    assert np.array_equal(inside, boxes((20, 40, 30, 50)))
    moved = object_in_outline(outline, (-20, -10, 40, 40), heat, heat, (60, 80))
    assert np.array_equal(moved, boxes((0, 20, 0, 10)))
    assert not object_in_outline(outline, (500, 10, 40, 40), heat, heat, (60, 80)).any()


def test_an_outline_over_two_objects_is_cut_where_the_map_ends():
    outline = np.ones((20, 20), np.float32)
    heat = np.zeros((60, 80), np.float32)
    heat[:, :40] = 1.0
    item = object_in_outline(outline, (0, 0, 80, 60), heat, heat, (60, 80))
    assert item[:, :36].all() and not item[:, 44:].any()


@pytest.mark.parametrize(("reached", "whole"), [(19, True), (10, False)])
def test_an_object_in_two_colours_is_taken_whole_where_most_of_it_is_reached(reached, whole):
    outline = np.zeros((20, 20), np.float32)
    outline[5:15, :] = 1
    reach = np.zeros((20, 20), np.float32)
    reach[:, :reached] = 1.0
    item = object_in_outline(outline, (0, 0, 20, 20), reach, reach, (20, 20))
    assert item[8, :reached].all() and item[8, 19] == whole and not item[2].any()


def test_parts_that_a_mask_does_not_touch_are_found():
    parts = boxes(ONE, OTHER)
    large = boxes((10, 14, 10, 14)).repeat(4, 0).repeat(4, 1)
    assert np.array_equal(uncovered_parts(parts, large), boxes(OTHER))
    assert not uncovered_parts(parts, boxes(ONE, OTHER)).any() and not uncovered_parts(boxes(), large).any()


def test_clear_is_what_is_sure_and_apart_from_its_surroundings():
    size, box = (60, 80), (20, 10, 40, 40)
    clear = np.zeros((20, 20), np.float32)
    clear[4:16, 4:16] = 1
    assert is_clear(clear, box, size)
    assert not is_clear(np.ones_like(clear), box, size) and is_clear(np.ones_like(clear), (0, 0, 80, 60), size)
    assert not is_clear(0.6 * np.ones_like(clear), (0, 0, 80, 60), size) and not is_clear(0 * clear, box, size)
    doubtful = clear.copy()
    doubtful[:, :] = np.maximum(clear, 0.4)
    assert not is_clear(doubtful, box, size)


def test_a_mask_is_compared_with_the_map_at_the_maps_size():
    heat = boxes(ONE).astype(np.float32)
    large = boxes(ONE).repeat(4, 0).repeat(4, 1)
    assert map_overlap(large, heat) == 1.0 and kept_strength(large, heat) == pytest.approx(1.0)
    half = boxes((10, 30, 10, 20)).repeat(4, 0).repeat(4, 1)
    assert map_overlap(half, heat) == pytest.approx(0.5) and kept_strength(half, heat) == pytest.approx(0.5)
    assert map_overlap(large, 0 * heat) == 0.0


def test_parts_that_do_not_touch_are_objects_of_their_own_and_crumbs_belong_to_the_nearest():
    mask = boxes(ONE, (10, 32, 50, 72), CRUMB)
    first, second = single_objects(mask, np.ones((6, 8), np.float32))
    assert np.array_equal(first, boxes((10, 32, 50, 72))) and np.array_equal(second, boxes(ONE, CRUMB))


def test_two_touching_objects_are_separated_by_the_maps_two_peaks():
    mask = boxes((10, 50, 8, 72))
    coarse = np.zeros((6, 8), np.float32)
    coarse[1:5, 1:7] = 0.4
    coarse[2, 1], coarse[3, 6] = 1.0, 0.9
    objects = single_objects(mask, coarse)
    assert len(objects) == 2 and np.array_equal(objects[0] | objects[1], mask) and not (objects[0] & objects[1]).any()
    coarse[2:4, 1:7] = np.maximum(coarse[2:4, 1:7], 0.85)  # no valley: one object
    assert len(single_objects(mask, coarse)) == 1
    assert single_objects(np.zeros_like(mask), coarse) == []


def test_a_mask_keeps_the_maps_strong_part_whatever_lies_everywhere():
    heat = np.full((20, 20), 0.28, np.float32)
    heat[5:9, 5:9] = 1.0
    item = heat == 1.0
    assert kept_strength(item, heat) == pytest.approx(1.0) and kept_strength(~item, heat) == pytest.approx(0.0)


def test_a_region_is_widened_where_the_object_lies_along_its_border():
    size, box = (60, 80), (20, 10, 40, 40)
    assert widen(boxes((15, 40, 25, 50), size=size), box) is None and widen(boxes(size=size), box) is None
    assert widen(boxes((15, 40, 30, 60), size=size), box) == (20, 10, 50, 40)
    assert widen(boxes((10, 50, 20, 60), size=size), box) == (10, 0, 60, 60)
    assert widen(boxes((49, 50, 59, 60), size=size), box) is None  # a corner is no side
    assert widen(boxes((0, 30, 0, 40), size=size), (0, 0, 80, 60)) is None  # the image ends there
    assert widen(boxes((0, 30, 0, 30), size=size), (-20, -20, 40, 40)) == (0, 0, 25, 25)
