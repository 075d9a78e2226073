"""The figure that tells why, from made features and from the stand-in of a pipeline."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from PIL import Image

from taco import cli
from taco.cli import explain as command
from taco.clock import NS
from taco.concepts import name_concepts
from taco.config import TacoConfig
from taco.io.video_writer import VideoWriter
from taco.types import Anchors, AudioWindow, Factorization, ImageFeatures, SoundingObject, SoundingScene, Tokens, VideoFrame
from taco.view.figure import MEL_BANDS, bars, explain, figure, sound_picture, spectrogram

WORDS = ("dog", "cat", "violin", "siren")


class MadePipeline:
    """Two factors: 0 is a dog at the top left heard in the second half, 1 a cat at the bottom right heard in the first."""

    def __init__(self, config=None):
        self.config, self.processed = config or TacoConfig().updated({"concepts.min_score": 0.0}), []
        words = torch.eye(4, 6)
        self.anchors = Anchors(WORDS, words, words, audio_logit_scale=5.0)
        self.visual = torch.full((16, 6), 0.01)
        self.visual[0, 0], self.visual[15, 1] = 5.0, 3.0
        self.audio = torch.full((10, 6), 0.01)
        self.audio[5:, 0], self.audio[:5, 1] = 4.0, 1.0

    def encodings(self):
        return SimpleNamespace(
            image=lambda frame: ImageFeatures(Tokens(self.visual, (4, 4)), {}, (64, 64), (64, 64)),
            sound=lambda window: Tokens(self.audio, (1, 10)),
        )

    def process(self, frame, window, encodings=None):
        self.processed.append(frame.stamp_ns)
        head = (frame.stamp_ns, frame.size, window.start_ns, window.end_ns, window.level_dbfs)
        if window.level_dbfs < -50:
            return SoundingScene(*head, 0.0, "silent")
        u_v, u_a = torch.full((16, 2), 0.05), torch.full((10, 2), 0.05)
        u_v[0, 0] = u_v[15, 1] = 0.95
        u_a[5:, 0] = u_a[:5, 1] = 0.9
        v = torch.zeros(2, 6)
        v[0, 0], v[1, 1] = 5.0, 3.0
        found = Factorization(u_v, v, u_a, v.clone(), 0)
        encodings = encodings or self.encodings()
        tokens, audio = encodings.image(frame).tokens, encodings.sound(window)
        naming = name_concepts(found, tokens, audio, self.anchors, self.config.concepts)
        mask = np.zeros(frame.size, bool)
        mask[:12, :16] = True
        item = SoundingObject.from_mask(mask, [("dog", 0.9)], 0.8)
        return SoundingScene(*head, 0.8, "sounding", (item,), factorization=found, concepts=naming.concepts)


def inputs(level=0.3, rate=16000):
    noise = np.random.default_rng(0)
    rgb = noise.integers(90, 110, (48, 64, 3), np.uint8)
    samples = (level * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)).astype(np.float32)
    return VideoFrame(rgb, NS), AudioWindow(samples, rate, 0)


def test_factors_are_taken_apart():
    told = explain(MadePipeline(), *inputs())
    assert (told.sounding, told.named, len(told.factors)) == (0, 0, 2)
    dog, cat = told.factors
    assert dog.visual.shape == (4, 4) and dog.visual.argmax() == 0 and cat.visual.argmax() == 15
    assert dog.audio.shape == (1, 10)
    assert dog.seen_words[0][0] == dog.heard_words[0][0] == "dog" and cat.seen_words[0][0] == cat.heard_words[0][0] == "cat"
    assert dog.seen_words[0][1] == pytest.approx(1.0) and sum(s for _, s in dog.heard_words) == pytest.approx(1.0)
    assert [s for _, s in dog.heard_words] == sorted((s for _, s in dog.heard_words), reverse=True)


def test_penalty_is_the_papers_cross_entropy():
    pipeline = MadePipeline()
    told = explain(pipeline, *inputs())
    scene = pipeline.process(*inputs())
    u_v, u_a = scene.factorization.visual_activations, scene.factorization.audio_activations
    for k, view in enumerate(told.factors):
        seen = (u_v[:, k : k + 1] * pipeline.visual).mean(0)[:4] / (u_v[:, k : k + 1] * pipeline.visual).mean(0).norm()
        heard = (u_a[:, k : k + 1] * pipeline.audio).mean(0)[:4] / (u_a[:, k : k + 1] * pipeline.audio).mean(0).norm()
        target = torch.softmax(5.0 * heard, 0)
        assert view.penalty == pytest.approx(float(-(target * torch.log_softmax(seen, 0)).sum()), abs=1e-5)


def test_figure_shows_the_map_where_the_factor_is():
    told = explain(MadePipeline(), *inputs())
    picture = figure(told, "clip at 1.00 s")
    assert picture.dtype == np.uint8 and picture.shape[1] == 3 * 400 + 4 * 12 and picture.shape[0] > 700
    panel = picture[88 : 88 + 300, 424 : 424 + 400].astype(int)
    warm = panel[..., 0] - panel[..., 2]
    assert warm[:70, :90].mean() > warm[200:, 250:].mean() + 20, "U of the dog is warm at the top left"
    assert picture.std() > 10


@pytest.mark.parametrize("size", [(20, 300), (300, 20), (1, 1), (480, 640)])
def test_figure_of_any_image_size(size):
    _, window = inputs()
    frame = VideoFrame(np.zeros((*size, 3), np.uint8), NS)
    assert figure(explain(MadePipeline(), frame, window)).shape[1] == 1248


def test_figure_of_silence_and_of_no_sounding_factor():
    silent = explain(MadePipeline(), *inputs(level=0.0))
    assert silent.factors == () and figure(silent).shape[1] == 1248
    pipeline = MadePipeline(TacoConfig().updated({"concepts.min_score": 1.0}))
    assert figure(explain(pipeline, *inputs())).shape[1] == 1248


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
def test_spectrogram_has_its_peak_at_the_tone(rate):
    _, window = inputs(rate=rate)
    values = spectrogram(window)
    assert values.shape[0] == MEL_BANDS and 150 < values.shape[1] < 230 and values.min() >= 0 and values.max() == 1.0
    top_hz = min(rate / 2, 16000)
    to_mel = lambda hz: 15 + 27 * np.log(hz / 1000) / np.log(6.4) if hz >= 1000 else hz * 3 / 200  # noqa: E731
    wanted = (to_mel(1000) - to_mel(40)) / (to_mel(top_hz) - to_mel(40))
    found = 1 - values.mean(1).argmax() / MEL_BANDS
    assert abs(found - wanted) < 0.04


def test_spectrogram_of_silence_and_of_almost_nothing():
    assert spectrogram(AudioWindow(np.zeros(16000, np.float32), 16000, 0)).max() < 1.0
    assert spectrogram(AudioWindow(np.zeros(10, np.float32), 16000, 0)).shape[0] == MEL_BANDS


def test_sound_picture_is_tinted_where_the_factor_is_active():
    told = explain(MadePipeline(), *inputs())
    picture = sound_picture(inputs()[1], told.factors[0]).astype(int)
    tint = picture[:214, :, 0] - picture[:214, :, 2]
    assert tint[:, 260:].max() > 100 and tint[:, :100].max() < 20


def test_bars_are_longest_for_the_best():
    picture = bars((("dog", 0.8), ("cat", 0.2)), 200, 60).astype(int)
    filled = [(np.abs(picture[y] - [32, 35, 42]).sum(1) > 60).sum() for y in (5, 35)]
    assert filled[0] > 2 * filled[1]
    assert bars((), 50, 20).shape == (20, 50, 3)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "make_pipeline", MadePipeline)
    wave = (0.3 * np.sin(np.arange(48000) / 5)).astype(np.float32)[:, None]
    with VideoWriter("clip.mp4", fps=10, sample_rate=16000, origin_ns=0) as writer:
        for i in range(30):
            writer.write(np.full((48, 64, 3), 8 * i, np.uint8), i * NS // 10)
        writer.write_audio(SimpleNamespace(samples=wave, stamp_ns=0))
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save("image.png")
    soundfile.write("sound.wav", wave, 16000)
    return tmp_path


def test_command_explains_a_clip(files, capsys):
    assert cli.main(["explain", "clip.mp4", "--at", "2.25", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["time_s"] == pytest.approx(2.2, abs=0.001), "what is on the screen then"
    assert told["labels"] == ["dog"] and told["factors"][0]["seen"][0][0] == "dog" and len(told["factors"]) == 2
    assert np.asarray(Image.open("clip_2.25s_why.png")).shape[1] == 1248


def test_command_explains_a_picture_with_its_window_and_a_lead(files, monkeypatch):
    made = []
    monkeypatch.setattr(command, "make_pipeline", lambda config: made.append(MadePipeline(config)) or made[-1])
    assert cli.main(["explain", "image.png", "sound.wav", "--at", "1.5", "-o", "why.png"]) == 0
    assert made[0].processed == [2 * NS]
    assert cli.main(["explain", "clip.mp4", "--at", "2", "--lead", "0.5", "-o", "why.png"]) == 0
    assert [round(t / NS, 2) for t in made[1].processed] == [1.5, 1.6, 1.7, 1.8, 1.9, 2.0]


def test_bad_seconds_are_one_line(files, capsys):
    for at in ("9", "-1"):
        assert cli.main(["explain", "clip.mp4", "--at", at]) == 1
        error = capsys.readouterr().err
        assert "wanted --at from 0 to 3.0 s" in error and error.count("\n") == 1
    assert cli.main(["explain", "clip.mp4", "clip.mp4"]) == 1
    assert not list(files.glob("*why*"))
