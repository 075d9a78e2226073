"""Several of a kind: the mask of a word taken apart into the single things in it.

Telling several sounding things apart inside one sounding region (ours; the paper gives all of it one label).

A segmenter's queries are its single things: each has a mask and a vector in the space of the words.
Inside the region, every query that carries enough of it gets its own mask, and its own label by image
and sound together.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

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


MIN_SHARE = 0.05  # of the region's evidence that a query must carry
MIN_INSIDE = 0.5  # of a query's own mask that must lie in the region
SAME_THING = 0.6  # overlap, as a share of the smaller mask, from which two queries mean one thing


@dataclass(frozen=True, slots=True)
class Parts:
    """The things in a region, strongest first. queries: their indices. shares: (n,) of the region's evidence, in [0, 1]."""

    queries: list[int]
    shares: Tensor


def choose_queries(region: Tensor, masks: Tensor, strength: Tensor) -> Parts:
    """The queries that are things of the region; none where no query fits.

    region: (H, W) bool. masks: (Q, H, W) probabilities. strength: (Q,) share of the sounding prompt in
    each query, in [0, 1]. A query counts if it carries enough of the region's evidence and lies mostly
    in it; of queries with nearly the same mask the strongest stays.
    """
    evidence = torch.einsum("qhw,hw->q", masks, region.to(masks.dtype)) * strength
    evidence = evidence / evidence.sum().clamp(min=1e-12)
    solid = masks > 0.5
    area = solid.sum((1, 2))
    inside = (solid & region).sum((1, 2)) / area.clamp(min=1)
    fits = (evidence >= MIN_SHARE) & (inside >= MIN_INSIDE) & (area > 0)
    kept: list[int] = []
    for query in evidence.argsort(descending=True).tolist():
        if not fits[query]:
            continue
        overlaps = ((solid[query] & solid[other]).sum() / torch.minimum(area[query], area[other]) for other in kept)
        if all(overlap < SAME_THING for overlap in overlaps):
            kept.append(query)
    return Parts(kept, evidence[kept])


def share_out(region: Tensor, masks: Tensor, strength: Tensor) -> list[Tensor]:
    """(H, W) bool masks of the chosen queries within the region, one of them at most a pixel (arguments as above)."""
    winner = (masks * strength.view(-1, 1, 1)).argmax(0)
    return [region & (masks[index] > 0.5) & (winner == index) for index in range(len(masks))]


def label_scores(image: Tensor, sound: Tensor) -> tuple[Tensor, float]:
    """(M,) probabilities of words, and the agreement in [0, 1] of what is seen in a part with what is heard.

    image, sound: (M,) logits of the words. The probabilities are the geometric mean of both; the
    agreement is its sum before it is scaled to 1 (Bhattacharyya's coefficient).
    """
    joint = 0.5 * (image.log_softmax(-1) + sound.log_softmax(-1))
    return joint.softmax(-1), float(joint.logsumexp(-1).exp().clamp(0, 1))
