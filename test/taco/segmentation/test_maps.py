"""The factors' own answer to a word, the box of a map, the map along colours."""

import numpy as np
import pytest
import torch

from taco.segmentation.maps import factor_weights, guided_filter, map_rectangle, small_size, spread_along_colours, word_map
from taco.types import Anchors, Factorization, Tokens

TOKENS = Tokens(torch.zeros(12, 3), (3, 4))


def factorization(active, factors):
    count = len(factors)
    return Factorization(active, factors, torch.ones(2, count), torch.ones(count, 3), 0)


def test_a_objects_factors_add_up_to_it_and_factors_against_the_word_take_away():
    active = torch.zeros(12, 3)
    active[:4, 0], active[4:8, 1], active[4:12, 2] = 1.0, 0.5, 1.0
    factors = torch.tensor([[1.0, 0.0, 0.0], [2.0, 1.0, 0.0], [-0.25, 0.0, 1.0]])
    heat = word_map(factorization(active, factors), torch.tensor([1.0, 0.0, 0.0]), TOKENS)
    assert heat.shape == (3, 4) and heat.dtype == np.float32
    np.testing.assert_allclose(heat[0], 1.0)  # 1 x 1
    np.testing.assert_allclose(heat[1], 0.75)  # 0.5 x 2 - 0.25
    np.testing.assert_allclose(heat[2], 0.0)  # -0.25, at least 0


def test_a_word_that_all_factors_speak_against_gives_an_empty_map():
    heat = word_map(factorization(torch.ones(12, 1), torch.tensor([[-1.0, 0.0, 0.0]])), torch.tensor([1.0, 0.0, 0.0]), TOKENS)
    assert not heat.any()


def test_where_words_are_compared_by_cosines_length_does_not_count_and_the_best_factor_weighs_one():
    anchors = Anchors(("a",), torch.ones(1, 3), torch.ones(1, 3), visual_logit_scale=100.0)
    factors = torch.tensor([[10.0, 0.1, 0.0], [0.1, 0.0, 0.0], [0.5, 0.5, 0.0]])
    weights = factor_weights(factors, torch.tensor([3.0, 0.0, 0.0]), anchors)
    assert weights[1] == pytest.approx(1.0) and weights[0] > 0.99 and weights[2] < 1e-6


def test_the_box_of_a_map_is_in_pixels_and_stays_in_the_image():
    coarse = np.zeros((3, 4), np.float32)
    coarse[1, 2] = 1.0
    assert map_rectangle(coarse, (30, 80)) == (40, 10, 20, 10)
    assert map_rectangle(coarse, (30, 80), pad=1) == (20, 0, 60, 30)
    assert map_rectangle(coarse, (30, 80), pad=9) == (0, 0, 80, 30)
    assert map_rectangle(np.zeros((3, 4)), (30, 80)) == (0, 0, 80, 30)


def test_a_map_goes_as_far_as_the_colours_do():
    rgb = np.full((128, 128, 3), 60, np.uint8)
    rgb[:, 40:80] = (200, 120, 40)
    coarse = np.zeros((8, 8), np.float32)
    coarse[:, 3:5] = 1.0  # px 48 to 80: half a token short on the left
    reach = spread_along_colours(coarse, rgb)
    assert reach.shape == (128, 128) and reach.min() >= 0 and reach.max() <= 1
    assert reach[64, 42] > 0.5 > 0.2 > reach[64, 36] and reach[64, 84] < 0.2 < 0.5 < reach[64, 77]


def test_where_colours_tell_nothing_the_map_is_only_smoothed():
    values = np.random.default_rng(0).random((40, 60)).astype(np.float32)
    out = guided_filter(np.full((40, 60, 3), 0.5, np.float32), values, radius=5)
    assert out.std() < 0.1 * values.std() and out.mean() == pytest.approx(values.mean(), abs=0.02)


def test_a_guide_of_the_values_themselves_keeps_them():
    values = (np.indices((40, 60)).sum(0) // 10 % 2).astype(np.float32)
    guide = np.stack([values, 1 - values, values * 0.5], -1)
    np.testing.assert_allclose(guided_filter(guide, values, radius=6), values, atol=0.02)


@pytest.mark.parametrize("size, small", [((480, 640), (96, 128)), ((20, 30), (20, 30)), ((1, 900), (2, 128))])
def test_the_working_size_keeps_the_shape_and_enlarges_nothing_but_slivers(size, small):
    assert small_size(size) == small
