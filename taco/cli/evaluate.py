"""``taco evaluate``: the paper's tables, a benchmark on composed scenes, wrong sounds and streams, each from one command."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from taco.errors import ConfigError, ValueRangeError

HELP = "score methods on S4, MS3, AVSS, ADE Sound Prompted, composed scenes or natural photographs, beside the paper's figures"
PUBLIC = ("s4", "ms3", "avss", "ade-sp", "ade-sp-semantic")
NEGATIVE = {"other": "offscreen"}  # kinds of stamp scenes that are not called as their sound
BANK_HELP = "word bank: general, specific or a file (auto: as published); stamps, streams: all or instruments"
STAMP_METHODS = ["taco", "u", "a-fcclip", "late-fusion", "no-sound", "true-word"]


def add_arguments(parser) -> None:
    """Arguments of ``taco evaluate``."""
    from taco.cli import add_config_arguments
    from taco.evaluation.methods import BY_U, METHODS
    from taco.evaluation.runner import TEMPORAL
    from taco.evaluation.wrong_sounds import AUDIO
    from taco.parallel import add_engine_arguments

    methods = "\n".join(f"  {name:<14}{method.help}" for name, method in METHODS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        HELP + ".\n\n  taco evaluate stamps\n  taco evaluate stamps --audio silence noise other --html report.html\n"
        "  taco evaluate natural --sheet sheet.png\n  taco evaluate streams\n"
        "  taco evaluate s4 --data AVSBench --paper --method gradient u a-fcclip --seeds 3\n\n"
        "Clips that are done are kept: a run that was stopped goes on where it stopped. docs/evaluation.md has a command for\n"
        f"each table of the paper.\n\nmethods:\n{methods}\n"
        f"and the activation map of the variants:\n  {', '.join(BY_U)}"
    )
    parser.add_argument("dataset", choices=("stamps", "natural", "streams", *PUBLIC), help="the first three need no data set")
    parser.add_argument("--data", metavar="DIR", help="folder of the data set, in its public layout")
    parser.add_argument("--split", default="test", help="train, val or test (default test; stamps tune on val first)")
    parser.add_argument("--method", nargs="+", metavar="M", default=[], help="methods (see above), or all")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="repeat with N seeds; the paper's figures take 3")
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the first N clips only (stamps: scenes of a kind)")
    parser.add_argument("--paper", action="store_true", help="the paper's models and solver")
    parser.add_argument("--bank", default="auto", metavar="B", help=BANK_HELP)
    parser.add_argument(
        "--background", default="natural", choices=("natural", "painted"), help="stamps, streams: photographs or painted walls"
    )
    parser.add_argument("--word", default="sound", choices=("sound", "given"), help="natural: hear the word, or be told it")
    parser.add_argument("--clip", action="store_true", help="natural: 30 s clips under a moving crop instead of single pictures")
    parser.add_argument("--sheet", metavar="FILE", help="natural: write a contact sheet of the first method, worst first")
    parser.add_argument(
        "--temporal", default="auto", choices=TEMPORAL, help="how frames of a clip hang together (auto: as published)"
    )
    parser.add_argument("--iterations", nargs="+", type=int, default=[], metavar="N", help="score and time at these limits")
    parser.add_argument("--audio", nargs="+", default=[], choices=AUDIO, help="replace the sound; tells false positives")
    parser.add_argument("--groups", action="store_true", help="also a table for each class, category or kind")
    parser.add_argument("--html", metavar="FILE", help="write one page with the table and the best and worst frames")
    parser.add_argument("--out", metavar="DIR", help="where records are kept (default: the user's cache)")
    add_engine_arguments(parser)
    add_config_arguments(parser)


def make_bench(config):
    """The models of the command; a seam for tests."""
    from taco.evaluation.methods import Bench

    return Bench(config)


def run(args) -> int:
    """Evaluate and print."""
    from taco.cli import config_from, print_json

    if args.seeds < 1 or args.limit < 0 or min([1, *args.iterations]) < 1:
        raise ValueRangeError("--seeds, --iterations: wanted 1 or more, and --limit 0 or more")
    config = config_from(args)
    if args.paper:
        config = config.updated({"models.name": "paper", "factorization.solver": "gradient", "factorization.binding": "penalty"})
    if args.html:
        folder = Path(args.html).expanduser().resolve().parent
        if not folder.is_dir():
            raise ConfigError(f"--html: wanted a file in a folder that is there, got {args.html}")
    if args.dataset == "natural":
        from taco.cli.evaluate_natural import Natural

        work = Natural(args, config, make_bench)
    else:
        work = _Streams(args, config) if args.dataset == "streams" else _Tables(args, config)
    result = work.result()
    if args.json:
        print_json(_finite(result))
    else:
        print(work.told(result))
    if args.html:
        Path(args.html).expanduser().write_text(work.page(result), encoding="utf-8")
        print(f"wrote {args.html}", file=sys.stderr)
    return 0


def _material(args) -> dict[str, str]:
    """What composed scenes are made of: their bank and background."""
    return {"bank": "instruments" if args.bank == "instruments" else "all", "background": args.background}


def _instruments() -> tuple[str, ...]:
    from taco.evaluation.composed.scenes import INSTRUMENTS

    return INSTRUMENTS


def _against_rivals(rows) -> str:
    """TACO against the rivals and the ceiling, at the threshold of val where there is one, else at 0.5."""
    key = "tuned_iou" if "tuned_iou" in rows["taco"] else "fixed_iou"
    own, prompt, fusion, ceiling = (rows[name][key][0] for name in ("taco", "a-fcclip", "late-fusion", "true-word"))
    told = f"IoU {own - prompt:+.1f} points from a-fcclip, {own - fusion:+.1f} from late fusion"
    return f"taco: {told}, {100 * own / max(ceiling, 1e-9):.0f} % of the ceiling true-word"


def _finite(value):
    """The value with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value


class _Tables:
    """One data set: its table, tables by group, wrong sounds."""

    def __init__(self, args, config):
        from taco.evaluation import datasets
        from taco.evaluation.runner import known_methods

        self.args, self.config = args, config
        default = STAMP_METHODS if args.dataset == "stamps" else ["gradient" if args.paper else "taco", "u", "a-fcclip"]
        self.methods = known_methods(args.method or default)
        if args.dataset in PUBLIC:  # the whole tree is checked before models are loaded
            if not args.data:
                raise ConfigError(f"evaluate {args.dataset}: wanted --data DIR, got none")
            self.dataset = datasets.load(args.dataset, args.data, args.split).limited(args.limit)
        self.bench = make_bench(config)
        self.bank = self._bank()
        if self.bank:
            self.bench.set_words(self.bank)
        if args.dataset == "stamps":
            self.dataset = self._stamps(args.split)

    def _stamps(self, split: str, **kinds):
        from taco.evaluation.composed.dataset import COUNT, stamp_set

        return stamp_set(self.bench.anchors.words, split, self.args.limit or COUNT, **_material(self.args), **kinds)

    def _bank(self) -> tuple[str, ...]:
        """The words to listen for; () for the models' own."""
        wanted = self.args.bank
        rule = "general" if self.args.dataset == "stamps" else self.dataset.rules.bank
        general = self.config.models.word_bank
        if self.args.dataset == "stamps" and wanted in ("all", "instruments"):
            return tuple(general) if wanted == "all" else _instruments()
        if wanted == "specific" or (wanted == "auto" and rule == "specific"):
            words = self.dataset.words if self.args.dataset != "stamps" else ()
            if not words and self.args.dataset != "stamps":
                raise ConfigError(f"--bank specific: wanted a list with names, got none in {self.args.dataset}")
            return words
        if wanted in ("auto", "general"):
            if wanted == "auto" and rule == "general-first":
                return self.bench.anchors.words[1:]  # as the public runs do
            return tuple(general)
        return (wanted,)

    def _run(self, dataset, seeds=None, audio: str = "", wrong: bool = False):
        """wrong: the sound is of nothing in view, so that methods that are told the word have none."""
        from taco.evaluation.methods import method_named
        from taco.evaluation.runner import Run

        methods = tuple(name for name in self.methods if not (wrong and method_named(name).told))

        variants = {f"x{n}": {"factorization.max_iterations": n} for n in self.args.iterations} or {"": {}}
        seeds = tuple(range(self.args.seeds)) if seeds is None else seeds
        return Run(dataset, methods, seeds, self.config, self.bank, self.args.temporal, audio, variants)

    def _records(self, run, what: str):
        from taco.evaluation.runner import Progress, evaluate
        from taco.parallel import engine_from

        args = self.args
        out = Path(args.out).expanduser() if args.out else None
        bench = self.bench if args.engine == "local" else None
        spread = engine_from(args, self.config)
        return evaluate(run, out, bench=bench, progress=Progress(what), spread=spread)

    def result(self) -> dict:
        """Everything that was measured."""
        from taco.evaluation import scores

        dataset, thresholds, tuning = self.dataset, {}, None
        if self.args.dataset == "stamps" and self.args.split == "test":
            tuning = self._records(self._run(self._stamps("val"), seeds=(0,)), "stamps val")
            thresholds = {row: scores.best_threshold(runs[0]) for row, runs in tuning.items()}
        main = self._run(dataset)
        self.records = self._records(main, f"{dataset.name} {dataset.split}")
        rows = {
            row: scores.over_seeds([scores.figures(dataset, records, thresholds.get(row)) for records in runs.values()])
            for row, runs in self.records.items()
        }
        by_group = self._groups(thresholds) if self.args.groups or self.args.dataset == "stamps" else {}
        return {
            "dataset": dataset.name,
            "split": dataset.split,
            "clips": len(dataset.clips),
            "frames": len(next(iter(self.records[main.rows[0]].values()))),
            "models": self.config.models.name,
            "words": len(self.bench.anchors.words),
            "bank": self.args.bank,
            "seeds": self.args.seeds,
            "rows": rows,
            "groups": by_group,
            "val_thresholds": thresholds,
            "wrong_sounds": self._wrong_sounds(tuning),
            **self._judged(),
        }

    def _judged(self) -> dict:
        """Of the first method, where words are told: are its scores probabilities, and what does it take for what?"""
        from taco.evaluation import scores

        first = next(iter(self.records.values()))[0]
        if self.dataset.rules.metric in ("semantic", "detection") or not any(r["word"] for r in first):
            return {"reliability": [], "confusions": []}
        return {"reliability": scores.reliability(first, self.wrong), "confusions": scores.confusions(first)}

    def _groups(self, thresholds) -> dict:
        """{class, kind, category or subset: {row: figures}}."""
        from taco.evaluation import scores

        found: dict = {}
        if self.dataset.rules.metric in ("semantic", "detection"):
            for row, runs in self.records.items():
                tables = [scores.by_class(self.dataset, records) for records in runs.values()]
                for name in sorted({name for table in tables for name in table}):
                    found.setdefault(name, {})[row] = scores.over_seeds([table[name] for table in tables if name in table])
            return found
        for group in sorted({r["group"] for runs in self.records.values() for r in next(iter(runs.values()))}):
            found[group] = {row: self._of_group(runs, group, thresholds.get(row)) for row, runs in self.records.items()}
        return found

    def _of_group(self, runs, group: str, threshold):
        from taco.evaluation import scores

        parts = [[r for r in records if r["group"] == group] for records in runs.values()]
        return scores.over_seeds([scores.figures(self.dataset, part, threshold) for part in parts])

    def _wrong_sounds(self, tuning) -> dict:
        """{audio: {row: rates}}; the threshold of the score accepts 95 % of the right frames of val where there is one."""
        from taco.evaluation import wrong_sounds

        out: dict = {}
        self.wrong: list = []  # frames of the first method in which nothing in view sounds
        for audio in self.args.audio:
            if self.args.dataset == "stamps":
                run = self._run(self._stamps(self.args.split, kinds=(NEGATIVE.get(audio, audio),)), seeds=(0,), wrong=True)
            else:
                run = self._run(self.dataset, seeds=(0,), audio=audio, wrong=True)
            wrong = self._records(run, f"{self.dataset.name} {audio}")
            self.wrong += wrong[run.rows[0]][0]
            for row in run.rows:
                right, chosen_on, bad = self.records[row][0], (tuning or self.records)[row][0], wrong[row][0]
                right, chosen_on = ([r for r in part if r["scored"]] for part in (right, chosen_on))
                threshold = wrong_sounds.threshold_for(chosen_on)
                point = wrong_sounds.at_threshold(right, bad, threshold)
                configured = wrong_sounds.at_threshold(right, bad, self.config.concepts.min_score)
                told = [[r["score"] for r in side] for side in (right, bad)]
                _, tpr, fpr = wrong_sounds.roc(*told)
                found = {"auc": 100 * wrong_sounds.auc(*told), "at_95": dataclasses.asdict(point)}
                found |= {"configured": dataclasses.asdict(configured), "tpr": tpr.tolist(), "fpr": fpr.tolist()}
                out.setdefault(audio, {})[row] = found
        return out

    def told(self, result: dict) -> str:
        """The result as text."""
        from taco.evaluation import tables as report

        name = result["dataset"]
        parts = ["\n".join(self.notes(result)), report.text_table(name, result["rows"], result["bank"])]
        parts += [f"{group}\n{report.text_table('', rows)}" for group, rows in result["groups"].items()]
        for audio, rows in result["wrong_sounds"].items():
            lines = [f"wrong sound: {audio}", f"{'':14}{'AUC':>8}{'threshold':>11}{'accepted':>10}{'frames':>10}{'pixels':>10}"]
            for row, found in rows.items():
                for point in (found["at_95"], found["configured"]):
                    values = (
                        f"{point['threshold']:>11.3f}{point['accepted']:>10.1f}{point['frames']:>8.1f}{point['pixels']:>8.1f}"
                    )
                    lines.append(f"{row:14}{found['auc']:>8.1f}{values}")
            parts.append("\n".join(lines))
        if result["reliability"]:
            lines = [f"scores of {next(iter(result['rows']))}: of so many frames, the share that was right (word and place)"]
            lines += ["{from:.1f} to {to:.1f}{count:>8}{score:>8.2f}{right:>8.2f}".format(**row) for row in result["reliability"]]
            parts.append("\n".join(lines))
        if result["confusions"]:
            pairs = ", ".join(f"{true} for {told} {count}" for true, told, count in result["confusions"])
            parts.append(f"taken for another word (true for told, frames): {pairs}")
        return "\n\n".join(parts)

    def notes(self, result: dict) -> list[str]:
        """What was run, and what the figures may be compared with."""
        size = f"{result['clips']} clips, {result['frames']} frames, {result['seeds']} seed(s)"
        out = [f"{result['dataset']} {result['split']}: {size}, {result['models']} models, {result['words']} words"]
        if self.args.dataset in PUBLIC and result["models"] != "paper":
            out.append("The embedded models stand in for the paper's: these figures are not comparable with the published ones.")
        own = [name for name in self.methods if name in ("a-fcclip", "a+-fcclip")]
        if own and self.args.dataset in ("s4", "ms3", "ade-sp") and self.args.bank != "specific":
            out.append(f"The published figures of {', '.join(own)} are with the set's own words: compare with --bank specific.")
        if self.args.limit and self.args.dataset in PUBLIC:
            out.append(f"Only the first {self.args.limit} clips: not the published figure.")
        if result["val_thresholds"]:
            pairs = ", ".join(f"{row} {value:.2f}" for row, value in result["val_thresholds"].items())
            out.append(f"IoU@val uses the thresholds that were best on val: {pairs}")
        if {"taco", "a-fcclip", "late-fusion", "true-word"} <= set(result["rows"]):
            out.append(_against_rivals(result["rows"]))
        if result["wrong_sounds"]:
            out.append("Wrong sounds: first the threshold that accepts 95 % of the right frames, then the configured one.")
        return out

    def page(self, result: dict) -> str:
        """The result as one HTML file."""
        from taco.evaluation import page

        run = self._run(self.dataset)
        row = run.rows[0]
        best, worst = page.extremes(self.records[row][0])
        shown = {f"Best frames of {row}": best, f"Worst frames of {row}": worst}
        drawn = {heading: page.pictures(run, self.bench, row, 0, chosen) for heading, chosen in shown.items()}
        title = f"TACO on {result['dataset']} ({result['split']})"
        more = {"groups": result["groups"], "wrong": result["wrong_sounds"], "shown": drawn}
        return page.html_page(title, self.notes(result), result["dataset"], result["rows"], result["bank"], **more)


class _Streams:
    """Warm against cold, joint against causal, on composed clips."""

    def __init__(self, args, config):
        self.args, self.bench = args, make_bench(config)
        if args.bank == "instruments":
            self.bench.set_words(_instruments())

    def result(self) -> dict:
        """Everything that was measured."""
        from taco.evaluation.runner import Progress
        from taco.evaluation.streams import MODES, stream_figures

        words, count = self.bench.anchors.words, self.args.limit or 6
        found = stream_figures(self.bench, words, self.args.split, count, progress=Progress("streams"), **_material(self.args))
        rows = {mode: {key: (value, 0.0) for key, value in figures.items()} for mode, figures in found.items()}
        return {
            "dataset": "streams",
            "split": self.args.split,
            "clips": 2 * count,
            "rows": rows,
            "modes": {m: MODES[m][-1] for m in rows},
        }

    def notes(self, result: dict) -> list[str]:
        """What was run."""
        half = result["clips"] // 2
        out = [f"streams {result['split']}: {half} clips with a moving camera, {half} with a change of sound, 10 frames a second"]
        return out + [f"{mode}: {meaning}" for mode, meaning in result["modes"].items()]

    def told(self, result: dict) -> str:
        """The result as text."""
        from taco.evaluation import tables as report

        return "\n".join([*self.notes(result), "", report.text_table("streams", result["rows"])])

    def page(self, result: dict) -> str:
        """The result as one HTML file."""
        from taco.evaluation import page

        return page.html_page("TACO on streams", self.notes(result), "streams", result["rows"])
