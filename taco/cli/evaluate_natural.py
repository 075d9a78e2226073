"""``taco evaluate natural``: whole natural photographs with real sounds, and a contact sheet of them, the worst first."""

from __future__ import annotations

from pathlib import Path

from taco.errors import ConfigError
from taco.evaluation.natural_scores import Judged, by, false_reports, judge, natural_figures, published
from taco.evaluation.sheet import Cell, cell, write_sheet

METHODS = ["taco", "late-fusion", "true-word"]
SHEET_FRAMES = 100  # at most on a sheet
# figure -> (heading, meaning)
COLUMNS = {
    "live_iou": ("IoU", "of the published masks, 0 where nothing is published, %"),
    "fixed_iou": ("IoU@.5", "of the map at threshold 0.5, %"),
    "on_thing": ("on", "middle of the mask on the sounding thing, % of frames"),
    "on_silent": ("silent", "middle of the mask on a silent thing, % of frames with one"),
    "right_word": ("word", "the right word, %"),
    "heard": ("heard", "accepted by the score, %"),
    "placed": ("placed", "right word, accepted, and the map's maximum on the thing, %"),
    "lost": ("lost", "of those, %: the published mask misses the thing"),
    "outlined": ("outl", "of those, %: the published mask overlaps it by a quarter or more"),
    "ms": ("ms", "model time a frame, a frame's first encoding included"),
    "frames": ("n", "frames"),
}


class Natural:
    """The photographs, the pairs, or the clips: figures for each method, by kind and by word."""

    def __init__(self, args, config, make_bench):
        from taco.evaluation.natural import natural_set
        from taco.evaluation.runner import known_methods

        self.args, self.given = args, args.word == "given"
        if args.seeds != 1 or args.iterations or args.engine != "local" or args.bank != "auto":
            raise ConfigError("evaluate natural: wanted one seed, the models' bank and --engine local, got another of these")
        if args.sheet and not Path(args.sheet).expanduser().resolve().parent.is_dir():
            raise ConfigError(f"--sheet: wanted a file in a folder that is there, got {args.sheet}")
        self.methods = known_methods(args.method or (["true-word"] if self.given else METHODS))
        self.bench = make_bench(config)
        kinds = ("clip",) if args.clip else ("photo", "pair")
        self.dataset = natural_set(self.bench.anchors.words, args.split, kinds, self.given).limited(args.limit)
        self.cells: list[Cell] = []

    def result(self) -> dict:
        """Everything that was measured."""
        from taco.evaluation.runner import Progress

        what = f"natural {self.args.split}"
        found = judge(self.bench, self.dataset, self.methods, progress=Progress(what), keep=self._keep)
        rows = {name: natural_figures(items) for name, items in found.items()}
        kinds: dict = {}
        words: dict = {}
        for name, items in found.items():
            for kind, part in by(items, lambda i: i.kind).items():
                kinds.setdefault(kind, {})[name] = natural_figures(part)
            for word, part in by(items, lambda i: i.word).items():
                words.setdefault(word, {})[name] = natural_figures(part)
        audio = {
            kind: false_reports(self.bench, self.dataset, kind, self.methods, Progress(f"{what} {kind}"))
            for kind in self.args.audio
        }
        if self.args.sheet:
            write_sheet(Path(self.args.sheet).expanduser(), sorted(self.cells, key=lambda one: one.score)[:SHEET_FRAMES])
        return {
            "dataset": "natural",
            "split": self.args.split,
            "clips": len(self.dataset.clips),
            "photographs": len({clip.photograph for clip in self.dataset.clips}),
            "word": self.args.word,
            "rows": rows,
            "kinds": kinds,
            "words": words,
            "wrong_sounds": audio,
        }

    def _keep(self, name: str, sample, outcome, result: Judged) -> None:
        if self.args.sheet and name == self.methods[0] and result.in_view and not sample.id.endswith(_SKIPPED):
            mask = published(sample, outcome)
            mask = mask if result.heard else mask & False
            told = "" if result.right else f", took it for {result.label or 'nothing'}"
            lines = (f"{sample.id}", f"IoU {100 * result.live_iou:.0f}  score {result.score:.2f}  {result.word}{told}")
            self.cells.append(cell(sample, mask, result.live_iou, lines))

    def notes(self, result: dict) -> list[str]:
        """What was run and what the columns mean."""
        told = "the word is told" if self.given else "the word is heard"
        first = f"natural {result['split']}: {result['clips']} clips of {result['photographs']} photographs, {told}"
        return [first, *(f"{heading}: {meaning}" for heading, meaning in COLUMNS.values())]

    def told(self, result: dict) -> str:
        """The result as text."""
        parts = ["\n".join(self.notes(result)), _table("all", result["rows"])]
        parts += [_table(kind, rows) for kind, rows in result["kinds"].items()]
        first = self.methods[0]
        parts.append(_table(f"{first} by word", {word: rows[first] for word, rows in result["words"].items()}))
        for audio, rates in result["wrong_sounds"].items():
            parts.append(f"{audio} instead: " + ", ".join(f"{name} reports in {rate:.1f} %" for name, rate in rates.items()))
        return "\n\n".join(parts)

    def page(self, result: dict) -> str:
        """The result as one HTML file."""
        from taco.evaluation import page

        rows = {name: {key: (value, 0.0) for key, value in figures.items()} for name, figures in result["rows"].items()}
        return page.html_page(f"TACO on natural photographs ({result['split']})", self.notes(result), "natural", rows)


# Of a clip's 300 frames, a sheet shows every twentieth.
_SKIPPED = tuple(f"/{number}" for number in range(300) if number % 20)


def _table(title: str, rows: dict) -> str:
    width = max([len(title), *map(len, rows)]) + 2
    head = f"{title:<{width}}" + "".join(f"{heading:>8}" for heading, _ in COLUMNS.values())
    lines = [head]
    for name, figures in rows.items():
        values = (figures.get(key, float("nan")) for key in COLUMNS)
        lines.append(
            f"{name:<{width}}" + "".join("       -" if v != v else f"{v:>8.0f}" if v > 999 else f"{v:>8.1f}" for v in values)
        )
    return "\n".join(lines)
