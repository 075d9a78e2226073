"""The house keeps its shape: imports run only downward, vendors stay in their adapters, rooms stay small."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from test import ROOT

MODULES = sorted(p for room in ("taco", "taco_ros") for p in (ROOT / room).rglob("*.py"))

# Lower numbers know nothing of higher ones; a room may import only rooms below it and its own.
FLOORS = {
    "taco.errors": 0,
    "taco.clock": 0,
    "taco.config_schema": 1,
    "taco.config_node": 1,
    "taco.checks": 1,
    "taco.types": 1,
    "taco.config": 1,
    "taco.audio": 2,
    "taco.package_files": 2,
    "taco.threads": 2,
    "taco.progress": 2,
    "taco.mailbox": 2,
    "taco.palette": 2,
    "taco.io": 3,
    "taco.sound_separation": 3,
    "taco.weights": 3,
    "taco.engines": 3,
    "taco.factorization": 3,
    "taco.concepts": 4,
    "taco.backbones": 4,
    "taco.segmentation": 5,
    "taco.geometry": 5,
    "taco.tracking": 5,
    "taco.sound_direction": 6,
    "taco.pipeline": 6,
    "taco.parallel": 7,
    "taco.view": 8,
    "taco.live": 9,
    "taco.web": 10,
    "taco.segment": 9,
    "taco.evaluation": 9,
    "taco.bench": 10,
    "taco.cli": 11,
    "taco_ros": 11,
    "taco.demo": 12,
}
SAME_FLOOR = {
    ("taco.types", "taco.checks"),
    ("taco.types", "taco.config"),
    ("taco.config", "taco.config_schema"),
    ("taco.config", "taco.config_node"),
    ("taco.config_node", "taco.config_schema"),
}
VENDORS = {
    "aiohttp": {"taco/web.py"},
    "open_clip": {"taco/backbones", "taco/cli/doctor.py"},
    "transformers": {"taco/backbones", "taco/segmentation"},
    "timm": {"taco/backbones"},
    "av": {"taco/io", "taco/cli/doctor.py"},
    "rosbags": {"taco/io/bags.py"},
    "rclpy": {"taco_ros", "taco/demo/recorder.py"},
    "sounddevice": {"taco/io/sound_device.py", "taco/cli/doctor.py"},
    "onnx": {"taco/engines.py", "taco/backbones/engine_export.py", "taco/backbones/onnx_export.py", "taco/cli/export.py"},
    "onnxruntime": {"taco/engines.py"},
    "openvino": {"taco/engines.py"},
    "tflite": {"taco/backbones"},
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room(module: str) -> str | None:
    parts = module.split(".")
    if parts[0] == "taco_ros":
        return "taco_ros"
    if parts[0] != "taco" or len(parts) == 1:
        return None
    return ".".join(parts[:2])


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            found.add(node.module)
            if node.module in ("taco", "taco.cli"):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_downward(path):
    mine = room(name_of(path))
    if mine is None:
        return
    assert mine in FLOORS, f"{mine} is a new room: give it a floor"
    for other in filter(None, map(room, imports(path))):
        if other != mine and (mine, other) not in SAME_FLOOR and other in FLOORS:
            assert FLOORS[other] < FLOORS[mine], f"{mine} (floor {FLOORS[mine]}) imports {other} (floor {FLOORS[other]})"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_vendors_stay_in_their_adapters(path):
    where = str(path.relative_to(ROOT))
    for module in imports(path):
        places = VENDORS.get(module.split(".")[0])
        if places is not None:
            assert any(where.startswith(place) for place in places), f"{where} imports {module}"


def test_core_imports_without_ros_and_without_vendors():
    code = (
        "import sys; import taco.types, taco.config, taco.audio, taco.factorization, taco.concepts, taco.segmentation.base; "
        "vendors = {'rclpy', 'open_clip', 'transformers', 'av', 'timm', 'torchvision'}; "
        "engines = {'onnx', 'onnxruntime', 'openvino', 'tflite'}; "
        "bad = (vendors | engines) & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_stay_small_and_say_what_they_are_for(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 400, "over 400 lines: split it"
    tree = ast.parse(text)
    assert not text.strip() or ast.get_docstring(tree), "no module docstring"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_node_does_no_arithmetic_on_features():
    for path in (ROOT / "taco_ros").glob("*.py"):
        assert "torch" not in {m.split(".")[0] for m in imports(path)}, f"{path.name} imports torch"
