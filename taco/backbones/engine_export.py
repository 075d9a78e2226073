"""Our torch networks in other engines: exported to ONNX once, checked against torch, kept in the user's cache.

The same numbers up to rounding in half of the time or less. Where an engine is missing or fails, the network stays in torch,
and one line of the log says so.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import platform
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock, Timeout
from torch import Tensor, nn

from taco.backbones.onnx_export import OPSET, Example, export, save
from taco.engines import (
    CUDA,
    PACKAGES,
    TENSORRT,
    Network,
    TorchNetwork,
    compile_network,
    error_line,
    has_provider,
    installed_engines,
)
from taco.errors import WeightsError
from taco.package_files import cache_dir

log = logging.getLogger(__name__)

FORMAT = 2  # of the exported files; raise it when a module's arithmetic or this export changes
LOCK_WAIT_S = 60.0  # while another process exports the same network, which takes about a second
# Lowest cosine of an output with torch's, and largest difference as a share of the largest value; ours. Those of half precision
# only tell a working network from a broken one.
TOLERANCES = {"float32": (0.9999, 1e-3), "bfloat16": (0.95, 0.3), "float16": (0.999, 0.05)}


@dataclass(frozen=True, slots=True)
class Runtime:
    """What runs our networks.

    engine, precision: as in ``models``.
    threads: of an engine on a CPU.
    cache: folder of the exported files; None: ``engines`` in the user's cache.
    gpu: ONNX Runtime may use CUDA, where it was built with it, for networks that torch keeps on the CPU (a torch without CUDA).
    """

    engine: str = "torch"
    precision: str = "float32"
    threads: int = 1
    cache: Path | None = None
    gpu: bool = False

    def network(self, module: nn.Module, name: str, outputs: Sequence[str], example: Example) -> Network:
        """The module in this engine, or in torch where that is not possible.

        name: of its file, and for messages.
        outputs: names of the module's results, in their order.
        """
        in_torch = TorchNetwork(module, outputs, example)
        device = example.inputs[0].device
        engine = self._choose(device)
        if engine == "torch":
            return in_torch
        wanted = [device.type == "cuda"] if device.type == "cuda" or not self.gpu or not has_provider(CUDA) else [True, False]
        for gpu in wanted if engine == "onnxruntime" else [False]:
            where = f"{engine} on CUDA" if gpu else engine
            try:
                return self._load(module, engine, name, outputs, example, gpu)
            except Exception as error:  # engines and the exporter raise what they like; torch always works
                other = "tries the CPU" if gpu and len(wanted) > 1 else "runs in torch"
                log.warning("%s: %s, since %s refused it: %s", name, other, where, error_line(error))
        return in_torch

    def _choose(self, device: torch.device) -> str:
        """The engine's name; on a GPU torch, unless another that runs there is asked for: nothing was measured there."""
        if self.engine == "torch":
            return "torch"
        if self.engine == "tensorrt":
            if device.type == "cpu":
                return self._fall_back("models.engine: tensorrt needs models.device=cuda:N; torch runs instead")
            return "tensorrt" if has_provider(TENSORRT) else self._missing("tensorrt")
        if device.type != "cpu":
            if self.engine != "onnxruntime":
                return "torch"
            return "onnxruntime" if has_provider(CUDA) else self._missing("onnxruntime", "onnxruntime-gpu")
        found = installed_engines()
        if self.engine != "auto":
            return self.engine if self.engine in found else self._missing(self.engine)
        # In float32 both take as long; ONNX Runtime needs less memory and starts sooner.
        wanted = "openvino" if self.precision in ("bfloat16", "float16") else "onnxruntime"
        return wanted if wanted in found else found[0] if found else self._missing("onnxruntime")

    def _missing(self, engine: str, package: str = "") -> str:
        return self._fall_back(
            f"models.engine: {package or engine} is not installed; torch runs instead, slower and with the same results; "
            f"run `pip install {package or PACKAGES[engine]}`"
        )

    def _fall_back(self, line: str) -> str:
        if line not in _logged:  # once, not for every network
            _logged.add(line)
            log.warning(line)
        return "torch"

    def _load(self, module: nn.Module, engine: str, name: str, outputs: Sequence[str], example: Example, gpu: bool) -> Network:
        """From the cache, else exported; raises whatever the exporter and the engine raise."""
        precision = self.precision if engine == "openvino" and self.precision != "auto" else "float32"
        folder = self.cache or cache_dir() / "engines"
        file = f"{name}-{_key(module, engine + '-cuda' * gpu, precision, outputs, example)}.onnx"

        def compiled(path: Path) -> Network:
            return compile_network(path, outputs, engine, threads=self.threads, precision=precision, gpu=gpu)

        def built(path: Path) -> Network:
            save(export(module, outputs, example), path)
            network = compiled(path)
            try:
                check(network, TorchNetwork(module, outputs), example.inputs, name)
            except BaseException:
                for made in (path, path.with_name(f"{path.name}.data")):
                    made.unlink(missing_ok=True)
                raise
            return network

        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / file
            with FileLock(path.with_suffix(".lock"), timeout=LOCK_WAIT_S):
                if path.is_file():
                    try:
                        return compiled(path)
                    except Exception as error:
                        log.warning("%s: %s is damaged and is made anew: %s", name, path, error_line(error))
                return built(path)
        except (OSError, Timeout) as error:  # a full or read-only disk: made anew at each start
            log.warning("%s: not kept in %s (%s); set TACO_CACHE to a writable folder for faster starts", name, folder, error)
            with tempfile.TemporaryDirectory(prefix="taco_") as scratch:
                return built(Path(scratch) / file)


IN_TORCH = Runtime()
_logged: set[str] = set()


def _key(module: nn.Module, engine: str, precision: str, outputs: Sequence[str], example: Example) -> str:
    """Changes with the weights, the structure, this export, the engine, its version, the precision and the processor's kind."""
    package = PACKAGES[engine.removesuffix("-cuda")]
    version = next((v for n in (package, engine, "onnxruntime", "onnxruntime-gpu") if (v := _version(n))), "")
    free = [() if example.fixed else axes for axes in example.free]
    sizes = zip(example.inputs, free)
    shapes = [[-1 if axis in axes else size for axis, size in enumerate(values.shape)] for values, axes in sizes]
    settings = (FORMAT, OPSET, engine, version, precision, platform.machine(), outputs, shapes, module)
    digest = hashlib.sha256(repr(settings).encode())
    for key, values in module.state_dict().items():
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(values.numpy(force=True)).data)
    return f"{engine}-{digest.hexdigest()[:16]}"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def check(network: Network, reference: Network, inputs: Sequence[Tensor], name: str) -> None:
    """WeightsError where an output of ``network`` differs from torch's by more than ``TOLERANCES``, on random input."""
    least, share = TOLERANCES[network.precision]
    random = torch.Generator().manual_seed(0)
    made = [
        torch.randint(0, 256, values.shape, generator=random).to(values)
        if values.dtype == torch.uint8
        else (torch.rand(values.shape, generator=random) * 2 - 1).to(values)
        for values in inputs
    ]
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
