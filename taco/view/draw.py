"""Outlined objects with their words over the image, and contact sheets."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from taco.checks import check_array
from taco.errors import ShapeError
from taco.palette import colour_of
from taco.types import SoundingScene, WordScore

Box = tuple[int, int, int, int]  # x, y, width, height in px
Colour = tuple[int, int, int]  # red, green, blue from 0 to 255
SPECK = 40  # squared line widths: outlines of smaller areas are left out
DARK = (22, 24, 29)
LIGHT = (236, 238, 242)
VERDICT_COLOURS = {
    "sounding": (72, 199, 116),
    "silent": (140, 146, 158),
    "unknown": (240, 180, 60),
    "not_in_view": (240, 140, 70),
    "no_mask": (96, 165, 250),
}
VERDICT_WORDS = {
    "sounding": "outlined",
    "silent": "silence",
    "unknown": "none of the words listened for",
    "not_in_view": "nothing in view fits",
    "no_mask": "in view, no outline found",
    "skipped": "no usable sound",
}


def overlay(rgb: np.ndarray, scene: SoundingScene, *, alpha: float = 0.42, strip: bool = True) -> np.ndarray:
    """The image with every object of the scene filled, outlined and named.

    rgb: (H, W, 3) uint8. scene: of the same size. alpha: opacity of the fill in [0, 1].
    strip: add the level meter, what is recognised and the verdict along the bottom. An object without an outline gets its
    box in dashes. Returns a new (H, W, 3) uint8.
    ShapeError where the scene belongs to an image of another size.
    """
    check_array("overlay.rgb", rgb, 3, np.uint8, 3)
    if tuple(scene.size) != rgb.shape[:2]:
        raise ShapeError(f"overlay: wanted a scene of {rgb.shape[:2]} px, got one of {tuple(scene.size)}")
    out = rgb.copy()
    line = max(1, round(min(rgb.shape[:2]) / 220))
    weakest_first = sorted(scene.objects, key=lambda item: item.score)
    anchors = {id(item): _fill(out, item.mask, item.box, colour_of(item.label), alpha, line) for item in weakest_first}
    taken: list[Box] = []
    if strip:
        taken.append(_strip(out, scene))
    for item in reversed(weakest_first):
        chip = _chip(f"{item.label} {item.score:.2f}", _text_size(rgb.shape), colour_of(item.label))
        taken.append(_place(out, chip, anchors[id(item)], taken))
    return out


def heat(rgb: np.ndarray, values: np.ndarray, alpha: float = 0.6) -> np.ndarray:
    """A map of (h, w) values in [0, 1], stretched over the image: (H, W, 3) uint8, warm where high."""
    check_array("heat.values", values, 2)
    height, width = rgb.shape[:2]
    wide = cv2.resize(np.nan_to_num(values.astype(np.float32)), (width, height), interpolation=cv2.INTER_LINEAR)
    wide = np.clip(wide, 0.0, 1.0)
    hot = cv2.cvtColor(cv2.applyColorMap((wide * 255).astype(np.uint8), cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    weight = (alpha * (0.25 + 0.75 * wide))[..., None]
    blend: np.ndarray = rgb * (1 - weight) + hot * weight
    return blend.round().astype(np.uint8)


def contact_sheet(
    images: Sequence[np.ndarray], captions: Sequence[str], columns: int = 4, tile_width: int = 320, title: str = ""
) -> np.ndarray:
    """Pictures in rows with a caption below each: (H, W, 3) uint8.

    images: (h, w, 3) uint8 each, any sizes. captions: one a picture; long ones are wrapped, newlines are kept.
    columns: pictures a row. tile_width: width of each in px. ShapeError for no picture or unequal counts.
    """
    if not images or len(images) != len(captions) or columns < 1:
        raise ShapeError(
            f"contact_sheet: wanted a caption for every picture, got {len(images)} pictures, {len(captions)} captions"
        )
    size, gap = 14, 8
    wrap = max(8, int(tile_width / (size * 0.58)))
    lines = [[line for part in text.split("\n") for line in textwrap.wrap(part, wrap) or [""]] for text in captions]
    tile_height = max(1, round(tile_width * float(np.median([i.shape[0] / i.shape[1] for i in images]))))
    cell_height = tile_height + round(size * 1.35) * max(map(len, lines)) + gap
    columns = min(columns, len(images))
    top = gap + (round(size * 2.2) if title else 0)
    sheet = Image.new("RGB", (gap + columns * (tile_width + gap), top + -(-len(images) // columns) * (cell_height + gap)), DARK)
    pen = ImageDraw.Draw(sheet)
    if title:
        pen.text((gap, gap), title, font=font(round(size * 1.3)), fill=LIGHT)
    for index, (image, rows) in enumerate(zip(images, lines)):
        x, y = gap + (index % columns) * (tile_width + gap), top + (index // columns) * (cell_height + gap)
        tile = fitted(image, tile_width, tile_height)
        sheet.paste(Image.fromarray(tile), (x + (tile_width - tile.shape[1]) // 2, y + (tile_height - tile.shape[0]) // 2))
        for row, text in enumerate(rows):
            pen.text((x, y + tile_height + 4 + round(row * size * 1.35)), text, font=font(size), fill=LIGHT)
    return np.asarray(sheet)


def fitted(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """The (h, w, 3) uint8 image scaled to fit into width x height px, its proportions kept."""
    check_array("fitted.image", image, 3, np.uint8, 3)
    scale = min(width / image.shape[1], height / image.shape[0])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


@functools.lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font at ``size`` px: the same letters on every machine."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)  # the bitmap font comes only without a size
    return found


def _text_size(shape: tuple[int, ...]) -> int:
    return int(np.clip(shape[0] / 26, 11, 40))


def _fill(out: np.ndarray, mask: np.ndarray, box: Box, colour: Colour, alpha: float, line: int) -> Box:
    """Blend the mask into ``out`` and draw its outline: the colour between two thin dark lines, seen on any ground.

    Returns the box of the largest part, where the label belongs.
    """
    x, y, w, h = box
    part = out[y : y + h, x : x + w]
    inside = mask[y : y + h, x : x + w]
    if not inside.any():
        _dashes(out, box, colour, line)
        return box
    tinted = cv2.addWeighted(part, 1 - alpha, np.full_like(part, colour), alpha, 0.0)
    np.copyto(part, tinted, where=inside[..., None])
    edges, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(x, y))
    # Specks and pinholes keep their fill but get no line of their own: they would hide the shape.
    areas = [cv2.contourArea(edge) for edge in edges]
    edges = [edge for edge, area in zip(edges, areas) if area >= min(SPECK * line**2, max(areas))]
    cv2.drawContours(out, edges, -1, DARK, line + 2, cv2.LINE_AA)
    cv2.drawContours(out, edges, -1, colour, line, cv2.LINE_8)
    x, y, w, h = cv2.boundingRect(max(edges, key=cv2.contourArea))
    return x, y, w, h


def _dashes(out: np.ndarray, box: Box, colour: Colour, line: int) -> None:
    """Draw the box in dashes: something is there, but its outline is not known."""
    x, y, w, h = box
    step = 6 * line
    right, bottom = x + w - 1, y + h - 1
    for a in range(0, w, 2 * step):
        ends = (x + a, min(x + a + step, right))
        for row in (y, bottom):
            cv2.line(out, (ends[0], row), (ends[1], row), DARK, line + 2)
            cv2.line(out, (ends[0], row), (ends[1], row), colour, line)
    for a in range(0, h, 2 * step):
        ends = (y + a, min(y + a + step, bottom))
        for column in (x, right):
            cv2.line(out, (column, ends[0]), (column, ends[1]), DARK, line + 2)
            cv2.line(out, (column, ends[0]), (column, ends[1]), colour, line)


@functools.lru_cache(maxsize=512)
def _chip(text: str, size: int, colour: Colour) -> np.ndarray:
    """(h, w, 3) uint8: the text on a plate of the colour; black or white letters, whichever stand out more."""
    left, top, right, bottom = font(size).getbbox(text)
    pad = max(2, size // 4)
    ascent, descent = font(size).getmetrics()
    plate = Image.new("RGB", (int(right - left) + 2 * pad, ascent + descent + pad), colour)
    ImageDraw.Draw(plate).text((pad - left, pad // 2), text, font=font(size), fill=ink_on(colour))
    return np.asarray(plate)


def ink_on(colour: Colour) -> Colour:
    """Black or white: the one with more contrast against ``colour`` (relative luminance of WCAG 2)."""
    linear = [(c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4) for c in colour]
    return (0, 0, 0) if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.179 else (255, 255, 255)


def _place(out: np.ndarray, chip: np.ndarray, box: Box, taken: Sequence[Box]) -> Box:
    """Paste the chip above its box, or at the nearest height where it covers no other; returns its rectangle."""
    height, width = out.shape[:2]
    chip = chip[:height, :width]
    h, w = chip.shape[:2]
    x = int(np.clip(box[0], 0, width - w))
    wanted = int(np.clip(box[1] - h - 2, 0, height - h))
    rows = sorted(range(height - h + 1), key=lambda y: abs(y - wanted))
    free = (y for y in rows if not any(x < tx + tw and tx < x + w and y < ty + th and ty < y + h for tx, ty, tw, th in taken))
    y = next(free, wanted)
    out[y : y + h, x : x + w] = chip
    return x, y, w, h


def format_words(words: Sequence[WordScore], most: int = 3) -> str:
    """The first words for people: "Rain 0.83, Wind 0.41"."""
    return ", ".join(f"{word} {score:.2f}" for word, score in words[:most])


def sentence(scene: SoundingScene, most: int = 3) -> str:
    """What is recognised and what became of it, for people: "heard: Rain 0.83 - nothing in view fits"."""
    outcome = VERDICT_WORDS[scene.verdict]
    if scene.verdict == "sounding":
        outcome += f" {scene.sounding_score:.2f}"
    if scene.verdict == "silent" or not most:
        return outcome
    return f"heard: {format_words(scene.heard, most) or 'something'} - {outcome}"


def _strip(out: np.ndarray, scene: SoundingScene) -> Box:
    """Level meter (-60 to 0 dBFS), what is recognised and the verdict along the bottom; returns the rectangle used."""
    height, width = out.shape[:2]
    size = max(9, round(_text_size(out.shape) * 0.8))
    tall = min(height, round(size * 1.7))
    area = out[height - tall :]
    area[:] = (area * 0.28 + np.array(DARK) * 0.72).round().astype(np.uint8)
    pad = max(2, tall // 4)
    meter = max(8, width // 8)
    colour = VERDICT_COLOURS[scene.verdict]
    full = int(np.clip((scene.level_dbfs + 60) / 60, 0, 1) * meter)
    area[pad : tall - pad, pad : pad + meter] = (70, 74, 84)
    area[pad : tall - pad, pad : pad + full] = colour
    level = f"{scene.level_dbfs:.0f} dBFS" if scene.level_dbfs > -200 else "no sound"
    # As much as there is room for: the words go first, then the level; the verdict stays.
    lines = [f"{level}  {sentence(scene, most)}" for most in (3, 2, 1)] + [sentence(scene, most) for most in (1, 0)]
    room = width - 3 * pad - meter
    text = next((line for line in lines if font(size).getlength(line) <= room), lines[-1])
    picture = Image.fromarray(area)
    ImageDraw.Draw(picture).text((2 * pad + meter, tall // 2), text, font=font(size), fill=LIGHT, anchor="lm")
    area[:] = np.asarray(picture)
    return 0, height - tall, width, tall
