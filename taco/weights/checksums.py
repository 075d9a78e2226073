"""SHA-256 of weights files: pinned in the code or recorded at first use, beside the file, and checked after."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

from taco.errors import WeightsError
from taco.package_files import sha256

NAME = "sha256.json"


def _read(folder: Path) -> dict:
    try:
        found = json.loads((folder / NAME).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def recorded(path: Path) -> dict:
    """The record of a file: "sha256", "size" in bytes, "mtime_ns"; empty where there is none."""
    found = _read(path.parent).get(path.name)
    return found if isinstance(found, dict) and "sha256" in found else {}


def record(path: Path, digest: str | None = None) -> str:
    """Record a file as it is now; returns its SHA-256. A folder that can't be written to keeps none."""
    digest = digest or sha256(path)
    found, stat = _read(path.parent), path.stat()
    found[path.name] = {"sha256": digest, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{NAME}.", delete=False) as out:
            json.dump(found, out, indent=1, sort_keys=True)
        os.chmod(out.name, 0o644)
        os.replace(out.name, path.parent / NAME)
    return digest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, from its record where size and time of change are the recorded ones."""
    known, stat = recorded(path), path.stat()
    if known.get("size") == stat.st_size and known.get("mtime_ns") == stat.st_mtime_ns:
        return known["sha256"]
    return sha256(path)


def check(path: Path, thorough: bool = False, pinned: str = "") -> str:
    """SHA-256 of a weights file; recorded the first time. WeightsError where it differs from the pinned one or the record.

    thorough: read the file even where its size and time of change are the recorded ones. pinned: what it must be,
    whatever the record says.
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
