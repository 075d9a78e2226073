"""Runs methods over a data set clip by clip; a stopped run is resumed."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from taco.config import TacoConfig
from taco.engines import installed_engines
from taco.errors import ConfigError
from taco.evaluation.datasets import Clip, Dataset, EvaluationFrame
from taco.evaluation.methods import METHODS, MethodRunner, Outcome, method_named
from taco.evaluation.scores import Record, record
from taco.evaluation.wrong_sounds import replaced
from taco.package_files import cache_dir, write_whole
from taco.parallel import ClipExecutor
from taco.progress import progress as progress_bar

TEMPORAL = ("auto", "none", "causal", "joint")


@dataclass(frozen=True, slots=True)
class Run:
    """What to run.

    dataset, methods, seeds, config: every method on every clip with every seed.
    bank: the words listened for, () the models' own.
    temporal: see ``MethodRunner.run``; "auto" as the data set is scored.
    audio: "" or a kind of ``wrong_sounds.AUDIO``.
    variants: {name: settings}, each run for every method.
    """

    dataset: Dataset
    methods: tuple[str, ...] = ("taco",)
    seeds: tuple[int, ...] = (0,)
    config: TacoConfig = field(default_factory=TacoConfig)
    bank: tuple[str, ...] = ()
    temporal: str = "auto"
    audio: str = ""
    variants: Mapping[str, Mapping[str, object]] = field(default_factory=lambda: {"": {}})

    def __post_init__(self) -> None:
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
        where = [str(clip) for clip in self.dataset.clips[:1]]  # paths say which copy of the data
        data = [self.dataset.name, self.dataset.split, rules, self.dataset.words, where]
        if self.audio == "other":  # the sounds come from the other clips, so it matters which there are
            data.append([clip.id for clip in self.dataset.clips])
        what = [data, config, installed_engines(), self.bank, self.temporal, self.audio, source_hash()]
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

    def __init__(self, run: Run, method_runner: MethodRunner | None = None):
        self.run = run
        self.method_runner = method_runner or MethodRunner(run.config, run.bank)

    def __call__(self, item: tuple[int, Clip, list[tuple[str, int]]]) -> dict[str, list[Record]]:
        """{"row@seed": the clip's records}."""
        number, clip, wanted = item
        samples, out = loaded(self.run, number), {}
        for row, seed in wanted:
            outcomes = outcomes_of(self.run, self.method_runner, clip.id, samples, row, seed)
            records = [record(self.run.dataset, sample, outcome, self.run.config) for sample, outcome in zip(samples, outcomes)]
            out[f"{row}@{seed}"] = [{**r, "group": clip.group} for r in records]
        self.method_runner.forget()
        return out


def loaded(run: Run, number: int) -> list[EvaluationFrame]:
    """The frames of a clip with the sound of the run."""
    window_s = run.config.audio.window_s
    samples = run.dataset.clips[number].load(window_s)
    return [replaced(sample, run.audio, run.dataset, number, window_s) for sample in samples] if run.audio else samples


def outcomes_of(
    run: Run, method_runner: MethodRunner, clip_id: str, samples: list[EvaluationFrame], row: str, seed: int
) -> list[Outcome]:
    """What a row of the table says of a clip's frames."""
    temporal = run.dataset.rules.temporal if run.temporal == "auto" else run.temporal
    method, _, variant = row.partition(" ")
    own = zlib.crc32(f"{seed}/{clip_id}".encode())  # seeds of different clips have nothing to do with each other
    return method_runner.run(method, samples, seed=own, temporal=temporal, settings=run.variants[variant])


def clip_outcomes(
    run: Run, method_runner: MethodRunner, number: int, row: str, seed: int
) -> tuple[list[EvaluationFrame], list[Outcome]]:
    """A clip's frames and what a row of the table says of them, as they were when it was scored."""
    samples = loaded(run, number)
    return samples, outcomes_of(run, method_runner, run.dataset.clips[number].id, samples, row, seed)


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
    method_runner: MethodRunner | None = None,
    progress: Callable[[int, int], None] | None = None,
    executor: ClipExecutor | None = None,
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

        make = (lambda: ClipWorker(run, method_runner)) if method_runner else _Make(run, torch.get_num_threads())
        done = total - len(todo)
        try:
            for item, found in (executor or ClipExecutor()).map(make, todo):
                number, clip, _ = item
                kept[number] |= found
                save_records(folder / _file_name(number, clip.id), kept[number])
                done += 1
                if progress:
                    progress(done, total)
        except KeyboardInterrupt:
            if isinstance(progress, ProgressBar):
                progress.close()
            print(f"stopped after {done} of {total} clips; the same command goes on from there", file=sys.stderr)
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
    arrays: dict[str, Any] = {}

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays[f"a{len(arrays)}"] = value
            return {"array": f"a{len(arrays) - 1}"}
        return value

    slim = {key: [{name: plain(value) for name, value in r.items()} for r in rows] for key, rows in records.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, json=np.array(json.dumps(slim)), **arrays)
    write_whole(path, buffer.getvalue())


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


class ProgressBar:
    """``taco.progress``, called with (done, total)."""

    def __init__(self, what: str, unit: str = "clip"):
        self.what, self.unit = what, unit
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are there; nothing is shown where all were there from the start."""
        if self._bar is None:
            if done == total:
                return
            if done:
                print(f"{self.what}: {done} of {total} {self.unit}s are there already", file=sys.stderr, flush=True)
            self._bar = progress_bar(self.what, total, done, self.unit)
        self._bar.update(done - self._bar.n)
        if done == total:
            self._bar.refresh()  # a log keeps how long all took
            self.close()

    def close(self) -> None:
        """No more of it."""
        if self._bar is not None:
            self._bar.close()


def known_methods(names: Iterable[str]) -> tuple[str, ...]:
    """Checked names of methods, "all" for every one; repeats dropped."""
    names = list(names)
    if "all" in names:
        return tuple(METHODS)
    for name in names:
        method_named(name)
    return tuple(dict.fromkeys(names))
