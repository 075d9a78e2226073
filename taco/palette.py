"""One colour for one word, in every picture: overlay, masks, markers, pages, viewers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

# The first seven are Okabe and Ito's (2008) for all kinds of colour vision. The others are ours: each is the furthest from those
# before it, for the eye that sees the least difference (with all cones, or without one kind; Machado et al. 2009).
COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (136, 0, 255),
    (187, 238, 153),
    (153, 68, 51),
    (0, 255, 221),
    (187, 85, 255),
)
SEED = 585  # ours: of the checksum; with it words that are often seen together (dog, cat, person, car ...) differ in colour


def colour_of(word: str) -> tuple[int, int, int]:
    """(red, green, blue) 0 to 255 of a word, always the same. One in twelve pairs of words shares its colour."""
    return COLOURS[zlib.crc32(word.encode(), SEED) % len(COLOURS)]


def palette(words: Sequence[str]) -> list[int]:
    """768 numbers for an indexed PNG: black for 0, for i + 1 the colour of the i-th word (at most 255), black after them."""
    colours = [part for word in words[:255] for part in colour_of(word)]
    return [0, 0, 0, *colours] + [0] * (765 - len(colours))
