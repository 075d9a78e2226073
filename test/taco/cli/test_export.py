"""``taco export``: files that ONNX Runtime loads and that give what torch gives, of both sets of models."""

import json

import numpy as np
import pytest
import torch

from taco.cli import main
from taco.cli.export import networks
from taco.config import TacoConfig
from test.taco import synthetic_weights as synthetic

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    return synthetic.save_paper_set(tmp_path_factory.mktemp("models"))


def exported(settings, model, path, capsys):
    options = [part for name, value in settings.items() if name != "models.word_bank" for part in ("--set", f"{name}={value}")]
    assert main(["export", "--model", model, str(path), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out), onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("model", ["image", "sound", "masks"])
def test_the_papers_networks_are_those_of_torch(paper, model, tmp_path, capsys):
    report, session = exported(paper, model, tmp_path / "out.onnx", capsys)
    network = networks(TacoConfig().updated(paper), model)
    assert list(report["inputs"]) == [value.name for value in session.get_inputs()] == list(network.example.names)
    random = torch.Generator().manual_seed(1)
    inputs = [torch.randn(values.shape, generator=random) for values in network.example.inputs]
    with torch.inference_mode():
        wanted = network(*inputs)
    found = session.run(None, {name: values.numpy() for name, values in zip(network.example.names, inputs)})
    for name, got in zip([value.name for value in session.get_outputs()], found):
        one, other = wanted[name].flatten(), torch.from_numpy(got).flatten()
        assert torch.cosine_similarity(one, other, 0) >= 0.9999 and (one - other).abs().max() < 1e-3 * one.abs().max()
        if name == "masks":
            inside, same = wanted[name] > 0, torch.from_numpy(got) > 0
            assert (inside & same).sum() >= 0.99 * (inside | same).sum()


@pytest.mark.parametrize("count", [1, 8, 30])
def test_the_number_of_prompts_is_open(paper, count, tmp_path, capsys):
    report, session = exported(paper, "prompts", tmp_path / "out.onnx", capsys)
    assert report["inputs"]["prompts"] == "float (any, 768)"
    assert "any" in report["outputs"]["shares"] and report["outputs"]["maps"].startswith("float (any")
    network = networks(TacoConfig().updated(paper), "prompts")
    random = torch.Generator().manual_seed(count)
    inputs = [torch.randn(values.shape, generator=random) for values in network.example.inputs[:3]]
    inputs.append(torch.randn(count, 768, generator=random))
    wanted = network(*inputs)
    found = session.run(["shares", "maps"], {name: values.numpy() for name, values in zip(network.example.names, inputs)})
    for name, got in zip(("shares", "maps"), found):
        np.testing.assert_allclose(got, wanted[name], rtol=1e-3, atol=1e-4)


def test_a_network_that_the_set_lacks_and_a_wrong_path_are_told(paper, tmp_path, capsys):
    options = [part for name, value in paper.items() if name != "models.word_bank" for part in ("--set", f"{name}={value}")]
    assert main(["export", "--model", "person", str(tmp_path / "out.onnx"), *options]) == 2
    assert "wanted one of image, sound" in capsys.readouterr().err
    assert main(["export", "--model", "image", str(tmp_path / "out.bin"), *options]) == 2
    assert "ends in .onnx" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.data
@pytest.mark.parametrize("model", ["image", "person", "sound"])
def test_the_embedded_networks_load_and_were_compared(model, tmp_path, capsys):
    report, session = exported({}, model, tmp_path / "out.onnx", capsys)
    assert report["checked_in"] == "onnxruntime" and session.get_outputs()
    assert model == "sound" or report["inputs"]["image"].startswith("uint8 (any, 3")
