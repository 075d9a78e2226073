"""Fetching one large file: resumed where it broke off, with progress, never half a file under its final name."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from taco.errors import WeightsError

CHUNK = 1 << 20
ATTEMPTS = 5
TIMEOUT_S = 60


class Progress:
    """A line that is rewritten on a terminal, and a line every tenth elsewhere, on standard error."""

    def __init__(self, name: str, stream=None):
        self.name, self.stream = name, stream or sys.stderr
        self.live = self.stream.isatty()
        self.started, self.shown, self.first = time.monotonic(), 0.0, None

    def __call__(self, done: int, total: int | None) -> None:
        """done, total: bytes; total is None where the server does not tell."""
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        share = done / total if total else 0.0
        finished = total is not None and done >= total
        if not finished and (now - self.shown < 0.2 if self.live else share - self.shown < 0.1):
            return
        self.shown = now if self.live else share
        speed = (done - self.first) / max(now - self.started, 1e-3)
        text = f"{self.name}: {done / 1e6:.0f} MB"
        if total:
            text = f"{self.name}: {100 * share:3.0f} % of {total / 1e6:.0f} MB, {speed / 1e6:.1f} MB/s"
            text += f", {(total - done) / speed:.0f} s left" if speed > 0 and not finished else ""
        end = "\n" if finished or not self.live else ""
        print(f"\r{text:<78}" if self.live else text, end=end, file=self.stream, flush=True)


def download(url: str, path: Path, progress: Callable[[int, int | None], None] | None = None, pause_s: float = 1.0) -> None:
    """Fetch ``url`` into ``path``.

    A broken transfer is tried again and goes on where it stopped, also in a later call, as long as the
    server's file has not changed. WeightsError where it can't be had.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part, tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")
    progress = progress or Progress(path.name)
    with _locked(path):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _continue(url, part, tag, progress)
                break
            except urllib.error.HTTPError as error:
                if error.code < 500 or attempt == ATTEMPTS:
                    raise WeightsError(f"{path.name}: wanted the file from {url}, got HTTP {error.code} {error.reason}") from None
            except (OSError, http.client.HTTPException) as error:
                if attempt == ATTEMPTS:
                    reason = getattr(error, "reason", None) or error
                    raise WeightsError(
                        f"{path.name}: wanted the file from {url}, got {reason}; {_size(part) / 1e6:.0f} MB are kept, "
                        "run the same command again to go on"
                    ) from None
            time.sleep(pause_s * attempt)
        os.replace(part, path)
        tag.unlink(missing_ok=True)


def _continue(url: str, part: Path, tag: Path, progress) -> None:
    have = _size(part)
    headers = {"User-Agent": "taco", "Accept-Encoding": "identity"}
    known = tag.read_text() if tag.is_file() else ""
    if have and known:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    try:
        answer = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing behind what is here already: start over, to be safe
            part.unlink(missing_ok=True)
            raise OSError("the kept part does not fit the server's file") from None
        raise
    with answer:
        kind = answer.headers.get_content_type()
        if kind == "text/html":
            raise WeightsError(f"{part.stem}: wanted a file from {url}, got a web page")
        resumed = answer.status == 206
        length = answer.headers.get("Content-Length")
        total = (have if resumed else 0) + int(length) if length and length.isdigit() else None
        free = shutil.disk_usage(part.parent).free
        if length and length.isdigit() and int(length) > free:
            raise WeightsError(
                f"{part.stem}: wanted {int(length) / 1e6:.0f} MB of free disk in {part.parent}, got {free / 1e6:.0f} MB"
            )
        tag.write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
        done = have if resumed else 0
        with open(part, "ab" if resumed else "wb") as out:
            while block := answer.read(CHUNK):
                out.write(block)
                done += len(block)
                progress(done, total)
        if total is not None and done < total:
            raise OSError(f"the connection broke at {done} of {total} bytes")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


@contextlib.contextmanager
def _locked(path: Path):
    """One process at a time fetches a file."""
    import fcntl

    with open(path.with_name(path.name + ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise WeightsError(f"{path.name}: another process is fetching it; wait for that one") from None
        try:
            yield
        finally:
            path.with_name(path.name + ".lock").unlink(missing_ok=True)
