"""The optional sound models musicnn and BirdNET: what their heads say of words, and what is said when files lack."""

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from taco.backbones.birdnet import BirdNET
from taco.backbones.closed_vocabulary import BANDS, STEPS, BirdnetHead, MusicnnHead
from taco.backbones.musicnn import TAGS, MusiCNN
from taco.errors import MissingPackageError, WeightsError
from test.taco.backbones.test_embedded_models import randomised


def test_musicnn_pools_what_it_saw():
    network = randomised(MusiCNN()).requires_grad_(False)
    sound = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    frames = network.frames(network.log_mel(sound))
    assert frames.shape == (1, 753, 63)
    pooled = network.pooled(frames)
    assert pooled.shape == (1, 200) and pooled.min() >= 0
    weights, bias = network.tag_layer()  # folded normalisation and last layer
    assert torch.allclose(pooled @ weights.T + bias, network.tags(network.dense_bn(pooled)), atol=1e-4)


def test_an_older_models_word_counts_by_how_far_it_stands_out():
    class Network:
        def tag_layer(self):
            return torch.eye(50, 200), torch.zeros(50)

    background = {"guitar": (-3.0, 1.5), "drums": (1.0, 2.0)}
    head = MusicnnHead(Network(), {"guitar": ("guitar",), "drums": ("drums", "beat"), "dog": ()}, background)
    assert head.words == ("guitar", "drums") and head.others == ()
    values = torch.zeros(200)
    values[TAGS.index("guitar")] = 1.0
    guitar, drums = head.logits(values).tolist()
    assert guitar == pytest.approx(head.gain * ((34.0 + 3.0) / 1.5 - head.offset), rel=1e-5)
    assert drums == pytest.approx(head.gain * ((0.0 - 1.0) / 2.0 - head.offset), rel=1e-5)


def test_birdnet_without_its_package_tells_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert", None)
    with pytest.raises(MissingPackageError, match=r"'taco-sounding\[birdnet\]'`, then `taco weights fetch birdnet`"):
        BirdNET(tmp_path / "model", tmp_path / "labels")


def test_birdnet_is_quiet_while_it_loads_and_names_its_own_weights(tmp_path, monkeypatch, capfd):
    class Interpreter:
        def __init__(self, *args, **options):
            pass

        def allocate_tensors(self):
            os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n")  # as LiteRT does
            raise RuntimeError("made")

    made = SimpleNamespace(interpreter=SimpleNamespace(Interpreter=Interpreter))
    monkeypatch.setitem(sys.modules, "ai_edge_litert", made)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", made.interpreter)
    (tmp_path / "labels").write_text("Turdus merula_Blackbird")
    with pytest.raises(WeightsError, match="run `taco weights fetch birdnet`"):
        BirdNET(tmp_path / "model", tmp_path / "labels")
    os.write(2, b"still there")
    assert capfd.readouterr().err == "still there"


def test_birdnet_words_pool_their_species():
    class Network:
        names = ("Snowy Owl", "Barn Owl", "Mallard", "Owlet")
        weights = np.eye(4, 1024, dtype=np.float32)
        bias = np.zeros(4, np.float32)

        def features(self, samples):
            return np.full(1024, 2.0, np.float32)

    words = {"owl": ("*Owl",), "duck": ("Mallard", "Teal"), "heron": ("*Heron",)}
    head = BirdnetHead(Network(), words, dict.fromkeys(words, (0.0, 1.0)))
    assert head.words == ("owl", "duck")
    values = torch.zeros(1, 1024)
    values[0, 1] = 1.0
    owl, duck = head.logits(values)[0] / head.gain + head.offset
    assert owl == pytest.approx(np.log(1 + np.exp(18.0)), abs=1e-4) and duck == pytest.approx(0.0, abs=1e-6)
    assert head.tokens(np.zeros(48000, np.float32)).shape == (BANDS * STEPS, 1024)
