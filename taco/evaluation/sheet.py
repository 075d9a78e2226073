"""A contact sheet of judged frames, the worst first: picture, true outline, published mask, words and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from taco.errors import MediaError
from taco.evaluation.datasets import Sample

CELL, CAPTION, COLUMNS = (320, 240), 34, 5  # px (width, height) of a picture, height of its two lines; pictures a row
TRUE, SILENT, MASK = (60, 255, 60), (255, 90, 90), (255, 200, 0)  # red first


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture: (h, w, 3) uint8 with everything drawn, its score in [0, 1] and two lines of text."""

    picture: np.ndarray
    score: float
    lines: tuple[str, str]


def cell(sample: Sample, mask: np.ndarray, score: float, lines: tuple[str, str]) -> Cell:
    """The frame with its true outline (green), silent things (red, thin) and the published mask (yellow, filled)."""
    image = sample.frame.rgb.astype(np.float32)
    image[mask] = 0.55 * image[mask] + 0.45 * np.array(MASK, np.float32)
    image = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
    for truth, colour, width in ((sample.silent, SILENT, 1), (sample.truth, TRUE, 2)):
        if truth is not None and truth.any():
            found, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(image, found, -1, colour, width)
    scale = min(CELL[0] / image.shape[1], CELL[1] / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return Cell(cv2.resize(image, size, interpolation=cv2.INTER_AREA), score, lines)


def contact_sheet(cells: Sequence[Cell], columns: int = COLUMNS) -> np.ndarray:
    """(h, w, 3) uint8: the cells, lowest score first."""
    cells = sorted(cells, key=lambda one: one.score)
    rows = max(1, -(-len(cells) // columns))
    out = np.full((rows * (CELL[1] + CAPTION), columns * CELL[0], 3), 24, np.uint8)
    for number, one in enumerate(cells):
        top, left = (number // columns) * (CELL[1] + CAPTION), (number % columns) * CELL[0]
        h, w = one.picture.shape[:2]
        out[top : top + h, left : left + w] = one.picture
        for line, text in enumerate(one.lines):
            place = (left + 3, top + CELL[1] + 13 + 15 * line)
            cv2.putText(out, text[:52], place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, (235, 235, 235), 1, cv2.LINE_AA)
    return out


def write_sheet(path: Path, cells: Sequence[Cell]) -> None:
    """Write the sheet as PNG or JPEG; MediaError where that can't be done."""
    good, data = cv2.imencode(path.suffix or ".png", contact_sheet(cells)[..., ::-1])
    if not good:
        raise MediaError(f"--sheet: wanted a picture file such as sheet.png, got {path}")
    try:
        path.write_bytes(data.tobytes())
    except OSError as error:
        raise MediaError(f"--sheet: wanted to write {path}, got {error.strerror}") from None
