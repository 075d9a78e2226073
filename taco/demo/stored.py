"""Values and arrays in one NPZ file, passed from one demo process to the next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from taco.io.files import atomic

ARRAY = "array"  # {ARRAY: n} stands for the n-th array


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
