"""The embedded models: networks against other implementations, encoders on sounds, and what is said when files lack."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from taco.backbones import build_anchors, embedded
from taco.backbones.base import AudioEncoder, Backbones, ImageEncoder
from taco.backbones.efficientnet import EfficientNetEncoder, EfficientNetLite0, folded
from taco.backbones.musicnn import MusiCNN, mel_bank
from taco.backbones.sounds import BirdnetHead, EmbeddedAudioEncoder, MusicnnHead
from taco.backbones.tensorbundle import read_bundle
from taco.config import ModelsConfig
from taco.errors import ConfigError, MissingPackageError, WeightsError
from taco.types import AudioWindow, VideoFrame


@pytest.fixture(scope="module")
def models() -> Backbones:
    """The real ones; fetched by name where they are missing."""
    embedded.fetch(ModelsConfig())
    return embedded.load(ModelsConfig())


def randomised(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for name, value in network.state_dict().items():
        if "running_var" in name:
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        elif value.is_floating_point():
            value.copy_(
                torch.randn(value.shape, generator=generator) * (0.3 if value.ndim < 2 else 1.2 / value[0].numel() ** 0.5)
            )
    return network.eval()


# --- the image network


def test_the_network_equals_an_independent_implementation():
    from taco.backbones.torchvision_compat import ensure_torchvision

    ensure_torchvision()
    import timm

    ours = randomised(EfficientNetLite0())
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    state = [value for name, value in ours.state_dict().items() if "num_batches" not in name]
    names = [name for name in theirs.state_dict() if "num_batches" not in name]
    assert [value.shape for value in state] == [theirs.state_dict()[name].shape for name in names]  # same order, same shapes
    theirs.load_state_dict(dict(zip(names, state)), strict=False)
    for size in ((64, 96), (70, 33)):
        image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            expected = theirs.forward_features(image)
            got = ours(image)["res5"]
        assert expected.std() > 0.01
        assert torch.allclose(got, expected, atol=1e-4 * float(expected.abs().max()))


def test_folding_the_normalisations_changes_nothing():
    network = randomised(EfficientNetLite0())
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before, after = network(image), folded(network)(image)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded(network).modules())
    for name in before:
        assert torch.allclose(after[name], before[name], atol=1e-4 * float(before[name].abs().max()))


WORDS = {"violin": (889,), "dog": (151, 152)}


def test_tokens_and_words_of_an_image():
    encoder = EfficientNetEncoder(randomised(EfficientNetLite0()), WORDS, image_size=128)
    assert isinstance(encoder, ImageEncoder)
    rgb = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    features = encoder.encode(VideoFrame(rgb, 0))
    assert features.tokens.grid == (3, 5) and features.size == (96, 160)  # the aspect ratio within half a token
    values = features.tokens.values
    assert values.shape == (15, 1280) and values.min() >= 0 and values.max() <= 6
    assert {name: stage.shape[2:] for name, stage in features.pyramid.items()}["res2"] == (24, 40)
    rows = encoder.network._fc.weight
    expected = rows[[151, 152]].mean(0) - rows.mean(0)
    assert torch.allclose(encoder.encode_text(["violin", "dog"])[1], expected, atol=1e-6)
    assert encoder.encode_others(["violin"]).shape == (999, 1280)
    with pytest.raises(ConfigError, match="does not know 'viola'; did you mean violin"):
        encoder.encode_text(["viola"])


@pytest.mark.parametrize("damage", ["missing", "text", "half", "other"])
def test_bad_image_weights_are_said_in_one_line(tmp_path, damage):
    path = tmp_path / "weights.pth"
    if damage == "text":
        path.write_text("nothing")
    elif damage == "other":
        torch.save({"layer": torch.zeros(3)}, path)
    elif damage == "half":
        torch.save(EfficientNetLite0().state_dict(), path)
        path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(WeightsError, match="wanted EfficientNet-Lite0 weights.*taco weights fetch embedded") as error:
        EfficientNetEncoder.from_file(path, WORDS)
    assert "\n" not in str(error.value)


# --- musicnn


def test_the_mel_bank_is_slaneys():
    from transformers.audio_utils import mel_filter_bank

    expected = mel_filter_bank(257, 96, 0, 8000, 16000, norm="slaney", mel_scale="slaney").T
    assert np.allclose(mel_bank(16000, 512, 96), expected, atol=1e-6)


def bundle_files(folder, tensors, dtype=1):
    """A TensorFlow checkpoint with one table block, written by hand after the format's description."""

    def varint(n):
        out = bytearray()
        while n >= 0x80:
            out.append(n & 0x7F | 0x80)
            n >>= 7
        return bytes([*out, n])

    def block(entries):
        body = b""
        last = b""
        for key, value in entries:
            shared = next((i for i, (a, b) in enumerate(zip(last, key)) if a != b), min(len(last), len(key)))
            body += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
            last = key
        return body + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")

    data, entries = b"", [(b"", b"\x08\x01")]
    for name, array in sorted(tensors.items()):
        shape = b"".join(b"\x12" + varint(len(dim)) + dim for dim in (b"\x08" + varint(n) for n in array.shape))
        record = b"\x08" + bytes([dtype]) + b"\x12" + varint(len(shape)) + shape
        record += b"\x20" + varint(len(data)) + b"\x28" + varint(array.nbytes) + b"\x35abcd"
        entries.append((name.encode(), record))
        data += array.tobytes()
    first = block(entries)
    index = block([(b"z", varint(0) + varint(len(first)))])
    table = first + b"\0crc4" + index + b"\0crc4"
    footer = varint(0) + varint(0) + varint(len(first) + 5) + varint(len(index))
    table += footer.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")
    (folder / "index").write_bytes(table)
    (folder / "data").write_bytes(data)
    return folder / "index", folder / "data"


def test_a_checkpoint_is_read_without_tensorflow(tmp_path):
    tensors = {
        "conv/kernel": np.arange(200, dtype=np.float32).reshape(4, 50),
        "conv/bias": np.array([1.5], np.float32),
        "step": np.array(3.0, np.float32),
    }
    got = read_bundle(*bundle_files(tmp_path, tensors))
    assert set(got) == set(tensors)
    assert all(np.array_equal(got[name], tensors[name]) and got[name].shape == tensors[name].shape for name in tensors)


def test_damaged_or_foreign_checkpoints_are_said(tmp_path):
    index, data = bundle_files(tmp_path, {"other": np.zeros(3, np.float32)})
    with pytest.raises(WeightsError, match="another model"):
        MusiCNN.from_bundle(index, data)
    index.write_bytes(index.read_bytes()[:-3])
    with pytest.raises(WeightsError, match="damaged"):
        read_bundle(index, data)
    with pytest.raises(WeightsError, match="readable"):
        read_bundle(tmp_path / "none", data)


def test_musicnn_pools_what_it_saw():
    network = randomised(MusiCNN()).requires_grad_(False)
    sound = torch.randn(1, 16000, generator=torch.Generator().manual_seed(0)) * 0.1
    frames = network.frames(network.log_mel(sound))
    assert frames.shape == (1, 753, 63)
    pooled = network.pooled(frames)
    assert pooled.shape == (1, 200) and pooled.min() >= 0
    weights, bias = network.tag_layer()  # folded normalisation and last layer
    assert torch.allclose(pooled @ weights.T + bias, network.tags(network.dense_bn(pooled)), atol=1e-4)


# --- the sound encoder


class Plain:
    """A made sound model of three words: band energies."""

    dim, sample_rate = 3, 8000

    def __init__(self, words):
        self.words = words

    def tokens(self, samples, steps):
        assert abs(len(samples) - 8000) < 10  # one second at its own rate
        return torch.full((steps, 3), 0.5)

    def logits(self, values):
        return 4 * F.normalize(values, dim=-1)[..., : len(self.words)] - 1


def plain(**changes):
    words = {"a": (0.0, 1.0), "b": (1.0, 2.0), "c": (0.0, 1.0)} | changes
    return EmbeddedAudioEncoder([Plain(("a", "b")), Plain(("b", "c"))], words)


def test_cosines_times_the_scale_are_exactly_the_logits():
    encoder = plain()
    values = torch.rand(5, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    rows = encoder.encode_text(["c", "a", "b"])
    cosines = F.cosine_similarity(encoder.project(values)[:, None], rows[None], dim=-1)
    logits = encoder.word_logits(values)
    assert torch.allclose(encoder.logit_scale * cosines, logits[:, [2, 0, 1]], atol=1e-4)
    assert torch.allclose(encoder.project(values).norm(dim=1), torch.full((5,), encoder.logit_scale), rtol=1e-5)
    assert torch.allclose(encoder.project(values), encoder.project(3 * values), atol=1e-4)  # the length does not matter


def test_words_count_by_how_far_they_stand_out():
    values = torch.rand(1, 6, generator=torch.Generator().manual_seed(0)) + 0.1
    raw, moved = plain(b=(0.0, 1.0)).word_logits(values)[0], plain().word_logits(values)[0]
    assert moved[1] == pytest.approx((float(raw[1]) - 1.0) / 2.0) and moved[0] == raw[0]


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_any_sample_rate(rate):
    encoder = plain()
    assert isinstance(encoder, AudioEncoder)
    tokens = encoder.encode(AudioWindow(np.zeros(rate, np.float32), rate, 0))
    assert tokens.values.shape == (8, 6) and tokens.grid == (1, 8)


def test_a_word_the_sound_models_lack_is_named():
    with pytest.raises(ConfigError, match="does not know 'd'"):
        plain().encode_text(["d"])


# --- the set


def test_the_word_table_is_sound():
    table = embedded.word_table()
    assert len({row.word for row in table}) == len(table) >= 60
    assert all(row.imagenet and max(row.imagenet) < 1000 and row.unheard[1] > 0 for row in table)
    assert sum(bool(row.musicnn) for row in table) >= 7


def test_missing_weights_name_the_files_and_the_command(tmp_path):
    config = ModelsConfig(model_dir=str(tmp_path))
    with pytest.raises(WeightsError, match=r"efficientnet-lite0.pth, musicnn-mtt.index.*taco weights fetch embedded") as error:
        embedded.load(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("audio", ["musicn", "musicnn+musicnn", "+", "birdnet+x"])
def test_unknown_sound_models_are_refused(audio):
    with pytest.raises(ConfigError, match="models.audio: wanted musicnn, birdnet or musicnn"):
        embedded.load(ModelsConfig(audio=audio))


def test_birdnet_without_its_package_tells_the_command_and_its_licence(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert", None)
    for part in ("efficientnet-lite0", "birdnet"):
        for name in embedded.FILES[part][1].values():
            (tmp_path / "embedded").mkdir(exist_ok=True)
            (tmp_path / "embedded" / name).touch()
    torch.save(EfficientNetLite0().state_dict(), tmp_path / "embedded" / "efficientnet-lite0.pth")
    with pytest.raises(MissingPackageError, match='pip install "ai-edge-litert'):
        embedded.load(ModelsConfig(audio="birdnet", model_dir=str(tmp_path)))
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().err


def test_birdnet_words_pool_their_species():
    class Network:
        names = ("Snowy Owl", "Barn Owl", "Mallard", "Owlet")
        weights = np.eye(4, 1024, dtype=np.float32)
        bias = np.zeros(4, np.float32)

        def features(self, samples):
            return np.full(1024, 2.0, np.float32)

    head = BirdnetHead(Network(), {"owl": ("*Owl",), "duck": ("Mallard", "Teal"), "heron": ("*Heron",)})
    assert head.words == ("owl", "duck")
    values = torch.zeros(1, 1024)
    values[0, 1] = 1.0
    owl, duck = head.logits(values)[0]
    assert owl == pytest.approx(np.log(1 + np.exp(18.0)), abs=1e-4) and duck == pytest.approx(0.0, abs=1e-6)
    assert head.tokens(np.zeros(48000, np.float32), 4).shape == (4, 1024)


@pytest.mark.data
def test_the_real_models_share_their_words(models):
    bank = build_anchors(models)
    assert bank.words == models.words and {"guitar", "violin", "drums"} <= set(bank.words)
    assert bank.visual.shape == (len(bank.words), 1280) and bank.visual_logit_scale is None
    assert isinstance(models.audio._heads[0], MusicnnHead)
    assert embedded.fetch(ModelsConfig(), report=pytest.fail).is_dir()  # a second time: instant and silent


@pytest.mark.data
def test_the_real_sound_model_hears_drums_and_not_silence_alike(models):
    rate = 16000
    rng = np.random.default_rng(0)
    time = np.arange(rate) / rate
    beats = np.zeros(rate, np.float32)
    for start in range(0, rate, rate // 4):  # bursts of noise with a falling tone: a drum machine
        length = rate // 5
        fade = np.exp(-np.arange(length) / 600)
        beats[start : start + length] += (fade * (rng.normal(0, 0.2, length) + np.sin(2 * np.pi * 90 * time[:length]))).astype(
            np.float32
        )
    heard = models.audio.word_logits(models.audio.encode(AudioWindow(0.5 * beats / abs(beats).max(), rate, 0)).values.mean(0))
    assert models.words[int(heard.argmax())] == "drums" and heard.max() > 1.0
    tokens = models.audio.encode(AudioWindow(np.zeros(rate, np.float32), rate, 0))
    assert torch.isfinite(tokens.values).all() and tokens.values.min() >= 0


@pytest.mark.data
def test_a_closed_vocabulary_refuses_other_words(models):
    with pytest.raises(ConfigError, match="does not know 'unicorn'"):
        build_anchors(models, ("guitar", "unicorn"))
    assert dataclasses.replace(build_anchors(models, ("guitar", "drums"))).words == ("guitar", "drums")
