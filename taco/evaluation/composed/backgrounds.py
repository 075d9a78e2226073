"""Things on natural backgrounds: real photographs, natural sizes, hidden parts, one light over all.

What is drawn (light, sizes, places, what hides what) is drawn from the scene's generator and recorded in the scene.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from taco.evaluation.composed.sources import Entry, StampSources

LIGHTS, LIGHT_ODDS = ("day", "backlit", "night"), (0.6, 0.2, 0.2)
# Shares of the picture that a thing takes, before parts are hidden, by the number of things; drawn evenly in the logarithm.
SHARES = {1: (0.04, 0.45), 2: (0.04, 0.25)}
SHARE_OF_MANY = (0.035, 0.14)
SMALLEST, LARGEST = 0.03, 0.6  # what is in view of a thing takes at least and at most so much of the picture
OUTSIDE = 0.3  # at most this share of a thing's box lies beyond the picture's edge
HIDING_ODDS, HIDDEN = 0.25, 0.4  # of a scene in which one thing may hide another; at most this share of it
APART = 0.02  # share of a thing that another may cover in other scenes
TRIES = 200


@functools.cache
def backgrounds() -> dict[str, tuple[str, ...]]:
    """Sources of photographs by split, as shipped."""
    lines = (Path(__file__).parent / "backgrounds.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return {split: tuple(row["source"] for row in rows if row["split"] == split) for split in ("val", "test")}


class NaturalCanvas:
    """A photograph with things on it.

    things: (entry, mask (h, w) bool of what is in view of it, hidden share in [0, 1]) in the order of ``shown``. image: (h, w, 3)
    float32. light: one of ``LIGHTS``. source: of the photograph.
    """

    def __init__(
        self, shown: Sequence[Entry], sources: StampSources, size: tuple[int, int], split: str, rng: np.random.Generator
    ):
        self.source = str(rng.choice(backgrounds()[split]))
        self.light = str(rng.choice(LIGHTS, p=LIGHT_ODDS))
        self.image = cropped(sources.photo(self.source), size, rng)
        placed = _placed([sources.cutout(entry.source) for entry in shown], size, rng)
        if self.light == "backlit":
            self.image = np.clip(self.image * rng.uniform(1.1, 1.35) + 15, 0, 255)
        shade = rng.uniform(0.3, 0.5) if self.light == "backlit" else 1.0
        for cutout, corner in placed:
            self._paste(cutout, corner, shade, rng)
        self._develop(rng)
        self.things = []
        solid = [_mask(cutout, corner, size) for cutout, corner in placed]
        for number, (entry, (cutout, _)) in enumerate(zip(shown, placed)):
            front = np.any(solid[number + 1 :], 0) if number + 1 < len(solid) else np.zeros(size, bool)
            mask = solid[number] & ~front
            self.things.append((entry, mask, 1 - mask.sum() / max((cutout[..., 3] > 127).sum(), 1)))

    def _paste(self, cutout: np.ndarray, corner: tuple[int, int], shade: float, rng: np.random.Generator) -> None:
        """Blend a (h, w, 4) cut-out in, its top left corner at (y, x), in the brightness of its place."""
        ys, xs, inside = _inside(cutout.shape[:2], corner, self.image.shape[:2])
        part = cutout[inside]
        patch = self.image[ys, xs]
        alpha = part[..., 3:] / 255
        solid = part[..., 3] > 127
        colour = part[..., :3]
        if solid.any():  # a third of the way to the mean brightness around it
            gain = (float(patch.mean()) + 20) / (float(colour[solid].mean()) + 20)
            colour = colour * float(np.clip(gain, 0.4, 2.0)) ** 0.33 * shade * rng.uniform(0.92, 1.08)
        patch[:] = alpha * np.clip(colour, 0, 255) + (1 - alpha) * patch

    def _develop(self, rng: np.random.Generator) -> None:
        """One camera for things and photograph."""
        image = cv2.GaussianBlur(self.image, (0, 0), rng.uniform(0.5, 0.9))
        if self.light == "night":
            cast = np.array((0.85, 0.95, 1.15), np.float32) if rng.random() < 0.5 else np.array((1.1, 0.95, 0.75), np.float32)
            image = image * cast * rng.uniform(0.22, 0.4)
            image = image + rng.normal(0, rng.uniform(3, 7), image.shape)
        else:
            image = image * rng.uniform(0.88, 1.08)
        self.image = np.clip(image, 0, 255).astype(np.float32)


def cropped(photo: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A part of the photograph with the picture's shape, at the picture's size (height, width), perhaps mirrored; float32."""
    height, width = photo.shape[:2]
    scale = min(height / size[0], width / size[1]) * rng.uniform(0.75, 1.0)
    h, w = min(height, round(size[0] * scale)), min(width, round(size[1] * scale))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    part = photo[top : top + h, left : left + w]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    way = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    return cv2.resize(np.ascontiguousarray(part), size[::-1], interpolation=way).astype(np.float32)


def _placed(cutouts: Sequence[np.ndarray], size: tuple[int, int], rng: np.random.Generator) -> list:
    """[(resized (h, w, 4) float32 cut-out, (top, left))], back to front."""
    low, high = SHARES.get(len(cutouts), SHARE_OF_MANY)
    hiding = len(cutouts) > 1 and rng.random() < HIDING_ODDS
    best, best_missing = None, math.inf
    for attempt in range(TRIES):
        high_now = low + (high - low) * (1 - attempt / TRIES)  # crowded: smaller
        chosen = []
        for cutout in cutouts:
            share = math.exp(rng.uniform(math.log(low), math.log(high_now)))
            chosen.append(_somewhere(cutout, share, size, rng))
        missing = _faults([_mask(*pair, size) for pair in chosen], [c[..., 3] > 127 for c, _ in chosen], hiding)
        if missing < best_missing:
            best, best_missing = chosen, missing
        if not missing:
            break
    return best


def _somewhere(cutout: np.ndarray, share: float, size: tuple[int, int], rng: np.random.Generator):
    """The cut-out at this share of the picture, mirrored by chance, at a place where little of it is beyond the edge."""
    height, width = size
    if rng.random() < 0.5:
        cutout = cutout[:, ::-1]
    solid = (cutout[..., 3] > 127).mean()
    scale = math.sqrt(share * height * width / (solid * cutout.shape[0] * cutout.shape[1]))
    scale = min(scale, 1.15 * height / cutout.shape[0], 1.15 * width / cutout.shape[1])
    h, w = (max(2, round(side * scale)) for side in cutout.shape[:2])
    over_y, over_x = (round(OUTSIDE * side * (rng.random() < 0.3)) for side in (h, w))
    top = int(rng.integers(min(-over_y, height - h), max(height - h + over_y, -over_y) + 1))
    left = int(rng.integers(min(-over_x, width - w), max(width - w + over_x, -over_x) + 1))
    return _resized(cutout, h, w), (top, left)


def _faults(masks, whole, hiding: bool) -> float:
    """0 where every thing is in view as it should be, else how much is missing."""
    fault, pixels = 0.0, masks[0].size
    for number, (mask, own) in enumerate(zip(masks, whole)):
        front = np.any(masks[number + 1 :], 0) if number + 1 < len(masks) else np.zeros_like(mask)
        seen = (mask & ~front).sum()
        fault += max(0.0, SMALLEST - seen / pixels) + max(0.0, seen / pixels - LARGEST)
        fault += max(0.0, (mask & front).sum() / max(mask.sum(), 1) - (HIDDEN if hiding else APART))
        fault += max(0.0, 1 - mask.sum() / max(own.sum(), 1) - OUTSIDE)
    return fault


def _resized(cutout: np.ndarray, height: int, width: int) -> np.ndarray:
    """(height, width, 4) float32 with a soft edge of a pixel; colours of the outside never bleed in."""
    alpha = cutout[..., 3:].astype(np.float32) / 255
    way = cv2.INTER_AREA if height < cutout.shape[0] else cv2.INTER_CUBIC
    colour = cv2.resize(cutout[..., :3] * alpha, (width, height), interpolation=way)
    soft = cv2.resize(alpha[..., 0], (width, height), interpolation=way).clip(0, 1)
    colour = colour / np.maximum(soft, 1e-3)[..., None]
    edge = cv2.GaussianBlur(soft, (0, 0), 0.8)
    if height > 1.2 * cutout.shape[0]:  # steps of a coarse edge that was enlarged
        edge = cv2.GaussianBlur(soft, (0, 0), 0.5 * height / cutout.shape[0] + 0.3)
        edge = np.clip((edge - 0.5) * 2.5 + 0.4, 0, 1)
    known = soft > 0.3  # spread the colours over the soft edge
    if known.any() and not known.all():
        near = (
            cv2.blur(np.where(known[..., None], colour, 0), (5, 5))
            / np.maximum(cv2.blur(known.astype(np.float32), (5, 5)), 1e-3)[..., None]
        )
        colour = np.where(known[..., None], colour, near)
    return np.dstack([colour.clip(0, 255), edge * 255]).astype(np.float32)


def _inside(shape: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]):
    """(rows, columns) of the picture and (rows, columns) of the cut-out where they meet."""
    (top, left), (h, w) = corner, shape
    ys = slice(max(top, 0), max(min(top + h, size[0]), 0))
    xs = slice(max(left, 0), max(min(left + w, size[1]), 0))
    return ys, xs, (slice(ys.start - top, ys.stop - top), slice(xs.start - left, xs.stop - left))


def _mask(cutout: np.ndarray, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    mask = np.zeros(size, bool)
    ys, xs, inside = _inside(cutout.shape[:2], corner, size)
    mask[ys, xs] = cutout[..., 3][inside] > 127
    return mask
