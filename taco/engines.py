"""Inference engines for ONNX networks behind one protocol; each vendor is imported inside its class.

A network is loaded for one input size and for the outputs that are asked for: what only other outputs need is not computed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np

from taco.errors import MissingPackageError, ValueRangeError, WeightsError

ENGINES = ("openvino", "onnxruntime")  # the fastest first


@runtime_checkable
class Network(Protocol):
    """A network with one input and named outputs. engine: whose it is. precision: of its numbers."""

    engine: str
    precision: str
    size: tuple[int, int]

    def __call__(self, values: np.ndarray) -> Mapping[str, np.ndarray]:
        """(1, C, height, width) float32 of the size it was loaded for -> {output's name: float32 array}."""


def installed_engines() -> tuple[str, ...]:
    """The engines that are installed, the fastest first."""
    return tuple(name for name in ENGINES if importlib.util.find_spec(name) is not None)


def load_network(
    path: str | Path, outputs: Sequence[str], size: tuple[int, int], *, engine: str = "auto", threads: int = 1
) -> Network:
    """A network from an ONNX file whose input is (1, C, height, width).

    outputs: names of the wanted ones. size: (height, width) of the input, whatever size the file was written for.
    engine: "auto" takes the fastest that is installed. MissingPackageError where none is, or where ONNX files cannot be
    read; WeightsError where the file is missing, damaged or lacks an output.
    """
    path = Path(path)
    if engine not in ("auto", *ENGINES):
        raise ValueRangeError(f"engine: wanted auto, {', '.join(ENGINES)}, got {engine!r}")
    found = installed_engines()
    name = (found[0] if found else "") if engine == "auto" else engine
    if name not in found:
        wanted = engine if engine != "auto" else " or ".join(ENGINES)
        raise MissingPackageError(f"{path.name}: wanted the package {wanted} to run it, got none; run `pip install onnxruntime`")
    if importlib.util.find_spec("onnx") is None:
        raise MissingPackageError(f"{path.name}: wanted the package onnx to read it, got none; run `pip install onnx`")
    try:
        packed = cut_graph(path.read_bytes(), outputs, size)
        network = OpenVinoNetwork if name == "openvino" else OnnxRuntimeNetwork
        return network(packed, outputs, size, threads)
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{path}: wanted an ONNX network with {', '.join(outputs)}, got {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What it says, in one line; without the lines that only tell where in an engine's own source it arose."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith(("Exception from ", "Check "))]
    return " ".join(filter(None, lines))[:200] or type(error).__name__


def cut_graph(packed: bytes, outputs: Sequence[str], size: tuple[int, int]) -> bytes:
    """The ONNX model with only these outputs and what they need, and with its one input (1, C, height, width) of this size.

    ValueError where an output is not there, the input is not of that shape, or the bytes are no ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.utils import Extractor

    try:
        model = onnx.load_model_from_string(packed)
        extractor = Extractor(model)
    except (DecodeError, AssertionError):  # the latter where two nodes give a value of the same name
        raise ValueError("a damaged file") from None
    there = [value.name for value in model.graph.output]
    missing = [name for name in outputs if name not in there]
    if missing:
        raise ValueError(f"no output {missing[0]} among {', '.join(there) or 'none'}")
    constants = {value.name for value in model.graph.initializer}
    inputs = [value.name for value in model.graph.input if value.name not in constants]  # old files list the constants, too
    if len(inputs) != 1:
        raise ValueError(f"{len(inputs)} inputs instead of 1")
    cut = extractor.extract_model(inputs, list(outputs))
    if any(part.HasField("g") or part.graphs for node in cut.graph.node for part in node.attribute):
        raise ValueError("a network with loops or branches")  # their inner graphs take values that may have been cut away
    sides = cut.graph.input[0].type.tensor_type.shape.dim
    if len(sides) != 4:
        raise ValueError(f"an input of {len(sides)} dimensions instead of 4")
    sides[2].dim_value, sides[3].dim_value = size
    del cut.graph.value_info[:]  # these sizes, and the outputs', follow from the input's
    for value in cut.graph.output:
        for side in value.type.tensor_type.shape.dim:
            side.Clear()
    cut.ir_version = max(cut.ir_version, 4)  # from which on constants need not be listed as inputs
    return bytes(cut.SerializeToString())


class OpenVinoNetwork:
    """OpenVINO on the CPU; half precision where the processor computes in it."""

    engine = "openvino"

    def __init__(self, packed: bytes, outputs: Sequence[str], size: tuple[int, int], threads: int):
        import openvino

        core = openvino.Core()
        can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        kind = next((kind for kind in ("BF16", "FP16") if kind in can), "FP32")
        hint, self.precision = {"BF16": ("bf16", "bfloat16"), "FP16": ("f16", "float16"), "FP32": ("f32", "float32")}[kind]
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
        }
        self._request = core.compile_model(core.read_model(packed), "CPU", settings).create_infer_request()
        self._names, self.size = tuple(outputs), size

    def __call__(self, values: np.ndarray) -> dict[str, np.ndarray]:
        found = self._request.infer([np.ascontiguousarray(values, np.float32)])
        return {name: np.array(found[name], np.float32) for name in self._names}


class OnnxRuntimeNetwork:
    """ONNX Runtime on the CPU, float32."""

    engine, precision = "onnxruntime", "float32"

    def __init__(self, packed: bytes, outputs: Sequence[str], size: tuple[int, int], threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors only
        try:
            self._session = onnxruntime.InferenceSession(packed, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its own classes are not exported
            raise RuntimeError(str(error)) from None
        self._input = self._session.get_inputs()[0].name
        self._names, self.size = tuple(outputs), size

    def __call__(self, values: np.ndarray) -> dict[str, np.ndarray]:
        found = self._session.run(self._names, {self._input: np.ascontiguousarray(values, np.float32)})
        return dict(zip(self._names, found))
