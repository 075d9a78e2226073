"""What ``taco segment`` writes: JSON lines, mask pictures, a summary; and resuming.

Files are written in a hidden folder inside the results' folder and get their final names when all are complete.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from taco.errors import MediaError
from taco.io import scratch
from taco.io.files import error_line
from taco.palette import palette
from taco.types import SoundingObject, SoundingScene, VideoFrame

Record = dict[str, Any]  # a line of objects.jsonl
Summary = dict[str, Any]  # of one input, as in run.json
PART = ".taco-part"
PART_FILES = re.compile(r"lock|run\.json|objects\.jsonl")  # in it, beside the folder masks
MASK_FILES = re.compile(r"\d{6,}\.png")


def run_lengths(mask: np.ndarray) -> list[int]:
    """(H, W) bool -> lengths of runs of 0 and 1 in turn, down the columns, first of 0: COCO's uncompressed RLE."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(length) for length in np.diff(ends, prepend=0)]


def mask_from_runs(counts: list[int], size: tuple[int, int]) -> np.ndarray:
    """The (H, W) bool mask of ``run_lengths``."""
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size, order="F")


def scene_record(scene: SoundingScene, index: int) -> Record:
    """A scene as the line of ``objects.jsonl``; without maps and factors."""
    return {
        "frame": index,
        "time_s": round(scene.stamp_ns / 1e9, 6),
        "stamp_ns": int(scene.stamp_ns),
        "size": list(map(int, scene.size)),
        "window_ns": [int(scene.window_start_ns), int(scene.window_end_ns)],
        "level_dbfs": round(float(scene.level_dbfs), 2),
        "sounding_score": round(float(scene.sounding_score), 4),
        "verdict": scene.verdict,
        "heard": [[word, round(p, 4)] for word, p in scene.heard],
        "mask": f"masks/{index:06d}.png" if scene.objects else None,
        "objects": [
            {
                "id": int(found.id),
                "label": found.label,
                "labels": [[word, round(float(score), 4)] for word, score in found.labels],
                "score": round(float(found.score), 4),
                "box": list(map(int, found.box)),
                "centre": [round(part, 2) for part in found.centre],
                "area": int(found.mask.sum()),
                "rle": run_lengths(found.mask),
            }
            for found in scene.objects
        ],
        "stage_ms": {name: round(float(value), 2) for name, value in scene.stage_ms.items()},
    }


def scene_from_record(record: Record) -> SoundingScene | None:
    """The scene of a line; None for a skipped frame. MediaError where it is not a line of this version."""
    try:
        return None if record["verdict"] == "skipped" else _parse_scene(record)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        got = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise MediaError(
            f"objects.jsonl: wanted a line of taco segment of this version, got {got}; make it again with --overwrite"
        ) from None


def _parse_scene(record: Record) -> SoundingScene:
    rows, columns = record["size"]
    start_ns, end_ns = record["window_ns"]
    return SoundingScene(
        record["stamp_ns"],
        (rows, columns),
        start_ns,
        end_ns,
        record["level_dbfs"],
        record["sounding_score"],
        record["verdict"],
        objects=tuple(_parse_object(item, (rows, columns)) for item in record["objects"]),
        stage_ms=record["stage_ms"],
        heard=tuple((word, p) for word, p in record["heard"]),
    )


def _parse_object(item: Record, size: tuple[int, int]) -> SoundingObject:
    x, y, width, height = item["box"]
    labels = tuple((word, score) for word, score in item["labels"])
    return SoundingObject(item["id"], labels, item["score"], mask_from_runs(item["rle"], size), (x, y, width, height))


def skipped_record(frame: VideoFrame, index: int, why: str) -> Record:
    """The line of a frame without usable sound."""
    head = {"frame": index, "time_s": round(frame.stamp_ns / 1e9, 6), "stamp_ns": int(frame.stamp_ns)}
    tail: Record = {"verdict": "skipped", "reason": why, "heard": [], "mask": None, "objects": []}
    return {**head, **tail, "size": list(frame.size)}


def without_masks(record: Record) -> Record:
    """A line without masks and stage times: small enough to keep one per frame of a long recording in memory."""
    objects = [{name: item[name] for name in ("id", "label", "score")} for item in record.get("objects", [])]
    return {name: value for name, value in record.items() if name not in ("objects", "tracks", "stage_ms")} | {"objects": objects}


def summarize_records(name: str, records: list[Record], folder: Path) -> Summary:
    """Counts of verdicts; the share of frames in which each word was outlined, and in which it was heard best, falling."""
    outlined: collections.Counter[str] = collections.Counter()
    best_heard: collections.Counter[str] = collections.Counter()
    for record in records:
        outlined.update({item["label"] for item in record.get("objects", [])})
        best_heard.update(word for word, _ in record["heard"][:1] if record["verdict"] != "silent")

    def shares(counts: collections.Counter[str]) -> dict[str, float]:
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return {word: round(count / len(records), 4) for word, count in ranked}

    verdicts = dict(collections.Counter(record["verdict"] for record in records))
    head = {"name": name, "out": str(folder), "frames": len(records), "verdicts": verdicts}
    return {**head, "words": shares(outlined), "heard": shares(best_heard)}


class Results:
    """The folder of one input's results, safe against interruption. Writing happens within a ``with`` block.

    folder: where the final files go.
    fingerprint: everything that the results depend on; an unfinished run with the same one is continued, any other
        is thrown away.
    records: the lines so far, ``without_masks``.
    resumed: how many of them an interrupted run left.
    """

    def __init__(self, folder: str | Path, fingerprint: dict[str, object]):
        self.folder = Path(folder)
        self.part = self.folder / PART
        self.fingerprint = json.loads(json.dumps(fingerprint, default=str))
        self.records: list[Record] = []
        self.resumed = 0

    def finished_summary(self) -> Summary | None:
        """The summary of complete results of the same inputs and settings; None where there are none."""
        run, lines = self._run(self.folder), self.folder / "objects.jsonl"
        complete = run.get("fingerprint") == self.fingerprint and lines.exists()
        return run.get("summary") if complete else None

    @staticmethod
    def _run(folder: Path) -> dict[str, Any]:
        """What run.json in a folder says; empty where there is none of ours."""
        path = folder / "run.json"
        with contextlib.suppress(OSError, ValueError):
            run = json.loads(path.read_text()) if path.is_file() else None
            if isinstance(run, dict) and isinstance(run.get("fingerprint"), dict):
                return run
        return {}

    def _refuse_strange(self) -> None:
        """MediaError where a name that this run will write to or delete is a link, or holds what no run of ours made."""
        if self.folder.is_symlink() and self.folder.lstat().st_uid != os.geteuid():
            raise MediaError(f"{self.folder}: wanted a folder, got a link of another user; choose another -o")
        old = self.folder / "masks"
        if scratch.require_own(old, folder=True):
            if not self._run(self.folder):
                raise MediaError(f"{old}: wanted masks of an earlier run, got a folder without its run.json; choose another -o")
            scratch.require_names(old, MASK_FILES)
        if scratch.require_own(self.part, folder=True):
            scratch.require_names(self.part, PART_FILES, ("masks",))
            scratch.require_names(self.part / "masks", MASK_FILES)

    def _remove_part(self) -> None:
        scratch.remove_files(self.part / "masks", MASK_FILES)
        scratch.remove_files(self.part, PART_FILES)

    def finished_differently(self) -> str:
        """What complete results of the folder were made with and these are not, such as "inputs, end"; "" where none are."""
        found = self._run(self.folder).get("fingerprint", {})
        if (self.folder / "objects.jsonl").exists() and found.get("format") == self.fingerprint.get("format"):
            return ", ".join(name for name, value in self.fingerprint.items() if found.get(name) != value)
        return ""

    def __enter__(self) -> Results:
        with _disk_errors(self.folder):
            self._refuse_strange()
            self.folder.mkdir(parents=True, exist_ok=True)
            self.part.mkdir(exist_ok=True)
            # Not created anew: another run may hold it.
            self._lock = open(os.open(self.part / "lock", os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "a")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise MediaError(f"{self.folder}: another run is writing here; wait for it or choose another -o") from None
            self.records = self._unfinished_records()
            self.resumed = len(self.records)
            if not self.resumed:
                scratch.remove_files(self.part / "masks", MASK_FILES)
                (self.part / "objects.jsonl").unlink(missing_ok=True)
            (self.part / "masks").mkdir(exist_ok=True)
            self._write_run({"fingerprint": self.fingerprint})
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            self._lines = open(os.open(self.part / "objects.jsonl", flags, 0o666), "a")
        return self

    def _write_run(self, run: dict[str, Any]) -> None:
        with open(scratch.create(self.part / "run.json"), "w") as out:
            json.dump(run, out, indent=1)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._lines.close()
        self._lock.close()
        if not self.records:
            self._remove_part()
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _unfinished_records(self) -> list[Record]:
        """The lines of an unfinished run with the same fingerprint; a last line that a crash cut off is removed from the file."""
        found: list[Record] = []
        whole = 0
        if self._run(self.part).get("fingerprint") != self.fingerprint:
            return []
        with contextlib.suppress(OSError, ValueError, KeyError), (self.part / "objects.jsonl").open("rb") as lines:
            for line in lines:
                record = json.loads(line)
                if not line.endswith(b"\n") or (record["mask"] and not (self.part / record["mask"]).exists()):
                    break
                found.append(without_masks(record))
                whole += len(line)
        if found:
            os.truncate(self.part / "objects.jsonl", whole)
        return found

    def read(self) -> Iterator[Record]:
        """All lines so far, complete, from the disk."""
        self._lines.flush()
        with (self.part / "objects.jsonl").open() as lines:
            for line in lines:
                yield json.loads(line)

    @property
    def last_ns(self) -> int | None:
        """Stamp of the last frame done; None before the first."""
        return int(self.records[-1]["stamp_ns"]) if self.records else None

    def add(self, scene: SoundingScene, tracks: Iterable[Record] = ()) -> Record:
        """Write a scene and its tracks as plain values: its mask picture first, then its line."""
        record = scene_record(scene, len(self.records))
        record["tracks"] = list(tracks)
        if record["mask"]:
            picture = Image.fromarray(scene.instance_mask())
            picture.putpalette(palette([item.label for item in scene.objects]))
            with _disk_errors(self.folder), open(scratch.create(self.part / record["mask"]), "wb") as out:
                picture.save(out, "PNG", optimize=False)
        return self.add_record(record)

    def add_record(self, record: Record) -> Record:
        """Write a line."""
        with _disk_errors(self.folder):
            self._lines.write(json.dumps(record) + "\n")
            self._lines.flush()
        self.records.append(without_masks(record))
        return record

    def finish(self, summary: Summary) -> None:
        """Give the results their final names; ``objects.jsonl`` last, so that its presence means complete."""
        with _disk_errors(self.folder):
            self._lines.close()
            self._refuse_strange()  # once more: hours may have passed
            (self.folder / "objects.jsonl").unlink(missing_ok=True)
            self._write_run({"fingerprint": self.fingerprint, "summary": summary})
            os.replace(self.part / "run.json", self.folder / "run.json")  # first: masks without it are not taken for ours
            scratch.remove_files(self.folder / "masks", MASK_FILES)
            os.replace(self.part / "masks", self.folder / "masks")
            os.replace(self.part / "objects.jsonl", self.folder / "objects.jsonl")
            self._remove_part()


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaError(f"cannot write in {folder}: {error_line(error)}") from None
