"""The demo's page: video, tables, contact sheet, and what to try next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from taco.demo import score
from taco.io.files import atomic
from taco.view.html import render

SCENE_NOTE = (
    "Share of the frames in which the middle of the outline lies on the sounding object, on a silent one; in which rightly "
    "nothing is outlined; in which the right word is the first that is heard, or one of three."
)
METHOD_NOTE = "The rivals on frames that the node answered too. They always outline something, as TACO does in the row forced."
NEXT = (
    (".venv/bin/python -m taco.cli live", "your webcam and microphone, on a page of this machine"),
    (".venv/bin/python -m taco.cli segment clip.mp4 --html", "a video of yours"),
    (".venv/bin/python -m taco.cli explain clip.mp4 --at 3.2", "why something was outlined, or was not"),
    (".venv/bin/python -m taco.cli words", "the words that are listened for"),
)


def write_demo_page(path: Path, report: Mapping[str, Any], rivals: Iterable[str]) -> Path:
    """Write the page beside ``overlay.mp4``, ``poster.jpg``, ``contact_sheet.png`` and ``report.json``, which it shows."""
    tables = [
        _table("The scenes", SCENE_NOTE, report["scenes"], score.SCENE_COLUMNS),
        _table("Beside simpler methods", METHOD_NOTE, score.methods_of(report, rivals), score.METHOD_COLUMNS),
    ]
    page = render("demo.html.j2", last=score.last_line(report), scenes=list(report["scenes"]), tables=tables, commands=NEXT)
    with atomic(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def _table(title: str, note: str, rows: Mapping[str, score.Scores], columns: Mapping[str, str]) -> dict[str, Any]:
    cells = [(name, [score.percent(row[key]) for key in columns]) for name, row in rows.items()]
    return {"title": title, "note": note, "heads": list(columns.values()), "rows": cells}
