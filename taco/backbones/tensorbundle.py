"""Reads a TensorFlow checkpoint ("tensor bundle") without TensorFlow.

The index is a LevelDB table of names and records, the data file holds the raw numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

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
    _, at = _varint(footer, 0)  # offset and size of the meta index, unused
    _, at = _varint(footer, at)
    offset, at = _varint(footer, at)
    size, _ = _varint(footer, at)
    for _, handle in _block(table, offset, size):
        start, at = _varint(handle, 0)
        length, _ = _varint(handle, at)
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
        shared, at = _varint(block, at)
        fresh, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + fresh]
        at += fresh
        yield key, block[at : at + length]
        at += length


def _tensor(record: bytes, numbers: bytes) -> np.ndarray:
    """BundleEntryProto: 1 dtype, 2 shape, 4 offset, 5 size."""
    fields = dict(_fields(record))
    shape = [dict(_fields(dim)).get(1, 0) for number, dim in _fields(fields.get(2, b"")) if number == 2]
    start, size = fields.get(4, 0), fields[5]
    return np.frombuffer(numbers[start : start + size], DTYPES[fields[1]]).reshape(shape)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a protocol buffer message's fields."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = _varint(message, at)
        elif kind == 2:
            size, at = _varint(message, at)
            value, at = message[at : at + size], at + size
        elif kind == 5:
            value, at = message[at : at + 4], at + 4
        else:
            raise ValueError(f"wire type {kind}")
        yield tag >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
