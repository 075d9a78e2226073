"""Placing cut-outs on photographs (natural sizes, hidden parts, one light) or painted walls.

All chance (light, sizes, places, what hides what) comes from the scene's random generator and is recorded in the scene.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from taco.evaluation.composed.sources import CatalogueEntry, SceneSources

# All numbers here are ours: they define the data set, so changing one makes other scenes.
LIGHTS, LIGHT_ODDS = ("day", "backlit", "night"), (0.6, 0.2, 0.2)
# Shares of the picture that an object takes, before parts are hidden, by the number of objects; drawn evenly in the logarithm.
SHARES = {1: (0.04, 0.45), 2: (0.04, 0.25)}
SHARE_OF_MANY = (0.035, 0.14)
SMALLEST, LARGEST = 0.03, 0.6  # what is in view of an object takes at least and at most so much of the picture
OUTSIDE = 0.3  # at most this share of an object's box lies beyond the picture's edge
HIDING_ODDS, HIDDEN = 0.25, 0.4  # of a scene in which one object may hide another; at most this share of it
APART = 0.02  # share of an object that another may cover in other scenes
TRIES = 200
Placed = tuple[np.ndarray, tuple[int, int]]  # (resized (h, w, 4) cut-out, (top, left))


@dataclass(frozen=True, slots=True)
class SceneObject:
    """An object as one frame shows it.

    word: what it is called, "" for silent objects without a word.
    source: of its picture, as in the catalogue.
    sounding: does it make the sound?
    mask: (H, W) bool, the part of it that is in view.
    hidden: share of the object, in [0, 1], behind another object or beyond the edge of the scene's canvas.
    """

    word: str
    source: str
    sounding: bool
    mask: np.ndarray
    hidden: float = 0.0


@functools.cache
def backgrounds() -> dict[str, tuple[str, ...]]:
    """Sources of photographs by split, as shipped."""
    lines = (Path(__file__).parent / "backgrounds.csv").read_text().splitlines()
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    return {split: tuple(row["source"] for row in rows if row["split"] == split) for split in ("val", "test")}


class NaturalCanvas:
    """A photograph with objects on it.

    objects: (entry, mask (h, w) bool of what is in view of it, hidden share in [0, 1]) in the order of ``shown``.
    image: (h, w, 3) float32 in [0, 255].
    light: one of ``LIGHTS``.
    source: of the photograph.
    """

    def __init__(
        self, shown: Sequence[CatalogueEntry], sources: SceneSources, size: tuple[int, int], split: str, rng: np.random.Generator
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
        self.objects = []
        solid = [_mask(cutout, corner, size) for cutout, corner in placed]
        for number, (entry, (cutout, _)) in enumerate(zip(shown, placed)):
            front = np.any(solid[number + 1 :], 0) if number + 1 < len(solid) else np.zeros(size, bool)
            mask = solid[number] & ~front
            self.objects.append((entry, mask, 1 - mask.sum() / max((cutout[..., 3] > 127).sum(), 1)))

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
        """One camera for objects and photograph."""
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


def _placed(cutouts: Sequence[np.ndarray], size: tuple[int, int], rng: np.random.Generator) -> list[Placed]:
    """[(resized (h, w, 4) float32 cut-out, (top, left))], back to front."""
    low, high = SHARES.get(len(cutouts), SHARE_OF_MANY)
    hiding = len(cutouts) > 1 and rng.random() < HIDING_ODDS
    best: list[Placed] = []
    best_missing = math.inf
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


def _somewhere(cutout: np.ndarray, share: float, size: tuple[int, int], rng: np.random.Generator) -> Placed:
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


def _faults(masks: Sequence[np.ndarray], whole: Sequence[np.ndarray], hiding: bool) -> float:
    """0 where every object is in view as it should be, else how much is missing."""
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


def _inside(shape: tuple[int, ...], corner: tuple[int, int], size: tuple[int, ...]) -> tuple[slice, slice, tuple[slice, slice]]:
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


class SceneCanvas:
    """A canvas, the masks of the objects on it, and a camera that pans and zooms a little.

    shown: the objects, the first ``sounding`` of which sound. painted: soft walls in place of a photograph. size: (height,
    width) px of the camera. wide: leave room for the camera to move.
    """

    def __init__(
        self,
        shown: Sequence[CatalogueEntry],
        sounding: int,
        sources: SceneSources,
        size: tuple[int, int],
        split: str,
        rng: np.random.Generator,
        *,
        painted: bool,
        wide: bool,
    ):
        self._size = size
        height, width = (round(side * 1.25) if wide else side for side in size)
        self.source, self.light = "", "day"
        self._objects: list[tuple[CatalogueEntry, bool, np.ndarray, float]] = []
        if painted:
            self._canvas = painted_wall(height, width, rng)
            for number, (entry, (left, top, right, bottom)) in enumerate(zip(shown, _slots(len(shown), width, height, rng))):
                mask = self._paint(sources.cutout(entry.source), left, top, right, bottom, rng)
                self._objects.append((entry, number < sounding, mask, 0.0))
        else:
            # The first objects lie in front half of the time, so that what sounds is sometimes the hidden one.
            order = range(len(shown)) if rng.random() < 0.5 else range(len(shown))[::-1]
            canvas = NaturalCanvas([shown[n] for n in order], sources, (height, width), split, rng)
            placed = dict(zip(order, canvas.objects))
            self._objects = [(placed[n][0], n < sounding, *placed[n][1:]) for n in range(len(shown))]
            self._canvas, self.source, self.light = canvas.image, canvas.source, canvas.light
        self._pan = rng.uniform(0.2, 0.8, (2, 2)) if wide else None  # from, to: shares of the free margin
        self._zoom: Sequence[float] = rng.uniform(1.0, 1.12, 2).tolist() if wide else (1.0, 1.0)
        if painted:
            # One light for cut-outs and background, as one camera would see them.
            self._canvas = np.clip(self._canvas * rng.uniform(0.85, 1.1) + rng.uniform(-8, 8), 0, 255).astype(np.float32)

    def _paint(self, rgba: np.ndarray, left: int, top: int, right: int, bottom: int, rng: np.random.Generator) -> np.ndarray:
        """Paste within the box, resized and perhaps mirrored; returns the (h, w) bool mask on the canvas."""
        if rng.random() < 0.5:
            rgba = rgba[:, ::-1]
        scale = min((right - left) / rgba.shape[1], (bottom - top) / rgba.shape[0]) * rng.uniform(0.75, 0.98)
        width, height = (max(2, round(side * scale)) for side in rgba.shape[1::-1])
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        small = cv2.resize(rgba.astype(np.float32), (width, height), interpolation=way).clip(0, 255)
        x = int(rng.integers(left, max(left + 1, right - width)))
        y = int(rng.integers(top, max(top + 1, bottom - height)))
        alpha = small[..., 3:] / 255
        patch = self._canvas[y : y + height, x : x + width]
        patch[:] = alpha * small[..., :3] + (1 - alpha) * patch
        mask = np.zeros(self._canvas.shape[:2], bool)
        mask[y : y + height, x : x + width] = alpha[..., 0] > 0.5
        return mask

    def look(self, share: float, rng: np.random.Generator) -> tuple[np.ndarray, tuple[SceneObject, ...]]:
        """What the camera sees at a share of its way in [0, 1]: (H, W, 3) uint8 and the objects in view."""
        height, width = self._size
        if self._pan is None:
            image, masks = self._canvas, [mask for _, _, mask, _ in self._objects]
        else:
            smooth = share * share * (3 - 2 * share)
            zoom = self._zoom[0] + smooth * (self._zoom[1] - self._zoom[0])
            free = np.array(self._canvas.shape[1::-1]) - np.array((width, height)) / zoom
            corner = (self._pan[0] + smooth * (self._pan[1] - self._pan[0])) * free
            turn = np.array([[1 / zoom, 0, corner[0]], [0, 1 / zoom, corner[1]]])
            image = cv2.warpAffine(self._canvas, turn, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            way = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
            masks = [
                cv2.warpAffine(mask.astype(np.uint8), turn, (width, height), flags=way) > 0 for _, _, mask, _ in self._objects
            ]
        noisy = image + rng.normal(0, 2.0, image.shape).astype(np.float32)
        seen = zip(self._objects, masks)
        objects = tuple(SceneObject(e.word, e.source, sounding, mask, hidden) for (e, sounding, _, hidden), mask in seen)
        return np.clip(noisy, 0, 255).astype(np.uint8), objects


def _slots(count: int, width: int, height: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) that do not overlap, in random order."""
    columns = max(1, math.ceil(count / 2)) if count > 2 else count
    rows = 2 if count > 2 else 1
    if count == 1:  # somewhere, not always in the middle
        side = rng.uniform(0.45, 0.8)
        w, h = round(width * side), round(height * min(1.0, side + 0.15))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        return [(x, y, x + w, y + h)]
    xs = [round(width * n / columns) for n in range(columns + 1)]
    ys = [round(height * n / rows) for n in range(rows + 1)]
    boxes = [(xs[c], ys[r], xs[c + 1], ys[r + 1]) for r in range(rows) for c in range(columns)]
    order = rng.permutation(len(boxes))[:count]
    return [boxes[int(n)] for n in order]


def painted_wall(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) float32 in [0, 255]: soft coloured blotches and fine grain, without objects."""
    base = np.float32(rng.uniform(70, 190)) + rng.uniform(-20, 20, 3).astype(np.float32)
    image = np.broadcast_to(base, (height, width, 3)).copy()
    for cells, strength in ((2, 35), (5, 18), (24, 6)):
        blotches = rng.normal(0, strength, (cells, cells + 1, 1)) + rng.normal(0, strength / 4, (cells, cells + 1, 3))
        blotches = blotches.astype(np.float32)
        image += cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255)
