"""Runs methods over a data set, clip by clip; keeps every clip's records, so that a run can be stopped and resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import sys
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from taco import parallel
from taco.config import TacoConfig
from taco.errors import ConfigError
from taco.evaluation.datasets import Dataset, Sample
from taco.evaluation.methods import METHODS, Bench, Outcome, method_named
from taco.evaluation.scores import Record, record
from taco.evaluation.wrong_sounds import replaced
from taco.package_files import cache_dir

TEMPORAL = ("auto", "none", "causal", "joint")


@dataclass(frozen=True, slots=True)
class Run:
    """What to run. bank: the words listened for, () the models' own. temporal: see ``Bench.run``; "auto" as the data set is
    scored. audio: "" or a kind of ``robustness.AUDIO``. variants: {name: settings}, each run for every method."""

    dataset: Dataset
    methods: tuple[str, ...] = ("taco",)
    seeds: tuple[int, ...] = (0,)
    config: TacoConfig = field(default_factory=TacoConfig)
    bank: tuple[str, ...] = ()
    temporal: str = "auto"
    audio: str = ""
    variants: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: {"": {}})

    def __post_init__(self):
        for name in self.methods:
            method_named(name)
        if self.temporal not in TEMPORAL:
            raise ConfigError(f"--temporal: wanted one of {', '.join(TEMPORAL)}, got {self.temporal!r}")

    @property
    def rows(self) -> list[str]:
        """The rows of the table: methods, or method and variant."""
        return [f"{m} {v}".strip() for m in self.methods for v in self.variants]

    def fingerprint(self) -> str:
        """Changes with anything that could change a frame's record; methods, seeds and variants are keys beside it."""
        config = self.config.to_dict()
        config.pop("node", None)
        rules = dataclasses.asdict(self.dataset.rules)
        where = [str(clip) for clip in self.dataset.clips[:1]]  # paths tell which copy of the data
        data = [self.dataset.name, self.dataset.split, rules, self.dataset.words, where]
        if self.audio == "other":  # the sounds come from the other clips, so it matters which there are
            data.append([clip.id for clip in self.dataset.clips])
        what = [data, config, self.bank, self.temporal, self.audio, source_hash()]
        return hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()[:12]


@cache
def source_hash() -> str:
    """Of every module of the library: records of other code are never mixed in."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class ClipWorker:
    """Scores whole clips; built once in each process. Called with (number, clip, wanted), wanted: [(row, seed)]."""

    def __init__(self, run: Run, bench: Bench | None = None):
        self.run = run
        self.bench = bench or Bench(run.config, run.bank)

    def __call__(self, item) -> dict[str, list[Record]]:
        """{"row@seed": the clip's records}."""
        number, clip, wanted = item
        samples, out = loaded(self.run, number), {}
        for row, seed in wanted:
            outcomes = outcomes_of(self.run, self.bench, clip.id, samples, row, seed)
            records = [record(self.run.dataset, sample, outcome, self.run.config) for sample, outcome in zip(samples, outcomes)]
            out[f"{row}@{seed}"] = [{**r, "group": clip.group} for r in records]
        self.bench.forget()
        return out


def loaded(run: Run, number: int) -> list[Sample]:
    """The frames of a clip with the sound of the run."""
    window_s = run.config.audio.window_s
    samples = run.dataset.clips[number].load(window_s)
    return [replaced(sample, run.audio, run.dataset, number, window_s) for sample in samples] if run.audio else samples


def outcomes_of(run: Run, bench: Bench, clip_id: str, samples: list[Sample], row: str, seed: int) -> list[Outcome]:
    """What a row of the table says of a clip's frames."""
    temporal = run.dataset.rules.temporal if run.temporal == "auto" else run.temporal
    method, _, variant = row.partition(" ")
    own = zlib.crc32(f"{seed}/{clip_id}".encode())  # seeds of different clips have nothing to do with each other
    return bench.run(method, samples, seed=own, temporal=temporal, settings=run.variants[variant])


def clip_outcomes(run: Run, bench: Bench, number: int, row: str, seed: int) -> tuple[list[Sample], list[Outcome]]:
    """A clip's frames and what a row of the table says of them, as they were when it was scored."""
    samples = loaded(run, number)
    return samples, outcomes_of(run, bench, run.dataset.clips[number].id, samples, row, seed)


@dataclass(frozen=True, slots=True)
class _Make:
    """Builds a worker; can be sent to another process. threads: as many as there, since sums depend on it in the last digits."""

    run: Run
    threads: int

    def __call__(self) -> ClipWorker:
        import torch

        torch.set_num_threads(self.threads)
        return ClipWorker(self.run)


def evaluate(
    run: Run,
    folder: Path | None = None,
    *,
    bench: Bench | None = None,
    progress: Callable[[int, int], None] | None = None,
    spread: parallel.Engine | None = None,
) -> dict[str, dict[int, list[Record]]]:
    """{row: {seed: records in the order of the data set}}.

    folder: where the records are kept (default: the user's cache); what is there already is not run again. bench: models to
    use instead of the configured ones (one process only). progress: called with (clips done, clips).
    """
    folder = (folder or cache_dir() / "evaluation") / f"{run.dataset.name}-{run.dataset.split}-{run.fingerprint()}"
    folder.mkdir(parents=True, exist_ok=True)
    keys = [(row, seed) for row in run.rows for seed in run.seeds]
    kept: dict[int, dict[str, list[Record]]] = {}
    todo = []
    for number, clip in enumerate(run.dataset.clips):
        kept[number] = load_records(folder / _file_name(number, clip.id))
        missing = [key for key in keys if f"{key[0]}@{key[1]}" not in kept[number]]
        if missing:
            todo.append((number, clip, missing))
    total = len(run.dataset.clips)
    if progress:
        progress(total - len(todo), total)
    if todo:
        import torch

        make = (lambda: ClipWorker(run, bench)) if bench else _Make(run, torch.get_num_threads())
        done = total - len(todo)
        try:
            for item, found in (spread or parallel.Engine()).map(make, todo):
                number, clip, _ = item
                kept[number] |= found
                save_records(folder / _file_name(number, clip.id), kept[number])
                done += 1
                if progress:
                    progress(done, total)
        except KeyboardInterrupt:
            print(f"\nstopped after {done} of {total} clips; the same command goes on from there", file=sys.stderr)
            raise
    return {
        row: {seed: [r for number in range(total) for r in kept[number][f"{row}@{seed}"]] for seed in run.seeds}
        for row in run.rows
    }


def _file_name(number: int, name: str) -> str:
    safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
    return f"{number:05d}-{safe[:80]}-{zlib.crc32(name.encode()):08x}.npz"


def save_records(path: Path, records: Mapping[str, Sequence[Record]]) -> None:
    """Write one clip's records, all or nothing: numbers as JSON, arrays beside them."""
    arrays: dict[str, np.ndarray] = {}

    def plain(value):
        if isinstance(value, np.ndarray):
            arrays[f"a{len(arrays)}"] = value
            return {"array": f"a{len(arrays) - 1}"}
        return value

    slim = {key: [{name: plain(value) for name, value in r.items()} for r in rows] for key, rows in records.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, json=np.array(json.dumps(slim)), **arrays)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(buffer.getvalue())
    part.replace(path)


def load_records(path: Path) -> dict[str, list[Record]]:
    """One clip's records; {} where there are none or the file is damaged (it is then made again)."""
    try:
        with np.load(path) as file:
            slim = json.loads(str(file["json"]))
            return {
                key: [{n: file[v["array"]] if isinstance(v, dict) and "array" in v else v for n, v in r.items()} for r in rows]
                for key, rows in slim.items()
            }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return {}


class Progress:
    """A bar with the time left on a terminal, a line for every tenth elsewhere; on standard error."""

    def __init__(self, what: str, stream=None):
        self.what, self.stream = what, stream or sys.stderr
        self.start, self.first, self.told = time.monotonic(), None, -1

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` clips are there."""
        if self.first is None:
            self.first = done
            if done and done < total:
                print(f"{self.what}: {done} of {total} clips are there already", file=self.stream, flush=True)
        spent, new = time.monotonic() - self.start, done - self.first
        left = f"{clock(spent / new * (total - done))} left" if new and done < total else ("done" if done == total else "")
        if self.stream.isatty():
            width = 30
            filled = width * done // max(total, 1)
            bar = "#" * filled + "." * (width - filled)
            print(
                f"\r{self.what} [{bar}] {done}/{total} {left:<14}",
                end="\n" if done == total else "",
                file=self.stream,
                flush=True,
            )
        elif new and 10 * done // total > self.told:
            self.told = 10 * done // total
            print(f"{self.what}: {done}/{total} clips, {left}", file=self.stream, flush=True)


def clock(seconds: float) -> str:
    """3 h 05 min, 2 min 10 s, 8 s."""
    seconds = round(seconds)
    if seconds >= 3600:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 60} min {seconds % 60:02d} s" if seconds >= 60 else f"{seconds} s"


def known_methods(names: Iterable[str]) -> tuple[str, ...]:
    """Checked names of methods, "all" for every one; repeats dropped."""
    names = list(names)
    if "all" in names:
        return tuple(METHODS)
    for name in names:
        method_named(name)
    return tuple(dict.fromkeys(names))
