"""Where the sound comes from, measured by a microphone array, against where the objects are.

Only the azimuth counts: arrays on robots are flat, and their elevation means little. Azimuths are in rad, 0 ahead of the camera,
positive to its right.
"""

from __future__ import annotations

import dataclasses
import math

import cv2
import numpy as np

from taco.config import DirectionConfig
from taco.geometry import Camera
from taco.types import SoundingObject, SoundingScene

STEEP = 0.2  # ours: shorter horizontal shares of a direction (steeper than 78 degrees) have no azimuth
PART = 0.1  # ours: smaller shares of a mask are specks, not things of their own


def azimuths(vectors: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions (n, 3) in the camera's optical frame and their weights (n,) -> azimuths and weights of those that have one."""
    across = np.hypot(vectors[:, 0], vectors[:, 2])
    flat = across > STEEP * np.linalg.norm(vectors, axis=1)
    return np.arctan2(vectors[flat, 0], vectors[flat, 2]), weights[flat]


def from_fixed_mount(vectors: np.ndarray, yaw_deg: float) -> np.ndarray:
    """Directions (n, 3) of an array (x forward, y left, z up) -> in the optical frame of a level camera.

    yaw_deg: heading of the array's x axis, counter-clockwise from the camera's, seen from above.
    """
    yaw = math.radians(yaw_deg)
    forward = vectors[:, 0] * math.cos(yaw) - vectors[:, 1] * math.sin(yaw)
    left = vectors[:, 0] * math.sin(yaw) + vectors[:, 1] * math.cos(yaw)
    return np.stack([-left, -vectors[:, 2], forward], 1)


def support(spans: np.ndarray, directions: np.ndarray, weights: np.ndarray, tolerance: float) -> np.ndarray:
    """How well the directions support things, (n,) in [0, 1]: 1 for as much as the strongest direction has.

    spans: (n, 2) azimuths of the things' left and right ends. directions, weights: (m,), m > 0. tolerance: standard deviation of
    a direction, rad. Each direction votes for what lies near it, so that a few stray ones change little.
    """
    middle, half = spans.mean(1), (spans[:, 1] - spans[:, 0]) / 2
    votes = _nearness(_apart(middle, directions) - half[:, None], tolerance) @ weights
    strongest = (_nearness(_apart(directions, directions), tolerance) @ weights).max()
    return np.asarray(np.minimum(1.0, votes / strongest))


def directed(
    scene: SoundingScene,
    camera: Camera,
    directions: tuple[np.ndarray, np.ndarray],
    config: DirectionConfig,
    least_score: float,
    rectified: bool = False,
) -> SoundingScene:
    """The scene where objects that the sound does not come from lose score, best first.

    directions: azimuths and weights (n,), from ``azimuths``. What falls below ``least_score`` is left out, also a part of a
    mask that holds several things (two dogs, one barks). Where nothing is left the verdict is not_in_view.
    """
    if not scene.objects or not len(directions[0]) or not config.weight:
        return scene
    kept = []
    for item in scene.objects:
        parts = _parts(item)
        spans = np.array([_span(camera, part, rectified) for part in parts])
        if not np.isfinite(spans).all():
            kept.append(item)  # at a pixel that the lens model does not reach
            continue
        agreement = support(spans, *directions, math.radians(config.tolerance_deg))
        scores = item.score * (1.0 - config.weight * (1.0 - agreement))
        staying = scores >= min(least_score, item.score)
        left = [part for part, stays in zip(parts, staying) if stays]
        if left:
            kept.append(_reduced(item, left, len(left) == len(parts), float(scores.max())))
    objects = tuple(sorted(kept, key=lambda item: -item.score))
    best = objects[0].score if objects else 0.0
    return dataclasses.replace(
        scene,
        objects=objects,
        sounding_score=min(scene.sounding_score, best),
        verdict=scene.verdict if objects else "not_in_view",
    )


def _apart(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(n,), (m,) angles -> (n, m) how far they are from each other, 0 to pi."""
    return np.asarray(np.abs((one[:, None] - other[None] + np.pi) % (2 * np.pi) - np.pi))


def _nearness(apart: np.ndarray, tolerance: float) -> np.ndarray:
    return np.asarray(np.exp(-0.5 * (np.maximum(apart, 0.0) / tolerance) ** 2))


def _parts(item: SoundingObject) -> list[np.ndarray]:
    """(H, W) bool masks of the things in an object's mask that do not touch; of its box where it has no mask."""
    if not item.mask.any():
        mask = np.zeros(item.mask.shape, bool)
        x, y, w, h = item.box
        mask[y : y + h, x : x + w] = True
        return [mask]
    count, labels, stats, _ = cv2.connectedComponentsWithStats(item.mask.astype(np.uint8), connectivity=8)
    least = PART * stats[1:, cv2.CC_STAT_AREA].sum()
    large = [label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= least]
    return [labels == label for label in large] if len(large) > 1 else [item.mask]


def _span(camera: Camera, mask: np.ndarray, rectified: bool) -> tuple[float, float]:
    """Azimuths of the left and right end of a mask, at its mean row; NaN where the lens model has no answer."""
    ys, xs = np.nonzero(mask)
    rays = camera.rays(np.array([[xs.min(), ys.mean()], [xs.max(), ys.mean()]]), mask.shape, rectified)
    left, right = np.arctan2(rays[:, 0], rays[:, 2])
    return float(left), float(right)


def _reduced(item: SoundingObject, parts: list[np.ndarray], whole: bool, score: float) -> SoundingObject:
    if whole:
        return dataclasses.replace(item, score=score)
    smaller = SoundingObject.from_mask(np.logical_or.reduce(parts), item.labels, score, item.id)
    assert smaller is not None  # a part has pixels
    return dataclasses.replace(smaller, sound_map=item.sound_map)
