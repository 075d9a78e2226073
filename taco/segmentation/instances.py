"""Several objects in one region, separated by peaks of a map or by queries.

Ours; the paper gives the whole region one label. ``single_objects`` is for models without a segmenter. With one, each query is
a single object, with a mask and a vector in the space of the words: every query that carries enough of the region gets a mask
of its own, and a label by image and sound together. All numbers are ours, chosen on val.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from taco.segmentation.maps import OBJECT_LEVEL
from taco.segmentation.parts import ALIKE, SHARE, TOUCHES

LEAST_AREA = 0.1  # of the largest object, below which a part is no object of its own
VALLEY = 0.75  # two peaks are two objects where the map between them falls below this share of the lower one
MIN_SHARE = 0.05  # of the region's evidence that a query must carry
MIN_INSIDE = 0.5  # of a query's own mask that must lie in the region
SAME_OBJECT_OVERLAP = 0.6  # overlap, as a share of the smaller mask, from which two queries are one object


def single_objects(mask: np.ndarray, coarse: np.ndarray, least_area: int = 1) -> list[np.ndarray]:
    """(H, W) bool mask and its (h, w) map -> masks of the single objects, the largest first; they share no pixel.

    Parts that do not touch are objects of their own. A part over which the map has two peaks with a valley between them is
    divided, each pixel going to the nearer peak. Small parts go to the nearest object.
    """
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    if count < 2:
        return []
    area = stats[:, cv2.CC_STAT_AREA].astype(float)
    area[0] = 0
    great = [part for part in range(1, count) if area[part] >= max(LEAST_AREA * area.max(), least_area)]
    objects = [item for part in great for item in _by_peaks(labels == part, coarse)] or [mask]
    rest = mask & ~np.any(objects, 0)
    if rest.any():
        away = np.stack([cv2.distanceTransform((~item).astype(np.uint8), cv2.DIST_L2, 3) for item in objects])
        nearest = away.argmin(0)
        objects = [item | (rest & (nearest == index)) for index, item in enumerate(objects)]
    return sorted(objects, key=lambda item: -int(item.sum()))


def _by_peaks(part: np.ndarray, coarse: np.ndarray) -> list[np.ndarray]:
    """A connected part divided among the map's peaks in it; undivided where there is one."""
    inside = cv2.resize(part.astype(np.float32), coarse.shape[::-1], interpolation=cv2.INTER_AREA)
    peaks = _peaks(np.where(inside > 0.2, coarse, 0))
    if len(peaks) < 2:
        return [part]
    sy, sx = part.shape[0] / coarse.shape[0], part.shape[1] / coarse.shape[1]
    ys, xs = np.indices(part.shape)
    away = np.stack([((xs + 0.5) / sx - x - 0.5) ** 2 + ((ys + 0.5) / sy - y - 0.5) ** 2 for y, x in peaks])
    nearest = away.argmin(0)
    objects = [part & (nearest == index) for index in range(len(peaks))]
    return objects if all(item.sum() >= LEAST_AREA * part.sum() for item in objects) else [part]


def _peaks(heat: np.ndarray) -> list[tuple[int, int]]:
    """(row, column) of the maxima with a valley between them, the highest first; found by lowering the level until they meet."""
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


@dataclass(frozen=True, slots=True)
class ChosenQueries:
    """The objects in a region, strongest first.

    queries: their indices.
    shares: (n,) in [0, 1], of the region's evidence.
    """

    queries: list[int]
    shares: Tensor


def choose_queries(region: Tensor, masks: Tensor, strength: Tensor) -> ChosenQueries:
    """The queries that are objects of the region; none where no query fits.

    region: (H, W) bool.
    masks: (Q, H, W) probabilities.
    strength: (Q,) in [0, 1], share of the sounding prompt in each query.
    A query counts if it carries enough of the region's evidence and lies mostly in it; of queries with nearly the same mask the
    strongest stays.
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
        if all(overlap < SAME_OBJECT_OVERLAP for overlap in overlaps):
            kept.append(query)
    return ChosenQueries(kept, evidence[kept])


def sounding_instances(heat: np.ndarray, masks: np.ndarray, scores: np.ndarray, least_area: float = 1.0) -> list[int]:
    """The instances of a word that lie where its map is, strongest first; none where no instance does.

    heat: (h, w) in [0, 1], the word's map.
    masks: (Q, h, w) bool.
    scores: (Q,) in [0, 1]; of instances with nearly the same mask the surest stays.
    least_area: pixels.
    The rule is that of the parts of an outline (``chosen_parts``): the map must touch an instance, and both the strength and the
    mean strength of the map in it must be a share of those in the strongest instance. Strength counts over OBJECT_LEVEL.
    """
    area = masks.sum((1, 2))
    kept: list[int] = []
    for one in np.argsort(-scores, kind="stable").tolist():
        overlaps = ((masks[one] & masks[other]).sum() / max(1, min(area[one], area[other])) for other in kept)
        if area[one] >= max(1.0, least_area) and all(overlap < SAME_OBJECT_OVERLAP for overlap in overlaps):
            kept.append(one)
    over = np.maximum(heat - OBJECT_LEVEL, 0)
    strength = {one: float(over[masks[one]].sum()) for one in kept if heat[masks[one]].max() >= TOUCHES}
    if not strength:
        return []
    best = max(strength, key=lambda one: strength[one])
    density = ALIKE * strength[best] / area[best]
    chosen = [one for one in strength if strength[one] >= SHARE * strength[best] and strength[one] / area[one] >= density]
    return sorted(chosen, key=lambda one: -strength[one])


def mask_overlap(one: np.ndarray, other: np.ndarray) -> float:
    """IoU in [0, 1] of two masks (h, w) bool; 0 where both are empty."""
    return float((one & other).sum() / max(1, (one | other).sum()))


def split_region(region: Tensor, masks: Tensor, strength: Tensor) -> list[Tensor]:
    """(H, W) bool masks of the chosen queries within the region, one of them at most a pixel (arguments as above)."""
    winner = (masks * strength.view(-1, 1, 1)).argmax(0)
    return [region & (masks[index] > 0.5) & (winner == index) for index in range(len(masks))]


def label_scores(image: Tensor, sound: Tensor) -> tuple[Tensor, float]:
    """(M,) probabilities of words, and the agreement in [0, 1] of the image of a part with the sound.

    image, sound: (M,) logits of the words. The probabilities are the geometric mean of both; the
    agreement is its sum before it is scaled to 1 (Bhattacharyya's coefficient).
    """
    joint = 0.5 * (image.log_softmax(-1) + sound.log_softmax(-1))
    return joint.softmax(-1), float(joint.logsumexp(-1).exp().clamp(0, 1))
