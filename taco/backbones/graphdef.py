"""Reads the constants of a frozen TensorFlow graph without TensorFlow.

The file is one protocol buffer, GraphDef: a list of nodes, each with a name, an operation and attributes. Weights are
the "value" of the nodes whose operation is Const.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from taco.backbones.protobuf import fields
from taco.errors import WeightsError

# Field numbers of TensorFlow's published .proto files.
GRAPH_NODE = 1
NODE_NAME, NODE_OP, NODE_ATTR = 1, 2, 5
MAP_KEY, MAP_VALUE = 1, 2
ATTR_TENSOR = 8
TENSOR_DTYPE, TENSOR_SHAPE, TENSOR_CONTENT, TENSOR_FLOATS = 1, 2, 4, 5
SHAPE_DIM, DIM_SIZE = 2, 1
FLOAT32 = 1  # TensorFlow's DataType


def read_constants(path: Path) -> dict[str, np.ndarray]:
    """The float32 constants of a frozen graph by node name; WeightsError where the file is missing or not one."""
    try:
        tensors = dict(_constants(Path(path).read_bytes()))
    except OSError as error:
        raise WeightsError(f"{path}: wanted a readable TensorFlow graph, got {error.strerror}") from None
    except (IndexError, KeyError, ValueError) as error:
        raise WeightsError(f"{path}: wanted a frozen TensorFlow graph, got a damaged file ({error}); fetch it again") from None
    if not tensors:
        raise WeightsError(f"{path}: wanted a frozen TensorFlow graph, got a file without weights; fetch it again")
    return tensors


def _constants(graph: bytes) -> Iterator[tuple[str, np.ndarray]]:
    for field, node in fields(graph):
        if field != GRAPH_NODE:
            continue
        name, op, tensor = "", b"", None
        for field, value in fields(node):
            if field == NODE_NAME:
                name = value.decode()
            elif field == NODE_OP:
                op = value
            elif field == NODE_ATTR:
                entry = dict(fields(value))
                if entry.get(MAP_KEY) == b"value":
                    tensor = dict(fields(entry[MAP_VALUE])).get(ATTR_TENSOR)
        if op == b"Const" and tensor is not None and dict(fields(tensor)).get(TENSOR_DTYPE) == FLOAT32:
            yield name, _tensor(tensor)


def _tensor(tensor: bytes) -> np.ndarray:
    shape, values = (), b""
    for field, value in fields(tensor):
        if field == TENSOR_SHAPE:
            shape = tuple(dict(fields(dim)).get(DIM_SIZE, 0) for field, dim in fields(value) if field == SHAPE_DIM)
        elif field in (TENSOR_CONTENT, TENSOR_FLOATS):
            values += value
    numbers = np.frombuffer(values, np.float32)
    if numbers.size == 1:  # one number stands for all
        return np.full(shape, numbers[0])
    return numbers.reshape(shape).copy()
