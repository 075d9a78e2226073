"""Weights from TensorFlow's frozen graphs and checkpoints, without TensorFlow.

Both are made of protocol buffers, which are taken apart by their published encoding. A frozen graph is one GraphDef message: a
list of nodes, each with a name, an operation and attributes; the weights are the "value" of the nodes whose operation is
Const. A checkpoint has two files: an index, a LevelDB table of names and records, and the data, raw numbers. The constants
are those of the formats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from taco.errors import WeightsError

# Field numbers of TensorFlow's published .proto files.
GRAPH_NODE = 1
NODE_NAME, NODE_OP, NODE_ATTR = 1, 2, 5
MAP_KEY, MAP_VALUE = 1, 2
ATTR_TENSOR = 8
TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_CONTENT, TENSOR_FLOATS = 1, 2, 4, 5
SHAPE_DIM, DIM_SIZE = 2, 1
ENTRY_DTYPE, ENTRY_SHAPE, ENTRY_OFFSET, ENTRY_SIZE = 1, 2, 4, 5
DTYPES: dict[int, Any] = {1: np.float32, 2: np.float64, 3: np.int32, 9: np.int64}  # TensorFlow's DataType -> numpy
FLOAT32 = 1
LARGEST_FILLED = 1 << 22  # numbers; ours: more than any layer of the networks has
LARGEST_SHIFT = 63  # of protocol buffers: a varint has at most 64 bits
DAMAGED = (IndexError, KeyError, ValueError, TypeError, OverflowError, AttributeError)  # what damaged bytes lead to
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers
TABLE_MAGIC = 0xDB4775248B80FB57  # LevelDB's, at the end of a table
FOOTER = 48  # bytes: two block handles, padding, magic


def read_constants(path: Path) -> dict[str, np.ndarray]:
    """The float32 constants of a frozen graph by node name; WeightsError where the file is missing or not one."""
    try:
        tensors = dict(_graph_constants(Path(path).read_bytes()))
    except OSError as error:
        raise WeightsError(f"{path}: wanted a readable TensorFlow graph, got {error.strerror}") from None
    except DAMAGED as error:
        raise WeightsError(f"{path}: wanted a frozen TensorFlow graph, got a damaged file ({error}); fetch it again") from None
    if not tensors:
        raise WeightsError(f"{path}: wanted a frozen TensorFlow graph, got a file without weights; fetch it again")
    return tensors


def read_bundle(index: Path, data: Path) -> dict[str, np.ndarray]:
    """All tensors of a one-shard checkpoint by name; WeightsError where the files are not one."""
    try:
        table, numbers = index.read_bytes(), data.read_bytes()
        return dict(_bundle_tensors(table, numbers))
    except OSError as error:
        raise WeightsError(f"{error.filename}: wanted a readable checkpoint file, got {error.strerror}") from None
    except DAMAGED as error:
        raise WeightsError(
            f"{index}: wanted a TensorFlow checkpoint index, got a damaged file ({error}); fetch it again"
        ) from None


def _graph_constants(graph: bytes) -> Iterator[tuple[str, np.ndarray]]:
    for field, node in fields(graph):
        if field != GRAPH_NODE:
            continue
        name, op, tensor = "", b"", None
        for field, value in fields(node):
            if field == NODE_NAME:
                name = value.decode()
            elif field == NODE_OP:
                op = value
                if op != b"Const":
                    break
            elif field == NODE_ATTR:
                entry = dict(fields(value))
                if entry.get(MAP_KEY) == b"value":
                    tensor = dict(fields(entry[MAP_VALUE])).get(ATTR_TENSOR)
        if op == b"Const" and tensor is not None and dict(fields(tensor)).get(TENSOR_DTYPE) == FLOAT32:
            yield name, _graph_tensor(tensor)


def _graph_tensor(tensor: bytes) -> np.ndarray:
    shape: tuple[int, ...] = ()
    values = b""
    for field, value in fields(tensor):
        if field == TENSOR_SHAPE:
            shape = tuple(dict(fields(dim)).get(DIM_SIZE, 0) for field, dim in fields(value) if field == SHAPE_DIM)
        elif field in (TENSOR_CONTENT, TENSOR_FLOATS):
            values += value
    numbers = np.frombuffer(values, np.float32)
    if numbers.size == 1:  # one number stands for all
        if math.prod(shape) > LARGEST_FILLED:
            raise ValueError(f"a constant of {shape} from one number")
        return np.full(shape, numbers[0])
    return numbers.reshape(shape).copy()


def _bundle_tensors(table: bytes, numbers: bytes) -> Iterator[tuple[str, np.ndarray]]:
    if len(table) < FOOTER or int.from_bytes(table[-8:], "little") != TABLE_MAGIC:
        raise ValueError("no table footer")
    footer = table[-FOOTER:]
    _, at = varint(footer, 0)  # offset and size of the meta index, unused
    _, at = varint(footer, at)
    offset, at = varint(footer, at)
    size, _ = varint(footer, at)
    for _, handle in _table_block(table, offset, size):
        start, at = varint(handle, 0)
        length, _ = varint(handle, at)
        for name, record in _table_block(table, start, length):
            if name:  # the empty name is the bundle's header
                yield name.decode(), _bundle_tensor(record, numbers)


def _table_block(table: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of one block; a key may share a prefix with the key before."""
    if table[offset + size]:  # the byte after a block names its compression
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


def _bundle_tensor(record: bytes, numbers: bytes) -> np.ndarray:
    entry = dict(fields(record))
    shape = [dict(fields(dim)).get(DIM_SIZE, 0) for field, dim in fields(entry.get(ENTRY_SHAPE, b"")) if field == SHAPE_DIM]
    start, size = entry.get(ENTRY_OFFSET, 0), entry[ENTRY_SIZE]
    tensor: np.ndarray = np.frombuffer(numbers[start : start + size], DTYPES[entry[ENTRY_DTYPE]]).reshape(shape)
    return tensor


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of one message: an int for a varint, else bytes; ValueError where it is no message."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        kind = key & 7
        if kind == VARINT:
            number, at = varint(message, at)
            yield key >> 3, number
            continue
        if kind == BYTES:
            length, at = varint(message, at)
        elif kind in (FIXED32, FIXED64):
            length = 4 if kind == FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(message):
            raise ValueError("it ends too soon")
        yield key >> 3, message[at : at + length]
        at += length


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends; IndexError where the data end first, ValueError over 64 bits."""
    value = shift = 0
    while True:
        byte = data[at]
        if shift > LARGEST_SHIFT:
            raise ValueError("a number of more than 64 bits")
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
