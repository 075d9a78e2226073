"""YAMNet: the published file's own answers, tokens between its steps, and what is heard outside the word bank."""

import math

import numpy as np
import pytest
import torch

from taco.backbones import build_anchors, embedded_models
from taco.backbones.base import AudioEncoder
from taco.backbones.closed_vocabulary import BANDS, STEPS, YamnetHead
from taco.backbones.yamnet import BLOCKS, CLASSES, FEATURES, PATCH_SAMPLES, YAMNet
from taco.concepts import pooled_sound, sound_evidence
from taco.config import ModelsConfig
from taco.errors import ShapeError, WeightsError
from taco.package_files import model_dir
from taco.types import AudioWindow

RATE = 16000


@pytest.fixture(scope="module")
def models():
    embedded_models.fetch(ModelsConfig())
    return embedded_models.load(ModelsConfig())


@pytest.fixture(scope="module")
def network():
    embedded_models.fetch(ModelsConfig())
    return YAMNet.from_file(model_dir() / "embedded" / "yamnet.tflite")


def sound(name: str, count: int = PATCH_SAMPLES, rate: int = RATE) -> np.ndarray:
    t = np.arange(count) / rate
    made = {
        "sine": 0.3 * np.sin(2 * np.pi * 440 * t),
        "beeps": 0.3 * np.sign(np.sin(2 * np.pi * 880 * t)) * ((t % 0.25) < 0.12),
        "trill": 0.3 * np.sin(2 * np.pi * (2000 * t + 1500 * np.sin(2 * np.pi * 6 * t) / 6)),
        "noise": 0.1 * np.random.default_rng(0).normal(size=count),
    }
    return made[name].astype(np.float32)


# Seen with the published file in LiteRT 2.3.0 (8-bit arithmetic): class -> probability.
PUBLISHED = {
    "sine": {495: 0.996, 133: 0.016},
    "beeps": {132: 0.199, 507: 0.199, 513: 0.199, 475: 0.148},
    "trill": {153: 0.262, 147: 0.262, 498: 0.148, 154: 0.059},
    "noise": {509: 0.738, 507: 0.586, 514: 0.500, 287: 0.262},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_network_answers_as_the_published_file_does(network, name):
    answers = network(torch.from_numpy(sound(name))).sigmoid()
    assert answers.shape == (CLASSES,)
    for number, probability in PUBLISHED[name].items():
        assert float(answers[number]) == pytest.approx(probability, abs=0.04)
    assert int(answers.argmax()) in PUBLISHED[name]


def test_the_network_is_mobilenet_with_tensorflows_padding():
    """Against a plain build of the same layers, on random weights."""
    torch.manual_seed(0)
    ours = YAMNet().eval()
    layers: list = [(ours.stem, 2, 1)]
    for (stride, _), depthwise, pointwise in zip(BLOCKS, ours.depthwise, ours.pointwise):
        layers += [(depthwise, stride, depthwise.groups), (pointwise, 1, 1)]
    mel = torch.randn(2, 96, 64)
    x = mel[:, None]
    with torch.no_grad():
        for layer, stride, groups in layers:
            if layer.kernel_size[0] == 3:
                x = torch.nn.functional.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
            x = torch.nn.functional.conv2d(x, layer.weight, layer.bias, stride, groups=groups).clamp(0, 6)
        assert x.shape == (2, FEATURES, 3, 2) and x.std() > 0
        assert torch.allclose(ours.tokens(mel), x.permute(0, 3, 2, 1), atol=1e-6)


@pytest.mark.parametrize("seconds", [0.2, 0.5, 0.975, 1.0, 3.0])
@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_windows_of_any_length_and_rate_give_the_same_grid_of_tokens(models, seconds, rate):
    tokens = models.audio.encode(AudioWindow(sound("trill", round(seconds * rate), rate), rate, 0))
    assert tokens.grid == (BANDS, STEPS) and tokens.values.shape == (BANDS * STEPS, FEATURES)
    assert tokens.values.min() >= 0 and bool(torch.isfinite(tokens.values).all())


def test_a_window_of_one_second_is_no_louder_music_than_its_patch(models):
    """The published trap: 98 frames give a fourth row of tokens that is nothing but edge, and that says "Music"."""
    music = list(models.audio._heads[0]._network.names).index("Music")
    network = models.audio._heads[0]._network
    for name in ("noise", "sine"):
        tokens = models.audio.encode(AudioWindow(sound(name, RATE), RATE, 0))
        assert float(network.classes(tokens.values.mean(0)).sigmoid()[music]) < 0.1
        assert float(network.classes(tokens.values).sigmoid()[:, music].max()) < 0.5


class Counting:
    """Stands where the network stands: a frame's mel is its number, a token the mean of its 32 frames, a class a feature.

    ``asked``: the log-mels of the last pass.
    """

    names = ("dog", "bark", "animal", "rain")

    def log_mel(self, samples):
        assert len(samples) == PATCH_SAMPLES
        self.likeliest_sounds = samples
        return torch.arange(96.0)[:, None].expand(96, 64)

    def tokens(self, log_mel):
        self.asked = log_mel[..., 0]
        means = log_mel.unflatten(1, (3, 32)).mean((2, 3))  # (B, steps)
        return (means[:, None, :, None] + 100 * torch.arange(2)[None, :, None, None]).expand(-1, -1, -1, 4)

    def classes(self, values):
        return values


def test_tokens_lie_in_the_order_of_time_in_two_bands():
    network = Counting()
    head = YamnetHead(network, {"dog": (0, 1)}, general=(2,))
    times = head.tokens(np.zeros(PATCH_SAMPLES, np.float32))[:, 0].view(BANDS, STEPS)
    whole, *rings = network.asked.tolist()
    assert whole == list(range(96))
    for third, ring in enumerate(rings):  # each hears its own third alone, forwards, mirrored and forwards again
        own = list(range(32 * third, 32 * third + 32))
        assert ring == (own + own[::-1] + own)[16:] + own[:16]
    middles = torch.tensor([7.5, 23.5, 39.5, 55.5, 71.5, 87.5])
    share = (middles + 0.02) / (middles + 0.02).mean()
    torch.testing.assert_close(times[0], 47.5 * share)
    torch.testing.assert_close(times[1], 147.5 * (middles + 100.02) / (middles + 100.02).mean())


def test_the_mean_over_time_is_what_the_pass_over_the_whole_patch_says(models, network):
    for name in ("noise", "sine"):
        samples = sound(name, RATE)
        head = models.audio._heads[0]
        found = head.tokens(samples).view(BANDS, STEPS, -1).mean(1)
        mel = head._network.log_mel(torch.from_numpy(samples[-PATCH_SAMPLES:].copy()))
        torch.testing.assert_close(found, network.tokens(mel[None])[0].mean(1), rtol=1e-4, atol=1e-5)


def test_of_a_longer_window_the_newest_whole_patch_counts():
    network = Counting()
    samples = np.arange(40_000, dtype=np.float32)
    YamnetHead(network, {"dog": (0,)}).tokens(samples)
    assert network.likeliest_sounds[0] == 40_000 - PATCH_SAMPLES and network.likeliest_sounds[-1] == 39_999
    YamnetHead(network, {"dog": (0,)}).tokens(samples[:4000])  # a shorter one is repeated
    assert network.likeliest_sounds[4000] == network.likeliest_sounds[0] == 0


def test_a_word_is_the_likeliest_of_its_classes_and_general_ones_stand_aside():
    head = YamnetHead(Counting(), {"dog": (0, 1)}, general=(2,))
    values = torch.tensor([1.0, 3.0, 9.0, 2.0])
    assert head.logits(values).tolist() == [3.0, 2.0] and head.others == ("rain",)
    assert head.general(values) == [("animal", pytest.approx(torch.tensor(9.0).sigmoid().item()))]


def test_words_are_log_odds_whatever_else_is_in_the_bank(models):
    """The same sound gives a word the same probability, and share of all that is heard, in a bank of 3 and of 80 words."""
    component = pooled_sound(models.audio.encode(AudioWindow(sound("beeps", RATE), RATE, 0)))
    every, few = build_anchors(models), build_anchors(models, ("telephone", "dog", "bell"))
    one, other = sound_evidence(component, every), sound_evidence(component, few)
    for place, word in enumerate(few.words):
        assert float(one.present[every.words.index(word)]) == pytest.approx(float(other.present[place]), abs=1e-5)
        assert float(one.share[every.words.index(word)]) == pytest.approx(float(other.share[place]), abs=1e-5)
    odds = models.audio.log_odds(component)
    names = models.audio._names
    assert math.isclose(float(odds[names.index("dog")].sigmoid()), float(other.present[1]), rel_tol=1e-3, abs_tol=1e-5)
    assert float(other.share.sum()) < 1


def test_classes_without_a_word_are_reported_and_stand_against_the_words(models):
    component = pooled_sound(models.audio.encode(AudioWindow(sound("noise", RATE), RATE, 0)))
    told = models.audio.likeliest_sounds(component, 5)
    assert told and told[0][0] in ("White noise", "Pink noise", "Rain", "waterfall or fountain")
    assert [p for _, p in told] == sorted((p for _, p in told), reverse=True) and told[-1][1] >= 0.1
    anchors = build_anchors(models, ("dog", "cat"))
    likeliest_sounds = sound_evidence(component, anchors)
    assert likeliest_sounds.other > 10 * float(likeliest_sounds.present.max()) and not likeliest_sounds.known
    assert models.audio.likeliest_sounds(component, 1) == told[:1] and models.audio.likeliest_sounds(component, 0) == ()


def test_general_names_are_reported_only_where_no_specific_one_is_likely(models):
    tone = pooled_sound(models.audio.encode(AudioWindow(sound("trill", RATE), RATE, 0)))
    general = {"Synthesizer", "Keyboard (musical)", "Sound effect"}
    assert general & {name for name, _ in models.audio.likeliest_sounds(tone, 9)}
    assert not general & set(models.audio._names)


def test_every_word_of_the_bank_has_a_class_of_its_own_ear(models):
    assert len(models.words) >= 75 and "person" in models.words
    assert isinstance(models.audio, AudioEncoder)
    rows = models.audio.encode_text(models.words)
    others = models.audio.encode_others(models.words)
    assert torch.equal(rows @ others.T, torch.zeros(len(rows), len(others)))  # none is both a word and another class
    assert len(torch.cat([rows, others]).unique(dim=0)) == len(rows) + len(others)


def test_too_short_a_window_is_an_error_that_says_so(models):
    with pytest.raises(ShapeError, match="wanted at least 2 samples, got 1"):
        models.audio.encode(AudioWindow(np.zeros(1, np.float32), RATE, 0))


@pytest.mark.parametrize("damage", ["missing", "text", "half"])
def test_bad_weights_are_said_in_one_line(tmp_path, damage):
    path = tmp_path / "yamnet.tflite"
    if damage == "text":
        path.write_text("nothing at all, and no model")
    elif damage == "half":
        embedded_models.fetch(ModelsConfig())
        path.write_bytes((model_dir() / "embedded" / "yamnet.tflite").read_bytes()[:200_000])
    with pytest.raises(WeightsError, match="wanted YAMNet's weights.*taco weights fetch embedded") as error:
        YAMNet.from_file(path)
    assert "\n" not in str(error.value)


def test_means_of_several_sounds_come_in_one_pass_and_are_those_of_their_tokens(models, monkeypatch):
    windows = [AudioWindow(sound(name, RATE), RATE, 0) for name in ("beeps", "noise", "trill")]
    (head,) = models.audio._heads
    run, passes = head.run, []
    monkeypatch.setattr(head, "run", lambda mel: passes.append(len(mel)) or run(mel))
    found = models.audio.encode_means(windows)
    assert passes == [3]
    for window, mean in zip(windows, found, strict=True):
        assert mean.values.shape == (1, models.audio.dim) and mean.grid == (1, 1)
        torch.testing.assert_close(mean.values[0], models.audio.encode(window).values.mean(0), rtol=1e-3, atol=1e-4)
