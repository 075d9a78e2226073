"""One data set evaluated: its tables, groups and wrong sounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from taco.config import TacoConfig
from taco.errors import ConfigError
from taco.evaluation import datasets, report, scores, wrong_sounds
from taco.evaluation.composed import scenes
from taco.evaluation.composed.sources import catalogue
from taco.evaluation.methods import MethodRunner, method_named
from taco.evaluation.runner import ProgressBar, Run, evaluate, known_methods
from taco.evaluation.scores import Record
from taco.parallel import ClipExecutor

PUBLIC = tuple(datasets.READERS)
NEGATIVE_KIND = {"other": "offscreen"}  # kinds of composed scenes that are not called as their sound
COMPOSED_METHODS = ("taco", "u", "a-fcclip", "late-fusion", "no-sound", "true-word")
PUBLIC_METHODS = ("taco", "u", "a-fcclip")  # as in the paper's tables
Tables = dict[str, dict[str, tuple[float, float]]]
Records = dict[str, dict[int, list[Record]]]


@dataclass(frozen=True, slots=True)
class TableOptions:
    """What ``taco evaluate`` is asked for.

    dataset: "stamps" (composed scenes) or one of PUBLIC, then in the folder ``data``.
    split: train, val or test.
    methods: names of methods; () for the usual ones.
    seeds: how many.
    limit: the first clips only (composed: scenes of a kind); 0 for all.
    paper: the usual methods are those of the paper.
    bank: the words listened for: auto, general, specific, a file; composed: all or instruments.
    background: of composed scenes, "natural" or "painted".
    temporal: how the frames of a clip hang together; "auto" as published.
    iterations: score and time at these limits.
    audio: kinds of wrong sounds.
    groups: a table for each group.
    out: where records are kept.
    executor: where clips are worked on.
    """

    dataset: str
    data: str = ""
    split: str = "test"
    methods: tuple[str, ...] = ()
    seeds: int = 1
    limit: int = 0
    paper: bool = False
    bank: str = "auto"
    background: str = "natural"
    temporal: str = "auto"
    iterations: tuple[int, ...] = ()
    audio: tuple[str, ...] = ()
    groups: bool = False
    out: Path | None = None
    executor: ClipExecutor = field(default_factory=ClipExecutor)


class TableEvaluation:
    """One data set: ``result()`` measures, ``text()`` and ``page()`` show. make_runner(config) loads the models."""

    def __init__(self, options: TableOptions, config: TacoConfig, make_runner: Callable[[TacoConfig], MethodRunner]):
        self.options, self.config = options, config
        usual = ("gradient" if options.paper else "taco", *PUBLIC_METHODS[1:])
        self.composed = options.dataset == "stamps"
        self.methods = known_methods(options.methods or (COMPOSED_METHODS if self.composed else usual))
        if not self.composed:  # the whole tree is checked before models are loaded
            if not options.data:
                raise ConfigError(f"evaluate {options.dataset}: wanted --data DIR, got none")
            self.dataset = datasets.load(options.dataset, options.data, options.split).limited(options.limit)
        self.method_runner = make_runner(config)
        self.bank = self._bank()
        if self.bank:
            self.method_runner.set_words(self.bank)
        if self.composed:
            self.dataset = self._scenes(options.split)

    def _scenes(self, split: str, kinds: Sequence[str] = ()) -> datasets.Dataset:
        material = {"bank": "instruments" if self.options.bank == "instruments" else "all", "background": self.options.background}
        words = self.method_runner.anchors.words
        return scenes.composed_set(words, split, self.options.limit or scenes.COUNT, kinds, **material)

    def _bank(self) -> tuple[str, ...]:
        """The words to listen for; () for the models' own."""
        wanted = self.options.bank
        rule = "general" if self.composed else self.dataset.rules.bank
        general = tuple(self.config.models.word_bank)
        if self.composed and not general and self.config.models.name != "embedded":  # sets that take any word listen for these
            general = tuple(dict.fromkeys(entry.word for entry in catalogue("all")))
        if self.composed and wanted in ("all", "instruments"):
            return general if wanted == "all" else scenes.INSTRUMENTS
        if wanted == "specific" or (wanted == "auto" and rule == "specific"):
            if self.composed:
                return ()
            if not self.dataset.words:
                raise ConfigError(f"--bank specific: wanted a list with names, got none in {self.options.dataset}")
            return self.dataset.words
        if wanted in ("auto", "general"):
            if wanted == "auto" and rule == "general-first":
                return self.method_runner.anchors.words[1:]  # as the public runs do
            return general
        return (wanted,)

    def _run(self, dataset: datasets.Dataset, seeds: Sequence[int] = (), audio: str = "", wrong: bool = False) -> Run:
        """wrong: the sound is of nothing in view, so that methods that use the true word have none."""
        methods = tuple(name for name in self.methods if not (wrong and method_named(name).uses_true_word))
        variants = {f"x{n}": {"factorization.max_iterations": n} for n in self.options.iterations} or {"": {}}
        seeds = tuple(seeds) or tuple(range(self.options.seeds))
        return Run(dataset, methods, seeds, self.config, self.bank, self.options.temporal, audio, variants)

    def _records(self, run: Run, what: str) -> Records:
        executor = self.options.executor
        own = self.method_runner if executor.name == "local" else None
        return evaluate(run, self.options.out, method_runner=own, progress=ProgressBar(what), executor=executor)

    def result(self) -> dict[str, Any]:
        """Everything that was measured."""
        dataset, thresholds, tuning = self.dataset, {}, None
        if self.composed and self.options.split == "test":
            tuning = self._records(self._run(self._scenes("val"), seeds=(0,)), "stamps val")
            thresholds = {row: scores.best_threshold(runs[0]) for row, runs in tuning.items()}
        main = self._run(dataset)
        self.records = self._records(main, f"{dataset.name} {dataset.split}")
        rows = {
            row: scores.over_seeds([scores.figures(dataset, records, thresholds.get(row)) for records in runs.values()])
            for row, runs in self.records.items()
        }
        by_group = self._groups(thresholds) if self.options.groups or self.composed else {}
        return {
            "warning": report.warning(self.method_runner.base.backbones),
            "dataset": dataset.name,
            "split": dataset.split,
            "clips": len(dataset.clips),
            "frames": len(next(iter(self.records[main.rows[0]].values()))),
            "models": self.config.models.name,
            "words": len(self.method_runner.anchors.words),
            "bank": self.options.bank,
            "seeds": self.options.seeds,
            "rows": rows,
            "groups": by_group,
            "val_thresholds": thresholds,
            "wrong_sounds": self._wrong_sounds(tuning),
            **self._word_checks(),
        }

    def _word_checks(self) -> dict[str, Any]:
        """Of the first method, where words are known: are its scores probabilities, and what does it take for what?"""
        first = next(iter(self.records.values()))[0]
        if self.dataset.rules.metric in ("semantic", "detection") or not any(r["word"] for r in first):
            return {"reliability": [], "confusions": []}
        return {"reliability": scores.reliability(first, self.wrong), "confusions": scores.confusions(first)}

    def _groups(self, thresholds: Mapping[str, float]) -> dict[str, Tables]:
        """{class, kind, category or subset: {row: figures}}."""
        found: dict[str, Tables] = {}
        if self.dataset.rules.metric in ("semantic", "detection"):
            for row, runs in self.records.items():
                tables = [scores.by_class(self.dataset, records) for records in runs.values()]
                for name in sorted({name for table in tables for name in table}):
                    found.setdefault(name, {})[row] = scores.over_seeds([table[name] for table in tables if name in table])
            return found
        for group in sorted({r["group"] for runs in self.records.values() for r in next(iter(runs.values()))}):
            found[group] = {row: self._of_group(runs, group, thresholds.get(row)) for row, runs in self.records.items()}
        return found

    def _of_group(self, runs: Mapping[int, list[Record]], group: str, threshold: float | None) -> dict[str, tuple[float, float]]:
        parts = [[r for r in records if r["group"] == group] for records in runs.values()]
        return scores.over_seeds([scores.figures(self.dataset, part, threshold) for part in parts])

    def _wrong_sounds(self, tuning: Records | None) -> dict[str, dict[str, Any]]:
        """{audio: {row: rates}}; the threshold of the score accepts 95 % of the right frames of val where there is one."""
        out: dict[str, dict[str, Any]] = {}
        self.wrong: list[Record] = []  # frames of the first method in which nothing in view sounds
        for audio in self.options.audio:
            if self.composed:
                run = self._run(
                    self._scenes(self.options.split, kinds=(NEGATIVE_KIND.get(audio, audio),)), seeds=(0,), wrong=True
                )
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
                right_scores, wrong_scores = ([r["score"] for r in side] for side in (right, bad))
                _, tpr, fpr = wrong_sounds.roc(right_scores, wrong_scores)
                found = {"auc": 100 * wrong_sounds.auc(right_scores, wrong_scores), "at_95": dataclasses.asdict(point)}
                found |= {"configured": dataclasses.asdict(configured), "tpr": tpr.tolist(), "fpr": fpr.tolist()}
                out.setdefault(audio, {})[row] = found
        return out

    def text(self, result: dict[str, Any]) -> str:
        """The result as text."""
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
            pairs = ", ".join(f"{true} for {named} {count}" for true, named, count in result["confusions"])
            parts.append(f"taken for another word (true for named, frames): {pairs}")
        return "\n\n".join(parts)

    def notes(self, result: dict[str, Any]) -> list[str]:
        """What was run, and what the figures may be compared with."""
        size = f"{result['clips']} clips, {result['frames']} frames, {result['seeds']} seed(s)"
        out = [result["warning"]] if result["warning"] else []
        out += [f"{result['dataset']} {result['split']}: {size}, {result['models']} models, {result['words']} words"]
        if not self.composed and result["models"] != "paper":
            of = f"The {result['models']} models"
            out.append(f"{of} stand in for the paper's: these figures are not comparable with the published ones.")
        own = [name for name in self.methods if name in ("a-fcclip", "a+-fcclip")]
        if own and self.options.dataset in ("s4", "ms3", "ade-sp") and self.options.bank != "specific":
            out.append(f"The published figures of {', '.join(own)} are with the set's own words: compare with --bank specific.")
        if self.options.limit and not self.composed:
            out.append(f"Only the first {self.options.limit} clips: not the published figure.")
        if result["val_thresholds"]:
            pairs = ", ".join(f"{row} {value:.2f}" for row, value in result["val_thresholds"].items())
            out.append(f"IoU@val uses the thresholds that were best on val: {pairs}")
        if {"taco", "a-fcclip", "late-fusion", "true-word"} <= set(result["rows"]):
            out.append(against_rivals(result["rows"]))
        if result["wrong_sounds"]:
            out.append("Wrong sounds: first the threshold that accepts 95 % of the right frames, then the configured one.")
        return out

    def page(self, result: dict[str, Any]) -> str:
        """The result as one HTML file."""
        run = self._run(self.dataset)
        row = run.rows[0]
        best, worst = report.extremes(self.records[row][0])
        shown = {f"Best frames of {row}": best, f"Worst frames of {row}": worst}
        drawn = {heading: report.pictures(run, self.method_runner, row, 0, chosen) for heading, chosen in shown.items()}
        title = f"TACO on {result['dataset']} ({result['split']})"
        more = {"groups": result["groups"], "wrong": result["wrong_sounds"], "shown": drawn}
        return report.html_page(title, self.notes(result), result["dataset"], result["rows"], result["bank"], **more)


def against_rivals(rows: report.Table) -> str:
    """TACO against the rivals and the ceiling, at the threshold of val where there is one, else at 0.5."""
    key = "tuned_iou" if "tuned_iou" in rows["taco"] else "fixed_iou"
    own, prompt, fusion, ceiling = (rows[name][key][0] for name in ("taco", "a-fcclip", "late-fusion", "true-word"))
    gains = f"IoU {own - prompt:+.1f} points from a-fcclip, {own - fusion:+.1f} from late fusion"
    return f"taco: {gains}, {100 * own / max(ceiling, 1e-9):.0f} % of the ceiling true-word"
