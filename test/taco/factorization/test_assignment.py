"""The assignment is the best one, with the same sum as another program's."""

import itertools

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from taco.factorization.assignment import best_assignment


@pytest.mark.parametrize("count", (1, 2, 3, 5, 8, 17))
def test_the_sum_is_the_greatest(count):
    random = np.random.default_rng(count)
    for number in range(30):
        weights = random.random((count, count)) if number % 2 else random.integers(0, 3, (count, count)) / 2
        found = best_assignment(weights)
        assert sorted(found) == list(range(count))
        rows, columns = linear_sum_assignment(weights, maximize=True)
        assert weights[range(count), found].sum() == pytest.approx(weights[rows, columns].sum())


def test_by_hand_and_against_every_permutation():
    weights = np.array([[0.9, 0.8, 0.0], [0.9, 0.1, 0.0], [0.5, 0.4, 0.0]])  # the greedy choice would leave row 1 with 0.1
    assert best_assignment(weights).tolist() == [1, 0, 2]
    best = max(itertools.permutations(range(3)), key=lambda way: weights[range(3), way].sum())
    assert best_assignment(weights).tolist() == list(best)


def test_nothing_to_choose_keeps_the_order():
    assert best_assignment(np.zeros((8, 8))).tolist() == list(range(8))
    assert best_assignment(np.zeros((0, 0))).tolist() == []
