"""Which parts of an outline are the thing, and whether the outcome agrees with the map that it should refine."""

from __future__ import annotations

import cv2
import numpy as np

from taco.segmentation.maps import THING, Box

STANDS_OUT = 0.5  # of the silhouette: from here on a pixel belongs to something
REACHES = 0.16  # of the map spread along colours: below it, silhouette or not, it is another thing,
WHOLE = 0.7  # unless this share of the connected part is reached: the rest of it is the same thing in another colour
TOUCHES = 0.5  # of the map's maximum that a part must hold
CRUMB = 0.02  # of the greatest part's area, below which a part is dropped
SHARE = 0.1  # of the strongest part's strength that a part must have
ALIKE = 0.5  # of the strongest part's mean strength that a part must have
KEEPS = 0.25  # of the map's strength over THING that a mask from an outline must hold: a clear one may well correct its extent,
UNSURE = 1.0  # but not one with as many doubtful places as sure ones,
CUT = 0.6  # or one that goes on beyond this share of its region's border
CUT_OFF = 0.1  # share of a region's side along which a thing must lie to go on beyond it,
WIDER = 0.25  # by which share of the region's length it is then looked at beyond that side
AGREES = 0.55  # overlap (IoU) with the map from which a mask along its colours alone is believed


def chosen_parts(mask: np.ndarray, heat: np.ndarray, touches: float = TOUCHES) -> np.ndarray:
    """(h, w) bool: the connected parts of ``mask`` that the map (h, w) in [0, 1] touches, crumbs left out."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    if count < 2:
        return np.zeros(mask.shape, bool)
    flat = labels.ravel()
    strength = np.bincount(flat, heat.ravel(), count)
    touched = np.bincount(flat[heat.ravel() >= touches], minlength=count) > 0
    area = stats[:, cv2.CC_STAT_AREA].astype(float)
    area[0] = strength[0] = 0
    mean = strength / np.maximum(area, 1)
    keep = touched & (area >= CRUMB * area.max()) & (strength >= SHARE * strength.max())
    keep &= mean >= ALIKE * mean[strength.argmax()]
    keep[0] = False
    return keep[labels]


def thing_in_outline(outline: np.ndarray, box: Box, heat: np.ndarray, reach: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the thing, of an outline (s, s) in [0, 1] of the region ``box`` in an image of ``size``.

    heat: the word's map, reach: the same spread along the colours, both of the whole image in any size, in [0, 1].
    A region may lie partly outside the image, as one that has been moved there.
    """
    side = outline.shape[::-1]
    near, within = part_of(heat, box, size, side), part_of(reach, box, size, side)
    thing = chosen_parts(_reached(outline > STANDS_OUT, within), near)
    x, y, width, height = box
    large = cv2.resize(thing.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    out = np.zeros(size, bool)
    left, top, right, bottom = max(0, x), max(0, y), min(size[1], x + width), min(size[0], y + height)
    if right > left and bottom > top:
        out[top:bottom, left:right] = large[top - y : bottom - y, left - x : right - x]
    return out


def _reached(standing: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Where the map reaches what stands out; connected parts of it that are mostly reached, whole."""
    count, labels = cv2.connectedComponents(standing.astype(np.uint8), connectivity=4)
    reached = standing & (reach > REACHES)
    whole = np.bincount(labels[reached], minlength=count) >= WHOLE * np.bincount(labels.ravel(), minlength=count)
    return reached | (standing & whole[labels])


def uncovered(parts: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w) bool: the connected ones of ``parts`` of which a mask of any size holds nothing."""
    count, labels = cv2.connectedComponents(parts.astype(np.uint8), connectivity=4)
    small = cv2.resize(mask.astype(np.float32), parts.shape[::-1], interpolation=cv2.INTER_AREA) > 0.3
    held = np.bincount(labels[small], minlength=count) > 0
    held[0] = True
    return ~held[labels]


def is_clear(outline: np.ndarray, box: Box, size: tuple[int, int]) -> bool:
    """Does the outline (s, s) in [0, 1] of a region show something that is told from its surroundings?

    Not where much of it is doubtful, nor where it fills the region's border, other than along the image's own edges.
    """
    sure = outline > STANDS_OUT
    doubtful = np.count_nonzero((outline > 0.2) & (outline < 0.8))
    x, y, width, height = box
    sides = (
        (x > 0, sure[:, 0]),
        (y > 0, sure[0]),
        (x + width < size[1], sure[:, -1]),
        (y + height < size[0], sure[-1]),
    )
    border = [line.mean() for inside, line in sides if inside]
    return doubtful < UNSURE * np.count_nonzero(sure) and (not border or float(np.mean(border)) < CUT)


def widened(mask: np.ndarray, box: Box) -> Box | None:
    """The region, wider where the thing (H, W) bool lies along its sides, up to the image's edges; None where it does not."""
    rows, columns = mask.shape
    left, top, right, bottom = max(0, box[0]), max(0, box[1]), min(columns, box[0] + box[2]), min(rows, box[1] + box[3])
    inside = mask[top:bottom, left:right]
    if not inside.any():
        return None
    beside = (inside[:, :2].any(1), inside[:2].any(0), inside[:, -2:].any(1), inside[-2:].any(0))
    cut = [line.mean() > CUT_OFF for line in beside]
    width, height = round(WIDER * (right - left)), round(WIDER * (bottom - top))
    x, y = max(0, left - cut[0] * width), max(0, top - cut[1] * height)
    wider = (x, y, min(columns, right + cut[2] * width) - x, min(rows, bottom + cut[3] * height) - y)
    return None if wider == (left, top, right - left, bottom - top) else wider


def keeps(mask: np.ndarray, heat: np.ndarray) -> float:
    """Share in [0, 1] of the map's (h, w) strength over THING that a mask of any size holds: what lies below is everywhere."""
    small = cv2.resize(mask.astype(np.float32), heat.shape[::-1], interpolation=cv2.INTER_AREA)
    strength = np.maximum(heat - THING, 0)
    return float((small * strength).sum() / max(float(strength.sum()), 1e-12))


def agreement(mask: np.ndarray, heat: np.ndarray) -> float:
    """IoU in [0, 1] of a mask of any size with the map (h, w) from THING on."""
    small = cv2.resize(mask.astype(np.float32), heat.shape[::-1], interpolation=cv2.INTER_AREA) >= 0.5
    thing = heat >= THING
    return float((small & thing).sum() / max(1, (small | thing).sum()))


def part_of(values: np.ndarray, box: Box, size: tuple[int, int], side: tuple[int, int]) -> np.ndarray:
    """The part of a whole image's map that lies in the region, at (width, height) ``side``."""
    rows, columns = values.shape
    sx, sy = columns / size[1], rows / size[0]
    x, y, width, height = box
    kx, ky = width * sx / side[0], height * sy / side[1]
    matrix = np.float32([[kx, 0, x * sx + kx / 2 - 0.5], [0, ky, y * sy + ky / 2 - 0.5]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(values.astype(np.float32), matrix, side, flags=flags, borderMode=cv2.BORDER_REPLICATE)
