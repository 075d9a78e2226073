"""Reads a TensorFlow checkpoint ("tensor bundle") without TensorFlow.

The index is a LevelDB table of names and records, the data file holds the raw numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from taco.backbones.protobuf import fields, varint
from taco.errors import WeightsError

TABLE_MAGIC = 0xDB4775248B80FB57
FOOTER = 48  # bytes: two block handles, padding, magic
DTYPES = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64}  # TensorFlow's DataType -> numpy


def read_bundle(index: Path, data: Path) -> dict[str, np.ndarray]:
    """All tensors of a one-shard bundle by name; WeightsError where the files are not one."""
    try:
        table, numbers = index.read_bytes(), data.read_bytes()
        return dict(_tensors(table, numbers))
    except OSError as error:
        raise WeightsError(f"{error.filename}: wanted a readable checkpoint file, got {error.strerror}") from None
    except (IndexError, KeyError, ValueError) as error:
        raise WeightsError(
            f"{index}: wanted a TensorFlow checkpoint index, got a damaged file ({error}); fetch it again"
        ) from None


def _tensors(table: bytes, numbers: bytes) -> Iterator[tuple[str, np.ndarray]]:
    if len(table) < FOOTER or int.from_bytes(table[-8:], "little") != TABLE_MAGIC:
        raise ValueError("no table footer")
    footer = table[-FOOTER:]
    _, at = varint(footer, 0)  # offset and size of the meta index, unused
    _, at = varint(footer, at)
    offset, at = varint(footer, at)
    size, _ = varint(footer, at)
    for _, handle in _block(table, offset, size):
        start, at = varint(handle, 0)
        length, _ = varint(handle, at)
        for name, record in _block(table, start, length):
            if name:  # the empty name is the bundle's header
                yield name.decode(), _tensor(record, numbers)


def _block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Entries of one block; keys share prefixes with the key before."""
    if table[offset + size]:  # the byte after a block tells its compression
        raise ValueError("compressed table")
    block = table[offset : offset + size]
    end = size - 4 * (int.from_bytes(block[-4:], "little") + 1)
    at, key = 0, b""
    while at < end:
        shared, at = varint(block, at)
        fresh, at = varint(block, at)
        length, at = varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _tensor(record: bytes, numbers: bytes) -> np.ndarray:
    """BundleEntryProto: 1 dtype, 2 shape, 4 offset, 5 size."""
    entry = dict(fields(record))
    shape = [dict(fields(dim)).get(1, 0) for number, dim in fields(entry.get(2, b"")) if number == 2]
    start, size = entry.get(4, 0), entry[5]
    return np.frombuffer(numbers[start : start + size], DTYPES[entry[1]]).reshape(shape)
