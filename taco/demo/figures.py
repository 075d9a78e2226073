"""The figures of docs/how.md: what ``taco explain`` shows of a moment of the README's picture, a file for each step."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from taco.demo import picture
from taco.errors import TacoError
from taco.io.files import atomic
from taco.pipeline import TacoPipeline
from taco.view import draw
from taco.view.figure import Explanation, FactorView, bars, explain, figure, sound_picture

MOMENTS = (22, 48, 72)  # images of the stream: the cat is heard, the woman is heard, nothing is
EXPLAINED = 1  # of these; the recording of her voice may be shown as a picture (BSD licence)
WIDE, GAP = 480, 8  # px
QUALITY = 82  # of the WebP files
STEPS = ("image", "sound", "factors", "words", "outline", "time", "explain")


def beside(*pictures: np.ndarray) -> np.ndarray:
    """Pictures of one height, side by side with a gap."""
    gap = np.full((pictures[0].shape[0], GAP, 3), draw.DARK, np.uint8)
    return np.concatenate([part for one in pictures for part in (gap, one)][1:], 1)


def tokens_drawn(rgb: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """The image with the cells of its tokens."""
    out = Image.fromarray(rgb)
    pen = ImageDraw.Draw(out)
    for count, size, line in (
        (grid[0], rgb.shape[0], lambda at: (0, at, rgb.shape[1], at)),
        (grid[1], rgb.shape[1], lambda at: (at, 0, at, rgb.shape[0])),
    ):
        for n in range(1, count):
            pen.line(line(round(n * size / count)), fill=draw.LIGHT)
    return np.asarray(out)


def factors_drawn(rgb: np.ndarray, factors: Sequence[FactorView], named: int) -> np.ndarray:
    """Every factor's activation on the image, in rows of four, with the word it looks like most."""
    tiles = []
    for k, view in enumerate(factors):
        tile = Image.fromarray(draw.heat(cv2.resize(rgb, (WIDE // 2, WIDE * rgb.shape[0] // rgb.shape[1] // 2)), view.visual))
        pen = ImageDraw.Draw(tile)
        word = f"{view.seen_words[0][0]}{', heard' if k == named else ''}"
        pen.text((8, 6), word, font=draw.font(15), fill=draw.LIGHT, stroke_width=2, stroke_fill=draw.DARK)
        tiles.append(np.asarray(tile))
    rows = [beside(*tiles[n : n + 4]) for n in range(0, len(tiles), 4)]
    gap = np.full((GAP, rows[0].shape[1], 3), draw.DARK, np.uint8)
    return np.concatenate([part for row in rows for part in (gap, row)][1:], 0)


def drawn(moments: Sequence[Explanation], grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """A picture for each of STEPS; one of the moments is explained."""
    chosen = moments[EXPLAINED]
    rgb, named = chosen.frame.rgb, chosen.factors[chosen.named]
    tall = round(WIDE * rgb.shape[0] / rgb.shape[1])
    outlined = [draw.fitted(draw.overlay(one.frame.rgb, one.scene), WIDE, tall + 60) for one in moments]
    heat, found = draw.heat(rgb, named.visual), draw.overlay(rgb, chosen.scene, strip=False)
    return {
        "image": draw.fitted(tokens_drawn(rgb, grid), WIDE * 3 // 2, tall * 3 // 2),
        "sound": sound_picture(chosen.window, None, (WIDE * 3 // 2, 240)),
        "factors": factors_drawn(rgb, chosen.factors, chosen.named),
        "words": beside(bars(named.seen_words, WIDE, 240), bars(named.heard_words, WIDE, 240)),
        "outline": beside(draw.fitted(heat, WIDE, tall), draw.fitted(found, WIDE, tall)),
        "time": beside(*outlined),
        "explain": figure(chosen, "woman and cat at 4.9 s"),
    }


def make(folder: Path) -> None:
    """Write how-STEP.webp for each of STEPS."""
    pipeline, moments, grid = TacoPipeline(), [], (0, 0)
    for number, (frame, window) in enumerate(picture.stream()):
        if number in MOMENTS:
            moments.append(explain(pipeline, frame, window))
            grid = pipeline.encodings().image(frame).tokens.grid
        else:
            pipeline.process(frame, window)
    if moments[EXPLAINED].named < 0:
        raise TacoError(f"figures: wanted a sound that is recognised in view, got {moments[EXPLAINED].scene.verdict}")
    for step, pixels in drawn(moments, grid).items():
        with atomic(folder / f"how-{step}.webp") as scratch:
            Image.fromarray(pixels).save(scratch, "WEBP", quality=QUALITY, method=6)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
