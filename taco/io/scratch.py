"""Scratch files and folders that are ours: links are not followed, and nothing is deleted that TACO did not make."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from taco.errors import MediaError


def require_own(path: Path, folder: bool = False) -> bool:
    """Whether ``path`` exists; MediaError where it is a link, of another kind, or not this user's own.

    folder: wanted is a folder, else a file that has no second name (a hard link to somebody's file).
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    wanted = "a folder" if folder else "a file"
    if stat.S_ISLNK(found.st_mode):
        got = "a link"
    elif not (stat.S_ISDIR if folder else stat.S_ISREG)(found.st_mode) or (not folder and found.st_nlink > 1):
        got = "a folder" if stat.S_ISDIR(found.st_mode) else "a second name of a file" if found.st_nlink > 1 else "a device"
    elif found.st_uid != os.geteuid():
        got = "one of another user"
    else:
        return True
    raise MediaError(f"{path}: wanted {wanted} that taco made, got {got}; it is left alone, remove it or write elsewhere")


def create(path: Path) -> int:
    """The descriptor of a new, empty file for writing; a file of ours that a stopped run left is replaced.

    MediaError as for ``require_own``; OSError as for ``os.open``.
    """
    if require_own(path):
        path.unlink()
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)


def require_names(folder: Path, files: re.Pattern[str], folders: tuple[str, ...] = ()) -> None:
    """MediaError where the folder, ours, holds anything but our own files of these names, and folders of these names."""
    for entry in _entries(folder):
        if not (entry.name in folders or files.fullmatch(entry.name)):
            raise MediaError(f"{folder}: wanted what taco wrote there, got {entry.name[:80]!r}; write elsewhere with -o")
        require_own(entry, entry.name in folders)


def remove_files(folder: Path, files: re.Pattern[str]) -> None:
    """Delete the files of these names, and the folder where that leaves it empty; nothing else."""
    for entry in _entries(folder):
        if files.fullmatch(entry.name):
            with suppress(OSError):
                entry.unlink()
    with suppress(OSError):
        folder.rmdir()


def _entries(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        yield from sorted(folder.iterdir())
