"""Self-contained HTML pages from templates."""

from __future__ import annotations

import base64
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from taco.io.files import atomic
from taco.io.files import frames as images
from taco.palette import colour_of
from taco.view.draw import VERDICT_COLOURS, VERDICT_WORDS

BEST_WORDS = 4  # of the sound, that the page shows of a frame
EXPLAINED = {
    "not_in_view": "a word of the list is heard, but nothing in the picture fits it",
    "no_mask": "it is heard and seen, but no outline was found; its box is drawn in dashes",
    "unknown": "something is heard that is not in the list of words",
    "silent": "too quiet to look for anything",
}
JPEG_SIDE, JPEG_QUALITY = 320, 82  # px and libjpeg's quality of pictures inside a page: ours, small but clear


@functools.cache
def _environment() -> jinja2.Environment:
    loader = jinja2.FileSystemLoader(Path(__file__).with_name("templates"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    environment.filters["jpeg"] = jpeg_url
    return environment


def render(template: str, **values: Any) -> str:
    """The filled template of ``taco/view/templates``; every value is escaped."""
    return _environment().get_template(template).render(**values)


def jpeg_url(rgb: np.ndarray) -> str:
    """A data URL of an (H, W, 3) uint8 picture as JPEG, its longer side at most JPEG_SIDE px."""
    scale = min(1.0, JPEG_SIDE / max(rgb.shape[:2]))
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else rgb
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def write_page(path: Path, name: str, records: Sequence[dict[str, Any]], picture: Path) -> Path:
    """Write the page of one run: the overlay inside it, words, scores and level over time.

    records: lines of ``objects.jsonl``. picture: the overlay, MP4 or PNG, taken into the file.
    """
    frames = [
        {
            "t": round(record["time_s"] - records[0]["time_s"], 3),
            "v": record["verdict"],
            "s": record.get("sounding_score", 0.0),
            "l": record.get("level_dbfs", -200.0),
            "h": record["heard"][:BEST_WORDS],
            "o": [{"i": item["id"], "w": item["label"], "p": item["score"]} for item in record.get("objects", [])],
        }
        for record in records
    ]
    words = sorted({item["w"] for frame in frames for item in frame["o"]})
    page = render(
        "view.html.j2",
        title=name,
        moving=picture.suffix == ".mp4",
        picture=base64.b64encode(picture.read_bytes()).decode(),
        poster=_poster(picture, frames) if picture.suffix == ".mp4" else None,
        frames=frames,
        colours={word: _hex(colour_of(word)) for word in words},
        verdicts={word: _hex(colour) for word, colour in VERDICT_COLOURS.items()} | {"skipped": "#9aa1ad"},
        outcomes=VERDICT_WORDS,
        explained=EXPLAINED,
    )
    with atomic(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def _poster(video: Path, frames: Sequence[dict[str, Any]]) -> np.ndarray:
    """The overlay's image with the highest score: what a browser shows before the video plays."""
    best = max(frames, key=lambda frame: (bool(frame["o"]), frame["s"]))
    shown = next(images(video, best["t"]), None) or next(images(video))
    return shown.rgb


def _hex(colour: tuple[int, ...]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
