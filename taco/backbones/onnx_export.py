"""Torch modules as ONNX files: traced, with padding folded into convolutions, and with sizes as constants where wanted."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from taco.engines import TorchNetwork

if TYPE_CHECKING:
    import onnx

OPSET = 17  # of ONNX; every engine of 2024 and later reads it
LARGEST_FILE = 1_800_000_000  # bytes; the format ends at 2 GiB, larger weights go to a file beside it


@dataclass(frozen=True, slots=True)
class Example:
    """What an export needs to know of a network.

    inputs: one set of them, float32 or uint8.
    free: for each input, its dimensions that may have other sizes.
    names: of the inputs, and what they are, for people.
    fixed: every size becomes a constant, and with it whatever depends on sizes alone (positions, masks, grids). For networks
    that compute with sizes; no dimension is free then.
    """

    inputs: tuple[Tensor, ...]
    free: tuple[tuple[int, ...], ...] = ((),)
    names: tuple[str, ...] = ("input",)
    fixed: bool = False


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


def export(module: nn.Module, outputs: Sequence[str], example: Example) -> onnx.ModelProto:
    """The module as an ONNX model, by the exporter that traces: the newer one needs another package and gives the same nodes."""
    import onnx

    free = {name: {axis: f"{name}_{axis}" for axis in axes} for name, axes in zip(example.names, example.free) if axes}
    with (
        warnings.catch_warnings(),
        torch.inference_mode(False),
        torch.no_grad(),
        tempfile.TemporaryDirectory(prefix="taco_") as folder,
    ):
        warnings.simplefilter("ignore")  # that it is the older exporter, and that Python numbers become constants
        inputs = tuple(values.clone() for values in example.inputs)
        traced = _Named(module, outputs).eval()
        torch.onnx.export(
            _with_fixed_sizes(traced, inputs) if example.fixed else traced, inputs, f"{folder}/model.onnx",
            input_names=list(example.names), output_names=list(outputs),
            dynamic_axes=free, opset_version=OPSET, dynamo=False,
        )  # fmt: skip
        model = onnx.load(f"{folder}/model.onnx")  # a file, as the exporter puts weights of over 2 GiB beside it
    fold_padding(model)
    return model


def _with_fixed_sizes(module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The module as the list of its operations at these sizes: in a trace of the module itself, sizes would be computed."""
    program = torch.export.export(module, inputs, strict=False).module()
    program.training = False
    program.train = lambda mode=True: program  # type: ignore[method-assign,assign]  # the tracing exporter sets the mode, which it refuses
    return program


def save(model: onnx.ModelProto, path: Path) -> None:
    """Write the model, whole or not at all; weights that are too large for one file go to PATH.data beside it."""
    import onnx

    weights = [value for value in model.graph.initializer if len(value.raw_data) > 1024]
    large = sum(len(value.raw_data) for value in weights) > LARGEST_FILE
    part = path.with_name(f".{path.name}.part")
    data = path.with_name(f"{path.name}.data")
    data.unlink(missing_ok=True)
    try:
        onnx.save_model(model, part, save_as_external_data=large, location=data.name, size_threshold=1024)
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        data.unlink(missing_ok=True)
        raise


def fold_padding(model: onnx.ModelProto) -> None:
    """Make zero padding part of the convolution behind it: a fifth faster, as no padded copy is made."""
    import onnx
    from onnx.reference import ReferenceEvaluator

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
