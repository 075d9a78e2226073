"""Colours of words: stable, spread over the words, and different for every kind of colour vision."""

import itertools

import cv2
import numpy as np
import pytest

from taco.palette import COLOURS, colour_of, palette

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISION = {
    "all cones": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "no middle": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colours, vision) -> np.ndarray:
    """(n, 3) CIELAB of colours as this eye sees them."""
    part = np.array(colours) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4) @ np.transpose(VISION[vision])
    return cv2.cvtColor(np.clip(linear, 0, 1).astype(np.float32)[None], cv2.COLOR_LRGB2Lab)[0]


@pytest.mark.parametrize("vision", VISION)
def test_no_eye_takes_one_colour_for_another_or_for_the_black_of_a_mask(vision):
    pairs = itertools.combinations(seen([*COLOURS, (0, 0, 0)], vision), 2)
    assert min(np.linalg.norm(a - b) for a, b in pairs) > 15, "the least of Okabe and Ito's seven is 16"


def test_a_word_has_the_same_colour_always_and_common_ones_differ():
    assert colour_of("dog") == (187, 238, 153) and colour_of("Schäferhund") in COLOURS
    for words in (("person", "dog", "cat", "bird", "car"), ("guitar", "piano", "violin", "flute"), ("car", "bus", "train")):
        assert len({colour_of(word) for word in words}) == len(words), words


def test_words_are_spread_over_all_colours():
    counts = [sum(colour_of(f"word {i}") == colour for i in range(1200)) for colour in COLOURS]
    assert len(set(COLOURS)) == 12 and min(counts) > 60 and max(counts) < 140


def test_an_indexed_picture_has_the_colours_of_its_words_in_order():
    values = np.array(palette(["dog", "cat"])).reshape(256, 3)
    assert values[:3].tolist() == [[0, 0, 0], [*colour_of("dog")], [*colour_of("cat")]] and not values[3:].any()
    assert len(palette(["dog"] * 300)) == 768
