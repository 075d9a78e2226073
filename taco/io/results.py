"""What ``taco segment`` leaves on disk: a line of JSON a frame, mask pictures, and how an interrupted run goes on.

Work happens in a hidden folder beside the results; the final names appear when everything is whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from taco.errors import MediaError
from taco.io.files import reason
from taco.palette import palette
from taco.types import SoundingObject, SoundingScene

PART = ".taco-part"


def run_lengths(mask: np.ndarray) -> list[int]:
    """(H, W) bool -> lengths of runs of 0 and 1 in turn, down the columns, first of 0: uncompressed RLE as COCO has it."""
    flat = np.concatenate([[False], mask.ravel(order="F"), [not mask[-1, -1]]])
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(ends, prepend=0).tolist()


def mask_of(counts: list[int], size: tuple[int, int]) -> np.ndarray:
    """The (H, W) bool mask of ``run_lengths``."""
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(size, order="F")


def record_of(scene: SoundingScene, index: int) -> dict:
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
                "id": int(thing.id),
                "label": thing.label,
                "labels": [[word, round(float(score), 4)] for word, score in thing.labels],
                "score": round(float(thing.score), 4),
                "box": list(map(int, thing.box)),
                "centre": [round(part, 2) for part in thing.centre],
                "area": int(thing.mask.sum()),
                "rle": run_lengths(thing.mask),
            }
            for thing in scene.objects
        ],
        "stage_ms": {name: round(float(value), 2) for name, value in scene.stage_ms.items()},
    }


def scene_of(record: dict) -> SoundingScene | None:
    """The scene of a line; None for a frame that was skipped. MediaError where the line is none of ours."""
    try:
        return None if record["verdict"] == "skipped" else _scene_of(record)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        said = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise MediaError(
            f"objects.jsonl: wanted a line of taco segment of this version, got {said}; make it again with --overwrite"
        ) from None


def _scene_of(record: dict) -> SoundingScene:
    size = tuple(record["size"])
    things = tuple(
        SoundingObject(
            item["id"], tuple(map(tuple, item["labels"])), item["score"], mask_of(item["rle"], size), tuple(item["box"])
        )
        for item in record["objects"]
    )
    head = (record["stamp_ns"], size, *record["window_ns"], record["level_dbfs"], record["sounding_score"], record["verdict"])
    heard = tuple((word, p) for word, p in record["heard"])
    return SoundingScene(*head, objects=things, stage_ms=record["stage_ms"], heard=heard)


def skipped(stamp_ns: int, index: int, why: str) -> dict:
    """The line of a frame without usable sound."""
    head = {"frame": index, "time_s": round(stamp_ns / 1e9, 6), "stamp_ns": int(stamp_ns)}
    return {**head, "verdict": "skipped", "reason": why, "heard": [], "mask": None, "objects": []}


def light(record: dict) -> dict:
    """A line without masks and times of stages: small enough to keep one of every frame of a long recording."""
    things = [{name: thing[name] for name in ("id", "label", "score")} for thing in record.get("objects", [])]
    return {name: value for name, value in record.items() if name not in ("objects", "tracks", "stage_ms")} | {"objects": things}


class Results:
    """The folder of one input's results, safe against interruption. records: its lines so far, ``light``.

    folder: where the final files go. fingerprint: everything that the results depend on; an unfinished
    run with the same one is continued, any other is thrown away.
    """

    def __init__(self, folder: str | Path, fingerprint: dict):
        self.folder = Path(folder)
        self.part = self.folder / PART
        self.fingerprint = json.loads(json.dumps(fingerprint, default=str))
        self.records: list[dict] = []
        self.resumed = 0

    @property
    def done(self) -> bool:
        """Is a whole result of the same inputs and settings there already?"""
        with contextlib.suppress(OSError, ValueError):
            run = json.loads((self.folder / "run.json").read_text())
            return run["fingerprint"] == self.fingerprint and (self.folder / "objects.jsonl").exists()
        return False

    def __enter__(self) -> Results:
        with _disk(self.folder):
            self.part.mkdir(parents=True, exist_ok=True)
            self._lock = (self.part / "lock").open("a")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._lock.close()
                raise MediaError(f"{self.folder}: another run is writing here; wait for it or choose another -o") from None
            self.records = self._take_up()
            self.resumed = len(self.records)
            if not self.resumed:
                for old in self.part.iterdir():
                    if old.name != "lock":
                        shutil.rmtree(old) if old.is_dir() else old.unlink()
            (self.part / "masks").mkdir(exist_ok=True)
            (self.part / "run.json").write_text(json.dumps({"fingerprint": self.fingerprint}))
            self._lines = (self.part / "objects.jsonl").open("a")
        return self

    def __exit__(self, kind, value, trace) -> None:
        with contextlib.suppress(OSError):
            self._lines.close()
        self._lock.close()
        if not self.records:
            shutil.rmtree(self.part, ignore_errors=True)
            with contextlib.suppress(OSError):
                self.folder.rmdir()

    def _take_up(self) -> list[dict]:
        """What an unfinished run of the same kind left; a last line that a crash cut off is taken out of the file."""
        found, whole = [], 0
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads((self.part / "run.json").read_text())["fingerprint"] != self.fingerprint:
                return []
            with (self.part / "objects.jsonl").open("rb") as lines:
                for line in lines:
                    record = json.loads(line)
                    if not line.endswith(b"\n") or (record["mask"] and not (self.part / record["mask"]).exists()):
                        break
                    found.append(light(record))
                    whole += len(line)
        if found:
            os.truncate(self.part / "objects.jsonl", whole)
        return found

    def read(self) -> Iterator[dict]:
        """All lines so far, whole, from the disk."""
        self._lines.flush()
        with (self.part / "objects.jsonl").open() as lines:
            for line in lines:
                yield json.loads(line)

    @property
    def last_ns(self) -> int | None:
        """Stamp of the last frame done; None before the first."""
        return self.records[-1]["stamp_ns"] if self.records else None

    def add(self, scene: SoundingScene, tracks=()) -> dict:
        """Keep a scene and the ``Track``s after it: its mask picture first, then its line."""
        record = record_of(scene, len(self.records))
        record["tracks"] = [{"id": t.id, "label": t.label, "state": t.state, "age_s": round(t.age_s, 3)} for t in tracks]
        if record["mask"]:
            from PIL import Image

            picture = Image.fromarray(scene.instance_mask())
            picture.putpalette(palette())
            with _disk(self.folder):
                picture.save(self.part / record["mask"], optimize=False)
        return self.add_record(record)

    def add_record(self, record: dict) -> dict:
        """Keep a line."""
        with _disk(self.folder):
            self._lines.write(json.dumps(record) + "\n")
            self._lines.flush()
        self.records.append(light(record))
        return record

    def finish(self, summary: dict) -> None:
        """Give the results their final names; ``objects.jsonl`` last, so that its presence means whole."""
        with _disk(self.folder):
            self._lines.close()
            (self.folder / "objects.jsonl").unlink(missing_ok=True)
            shutil.rmtree(self.folder / "masks", ignore_errors=True)
            os.replace(self.part / "masks", self.folder / "masks")
            (self.part / "run.json").write_text(json.dumps({"fingerprint": self.fingerprint, "summary": summary}, indent=1))
            os.replace(self.part / "run.json", self.folder / "run.json")
            os.replace(self.part / "objects.jsonl", self.folder / "objects.jsonl")
            shutil.rmtree(self.part, ignore_errors=True)


@contextlib.contextmanager
def _disk(folder: Path):
    try:
        yield
    except OSError as error:
        raise MediaError(f"cannot write in {folder}: {reason(error)}") from None
