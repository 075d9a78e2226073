"""One HTML file that shows a finished run anywhere: the overlay video inside it, words, scores and level over time."""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

from taco.io.files import atomic
from taco.palette import colour_of
from taco.view.draw import VERDICT_COLOURS, VERDICT_WORDS

HEARD = 4  # words of a frame that the page shows
PAGE = Path(__file__).with_name("view.html")


def write_page(path: Path, name: str, records: list[dict], picture: Path) -> Path:
    """Write the page. records: lines of ``objects.jsonl``. picture: the overlay, MP4 or PNG, taken into the file."""
    frames = [
        {
            "t": round(record["time_s"] - records[0]["time_s"], 3),
            "v": record["verdict"],
            "s": record.get("sounding_score", 0.0),
            "l": record.get("level_dbfs", -200.0),
            "h": record["heard"][:HEARD],
            "o": [{"i": thing["id"], "w": thing["label"], "p": thing["score"]} for thing in record.get("objects", [])],
        }
        for record in records
    ]
    ids = {thing["i"] for frame in frames for thing in frame["o"]}
    colours = {str(id): "#{:02x}{:02x}{:02x}".format(*colour_of(id)) for id in sorted(ids)}
    verdicts = {word: "#{:02x}{:02x}{:02x}".format(*colour) for word, colour in VERDICT_COLOURS.items()} | {"skipped": "#9aa1ad"}
    data = base64.b64encode(picture.read_bytes()).decode()
    moving = picture.suffix == ".mp4"
    tag = (
        f'<video controls src="data:video/mp4;base64,{data}"></video>' if moving else f'<img src="data:image/png;base64,{data}">'
    )
    page = PAGE.read_text(encoding="utf-8").replace("@TITLE@", html.escape(name))
    parts = {"@FRAMES@": frames, "@COLOURS@": colours, "@VERDICTS@": verdicts, "@OUTCOMES@": VERDICT_WORDS}
    for key, value in parts.items():
        page = page.replace(key, json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))
    with atomic(path) as part:
        part.write_text(page.replace("@PICTURE@", tag), encoding="utf-8")
    return path
