"""The embedded models: small, real, closed vocabulary, no model hub.

EfficientNet-Lite and a person detector see, YAMNet (or musicnn, or BirdNET, if asked) hears. A shared table of words tells
what each calls the same thing. They stand in for the paper's models and never check its numbers.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from taco.backbones.base import Backbones, WordSource
from taco.backbones.birdnet import LICENCE, BirdNET
from taco.backbones.closed_vocabulary import BirdnetHead, EmbeddedAudioEncoder, MusicnnHead, SoundHead, YamnetHead
from taco.backbones.combined_image import PersonEye, SideBySideEyes
from taco.backbones.device import resolve_device
from taco.backbones.efficientnet import EfficientNetEncoder
from taco.backbones.musicnn import MusiCNN
from taco.backbones.person import PersonNetwork
from taco.backbones.yamnet import YAMNet
from taco.config import ModelsConfig
from taco.errors import ConfigError, WeightsError
from taco.package_files import model_dir, say
from taco.weights import packaged

EARS = ("yamnet", "musicnn", "birdnet")
EYES = ("efficientnet-lite0", "person")
OUTLINES = "u2netp"  # for the segmenter; fetched with the others, and done without where it is missing
IMAGE_SIZE = 416  # px: one core encodes it in 70 to 90 ms, people included
# YAMNet's classes that name a kind, a place or a quality of sound: any word's sound may be one of these as well.
GENERAL = (
    "5 7 8 21-23 25 33-37 39-41 45 49-55 67 68 81 93 103 117 121 125 130 132-134 147 153-156 161 165 168 179 180 184 185 187 190 "
    "206-276 282 294 300 303 305 316 321 322 329 330 337 338 342-346 354 355 382 392 398 399 403 404 412 416 418 420 428-449 "
    "451-493 494-513 516 517 520"
)
UNKNOWN_TO_YAMNET = {  # names of AudioSet that its 521 classes leave out
    "Male speech, man speaking", "Female speech, woman speaking", "Battle cry", "Male singing", "Female singing", "Funny music"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Word:
    """A word and what each model calls it. unheard: mean and deviation of its logit in musicnn or BirdNET unheard."""

    word: str
    yamnet: tuple[int, ...]
    imagenet: tuple[int, ...]
    person: str
    musicnn: tuple[str, ...]
    birdnet: tuple[str, ...]
    unheard: tuple[float, float]

    @property
    def seen(self) -> bool:
        """Does an eye know it?"""
        return bool(self.imagenet or self.person)


@functools.cache
def word_table() -> tuple[Word, ...]:
    """The shared word bank as shipped."""
    lines = (Path(__file__).parent / "embedded_words.csv").read_text().splitlines()
    rows = csv.DictReader(line for line in lines if not line.startswith("#"))
    return tuple(
        Word(
            row["word"],
            _numbers(row["yamnet"]),
            _numbers(row["imagenet"]),
            row["person"],
            _split(row["musicnn"]),
            _split(row["birdnet"]),
            (float(row["unheard_mean"] or 0), float(row["unheard_deviation"] or 1)),
        )
        for row in rows
    )


def _numbers(text: str) -> tuple[int, ...]:
    spans = [part.partition("-") for part in text.split()]
    return tuple(n for first, _, last in spans for n in range(int(first), int(last or first) + 1))


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split("|")) if text else ()


def sound_models(setting: str) -> tuple[str, ...]:
    """The sound models named by ``models.audio``, joined by +; the default is yamnet alone."""
    names = tuple((setting or EARS[0]).split("+"))
    for name in names:
        if name not in EARS or names.count(name) > 1:
            raise ConfigError(f"models.audio: wanted {', '.join(EARS)} or some of them joined by +, got {setting!r}")
    return names


def word_sources(models: ModelsConfig) -> list[WordSource]:
    """What ear and eye of these settings call each word, also words that only one of them knows. Loads no network."""
    ears = sound_models(models.audio)
    heard, seen = _yamnet_names(), _imagenet_names()
    out = []
    for row in word_table():
        names = {"yamnet": tuple(heard[n] for n in row.yamnet), "musicnn": row.musicnn, "birdnet": row.birdnet}
        ear = tuple(dict.fromkeys(name for model in ears for name in names[model]))
        eye = tuple(seen[n] for n in row.imagenet) + ((row.person,) if row.person else ())
        if ear or eye:
            by = tuple(model for model in ears if names[model])
            eyes = tuple(eye for eye, known in zip(EYES, (row.imagenet, row.person)) if known)
            out.append(WordSource(row.word, ear, eye, by, eyes))
    return out


def _yamnet_names() -> list[str]:
    lines = (Path(__file__).parent / "audioset_words.txt").read_text(encoding="utf-8").splitlines()
    return [name for name in lines if name not in UNKNOWN_TO_YAMNET]


def _imagenet_names() -> Sequence[str]:
    from taco.backbones.torchvision_compat import ensure_torchvision

    ensure_torchvision()
    from torchvision.models import EfficientNet_B0_Weights

    return EfficientNet_B0_Weights.DEFAULT.meta["categories"]


def parts(models: ModelsConfig) -> tuple[str, ...]:
    """The packages that ``load`` takes weights from for these settings."""
    return (*EYES, *sound_models(models.audio))


def fetch(models: ModelsConfig, report=say) -> Path:
    """Fetch what ``load`` needs for these settings into the weights folder; instant where it is there. Returns the folder."""
    folder = model_dir(models.model_dir) / "embedded"
    for part in (*parts(models), OUTLINES):
        packaged.fetch(part, folder, report=report)
    return folder


def load(models: ModelsConfig) -> Backbones:
    """The encoders and their shared words; WeightsError where weights are missing or damaged and may not be downloaded."""
    if models.image not in ("", "+".join(EYES)):
        raise ConfigError(f"models.image: wanted {'+'.join(EYES)} in the embedded set, got {models.image!r}")
    ears = sound_models(models.audio)
    folder = model_dir(models.model_dir) / "embedded"
    if models.allow_download:
        fetch(models)
    missing = [path.name for part in parts(models) for path in packaged.files(part, folder) if not path.is_file()]
    if missing:
        wanted = " ".join(["embedded", *(part for part in ears if not packaged.PACKAGES[part].needed)])
        raise WeightsError(
            f"embedded models: wanted {', '.join(missing)} in {folder}, got none; run `taco weights fetch {wanted}`"
        )
    table = word_table()
    # So small that auto leaves them on the CPU; the sound models always run there.
    device = resolve_device("cpu" if models.device == "auto" else models.device)
    size = models.image_size or IMAGE_SIZE
    seen = {row.word: row.imagenet for row in table if row.imagenet}
    things = EfficientNetEncoder.from_file(packaged.locate(EYES[0], folder)[0], seen, size, device, EYES[0])
    people = PersonEye(PersonNetwork.from_file(packaged.locate(EYES[1], folder)[0]).to(device))
    image = SideBySideEyes(things, people, [row.word for row in table if row.person])
    audio = EmbeddedAudioEncoder([_ear(part, folder) for part in ears], [row.word for row in table if row.seen])
    return Backbones(image, audio, audio.words)


def _ear(part: str, folder: Path) -> SoundHead:
    table = word_table()
    unheard = {row.word: row.unheard for row in table}
    files = packaged.locate(part, folder)
    if part == "yamnet":
        return YamnetHead(YAMNet.from_file(*files), {row.word: row.yamnet for row in table}, _numbers(GENERAL))
    if part == "musicnn":
        return MusicnnHead(MusiCNN.from_bundle(*files), {row.word: row.musicnn for row in table}, unheard)
    say(LICENCE)
    return BirdnetHead(BirdNET(*files), {row.word: row.birdnet for row in table}, unheard)
