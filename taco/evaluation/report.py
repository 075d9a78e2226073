"""Tables beside the paper's figures, and one self-contained page with the best and the worst frames."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from taco.draw import heat
from taco.evaluation.baselines import Bench, Outcome, resized, u_map
from taco.evaluation.datasets import Sample
from taco.evaluation.runner import Run, clip_outcomes
from taco.evaluation.scores import Record

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
    "live_iou": ("live", "mask IoU of the live line's masks, rejection and all, %"),
    "mean_iou": ("meanIoU", "mean of the IoU of the masked and of the other pixels, threshold 0.5, %"),
    "hit": ("point", "frames in which the map's maximum lies on the sounding thing, %"),
    "hit_silent": ("silent", "frames in which it lies on a silent thing, %"),
    "right_word": ("word", "frames with the right word, %"),
    "all_found": ("found", "frames in which every sounding thing has its mask (IoU >= 0.25) and its word, %"),
    "accepted": ("accept", "frames reported at the configured threshold, %"),
    "stability": ("stable", "IoU of consecutive masks, %"),
    "flips": ("flips", "changes of the word in 100 frames"),
    "delay_s": ("delay s", "from a change of sound until the mask follows, s"),
    "followed": ("follow", "changes of sound that the mask follows, %"),
    "ms": ("ms", "model time a frame, ms (shared encodings counted in full)"),
}
HIDDEN = {"threshold", "mean_iou"}
Table = Mapping[str, Mapping[str, tuple[float, float]]]


def text_table(name: str, rows: Table, bank: str = "auto") -> str:
    """One line a row: mean and deviation of each figure; under it, where there are any, the published ones."""
    columns = [key for key in HEADINGS if key not in HIDDEN and any(key in figures for figures in rows.values())]
    width = max([14, *(len(row) + 2 for row in rows)])
    lines = [" " * width + "".join(f"{HEADINGS[key][0]:>13}" for key in columns)]
    for row, figures in rows.items():
        lines.append(f"{row:<{width}}" + "".join(f"{_figure(key, figures):>13}" for key in columns))
        for what, told in published(name, row, bank).items():
            cells = "".join(f"{told[key]:>13.2f}" if key in told else " " * 13 for key in columns)
            lines.append(f"{'  ' + what:<{width}}" + cells)
    return "\n".join(line.rstrip() for line in lines)


def published(name: str, row: str, bank: str = "auto") -> dict[str, dict[str, float]]:
    """{"paper" and "reference": {figure: %}} of a row, without what was not published for this word bank.

    Without a specific one for the row, that of ALWAYS_SPECIFIC rows is told for any bank, with a note by the caller.
    """
    table = PUBLISHED_SPECIFIC if bank == "specific" and name in PUBLISHED_SPECIFIC else PUBLISHED
    pairs = table.get(name, {}).get(row) or (PUBLISHED.get(name, {}).get(row, {}) if row in ALWAYS_SPECIFIC else {})
    if bank not in ("auto", "general", "specific"):
        pairs = {}
    told = {what: {key: pair[i] for key, pair in pairs.items() if pair[i] is not None} for i, what in enumerate(SOURCES)}
    return {what: figures for what, figures in told.items() if figures}


def _figure(key: str, figures: Mapping[str, tuple[float, float]]) -> str:
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
    """A frame of the page. panels: (caption, (H, W, 3) uint8)."""

    title: str
    panels: tuple[tuple[str, np.ndarray], ...]
    words: tuple[tuple[str, float], ...]


def extremes(records: Sequence[Record], count: int = 4) -> tuple[list[Record], list[Record]]:
    """(best, worst) frames of different clips, by IoU at 0.5 or, for classes, by the sounding classes' IoU."""
    ranked = sorted((r for r in records if r["scored"]), key=_goodness, reverse=True)

    def pick(order) -> list[Record]:
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


def pictures(run: Run, bench: Bench, row: str, seed: int, chosen: Sequence[Record]) -> list[Picture]:
    """The chosen frames drawn; their clips are run again with the same seeds, so that the answer is the same."""
    by_clip: dict[int, list[Record]] = {}
    for r in chosen:
        name = str(r["id"]).rpartition("/")[0]
        by_clip.setdefault(next(i for i, clip in enumerate(run.dataset.clips) if clip.id == name), []).append(r)
    drawn = {}
    for number, records in by_clip.items():
        samples, outcomes = clip_outcomes(run, bench, number, row, seed)
        features = {sample.id: bench.base.encode(sample.frame, sample.window)[0] for sample in samples}
        for sample, outcome in zip(samples, outcomes):
            for r in records:
                if r["id"] == sample.id:
                    drawn[sample.id] = _drawn(sample, outcome, features[sample.id], f"{sample.id}: {_goodness(r):.2f}")
        bench.forget()
    return [drawn[r["id"]] for r in chosen]


def _drawn(sample: Sample, outcome: Outcome, features, title: str) -> Picture:
    rgb = sample.frame.rgb
    size = rgb.shape[:2]
    truth = resized((sample.truth > 0).astype(np.float32), size, "bilinear") > 0.5
    panels = [("image", rgb), ("truth", _tinted(rgb, truth)), ("mask", _tinted(rgb, resized(outcome.map, size) > 0.5))]
    panels.append(("map", heat(rgb, resized(outcome.map, size).clip(0, 1))))
    if outcome.factorization is not None:
        u = u_map(features, outcome.factorization, outcome.factor)
        panels.append(("U map", heat(rgb, resized(u, size, "bilinear").clip(0, 1))))
    if outcome.sound_map is not None:
        grey = (255 * outcome.sound_map / max(float(outcome.sound_map.max()), 1e-9)).astype(np.uint8)
        tall = cv2.resize(grey[::-1], (size[1], max(24, size[0] // 6)), interpolation=cv2.INTER_NEAREST)
        panels.append(("sound map: time to the right, frequency up", np.repeat(tall[..., None], 3, 2)))
    return Picture(f"{title} {sample.word}".strip(), tuple(panels), tuple(outcome.words))


def _tinted(rgb: np.ndarray, mask: np.ndarray) -> np.ndarray:
    out = rgb.copy()
    out[mask] = (0.45 * out[mask] + 0.55 * np.array((255, 140, 0))).astype(np.uint8)
    lines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    cv2.drawContours(out, lines, -1, (255, 255, 255), 2)
    return out


STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:76rem;padding:0 1rem;color:#1d2330;background:#fbfbfd}
table{border-collapse:collapse;margin:1rem 0;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #d5d9e2}th:first-child,td:first-child{text-align:left}
tr.told td{color:#5b6577;font-size:.9em;border-bottom:0}
figure{display:inline-block;margin:.3rem;vertical-align:top}img{display:block;width:11.5rem;border-radius:4px}
figcaption{font-size:.8rem;color:#5b6577}h3{margin:1.2rem 0 .2rem;font-size:1rem}dt{font-weight:600}dd{margin:0 0 .3rem 1.2rem}
svg{background:#fff;border:1px solid #d5d9e2}
@media(prefers-color-scheme:dark){body{color:#e4e7ee;background:#14171d}th,td{border-color:#333a48}
tr.told td,figcaption{color:#9aa4b5}}
"""


def html_page(
    title: str,
    notes: Sequence[str],
    tables: Mapping[str, tuple[str, Table, str]],
    shown: Mapping[str, Sequence[Picture]],
    rocs=(),
):
    """One file, nothing loaded from elsewhere.

    tables: {heading: (data set, rows, word bank)}. shown: {heading: pictures}. rocs: [(name, false positive rate, true
    positive rate)].
    """
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{_safe(title)}</title><style>{STYLE}</style>"]
    parts.append('<meta name="viewport" content="width=device-width"><main>')
    parts.append(f"<h1>{_safe(title)}</h1>" + "".join(f"<p>{_safe(note)}</p>" for note in notes))
    for heading, (name, rows, bank) in tables.items():
        parts.append(f"<h2>{_safe(heading)}</h2>{_html_table(name, rows, bank)}")
    if rocs:
        parts.append("<h2>Wrong sounds: accepted right frames against reported wrong ones</h2>" + _roc_plot(rocs))
    for heading, items in shown.items():
        parts.append(f"<h2>{_safe(heading)}</h2>")
        for item in items:
            words = ", ".join(f"{word} {score:.2f}" for word, score in item.words)
            parts.append(f"<h3>{_safe(item.title)}</h3><p>Nearest words: {_safe(words) or 'none'}</p>")
            parts += [
                f"<figure><img alt='{_safe(caption)}' src='{_data_url(rgb)}'><figcaption>{_safe(caption)}</figcaption></figure>"
                for caption, rgb in item.panels
            ]
    used = [k for k in HEADINGS if k not in HIDDEN and any(k in f for _, rows, _ in tables.values() for f in rows.values())]
    meanings = "".join(f"<dt>{_safe(HEADINGS[key][0])}</dt><dd>{_safe(HEADINGS[key][1])}</dd>" for key in used)
    return "".join([*parts, f"<h2>What the columns tell</h2><dl>{meanings}</dl></main></html>"])


def _html_table(name: str, rows: Table, bank: str) -> str:
    columns = [key for key in HEADINGS if key not in HIDDEN and any(key in figures for figures in rows.values())]
    head = "".join(f"<th title='{_safe(HEADINGS[key][1])}'>{_safe(HEADINGS[key][0])}</th>" for key in columns)
    body = []
    for row, figures in rows.items():
        body.append(f"<tr><td>{_safe(row)}</td>" + "".join(f"<td>{_figure(key, figures)}</td>" for key in columns) + "</tr>")
        for what, told in published(name, row, bank).items():
            cells = "".join(f"<td>{told[key]:.2f}</td>" if key in told else "<td></td>" for key in columns)
            body.append(f"<tr class=told><td>{what}</td>{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(body)}</table>"


def _roc_plot(rocs) -> str:
    colours, lines = ("#0b6bcb", "#c2410c", "#15803d", "#7c3aed"), []
    for index, (name, fpr, tpr) in enumerate(rocs):
        points = " ".join(f"{20 + 260 * x:.1f},{280 - 260 * y:.1f}" for x, y in zip(fpr, tpr))
        colour = colours[index % len(colours)]
        lines.append(f"<polyline points='{points}' fill=none stroke='{colour}' stroke-width=2 />")
        lines.append(f"<text x=150 y={230 + 14 * index} fill='{colour}' font-size=12>{_safe(name)}</text>")
    axes = "<path d='M20 20V280H280' fill=none stroke='#888' />"
    return f"<svg width=300 height=300 role=img aria-label='ROC curves'>{axes}{''.join(lines)}</svg>"


def _data_url(rgb: np.ndarray, side: int = 320) -> str:
    scale = min(1.0, side / max(rgb.shape[:2]))
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else rgb
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _safe(text: str) -> str:
    return html.escape(str(text), quote=True)
