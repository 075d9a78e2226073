"""``taco export``: one of the networks as an ONNX file, checked against torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco.errors import ConfigError, MissingPackageError

if TYPE_CHECKING:
    import onnx

    from taco.config import TacoConfig
    from taco.engines import TorchNetwork

MODELS = ("image", "sound", "person", "masks", "prompts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco export``."""
    from taco.cli import add_config_arguments

    parser.add_argument("out", metavar="OUT.onnx", help="the file to write; weights of over 1.8 GB go to OUT.onnx.data beside it")
    parser.add_argument(
        "--model",
        required=True,
        choices=MODELS,
        help="person: of the embedded set; masks, prompts: FC-CLIP's, of the paper's set",
    )
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file and say what goes in and comes out."""
    from taco.cli import config_from, print_json

    config, path = config_from(args), Path(args.out).expanduser()
    if path.suffix != ".onnx" or not path.parent.is_dir():
        raise ConfigError(f"taco export: wanted a path that ends in .onnx, in a folder that is there, got {args.out}")
    network = networks(config, args.model)
    try:
        from taco.backbones.onnx_export import export, save

        model = export(network.module, network.outputs, network.example)
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            f"taco export: wanted the package {error.name}, got none; run `pip install {error.name}`"
        ) from None
    save(model, path)
    report = {"file": str(path), "model": args.model, "checked_in": _check(network, path, args.model), **_ports(model)}
    if args.json:
        print_json(report)
        return 0
    print(f"{path}: {args.model} of the {config.models.name} set, {path.stat().st_size / 1e6:.1f} MB")
    for kind in ("inputs", "outputs"):
        for name, form in report[kind].items():
            print(f"  {kind[:-1]:6} {name:16} {form}")
    print(f"same as torch in {report['checked_in']}" if report["checked_in"] else "not compared: ONNX Runtime is not installed")
    return 0


def networks(config: TacoConfig, model: str) -> TorchNetwork:
    """The network in torch, on the CPU, in float32; ConfigError where the set of models has none of this name."""
    from taco.backbones import load_backbones
    from taco.engines import TorchNetwork

    config = config.updated({"models.engine": "torch", "models.device": "cpu", "models.precision": "float32"})
    backbones = load_backbones(config.models)
    image: Any = backbones.image
    sound: Any = backbones.audio
    found: dict[str, Any] = {}
    if config.models.name == "embedded":
        found = {"image": image.encoder.run, "person": image.person.run, "sound": next(iter(sound.networks.values()), None)}
    else:
        found = {"image": image.run, "sound": getattr(sound, "run", None)}
        if model in ("masks", "prompts"):
            from taco.segmentation import load_segmenter

            segmenter: Any = load_segmenter(config, backbones)
            if hasattr(segmenter, "prompt_network"):
                found |= {"masks": segmenter.run, "prompts": segmenter.prompt_network()}
    if not isinstance(found.get(model), TorchNetwork):
        there = ", ".join(name for name, network in found.items() if network)
        raise ConfigError(f"--model: wanted one of {there} with these settings, got {model}")
    return found[model]  # type: ignore[no-any-return]  # checked just now


def _check(network: TorchNetwork, path: Path, name: str) -> str:
    """The engine in which the file gave what torch gives; empty without one. WeightsError where it differs."""
    from taco.backbones.engine_export import check
    from taco.engines import compile_network, installed_engines

    if "onnxruntime" not in installed_engines():
        return ""
    check(compile_network(path, network.outputs, "onnxruntime"), network, network.example.inputs, name)
    return "onnxruntime"


def _ports(model: onnx.ModelProto) -> dict[str, dict[str, str]]:
    """Names, types and sizes of what goes in and comes out; "any" where a size is open."""
    import onnx

    def form(value: onnx.ValueInfoProto) -> str:
        kind = onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
        sides = [str(side.dim_value) if side.HasField("dim_value") else "any" for side in value.type.tensor_type.shape.dim]
        return f"{kind} ({', '.join(sides)})"

    return {
        kind: {value.name: form(value) for value in values}
        for kind, values in (("inputs", model.graph.input), ("outputs", model.graph.output))
    }
