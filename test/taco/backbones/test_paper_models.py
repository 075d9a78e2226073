"""The paper's set of models as tiny stand-ins of the same classes: the whole line, from a weights folder to a scene."""

import sys

import numpy as np
import pytest
import torch

from taco.backbones import build_anchors, load_backbones
from taco.config import ModelsConfig, TacoConfig
from taco.errors import ConfigError, DeviceError, MissingPackageError, WeightsError
from taco.pipeline import TacoPipeline
from taco.types import AudioWindow, VideoFrame
from test.taco import synthetic_weights as synthetic


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    return synthetic.save_paper_set(tmp_path_factory.mktemp("models"))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TACO_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("a start touched the network"))


def config(settings, **more):
    always = {"concepts.min_score": 0.0, "segmentation.min_area": 0.0}
    return TacoConfig().updated({**settings, **always, **{key.replace("__", "."): value for key, value in more.items()}})


@pytest.mark.parametrize("solver, steps", [("block", 0), ("gradient", 30)])
@pytest.mark.parametrize("segmenter", ["", "activation"])
def test_a_frame_and_its_sound_go_down_the_whole_line(settings, solver, steps, segmenter):
    chosen = config(
        settings,
        factorization__solver=solver,
        factorization__max_iterations=steps,
        models__segmenter=segmenter,
        concepts__n_labels=3,
    )
    pipeline = TacoPipeline(chosen)
    frame = VideoFrame(synthetic.picture(), 5)
    scene = pipeline.process(frame, AudioWindow(synthetic.sound(16000), 16000, 0))
    assert scene.verdict == "sounding" or scene.objects == ()
    assert set(scene.stage_ms) >= {"image", "sound", "factorize", "segment"}
    assert scene.confidence.shape == (100, 150) and 0 <= scene.confidence.min() <= scene.confidence.max() <= 1
    assert scene.factorization.visual_factors.shape == (8, 768) and scene.factorization.audio_activations.shape == (64, 8)
    for item in scene.objects:
        assert item.mask.shape == (100, 150) and item.label in pipeline.anchors.words
    again = pipeline.process(frame, AudioWindow(synthetic.sound(16000), 16000, 0))
    assert np.isfinite(again.confidence).all()


def test_default_words_are_audiosets(settings):
    backbones = load_backbones(config(settings).models)
    assert len(backbones.words) == 527
    anchors = build_anchors(backbones, ("dog",))
    assert anchors.visual.shape == (1, 768) and anchors.audio.shape == (1, 1024)
    assert anchors.audio_logit_scale == pytest.approx(np.exp(2.5)) and anchors.visual_logit_scale == pytest.approx(1 / 0.07)
    assert torch.equal(anchors.audio_projection(torch.ones(768)), backbones.audio.project(torch.ones(768)))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-2), ("auto", 5e-2)])
def test_a_gpu_gives_the_tokens_and_maps_of_the_cpu(settings, precision, tolerance):
    frame, window = VideoFrame(synthetic.picture(), 0), AudioWindow(synthetic.sound(16000), 16000, 0)
    here = TacoPipeline(config(settings))
    there = TacoPipeline(config(settings, models__device="cuda:0", models__precision=precision))
    for ours, theirs in zip(here.encode(frame, window), there.encode(frame, window)):
        values = [getattr(one, "tokens", one).values.cpu() for one in (ours, theirs)]
        assert (values[0] - values[1]).norm() < tolerance * values[0].norm()
    maps = [line.segmenter.maps(line.encode(frame, window)[0], synthetic.prompts()).cpu() for line in (here, there)]
    assert (maps[0] - maps[1]).norm() < 3 * tolerance * maps[0].norm()
    assert np.isfinite(there.process(frame, window).confidence).all()


@pytest.mark.parametrize(
    "change, error, said",
    [
        ({"models__image": "convnext_base_w"}, ConfigError, "convnext_base_w=FILE"),
        ({"models__image": "convnext_base_w=/nowhere/w.bin"}, WeightsError, "no such file"),
        ({"models__image": "ViT-B-16=/nowhere/w.bin"}, ConfigError, "a ConvNeXt or FastViT .*, got ViT-B-16$"),
        ({"models__audio": "musicnn"}, ConfigError, "msclap, laion-clap, pe-audio or pe-audio-video"),
        ({"models__audio": "laion-clap"}, WeightsError, "taco weights fetch laion-clap"),
        ({"models__device": "cuda:3"}, DeviceError, "cuda:3"),
        ({"models__device": "tpu"}, DeviceError, "auto, cpu or cuda:N"),
        ({"models__model_dir": "/nowhere/at/all"}, WeightsError, "taco weights fetch paper --dir /nowhere/at/all"),
    ],
)
def test_what_cannot_run_is_said_with_the_next_step(settings, change, error, said):
    with pytest.raises(error, match=said) as found:
        load_backbones(config(settings, **change).models)
    assert "\n" not in str(found.value)


def test_a_missing_extra_is_said_before_missing_weights(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(MissingPackageError, match=r"wanted the packages open_clip_torch, .*\[paper\]'`, then `taco weights"):
        load_backbones(ModelsConfig(name="paper", model_dir=str(tmp_path)))
