"""What the node and the commands import before they do anything: each of these costs the start a tenth of a second or more."""

import subprocess
import sys

import pytest

from test import ROOT

HEAVY = ("scipy", "onnx", "onnxruntime", "openvino", "tflite", "pandas", "matplotlib", "PIL", "av", "rosbags", "transformers")
HEAVY += ("timm", "torchvision", "open_clip", "torch._dynamo", "torch.onnx", "sympy", "taco.evaluation", "taco.view")


def loaded(code: str, names: tuple[str, ...]) -> list[str]:
    """Those of the modules that the code imports, in a process of its own."""
    ask = f"import sys; {code}; print(*[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.ros
def test_the_node_imports_nothing_that_its_start_can_do_without():
    assert loaded("import taco_ros.node", HEAVY) == []


@pytest.mark.data
def test_loading_and_running_the_embedded_models_needs_no_scipy_and_reads_no_onnx_file():
    pytest.importorskip("onnxruntime")
    code = "from taco import TacoPipeline; line = TacoPipeline(); line.warm_up(); line = TacoPipeline(); line.warm_up()"
    assert loaded(code, ("scipy", "pandas", "matplotlib", "torch._dynamo")) == []
    assert loaded("from taco import TacoPipeline; TacoPipeline()", ("onnx", "torch.onnx")) == []  # exported before


def test_the_help_imports_no_library_of_arrays():
    code = "from taco.cli import parser_for; parser_for(None).format_help()"
    assert loaded(code, ("numpy", "torch", "cv2", "scipy", "yaml", "taco.config")) == []
