"""One page of an evaluation in one file, nothing loaded from elsewhere: tables, ROC of wrong sounds, best and worst frames."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from taco import __version__
from taco.evaluation.datasets import Sample
from taco.evaluation.methods import Bench, Outcome, resized, u_map
from taco.evaluation.runner import Run, clip_outcomes
from taco.evaluation.scores import Record
from taco.evaluation.tables import HEADINGS, Table, columns_of, figure, published
from taco.types import AudioWindow
from taco.view.draw import heat

LOWER_IS_BETTER, NO_MATTER = ("hit_silent", "flips", "delay_s"), ("ms", "accepted")
MAIN = ("tuned_iou", "iou", "miou")  # the figure that groups are compared by: the first that there is
SPECTRUM_S, LOWEST_HZ = 0.046, 60.0  # of the drawn spectrogram: length of a step, lower end of its logarithmic axis
FLOOR_DB = 70.0  # below its loudest part everything is drawn black


# --- pictures


@dataclass(frozen=True, slots=True)
class Picture:
    """A frame of the page. title: what sounds; facts: the rest in a line. panels: (caption, (H, W, 3) uint8)."""

    title: str
    facts: str
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
        features = {sample.id: bench.encoded(sample)[0] for sample in samples}
        for sample, outcome in zip(samples, outcomes):
            for r in records:
                if r["id"] == sample.id:
                    drawn[sample.id] = _drawn(sample, outcome, features[sample.id], r)
        bench.forget()
    return [drawn[r["id"]] for r in chosen]


def _drawn(sample: Sample, outcome: Outcome, features, record: Record) -> Picture:
    rgb = sample.frame.rgb
    size = rgb.shape[:2]
    truth = resized((sample.truth > 0).astype(np.float32), size, "bilinear") > 0.5
    panels = [("image", rgb), ("truth", _tinted(rgb, truth)), ("mask", _tinted(rgb, resized(outcome.map, size) > 0.5))]
    panels.append(("map", heat(rgb, resized(outcome.map, size).clip(0, 1))))
    if outcome.factorization is not None:
        u = u_map(features, outcome.factorization, outcome.factor)
        panels.append(("U map", heat(rgb, resized(u, size, "bilinear").clip(0, 1))))
    if outcome.sound_map is not None:
        panels.append(("sound; below, its map", _sound_panel(sample.window, outcome.sound_map, size)))
    said = f"named {outcome.label}" if outcome.label else "named nothing"
    facts = f"{said}, IoU {_goodness(record):.2f}, score {outcome.score:.2f}, {sample.id}"
    title = sample.word or " and ".join(word for word, _ in sample.things) or "frame"
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

STYLE = """
:root{color-scheme:light dark;--ink:#1d2330;--dim:#5b6577;--line:#d5d9e2;--page:#fbfbfd;--card:#fff;--bar:#dbe8fb;
--c0:#0b6bcb;--c1:#c2410c;--c2:#15803d;--c3:#7c3aed}
@media(prefers-color-scheme:dark){:root{--ink:#e4e7ee;--dim:#9aa4b5;--line:#333a48;--page:#14171d;--card:#1b2029;--bar:#243a5c;
--c0:#6cb2ff;--c1:#ff9d66;--c2:#6fd693;--c3:#bda0ff}}
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:78rem;padding:0 1rem;color:var(--ink);background:var(--page)}
h1{line-height:1.2}h2{margin:2.2rem 0 .4rem}p.note{margin:.2rem 0;color:var(--dim)}
.wide{overflow-x:auto;margin:.8rem 0}table{border-collapse:separate;border-spacing:0;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left;position:sticky;left:0;background:var(--page)}
td.best{font-weight:650}tr.told td{color:var(--dim);font-size:.9em}
td.bar{background:linear-gradient(90deg,var(--bar) var(--share),transparent var(--share))}
summary{cursor:pointer;margin:.6rem 0;color:var(--dim)}
article{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.8rem 1rem;margin:.8rem 0}
article h3{margin:0;font-size:1.05rem}article p{margin:0 0 .3rem;color:var(--dim);font-size:.85rem}
.panels{display:grid;gap:.6rem;grid-template-columns:repeat(auto-fill,minmax(min(10.6rem,46%),1fr))}
figure{margin:0}img{display:block;width:100%;border-radius:5px}figcaption{font-size:.8rem;color:var(--dim)}
.roc{display:flex;flex-wrap:wrap;gap:1.5rem;align-items:center}.roc figure{max-width:26rem}.roc>div{max-width:min(40rem,100%)}
svg{width:min(26rem,100%);height:auto}
svg text{fill:var(--dim);font-size:11px}svg .axis{stroke:var(--line);fill:none}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.2rem 1rem}dt{font-weight:600}dd{margin:0}
footer{margin:2rem 0 1rem;color:var(--dim);font-size:.85rem}
"""


def html_page(
    title: str,
    notes: Sequence[str],
    name: str,
    rows: Table,
    bank: str = "auto",
    *,
    groups: Mapping[str, Table] | None = None,
    wrong: Mapping[str, Mapping[str, Mapping]] | None = None,
    shown: Mapping[str, Sequence[Picture]] | None = None,
) -> str:
    """The page. rows: the table of data set ``name`` and word ``bank``; groups: {group: table}.

    wrong: {audio: {row: what ``taco evaluate`` tells of wrong sounds}}. shown: {heading: pictures}.
    """
    groups, wrong, shown = groups or {}, wrong or {}, shown or {}
    parts = ["<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"]
    parts.append(f"<title>{_safe(title)}</title><style>{STYLE}</style><main><h1>{_safe(title)}</h1>")
    parts += [f"<p class=note>{_safe(note)}</p>" for note in notes]
    parts.append(f"<h2>All frames</h2>{_table(name, rows, bank)}")
    if groups:
        parts.append(_by_group(groups))
    if wrong:
        parts.append(f"<h2>Wrong sounds</h2><div class=roc>{_roc_plot(wrong)}{_wrong_table(wrong)}</div>")
    for heading, items in shown.items():
        parts.append(f"<h2>{_safe(heading)}</h2>" + "".join(map(_card, items)))
    used = [key for key in HEADINGS if any(key in columns_of(table) for table in (rows, *groups.values()))]
    meanings = "".join(f"<dt>{_safe(HEADINGS[key][0])}</dt><dd>{_safe(HEADINGS[key][1])}</dd>" for key in used)
    parts.append(f"<h2>What the columns tell</h2><dl>{meanings}</dl>")
    return "".join([*parts, f"<footer>taco {__version__}, taco evaluate {_safe(name)}</footer></main></html>"])


def _table(name: str, rows: Table, bank: str) -> str:
    """Every figure; the best of a column bold, the ceiling apart."""
    columns, body = columns_of(rows), []
    best = {key: _best(key, {row: figures for row, figures in rows.items() if row != "true-word"}) for key in columns}
    for row, figures in rows.items():
        cells = (f"<td{' class=best' if row in best[key] else ''}>{figure(key, figures)}</td>" for key in columns)
        body.append(f"<tr><td>{_safe(row)}</td>{''.join(cells)}</tr>")
        for what, told in published(name, row, bank).items():
            cells = (f"<td>{told[key]:.2f}</td>" if key in told else "<td></td>" for key in columns)
            body.append(f"<tr class=told><td>{what}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th title='{_safe(HEADINGS[key][1])}'>{_safe(HEADINGS[key][0])}</th>" for key in columns)
    return f"<div class=wide><table><tr><th></th>{head}</tr>{''.join(body)}</table></div>"


def _best(key: str, rows: Table) -> set[str]:
    told = {row: figures[key][0] for row, figures in rows.items() if key in figures and not np.isnan(figures[key][0])}
    if len(told) < 2 or key in NO_MATTER:
        return set()
    top = (min if key in LOWER_IS_BETTER else max)(told.values())
    return {row for row, value in told.items() if value == top}


def _by_group(groups: Mapping[str, Table]) -> str:
    """One figure of every group and method, with bars; all the others folded away."""
    rows = list(dict.fromkeys(row for table in groups.values() for row in table))
    key = next((k for k in MAIN if any(k in figures for table in groups.values() for figures in table.values())), "iou")
    body = []
    for group, table in groups.items():
        cells = []
        for row in rows:
            figures = table.get(row, {})
            share = figures[key][0] if key in figures and not np.isnan(figures[key][0]) else 0.0
            cells.append(f"<td class=bar style='--share:{share:.0f}%'>{figure(key, figures)}</td>")
        body.append(f"<tr><td>{_safe(group)}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th>{_safe(row)}</th>" for row in rows)
    small = f"<div class=wide><table><tr><th></th>{head}</tr>{''.join(body)}</table></div>"
    whole = "".join(f"<h3>{_safe(group)}</h3>{_table('', table, '')}" for group, table in groups.items())
    folded = f"<details><summary>All figures of each group</summary>{whole}</details>"
    return f"<h2>{_safe(HEADINGS[key][0])} by group</h2>{small}{folded}"


def _wrong_table(wrong: Mapping[str, Mapping[str, Mapping]]) -> str:
    """The operating points of the first method; those of the others folded away."""
    lines: list[tuple[bool, str]] = []
    for audio, rows in wrong.items():
        for number, (row, found) in enumerate(rows.items()):
            for what, key in (("95 %", "at_95"), ("as set", "configured")):
                point = found[key]
                told = [f"{audio}, {row}", f"{found['auc']:.1f}", what, f"{point['threshold']:.2f}"]
                told += [f"{point[k]:.1f}" for k in ("accepted", "frames", "pixels")]
                lines.append((bool(number), "<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in told) + "</tr>"))
    names = ("", "AUC", "point", "threshold", "right, %", "wrong, %", "pixels, %")
    head = "<tr>" + "".join(f"<th>{name}</th>" for name in names) + "</tr>"
    first, rest = ("".join(line for other, line in lines if other is which) for which in (False, True))
    tables = [f"<div class=wide><table>{head}{part}</table></div>" for part in (first, rest) if part]
    folded = f"<details><summary>The other methods</summary>{tables[1]}</details>" if rest else ""
    told = "Right: right frames accepted. Wrong: wrong frames reported. Pixels: share of the wrong frames' pixels."
    return f"<div>{tables[0]}<p class=note>{told}</p>{folded}</div>"


def _roc_plot(wrong: Mapping[str, Mapping[str, Mapping]]) -> str:
    """ROC of the first method for each wrong sound: dot where 95 % of right frames are accepted, ring as configured."""
    left, top, side = 46, 12, 300

    def at(x: float, y: float) -> tuple[float, float]:
        return left + side * x, top + side * (1 - y)

    out = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        (x, y), bottom = at(tick, tick), top + side
        out.append(f"<path class=axis d='M{x} {top}V{bottom}M{left} {y}H{left + side}' />")
        out.append(f"<text x={x} y={bottom + 16} text-anchor=middle>{100 * tick:.0f}</text>")
        out.append(f"<text x={left - 6} y={y + 4} text-anchor=end>{100 * tick:.0f}</text>")
    out.append(f"<path class=axis stroke-dasharray=4 d='M{left} {top + side}L{left + side} {top}' />")
    for index, (audio, rows) in enumerate(wrong.items()):
        row, found = next(iter(rows.items()))
        colour = f"var(--c{index % 4})"
        points = " ".join("{:.1f},{:.1f}".format(*at(x, y)) for x, y in zip(found["fpr"], found["tpr"]))
        out.append(f"<polyline points='{points}' fill=none stroke='{colour}' stroke-width=2 />")
        for key, fill in (("at_95", colour), ("configured", "var(--page)")):
            x, y = at(found[key]["frames"] / 100, found[key]["accepted"] / 100)
            out.append(f"<circle cx={x:.1f} cy={y:.1f} r=5 fill='{fill}' stroke='{colour}' stroke-width=2 />")
        y = top + side - 14 - 17 * (len(wrong) - 1 - index)
        out.append(f"<text x={left + side - 8} y={y} text-anchor=end style='fill:{colour}'>{_safe(audio)}, {_safe(row)}: AUC ")
        out.append(f"{found['auc']:.1f}</text>")
    out.append(f"<text x={left + side / 2} y={top + side + 34} text-anchor=middle>wrong frames reported, %</text>")
    middle = top + side / 2
    out.append(f"<text x=12 y={middle} text-anchor=middle transform='rotate(-90 12 {middle})'>right frames accepted, %</text>")
    told = "ROC: dots where 95 % of the right frames are accepted, rings at the configured threshold"
    width, height = left + side + 12, top + side + 42
    return (
        f"<figure><svg viewBox='0 0 {width} {height}' role=img aria-label='{told}'>{''.join(out)}</svg>"
        f"<figcaption>{told}.</figcaption></figure>"
    )


def _card(item: Picture) -> str:
    words = ", ".join(f"{word} {score:.2f}" for word, score in item.words)
    panels = "".join(
        f"<figure><img alt='{_safe(caption)}' src='{_data_url(rgb)}'><figcaption>{_safe(caption)}</figcaption></figure>"
        for caption, rgb in item.panels
    )
    told = f"<h3>{_safe(item.title)}</h3><p>{_safe(item.facts)}</p><p>nearest words: {_safe(words) or 'none'}</p>"
    return f"<article>{told}<div class=panels>{panels}</div></article>"


def _data_url(rgb: np.ndarray, side: int = 320) -> str:
    scale = min(1.0, side / max(rgb.shape[:2]))
    small = cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else rgb
    _, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


def _safe(text: str) -> str:
    return html.escape(str(text), quote=True)
