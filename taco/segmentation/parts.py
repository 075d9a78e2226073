"""Rules for outlines: which parts are the object, and whether the result agrees with the map.

All numbers are ours, chosen on val.
"""

from __future__ import annotations

import cv2
import numpy as np

from taco.segmentation.maps import OBJECT_LEVEL, Rectangle

STANDS_OUT = 0.5  # of the outline's values: from here on a pixel belongs to some object
REACHES = 0.16  # of the map spread along colours: what lies below belongs to another object, ...
WHOLE = 0.7  # ... unless this share of its connected part lies above: then the part is one object of several colours
TOUCHES = 0.5  # of the map's maximum, which a part must reach somewhere
CRUMB = 0.02  # of the largest part's area, below which a part is dropped
SHARE = 0.1  # of the strongest part's strength that a part must have
ALIKE = 0.5  # of the strongest part's mean strength that a part must have
KEPT_STRENGTH = 0.25  # of the map's strength over OBJECT_LEVEL that a mask from an outline must hold
UNSURE = 1.0  # most doubtful pixels of a clear outline, as a share of its sure ones
CUT = 0.6  # most of its region's border that a clear outline covers
CUT_OFF = 0.1  # share of a region's side that an object covers where it goes on beyond it; ...
WIDER = 0.25  # ... the region is then widened there by this share of its length
LEAST_OVERLAP = 0.55  # IoU with the map from which a mask along its colours alone is believed


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
    kept: np.ndarray = keep[labels]
    return kept


def object_in_outline(
    outline: np.ndarray, box: Rectangle, heat: np.ndarray, reach: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """(H, W) bool: the object in an outline (s, s) in [0, 1] of the region ``box``, in an image of ``size``.

    heat, reach: the word's map, and the map spread along the colours; of the whole image in any size, in [0, 1].
    The region may lie partly outside the image.
    """
    side = outline.shape[::-1]
    near, within = crop_map(heat, box, size, side), crop_map(reach, box, size, side)
    item = chosen_parts(_reached(outline > STANDS_OUT, within), near)
    x, y, width, height = box
    large = cv2.resize(item.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    out = np.zeros(size, bool)
    left, top, right, bottom = max(0, x), max(0, y), min(size[1], x + width), min(size[0], y + height)
    if right > left and bottom > top:
        out[top:bottom, left:right] = large[top - y : bottom - y, left - x : right - x]
    return out


def _reached(standing: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """The part of what stands out that the map reaches; connected parts that it mostly reaches, whole."""
    count, labels = cv2.connectedComponents(standing.astype(np.uint8), connectivity=4)
    reached = standing & (reach > REACHES)
    whole = np.bincount(labels[reached], minlength=count) >= WHOLE * np.bincount(labels.ravel(), minlength=count)
    chosen: np.ndarray = reached | (standing & whole[labels])
    return chosen


def uncovered_parts(parts: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(h, w) bool: those connected parts of ``parts`` that a mask of any size does not touch."""
    count, labels = cv2.connectedComponents(parts.astype(np.uint8), connectivity=4)
    small = cv2.resize(mask.astype(np.float32), parts.shape[::-1], interpolation=cv2.INTER_AREA) > 0.3
    held = np.bincount(labels[small], minlength=count) > 0
    held[0] = True
    free: np.ndarray = ~held[labels]
    return free


def is_clear(outline: np.ndarray, box: Rectangle, size: tuple[int, int]) -> bool:
    """Whether the outline (s, s) in [0, 1] of a region sets an object apart from its surroundings.

    It does not where much of it is doubtful, or where it fills the region's border away from the image's own edges.
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
    return bool(doubtful < UNSURE * np.count_nonzero(sure)) and (not border or float(np.mean(border)) < CUT)


def widen(mask: np.ndarray, box: Rectangle) -> Rectangle | None:
    """The region, wider where the object (H, W) bool lies along its sides, up to the image's edges; None where it does not."""
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


def kept_strength(mask: np.ndarray, heat: np.ndarray) -> float:
    """Share in [0, 1] of the map's (h, w) strength over OBJECT_LEVEL that a mask of any size holds."""
    small = cv2.resize(mask.astype(np.float32), heat.shape[::-1], interpolation=cv2.INTER_AREA)
    strength = np.maximum(heat - OBJECT_LEVEL, 0)
    return float((small * strength).sum() / max(float(strength.sum()), 1e-12))


def map_overlap(mask: np.ndarray, heat: np.ndarray) -> float:
    """IoU in [0, 1] of a mask of any size with the map (h, w) from OBJECT_LEVEL on."""
    small = cv2.resize(mask.astype(np.float32), heat.shape[::-1], interpolation=cv2.INTER_AREA) >= 0.5
    item = heat >= OBJECT_LEVEL
    return float((small & item).sum() / max(1, (small | item).sum()))


def crop_map(values: np.ndarray, box: Rectangle, size: tuple[int, int], side: tuple[int, int]) -> np.ndarray:
    """The part of a whole image's map that lies in the region, at (width, height) ``side``."""
    rows, columns = values.shape
    sx, sy = columns / size[1], rows / size[0]
    x, y, width, height = box
    kx, ky = width * sx / side[0], height * sy / side[1]
    matrix = np.array([[kx, 0, x * sx + kx / 2 - 0.5], [0, ky, y * sy + ky / 2 - 0.5]], np.float32)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    part: np.ndarray = cv2.warpAffine(values.astype(np.float32), matrix, side, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return part
