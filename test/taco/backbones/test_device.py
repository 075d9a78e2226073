"""Where models run: a wanted GPU that is missing is an error; torchvision without its operators is no obstacle."""

import subprocess
import sys

import pytest
import torch

from taco.backbones import vendors
from taco.backbones.device import peak_memory_mb, resolve_device, resolve_precision
from taco.errors import DeviceError


def gpus(monkeypatch, count):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    "count, name, wanted",
    [
        (0, "auto", "cpu"),
        (0, "cpu", "cpu"),
        (2, "auto", "cuda:0"),
        (2, "cpu", "cpu"),
        (2, "cuda", "cuda:0"),
        (2, "cuda:1", "cuda:1"),
    ],
)
def test_device_is_the_one_asked_for(monkeypatch, count, name, wanted):
    gpus(monkeypatch, count)
    assert str(resolve_device(name)) == wanted


@pytest.mark.parametrize(
    "count, name, said",
    [
        (0, "cuda:0", "wanted cuda:0, but"),
        (0, "cuda", "models.device=cpu"),
        (2, "cuda:2", r"got 2 GPU\(s\): cuda:0 to cuda:1"),
        (2, "gpu", "auto, cpu or cuda:N"),
        (2, "", "auto, cpu or cuda:N"),
        (2, "mps", "auto, cpu or cuda:N"),
        (2, "cuda:x", "auto, cpu or cuda:N"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_never_the_cpu(monkeypatch, count, name, said):
    gpus(monkeypatch, count)
    with pytest.raises(DeviceError, match=said):
        resolve_device(name)


@pytest.mark.parametrize(
    "name, device, wanted",
    [
        ("auto", "cpu", torch.float32),
        ("auto", "cuda:0", torch.bfloat16),
        ("float16", "cpu", torch.float16),
        ("bfloat16", "cuda:0", torch.bfloat16),
        ("float32", "cuda:0", torch.float32),
    ],
)
def test_precision(monkeypatch, name, device, wanted):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert resolve_precision(name, torch.device(device)) == wanted


def test_auto_precision_of_an_old_gpu_never_overflows(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert resolve_precision("auto", torch.device("cuda:0")) == torch.float32


def test_unknown_precision_is_refused():
    with pytest.raises(DeviceError, match="int8"):
        resolve_precision("int8", torch.device("cpu"))


def test_peak_memory_is_that_of_this_process():
    before = peak_memory_mb()
    block = torch.ones(50_000_000)
    assert peak_memory_mb() >= before and 100 < peak_memory_mb() < 1e6
    assert block.sum() == 50_000_000


def test_torchvision_is_made_to_load_and_transforms_work():
    """In a process of its own, where nothing has mended it before."""
    code = (
        "from taco.backbones.vendors import ensure_torchvision as mend; assert mend() and mend()\n"
        "import torchvision.transforms as T, torch; assert T.Resize(4)(torch.zeros(3, 8, 8)).shape == (3, 4, 4)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_operators_are_declared_one_by_one(monkeypatch):
    lacking = ["taco_test_one", "taco_test_two"]

    def load(name):
        for operator in lacking:
            if not hasattr(torch.ops.torchvision, operator):
                raise RuntimeError(f"operator torchvision::{operator} does not exist")

    monkeypatch.setattr(vendors.importlib, "import_module", load)
    kept = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "torchvision"}
    assert vendors.ensure_torchvision()
    sys.modules.update(kept)
    assert all(hasattr(torch.ops.torchvision, operator) for operator in lacking)


@pytest.mark.parametrize(
    "error, wanted",
    [
        (ModuleNotFoundError("no", name="torchvision"), False),
        (ModuleNotFoundError("no", name="PIL"), ModuleNotFoundError),
        (RuntimeError("another fault"), RuntimeError),
    ],
)
def test_torchvision_that_is_absent_or_fails_otherwise_is_not_hidden(monkeypatch, error, wanted):
    monkeypatch.setattr(vendors.importlib, "import_module", lambda name: (_ for _ in ()).throw(error))
    if wanted is False:
        assert vendors.ensure_torchvision() is False
    else:
        with pytest.raises(wanted):
            vendors.ensure_torchvision()
