"""Columns, the paper's figures, text tables and the HTML page of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from taco import __version__
from taco.backbones.base import Backbones
from taco.evaluation.datasets import EvaluationFrame
from taco.evaluation.methods import MethodRunner, Outcome, resized, u_map
from taco.evaluation.runner import Run, clip_outcomes
from taco.evaluation.scores import Record
from taco.types import AudioWindow, ImageFeatures
from taco.view.draw import heat
from taco.view.html import render

LOWER_IS_BETTER, NOT_JUDGED = ("hit_silent", "flips", "delay_s"), ("ms", "accepted")
COMPARED = ("tuned_iou", "iou", "miou")  # the figure that groups are compared by: the first that there is
SPECTRUM_S, LOWEST_HZ = 0.046, 60.0  # ours, of the drawn spectrogram: length of a step, lower end of its logarithmic axis
FLOOR_DB = 70.0  # ours: below its loudest part everything is drawn black
PLOT = {"left": 46, "top": 12, "side": 300, "width": 358, "height": 354}  # px of the ROC plot
PLOT_COLOURS = 4  # of the style sheet, taken in turn

# Percent: (paper, the paper's public reference runs). Rows of Tables 1 to 5, and of Figure 4's U_I.
PUBLISHED: dict[str, dict[str, dict[str, tuple[float | None, float | None]]]] = {
    "s4": {
        "taco": {"iou": (64.04, 64.04), "f": (71.50, 71.50)},
        "u": {"iou": (27.78, 29.68), "f": (None, 41.91)},
        "a-fcclip": {"iou": (51.52, 51.52), "f": (57.25, 57.25)},
        "a+-fcclip": {"iou": (51.63, None)},
    },
    "ms3": {
        "taco": {"iou": (50.46, 43.15), "f": (58.11, 47.50)},
        "u": {"iou": (28.20, 25.88), "f": (None, 30.72)},
        "a-fcclip": {"iou": (33.67, 33.67), "f": (35.87, 35.87)},
        "a+-fcclip": {"iou": (31.67, None)},
    },
    "ade-sp": {
        "taco": {"iou": (51.57, 51.57), "map": (60.01, 60.01)},
        "u": {"iou": (27.74, 27.74), "map": (35.75, 35.75)},
        "a-fcclip": {"iou": (45.31, 45.31), "map": (50.36, 50.36)},
        "a+-fcclip": {"iou": (41.89, None)},
        "no-min": {"iou": (29.93, None), "map": (34.59, None)},
        "no-component": {"iou": (22.70, None), "map": (23.68, None)},
        "no-penalty": {"iou": (26.75, None), "map": (30.17, None)},
    },
    "avss": {
        "taco": {"miou": (20.50, 20.50), "f": (23.02, 23.02)},
        "a-fcclip": {"miou": (11.95, 11.95), "f": (13.56, 13.56)},
    },
    "ade-sp-semantic": {
        "taco": {"miou": (37.70, 37.70), "f": (44.39, 44.39)},
        "a-fcclip": {"miou": (20.91, 20.91), "f": (24.95, 24.95)},
    },
}
# Table 4, word bank of the data set itself (its U_I for ADE SP contradicts its text and is left out).
PUBLISHED_SPECIFIC: dict[str, dict[str, dict[str, tuple[float | None, float | None]]]] = {
    "s4": {"taco": {"iou": (64.73, None)}, "u": {"iou": (28.76, None)}},
    "ms3": {"taco": {"iou": (47.23, None)}, "u": {"iou": (24.94, None)}},
    "ade-sp": {"taco": {"iou": (54.05, None)}, "u": {}},
}
for _rows in (*PUBLISHED.values(), *PUBLISHED_SPECIFIC.values()):
    _rows["gradient"] = _rows["taco"]  # the paper's own solver

SOURCES = ("paper", "reference")
ALWAYS_SPECIFIC = ("a-fcclip", "a+-fcclip")  # published with the data set's own words only

HEADINGS = {
    "iou": ("IoU", "mask IoU at the best threshold of the set (an oracle), %"),
    "miou": ("mIoU", "mean IoU over classes, background included, %"),
    "f": ("F", "F with beta^2 = 0.3, %"),
    "map": ("mAP", "average precision, mean over classes, %"),
    "fixed_iou": ("IoU@.5", "mask IoU at the fixed threshold 0.5, %"),
    "fixed_f": ("F@.5", "F at the fixed threshold 0.5, %"),
    "tuned_iou": ("IoU@val", "mask IoU at the threshold that was best on val, %"),
    "live_iou": ("live", "mask IoU of the masks that the live pipeline would publish, rejection included, %"),
    "mean_iou": ("meanIoU", "mean of the IoU of the masked and of the other pixels, threshold 0.5, %"),
    "hit": ("point", "frames in which the map's maximum lies on the sounding object, %"),
    "hit_silent": ("silent", "frames in which it lies on a silent object, %"),
    "right_word": ("word", "frames with the right word, %"),
    "all_found": ("found", "frames in which every sounding object has its mask (IoU >= 0.25) and its word, %"),
    "accepted": ("accept", "frames reported at the configured threshold, %"),
    "stability": ("stable", "IoU of consecutive masks, %"),
    "flips": ("flips", "changes of the word in 100 frames"),
    "delay_s": ("delay s", "from a change of sound until the mask follows, s"),
    "followed": ("follow", "changes of sound that the mask follows, %"),
    "u_iou": ("U IoU", "mask IoU of the activations of the sounding factor at half their range, no segmenter, %"),
    "u_stability": ("U stable", "IoU of consecutive ones, %"),
    "ms": ("ms", "model time a frame, ms (shared encodings counted in full)"),
}
HIDDEN = {"threshold", "mean_iou"}
Figures = Mapping[str, tuple[float, float]]  # figure -> (mean, deviation)
Table = Mapping[str, Figures]


def warning(backbones: Backbones) -> str:
    """What stands above every figure of these models; "" for trained ones."""
    return "The models' weights are random, not trained: these figures mean nothing." if backbones.untrained else ""


def text_table(name: str, rows: Table, bank: str = "auto") -> str:
    """One line a row: mean and deviation of each figure; under it, where there are any, the published ones."""
    columns = columns_of(rows)
    width = max([14, *(len(row) + 2 for row in rows)])
    lines = [" " * width + "".join(f"{HEADINGS[key][0]:>13}" for key in columns)]
    for row, figures in rows.items():
        lines.append(f"{row:<{width}}" + "".join(f"{figure(key, figures):>13}" for key in columns))
        for source, values in published_figures(name, row, bank).items():
            cells = "".join(f"{values[key]:>13.2f}" if key in values else " " * 13 for key in columns)
            lines.append(f"{'  ' + source:<{width}}" + cells)
    return "\n".join(line.rstrip() for line in lines)


def columns_of(rows: Table) -> list[str]:
    """The figures that are shown of these rows, in the order of HEADINGS."""
    return [key for key in HEADINGS if key not in HIDDEN and any(key in figures for figures in rows.values())]


def published_figures(name: str, row: str, bank: str = "auto") -> dict[str, dict[str, float]]:
    """{"paper" and "reference": {figure: %}} of a row, without what was not published for this word bank.

    ALWAYS_SPECIFIC rows were published with the data set's own words only: they are given for any bank, and the caller says so.
    """
    table = PUBLISHED_SPECIFIC if bank == "specific" and name in PUBLISHED_SPECIFIC else PUBLISHED
    pairs = table.get(name, {}).get(row) or (PUBLISHED.get(name, {}).get(row, {}) if row in ALWAYS_SPECIFIC else {})
    if bank not in ("auto", "general", "specific"):
        pairs = {}
    found = {source: {key: v for key, pair in pairs.items() if (v := pair[i]) is not None} for i, source in enumerate(SOURCES)}
    return {source: figures for source, figures in found.items() if figures}


def figure(key: str, figures: Figures) -> str:
    """Mean, and deviation where it would show; a dash where there is none."""
    if key not in figures:
        return "-"
    mean, deviation = figures[key]
    if np.isnan(mean):
        return "-"
    digits = 0 if key == "ms" else 2
    return f"{mean:.{digits}f}" + (f" ±{deviation:.{digits}f}" if deviation >= 0.5 * 10**-digits else "")


# --- pictures


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame of the page.

    title: what sounds.
    facts: the rest in a line.
    panels: (caption, (H, W, 3) uint8) each.
    words: the nearest words with their scores.
    """

    title: str
    facts: str
    panels: tuple[tuple[str, np.ndarray], ...]
    words: tuple[tuple[str, float], ...]


def extremes(records: Sequence[Record], count: int = 4) -> tuple[list[Record], list[Record]]:
    """(best, worst) frames of different clips, by IoU at 0.5 or, for classes, by the sounding classes' IoU."""
    ranked = sorted((r for r in records if r["scored"]), key=_goodness, reverse=True)

    def pick(order: Sequence[Record]) -> list[Record]:
        seen: dict[str, Record] = {}
        for r in order:
            seen.setdefault(str(r["id"]).rpartition("/")[0], r)
        return list(seen.values())[:count]

    best = pick(ranked)
    taken = {r["id"] for r in best}
    return best, [r for r in pick(ranked[::-1]) if r["id"] not in taken]


def _goodness(r: Record) -> float:
    if "iou" in r:
        return float(r["iou"][9])
    counts = np.asarray(r["counts"])[1:]
    union = counts[:, 1] + counts[:, 2] - counts[:, 0]
    return float(counts[:, 0].sum() / union.sum()) if union.sum() else 1.0


def pictures(run: Run, method_runner: MethodRunner, row: str, seed: int, chosen: Sequence[Record]) -> list[Picture]:
    """The chosen frames drawn; their clips are run again with the same seeds, so that the answer is the same."""
    by_clip: dict[int, list[Record]] = {}
    for r in chosen:
        name = str(r["id"]).rpartition("/")[0]
        by_clip.setdefault(next(i for i, clip in enumerate(run.dataset.clips) if clip.id == name), []).append(r)
    drawn = {}
    for number, records in by_clip.items():
        samples, outcomes = clip_outcomes(run, method_runner, number, row, seed)
        features = {sample.id: method_runner.encoded(sample)[0] for sample in samples}
        for sample, outcome in zip(samples, outcomes):
            for r in records:
                if r["id"] == sample.id:
                    drawn[sample.id] = _drawn(sample, outcome, features[sample.id], r)
        method_runner.forget()
    return [drawn[r["id"]] for r in chosen]


def _drawn(sample: EvaluationFrame, outcome: Outcome, features: ImageFeatures, record: Record) -> Picture:
    rgb = sample.frame.rgb
    size = rgb.shape[:2]
    assert sample.truth is not None  # only scored frames are drawn
    truth = resized(np.greater(sample.truth, 0).astype(np.float32), size, "bilinear") > 0.5
    panels = [("image", rgb), ("truth", _tinted(rgb, truth)), ("mask", _tinted(rgb, resized(outcome.map, size) > 0.5))]
    panels.append(("map", heat(rgb, resized(outcome.map, size).clip(0, 1))))
    if outcome.factorization is not None:
        u = u_map(features, outcome.factorization, outcome.factor)
        panels.append(("U map", heat(rgb, resized(u, size, "bilinear").clip(0, 1))))
    if outcome.sound_map is not None:
        panels.append(("sound; below, its map", _sound_panel(sample.window, outcome.sound_map, size)))
    named = f"named {outcome.label}" if outcome.label else "named nothing"
    facts = f"{named}, IoU {_goodness(record):.2f}, score {outcome.score:.2f}, {sample.id}"
    title = sample.word or " and ".join(word for word, _ in sample.sounding_objects) or "frame"
    return Picture(title, facts, tuple(panels), tuple(outcome.words))


def _sound_panel(window: AudioWindow, sound_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8: the window's spectrogram (time to the right, pitch up); below it where the sounding factor is active."""
    height, width = size
    strip, gap = max(8, height // 4), max(2, height // 40)
    length = 2 ** max(4, round(np.log2(SPECTRUM_S * window.sample_rate)))
    samples = np.pad(window.samples, (0, max(0, length - len(window.samples))))
    steps = np.lib.stride_tricks.sliding_window_view(samples, length)[:: length // 4]
    power = np.abs(np.fft.rfft(steps * np.hanning(length), axis=1)).T
    pitches = np.geomspace(window.sample_rate / 2, min(LOWEST_HZ, window.sample_rate / 4), height)
    power = power[np.round(pitches / window.sample_rate * length).astype(int)]
    db = 20 * np.log10(np.maximum(power, 1e-12) / max(float(power.max()), 1e-12))
    upper = cv2.resize(np.clip(1 + db / FLOOR_DB, 0, 1).astype(np.float32), (width, height - strip - gap))
    top = max(float(sound_map.max()), 1e-9)
    lower = cv2.resize(np.clip(sound_map[::-1] / top, 0, 1).astype(np.float32), (width, strip), interpolation=cv2.INTER_NEAREST)
    hot = [cv2.applyColorMap((255 * part).astype(np.uint8), cv2.COLORMAP_INFERNO)[..., ::-1] for part in (upper, lower)]
    return np.ascontiguousarray(np.concatenate([hot[0], np.full((gap, width, 3), 255, np.uint8), hot[1]]))


def _tinted(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    out = rgb.copy()
    out[mask] = (0.45 * out[mask] + 0.55 * np.array((255, 140, 0))).astype(np.uint8)
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(out, lines, -1, (255, 255, 255), 2)
    return out


# --- page


def html_page(
    title: str,
    notes: Sequence[str],
    name: str,
    rows: Table,
    bank: str = "auto",
    *,
    groups: Mapping[str, Table] | None = None,
    wrong: Mapping[str, Mapping[str, Mapping[str, Any]]] | None = None,
    shown: Mapping[str, Sequence[Picture]] | None = None,
) -> str:
    """The page. rows: the table of data set ``name`` and word ``bank``; groups: {group: table}.

    wrong: {audio: {row: what ``taco evaluate`` found with wrong sounds}}. shown: {heading: pictures}.
    """
    groups = groups or {}
    used = [key for key in HEADINGS if any(key in columns_of(table) for table in (rows, *groups.values()))]
    return render(
        "report.html.j2",
        title=title,
        notes=notes,
        name=name,
        version=__version__,
        rows=_table(name, rows, bank),
        groups=_by_group(groups) if groups else None,
        plot=_roc_plot(wrong) if wrong else None,
        points=_operating_points(wrong) if wrong else None,
        shown=shown or {},
        meanings=[HEADINGS[key] for key in used],
    )


def _table(name: str, rows: Table, bank: str) -> dict[str, Any]:
    """Every figure; the best of a column is marked, the ceiling left out of the comparison."""
    columns = columns_of(rows)
    best = {key: _best(key, {row: figures for row, figures in rows.items() if row != "true-word"}) for key in columns}
    lines = []
    for row, figures in rows.items():
        beside = published_figures(name, row, bank).items()
        lines.append(
            {
                "name": row,
                "cells": [(figure(key, figures), row in best[key]) for key in columns],
                "published": [
                    (source, [f"{values[key]:.2f}" if key in values else "" for key in columns]) for source, values in beside
                ],
            }
        )
    return {"columns": [HEADINGS[key] for key in columns], "rows": lines}


def _best(key: str, rows: Table) -> set[str]:
    values = {row: figures[key][0] for row, figures in rows.items() if key in figures and not np.isnan(figures[key][0])}
    if len(values) < 2 or key in NOT_JUDGED:
        return set()
    top = (min if key in LOWER_IS_BETTER else max)(values.values())
    return {row for row, value in values.items() if value == top}


def _by_group(groups: Mapping[str, Table]) -> dict[str, Any]:
    """One figure of every group and method, with the length of its bar; and the whole table of each group."""
    rows = list(dict.fromkeys(row for table in groups.values() for row in table))
    key = next((k for k in COMPARED if any(k in figures for table in groups.values() for figures in table.values())), "iou")

    def cell(figures: Figures) -> tuple[str, str]:
        share = figures[key][0] if key in figures and not np.isnan(figures[key][0]) else 0.0
        return figure(key, figures), f"{share:.0f}"

    lines = [(group, [cell(table.get(row, {})) for row in rows]) for group, table in groups.items()]
    tables = [(group, _table("", table, "")) for group, table in groups.items()]
    return {"heading": HEADINGS[key][0], "rows": rows, "lines": lines, "tables": tables}


def _operating_points(wrong: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, list[list[str]]]:
    """Lines of the table: the operating points of the first method, and those of the others."""
    lines: dict[str, list[list[str]]] = {"first": [], "others": []}
    for audio, rows in wrong.items():
        for number, (row, found) in enumerate(rows.items()):
            for name, key in (("95 %", "at_95"), ("as set", "configured")):
                point = found[key]
                cells = [f"{audio}, {row}", f"{found['auc']:.1f}", name, f"{point['threshold']:.2f}"]
                cells += [f"{point[k]:.1f}" for k in ("accepted", "frames", "pixels")]
                lines["others" if number else "first"].append(cells)
    return lines


def _roc_plot(wrong: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """ROC of the first method for each wrong sound: a dot where 95 % of the right frames are accepted, a ring as configured."""

    def at(x: float, y: float) -> tuple[str, str]:
        return f"{PLOT['left'] + PLOT['side'] * x:.1f}", f"{PLOT['top'] + PLOT['side'] * (1 - y):.1f}"

    curves = []
    for index, (audio, rows) in enumerate(wrong.items()):
        row, found = next(iter(rows.items()))
        colour = f"var(--c{index % PLOT_COLOURS})"
        fills = {"at_95": colour, "configured": "var(--page)"}
        marks = [(*at(found[key]["frames"] / 100, found[key]["accepted"] / 100), fill) for key, fill in fills.items()]
        points = " ".join(",".join(at(x, y)) for x, y in zip(found["fpr"], found["tpr"]))
        label = f"{audio}, {row}: AUC {found['auc']:.1f}"
        curves.append({"points": points, "colour": colour, "marks": marks, "label": label})
    caption = "ROC: dots where 95 % of the right frames are accepted, rings at the configured threshold"
    return {**PLOT, "curves": curves, "caption": caption}
