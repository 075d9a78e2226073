"""One colour for one object id, in every picture."""

import colorsys

GOLDEN = 0.618033988749895  # (sqrt(5) - 1) / 2: steps of this turn keep the hues of neighbouring ids far apart


def colour_of(id: int) -> tuple[int, int, int]:
    """(red, green, blue) 0 to 255 of an object id: always the same for the same id, alike for no two neighbours."""
    hue = (0.08 + GOLDEN * (int(id) - 1)) % 1.0
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.72, 1.0))  # ours: bright, not garish
    return red, green, blue


def palette() -> list[int]:
    """768 numbers: the colours of the values 0 (black) to 255 for an indexed PNG."""
    return [0, 0, 0] + [part for id in range(1, 256) for part in colour_of(id)]
