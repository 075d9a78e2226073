"""Scores on natural photographs: right object, losses of the mask step, contact sheet."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np

from taco.errors import MediaError
from taco.evaluation import metrics, natural, report
from taco.evaluation.datasets import Dataset, EvaluationFrame
from taco.evaluation.methods import MethodRunner, Outcome, method_named, resized
from taco.evaluation.runner import ProgressBar, known_methods
from taco.evaluation.scores import FIXED, FOUND_IOU, points_at, union_of_masks
from taco.evaluation.wrong_sounds import replaced
from taco.view.draw import contact_sheet

METHODS = ("taco", "late-fusion", "true-word")
LOST_IOU = 0.1  # ours: below this a mask has lost the object that word and map had found
SHEET_FRAMES, SHEET_COLUMNS, SHEET_TILE = 100, 5, 320  # ours: pictures on a sheet at most, in a row, px of their width
SHEET_EVERY = 20  # ours: of a clip's 300 frames
TRUE, SILENT, MASK = (60, 255, 60), (255, 90, 90), (255, 200, 0)  # colours of a sheet, red first
# figure -> (heading, meaning)
COLUMNS = {
    "live_iou": ("IoU", "of the published masks, 0 where nothing is published, %"),
    "fixed_iou": ("IoU@.5", "of the map at threshold 0.5, %"),
    "on_thing": ("on", "middle of the mask on the sounding object, % of frames"),
    "on_silent": ("silent", "middle of the mask on a silent object, % of frames with one"),
    "right_word": ("word", "the right word, %"),
    "heard": ("heard", "accepted by the score, %"),
    "placed": ("placed", "right word, accepted, and the map's maximum on the object, %"),
    "lost": ("lost", "of those, %: the published mask misses the object"),
    "outlined": ("outl", "of those, %: the published mask overlaps it by a quarter or more"),
    "ms": ("ms", "model time a frame, a frame's first encoding included"),
    "frames": ("n", "frames"),
}


@dataclass(frozen=True, slots=True)
class FrameResult:
    """What one method made of one frame; IoUs in [0, 1].

    id, kind, word: of the frame: its name, "photo", "pair" or "clip", and what sounds.
    label: the word that the method found.
    score: the sounding score.
    live_iou: of the published masks, 0 where nothing is accepted.
    fixed_iou: of the map at threshold 0.5, accepted or not.
    on_object, on_silent: does the middle of the mask lie on the sounding object, on a silent one? False without a mask.
    right: is it the right word?
    accepted: by score and level.
    placed: right and accepted, and the map's maximum lies on the object.
    lost: placed, but the published mask misses the object.
    outlined: placed, and the mask overlaps the object by FOUND_IOU or more.
    in_view: is any of the object in view?
    ms: model time.
    """

    id: str
    kind: str
    word: str
    label: str
    score: float
    live_iou: float
    fixed_iou: float
    on_object: bool
    on_silent: bool | None
    right: bool
    accepted: bool
    placed: bool
    lost: bool
    outlined: bool
    in_view: bool
    ms: float


def frame_result(
    sample: EvaluationFrame, outcome: Outcome, method_runner: MethodRunner, kind: str, uses_true_word: bool = False
) -> FrameResult:
    """What one outcome is worth. uses_true_word: the word was given, so every score is accepted and the word is right."""
    assert sample.truth is not None  # every photograph is outlined
    config = method_runner.config.concepts
    accepted = uses_true_word or (outcome.score >= config.min_score and sample.window.level_dbfs >= config.silence_dbfs)
    mask = union_of_masks(sample, outcome) if accepted else np.zeros(sample.frame.size, bool)
    map_ = resized(outcome.map, sample.frame.size)
    right = uses_true_word or outcome.label == sample.word
    live = metrics.mask_iou(mask, sample.truth)
    placed = bool(right and accepted and points_at(map_, sample.truth))
    return FrameResult(
        sample.id,
        kind,
        sample.word,
        outcome.label,
        float(outcome.score),
        live,
        metrics.mask_iou(map_ > FIXED, sample.truth),
        _middle_on(mask, sample.truth),
        None if sample.silent is None else _middle_on(mask, sample.silent),
        right,
        bool(accepted),
        placed,
        placed and live < LOST_IOU,
        placed and live >= FOUND_IOU,
        bool(sample.truth.any()),
        float(sum(outcome.ms.values())),
    )


def _middle_on(mask: np.ndarray, truth: np.ndarray) -> bool:
    """Does the mask's centroid lie on the truth, or, where the mask is hollow there, its own pixel nearest to the centroid?"""
    ys, xs = np.nonzero(mask)
    if not len(ys):
        return False
    y, x = ys.mean(), xs.mean()
    if not mask[round(y), round(x)]:
        nearest = ((ys - y) ** 2 + (xs - x) ** 2).argmin()
        y, x = ys[nearest], xs[nearest]
    return bool(truth[round(y), round(x)])


def frame_results(
    method_runner: MethodRunner,
    dataset: Dataset,
    methods: Sequence[str],
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    keep: Callable[[str, EvaluationFrame, Outcome, FrameResult], None] | None = None,
) -> dict[str, list[FrameResult]]:
    """{method: every frame judged}. keep: called with each, as pictures are not kept otherwise."""
    out: dict[str, list[FrameResult]] = {name: [] for name in methods}
    uses_true_word = {name: method_named(name).uses_true_word for name in methods}
    for done, clip in enumerate(dataset.clips):
        if progress:
            progress(done, len(dataset.clips))
        samples = clip.load(method_runner.config.audio.window_s)
        for name in methods:
            own = zlib.crc32(f"{seed}/{clip.id}".encode())
            outcomes = method_runner.run(name, samples, seed=own, temporal=dataset.rules.temporal)
            for sample, outcome in zip(samples, outcomes):
                result = frame_result(sample, outcome, method_runner, clip.group, uses_true_word[name])
                out[name].append(result)
                if keep:
                    keep(name, sample, outcome, result)
        method_runner.forget()
    if progress:
        progress(len(dataset.clips), len(dataset.clips))
    return out


def natural_figures(items: Sequence[FrameResult]) -> dict[str, float]:
    """Percent over frames in which the object is in view; "lost" and "outlined" are shares of the placed ones; ms a frame."""
    items = [item for item in items if item.in_view]
    if not items:
        return {}

    def share(values: Iterable[float | bool]) -> float:
        found = [float(value) for value in values]
        return 100.0 * float(np.mean(found)) if found else float("nan")

    placed = [item for item in items if item.placed]
    return {
        "live_iou": share(i.live_iou for i in items),
        "fixed_iou": share(i.fixed_iou for i in items),
        "on_thing": share(i.on_object for i in items),
        "on_silent": share(i.on_silent for i in items if i.on_silent is not None),
        "right_word": share(i.right for i in items),
        "heard": share(i.accepted for i in items),
        "placed": share(i.placed for i in items),
        "lost": share(i.lost for i in placed),
        "outlined": share(i.outlined for i in placed),
        "ms": float(np.mean([i.ms for i in items])),
        "frames": float(len(items)),
    }


def grouped(items: Sequence[FrameResult], key: Callable[[FrameResult], str]) -> Mapping[str, list[FrameResult]]:
    """The items in groups, by name."""
    groups: dict[str, list[FrameResult]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return dict(sorted(groups.items()))


def false_reports(
    method_runner: MethodRunner,
    dataset: Dataset,
    audio: str,
    methods: Sequence[str],
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, float]:
    """{method: % of the photographs with another sound (``wrong_sounds.AUDIO``) of which anything is published}.

    One clip of each photograph and word; for speech only where nobody is in view.
    """
    kept: dict[str, list[bool]] = {name: [] for name in methods if not method_named(name).uses_true_word}
    clips = [(n, c) for n, c in enumerate(_photograph_clips(dataset)) if c.number == 0]
    window_s, config = method_runner.config.audio.window_s, method_runner.config.concepts
    for done, (number, clip) in enumerate(clips):
        if progress:
            progress(done, len(clips))
        sample = clip.load(window_s)[0]
        if audio == "speech" and "person" in sample.words_in_view:
            continue
        sample = replaced(sample, audio, dataset, number, window_s)
        for name in kept:
            outcome = method_runner.run(name, [sample], seed=number)[0]
            accepted = outcome.score >= config.min_score and sample.window.level_dbfs >= config.silence_dbfs
            kept[name].append(bool(accepted and union_of_masks(sample, outcome).any()))
        method_runner.forget()
    if progress:
        progress(len(clips), len(clips))
    return {name: 100.0 * float(np.mean(values)) if values else float("nan") for name, values in kept.items()}


class NaturalEvaluation:
    """The photographs and pairs, or the clips: ``result()`` measures, by kind and by word; ``text()`` and ``page()`` show.

    methods: () for the usual ones.
    given: the word is given instead of its sound.
    clip: 30 s under a moving crop instead of single pictures.
    limit: the first clips only; 0 for all.
    audio: kinds of wrong sounds.
    sheet: where to draw the first method's frames.
    """

    def __init__(
        self,
        method_runner: MethodRunner,
        split: str = "test",
        methods: Sequence[str] = (),
        *,
        given: bool = False,
        clip: bool = False,
        limit: int = 0,
        audio: Sequence[str] = (),
        sheet: Path | None = None,
    ):
        self.method_runner, self.split, self.given, self.audio, self.sheet = method_runner, split, given, audio, sheet
        self.methods = known_methods(methods or (("true-word",) if given else METHODS))
        kinds = ("clip",) if clip else ("photo", "pair")
        self.dataset = natural.photograph_set(method_runner.anchors.words, split, kinds, given).limited(limit)
        self.cells: list[Cell] = []

    def result(self) -> dict[str, Any]:
        """Everything that was measured."""
        what = f"natural {self.split}"
        found = frame_results(self.method_runner, self.dataset, self.methods, progress=ProgressBar(what), keep=self._keep)
        kinds: dict[str, dict[str, dict[str, float]]] = {}
        words: dict[str, dict[str, dict[str, float]]] = {}
        for name, items in found.items():
            for kind, part in grouped(items, lambda i: i.kind).items():
                kinds.setdefault(kind, {})[name] = natural_figures(part)
            for word, part in grouped(items, lambda i: i.word).items():
                words.setdefault(word, {})[name] = natural_figures(part)
        wrong = {
            kind: false_reports(self.method_runner, self.dataset, kind, self.methods, ProgressBar(f"{what} {kind}"))
            for kind in self.audio
        }
        if self.sheet:
            write_sheet(self.sheet, self.cells)
        return {
            "warning": report.warning(self.method_runner.base.backbones),
            "dataset": "natural",
            "split": self.split,
            "clips": len(self.dataset.clips),
            "photographs": len({clip.photograph for clip in _photograph_clips(self.dataset)}),
            "word": "given" if self.given else "sound",
            "rows": {name: natural_figures(items) for name, items in found.items()},
            "kinds": kinds,
            "words": words,
            "wrong_sounds": wrong,
        }

    def _keep(self, name: str, sample: EvaluationFrame, outcome: Outcome, result: FrameResult) -> None:
        shown = int(sample.id.rpartition("/")[2]) % SHEET_EVERY == 0
        if self.sheet and name == self.methods[0] and result.in_view and shown:
            mask = union_of_masks(sample, outcome)
            mask = mask if result.accepted else mask & False
            mistaken = "" if result.right else f", took it for {result.label or 'nothing'}"
            caption = f"{sample.id}\nIoU {100 * result.live_iou:.0f}  score {result.score:.2f}  {result.word}{mistaken}"
            self.cells.append(Cell(drawn(sample, mask), result.live_iou, caption))

    def notes(self, result: dict[str, Any]) -> list[str]:
        """What was run and what the columns mean."""
        task = "the word is given" if self.given else "the word is recognised from the sound"
        first = f"natural {result['split']}: {result['clips']} clips of {result['photographs']} photographs, {task}"
        warning = [result["warning"]] if result["warning"] else []
        return [*warning, first, *(f"{heading}: {meaning}" for heading, meaning in COLUMNS.values())]

    def text(self, result: dict[str, Any]) -> str:
        """The result as text."""
        parts = ["\n".join(self.notes(result)), _table("all", result["rows"])]
        parts += [_table(kind, rows) for kind, rows in result["kinds"].items()]
        first = self.methods[0]
        parts.append(_table(f"{first} by word", {word: rows[first] for word, rows in result["words"].items()}))
        for audio, rates in result["wrong_sounds"].items():
            parts.append(f"{audio} instead: " + ", ".join(f"{name} reports in {rate:.1f} %" for name, rate in rates.items()))
        return "\n\n".join(parts)

    def page(self, result: dict[str, Any]) -> str:
        """The result as one HTML file."""
        rows = {name: {key: (value, 0.0) for key, value in figures.items()} for name, figures in result["rows"].items()}
        return report.html_page(f"TACO on natural photographs ({result['split']})", self.notes(result), "natural", rows)


def _photograph_clips(dataset: Dataset) -> Sequence[natural.PhotographClip]:
    return cast(Sequence[natural.PhotographClip], dataset.clips)  # ``photograph_set`` makes no others


def _table(title: str, rows: Mapping[str, Mapping[str, float]]) -> str:
    width = max([len(title), *map(len, rows)]) + 2
    head = f"{title:<{width}}" + "".join(f"{heading:>8}" for heading, _ in COLUMNS.values())
    lines = [head]
    for name, figures in rows.items():
        values = (figures.get(key, float("nan")) for key in COLUMNS)
        lines.append(
            f"{name:<{width}}" + "".join("       -" if v != v else f"{v:>8.0f}" if v > 999 else f"{v:>8.1f}" for v in values)
        )
    return "\n".join(lines)


# --- the sheet


@dataclass(frozen=True, slots=True)
class Cell:
    """A picture of a sheet: (h, w, 3) uint8 with everything drawn, its score in [0, 1] and its caption."""

    picture: np.ndarray
    score: float
    caption: str


def drawn(sample: EvaluationFrame, mask: np.ndarray) -> np.ndarray:
    """The frame with its true outline (green), silent objects (red, thin) and the published mask (yellow, filled)."""
    image = sample.frame.rgb.astype(np.float32)
    image[mask] = 0.55 * image[mask] + 0.45 * np.array(MASK, np.float32)
    image = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
    for truth, colour, width in ((sample.silent, SILENT, 1), (sample.truth, TRUE, 2)):
        if truth is not None and truth.any():
            found, _ = cv2.findContours(truth.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            cv2.drawContours(image, found, -1, colour, width)
    return image


def write_sheet(path: Path, cells: Sequence[Cell]) -> None:
    """Write the worst cells as a PNG or JPEG, the lowest score first; MediaError where that can't be done."""
    worst = sorted(cells, key=lambda one: one.score)[:SHEET_FRAMES]
    sheet = contact_sheet([one.picture for one in worst], [one.caption for one in worst], SHEET_COLUMNS, SHEET_TILE)
    try:
        data = cv2.imencode(path.suffix or ".png", sheet[..., ::-1])[1]
        path.write_bytes(data.tobytes())
    except cv2.error:
        raise MediaError(f"--sheet: wanted a picture file such as sheet.png, got {path}") from None
    except OSError as error:
        raise MediaError(f"--sheet: wanted to write {path}, got {error.strerror}") from None
