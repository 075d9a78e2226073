"""Rewrite every table of the documents that the code prints; tests compare them: settings, words, models, figures, the tree."""

import contextlib
import io
import re
from pathlib import Path

from taco.cli import main
from taco_ros.parameter_schema import parameter_schema
from taco_ros.parameters import parameter_file
from test.test_docs import tree

ROOT = Path(__file__).parent.parent


def printed(*arguments: str) -> str:
    """The standard output of a ``taco`` command."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(list(arguments))
    return out.getvalue()


def put(page: str, table: str) -> None:
    """Replace the table of a page that begins with the same line as ``table``, up to the next empty line."""
    path, head = ROOT / page, table.strip().splitlines()[0]
    text, found = re.subn(rf"(?m)^{re.escape(head)}\n(?:.+\n?)*", lambda _: table.strip() + "\n", path.read_text())
    if found != 1:
        raise SystemExit(f"{page}: wanted one table that begins with {head!r}, got {found}")
    path.write_text(text)


if __name__ == "__main__":
    put("docs/settings.md", printed("config", "--markdown"))
    put("docs/words.md", printed("words", "--markdown"))
    put("docs/models.md", printed("weights", "list", "--markdown"))
    (ROOT / "config/taco.yaml").write_text(parameter_file())
    (ROOT / "config/taco.schema.json").write_text(parameter_schema())
    page, mark = ROOT / "docs/performance.md", "## Figures"
    text, figures = page.read_text(), printed("bench", "pipeline", "--from", str(ROOT / "docs/performance.json"))
    page.write_text(f"{text[: text.index(mark)]}{mark}\n\n{figures.strip()}\n")
    design = ROOT / "docs/design.md"
    text = design.read_text()
    design.write_text(text[: text.index("## The tree")] + "## The tree\n\n" + tree() + "\n")
