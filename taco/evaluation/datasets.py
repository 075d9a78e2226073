"""Readers of the public data sets; the whole folder is checked before the first frame.

A data set is a list of clips; a clip gives its frames in order, each with its sound and its truth.
Clips hold paths only, so that they can be sent to another process.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from taco.clock import NS
from taco.errors import ConfigError, MediaError, shown
from taco.io.files import error_line, read_audio, read_image
from taco.types import AudioWindow, VideoFrame

SCORED_SIZE = 224  # of the public runs: side of the square at which the public code compares maps and masks
CLAP_S = 7.0  # of msclap: the longest sound that one pass of CLAP's audio model takes

# AVSBench's 23 categories, the word bank of Table 4 for MS3, whose own list names none.
# fmt: off
AVSBENCH_WORDS = (
    "ambulance siren", "baby laughter", "cap gun shooting", "cat meowing", "chainsawing trees", "coyote howling", "dog barking",
    "driving buses", "female singing", "helicopter", "horse clip-clop", "lawn mowing", "lions roaring", "male speech",
    "mynah bird singing", "playing acoustic guitar", "playing glockenspiel", "playing piano", "playing tabla",
    "playing ukulele", "playing violin", "race car", "typing on computer keyboard",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class ScoringRules:
    """How a data set is scored (METHOD's table).

    metric: "threshold", "detection" or "semantic".
    readout: "minmax" or "argmax".
    temporal: "joint" or "causal" over the frames of a clip, or "none".
    bank: "general", "general-first" (the first word left out) or "specific".
    size: side at which maps and truths are compared, 0 for the truth's own size.
    """

    metric: str
    readout: str = "minmax"
    temporal: str = "none"
    bank: str = "general"
    size: int = SCORED_SIZE


@dataclass(frozen=True, slots=True)
class EvaluationFrame:
    """One frame with its sound and its truth.

    id: the clip's name and the frame's number.
    frame: the image.
    window: the sound.
    truth: (size, size) bool mask or integer class map, None where the frame is not scored.
    class_id: pooled by it in "detection", painted with it in "semantic".
    word: what sounds, "" where the data set does not say.
    sounding_objects: (word, (H, W) bool mask at image size) of each, where they are known one by one.
    silent: (H, W) bool union of the objects in view that make no sound, where known.
    silent_words: what those are.
    """

    id: str
    frame: VideoFrame
    window: AudioWindow
    truth: np.ndarray | None
    class_id: int = 0
    word: str = ""
    sounding_objects: tuple[tuple[str, np.ndarray], ...] = ()
    silent: np.ndarray | None = None
    silent_words: tuple[str, ...] = ()

    @property
    def words_in_view(self) -> set[str]:
        """Words of what is known to be in view, sounding or not."""
        return {self.word, *(word for word, _ in self.sounding_objects), *self.silent_words} - {""}


class Clip(Protocol):
    """What a data set is made of: frames in order, which share a sound."""

    @property
    def id(self) -> str:
        """For tables and files."""

    @property
    def group(self) -> str:
        """Figures are also given for each group (category, subset, kind)."""

    def load(self, window_s: float = 1.0) -> list[EvaluationFrame]:
        """The frames; no window is longer than window_s, unless the data set's rules want it."""


@dataclass(frozen=True, slots=True)
class LabelledClip:
    """Frames of a public data set with one sound file.

    images, sound, truths: paths; truths may be fewer than images: the rest is not scored.
    spans: for each frame the (start, end) of its second in the sound, in s.
    kind: how its truths are written ("binary", "ade", "index").
    class_id, word: of what sounds, 0 and "" where the list does not say.
    painted: the class number of a semantic truth, 0 for none.
    group: category or subset.
    """

    id: str
    images: tuple[Path, ...]
    sound: Path
    spans: tuple[tuple[float, float], ...]
    truths: tuple[Path, ...]
    kind: str = "binary"
    class_id: int = 0
    word: str = ""
    painted: int = 0
    group: str = ""

    def load(self, window_s: float = 1.0) -> list[EvaluationFrame]:
        """The frames; each window ends where its frame's second ends and is at most window_s long."""
        sound = read_audio(self.sound)
        mono = sound.samples.mean(1, dtype=np.float32) if len(sound.samples) else np.zeros(1, np.float32)
        out = []
        for i, (image, (start, end)) in enumerate(zip(self.images, self.spans)):
            truth = self._truth(self.truths[i]) if i < len(self.truths) else None
            if self.kind == "ade":
                window = middle(mono, sound.sample_rate, CLAP_S)
            else:
                window = cut(mono, sound.sample_rate, max(0.0, end - max(window_s, end - start)), end)
            frame = VideoFrame(read_image(image), round(end * NS))
            out.append(EvaluationFrame(f"{self.id}/{i}", frame, window, truth, self.painted or self.class_id, self.word))
        return out

    def files(self) -> list[Path]:
        """Every file the clip needs."""
        return [*self.images, self.sound, *self.truths]

    def _truth(self, path: Path) -> np.ndarray:
        if self.kind == "ade":
            mask = ade_mask(path, self.class_id)
            return mask.astype(np.int64) * self.painted if self.painted else mask
        if self.kind == "binary":
            return _resize_nearest(_pixels(path).max(-1) > 127)
        numbers = _pixels(path, raw=True)
        if numbers.ndim != 2:
            raise MediaError(f"{path}: wanted an image of class numbers with one channel, got {numbers.shape}")
        return _resize_nearest(numbers.astype(np.int64))


@dataclass(frozen=True, slots=True)
class Dataset:
    """Clips with the rules they are scored by. words: the data set's own word bank, () where it names none."""

    name: str
    split: str
    clips: tuple[Clip, ...]
    rules: ScoringRules
    words: tuple[str, ...] = ()

    @property
    def n_classes(self) -> int:
        """Classes of a semantic truth, the background among them."""
        return len(self.words) + (not self.has_background)

    @property
    def has_background(self) -> bool:
        """Does the list of words name the background itself, as class 0?"""
        return self.words[:1] == ("background",)

    def class_of(self, word: str) -> int:
        """The class number of a word in the truths; 0, the background, where the list lacks it."""
        return self.words.index(word) + (not self.has_background) if word in self.words else 0

    def limited(self, n: int) -> Dataset:
        """The first n clips; 0 takes all."""
        return Dataset(self.name, self.split, self.clips[: n or None], self.rules, self.words)


def s4(root: Path, split: str = "test") -> Dataset:
    """AVSBench single source: 5 frames a video (train: the first has a mask)."""
    base = _inside(root, "Single-source")
    rows = _table(base / "s4_meta_data.csv", ("name", "category", "split"), split)
    data, clips = base / "s4_data", []
    for row in rows:
        name, category = row["name"], row["category"]
        images = [data / "visual_frames" / split / category / name / f"{name}_{i}.png" for i in range(1, 6)]
        masks = [data / "gt_masks" / split / category / name / f"{name}_{i}.png" for i in range(1, 2 if split == "train" else 6)]
        sound = data / "audio_wav" / split / category / f"{name}.wav"
        clips.append(_video(f"{category}/{name}", images, sound, masks, word=_plain(category), group=_plain(category)))
    words = tuple(sorted({clip.word for clip in clips}))
    return _checked(Dataset("s4", split, tuple(clips), ScoringRules("threshold", temporal="joint"), words), root)


def ms3(root: Path, split: str = "test") -> Dataset:
    """AVSBench multiple sources: 5 frames a video."""
    base = _inside(root, "Multi-sources")
    rows = _table(base / "ms3_meta_data.csv", ("name", "split"), split)
    data, clips = base / "ms3_data", []
    for name in (row["name"] for row in rows):
        images = [data / "visual_frames" / name / f"{name}.mp4_{i}.png" for i in range(1, 6)]
        masks = [data / "gt_masks" / split / name / f"{name}_{i}.png" for i in range(1, 6)]
        clips.append(_video(name, images, data / "audio_wav" / split / f"{name}.wav", masks))
    rules = ScoringRules("threshold", bank="general-first")
    return _checked(Dataset("ms3", split, tuple(clips), rules, AVSBENCH_WORDS), root)


def avss(root: Path, split: str = "test") -> Dataset:
    """AVSBench semantic: 5 frames (v1s, v1m) or 10 (v2), classes 0 (background) to 70."""
    index = root / "label2idx.json"
    rows = _table(root / "metadata.csv", ("uid", "label", "split"), split, also=(index,))
    try:
        numbers = json.loads(index.read_text())
        words = tuple(sorted(numbers, key=numbers.get))
        whole = [numbers[word] for word in words] == list(range(len(words)))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise MediaError(f"avss: wanted a list of names and numbers in {index}, got {error}") from None
    if not whole:
        raise MediaError(f"avss: wanted the numbers 0 to {len(words) - 1} in {index}, got others; download it again")
    clips = []
    for row in rows:
        folder, n = root / row["label"] / row["uid"], 10 if row["label"] == "v2" else 5
        images = [folder / "frames" / f"{i}.jpg" for i in range(n)]
        truths = [folder / "labels_semantic" / f"{i}.png" for i in range(n)]
        clips.append(_video(f"{row['label']}/{row['uid']}", images, folder / "audio.wav", truths, "index", group=row["label"]))
    rules = ScoringRules("semantic", readout="argmax", bank="specific")
    return _checked(Dataset("avss", split, tuple(clips), rules, words), root)


def ade_sp(root: Path, split: str = "test", semantic: bool = False) -> Dataset:
    """ADE20k Sound Prompted: one image and one sound a row; the list has one split."""
    columns = ("image_location", "vggsound_file", "ade_class_id") + (("ade_class",) if semantic else ())
    rows = _table(root / "prompted_segmentation.csv", columns)
    rows = [r for r in rows if r["vggsound_file"].strip().lower() not in ("", "nan") and _number(r["ade_class_id"])]
    words = tuple(dict.fromkeys(r["ade_class"] for r in rows if r.get("ade_class")))
    if semantic and (nameless := [r["image_location"] for r in rows if not r["ade_class"]]):
        raise MediaError(f"ade-sp-semantic: wanted an ade_class in every row, got none for {shown(nameless[0])}; see its list")
    clips = []
    for i, row in enumerate(rows):
        place, word = row["image_location"], row.get("ade_class") or ""
        truth = root / "annotations" / (place.removesuffix(".jpg") + "_seg.png")
        sound = root / "audio" / row["vggsound_file"].rsplit("/", 1)[-1]
        paint = words.index(word) + 1 if semantic else 0
        number = _number(row["ade_class_id"])
        image = root / "frames" / place
        clips.append(LabelledClip(f"{i:04d}", (image,), sound, ((0.0, CLAP_S),), (truth,), "ade", number, word, paint, word))
    rules = ScoringRules("semantic", bank="specific") if semantic else ScoringRules("detection")
    return _checked(Dataset("ade-sp-semantic" if semantic else "ade-sp", split, tuple(clips), rules, words), root)


def ade_sp_semantic(root: Path, split: str = "test") -> Dataset:
    """ADE20k Sound Prompted with the classes' names: class 0 is the background."""
    return ade_sp(root, split, semantic=True)


READERS = {"s4": s4, "ms3": ms3, "avss": avss, "ade-sp": ade_sp, "ade-sp-semantic": ade_sp_semantic}


def load(name: str, root: str | Path, split: str = "test") -> Dataset:
    """The data set ``name`` below ``root``; MediaError names every missing piece."""
    if name not in READERS:
        raise ConfigError(f"evaluate: wanted one of {', '.join(READERS)}, got {name!r}")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise MediaError(f"{name}: wanted the folder of the data set, got {root}, which is not there; give it with --data")
    return READERS[name](root, split)


# --- pieces


def cut(samples: np.ndarray, rate: int, start_s: float, end_s: float) -> AudioWindow:
    """[start_s, end_s) of a mono sound; silence where the sound is shorter."""
    first, last = round(start_s * rate), round(end_s * rate)
    piece = np.zeros(last - first, np.float32)
    found = samples[first:last]
    piece[: len(found)] = np.clip(found, -1.0, 1.0)
    return AudioWindow(piece, rate, round(first * NS / rate))


def middle(samples: np.ndarray, rate: int, length_s: float) -> AudioWindow:
    """The middle length_s of a mono sound, all of it where it is shorter (the public runs take a random part)."""
    wanted = round(length_s * rate)
    first = max(0, (len(samples) - wanted) // 2)
    piece = np.clip(samples[first : first + wanted], -1.0, 1.0).astype(np.float32)
    return AudioWindow(piece, rate, round(first * NS / rate))


def ade_mask(path: Path, class_id: int) -> np.ndarray:
    """(224, 224) bool: the class map, (R // 10) * 256 + G, resized bilinearly and compared with ==, as the public runs do.

    Pixels between two classes belong to neither (or, by chance, to a third).
    """
    import torch
    import torch.nn.functional as F

    pixels = _pixels(path)
    classes = (pixels[..., 0].astype(np.int64) // 10) * 256 + pixels[..., 1]
    size = (SCORED_SIZE, SCORED_SIZE)
    small = F.interpolate(torch.from_numpy(classes)[None, None].float(), size, mode="bilinear", align_corners=True)
    return (small[0, 0] == class_id).numpy()


def _pixels(path: Path, raw: bool = False) -> np.ndarray:
    """(H, W, 3) colours of a truth image; raw: (H, W) numbers as stored where it has one channel, palette or not."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image if raw and len(image.getbands()) == 1 else image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MediaError(f"{path}: wanted a readable image, got {error_line(error)}") from None


def _resize_nearest(values: np.ndarray) -> np.ndarray:
    """To SCORED_SIZE: the source pixel floor(i * size / SCORED_SIZE), as torch's "nearest"."""
    if values.shape == (SCORED_SIZE, SCORED_SIZE):
        return values
    rows, columns = (np.arange(SCORED_SIZE) * size // SCORED_SIZE for size in values.shape)
    return np.asarray(values[rows[:, None], columns])


def _video(
    name: str,
    images: Sequence[Path],
    sound: Path,
    truths: Sequence[Path],
    kind: str = "binary",
    word: str = "",
    group: str = "",
) -> LabelledClip:
    spans = tuple((float(i), i + 1.0) for i in range(len(images)))
    return LabelledClip(name, tuple(images), sound, spans, tuple(truths), kind, word=word, group=group)


def _plain(category: str) -> str:
    return category.replace("_", " ").strip()


def _number(text: str) -> int:
    try:
        return int(float(text))
    except (ValueError, OverflowError):  # a word, infinity
        return 0


def _inside(root: Path, name: str) -> Path:
    return root if root.name == name else root / name


def _table(path: Path, columns: Sequence[str], split: str = "", also: Sequence[Path] = ()) -> list[dict[str, str]]:
    """Rows of a list, of one split where given; MediaError for a missing list, column or split."""
    missing = [str(p) for p in (path, *also) if not p.is_file()]
    if missing:
        raise MediaError(f"wanted the lists of the data set, got none at {', '.join(missing)}; give its folder with --data")
    try:
        with open(path, newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            lacking = [c for c in columns if c not in (reader.fieldnames or ())]
            rows = [] if lacking else [{k: v or "" for k, v in row.items() if k} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MediaError(f"{path}: wanted a readable list, got {error}") from None
    if lacking:
        raise MediaError(f"{path}: wanted the columns {', '.join(columns)}, got none named {', '.join(lacking)}")
    splits = sorted({row.get("split", "") for row in rows})
    rows = [row for row in rows if not split or row["split"] == split]
    if not rows:
        raise MediaError(f"{path}: wanted rows of the split {split!r}, got {', '.join(splits) or 'an empty list'}")
    return rows


def _checked(dataset: Dataset, root: Path) -> Dataset:
    """The data set, or MediaError with every missing file, folder by folder."""
    missing: dict[Path, list[str]] = {}
    for path in dict.fromkeys(path for clip in dataset.clips if isinstance(clip, LabelledClip) for path in clip.files()):
        if not os.path.isfile(path):  # also of a name that no disk can hold
            missing.setdefault(path.parent, []).append(path.name)
    if missing:
        total = sum(map(len, missing.values()))
        pieces = "; ".join(f"{folder.relative_to(root)}/: {', '.join(names)}" for folder, names in missing.items())
        told = f"{dataset.name}: wanted every file of the split {dataset.split}, got {total} missing: {pieces}"
        raise MediaError(" ".join(told.split()))  # one line, whatever the names hold
    return dataset
