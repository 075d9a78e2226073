"""What a frame's verdict is, and when what is heard counts as known."""

import numpy as np
import pytest
import torch

from taco.concepts import Naming, SoundEvidence, likeliest_words
from taco.pipeline import _verdict
from taco.segmentation.base import Segmentation
from taco.types import SoundingObject


def sound(best, other=0.0):
    present = torch.tensor([0.01, best, 0.02])
    return SoundEvidence(present / 2, present, other, 3)


@pytest.mark.parametrize(
    ("heard", "verdict"),
    [
        (sound(0.3), "not_in_view"),
        (sound(0.3, other=0.25), "not_in_view"),
        (sound(0.3, other=0.35), "unknown"),  # most of all it is something without a word
        (sound(0.15), "unknown"),  # it might be anything
        (None, "unknown"),
    ],
)
def test_what_is_not_outlined_is_told_as_not_in_view_only_where_it_is_known(heard, verdict):
    assert _verdict(Naming(0.1, (), heard), None) == verdict


def test_what_is_outlined_sounds_and_what_has_but_a_box_has_no_mask():
    outlined = SoundingObject.from_mask(np.eye(4, dtype=bool), (("dog", 0.9),), 0.8)
    bare = SoundingObject.from_box((0, 0, 2, 2), (4, 4), (("dog", 0.9),), 0.8)
    confidence = np.zeros((4, 4), np.float32)
    for things, verdict in (((outlined,), "sounding"), ((bare, outlined), "sounding"), ((bare,), "no_mask")):
        assert _verdict(Naming(0.8, (), sound(0.9)), Segmentation(confidence, things)) == verdict


def test_words_are_told_as_heard_from_a_tenth_on_best_first():
    heard = SoundEvidence(torch.zeros(4), torch.tensor([0.2, 0.09, 0.7, 0.1]))
    told = likeliest_words(heard, ("dog", "cat", "rain", "bell"), 5)
    assert [word for word, _ in told] == ["rain", "dog", "bell"] and told[0][1] == pytest.approx(0.7)
    assert [word for word, _ in likeliest_words(heard, ("dog", "cat", "rain", "bell"), 2)] == ["rain", "dog"]
