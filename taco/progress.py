"""A progress bar on a terminal; elsewhere, as in a log file, a line every ten seconds."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from tqdm import tqdm

LINE_S = 10.0  # between two lines; ours: soon enough to see that it lives, seldom enough for a log


class _Lines(tqdm):  # type: ignore[type-arg]  # at run time it takes none
    """A bar that prints itself as a line."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Print the line; nothing for the empty one that clears a bar."""
        if msg != "":
            print(msg or str(self), file=self.fp, flush=True)

    def close(self) -> None:
        """End without a last line: the result follows."""
        self.disable = True


def progress(name: str, total: int | None = None, done: int = 0, unit: str = "frame") -> tqdm[NoReturn]:
    """A bar on standard error: ``update()`` moves it. done: how many were there before, which do not count for the speed."""
    settings: dict[str, Any] = {"desc": name, "total": total, "initial": done, "unit": unit, "file": sys.stderr}
    settings["unit_scale"] = unit == "B"
    if sys.stderr.isatty():
        return tqdm(leave=False, **settings)
    return _Lines(mininterval=LINE_S, delay=LINE_S, miniters=1, **settings)
