"""Our torch networks in other engines: the same numbers, exported once, and torch wherever that fails."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from taco import engines
from taco.backbones import engine_export
from taco.backbones.efficientnet import OUTPUTS, EfficientNetEncoder, EfficientNetLite0
from taco.backbones.engine_export import Runtime, check
from taco.backbones.mobile_blocks import SameConv2d
from taco.backbones.onnx_export import Example, export
from taco.engines import TorchNetwork, compile_network, installed_engines
from taco.errors import WeightsError
from taco.types import VideoFrame
from test.taco.backbones.test_embedded_models import WORDS, randomised

INSTALLED = installed_engines()
pytestmark = pytest.mark.skipif(not INSTALLED, reason="no engine is installed")


class Small(nn.Module):
    """A strided convolution with TensorFlow's uneven padding, then another."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = SameConv2d(3, 8, 3, 2), SameConv2d(8, 4, 5, 2)

    def forward(self, x):
        found = self.one(x).relu()
        return {"fine": found, "coarse": self.two(found)}


EXAMPLE = Example((torch.zeros(1, 3, 32, 64),), ((0, 2, 3),))


def runtime(tmp_path, **settings):
    return Runtime(**{"engine": INSTALLED[0], "cache": tmp_path, **settings})


@pytest.fixture
def small():
    return Small().eval().requires_grad_(False)


@pytest.mark.parametrize("engine", INSTALLED)
@pytest.mark.parametrize("size", [(32, 64), (96, 64), (64, 32)])
def test_an_engine_gives_torchs_numbers_at_every_size(tmp_path, small, engine, size):
    network = runtime(tmp_path, engine=engine).network(small, "small", ("fine", "coarse"), EXAMPLE)
    assert network.engine == engine and network.precision == "float32"
    x = torch.randn(2, 3, *size)
    found, wanted = network(x), small(x)
    assert list(found) == ["fine", "coarse"]
    for name, values in wanted.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("engine", INSTALLED)
def test_the_image_encoders_tokens_agree_for_wide_and_high_pictures(tmp_path, engine):
    network = randomised(EfficientNetLite0())
    ours = EfficientNetEncoder(network, WORDS, 128)
    theirs = EfficientNetEncoder(network, WORDS, 128, runtime(tmp_path, engine=engine))
    assert theirs.run.engine == engine
    for shape in ((48, 64, 3), (90, 50, 3), (60, 60, 3)):
        frame = VideoFrame(np.random.default_rng(0).integers(0, 255, shape, np.uint8), 0)
        one, other = ours.encode(frame), theirs.encode(frame)
        assert one.tokens.grid == other.tokens.grid and set(other.pyramid) == set(OUTPUTS)
        cosine = torch.cosine_similarity(one.tokens.values, other.tokens.values, dim=1)
        assert cosine[one.tokens.values.any(1)].min() >= 0.9999


def test_padding_becomes_part_of_the_convolution(small):
    kinds = [node.op_type for node in export(small, ("fine", "coarse"), EXAMPLE).graph.node]
    assert "Pad" not in kinds and kinds.count("Conv") == 2


@pytest.mark.parametrize("how", [{"mode": "reflect"}, {"value": 2.0}, {"value": 0.5}], ids=str)
def test_other_padding_stays(how):
    class Edges(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)

        def forward(self, x):
            return self.conv(nn.functional.pad(x, (1, 1, 1, 1), **how))

    x = torch.randn(1, 3, 32, 64)
    module = Edges().eval()
    network = compile_network(export(module, ("out",), EXAMPLE).SerializeToString(), ("out",), INSTALLED[0])
    torch.testing.assert_close(network(x)["out"], module(x).detach(), rtol=1e-4, atol=1e-5)


def test_the_second_start_reads_what_the_first_one_wrote(tmp_path, small, monkeypatch):
    made = []
    monkeypatch.setattr(engine_export, "export", lambda *args: made.append(1) or export(*args))
    for _ in range(2):
        assert runtime(tmp_path).network(small, "small", ("coarse",), EXAMPLE).engine == INSTALLED[0]
    assert made == [1] and len(list(tmp_path.glob("*.onnx"))) == 1 and not list(tmp_path.glob("*.part"))


def test_other_weights_or_another_engine_version_are_exported_anew(tmp_path, small, monkeypatch):
    runtime(tmp_path).network(small, "small", ("coarse",), EXAMPLE)
    monkeypatch.setattr(engine_export, "_version", lambda package: "99.0")
    runtime(tmp_path).network(small, "small", ("coarse",), EXAMPLE)
    small.one.weight.mul_(2)
    runtime(tmp_path).network(small, "small", ("coarse",), EXAMPLE)
    assert len(list(tmp_path.glob("*.onnx"))) == 3


def test_an_export_for_other_sizes_is_another_file(tmp_path, small):
    fixed = Example((torch.zeros(1, 3, 32, 64),), ((),))
    larger = Example((torch.zeros(1, 3, 64, 64),), ((),))
    for example in (fixed, larger, EXAMPLE):
        network = runtime(tmp_path).network(small, "small", ("fine", "coarse"), example)
        assert network(example.inputs[0])["fine"].shape[2] == example.inputs[0].shape[2] // 2
    assert len(list(tmp_path.glob("*.onnx"))) == 3
    assert (
        runtime(tmp_path).network(small, "small", ("fine", "coarse"), EXAMPLE)(torch.zeros(2, 3, 96, 96))["fine"].shape[2] == 48
    )


def test_a_damaged_file_is_made_anew(tmp_path, small, caplog):
    runtime(tmp_path).network(small, "small", ("coarse",), EXAMPLE)
    (path,) = tmp_path.glob("*.onnx")
    path.write_bytes(path.read_bytes()[:100])
    assert runtime(tmp_path).network(small, "small", ("coarse",), EXAMPLE).engine == INSTALLED[0]
    assert "made anew" in caplog.text and path.stat().st_size > 100


def test_a_folder_that_cannot_be_written_only_costs_the_next_start(tmp_path, small, caplog):
    (tmp_path / "file").write_text("")
    network = runtime(tmp_path, cache=tmp_path / "file").network(small, "small", ("coarse",), EXAMPLE)
    assert network.engine == INSTALLED[0] and "TACO_CACHE" in caplog.text


def test_a_missing_engine_leaves_torch_and_one_line(tmp_path, small, monkeypatch, caplog):
    monkeypatch.setattr(engine_export, "installed_engines", lambda: ())
    monkeypatch.setattr(engine_export, "_logged", set())
    with caplog.at_level(logging.WARNING):
        for engine in ("openvino", "openvino"):
            assert runtime(tmp_path, engine=engine).network(small, "small", ("coarse",), EXAMPLE).engine == "torch"
    assert len(caplog.records) == 1 and "pip install openvino" in caplog.text


def test_an_engine_that_computes_something_else_is_not_used(tmp_path, small, monkeypatch, caplog):
    other = Small().eval()
    torch.nn.init.ones_(other.one.weight)
    monkeypatch.setattr(engine_export, "export", lambda module, *args: export(other, *args))
    assert runtime(tmp_path).network(small, "small", ("coarse",), EXAMPLE).engine == "torch"
    assert "cosine" in caplog.text and not list(tmp_path.glob("*.onnx"))


def test_the_check_refuses_numbers_that_are_not_finite(small):
    class Broken(TorchNetwork):
        def __call__(self, *inputs):
            return {name: values * float("nan") for name, values in super().__call__(*inputs).items()}

    with pytest.raises(WeightsError, match="finite"):
        check(Broken(small, ()), TorchNetwork(small, ()), EXAMPLE.inputs, "small")


def test_the_check_refuses_the_right_direction_at_another_scale(small):
    class Louder(TorchNetwork):
        def __call__(self, *inputs):
            return {name: values * 1.01 for name, values in super().__call__(*inputs).items()}

    with pytest.raises(WeightsError, match="a difference of 0.01"):
        check(Louder(small, ()), TorchNetwork(small, ()), EXAMPLE.inputs, "small")


def test_torch_is_taken_where_it_is_asked_for(tmp_path, small):
    network = runtime(tmp_path, engine="torch").network(small, "small", ("coarse",), EXAMPLE)
    assert isinstance(network, engines.Network) and network.engine == "torch" and not list(tmp_path.iterdir())
