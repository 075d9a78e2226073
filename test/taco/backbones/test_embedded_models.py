"""The embedded models: networks against other implementations, encoders on sounds, and what is said when files lack."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from taco.backbones import build_anchors, embedded_models
from taco.backbones.base import AudioEncoder, Backbones, ImageEncoder
from taco.backbones.closed_vocabulary import BANDS, STEPS, EmbeddedAudioEncoder
from taco.backbones.efficientnet import EfficientNetEncoder, EfficientNetLite0, fold_network
from taco.backbones.musicnn import MusiCNN
from taco.backbones.tensorflow_files import read_bundle
from taco.config import ModelsConfig
from taco.errors import ConfigError, WeightsError
from taco.types import AudioWindow, VideoFrame


@pytest.fixture(scope="module")
def models() -> Backbones:
    """The real ones; fetched by name where they are missing."""
    embedded_models.fetch(ModelsConfig())
    return embedded_models.load(ModelsConfig())


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
    from taco.backbones.vendors import ensure_torchvision

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
        before, after = network(image), fold_network(network)(image)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fold_network(network).modules())
    for name in before:
        assert torch.allclose(after[name], before[name], atol=1e-4 * float(before[name].abs().max()))


WORDS = {"violin": (889,), "dog": (151, 152)}


def test_tokens_and_words_of_an_image():
    network = randomised(EfficientNetLite0())
    encoder = EfficientNetEncoder(network, WORDS, image_size=128)
    assert isinstance(encoder, ImageEncoder)
    rgb = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    features = encoder.encode(VideoFrame(rgb, 0))
    assert features.tokens.grid == (3, 5) and features.size == (96, 160)  # the aspect ratio within half a token
    values = features.tokens.values
    assert values.shape == (15, 1280) and values.min() >= 0 and values.max() <= 6
    assert {name: stage.shape[2:] for name, stage in features.pyramid.items()}["res2"] == (24, 40)
    rows = network._fc.weight
    expected = rows[[151, 152]].mean(0) - rows.mean(0)
    assert torch.allclose(encoder.encode_text(["violin", "dog"])[1], expected, atol=1e-6)
    assert encoder.encode_others(["violin"]).shape == (999, 1280)
    with pytest.raises(ConfigError, match="does not know 'viola'; did you mean violin"):
        encoder.encode_text(["viola"])


class _Runs:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_image_weights_run_no_code(tmp_path):
    torch.save({**EfficientNetLite0().state_dict(), "more": _Runs(tmp_path / "touched")}, tmp_path / "weights.pth")
    with pytest.raises(WeightsError, match="wanted EfficientNet-Lite0 weights"):
        EfficientNetEncoder.from_file(tmp_path / "weights.pth", WORDS)
    assert not (tmp_path / "touched").exists()


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


# --- the sound encoder


class Plain:
    """A made sound model of two words and one class without a word: band energies."""

    name, dim, sample_rate = "plain", 4, 8000

    def __init__(self, words, others=()):
        self.words, self.others = words, others

    def tokens(self, samples):
        assert abs(len(samples) - 8000) < 10  # one second at its own rate
        return torch.full((BANDS * STEPS, 4), 0.5)

    def logits(self, values):
        return 4 * values[..., : len(self.words) + len(self.others)] - 1


def plain():
    return EmbeddedAudioEncoder([Plain(("a", "b"), ("rain",)), Plain(("b", "c"))], ("a", "b", "c", "d"))


def test_cosines_times_the_scale_are_exactly_the_log_odds():
    encoder = plain()
    assert encoder.words == ("a", "b", "c")
    values = torch.rand(5, 8, generator=torch.Generator().manual_seed(0)) + 0.1
    rows = torch.cat([encoder.encode_text(["c", "a", "b"]), encoder.encode_others(["a", "b", "c"])])
    cosines = F.cosine_similarity(encoder.project(values)[:, None], rows[None], dim=-1)
    expected = torch.stack(
        [
            4 * values[:, 5] - 1,  # c
            4 * values[:, 0] - 1,  # a
            torch.maximum(4 * values[:, 1] - 1, 4 * values[:, 4] - 1),  # b: the surer of the two models
            4 * values[:, 2] - 1,  # rain, which has no word
            torch.zeros(5),  # none of them all
        ],
        1,
    )
    assert torch.allclose(encoder.logit_scale * cosines, expected, atol=1e-4)
    assert torch.allclose(encoder.project(values).norm(dim=1), torch.full((5,), encoder.logit_scale), rtol=1e-5)


def test_words_outside_a_smaller_bank_stand_beside_it():
    encoder = plain()
    few = encoder.encode_others(["b"])
    assert len(few) == 4 and {int(row.argmax()) for row in few} == {0, 2, 3, 4}  # a, c, rain, none
    assert int(few[-1].argmax()) == 4


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_any_sample_rate(rate):
    encoder = plain()
    assert isinstance(encoder, AudioEncoder)
    tokens = encoder.encode(AudioWindow(np.zeros(rate, np.float32), rate, 0))
    assert tokens.values.shape == (BANDS * STEPS, 8) and tokens.grid == (BANDS, STEPS)


def test_a_word_the_sound_models_lack_is_named():
    with pytest.raises(ConfigError, match="does not know 'd'"):
        plain().encode_text(["d"])


# --- the set


def test_the_word_table_is_sound():
    table = embedded_models.word_table()
    assert len({row.word for row in table}) == len(table) >= 150
    assert all(
        max(row.imagenet, default=0) < 1000 and max(row.yamnet, default=0) < 521 and row.background[1] > 0 for row in table
    )
    assert all(row.imagenet or row.yamnet or row.person for row in table)
    assert sum(bool(row.musicnn) for row in table) == 7
    assert sum(row.seen and bool(row.yamnet) for row in table) >= 75
    general = set(embedded_models._numbers(embedded_models.GENERAL))
    assert {67, 132, 294, 500} <= general and not {0, 69, 135, 283, 371} & general


def test_words_come_with_the_names_of_their_classes():
    sources = {source.word: source for source in embedded_models.word_sources(ModelsConfig())}
    assert sources["dog"].ear[:2] == ("Dog", "Bark") and "Chihuahua" in sources["dog"].eye
    assert sources["vacuum cleaner"].ear == ("Vacuum cleaner",) and sources["vacuum cleaner"].eye == ("vacuum",)
    assert sources["person"].eye == ("person",) and sources["person"].eye_models == ("person",)
    assert "Speech" in sources["person"].ear and sources["skateboard"].eye == ()
    joined = {source.word: source for source in embedded_models.word_sources(ModelsConfig(audio="yamnet+musicnn"))}
    assert joined["guitar"].ear_models == ("yamnet", "musicnn") and joined["guitar"].ear[-1] == "guitar"


def test_missing_weights_name_the_files_and_the_command(tmp_path):
    config = ModelsConfig(model_dir=str(tmp_path))
    with pytest.raises(WeightsError, match=r"efficientnet-lite0.pth, .*yamnet.tflite.*taco weights fetch embedded") as error:
        embedded_models.load(config)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("audio", ["musicn", "musicnn+musicnn", "+", "birdnet+x"])
def test_unknown_sound_models_are_refused(audio):
    with pytest.raises(ConfigError, match="models.audio: wanted yamnet, musicnn, birdnet or some"):
        embedded_models.load(ModelsConfig(audio=audio))


@pytest.mark.data
def test_the_real_models_share_their_words(models):
    bank = build_anchors(models)
    assert bank.words == models.words and {"guitar", "dog", "vacuum cleaner", "person", "train"} <= set(bank.words)
    assert bank.visual.shape == (len(bank.words), 1281) and bank.visual_logit_scale is None
    assert bank.visual_kinds is not None and bank.audio_others is not None and bank.visual_others is not None
    assert embedded_models.fetch(ModelsConfig(), report=pytest.fail).is_dir()  # a second time: instant and silent


@pytest.mark.data
@pytest.mark.parametrize("audio", ["", "musicnn", "yamnet+musicnn"])
def test_the_real_sound_models_hear_drums_and_take_silence(audio):
    settings = ModelsConfig(audio=audio)
    embedded_models.fetch(settings)
    models = embedded_models.load(settings)
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
    component = models.audio.encode(AudioWindow(0.5 * beats / abs(beats).max(), rate, 0)).values.mean(0)
    odds = models.audio.log_odds(component)[: len(models.words)]
    instruments = [models.words.index(word) for word in ("guitar", "piano", "violin", "cello", "harp", "flute", "drums")]
    assert max(instruments, key=lambda n: float(odds[n])) == models.words.index("drums")
    tokens = models.audio.encode(AudioWindow(np.zeros(rate, np.float32), rate, 0))
    assert torch.isfinite(tokens.values).all() and tokens.values.min() >= 0


@pytest.mark.data
def test_a_closed_vocabulary_refuses_other_words(models):
    with pytest.raises(ConfigError, match="does not know 'unicorn'"):
        build_anchors(models, ("guitar", "unicorn"))
    assert dataclasses.replace(build_anchors(models, ("guitar", "drums"))).words == ("guitar", "drums")
