"""The open set as tiny stand-ins of the same classes: its towers, its files, and the whole line on them."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from taco import cli, weights
from taco.backbones import build_anchors, load_backbones, open_models, openclip, untrained
from taco.backbones.checkpoint import mark_untrained
from taco.backbones.openclip import OpenCLIPImageEncoder
from taco.config import ModelsConfig, TacoConfig
from taco.engines import installed_engines
from taco.errors import ConfigError, WeightsError
from taco.pipeline import TacoPipeline
from taco.segmentation.activation import ActivationSegmenter
from taco.types import AudioWindow, VideoFrame
from test.taco import synthetic_weights as synthetic

FRAME = VideoFrame(synthetic.picture(), 5)
WINDOW = AudioWindow(synthetic.sound(16000), 16000, 0)


@pytest.fixture(scope="module", params=[False, True], ids=["convnext", "mobileclip"])
def settings(request, tmp_path_factory):
    return synthetic.save_open_set(tmp_path_factory.mktemp("models"), mobile=request.param)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TACO_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("a start touched the network"))


def config(settings, **more):
    always = {"concepts.min_score": 0.0, "segmentation.min_area": 0.0, "models.engine": "torch"}
    return TacoConfig().updated({**settings, **always, **{key.replace("__", "."): value for key, value in more.items()}})


@pytest.mark.parametrize("make", [synthetic.tiny_clip, synthetic.tiny_mobileclip])
def test_an_image_is_the_head_of_its_mean_map_and_a_token_that_of_its_location(make):
    """With FastViT, whose head is linear, an image is the mean of its tokens too; with ConvNeXt, whose head is not, it is not."""
    model, tokenizer = make()
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        visual, whole = model.visual, model.encode_image(images)
        dense = visual.trunk.forward_features(images)
        pooled = visual.head(visual.trunk.forward_head(dense.mean((2, 3), keepdim=True)))
        places = [dense[:, :, y : y + 1, x : x + 1] for y in range(2) for x in range(3)]
        tokens = torch.stack([visual.head(visual.trunk.forward_head(place)) for place in places], 1)
    torch.testing.assert_close(pooled, whole, rtol=1e-4, atol=1e-5)
    assert (whole[0] - whole[1]).norm() > 0.01 * whole.norm()  # the random tower looks at its image
    encoder = OpenCLIPImageEncoder(model, tokenizer, image_size=64, pyramid=False)  # FastViT's branches become one
    found = encoder.run(images)
    torch.testing.assert_close(found["tokens"], tokens, rtol=1e-3, atol=1e-4)
    assert torch.allclose(tokens.mean(1), whole, atol=1e-4) == (make is synthetic.tiny_mobileclip)
    assert encoder.embed_dim == whole.shape[1] and encoder.encode(FRAME).tokens.grid == (2, 2)


@pytest.mark.parametrize("solver, steps", [("block", 0), ("gradient", 30)])
def test_a_frame_and_its_sound_go_down_the_whole_line(settings, solver, steps):
    chosen = {"factorization__solver": solver, "factorization__max_iterations": steps}
    pipeline = TacoPipeline(config(settings, segmentation__refine="edges", **chosen))
    scene = pipeline.process(FRAME, WINDOW)
    assert set(scene.stage_ms) >= {"image", "sound", "factorize", "segment"} and pipeline.segmenter.name == "activation"
    assert scene.confidence.shape == (100, 150) and np.isfinite(scene.confidence).all()
    assert scene.factorization.visual_activations.shape == (16, 8) and scene.factorization.audio_activations.shape == (64, 8)
    assert all(item.label in pipeline.anchors.words for item in scene.objects)
    assert list(pipeline.backbones.image.encode(FRAME).pyramid) == ["res5"]  # no other map is kept


def test_random_weights_are_marked_when_they_are_made_and_known_when_they_are_loaded(settings):
    """Whichever of the two towers it is."""
    image, marked = Path(settings["models.image"].partition("=")[2]), []
    sound = Path(settings["models.model_dir"]) / "paper" / "CLAP_weights_2023.pth"
    for path in (image, sound):
        mark = path.with_name(path.name + ".untrained")
        marked.append(load_backbones(config(settings).models).untrained)
        mark.rename(mark.with_suffix(".away"))
    marked.append(load_backbones(config(settings).models).untrained)
    for path in (image, sound):
        mark_untrained(path)
    assert marked == [True, True, False]


def test_networks_without_any_file_run_and_are_known_as_random():
    backbones = untrained.load(ModelsConfig(name="open", image="MobileCLIP2-S0", image_size=128, device="cpu"))
    assert backbones.untrained and backbones.image.encode(FRAME).tokens.grid == (4, 4)
    scene = TacoPipeline(backbones=backbones, segmenter=ActivationSegmenter()).process(FRAME, WINDOW)
    assert scene.factorization.audio_activations.shape == (64, 8) and 0 <= scene.sounding_score <= 1
    with pytest.raises(WeightsError, match="no words to encode"):
        untrained._no_text()


def test_scales_are_read_from_the_weights(settings):
    anchors = build_anchors(load_backbones(config(settings).models), ("dog",))
    assert anchors.visual_logit_scale == pytest.approx(1 / 0.07) and anchors.audio_logit_scale == pytest.approx(np.exp(2.5))


def test_text_towers_are_loaded_for_new_words_alone_and_let_go(settings, monkeypatch):
    pipeline = TacoPipeline(config(settings))
    image, sound = pipeline.backbones.image, pipeline.backbones.audio
    assert image._text is None and sound._text is None
    assert [name for name, _ in image.model.named_children()] == ["visual"]
    with monkeypatch.context() as patch:
        patch.setattr(image, "_load_text", lambda: pytest.fail("the image model's text tower was loaded"))
        patch.setattr(sound, "_load_text", lambda: pytest.fail("the sound model's text tower was loaded"))
        pipeline.process(FRAME, WINDOW)
        pipeline.set_words(settings["models.word_bank"])
    real, loaded = openclip._load, []
    monkeypatch.setattr(openclip, "_load", lambda *a, text: loaded.append(text) or real(*a, text=text))
    monkeypatch.setattr("taco.backbones.msclap._load_text", lambda path: pytest.fail("MSCLAP's text tower was loaded"))
    again = TacoPipeline(config(settings))
    assert loaded == [False]  # the second start reads the words' vectors from disk
    assert torch.equal(again.anchors.visual, pipeline.anchors.visual) and torch.equal(again.anchors.audio, pipeline.anchors.audio)
    pipeline.set_words(["a kettle", "dog"])  # new ones are encoded while it runs
    assert pipeline.anchors.words == ("a kettle", "dog") and image._text is None and sound._text is None
    assert pipeline.process(FRAME, WINDOW).heard is not None


@pytest.mark.skipif("onnxruntime" not in installed_engines(), reason="ONNX Runtime is not installed")
def test_onnx_runtime_gives_torchs_tokens(settings):
    here, there = (load_backbones(config(settings, models__engine=engine).models) for engine in ("torch", "onnxruntime"))
    assert there.image.engine == there.audio.run.engine == "onnxruntime"
    for one, other in (
        (here.image.encode(FRAME).tokens, there.image.encode(FRAME).tokens),
        (here.audio.encode(WINDOW), there.audio.encode(WINDOW)),
    ):
        assert one.grid == other.grid
        torch.testing.assert_close(other.values, one.values, rtol=1e-3, atol=1e-3 * float(one.values.abs().max()))


def test_a_word_longer_than_the_models_take_is_cut_and_no_word_is_refused(settings):
    backbones = load_backbones(config(settings).models)
    long = "siren " * 80
    for encoder in (backbones.image, backbones.audio):
        cut, same = encoder.encode_text([long]), encoder.encode_text(["siren " * 90])
        assert torch.isfinite(cut).all() and torch.equal(cut, same)
        with pytest.raises(ConfigError, match="at least one word"):
            encoder.encode_text([])
    for words in ((" ",), ("", "")):
        with pytest.raises(ConfigError, match="models.word_bank: wanted at least one word"):
            build_anchors(backbones, words)


@pytest.mark.parametrize(
    "change, error, said",
    [
        ({"models.image": "MobileCLIP2-B"}, ConfigError, "a ConvNeXt or FastViT .*, got MobileCLIP2-B$"),
        ({"models.image": "ViT-B-16=/nowhere"}, ConfigError, "a ConvNeXt or FastViT .*, got ViT-B-16$"),
        ({"models.image": "convnext_basement"}, ConfigError, "got 'convnext_basement'"),
        ({"models.image": "convnext_xxlarge"}, ConfigError, "convnext_xxlarge=FILE"),
        ({"models.image": ""}, WeightsError, "wanted .*/convnext_base_w/.*taco weights fetch convnext_base_w"),
        ({"models.image": "MobileCLIP2-S0"}, WeightsError, "taco weights fetch MobileCLIP2-S0"),
        ({"models.audio": "musicnn"}, ConfigError, "models.audio: wanted msclap, laion-clap"),
        ({"models.segmenter": "fcclip"}, ConfigError, "fcclip needs models.name paper"),
        (
            {"models.model_dir": "/nowhere/at/all", "models.image": ""},
            WeightsError,
            "taco weights fetch open --dir /nowhere/at/all",
        ),
    ],
)
def test_what_cannot_run_is_said_with_the_next_step(settings, change, error, said):
    with pytest.raises(error, match=said) as found:
        TacoPipeline(config({**settings, **change}))
    assert "\n" not in str(found.value)


def test_half_a_file_and_another_towers_weights_are_named(settings, tmp_path):
    name, _, file = settings["models.image"].partition("=")
    half = tmp_path / "half.bin"
    data = Path(file).read_bytes()
    half.write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="truncated or of another kind"):
        load_backbones(config({**settings, "models.image": f"{name}={half}"}).models)
    other = {synthetic.TINY_NAME: synthetic.TINY_MOBILE_NAME, synthetic.TINY_MOBILE_NAME: synthetic.TINY_NAME}[name]
    synthetic.tiny_mobileclip(), synthetic.tiny_clip()  # both names are known
    with pytest.raises(WeightsError, match="missing.*unexpected.*is it another model"):
        load_backbones(config({**settings, "models.image": f"{other}={file}"}).models)
    state = torch.load(file)
    key = next(key for key in state if "transformer" in key)
    torch.save({k: v for k, v in state.items() if k != key}, tmp_path / "headless.bin")
    with pytest.raises(WeightsError, match="1 missing"):  # of the text tower, which is not loaded
        load_backbones(config({**settings, "models.image": f"{name}={tmp_path / 'headless.bin'}"}).models)


def test_mobileclips_terms_are_said_once(settings, tmp_path, monkeypatch, capsys):
    """When the weights are fetched, or first used where they were copied by hand."""
    folder = tmp_path / "open" / "MobileCLIP2-S4"
    folder.mkdir(parents=True)
    (folder / "open_clip_model.safetensors").write_bytes(b"weights")
    for said in (True, False):
        weights.locate("MobileCLIP2-S4", ModelsConfig(name="open", model_dir=str(tmp_path)))
        assert ("apple-amlr" in "".join(capsys.readouterr())) == said
    shutil.rmtree(folder)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(["weights", "fetch", "MobileCLIP2-S4", "--dir", str(tmp_path)]) == 1
    assert "not for products or other commercial use" in capsys.readouterr().err.replace("\n", " ")


def test_the_listing_and_the_doctor_know_the_set(tmp_path, capsys):
    assert cli.main(["weights", "list", "open", "--dir", str(tmp_path), "--json"]) == 0
    listed = capsys.readouterr().out
    for found in ("convnext_base_w", "CLAP_weights_2023.pth", "vocab.json", "MIT", "MS-PL"):
        assert found in listed
    assert "fcclip" not in listed and "MobileCLIP2" not in listed
    asked = ["doctor", "--set", "models.name=open", "--set", f"models.model_dir={tmp_path}"]
    assert cli.main(asked) == 1
    assert f"run `taco weights fetch open --dir {tmp_path}`" in capsys.readouterr().out
    assert cli.main([*asked, "--set", "models.image=MobileCLIP2-S0", "--set", "models.audio=laion-clap"]) == 1
    assert "taco weights fetch MobileCLIP2-S0 laion-clap" in capsys.readouterr().out


def test_colours_are_those_of_the_models_training():
    assert openclip._colours("MobileCLIP2-S0") == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    for name in ("MobileCLIP2-S4", "convnext_base_w"):
        assert openclip._colours(name) == (openclip.MEAN, openclip.STD)
    assert set(open_models.IMAGE_MODELS) == {part.name for part in weights.PARTS if part.name.startswith(("convnext", "Mobile"))}
