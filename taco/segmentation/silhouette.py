"""Outlines of whatever stands out in a part of an image: U2-Net-p (Qin et al. 2020), which knows no classes.

The network is the slow step of a mask. A video's outline is carried on where the picture has hardly changed, or has only
moved or come nearer a little as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from taco.engines import Network, load_network
from taco.segmentation.maps import Box
from taco.segmentation.parts import is_clear, part_of

SIDE = 192  # px: whatever the region's shape, the network sees a square, as it was trained
OUTPUT = "1962"  # the third of its seven outputs: on val as good as the first, at 0.3 of the work
MEAN = np.array([0.485, 0.456, 0.406], np.float32)  # of the colours it was trained on
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
THUMB, BLUR = 96, 1.5  # px, longer side of the picture by which changes are seen, and how far it is smoothed against noise
STILL = 1.5  # mean change of the region's brightness, of 255, up to which nothing has moved
MOST_CHANGE = 4.0  # ... up to which, after the picture's movement as a whole, an outline is carried on
DETAIL, STEPS = 4.0, 4  # px, what counts as detail in the search for that movement; steps that make it exact
MOST_SHIFT = 0.2  # of the picture's side, and of its scale: larger movements are not trusted
COVERS = 0.7  # share of the region that is wanted which the one that is carried on must hold
LONGEST = 15  # frames after which an outline is looked for again, but not two of them in one frame: later then, ...
LATEST = 30  # ... at most by so many
MOST_STEPS = 2  # by which a region is made wider


@dataclass(frozen=True, slots=True)
class Outline:
    """One found in a frame and carried on for ``age`` frames. values: (side, side) float32 in [0, 1] of the region ``box``.

    steps: how often the region has been made wider. thumb: the picture, small, that it was found in. wider: the region to look
    at in the next frame, as the thing goes on beyond this one.
    """

    values: np.ndarray
    box: Box
    thumb: np.ndarray
    steps: int = 0
    age: int = 0
    wider: Box | None = None


class Silhouettes:
    """The network. It remembers nothing."""

    def __init__(self, network: Network, output: str = OUTPUT):
        self.network, self.output = network, output

    @classmethod
    def from_file(cls, path: str | Path, engine: str = "auto", threads: int = 1) -> Silhouettes:
        """From ``u2netp.onnx``; MissingPackageError without an engine, WeightsError where the file cannot be used."""
        return cls(load_network(path, [OUTPUT], (SIDE, SIDE), engine=engine, threads=threads))

    def find(self, rgb: np.ndarray, box: Box) -> np.ndarray:
        """(side, side) float32 in [0, 1]: how much each place of the region stands out as part of a thing."""
        x, y, width, height = box
        region = np.ascontiguousarray(rgb[y : y + height, x : x + width])
        size = self.network.size
        shrinks = width * height > size[0] * size[1]
        values = cv2.resize(region, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR).astype(np.float32)
        values = (values / max(1.0, float(values.max())) - MEAN) / DEVIATION  # brought to the brightest value, as in training
        return self.network(values.transpose(2, 0, 1)[None])[self.output][0, 0]


class Follower:
    """The outlines of one frame, by what they are of: found by the network, or carried on where that will do.

    before: those of the frame before, None where there is no such frame. now: those of this one, for the next. In a first frame
    the network may look at several regions of a thing, later at one.
    """

    def __init__(self, silhouettes: Silhouettes, rgb: np.ndarray, before: Mapping[str, Outline] | None = None):
        self.silhouettes, self.rgb, self.before = silhouettes, rgb, before or {}
        self.now: dict[str, Outline] = {}
        self._thumb = _thumb(rgb)
        self._first, self._ran = before is None, False

    def outline(self, box: Box, name: str) -> tuple[np.ndarray, Box]:
        """(side, side) float32 in [0, 1] as ``Silhouettes.find`` gives, and the region it is of: ``box`` or a wider one."""
        before = self.before.get(name)
        moved = None
        if before is not None and before.thumb.shape == self._thumb.shape:
            moved = _moved(before, self._thumb, self.rgb.shape[:2])
        if moved is None or _covered(box, moved) < COVERS:
            return self._keep(name, self._look(box))
        there = before.values, moved
        if before.wider and not self._ran:
            found = self._look(before.wider, before.steps + 1, there)
            if is_clear(found.values, found.box, self.rgb.shape[:2]):
                return self._keep(name, found)
            before = replace(before, steps=MOST_STEPS)
        elif before.age >= (LATEST if self._ran else LONGEST):
            again = _both(moved, box, self.rgb.shape) if before.steps else box
            return self._keep(name, self._look(again, before.steps, there))
        self.now[name] = replace(before, age=before.age + 1, wider=None)
        return there

    def wider(self, box: Box, name: str) -> tuple[np.ndarray, Box] | None:
        """As ``outline``, of a wider region since the thing goes on beyond the one before; None: not now, or not at all."""
        now = self.now[name]
        if now.steps >= MOST_STEPS:
            return None
        if not self._first:
            self.now[name] = replace(now, wider=box)
            return None
        found = self._look(box, now.steps + 1, (now.values, now.box))
        return self._keep(name, found) if is_clear(found.values, box, self.rgb.shape[:2]) else None

    def _look(self, box: Box, steps: int = 0, before: tuple[np.ndarray, Box] | None = None) -> Outline:
        """What the network finds; over the outline ``before``, which is the mean of ``steps``, the mean with that."""
        self._ran = True
        values = self.silhouettes.find(self.rgb, box)
        return Outline(_mean(values, box, *before, steps) if before else values, box, self._thumb, steps)

    def _keep(self, name: str, found: Outline) -> tuple[np.ndarray, Box]:
        self.now[name] = found
        return found.values, found.box


def _thumb(rgb: np.ndarray) -> np.ndarray:
    scale = THUMB / max(rgb.shape[:2])
    size = [max(8, round(side * scale)) for side in rgb.shape[:2]]
    small = cv2.cvtColor(cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32)
    return cv2.GaussianBlur(small, (0, 0), BLUR)


def _moved(before: Outline, thumb: np.ndarray, size: tuple[int, int]) -> Box | None:
    """Where the region of a frame before is now, if the picture there is still the same; None if not."""
    x, y, width, height = before.box
    if _change(before.thumb, thumb, before.box, size) <= STILL:
        return before.box
    rows, columns = thumb.shape
    (right, down, zoom), seen = _movement(before.thumb, thumb)
    if max(abs(right) / columns, abs(down) / rows, abs(zoom - 1)) > MOST_SHIFT:
        return None
    left = size[1] / 2 + (x - size[1] / 2) * zoom + right * size[1] / columns
    top = size[0] / 2 + (y - size[0] / 2) * zoom + down * size[0] / rows
    box = (round(left), round(top), max(1, round(width * zoom)), max(1, round(height * zoom)))
    return box if _change(seen, thumb, box, size) <= MOST_CHANGE else None


def _movement(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """((right px, down px, zoom about the middle) that make the second picture of the first, and the first brought there).

    Phase correlation of the details finds the way roughly, a few Gauss-Newton steps on the brightness (Lucas and Kanade
    1981) exactly, and the zoom.
    """
    rows, columns = one.shape
    middle = np.array([columns - 1, rows - 1]) / 2

    def moved(way: np.ndarray) -> np.ndarray:
        corner = middle * (1 - way[2]) + way[:2]
        matrix = np.float32([[way[2], 0, corner[0]], [0, way[2], corner[1]]])
        return cv2.warpAffine(one, matrix, one.shape[::-1], borderMode=cv2.BORDER_REPLICATE)

    details = [picture - cv2.GaussianBlur(picture, (0, 0), DETAIL) for picture in (one, other)]
    window = cv2.createHanningWindow(one.shape[::-1], cv2.CV_32F)
    shift = np.array(cv2.phaseCorrelate(*details, window)[0])  # writes into what it is given
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


def _change(one: np.ndarray, other: np.ndarray, box: Box, size: tuple[int, int]) -> float:
    """Mean difference of two small pictures in a region of the large one; infinite where none of it is in view."""
    rows, columns = one.shape
    x, y, width, height = box
    top, bottom = (int(round(edge * rows / size[0])) for edge in (max(0, y), y + height))
    left, right = (int(round(edge * columns / size[1])) for edge in (max(0, x), x + width))
    part = np.abs(one - other)[top : max(bottom, top + 1), left : max(right, left + 1)]
    return float(part.mean()) if part.size else np.inf


def _mean(values: np.ndarray, box: Box, before: np.ndarray, there: Box, number: int) -> np.ndarray:
    """The outline (s, s) of the region ``box``; over another (t, t), of the region ``there``, the mean with ``number`` of it."""
    rows, columns = values.shape
    near = part_of(before, (box[0] - there[0], box[1] - there[1], *box[2:]), (there[3], there[2]), (columns, rows))
    x, y = box[0] + (np.arange(columns) + 0.5) * box[2] / columns, box[1] + (np.arange(rows) + 0.5) * box[3] / rows
    over = np.outer((y > there[1]) & (y < there[1] + there[3]), (x > there[0]) & (x < there[0] + there[2]))
    return np.where(over, (values + number * near) / (number + 1), values)


def _both(a: Box, b: Box, shape: tuple[int, ...]) -> Box:
    """The box around two, as far as it is in view."""
    left, top = max(0, min(a[0], b[0])), max(0, min(a[1], b[1]))
    right, bottom = min(shape[1], max(a[0] + a[2], b[0] + b[2])), min(shape[0], max(a[1] + a[3], b[1] + b[3]))
    return (left, top, right - left, bottom - top)


def _covered(box: Box, by: Box) -> float:
    """Share in [0, 1] of a box that lies in another."""
    width = min(box[0] + box[2], by[0] + by[2]) - max(box[0], by[0])
    height = min(box[1] + box[3], by[1] + by[3]) - max(box[1], by[1])
    return max(0, width) * max(0, height) / (box[2] * box[3])
