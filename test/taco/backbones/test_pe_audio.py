"""Perception Encoder's ear: tokens and log-odds against transformers' own, and the whole line on a tiny model."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from taco.backbones import build_anchors, load_backbones
from taco.backbones.base import AudioEncoder
from taco.backbones.checkpoint import SkipInitialisation
from taco.backbones.pe_audio import PEAudioEncoder
from taco.backbones.vendors import import_transformers
from taco.concepts import sound_evidence
from taco.config import TacoConfig
from taco.errors import ConfigError, ValueRangeError, WeightsError
from taco.factorization.anchors import PreparedAnchors
from taco.pipeline import TacoPipeline
from taco.types import Anchors, AudioWindow, VideoFrame
from test.taco import synthetic_weights as synthetic
from test.taco import tiny_saved

WORDS = ("dog", "a long siren", "rain")
NAMES = ("pe-audio", "pe-audio-video")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for video in (False, True):
        tiny_saved.save_pe_audio(folder, video)
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TACO_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("a start touched the network"))


def window(seconds=1.0, rate=48_000):
    return AudioWindow(synthetic.sound(rate, seconds), rate, 0)


def upstream(name):
    """Log-odds (T, words) and tokens (T, C) of transformers' own model, a token every 40 ms."""
    model = tiny_saved.pe_audio_model(video=name == "pe-audio-video")
    ear = model.audio_model if name == "pe-audio-video" else model
    frames = import_transformers().PeAudioFrameLevelModel(ear.config).eval()
    frames.load_state_dict(ear.state_dict())
    ids = tiny_saved.tokenizer()(list(WORDS), padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = frames(
            input_ids=ids["input_ids"],
            attention_mask=ids["attention_mask"],
            input_values=torch.from_numpy(synthetic.sound(48_000))[None, None],
        )
    return found.logits_audio_text[0].T, found.audio_outputs.last_hidden_state[0]


@pytest.mark.parametrize("name", NAMES)
def test_log_odds_are_the_models_own(folder, name):
    encoder = PEAudioEncoder.from_folder(folder / name, name, "cpu")
    assert isinstance(encoder, AudioEncoder)
    logits, tokens = upstream(name)
    found = encoder.encode(window())
    assert found.grid == (1, 25) and found.values.shape == (25, 96) and found.values.min() == 0
    torch.testing.assert_close(found.values[:, :48] - found.values[:, 48:], tokens, atol=1e-5, rtol=1e-5)
    words, others = encoder.encode_text(WORDS), encoder.encode_others(WORDS)
    rows = F.normalize(torch.cat([words, others]), dim=-1)
    ours = encoder.logit_scale * F.normalize(encoder.project(found.values), dim=-1) @ rows.T
    assert logits.abs().max() > 5  # else any scale would do
    torch.testing.assert_close(ours[:, :-1], logits, atol=2e-4, rtol=1e-5)
    torch.testing.assert_close(ours[:, -1], torch.zeros(25))
    assert torch.allclose(words.norm(dim=-1), others.norm(dim=-1).expand(3))


def test_the_whole_sound_has_the_models_probabilities(folder):
    """What the line reads of a sound: scale and bias come from the weights, nothing is fitted."""
    encoder = PEAudioEncoder.from_folder(folder / "pe-audio", device="cpu")
    model = tiny_saved.pe_audio_model()
    found = encoder.encode(window()).values.mean(0)
    bank = Anchors(WORDS, torch.eye(3), encoder.encode_text(WORDS), encoder.project, encoder.logit_scale)
    bank = Anchors(*(getattr(bank, key) for key in list(Anchors.__dataclass_fields__)[:7]), encoder.encode_others(WORDS))
    evidence = sound_evidence(found, bank)
    with torch.inference_mode():
        ids = tiny_saved.tokenizer()(list(WORDS), padding=True, return_tensors="pt")
        hidden = model.text_model(
            input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], output_hidden_states=True
        ).hidden_states[-1][:, 0]
        wanted = 3.0 * model.audio_head(found[:48] - found[48:]) @ model.text_audio_head(hidden).T - 2.0
    torch.testing.assert_close(evidence.present, wanted.sigmoid(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(evidence.share, torch.cat([wanted, torch.zeros(1)]).softmax(-1)[:-1], atol=1e-4, rtol=1e-4)


def test_building_ends_in_memory_that_was_used_before():
    """``trunc_normal_`` draws again while a value is too large: it needs numbers, not what lay in memory."""
    values = torch.full((64,), 1e9)
    with SkipInitialisation():
        assert not torch.nn.init.trunc_normal_(values).any()


def test_solvers_get_gradients_through_it(folder):
    encoder = PEAudioEncoder.from_folder(folder / "pe-audio", device="cpu")
    bank = Anchors(WORDS, torch.eye(3), encoder.encode_text(WORDS), encoder.project, encoder.logit_scale)
    prepared = PreparedAnchors(bank, 96, torch.float32, torch.device("cpu"))
    component = encoder.encode(window()).values.mean(0, keepdim=True)
    logits, pull = prepared.audio_logits(component)
    slope, step = pull(torch.tensor([[1.0, 0.0, 0.0]])), 1e-2 * torch.randn(1, 96, generator=torch.Generator().manual_seed(0))
    change = prepared.audio_logits(component + step, grad=False)[0] - prepared.audio_logits(component - step, grad=False)[0]
    assert float((slope * 2 * step).sum()) == pytest.approx(float(change[0, 0]), rel=0.05)


@pytest.mark.parametrize("seconds, rate, steps", [(1.0, 16_000, 25), (0.5, 48_000, 13), (0.001, 44_100, 1), (2.02, 48_000, 51)])
def test_any_rate_and_length_makes_whole_tokens(folder, seconds, rate, steps):
    encoder = PEAudioEncoder.from_folder(folder / "pe-audio", device="cpu")
    found = encoder.encode(window(seconds, rate))
    assert found.grid == (1, steps) and torch.isfinite(found.values).all()


def test_a_sound_with_nan_is_refused(folder):
    encoder = PEAudioEncoder.from_folder(folder / "pe-audio", device="cpu")
    with pytest.raises(ValueRangeError, match="finite"):
        encoder.encode(AudioWindow(np.full(48_000, np.nan, np.float32), 48_000, 0))


def test_words_are_kept_and_the_text_tower_let_go(folder, monkeypatch):
    encoder = PEAudioEncoder.from_folder(folder / "pe-audio", device="cpu")
    assert encoder._text is None
    from taco.backbones import word_bank

    (first,) = word_bank.text_vectors(encoder, WORDS)
    assert encoder._text is None
    monkeypatch.setattr(encoder, "encode_text", lambda words: pytest.fail("encoded again"))
    assert torch.equal(word_bank.text_vectors(encoder, WORDS)[0], first)


def test_a_long_text_is_cut_and_no_word_is_an_error(folder):
    encoder = PEAudioEncoder.from_folder(folder / "pe-audio", device="cpu")
    assert torch.isfinite(encoder.encode_text(["d" * 80, "d" * 2000])).all()
    with pytest.raises(ConfigError, match="at least one word"):
        encoder.encode_text([])


@pytest.mark.parametrize("name", NAMES)
def test_frames_and_their_sound_go_down_the_whole_line(folder, tmp_path, name):
    (tmp_path / "pe").mkdir()
    settings = synthetic.save_paper_set(tmp_path / "pe")
    (tmp_path / "pe" / name).symlink_to(folder / name)
    chosen = {"models.audio": name, "models.segmenter": "activation", "concepts.min_score": 0.0}
    config = TacoConfig().updated({**settings, **chosen})
    backbones = load_backbones(config.models)
    assert backbones.untrained
    anchors = build_anchors(backbones, config.models.word_bank)
    assert anchors.audio_logit_scale == backbones.audio.logit_scale and not anchors.sounds_compete
    assert torch.equal(anchors.audio_others[-1:], backbones.audio.encode_others(WORDS))
    pipeline = TacoPipeline(config, backbones=backbones)
    for stamp in range(2):
        scene = pipeline.process(VideoFrame(synthetic.picture(), stamp), AudioWindow(synthetic.sound(16_000), 16_000, 0))
        assert np.isfinite(scene.confidence).all() and scene.factorization.audio_activations.shape == (25, 8)
        assert 0 <= scene.sounding_score <= 1 and {word for word, _ in scene.heard} <= set(anchors.words)


def without(name):
    def change(path):
        state = load_file(path / "model.safetensors")
        save_file({key: value for key, value in state.items() if name not in key}, path / "model.safetensors")

    return change


def scale(path):
    state = load_file(path / "model.safetensors")
    save_file({**state, "text_audio_logit_scale": torch.zeros(1)}, path / "model.safetensors")


def half(path):
    data = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    "change, said",
    [
        (half, "truncated.*fetch pe-audio"),
        (without("audio_head"), "missing .*fetch pe-audio"),
        (without("text_model.layers.1"), "text_model.*missing"),
        (without("text_audio_logit_scale"), "logit_scale above 0.*got 0"),
        (scale, "logit_scale above 0.*got 0"),
        (lambda path: (path / "config.json").write_text("{"), "configuration files.*fetch pe-audio"),
        (
            lambda path: (path / "config.json").write_text(json.dumps({"model_type": "pe_audio_video"})),
            "wanted model_type pe_audio ",
        ),
    ],
)
def test_what_is_wrong_with_the_folder_is_said_in_a_line(folder, tmp_path, change, said):
    there = tmp_path / "pe-audio"
    there.mkdir()
    for path in (folder / "pe-audio").iterdir():
        (there / path.name).write_bytes(path.read_bytes())
    change(there)
    with pytest.raises(WeightsError, match=said) as found:
        PEAudioEncoder.from_folder(there, device="cpu")
    assert "\n" not in str(found.value)


def test_a_missing_tokenizer_is_said_when_words_are_wanted(folder, tmp_path):
    there = tmp_path / "pe-audio"
    there.mkdir()
    for name in ("model.safetensors", "config.json"):
        (there / name).write_bytes((folder / "pe-audio" / name).read_bytes())
    with pytest.raises(WeightsError, match="configuration files.*fetch pe-audio"):
        PEAudioEncoder.from_folder(there, device="cpu").encode_text(["dog"])
