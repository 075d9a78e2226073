"""Scenes composed of real photo cut-outs with exact masks and their real sounds.

A scene is a pure function of (kind, split, seed, words, bank, background): cut-outs are placed on a photograph, or
without overlap on a made background, a camera looks at it, sounds are mixed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from taco.audio import resample
from taco.errors import ValueRangeError
from taco.evaluation.composed.canvas import SceneCanvas, SceneObject
from taco.evaluation.composed.sources import SPLITS, CatalogueEntry, SceneSources, catalogue
from taco.evaluation.datasets import Dataset, EvaluationFrame, ScoringRules
from taco.types import AudioWindow, VideoFrame

KINDS = (
    *("one", "two", "both", "distractors", "motion", "silence", "noise", "offscreen"),
    *("three", "several", "speech", "weather", "music"),
    *("succession", "succession-one"),  # the seeds of a scene count the kinds: new ones go to the end
)
BACKGROUNDS = ("natural", "painted")
INSTRUMENTS = ("guitar", "piano", "violin", "cello", "harp", "flute", "drums")
# Ours, as all numbers here: they define the data set.
# How many of the objects in view sound; of other kinds none, or a number drawn.
SOUNDING = {"one": 1, "two": 1, "distractors": 1, "motion": 1, "both": 2, "succession": 2, "succession-one": 1}
SOUND_RATE = 48000  # Hz of every scene
LEVEL, NOISE_FLOOR = 0.1, 10 ** (-30 / 20)  # RMS of a sound (-20 dBFS); background noise below it (-30 dB)
FRAME_RATE, MOTION_S = 10, 3.0
PERSON_EVERY = 5  # turns
CHANGE, FADE_S = (0.3, 0.7), 0.01  # when one sound follows another, as a share of the window; how long the one fades out


@dataclass(frozen=True, slots=True)
class SceneFrame:
    """One image, its sound window, and what is in view."""

    frame: VideoFrame
    window: AudioWindow
    objects: tuple[SceneObject, ...]

    @property
    def truth(self) -> np.ndarray:
        """(H, W) bool: union of the sounding objects' masks."""
        masks = [item.mask for item in self.objects if item.sounding]
        return np.any(masks, 0) if masks else np.zeros(self.frame.size, bool)


@dataclass(frozen=True, slots=True)
class ComposedScene:
    """A composed scene.

    kind, split, seed: what it was composed from.
    sounding_words: words of its sounds, in view or not.
    sources: of the recordings, as in the catalogue.
    frames: one, or those of a moving camera.
    samples: (n,) float32 in [-1, 1], the whole sound at ``sample_rate`` Hz.
    background: source of the photograph, "" for a painted wall.
    light: "day", "backlit" or "night".
    """

    kind: str
    split: str
    seed: int
    sounding_words: tuple[str, ...]
    sources: tuple[str, ...]
    frames: tuple[SceneFrame, ...]
    samples: np.ndarray = field(repr=False)
    sample_rate: int = SOUND_RATE
    background: str = ""
    light: str = "day"

    @property
    def name(self) -> str:
        """For tables and files: kind-split-seed."""
        return f"{self.kind}-{self.split}-{self.seed:04d}"


class SceneComposer:
    """Composes scenes. words: what the models can name; only objects with such a word sound.

    size: (height, width) px of the camera. window_s: length of the sound window, trailing the image. bank: what scenes are made
    of, "all" everyday objects or the "instruments" of the first scenes. background: "natural" photographs or "painted".
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        sources: SceneSources | None = None,
        size: tuple[int, int] = (480, 640),
        window_s: float = 1.0,
        bank: str = "all",
        background: str = "natural",
    ):
        if background not in BACKGROUNDS:
            raise ValueRangeError(f"stamps: wanted a background {' or '.join(BACKGROUNDS)}, got {background!r}")
        usable = [entry for entry in catalogue(bank) if entry.word in set(words)]
        self.sources = sources or SceneSources()
        self.size, self.window_s, self.bank, self.background = size, window_s, bank, background
        roles = {split: [e for e in usable if e.split == split] for split in SPLITS}
        self._pictures = {split: [e for e in found if e.role == "object"] for split, found in roles.items()}
        self._sounds = {split: [e for e in found if e.role in ("sound", "speech")] for split, found in roles.items()}
        for split in SPLITS:
            if len({entry.word for entry in self._pictures[split]}) < 2:
                raise ValueRangeError(
                    f"stamps: wanted a word bank with at least two objects of split {split}, got {list(words)[:8]}"
                )

    def scenes(self, kind: str, split: str, count: int, first_seed: int = 0) -> Iterator[ComposedScene]:
        """``count`` scenes with seeds from ``first_seed``."""
        for seed in range(first_seed, first_seed + count):
            yield self.compose(kind, split, seed)

    def words(self, split: str) -> list[str]:
        """The words with an object and a sound in the split."""
        return sorted({e.word for e in self._pictures[split]} & {e.word for e in self._sounds[split]})

    def compose(self, kind: str, split: str, seed: int) -> ComposedScene:
        """One scene; ValueRangeError for an unknown kind or split."""
        if kind not in KINDS:
            raise ValueRangeError(f"stamps: wanted one of {', '.join(KINDS)}, got {kind!r}")
        if split not in SPLITS:
            raise ValueRangeError(f"stamps: wanted val or test, got {split!r}")
        rng = np.random.default_rng([KINDS.index(kind), SPLITS.index(split), seed])
        shown, sounding = self._pick_objects(kind, split, seed, rng)
        sounding_words = list(dict.fromkeys(entry.word for entry in shown[:sounding]))
        recordings = [self._recording(word, split, rng) for word in sounding_words]
        if kind == "offscreen":
            inside = {entry.word for entry in shown}
            sounding_words = [str(rng.choice(sorted({entry.word for entry in self._sounds[split]} - inside)))]
            recordings = [self._recording(sounding_words[0], split, rng)]
        elif kind in ("speech", "weather", "music"):
            # A made source always sounds somewhere, whatever words the models know.
            found = [entry for entry in catalogue() if (entry.role, entry.split) == (kind, split)]
            recordings = [found[int(rng.integers(len(found)))]]
            sounding_words = ["person"] if kind == "speech" else []
        elif kind == "succession-one":
            beyond = sorted({entry.word for entry in self._sounds[split]} - {entry.word for entry in shown})
            sounding_words.insert(int(rng.integers(2)), str(rng.choice(beyond)))
            recordings = [self._recording(word, split, rng) for word in sounding_words]
        if kind == "succession" and rng.random() < 0.5:  # what is placed first need not sound first
            sounding_words, recordings = sounding_words[::-1], recordings[::-1]
        seconds = self.window_s + (MOTION_S if kind == "motion" else 0.0)
        samples = self._mix(kind, recordings, seconds, rng)
        how = {"painted": self.background == "painted", "wide": kind == "motion"}
        canvas = SceneCanvas(shown, sounding, self.sources, self.size, split, rng, **how)
        count = round(MOTION_S * FRAME_RATE) if kind == "motion" else 1
        frames = tuple(self._frame(canvas, samples, number, count, rng) for number in range(count))
        parts = (tuple(sounding_words), tuple(r.source for r in recordings), frames, samples)
        return ComposedScene(kind, split, seed, *parts, background=canvas.source, light=canvas.light)

    def _pick_objects(self, kind: str, split: str, seed: int, rng: np.random.Generator) -> tuple[list[CatalogueEntry], int]:
        """(objects, how many of the first of them sound). Words take turns with the seed, so that few scenes cover them all."""
        words = self.words(split)
        if kind == "speech":
            words = [word for word in words if word != "person"] or words
        elif kind == "music":
            words = [word for word in words if not self._music(word)] or words
        first = self._turn(words, kind, seed)
        if kind == "several":
            count = int(rng.integers(2, 5))
            return [self._picture(first, split, rng) for _ in range(count)], count
        if kind == "three":
            others = [str(word) for word in rng.permutation([word for word in words if word != first])[:2]]
            return [self._picture(word, split, rng) for word in (first, *others)], min(int(rng.integers(2, 4)), 1 + len(others))
        second = str(rng.choice([word for word in words if word != first]))
        wanted = [first] if kind in ("one", "distractors") else [first, second]
        shown = [self._picture(word, split, rng) for word in wanted]
        if kind == "distractors":
            silent = self.sources.distractors if self.bank == "instruments" else self.sources.silent_objects
            names = rng.choice(silent[split], 3, replace=False)
            shown += [CatalogueEntry("object", "", split, str(name)) for name in names]
        return shown, SOUNDING.get(kind, 0)

    def _turn(self, words: Sequence[str], kind: str, seed: int) -> str:
        """The word whose turn it is; of everyday words in an order of the kind's own, every fifth turn a person's."""
        if self.bank == "instruments":
            return words[seed % len(words)]
        if "person" in words and seed % PERSON_EVERY == PERSON_EVERY - 1:
            return "person"
        others = [word for word in words if word != "person"] or list(words)
        order = np.random.default_rng(KINDS.index(kind)).permutation(len(others))
        return others[int(order[(seed - seed // PERSON_EVERY) % len(others)])]

    def _picture(self, word: str, split: str, rng: np.random.Generator) -> CatalogueEntry:
        objects = self._pictures[split]
        return objects[int(rng.choice([n for n, entry in enumerate(objects) if entry.word == word]))]

    def _music(self, word: str) -> bool:
        return any(
            e.word == word and ("music" in e.source or "instrument/" in e.source) for e in catalogue() if e.role == "object"
        )

    def _recording(self, word: str, split: str, rng: np.random.Generator) -> CatalogueEntry:
        return self._sounds[split][int(rng.choice([n for n, e in enumerate(self._sounds[split]) if e.word == word]))]

    def recording(self, word: str, split: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """(n,) float32 at 48 kHz and -20 dBFS: so many seconds of one of the split's recordings of the word."""
        entry = self._recording(word, split, rng)
        samples, rate = self.sources.sound(entry.source, int(rng.integers(1000)) if entry.made else 0)
        return excerpt(samples, rate, round(seconds * SOUND_RATE), rng)

    def _mix(self, kind: str, recordings: Sequence[CatalogueEntry], seconds: float, rng: np.random.Generator) -> np.ndarray:
        """(n,) float32: the recordings at equal level, at once or one after the other, over a low background noise."""
        count = round(seconds * SOUND_RATE)
        out = np.zeros(count, np.float32)
        if kind == "silence":
            return (out + coloured_noise(count, 1.0, rng) * 10 ** (-70 / 20)).astype(np.float32)
        if kind == "noise":
            return (coloured_noise(count, float(rng.choice((0.0, 0.5, 1.0))), rng) * LEVEL).astype(np.float32)
        spans = [(0, count)] * len(recordings)
        if kind.startswith("succession"):
            change = round(rng.uniform(*CHANGE) * count)
            spans = [(0, change), (change, count)]
        for entry, (first, last) in zip(recordings, spans):
            samples, rate = self.sources.sound(entry.source, int(rng.integers(1000)) if ":" in entry.source else 0)
            part = excerpt(samples, rate, last - first, rng)
            if last < count:
                fade = round(FADE_S * SOUND_RATE)
                part[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
            out[first:last] += part
        return np.clip(out + coloured_noise(count, 0.5, rng) * LEVEL * NOISE_FLOOR, -1, 1).astype(np.float32)

    def _frame(self, canvas: SceneCanvas, samples: np.ndarray, number: int, count: int, rng: np.random.Generator) -> SceneFrame:
        length = round(self.window_s * SOUND_RATE)
        start = round(number * SOUND_RATE / FRAME_RATE)
        start_ns = round(start * 1e9 / SOUND_RATE)
        window = AudioWindow(np.ascontiguousarray(samples[start : start + length]), SOUND_RATE, start_ns)
        rgb, objects = canvas.look(number / max(count - 1, 1), rng)
        return SceneFrame(VideoFrame(rgb, window.end_ns), window, objects)


def coloured_noise(count: int, slope: float, rng: np.random.Generator) -> np.ndarray:
    """(count,) float32 of RMS 1 with a spectrum of 1/f**slope in amplitude: 0 white, 0.5 pink, 1 brown."""
    spectrum = np.fft.rfft(rng.normal(size=count))
    frequency = np.maximum(np.fft.rfftfreq(count, 1 / SOUND_RATE), 20.0)
    noise = np.fft.irfft(spectrum / frequency**slope, count)
    return (noise / max(float(np.sqrt(np.mean(noise**2))), 1e-12)).astype(np.float32)


def excerpt(samples: np.ndarray, rate: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count,) float32 at 48 kHz and -20 dBFS: a stretch of the recording, begun again where it ends."""
    samples = resample(samples, rate, SOUND_RATE)
    pause = np.zeros(round(0.1 * SOUND_RATE), np.float32)
    samples = np.concatenate([samples, pause])
    power = np.convolve(np.resize(samples, len(samples) + count) ** 2, np.ones(64) / 64, "same")
    sums = np.concatenate([[0.0], np.cumsum(power, dtype=np.float64)])
    energy = sums[count:] - sums[:-count]
    good = np.flatnonzero(energy[: len(samples)] >= 0.3 * energy[: len(samples)].max())  # not a pause of the recording
    start = int(rng.choice(good))
    out = np.resize(np.roll(samples, -start), count)
    level = float(np.sqrt(np.mean(out**2)))
    out = out * (LEVEL / max(level, 1e-6))
    return np.clip(out, -1, 1).astype(np.float32)


# --- as a data set

SCORED_KINDS = ("one", "two", "both", "distractors", "motion")  # as in the first scenes
MORE_KINDS = ("three", "several")
NEGATIVE_KINDS = ("silence", "noise", "offscreen", "speech", "weather", "music")
COUNT = 40  # scenes of a kind
MOTION_SHARE = 10  # one clip of moving camera (30 frames) for so many still scenes of a kind
SCORED_EVERY = 5  # of a clip's frames; all are run, as a stream


@dataclass(frozen=True, slots=True)
class ComposedClip:
    """One scene, composed when it is loaded. words: what the models can name."""

    kind: str
    split: str
    seed: int
    words: tuple[str, ...]
    bank: str = "all"
    background: str = "natural"

    @property
    def id(self) -> str:
        """For tables and files."""
        return f"{self.kind}-{self.split}-{self.seed:04d}"

    @property
    def group(self) -> str:
        """The kind: figures are also given for each."""
        return self.kind

    def load(self, window_s: float = 1.0) -> list[EvaluationFrame]:
        """The frames of the scene."""
        scene = composer_for(self.words, window_s, self.bank, self.background).compose(self.kind, self.split, self.seed)
        out = []
        for number, frame in enumerate(scene.frames):
            sounding = _by_word(frame)
            quiet = [item for item in frame.objects if not item.sounding]
            word = scene.sounding_words[0] if len(scene.sounding_words) == 1 and sounding else ""
            silent = np.any([item.mask for item in quiet], 0) if quiet else None
            silent_words = tuple(item.word for item in quiet if item.word)
            truth = frame.truth if number % SCORED_EVERY == 0 else None
            out.append(
                EvaluationFrame(f"{self.id}/{number}", frame.frame, frame.window, truth, 0, word, sounding, silent, silent_words)
            )
        return out


def _by_word(frame: SceneFrame) -> tuple[tuple[str, np.ndarray], ...]:
    """(word, (H, W) bool mask) of what sounds; several of a kind are one answer."""
    masks: dict[str, np.ndarray] = {}
    for item in frame.objects:
        if item.sounding:
            masks[item.word] = masks[item.word] | item.mask if item.word in masks else item.mask
    return tuple(masks.items())


@functools.lru_cache(2)
def composer_for(words: tuple[str, ...], window_s: float, bank: str = "all", background: str = "natural") -> SceneComposer:
    """The composer for these words, kept: reading cut-outs and sounds takes a while."""
    return SceneComposer(words, window_s=window_s, bank=bank, background=background)


def composed_set(
    words: Sequence[str],
    split: str = "test",
    count: int = COUNT,
    kinds: Sequence[str] = (),
    *,
    bank: str = "all",
    background: str = "natural",
) -> Dataset:
    """``count`` scenes of each kind; a tenth as many moving clips, which have 30 frames each.

    kinds: () those with something that sounds in view; of the first scenes where the bank is theirs.
    """
    words = tuple(words)
    kinds = tuple(kinds) or SCORED_KINDS + (MORE_KINDS if bank == "all" else ())
    each = {kind: max(1, count // MOTION_SHARE) if kind == "motion" else count for kind in kinds}
    clips = tuple(ComposedClip(kind, split, seed, words, bank, background) for kind in kinds for seed in range(each[kind]))
    return Dataset("stamps", split, clips, ScoringRules("threshold", temporal="causal", size=0), words)
