"""OpenCLIP: the input, the tokens and the loading, against open_clip's own path and plain numpy."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from taco.backbones.checkpoint import SkipInitialisation
from taco.backbones.openclip import IMAGE_SIZE, MEAN, STD, OpenCLIPImageEncoder
from taco.backbones.vendors import import_open_clip
from taco.errors import ConfigError, DeviceError, ShapeError, WeightsError
from taco.types import VideoFrame
from test.taco import synthetic_weights as synthetic

NAME, CONFIG = synthetic.TINY_NAME, synthetic.TINY_CONFIG


@pytest.fixture(scope="module")
def clip():
    return synthetic.tiny_clip()


@pytest.fixture(scope="module")
def encoder(clip):
    return OpenCLIPImageEncoder(*clip, name=NAME, image_size=synthetic.TINY_SIDE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, clip):
    """A folder with an open_clip model's description and its weights in every form."""
    folder = tmp_path_factory.mktemp("openclip")
    (folder / f"{NAME}.json").write_text(json.dumps(CONFIG))
    import_open_clip().add_model_config(folder / f"{NAME}.json")
    state = {key: value.contiguous() for key, value in clip[0].state_dict().items()}
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    save_file(state, folder / "open_clip_pytorch_model.safetensors")
    training = {f"module.{key}": value for key, value in state.items()}
    training["module.logit_scale"] = training["module.logit_scale"].reshape(1)
    torch.save({"epoch": 3, "state_dict": training, "optimizer": {}}, folder / "epoch_3.pt")
    return folder


def squashed(rgb: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3) float64: bilinear, corners on corners, in plain numpy."""
    for axis in (0, 1):
        place = np.linspace(0, rgb.shape[axis] - 1, side)
        low = np.clip(np.floor(place).astype(int), 0, max(rgb.shape[axis] - 2, 0))
        high = np.minimum(low + 1, rgb.shape[axis] - 1)
        shape = [1, 1, 1]
        shape[axis] = side
        weight = (place - low).reshape(shape)
        rgb = np.take(rgb, low, axis) * (1 - weight) + np.take(rgb, high, axis) * weight
    return rgb


@pytest.mark.parametrize("size", [(480, 640), (1, 1), (1, 500), (333, 7), (124, 124)])
def test_image_is_squashed_normalised_then_padded_with_zeros(encoder, size):
    rgb = np.random.RandomState(0).randint(0, 256, (*size, 3)).astype(np.uint8)
    image = encoder.preprocess(VideoFrame(rgb, 0))[0].permute(1, 2, 0).numpy()
    side = synthetic.TINY_SIDE
    assert image.shape == (128, 128, 3)
    assert not image[side:].any() and not image[:, side:].any()
    wanted = (squashed(rgb.astype(float), side) / 255 - MEAN) / STD
    np.testing.assert_allclose(image[:side, :side], wanted, atol=2e-4)


def test_paper_size_gives_24_by_24_tokens(clip):
    assert IMAGE_SIZE == 764
    features = OpenCLIPImageEncoder(*clip).encode(VideoFrame(synthetic.picture(), 0))
    assert features.tokens.grid == (24, 24) and features.tokens.values.shape == (576, 768)
    assert features.padded_size == (768, 768) and features.size == (764, 764)
    shapes = {name: tuple(value.shape) for name, value in features.pyramid.items()}
    sides = dict(zip(("res2", "res3", "res4", "res5"), (192, 96, 48, 24)))
    assert shapes == {name: (1, c, sides[name], sides[name]) for name, c in zip(sides, synthetic.TINY_CHANNELS)}


def test_tokens_are_every_location_through_head_and_projection(encoder, clip):
    features = encoder.encode(VideoFrame(synthetic.picture(), 0))
    visual = clip[0].visual
    with torch.no_grad():
        dense = visual.trunk.forward_features(encoder.preprocess(VideoFrame(synthetic.picture(), 0)))
        assert torch.allclose(dense, features.pyramid["res5"], atol=1e-5)
        one_by_one = [visual.head(visual.trunk.head(dense[:, :, i : i + 1, j : j + 1]))[0] for i in range(4) for j in range(4)]
    assert torch.allclose(features.tokens.values, torch.stack(one_by_one), atol=1e-4)
    assert (features.tokens.values < 0).any()  # not clamped here
    assert not torch.allclose(features.tokens.values.norm(dim=1), torch.ones(16), atol=0.05)  # nor normalised


def test_projection_of_the_mean_map_is_encode_image(encoder, clip):
    frame = VideoFrame(synthetic.picture(), 0)
    pooled = encoder.project_dense(encoder.encode(frame).pyramid["res5"].mean((2, 3)))
    with torch.no_grad():
        own = clip[0].encode_image(encoder.preprocess(frame))
    assert torch.allclose(pooled, own, atol=1e-4) and own.abs().max() > 0.1


def test_words_are_prompted(encoder, clip):
    model, tokenizer = clip
    with torch.no_grad():
        own = model.encode_text(tokenizer(["A photo of a dog", "A photo of a {siren}"]))
    assert torch.allclose(encoder.encode_text(["dog", "{siren}"]), own, atol=1e-5)
    assert torch.allclose(encoder.encode_text(["dog", "{siren}"], batch=1), own, atol=1e-5)
    with pytest.raises(ConfigError, match="at least one word"):
        encoder.encode_text([])


def test_tokens_can_be_used_under_autograd(encoder):
    tokens = encoder.encode(VideoFrame(synthetic.picture(), 0)).tokens.values
    weight = torch.zeros(16, 1, requires_grad=True)
    (weight * tokens).sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "open_clip_pytorch_model.safetensors", "epoch_3.pt"])
def test_every_file_form_gives_the_same_encoder(folder, encoder, name):
    frame = VideoFrame(synthetic.picture(), 0)
    loaded = OpenCLIPImageEncoder.from_checkpoint(folder / name, NAME, image_size=synthetic.TINY_SIDE)
    assert torch.equal(loaded.encode(frame).tokens.values, encoder.encode(frame).tokens.values)
    assert loaded.logit_scale == pytest.approx(float(torch.tensor(1 / 0.07)), rel=1e-4)


def test_full_size_checkpoint_loads_strictly(tmp_path):
    with SkipInitialisation():
        model = import_open_clip().create_model("convnext_large_d_320", pretrained=None)
    for index, value in enumerate(model.state_dict().values()):
        value.fill_(index)
    path = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(model.state_dict(), path)
    loaded = OpenCLIPImageEncoder.from_checkpoint(path)
    loaded.encode_text(["dog"])
    path.unlink()  # pytest would keep its 1.4 GB
    found = {**loaded._text.state_dict(), **loaded.model.state_dict()}
    assert list(found) != list(model.state_dict()) and set(found) == set(model.state_dict())
    assert sum(value.numel() for value in found.values()) == pytest.approx(351.77e6, rel=1e-4)
    for index, key in enumerate(model.state_dict()):
        assert found[key].min() == found[key].max() == index, key


def test_reduced_precision_stays_close(clip, folder):
    frame = VideoFrame(synthetic.picture(), 0)
    exact = OpenCLIPImageEncoder.from_checkpoint(folder / "epoch_3.pt", NAME, image_size=124).encode(frame)
    half = OpenCLIPImageEncoder.from_checkpoint(folder / "epoch_3.pt", NAME, precision="bfloat16", image_size=124).encode(frame)
    assert half.tokens.values.dtype == torch.float32
    error = (half.tokens.values - exact.tokens.values).norm() / exact.tokens.values.norm()
    assert 0 < error < 0.05


def test_large_and_odd_images_are_taken_and_wrong_ones_refused(encoder):
    large = np.zeros((6000, 8000, 3), np.uint8)
    assert encoder.encode(VideoFrame(large, 0)).tokens.grid == (4, 4)
    for shape, kind in [((9, 9), np.uint8), ((9, 9, 4), np.uint8), ((9, 9, 3), np.uint16), ((0, 9, 3), np.uint8)]:
        with pytest.raises(ShapeError):
            encoder.encode(VideoFrame(np.zeros(shape, kind), 0))


def test_views_and_read_only_pictures_are_taken_quietly(encoder, recwarn):
    rgb = synthetic.picture()
    wanted = encoder.preprocess(VideoFrame(rgb, 0))
    bgr = np.ascontiguousarray(rgb[..., ::-1])
    fixed = np.frombuffer(rgb.tobytes(), np.uint8).reshape(rgb.shape)
    for view in (bgr[..., ::-1], np.asfortranarray(rgb), rgb[::-1].copy()[::-1], fixed):
        assert torch.equal(encoder.preprocess(VideoFrame(view, 0)), wanted)
    assert not recwarn.list


class Foreign:
    def __reduce__(self):
        return print, ("code ran",)


def spoil(kind, path, state):
    """Write a file that is not the weights wanted."""
    state = {key: value.contiguous() for key, value in state.items()}
    some = dict(list(state.items())[:-1])
    if kind == "a folder":
        path.mkdir()
    elif kind == "an empty file":
        path.write_bytes(b"")
    elif kind == "a web page":
        path.write_text("\n<!DOCTYPE html><html>Sign in</html>")
    elif kind == "a Git LFS pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1407\n")
    elif kind in ("truncated", "truncated safetensors"):
        torch.save(state, path) if kind == "truncated" else save_file(state, path)
        path.write_bytes(path.read_bytes()[:-5000])
    elif kind == "noise":
        path.write_bytes(bytes(range(256)) * 50)
    elif kind == "foreign class":
        torch.save({"state_dict": state, "args": Foreign()}, path)
    elif kind == "one missing":
        torch.save(some, path)
    elif kind == "one too many":
        torch.save({**state, "visual.trunk.extra": torch.zeros(2)}, path)
    elif kind == "another shape":
        torch.save({**state, "text_projection": torch.zeros(64, 512)}, path)
    elif kind == "another model":
        torch.save({"model": synthetic.fcclip(**synthetic.TINY_FCCLIP)}, path)
    elif kind == "no tensors":
        torch.save({"epoch": 3, "note": "hello"}, path)


@pytest.mark.parametrize(
    "kind, said",
    [
        ("nothing", "no such file"),
        ("a folder", "got a folder"),
        ("an empty file", "an empty file"),
        ("a web page", "a web page"),
        ("a Git LFS pointer", "Git LFS pointer"),
        ("truncated", "truncated or of another kind"),
        ("truncated safetensors", "truncated or of another kind"),
        ("noise", "truncated or of another kind"),
        ("foreign class", "refused .*print"),
        ("one missing", "1 missing"),
        ("one too many", "1 unexpected .visual.trunk.extra"),
        ("another shape", r"text_projection \(64, 512\) instead of \(64, 768\)"),
        ("another model", "missing"),
        ("no tensors", "mapping of epoch, note"),
    ],
)
def test_wrong_files_are_named_and_never_run(tmp_path, folder, clip, capsys, kind, said):
    path = tmp_path / ("weights.safetensors" if "safetensors" in kind else "weights.bin")
    spoil(kind, path, clip[0].state_dict())
    with pytest.raises(WeightsError, match=said) as error:
        OpenCLIPImageEncoder.from_checkpoint(path, NAME)
    assert "taco weights fetch" in str(error.value) and "\n" not in str(error.value)
    assert "code ran" not in capsys.readouterr().out


def test_unknown_names_and_other_trunks_are_refused(folder):
    path = folder / "open_clip_pytorch_model.bin"
    with pytest.raises(ConfigError, match="convnext_largest"):
        OpenCLIPImageEncoder.from_checkpoint(path, "convnext_largest")
    for name in ("ViT-B-16", "MobileCLIP2-B", "RN50"):
        with pytest.raises(ConfigError, match=f"wanted an open_clip model with a ConvNeXt or FastViT .*, got {name}$"):
            OpenCLIPImageEncoder.from_checkpoint(path, name)
    with pytest.raises(DeviceError, match="cuda:7"):
        OpenCLIPImageEncoder.from_checkpoint(path, NAME, device="cuda:7")
    with pytest.raises(DeviceError, match="float8"):
        OpenCLIPImageEncoder.from_checkpoint(path, NAME, precision="float8")
