"""``taco evaluate``: methods scored on data sets, composed scenes, photographs and streams."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco.errors import ConfigError, ValueRangeError

if TYPE_CHECKING:
    from taco.config import TacoConfig
    from taco.evaluation.methods import MethodRunner
    from taco.evaluation.natural_scores import NaturalEvaluation
    from taco.evaluation.streams import StreamEvaluation
    from taco.evaluation.tables import TableEvaluation

BANK_HELP = "word bank: general, specific or a file (auto: as published); stamps, streams: all or instruments"
STREAM_CLIPS = 6  # of each sort, without --limit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco evaluate``."""
    from taco.cli import add_config_arguments
    from taco.evaluation.datasets import READERS
    from taco.evaluation.methods import BY_U, METHODS
    from taco.evaluation.runner import TEMPORAL
    from taco.evaluation.wrong_sounds import AUDIO
    from taco.parallel import add_executor_arguments

    methods = "\n".join(f"  {name:<14}{method.help}" for name, method in METHODS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        (parser.description or "")
        + ".\n\n  taco evaluate stamps\n  taco evaluate stamps --audio silence noise other --html report.html\n"
        "  taco evaluate natural --sheet sheet.png\n  taco evaluate streams\n"
        "  taco evaluate s4 --data AVSBench --paper --method gradient u a-fcclip --seeds 3\n\n"
        "Finished clips are kept: a run that was stopped continues where it stopped. docs/evaluation.md has a command for\n"
        f"each table of the paper.\n\nmethods:\n{methods}\n"
        f"and the activation map of the variants:\n  {', '.join(BY_U)}"
    )
    parser.add_argument("dataset", choices=("stamps", "natural", "streams", *READERS), help="the first three need no data set")
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
    parser.add_argument(
        "--word", default="sound", choices=("sound", "given"), help="natural: name the sound, or use the given word"
    )
    parser.add_argument("--clip", action="store_true", help="natural: 30 s clips under a moving crop instead of single pictures")
    parser.add_argument("--sheet", metavar="FILE", help="natural: write a contact sheet of the first method, worst first")
    parser.add_argument(
        "--temporal", default="auto", choices=TEMPORAL, help="how a clip's frames are linked (auto: as published)"
    )
    parser.add_argument("--iterations", nargs="+", type=int, default=[], metavar="N", help="score and time at these limits")
    parser.add_argument("--audio", nargs="+", default=[], choices=AUDIO, help="replace the sound, to count false positives")
    parser.add_argument("--groups", action="store_true", help="also a table for each class, category or kind")
    parser.add_argument("--html", metavar="FILE", help="write one page with the table and the best and worst frames")
    parser.add_argument("--out", metavar="DIR", help="where records are kept (default: the user's cache)")
    add_executor_arguments(parser)
    add_config_arguments(parser)


def make_method_runner(config: TacoConfig) -> MethodRunner:
    """The models of the command; tests put their own in its place."""
    from taco.evaluation.methods import MethodRunner

    return MethodRunner(config)


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    from taco.cli import config_from, print_json
    from taco.evaluation import report

    if args.seeds < 1 or args.limit < 0 or min([1, *args.iterations]) < 1:
        raise ValueRangeError("--seeds, --iterations: wanted 1 or more, and --limit 0 or more")
    config = config_from(args)
    if args.paper:
        config = config.updated({"models.name": "paper", "factorization.solver": "gradient", "factorization.binding": "penalty"})
    html, sheet = _file("--html", args.html), _file("--sheet", args.sheet)
    work = _evaluation(args, config, sheet)
    if warning := report.warning(work.method_runner.base.backbones):
        print(warning, file=sys.stderr)
    result = work.result()
    if args.json:
        print_json(_finite(result))
    else:
        print(work.text(result))
    if html:
        html.write_text(work.page(result), encoding="utf-8")
        print(f"wrote {args.html}", file=sys.stderr)
    return 0


def _evaluation(
    args: argparse.Namespace, config: TacoConfig, sheet: Path | None
) -> TableEvaluation | StreamEvaluation | NaturalEvaluation:
    if args.dataset == "streams":
        from taco.evaluation.streams import StreamEvaluation

        return StreamEvaluation(make_method_runner(config), args.split, args.limit or STREAM_CLIPS, args.bank, args.background)
    if args.dataset == "natural":
        from taco.evaluation.natural_scores import NaturalEvaluation

        if args.seeds != 1 or args.iterations or args.engine != "local" or args.bank != "auto":
            raise ConfigError("evaluate natural: wanted one seed, the models' bank and --engine local, got another of these")
        given = args.word == "given"
        asked = {"given": given, "clip": args.clip, "limit": args.limit, "audio": args.audio, "sheet": sheet}
        return NaturalEvaluation(make_method_runner(config), args.split, args.method, **asked)
    from taco.evaluation.tables import TableEvaluation, TableOptions
    from taco.parallel import executor_from

    same = ("dataset", "data", "split", "seeds", "limit", "paper", "bank", "background", "temporal", "groups")
    options = TableOptions(
        **{name: getattr(args, name) for name in same},
        methods=tuple(args.method),
        iterations=tuple(args.iterations),
        audio=tuple(args.audio),
        out=Path(args.out).expanduser() if args.out else None,
        executor=executor_from(args, config),
    )
    return TableEvaluation(options, config, make_method_runner)


def _file(option: str, text: str | None) -> Path | None:
    """The file to write; ConfigError where its folder is not there."""
    path = Path(text).expanduser() if text else None
    if path and not path.resolve().parent.is_dir():
        raise ConfigError(f"{option}: wanted a file in a folder that is there, got {text}")
    return path


def _finite(value: Any) -> Any:
    """The value with None for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value
