"""Inference engines behind one protocol, networks with named outputs; each vendor is imported inside its class.

Networks come from ONNX files (``load_network``) or from our torch modules (taco/backbones/engine_export.py). Only the outputs
that are asked for are computed, and what they need.
"""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from taco.errors import MissingPackageError, ValueRangeError, WeightsError
from taco.package_files import cache_dir, write_whole

# For a CPU, the preferred first. float32 takes as long in both; OpenVINO has half precision too. Its kernels are made for x86;
# on ARM neither was measured, and ONNX Runtime goes first.
ENGINES = ("openvino", "onnxruntime") if platform.machine() in ("x86_64", "AMD64") else ("onnxruntime", "openvino")
PACKAGES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "tensorrt": "onnxruntime-gpu"}  # what to install for each
TENSORRT, CUDA = "TensorrtExecutionProvider", "CUDAExecutionProvider"
# TensorFloat-32, the default, has ten bits of mantissa: not the numbers of float32 that our checks hold an engine to.
PROVIDER_OPTIONS = {CUDA: {"use_tf32": "0"}}
CUT_FORMAT = 1  # of the files that are kept; raise it when ``cut_graph`` changes


@runtime_checkable
class Network(Protocol):
    """A network with named outputs.

    engine: what runs it. precision: of its numbers. size: (height, width) of its image in px, (0, 0) for any.
    """

    engine: str
    precision: str
    size: tuple[int, int]

    def __call__(self, *inputs: np.ndarray | Tensor) -> Mapping[str, Tensor]:
        """Inputs in the network's order, float32 or (images) uint8 -> {output's name: float32 tensor}."""


def installed_engines() -> tuple[str, ...]:
    """The engines for a CPU that are installed, the preferred first."""
    return tuple(name for name in ENGINES if importlib.util.find_spec(name) is not None)


def has_provider(name: str) -> bool:
    """Whether the installed ONNX Runtime was built with ``TENSORRT`` or ``CUDA``."""
    if importlib.util.find_spec("onnxruntime") is None:
        return False
    import onnxruntime

    return name in onnxruntime.get_available_providers()


def load_network(
    path: str | Path, outputs: Sequence[str], size: tuple[int, int], *, engine: str = "auto", threads: int = 1
) -> Network:
    """A network from an ONNX file whose input is (1, C, height, width), in half precision where that is faster.

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
        packed = path.read_bytes()
        model = _cut_file(packed, path.stem, outputs, size)
        try:
            return compile_network(model, outputs, name, threads=threads, precision="auto", size=size)
        except RuntimeError:
            if not isinstance(model, Path):
                raise
            model.unlink(missing_ok=True)  # a damaged file of the cache; a damaged original fails again
            model = _cut_file(packed, path.stem, outputs, size)
            return compile_network(model, outputs, name, threads=threads, precision="auto", size=size)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError) as error:  # of damaged bytes ONNX makes what it likes
        raise WeightsError(f"{path}: wanted an ONNX network with {', '.join(outputs)}, got {error_line(error)}") from None


def compile_network(
    model: bytes | Path,
    outputs: Sequence[str],
    engine: str,
    *,
    threads: int = 1,
    precision: str = "float32",
    size: tuple[int, int] = (0, 0),
    gpu: bool = False,
) -> Network:
    """An ONNX model in an installed engine. precision: see ``OpenVinoNetwork``. RuntimeError where the engine refuses it.

    model: its file, or its bytes, which ONNX Runtime keeps beside its own copy of the weights.
    gpu: ONNX Runtime on CUDA.
    """
    if engine == "openvino":
        return OpenVinoNetwork(model, outputs, size, threads, precision)
    if engine == "tensorrt":
        return OnnxRuntimeNetwork(model, outputs, size, threads, (TENSORRT, CUDA))
    return OnnxRuntimeNetwork(model, outputs, size, threads, (CUDA,) if gpu else ())


def error_line(error: Exception) -> str:
    """What it says, in one line; without the lines that only tell where in an engine's own source it arose."""
    lines = [line.strip() for line in str(error).splitlines() if not line.startswith(("Exception from ", "Check "))]
    return " ".join(filter(None, lines))[:200] or type(error).__name__


def _cut_file(packed: bytes, name: str, outputs: Sequence[str], size: tuple[int, int]) -> bytes | Path:
    """``cut_graph``, done once and kept in the user's cache: reading ONNX files takes a quarter of a second of every start."""
    key = hashlib.sha256(packed + repr((CUT_FORMAT, tuple(outputs), size)).encode()).hexdigest()[:16]
    path = cache_dir() / "engines" / f"{name}-cut-{key}.onnx"
    if path.is_file():
        return path
    cut = cut_graph(packed, outputs, size)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, cut)
    except OSError:  # a full or read-only disk: cut anew at each start
        return cut
    return path


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


class TorchNetwork:
    """A torch module on its own device. It may return one tensor, several in the order of ``outputs``, or named ones.

    example: what an export of it needs to know, a ``taco.backbones.onnx_export.Example``.
    """

    def __init__(self, module: nn.Module, outputs: Sequence[str], example: Any = None):
        self.example = example
        self.engine, self.precision, self.size = "torch", "float32", (0, 0)
        self.module, self.outputs = module, tuple(outputs)

    def __call__(self, *inputs: np.ndarray | Tensor) -> Mapping[str, Tensor]:
        found = self.module(*(torch.as_tensor(values) for values in inputs))
        if isinstance(found, Tensor):
            found = (found,)
        return found if isinstance(found, Mapping) else dict(zip(self.outputs, found))


class OpenVinoNetwork:
    """OpenVINO on the CPU. precision: float32, bfloat16, float16, or auto: half where the processor computes in it."""

    engine = "openvino"
    HINTS = {"bfloat16": ("BF16", "bf16"), "float16": ("FP16", "f16")}  # precision -> the processor's capability, the hint

    def __init__(self, model: bytes | Path, outputs: Sequence[str], size: tuple[int, int], threads: int, precision: str = "auto"):
        import openvino

        core = openvino.Core()
        can = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        there = [name for name, (capability, _) in self.HINTS.items() if capability in can]
        wanted = (there or ["float32"])[0] if precision == "auto" else precision
        self.precision = wanted if wanted in there else "float32"
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": self.HINTS[self.precision][1] if self.precision in self.HINTS else "f32",
        }
        self._request = core.compile_model(core.read_model(model), "CPU", settings).create_infer_request()
        self._names, self.size = tuple(outputs), size

    def __call__(self, *inputs: np.ndarray | Tensor) -> dict[str, Tensor]:
        found = self._request.infer([_array(values) for values in inputs], share_inputs=True, share_outputs=True)
        return {name: torch.from_numpy(np.array(found[name], np.float32)) for name in self._names}  # the request's are reused


class OnnxRuntimeNetwork:
    """ONNX Runtime, float32. providers: what to run it on, the preferred first; without them the CPU.

    RuntimeError where the first of them does not start: ONNX Runtime would go on without, many times slower.
    """

    precision = "float32"

    def __init__(
        self, model: bytes | Path, outputs: Sequence[str], size: tuple[int, int], threads: int, providers: Sequence[str] = ()
    ):
        import onnxruntime

        self.engine = "tensorrt" if TENSORRT in providers else "onnxruntime"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads take time from other programs
        options.enable_cpu_mem_arena = False  # 20 MB less, and as fast
        options.log_severity_level = 3  # errors only
        wanted = [(name, PROVIDER_OPTIONS.get(name, {})) for name in (*providers, "CPUExecutionProvider")]
        try:
            self._session = onnxruntime.InferenceSession(
                str(model) if isinstance(model, Path) else model, options, providers=wanted
            )
        except Exception as error:  # its own classes are not exported
            raise RuntimeError(str(error)) from None
        if providers and providers[0] not in self._session.get_providers():
            raise RuntimeError(f"the libraries of {providers[0]} are missing or do not fit")
        self._inputs = [value.name for value in self._session.get_inputs()]
        self._names, self.size = tuple(outputs), size

    def __call__(self, *inputs: np.ndarray | Tensor) -> dict[str, Tensor]:
        found = self._session.run(self._names, dict(zip(self._inputs, map(_array, inputs))))
        return {name: torch.from_numpy(values) for name, values in zip(self._names, found)}


def _array(values: np.ndarray | Tensor) -> np.ndarray:
    values = values.numpy(force=True) if isinstance(values, Tensor) else values
    return np.ascontiguousarray(values, None if values.dtype == np.uint8 else np.float32)
