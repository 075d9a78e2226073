"""Class-agnostic outlines of a region by U2-Net-p (Qin et al. 2020).

The network is the slow step of a mask. In a video an outline is reused where the image has hardly changed, or has only moved
or zoomed a little as a whole. Numbers without another source are ours, chosen on val.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from taco.engines import Network, load_network
from taco.segmentation.maps import Rectangle
from taco.segmentation.parts import crop_map, is_clear

SIDE = 192  # px; regions of any shape are resized to a square, as in training
OUTPUT = "1962"  # the third of its seven outputs: on val as good as the first, with 0.3 of the work
MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of colours in ImageNet, as in training
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
THUMBNAIL_SIDE = 96  # px, longer side of the small image that shows changes
THUMBNAIL_BLUR = 1.5  # px of it, against noise
STILL = 1.5  # mean change of the region's brightness, of 255, up to which nothing has moved, ...
MOST_CHANGE = 4.0  # ... and up to which an outline is reused after the movement of the whole image
DETAIL, STEPS = 4.0, 4  # px, size of the details that show this movement; steps that refine it
MOST_SHIFT = 0.2  # of the image's side, and of its scale: larger movements are not trusted
COVERS = 0.7  # share of the wanted region that the reused one must cover
LONGEST = 15  # frames after which an outline is renewed, if no other is in the same frame, ...
LATEST = 30  # ... and at the latest
MOST_STEPS = 2  # of widening a region


@dataclass(frozen=True, slots=True)
class Outline:
    """An outline of one frame, reused in later ones.

    values: (side, side) float32 in [0, 1].
    box: the region that they are of.
    thumbnail: the image, small, that the outline was found in.
    steps: how often the region has been widened.
    age: frames since it was found.
    wider: the region for the next frame, where the object goes on beyond this one.
    """

    values: np.ndarray
    box: Rectangle
    thumbnail: np.ndarray
    steps: int = 0
    age: int = 0
    wider: Rectangle | None = None


class SilhouetteNetwork:
    """The network; without memory."""

    def __init__(self, network: Network, output: str = OUTPUT):
        self.network, self.output = network, output

    @classmethod
    def from_file(cls, path: str | Path, engine: str = "auto", threads: int = 1) -> SilhouetteNetwork:
        """From ``u2netp.onnx``; MissingPackageError without an engine, WeightsError where the file cannot be used."""
        return cls(load_network(path, [OUTPUT], (SIDE, SIDE), engine=engine, threads=threads))

    def find(self, rgb: np.ndarray, box: Rectangle) -> np.ndarray:
        """(side, side) float32 in [0, 1]: how strongly each place of the region stands out."""
        x, y, width, height = box
        region = np.ascontiguousarray(rgb[y : y + height, x : x + width])
        size = self.network.size
        shrinks = width * height > size[0] * size[1]
        values = cv2.resize(region, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(np.float32)
        values = (values / max(1.0, float(values.max())) - MEAN) / DEVIATION  # scaled by the brightest value, as in training
        found: np.ndarray = np.asarray(self.network(values.transpose(2, 0, 1)[None])[self.output])[0, 0]
        return found


class FrameOutlines:
    """The outlines of one frame by name, found by the network or reused.

    before: outlines of the frame before; None for a first frame, in which the network may run on several regions of an object,
    later on one.
    now: the outlines of this frame, for the next.
    """

    def __init__(self, silhouette_network: SilhouetteNetwork, rgb: np.ndarray, before: Mapping[str, Outline] | None = None):
        self.silhouette_network, self.rgb, self.before = silhouette_network, rgb, before or {}
        self.now: dict[str, Outline] = {}
        self._thumbnail = _thumbnail(rgb)
        self._first, self._ran = before is None, False

    def outline(self, box: Rectangle, name: str) -> tuple[np.ndarray, Rectangle]:
        """(side, side) float32 in [0, 1] as ``Silhouettes.find`` gives, and the region it is of: ``box`` or a wider one."""
        before = self.before.get(name)
        moved = None
        if before is not None and before.thumbnail.shape == self._thumbnail.shape:
            moved = _tracked_rectangle(before, self._thumbnail, self.rgb.shape[:2])
        if before is None or moved is None or _covered_share(box, moved) < COVERS:
            return self._remember(name, self._run_network(box))
        there = before.values, moved
        if before.wider and not self._ran:
            found = self._run_network(before.wider, before.steps + 1, there)
            if is_clear(found.values, found.box, self.rgb.shape[:2]):
                return self._remember(name, found)
            before = replace(before, steps=MOST_STEPS)
        elif before.age >= (LATEST if self._ran else LONGEST):
            again = _bounding_rectangle(moved, box, self.rgb.shape) if before.steps else box
            return self._remember(name, self._run_network(again, before.steps, there))
        self.now[name] = replace(before, age=before.age + 1, wider=None)
        return there

    def wider(self, box: Rectangle, name: str) -> tuple[np.ndarray, Rectangle] | None:
        """As ``outline``, of a wider region since the object goes on beyond the one before; None: not now, or not at all."""
        now = self.now[name]
        if now.steps >= MOST_STEPS:
            return None
        if not self._first:
            self.now[name] = replace(now, wider=box)
            return None
        found = self._run_network(box, now.steps + 1, (now.values, now.box))
        return self._remember(name, found) if is_clear(found.values, box, self.rgb.shape[:2]) else None

    def _run_network(self, box: Rectangle, steps: int = 0, before: tuple[np.ndarray, Rectangle] | None = None) -> Outline:
        """What the network finds; over the outline ``before``, which is the mean of ``steps``, the mean with that."""
        self._ran = True
        values = self.silhouette_network.find(self.rgb, box)
        return Outline(_mean_outline(values, box, *before, steps) if before else values, box, self._thumbnail, steps)

    def _remember(self, name: str, found: Outline) -> tuple[np.ndarray, Rectangle]:
        self.now[name] = found
        return found.values, found.box


def _thumbnail(rgb: np.ndarray) -> np.ndarray:
    scale = THUMBNAIL_SIDE / max(rgb.shape[:2])
    size = [max(8, round(side * scale)) for side in rgb.shape[:2]]
    small = cv2.cvtColor(cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.GaussianBlur(small, (0, 0), THUMBNAIL_BLUR)


def _tracked_rectangle(before: Outline, thumbnail: np.ndarray, size: tuple[int, int]) -> Rectangle | None:
    """The place of an outline's region in a later frame; None where the image there is no longer the same."""
    x, y, width, height = before.box
    if _brightness_change(before.thumbnail, thumbnail, before.box, size) <= STILL:
        return before.box
    rows, columns = thumbnail.shape
    (right, down, zoom), seen = _movement(before.thumbnail, thumbnail)
    if max(abs(right) / columns, abs(down) / rows, abs(zoom - 1)) > MOST_SHIFT:
        return None
    left = size[1] / 2 + (x - size[1] / 2) * zoom + right * size[1] / columns
    top = size[0] / 2 + (y - size[0] / 2) * zoom + down * size[0] / rows
    box = (round(left), round(top), max(1, round(width * zoom)), max(1, round(height * zoom)))
    return box if _brightness_change(seen, thumbnail, box, size) <= MOST_CHANGE else None


def _movement(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((right px, down px, zoom about the middle) that make the second picture of the first, and the first brought there).

    Phase correlation of the details finds the way roughly, a few Gauss-Newton steps on the brightness (Lucas and Kanade
    1981) exactly, and the zoom.
    """
    rows, columns = one.shape
    middle = np.array([columns - 1, rows - 1]) / 2

    def moved(way: np.ndarray) -> np.ndarray:
        corner = middle * (1 - way[2]) + way[:2]
        matrix = np.array([[way[2], 0, corner[0]], [0, way[2], corner[1]]], np.float32)
        brought: np.ndarray = cv2.warpAffine(one, matrix, one.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
        return brought

    details = [picture - cv2.GaussianBlur(picture, (0, 0), DETAIL) for picture in (one, other)]
    window = cv2.createHanningWindow(one.shape[::-1], cv2.CV_32F)
    shift = np.array(cv2.phaseCorrelate(details[0], details[1], window)[0])  # writes into what it is given
    if (np.abs(shift) > MOST_SHIFT * np.array((columns, rows))).any():  # a peak of chance
        shift = np.zeros(2)
    way = np.array([*shift, 1.0])
    inner = np.s_[2:-2, 2:-2]
    y, x = (axis[inner].ravel() for axis in np.indices(one.shape, np.float32) - middle[::-1, None, None])
    for _ in range(STEPS):
        now = moved(way)
        right, down = (cv2.Sobel(now, cv2.CV_32F, *axis, scale=1 / 8)[inner].ravel() for axis in ((1, 0), (0, 1)))
        slopes = np.stack([right, down, right * x + down * y])
        rest = (other - now)[inner].ravel()
        way = way - np.linalg.solve(slopes @ slopes.T + 1e-3 * np.eye(3), slopes @ rest)
    return way, moved(way)


def _brightness_change(one: np.ndarray, other: np.ndarray, box: Rectangle, size: tuple[int, int]) -> float:
    """Mean difference of two small pictures in a region of the large one; infinite where none of it is in view."""
    rows, columns = one.shape
    x, y, width, height = box
    top, bottom = (int(round(edge * rows / size[0])) for edge in (max(0, y), y + height))
    left, right = (int(round(edge * columns / size[1])) for edge in (max(0, x), x + width))
    part = np.abs(one - other)[top : max(bottom, top + 1), left : max(right, left + 1)]
    return float(part.mean()) if part.size else np.inf


def _mean_outline(values: np.ndarray, box: Rectangle, before: np.ndarray, there: Rectangle, number: int) -> np.ndarray:
    """The outline (s, s) of the region ``box``; over another (t, t), of the region ``there``, the mean with ``number`` of it."""
    rows, columns = values.shape
    near = crop_map(before, (box[0] - there[0], box[1] - there[1], *box[2:]), (there[3], there[2]), (columns, rows))
    x, y = box[0] + (np.arange(columns) + 0.5) * box[2] / columns, box[1] + (np.arange(rows) + 0.5) * box[3] / rows
    over = np.outer((y > there[1]) & (y < there[1] + there[3]), (x > there[0]) & (x < there[0] + there[2]))
    return np.where(over, (values + number * near) / (number + 1), values)


def _bounding_rectangle(a: Rectangle, b: Rectangle, shape: tuple[int, ...]) -> Rectangle:
    """The box around two, as far as it is in view."""
    left, top = max(0, min(a[0], b[0])), max(0, min(a[1], b[1]))
    right, bottom = min(shape[1], max(a[0] + a[2], b[0] + b[2])), min(shape[0], max(a[1] + a[3], b[1] + b[3]))
    return (left, top, right - left, bottom - top)


def _covered_share(box: Rectangle, by: Rectangle) -> float:
    """Share in [0, 1] of a box that lies in another."""
    width = min(box[0] + box[2], by[0] + by[2]) - max(box[0], by[0])
    height = min(box[1] + box[3], by[1] + by[3]) - max(box[1], by[1])
    return max(0, width) * max(0, height) / (box[2] * box[3])
