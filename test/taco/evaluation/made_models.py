"""Tiny made models whose answers are known: a colour for each word, a pitch for each word; and a made data set for them."""

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F

from taco.backbones.base import Backbones
from taco.config import TacoConfig
from taco.evaluation.datasets import Dataset, EvaluationFrame, ScoringRules
from taco.evaluation.methods import MethodRunner
from taco.pipeline import TacoPipeline
from taco.segmentation.activation import ActivationSegmenter
from taco.types import AudioWindow, ImageFeatures, Tokens, VideoFrame

WORDS = ("red", "green", "blue")
RATE = 8000
COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}
PITCHES = {"red": 300.0, "green": 900.0, "blue": 2100.0}
GRID = 8
CONFIG = TacoConfig().updated({"factorization.n_factors": 4})


class Eye:
    """Tokens on an 8 x 8 grid: how red, green, blue and grey each cell is. Counts its passes."""

    name = "eye"

    def __init__(self):
        self.passes = 0

    def encode(self, frame):
        self.passes += 1
        pixels = torch.from_numpy(frame.rgb.copy()).permute(2, 0, 1)[None].float() / 255
        cells = F.adaptive_avg_pool2d(pixels, GRID)[0].flatten(1).T
        grey = cells.min(1, keepdim=True).values
        values = torch.cat([(cells - grey) * 3, grey], 1)
        size = (GRID * 4, GRID * 4)
        return ImageFeatures(Tokens(values, (GRID, GRID)), {"res5": pixels}, size, size)

    def encode_text(self, words):
        return torch.eye(4)[[WORDS.index(word) for word in words]] + 0.01


class Ear:
    """Twelve tokens: energy near each word's pitch."""

    name, logit_scale = "ear", 20.0

    def encode(self, window):
        parts = np.array_split(window.samples, 12)
        rows = []
        for part in parts:
            power = np.abs(np.fft.rfft(part)) / max(len(part), 1)
            at = np.fft.rfftfreq(len(part), 1 / window.sample_rate)
            rows.append([power[np.abs(at - PITCHES[word]) < 60].sum() for word in WORDS] + [power[at > 3000].sum()])
        return Tokens(torch.tensor(np.array(rows), dtype=torch.float32) * 10, (1, 12))

    def project(self, values):
        return values

    def encode_text(self, words):
        return torch.eye(4)[[WORDS.index(word) for word in words]]


def backbones():
    return Backbones(Eye(), Ear(), WORDS)


def pipeline(config=None):
    config = config or TacoConfig()
    return TacoPipeline(config, backbones=backbones(), segmenter=ActivationSegmenter())


def picture(left, right, size=(64, 64)):
    """Grey with a square of one word's colour on the left and one on the right; (VideoFrame, {word: mask})."""
    rgb = np.full((*size, 3), 90, np.uint8)
    masks = {}
    for word, x in ((left, 8), (right, 40)):
        if word:
            rgb[16:48, x : x + 16] = COLOURS[word]
            masks[word] = np.zeros(size, bool)
            masks[word][16:48, x : x + 16] = True
    return VideoFrame(rgb, 1_000_000_000), masks


def tone(word, seconds=1.0, level=0.3, seed=0):
    t = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).normal(0, 0.003, len(t))
    samples = (level * np.sin(2 * np.pi * PITCHES[word] * t) if word else 0 * t) + noise
    return AudioWindow(samples.astype(np.float32), RATE, 0)


@dataclasses.dataclass(frozen=True)
class MadeClip:
    id: str
    pairs: tuple
    group: str = ""

    def load(self, window_s=1.0):
        out = []
        for i, (left, right, sounds) in enumerate(self.pairs):
            frame, masks = picture(left, right)
            frame = dataclasses.replace(frame, stamp_ns=i * 10**8)
            truth = masks.get(sounds, np.zeros(frame.size, bool))
            sounding_objects = ((sounds, masks[sounds]),) if sounds in masks else ()
            quiet = [mask for word, mask in masks.items() if word != sounds]
            silent = np.any(quiet, 0) if quiet else None
            window = tone(sounds, window_s, seed=len(self.id) + i)
            out.append(EvaluationFrame(f"{self.id}/{i}", frame, window, truth, 0, sounds, sounding_objects, silent))
        return out


def made(n=3):
    words = WORDS
    clips = [MadeClip(f"clip{i}", ((words[i % 3], words[(i + 1) % 3], words[i % 3]),), "ab"[i % 2]) for i in range(n)]
    return Dataset("made", "test", tuple(clips), ScoringRules("threshold", temporal="causal", size=0), words)


def method_runner():
    return MethodRunner(CONFIG, pipeline=pipeline(CONFIG))
