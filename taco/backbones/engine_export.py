"""Our torch networks in other engines: exported to ONNX once, checked against torch, kept in the user's cache.

The same numbers up to rounding in half of the time or less. Where an engine is missing or fails, the network stays in torch,
and one line of the log says so.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import logging
import os
import platform
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch import Tensor, nn

from taco.engines import PACKAGES, Network, TorchNetwork, compile_network, error_line, has_tensorrt, installed_engines
from taco.errors import WeightsError
from taco.package_files import cache_dir

log = logging.getLogger(__name__)

FORMAT = 1  # of the exported files; raise it when a module's arithmetic or this export changes
OPSET = 17  # of ONNX; every engine of 2024 and later reads it
LOCK_WAIT_S = 60.0  # while another process exports the same network, which takes about a second
# Lowest cosine of an output with torch's, and largest difference as a share of the largest value; ours. Those of half precision
# only tell a working network from a broken one.
TOLERANCES = {"float32": (0.9999, 1e-3), "bfloat16": (0.95, 0.3), "float16": (0.999, 0.05)}


@dataclass(frozen=True, slots=True)
class Example:
    """What an export needs to know of a network.

    inputs: one set of them, float32.
    free: for each input, its dimensions that may have other sizes.
    """

    inputs: tuple[Tensor, ...]
    free: tuple[tuple[int, ...], ...] = ((),)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs our networks.

    engine, precision: as in ``models``.
    threads: of an engine on a CPU.
    cache: folder of the exported files; None: ``engines`` in the user's cache.
    """

    engine: str = "torch"
    precision: str = "float32"
    threads: int = 1
    cache: Path | None = None

    def network(self, module: nn.Module, name: str, outputs: Sequence[str], example: Example) -> Network:
        """The module in this engine, or in torch where that is not possible.

        name: of its file, and for messages.
        outputs: names of the module's results, in their order.
        """
        in_torch = TorchNetwork(module, outputs)
        engine = self._choose(example.inputs[0].device)
        if engine == "torch":
            return in_torch
        try:
            return self._load(module, engine, name, outputs, example)
        except Exception as error:  # engines and the exporter raise what they like; torch always works
            log.warning("%s: runs in torch, since %s refused it: %s", name, engine, error_line(error))
            return in_torch

    def _choose(self, device: torch.device) -> str:
        """The engine's name; torch on a GPU unless TensorRT is asked for, since nothing else was measured there."""
        if self.engine == "torch" or (device.type != "cpu" and self.engine != "tensorrt"):
            return "torch"
        if self.engine == "tensorrt":
            if device.type == "cpu":
                return self._fall_back("models.engine: tensorrt needs models.device=cuda:N; torch runs instead")
            return "tensorrt" if has_tensorrt() else self._missing("tensorrt")
        found = installed_engines()
        if self.engine != "auto":
            return self.engine if self.engine in found else self._missing(self.engine)
        # In float32 both take as long; ONNX Runtime needs less memory and starts sooner.
        wanted = "openvino" if self.precision in ("bfloat16", "float16") else "onnxruntime"
        return wanted if wanted in found else found[0] if found else self._missing("onnxruntime")

    def _missing(self, engine: str) -> str:
        return self._fall_back(
            f"models.engine: {engine} is not installed; torch runs instead, slower and with the same results; "
            f"run `pip install {PACKAGES[engine]}`"
        )

    def _fall_back(self, line: str) -> str:
        if line not in _logged:  # once, not for every network
            _logged.add(line)
            log.warning(line)
        return "torch"

    def _load(self, module: nn.Module, engine: str, name: str, outputs: Sequence[str], example: Example) -> Network:
        """From the cache, else exported; raises whatever the exporter and the engine raise."""
        precision = self.precision if engine == "openvino" and self.precision != "auto" else "float32"
        folder = self.cache or cache_dir() / "engines"
        path = folder / f"{name}-{_key(module, engine, precision, outputs)}.onnx"

        def compiled(packed: bytes) -> Network:
            return compile_network(packed, outputs, engine, threads=self.threads, precision=precision)

        def built() -> tuple[bytes, Network]:
            packed = export(module, outputs, example)
            network = compiled(packed)
            check(network, TorchNetwork(module, outputs), example.inputs, name)
            return packed, network

        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path.with_suffix(".lock"), timeout=LOCK_WAIT_S):
                if path.is_file():
                    try:
                        return compiled(path.read_bytes())
                    except Exception as error:
                        log.warning("%s: %s is damaged and is made anew: %s", name, path, error_line(error))
                packed, network = built()
                part = path.with_suffix(f".{os.getpid()}.part")
                part.write_bytes(packed)
                os.replace(part, path)
                return network
        except (OSError, Timeout) as error:  # a full or read-only disk: made anew at each start
            log.warning("%s: not kept in %s (%s); set TACO_CACHE to a writable folder for faster starts", name, folder, error)
            return built()[1]


IN_TORCH = Runtime()
_logged: set[str] = set()


def _key(module: nn.Module, engine: str, precision: str, outputs: Sequence[str]) -> str:
    """Changes with the weights, the structure, this export, the engine, its version, the precision and the processor's kind."""
    package = PACKAGES[engine]
    version = next((v for n in (package, engine, "onnxruntime") if (v := _version(n))), "")
    digest = hashlib.sha256(repr((FORMAT, OPSET, engine, version, precision, platform.machine(), outputs, module)).encode())
    for key, values in module.state_dict().items():
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(values.numpy(force=True)).data)
    return f"{engine}-{digest.hexdigest()[:16]}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


class _Named(nn.Module):
    """A module whose outputs come as a tuple, as the exporter expects."""

    def __init__(self, module: nn.Module, outputs: Sequence[str]):
        super().__init__()
        self.module, self._names = module, tuple(outputs)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        found = TorchNetwork(self.module, self._names)(*inputs)
        return tuple(found[name] for name in self._names)


class Part(nn.Module):
    """One method of a module as a module of its own."""

    def __init__(self, module: nn.Module, method: str):
        super().__init__()
        self.module, self._method = module, method

    def forward(self, *inputs: Tensor) -> Tensor:
        found: Tensor = getattr(self.module, self._method)(*inputs)
        return found


def export(module: nn.Module, outputs: Sequence[str], example: Example) -> bytes:
    """The module as an ONNX model, by the exporter that traces: the newer one needs another package and gives the same nodes."""
    names = [f"input{number}" for number in range(len(example.inputs))]
    free = {name: {axis: f"{name}_{axis}" for axis in axes} for name, axes in zip(names, example.free) if axes}
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
        warnings.simplefilter("ignore")  # that it is the older exporter, and that Python numbers become constants
        inputs = tuple(values.clone() for values in example.inputs)
        torch.onnx.export(
            _Named(module, outputs).eval(), inputs, file, input_names=names,  # type: ignore[arg-type]  # the tracing exporter takes a stream, too
            output_names=list(outputs),
            dynamic_axes=free, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    return fold_padding(file.getvalue())


def fold_padding(packed: bytes) -> bytes:
    """The ONNX model with zero padding made part of the convolution behind it: a fifth faster, as no padded copy is made."""
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load_model_from_string(packed)
    graph = model.graph
    source = {output: node for node in graph.node for output in node.output}
    constants = {value.name for value in graph.initializer}

    def constant(name: str) -> list[int]:
        """The whole numbers of a value that depends on no input, -1 for a fraction; none where it depends on one."""
        wanted: set[str] = {name}
        nodes: list[onnx.NodeProto] = []
        for node in reversed(graph.node):
            if wanted & set(node.output):
                nodes.insert(0, node)
                wanted |= set(node.input)
        if any(value.name in wanted for value in graph.input):
            return []
        output = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, None)
        kept = [value for value in graph.initializer if value.name in wanted & constants]
        inner = onnx.helper.make_model(onnx.helper.make_graph(nodes, "", [], [output], kept), opset_imports=model.opset_import)
        return [int(number) if number == int(number) else -1 for number in np.ravel(ReferenceEvaluator(inner).run(None, {})[0])]  # type: ignore[index]  # its stub names a dict

    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        pad = source.get(conv.input[0])
        if pad is None or pad.op_type != "Pad" or len(users[pad.output[0]]) > 1:
            continue
        mode = next((part.s.decode() for part in pad.attribute if part.name == "mode"), "constant")
        sides = constant(pad.input[1])  # before batch, channels, rows, columns; then behind
        filler = constant(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else [0]
        own = next((part for part in conv.attribute if part.name == "pads"), None)
        if mode != "constant" or filler != [0] or own is None or len(sides) != 8 or any(sides[:2] + sides[4:6]) or min(sides) < 0:
            continue
        own.ints[:] = [given + more for given, more in zip(own.ints, sides[2:4] + sides[6:8])]
        conv.input[0] = pad.input[0]
        graph.node.remove(pad)
    wanted = {value.name for value in graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted & set(node.output):
            kept.insert(0, node)
            wanted |= set(node.input)
    del graph.node[:]
    graph.node.extend(kept)
    packed = model.SerializeToString()
    return bytes(packed)


def check(network: Network, reference: Network, inputs: Sequence[Tensor], name: str) -> None:
    """WeightsError where an output of ``network`` differs from torch's by more than ``TOLERANCES``, on random input."""
    least, share = TOLERANCES[network.precision]
    random = torch.Generator().manual_seed(0)
    made = [(torch.rand(values.shape, generator=random) * 2 - 1).to(values.device) for values in inputs]
    with torch.inference_mode():
        wanted, got = ({key: values.float().cpu() for key, values in run(*made).items()} for run in (reference, network))
    for key in got:
        one, other = wanted[key], got[key]
        if one.shape != other.shape or not other.isfinite().all():
            raise WeightsError(f"{name}: wanted {key} finite and of shape {tuple(one.shape)}, got {tuple(other.shape)}")
        cosine = float(F.cosine_similarity(one.flatten(), other.flatten(), 0, 1e-12)) if one.any() else 1.0
        off = float((one - other).abs().max() / one.abs().max().clamp_min(1e-6))
        if cosine < least or off > share:
            raise WeightsError(f"{name}: wanted {key} as in torch, got cosine {cosine:.5f} and a difference of {off:.2g}")
