"""Several of a kind: the mask of a word taken apart into the single things in it."""

from __future__ import annotations

import cv2
import numpy as np

LEAST = 0.1  # of the greatest thing's area, below which a part is not a thing of its own
VALLEY = 0.75  # two peaks of the map are two things where it sinks below this share of the lower between them


def single_things(mask: np.ndarray, coarse: np.ndarray, least_area: int = 1) -> list[np.ndarray]:
    """(H, W) bool mask and its (h, w) map -> masks of the single things, the greatest first; none of them shares a pixel.

    Parts that do not touch are things of their own; a part over which the map has two peaks with a valley between them is
    shared out, each pixel to the peak that is nearer within the part. Small parts go to the thing that lies nearest.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return []
    area = stats[:, cv2.CC_STAT_AREA].astype(float)
    area[0] = 0
    great = [part for part in range(1, count) if area[part] >= max(LEAST * area.max(), least_area)]
    things = [thing for part in great for thing in _by_peaks(labels == part, coarse)] or [mask]
    rest = mask & ~np.any(things, 0)
    if rest.any():
        away = np.stack([cv2.distanceTransform((~thing).astype(np.uint8), cv2.DIST_L2, 3) for thing in things])
        nearest = away.argmin(0)
        things = [thing | (rest & (nearest == index)) for index, thing in enumerate(things)]
    return sorted(things, key=lambda thing: -int(thing.sum()))


def _by_peaks(part: np.ndarray, coarse: np.ndarray) -> list[np.ndarray]:
    """A connected part shared out among the map's peaks in it; itself where there is one."""
    inside = cv2.resize(part.astype(np.float32), coarse.shape[::-1], interpolation=cv2.INTER_AREA)
    peaks = _peaks(np.where(inside > 0.2, coarse, 0))
    if len(peaks) < 2:
        return [part]
    sy, sx = part.shape[0] / coarse.shape[0], part.shape[1] / coarse.shape[1]
    ys, xs = np.indices(part.shape)
    away = np.stack([((xs + 0.5) / sx - x - 0.5) ** 2 + ((ys + 0.5) / sy - y - 0.5) ** 2 for y, x in peaks])
    nearest = away.argmin(0)
    things = [part & (nearest == index) for index in range(len(peaks))]
    return things if all(thing.sum() >= LEAST * part.sum() for thing in things) else [part]


def _peaks(heat: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of the maxima that are told apart by a valley, the highest first: levels are lowered until they meet."""
    order = np.argsort(heat, axis=None)[::-1]
    owner = np.full(heat.shape, -1)
    tops: list[tuple[int, int]] = []
    merged: dict[int, int] = {}

    def root(index: int) -> int:
        while index in merged:
            index = merged[index]
        return index

    for flat in order:
        y, x = divmod(int(flat), heat.shape[1])
        if heat[y, x] < 0.3:
            break
        around = {root(int(n)) for n in owner[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].ravel() if n >= 0}
        if not around:
            owner[y, x] = len(tops)
            tops.append((y, x))
            continue
        first = min(around)  # the higher peak: it came first
        owner[y, x] = first
        for other in around - {first}:
            if heat[y, x] > VALLEY * heat[tops[other]]:
                merged[other] = first
    return [top for index, top in enumerate(tops) if index not in merged and heat[top] >= 0.5]
