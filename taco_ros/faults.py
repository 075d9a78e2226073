"""Faults on purpose, for tests: off unless the environment variable ``TACO_FAULTS`` names a file when models are loaded.

The file is read at every call of a stage, so that faults come and go while the node runs. Each line is ``STAGE KIND``:
image, sound, segment or publish with fail, exit (SystemExit), memory (MemoryError), stuck (until the line is gone),
slow SECONDS or nan (image and sound); or ``thread exit``, which ends the models' thread.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path

VARIABLE = "TACO_FAULTS"
STUCK_POLL_S = 0.05  # ours: how often a stuck stage looks whether it may go on


class Faults:
    """The faults that a file asks for. path: of that file; a missing one asks for none."""

    def __init__(self, path: str):
        self._path = Path(path)

    def install(self, live, worker) -> None:
        """Put the faults into a LivePipeline and the models' thread."""
        pipeline = next(iter(live.pipelines.values()))  # the others share its models
        models = pipeline.backbones
        for owner, name, stage in (
            (models.image, "encode", "image"),
            (models.image, "encode_batch", "image"),
            (models.audio, "encode", "sound"),
            (pipeline.segmenter, "segment", "segment"),
            (worker.mailbox, "take", "thread"),
        ):
            if hasattr(owner, name):
                setattr(owner, name, self.wrapped(getattr(owner, name), stage))

    def wrapped(self, function: Callable, stage: str) -> Callable:
        """``function`` with the faults of a stage before it, and NaN in its result where that is asked for."""

        @functools.wraps(function)
        def faulty(*arguments, **options):
            kind = self.strike(stage)
            result = function(*arguments, **options)
            return _without_numbers(result) if kind == "nan" else result

        return faulty

    def strike(self, stage: str) -> str:
        """Raise, wait or do nothing, as the file says; the kind of fault, "" without one."""
        kind, seconds = self._asked(stage)
        if kind == "fail":
            raise RuntimeError(f"fault on purpose in {stage}")
        if kind == "exit":
            raise SystemExit(f"fault on purpose in {stage}")
        if kind == "memory":
            raise MemoryError(f"fault on purpose in {stage}")
        if kind == "slow":
            time.sleep(seconds)
        while kind == "stuck" and self._asked(stage)[0] == "stuck":
            time.sleep(STUCK_POLL_S)
        return kind

    def _asked(self, stage: str) -> tuple[str, float]:
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return "", 0.0
        for words in map(str.split, lines):
            if words[:1] == [stage]:
                return words[1], float(words[2]) if len(words) > 2 else 0.0
        return "", 0.0


def _without_numbers(result):
    """ImageFeatures, a list of them or Tokens, every number NaN."""
    if isinstance(result, list):
        return [_without_numbers(one) for one in result]
    tokens = getattr(result, "tokens", result)
    tokens = dataclasses.replace(tokens, values=tokens.values * float("nan"))
    return dataclasses.replace(result, tokens=tokens) if hasattr(result, "tokens") else tokens


def asked_for() -> Faults | None:
    """The faults that the environment asks for; None on every robot."""
    return Faults(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
