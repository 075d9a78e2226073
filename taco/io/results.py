"""What ``taco segment`` writes: JSON lines, mask pictures, a summary; and resuming.

Files are written in a hidden folder inside the results' folder and get their final names when all are complete.
"""

from __future__ import annotations

import collections
import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from taco.errors import MediaError
from taco.io.files import error_line
from taco.palette import palette
from taco.types import SoundingObject, SoundingScene, VideoFrame

Record = dict[str, Any]  # a line of objects.jsonl
Summary = dict[str, Any]  # of one input, as in run.json
PART = ".taco-part"


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
        with contextlib.suppress(OSError, ValueError, KeyError):
            run: dict[str, Summary] = json.loads((self.folder / "run.json").read_text())
            if run["fingerprint"] == self.fingerprint and (self.folder / "objects.jsonl").exists():
                return run["summary"]
        return None

    def __enter__(self) -> Results:
        with _disk_errors(self.folder):
            self.part.mkdir(parents=True, exist_ok=True)
            self._lock = (self.part / "lock").open("a")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise MediaError(f"{self.folder}: another run is writing here; wait for it or choose another -o") from None
            self.records = self._unfinished_records()
            self.resumed = len(self.records)
            if not self.resumed:
                for old in self.part.iterdir():
                    if old.name != "lock":
                        shutil.rmtree(old) if old.is_dir() else old.unlink()
            (self.part / "masks").mkdir(exist_ok=True)
            (self.part / "run.json").write_text(json.dumps({"fingerprint": self.fingerprint}))
            self._lines = (self.part / "objects.jsonl").open("a")
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._lines.close()
        self._lock.close()
        if not self.records:
            shutil.rmtree(self.part, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _unfinished_records(self) -> list[Record]:
        """The lines of an unfinished run with the same fingerprint; a last line that a crash cut off is removed from the file."""
        found: list[Record] = []
        whole = 0
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads((self.part / "run.json").read_text())["fingerprint"] != self.fingerprint:
                return []
            with (self.part / "objects.jsonl").open("rb") as lines:
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
            picture.putpalette(palette())
            with _disk_errors(self.folder):
                picture.save(self.part / record["mask"], optimize=False)
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
            (self.folder / "objects.jsonl").unlink(missing_ok=True)
            shutil.rmtree(self.folder / "masks", ignore_errors=True)
            os.replace(self.part / "masks", self.folder / "masks")
            (self.part / "run.json").write_text(json.dumps({"fingerprint": self.fingerprint, "summary": summary}, indent=1))
            os.replace(self.part / "run.json", self.folder / "run.json")
            os.replace(self.part / "objects.jsonl", self.folder / "objects.jsonl")
            shutil.rmtree(self.part, ignore_errors=True)


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MediaError(f"cannot write in {folder}: {error_line(error)}") from None
