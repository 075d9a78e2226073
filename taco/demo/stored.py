"""Values and arrays in one NPZ file, passed from one demo process to the next."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from taco.io.files import atomic
from taco.types import WordScore

ARRAY = "array"  # {ARRAY: n} stands for the n-th array


class RecordedObject(TypedDict):
    """A sounding object of an answer. box: x, y, width, height px; mask: bits of its rows inside the box, packed."""

    id: int
    labels: Sequence[WordScore]
    score: float
    box: Sequence[int]
    mask: np.ndarray


class RecordedAnswer(TypedDict):
    """What the node published about one image. sound_lag_ns: how long before the image the sound that it used ended."""

    stamp_ns: int
    sound_lag_ns: int
    age_ms: float
    level_dbfs: float
    sounding_score: float
    verdict: str
    heard: Sequence[WordScore]
    objects: Sequence[RecordedObject]


class Recorded(TypedDict):
    """What the recorder kept. images: JPEG files by stamp; audio: (stamp_ns, Hz, (n,) float32) of each chunk."""

    images: Mapping[int, bytes | np.ndarray]
    audio: Sequence[tuple[int, int, np.ndarray]]
    results: Sequence[RecordedAnswer]


def save(path: Path, values: Any) -> None:
    """Write lists, dictionaries, numbers, texts and arrays, all or nothing. Tuples become lists, bytes become uint8 arrays."""
    arrays: list[np.ndarray] = []

    def plain(value: Any) -> Any:
        if isinstance(value, bytes):
            value = np.frombuffer(value, np.uint8)
        if isinstance(value, np.ndarray):
            arrays.append(value)
            return {ARRAY: len(arrays) - 1}
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    text = json.dumps(plain(values), default=lambda number: number.item())
    named: dict[str, Any] = {f"a{number}": array for number, array in enumerate(arrays)}
    with atomic(path) as part, open(part, "wb") as stream:
        np.savez_compressed(stream, json=np.array(text), **named)


def load(path: Path) -> Any:
    """What ``save`` wrote."""
    with np.load(path) as file:
        return json.loads(str(file["json"]), object_hook=lambda d: file[f"a{d[ARRAY]}"] if d.keys() == {ARRAY} else d)
