"""Scenes composed of real photo cut-outs with exact masks and their real sounds.

A scene is a pure function of (kind, split, seed, words, bank, background): cut-outs are placed on a photograph, or
without overlap on a made background, a camera looks at it, sounds are mixed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

from taco.audio import resample
from taco.errors import ValueRangeError
from taco.evaluation.composed.backgrounds import NaturalCanvas
from taco.evaluation.composed.sources import SPLITS, Entry, StampSources, catalogue
from taco.types import AudioWindow, VideoFrame

KINDS = (
    *("one", "two", "both", "distractors", "motion", "silence", "noise", "offscreen"),
    *("three", "several", "speech", "weather", "music"),
    *("succession", "succession-one"),  # the seeds of a scene count the kinds: new ones go to the end
)
BACKGROUNDS = ("natural", "painted")
INSTRUMENTS = ("guitar", "piano", "violin", "cello", "harp", "flute", "drums")
# How many of the things in view sound; of other kinds none, or a number drawn.
SOUNDING = {"one": 1, "two": 1, "distractors": 1, "motion": 1, "both": 2, "succession": 2, "succession-one": 1}
SOUND_RATE = 48000  # Hz of every scene
LEVEL, NOISE_FLOOR = 0.1, 10 ** (-30 / 20)  # RMS of a sound (-20 dBFS); background noise below it (-30 dB)
FRAME_RATE, MOTION_S = 10, 3.0
PERSON_EVERY = 5  # turns
CHANGE, FADE_S = (0.3, 0.7), 0.01  # when one sound follows another, as a share of the window; how long the one fades out


@dataclass(frozen=True, slots=True)
class SceneThing:
    """A thing as one frame shows it. mask: (H, W) bool, what of it is in view. word: "" for silent things without one.

    hidden: share of the thing, in [0, 1], that is behind another thing or beyond the picture's edge, on the scene's canvas.
    """

    word: str
    source: str
    sounding: bool
    mask: np.ndarray
    hidden: float = 0.0


@dataclass(frozen=True, slots=True)
class SceneFrame:
    """One image, its sound window, and what is in view."""

    frame: VideoFrame
    window: AudioWindow
    things: tuple[SceneThing, ...]

    @property
    def truth(self) -> np.ndarray:
        """(H, W) bool: union of the sounding things' masks."""
        masks = [thing.mask for thing in self.things if thing.sounding]
        return np.any(masks, 0) if masks else np.zeros(self.frame.size, bool)


@dataclass(frozen=True, slots=True)
class Scene:
    """A composed scene. heard: words of its sounds, in view or not; sources: their recordings.

    background: the photograph's source, "" for a painted one; light: "day", "backlit" or "night".
    """

    kind: str
    split: str
    seed: int
    heard: tuple[str, ...]
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


class Stamps:
    """Composes scenes. words: what the models can name; only such things sound.

    size: (height, width) px of the camera. window_s: length of the sound window, trailing the image. bank: what scenes are made
    of, "all" everyday things or the "instruments" of the first scenes. background: "natural" photographs or "painted".
    """

    def __init__(
        self,
        words: Sequence[str],
        *,
        sources: StampSources | None = None,
        size: tuple[int, int] = (480, 640),
        window_s: float = 1.0,
        bank: str = "all",
        background: str = "natural",
    ):
        if background not in BACKGROUNDS:
            raise ValueRangeError(f"stamps: wanted a background {' or '.join(BACKGROUNDS)}, got {background!r}")
        usable = [entry for entry in catalogue(bank) if entry.word in set(words)]
        self.sources = sources or StampSources()
        self.size, self.window_s, self.bank, self.background = size, window_s, bank, background
        roles = {split: [e for e in usable if e.split == split] for split in SPLITS}
        self._things = {split: [e for e in found if e.role == "thing"] for split, found in roles.items()}
        self._sounds = {split: [e for e in found if e.role in ("sound", "speech")] for split, found in roles.items()}
        for split in SPLITS:
            if len({entry.word for entry in self._things[split]}) < 2:
                raise ValueRangeError(
                    f"stamps: wanted a word bank with at least two things of split {split}, got {list(words)[:8]}"
                )

    def scenes(self, kind: str, split: str, count: int, first_seed: int = 0) -> Iterator[Scene]:
        """``count`` scenes with seeds from ``first_seed``."""
        for seed in range(first_seed, first_seed + count):
            yield self.compose(kind, split, seed)

    def words(self, split: str) -> list[str]:
        """The words with a thing and a sound in the split."""
        return sorted({e.word for e in self._things[split]} & {e.word for e in self._sounds[split]})

    def compose(self, kind: str, split: str, seed: int) -> Scene:
        """One scene; ValueRangeError for an unknown kind or split."""
        if kind not in KINDS:
            raise ValueRangeError(f"stamps: wanted one of {', '.join(KINDS)}, got {kind!r}")
        if split not in SPLITS:
            raise ValueRangeError(f"stamps: wanted val or test, got {split!r}")
        rng = np.random.default_rng([KINDS.index(kind), SPLITS.index(split), seed])
        shown, sounding = self._pick_things(kind, split, seed, rng)
        heard = list(dict.fromkeys(entry.word for entry in shown[:sounding]))
        recordings = [self._recording(word, split, rng) for word in heard]
        if kind == "offscreen":
            inside = {entry.word for entry in shown}
            heard = [str(rng.choice(sorted({entry.word for entry in self._sounds[split]} - inside)))]
            recordings = [self._recording(heard[0], split, rng)]
        elif kind in ("speech", "weather", "music"):
            # A made source always sounds somewhere, whatever words the models know.
            found = [entry for entry in catalogue() if (entry.role, entry.split) == (kind, split)]
            recordings = [found[int(rng.integers(len(found)))]]
            heard = ["person"] if kind == "speech" else []
        elif kind == "succession-one":
            beyond = sorted({entry.word for entry in self._sounds[split]} - {entry.word for entry in shown})
            heard.insert(int(rng.integers(2)), str(rng.choice(beyond)))
            recordings = [self._recording(word, split, rng) for word in heard]
        if kind == "succession" and rng.random() < 0.5:  # what is placed first need not be heard first
            heard, recordings = heard[::-1], recordings[::-1]
        seconds = self.window_s + (MOTION_S if kind == "motion" else 0.0)
        samples = self._mix(kind, recordings, seconds, rng)
        world = _World(shown, sounding, self, split, rng, wide=kind == "motion")
        count = round(MOTION_S * FRAME_RATE) if kind == "motion" else 1
        frames = tuple(self._frame(world, samples, number, count, rng) for number in range(count))
        told = (tuple(heard), tuple(r.source for r in recordings), frames, samples)
        return Scene(kind, split, seed, *told, background=world.source, light=world.light)

    def _pick_things(self, kind: str, split: str, seed: int, rng: np.random.Generator) -> tuple[list[Entry], int]:
        """(things, how many of the first of them sound). Words take turns with the seed, so that few scenes cover them all."""
        words = self.words(split)
        if kind == "speech":
            words = [word for word in words if word != "person"] or words
        elif kind == "music":
            words = [word for word in words if not self._music(word)] or words
        first = self._turn(words, kind, seed)
        if kind == "several":
            count = int(rng.integers(2, 5))
            return [self._thing(first, split, rng) for _ in range(count)], count
        if kind == "three":
            others = [str(word) for word in rng.permutation([word for word in words if word != first])[:2]]
            return [self._thing(word, split, rng) for word in (first, *others)], min(int(rng.integers(2, 4)), 1 + len(others))
        second = str(rng.choice([word for word in words if word != first]))
        wanted = [first] if kind in ("one", "distractors") else [first, second]
        shown = [self._thing(word, split, rng) for word in wanted]
        if kind == "distractors":
            silent = self.sources.distractors if self.bank == "instruments" else self.sources.silent_things
            names = rng.choice(silent[split], 3, replace=False)
            shown += [Entry("thing", "", split, str(name)) for name in names]
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

    def _thing(self, word: str, split: str, rng: np.random.Generator) -> Entry:
        things = self._things[split]
        return things[int(rng.choice([n for n, entry in enumerate(things) if entry.word == word]))]

    def _music(self, word: str) -> bool:
        return any(
            e.word == word and ("music" in e.source or "instrument/" in e.source) for e in catalogue() if e.role == "thing"
        )

    def _recording(self, word: str, split: str, rng: np.random.Generator) -> Entry:
        return self._sounds[split][int(rng.choice([n for n, e in enumerate(self._sounds[split]) if e.word == word]))]

    def recording(self, word: str, split: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
        """(n,) float32 at 48 kHz and -20 dBFS: so many seconds of one of the split's recordings of the word."""
        entry = self._recording(word, split, rng)
        samples, rate = self.sources.sound(entry.source, int(rng.integers(1000)) if entry.made else 0)
        return excerpt(samples, rate, round(seconds * SOUND_RATE), rng)

    def _mix(self, kind: str, recordings: Sequence[Entry], seconds: float, rng: np.random.Generator) -> np.ndarray:
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

    def _frame(self, world: _World, samples: np.ndarray, number: int, count: int, rng: np.random.Generator) -> SceneFrame:
        length = round(self.window_s * SOUND_RATE)
        start = round(number * SOUND_RATE / FRAME_RATE)
        start_ns = round(start * 1e9 / SOUND_RATE)
        window = AudioWindow(np.ascontiguousarray(samples[start : start + length]), SOUND_RATE, start_ns)
        rgb, things = world.look(number / max(count - 1, 1), rng)
        return SceneFrame(VideoFrame(rgb, window.end_ns), window, things)


class _World:
    """A canvas, the masks of what stands on it, and a camera that pans and zooms a little. sounding: how many of the first."""

    def __init__(self, shown, sounding: int, stamps: Stamps, split: str, rng: np.random.Generator, wide: bool):
        self._size = stamps.size
        height, width = (round(side * 1.25) if wide else side for side in self._size)
        self.source, self.light = "", "day"
        self._things: list[tuple[Entry, bool, np.ndarray, float]] = []
        if stamps.background == "natural":
            # The first things lie in front half of the time, so that what sounds is sometimes the hidden one.
            order = range(len(shown)) if rng.random() < 0.5 else range(len(shown))[::-1]
            canvas = NaturalCanvas([shown[n] for n in order], stamps.sources, (height, width), split, rng)
            back = dict(zip(order, canvas.things))
            self._things = [(back[n][0], n < sounding, *back[n][1:]) for n in range(len(shown))]
            self._canvas, self.source, self.light = canvas.image, canvas.source, canvas.light
        else:
            self._canvas = background(height, width, rng)
            for number, (entry, (left, top, right, bottom)) in enumerate(zip(shown, _slots(len(shown), width, height, rng))):
                mask = self._paint(stamps.sources.cutout(entry.source), left, top, right, bottom, rng)
                self._things.append((entry, number < sounding, mask, 0.0))
        self._pan = rng.uniform(0.2, 0.8, (2, 2)) if wide else None  # from, to: shares of the free margin
        self._zoom = rng.uniform(1.0, 1.12, 2) if wide else (1.0, 1.0)
        if stamps.background == "painted":
            # One light for cut-outs and background, as one camera would see them.
            self._canvas = np.clip(self._canvas * rng.uniform(0.85, 1.1) + rng.uniform(-8, 8), 0, 255).astype(np.float32)

    def _paint(self, rgba: np.ndarray, left: int, top: int, right: int, bottom: int, rng: np.random.Generator) -> np.ndarray:
        """Paste within the box, resized and perhaps mirrored; returns the (h, w) bool mask on the canvas."""
        if rng.random() < 0.5:
            rgba = rgba[:, ::-1]
        scale = min((right - left) / rgba.shape[1], (bottom - top) / rgba.shape[0]) * rng.uniform(0.75, 0.98)
        width, height = (max(2, round(side * scale)) for side in rgba.shape[1::-1])
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        small = cv2.resize(rgba.astype(np.float32), (width, height), interpolation=way).clip(0, 255)
        x = int(rng.integers(left, max(left + 1, right - width)))
        y = int(rng.integers(top, max(top + 1, bottom - height)))
        alpha = small[..., 3:] / 255
        patch = self._canvas[y : y + height, x : x + width]
        patch[:] = alpha * small[..., :3] + (1 - alpha) * patch
        mask = np.zeros(self._canvas.shape[:2], bool)
        mask[y : y + height, x : x + width] = alpha[..., 0] > 0.5
        return mask

    def look(self, share: float, rng: np.random.Generator) -> tuple[np.ndarray, tuple[SceneThing, ...]]:
        """What the camera sees at a share of its way in [0, 1]: (H, W, 3) uint8 and the things in view."""
        height, width = self._size
        if self._pan is None:
            image, masks = self._canvas, [mask for _, _, mask, _ in self._things]
        else:
            smooth = share * share * (3 - 2 * share)
            zoom = self._zoom[0] + smooth * (self._zoom[1] - self._zoom[0])
            free = np.array(self._canvas.shape[1::-1]) - np.array((width, height)) / zoom
            corner = (self._pan[0] + smooth * (self._pan[1] - self._pan[0])) * free
            turn = np.array([[1 / zoom, 0, corner[0]], [0, 1 / zoom, corner[1]]])
            image = cv2.warpAffine(self._canvas, turn, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
            way = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
            masks = [
                cv2.warpAffine(mask.astype(np.uint8), turn, (width, height), flags=way) > 0 for _, _, mask, _ in self._things
            ]
        noisy = image + rng.normal(0, 2.0, image.shape).astype(np.float32)
        seen = zip(self._things, masks)
        things = tuple(SceneThing(e.word, e.source, sounding, mask, hidden) for (e, sounding, _, hidden), mask in seen)
        return np.clip(noisy, 0, 255).astype(np.uint8), things


def _slots(count: int, width: int, height: int, rng: np.random.Generator) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) that do not overlap, in random order."""
    columns = max(1, math.ceil(count / 2)) if count > 2 else count
    rows = 2 if count > 2 else 1
    if count == 1:  # somewhere, not always in the middle
        side = rng.uniform(0.45, 0.8)
        w, h = round(width * side), round(height * min(1.0, side + 0.15))
        x, y = int(rng.integers(0, width - w + 1)), int(rng.integers(0, height - h + 1))
        return [(x, y, x + w, y + h)]
    xs = [round(width * n / columns) for n in range(columns + 1)]
    ys = [round(height * n / rows) for n in range(rows + 1)]
    boxes = [(xs[c], ys[r], xs[c + 1], ys[r + 1]) for r in range(rows) for c in range(columns)]
    order = rng.permutation(len(boxes))[:count]
    return [boxes[int(n)] for n in order]


def background(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) float32 in [0, 255]: soft coloured blotches and fine grain, without things."""
    base = np.float32(rng.uniform(70, 190)) + rng.uniform(-20, 20, 3).astype(np.float32)
    image = np.broadcast_to(base, (height, width, 3)).copy()
    for cells, strength in ((2, 35), (5, 18), (24, 6)):
        blotches = rng.normal(0, strength, (cells, cells + 1, 1)) + rng.normal(0, strength / 4, (cells, cells + 1, 3))
        blotches = blotches.astype(np.float32)
        image += cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255)


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
