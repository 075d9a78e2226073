"""SHA-256 of weights files, pinned or recorded at first use, and checked."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TypedDict

from taco.errors import WeightsError
from taco.package_files import alone_in, sha256

NAME = "sha256.json"  # in each folder of weights: file name -> Record


class Record(TypedDict, total=False):
    """A file as it was when last read; empty where it never was.

    sha256: hexadecimal.
    size: bytes.
    mtime_ns: time of the last change.
    """

    sha256: str
    size: int
    mtime_ns: int


def _read(folder: Path) -> dict[str, Record]:
    try:
        found = json.loads((folder / NAME).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def recorded(path: Path) -> Record:
    """The record of a file."""
    found = _read(path.parent).get(path.name)
    return found if isinstance(found, dict) and isinstance(found.get("sha256"), str) else {}


def record(path: Path, digest: str | None = None) -> str:
    """Record a file as it is now; returns its SHA-256. In a folder that can't be written to nothing is recorded."""
    digest, stat = digest or sha256(path), path.stat()
    with contextlib.suppress(OSError), alone_in(path.parent):
        found = _read(path.parent)
        found[path.name] = {"sha256": digest, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        part = path.with_name(f".{NAME}.part")
        part.write_text(json.dumps(found, indent=1, sort_keys=True))
        os.replace(part, path.parent / NAME)
    return digest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, from its record where size and time of change are the recorded ones."""
    known, stat = recorded(path), path.stat()
    if known.get("size") == stat.st_size and known.get("mtime_ns") == stat.st_mtime_ns:
        return known["sha256"]
    return sha256(path)


def check(path: Path, thorough: bool = False, pinned: str = "") -> str:
    """SHA-256 of a weights file, recorded the first time. WeightsError where it differs from the pinned one or the record.

    thorough: read the file even where its size and time of change are the recorded ones.
    pinned: the only SHA-256 that is accepted, whatever the record says.
    """
    known = recorded(path)
    digest = sha256(path) if thorough or not known else file_sha256(path)
    if pinned and digest != pinned:
        raise WeightsError(f"{path}: wanted SHA-256 {pinned[:16]}..., got {digest[:16]}...")
    if not pinned and known and digest != known["sha256"]:
        raise WeightsError(
            f"{path}: wanted the SHA-256 recorded at first use {known['sha256'][:16]}..., got {digest[:16]}...; "
            f"fetch it again, or delete {path.parent / NAME} if you replaced it on purpose"
        )
    fresh = known.get("sha256") == digest and known.get("mtime_ns") == path.stat().st_mtime_ns
    return digest if fresh else record(path, digest)
