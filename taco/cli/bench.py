"""``taco bench``: the benchmarks by name."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

from taco.cli import add_config_arguments, config_from, print_json
from taco.errors import ConfigError, ValueRangeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command a benchmark."""
    names = parser.add_subparsers(dest="bench", metavar="|".join(BENCHMARKS), required=True)
    for name, (text, arguments, run_it) in BENCHMARKS.items():
        sub = names.add_parser(name, help=text, description=text)
        arguments(sub)
        # Suppressed: the command's own --json, given before the name, must not be set back.
        sub.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON on standard output"
        )
        sub.set_defaults(bench_run=run_it)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark that was named."""
    status: int = args.bench_run(args)
    return status


# --- solver


def _solver_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco bench solver``."""
    parser.add_argument("--seeds", type=int, default=20, help="synthetic scenes (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1800, help="steps of the autograd loop (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads; times are processor time (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="2 scenes, 20 steps scaled to 1800, small sizes: a smoke test")


def _run_solver(args: argparse.Namespace) -> int:
    """Run it and print the figures."""
    import torch

    from taco.bench.solver import run_solver
    from taco.evaluation.runner import ProgressBar

    torch.set_num_threads(max(1, args.threads))
    found = run_solver(
        2 if args.quick else args.seeds,
        20 if args.quick else args.steps,
        quick=args.quick,
        progress=ProgressBar("bench solver", "method"),
    )
    if args.json:
        print_json(found)
        return 0
    for name, part in found.items():
        rows = part if isinstance(next(iter(part.values()), None), dict) else {"": part}
        print(f"\n{name}\n\n{table(rows, '')}")
    return 0


# --- stream


def _stream_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco bench stream``."""
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="videos (default: six that nobody tuned on)")
    parser.add_argument("--frames", type=int, default=80, help="frames a video (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=1.0, help="noise of the tokens; 3 is hard (default: %(default)s)")
    parser.add_argument("--gap", type=float, default=0.0, help="gap between tokens and words; 1 is hard (default: %(default)s)")


def _run_stream(args: argparse.Namespace) -> int:
    """Run it and print the figures."""
    from taco.bench.stream import FRESH_SEEDS, run_stream
    from taco.evaluation.runner import ProgressBar

    if args.frames < 48:
        raise ValueRangeError(f"--frames: wanted at least 48 (four scenes of more than a second each), got {args.frames}")
    found = run_stream(
        args.seeds or FRESH_SEEDS, args.frames, args.noise, args.gap, progress=ProgressBar("bench stream", "method")
    )
    print_json(found) if args.json else print(table(found, "method"))
    return 0


# --- ablations


def _ablations_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco bench ablations``."""
    parser.add_argument("--split", choices=("val", "test"), default="test", help="of the scenes (default: %(default)s)")
    parser.add_argument("--count", type=int, default=40, metavar="N", help="scenes of each kind (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="of scenes, as `taco evaluate stamps` has them")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some rows of the table (a wrong name lists them)")
    add_config_arguments(parser)


def _run_ablations(args: argparse.Namespace) -> int:
    """Run it and print the table."""
    from taco.bench.ablations import ABLATIONS, KINDS, ablations
    from taco.evaluation.runner import ProgressBar

    if args.count < 1:
        raise ConfigError(f"--count: wanted 1 or more, got {args.count}")
    wanted = args.only or list(ABLATIONS)
    if unknown := [name for name in wanted if name not in ABLATIONS]:
        raise ConfigError(f"--only: wanted some of {', '.join(ABLATIONS)}; got {', '.join(unknown)}")
    names = dict.fromkeys(("as configured", *wanted))
    found = ablations(
        config_from(args),
        tuple(names),
        split=args.split,
        count=args.count,
        kinds=args.kinds or KINDS,
        progress=ProgressBar("bench ablations"),
    )
    print_json(found) if args.json else print(table(found, "replaced by"))
    return 0


# --- pipeline


def _pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco bench pipeline``."""
    parser.add_argument("--all", action="store_true", help="also growth, 10,000 frames, the node and commands: half an hour")
    parser.add_argument("--repeats", type=int, default=1, metavar="N", help="how often every frame is run (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=0, metavar="N", help="also look at the memory over N frames")
    parser.add_argument("--domain", type=int, default=101, help="ROS_DOMAIN_ID of the node, and the four after it")
    parser.add_argument("--save", metavar="FILE", help="write the result as JSON")
    parser.add_argument("--from", dest="source", metavar="FILE", help="measure nothing: print the tables of a file of --save")
    add_config_arguments(parser)


def _run_pipeline(args: argparse.Namespace) -> int:
    """Run or read it, and print the tables."""
    from pathlib import Path

    from taco.bench import page
    from taco.evaluation.runner import ProgressBar

    if args.repeats < 1 or args.frames < 0:
        raise ConfigError("--repeats, --frames: wanted 1 or more, and 0 or more")
    save = Path(args.save).expanduser() if args.save else None
    if save and not save.resolve().parent.is_dir():
        raise ConfigError(f"--save: wanted a file in a folder that is there, got {args.save}")
    if args.source:
        found = page.read(args.source)
    else:
        options = {"repeats": args.repeats, "frames": args.frames, "domain": args.domain}
        bar = lambda part: ProgressBar(f"bench pipeline, {part}", "frame")  # noqa: E731
        found = page.measure(config_from(args), args.all, **options, progress=bar)
    if save:
        save.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print_json(found) if args.json else print(page.markdown(found, table))
    return 0


# --- node


def _node_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco bench node``."""
    from taco.bench.node import STAGES_MS

    parser.add_argument("--stages", type=float, nargs="+", default=list(STAGES_MS), metavar="MS", help="durations of the models")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the stream for each (600: does the age grow?)")
    parser.add_argument("--domain", type=int, default=101, help="ROS_DOMAIN_ID to use")


def _run_node(args: argparse.Namespace) -> int:
    """Run every stage, print a table; exit status 1 where a target is missed."""
    from taco.bench.node import CHUNK_S, IMAGE_HZ, measure

    rows = [measure(ms, args.seconds, args.domain) for ms in args.stages]
    if args.json:
        print_json(rows)
    else:
        print(
            f"640 x 480 at {IMAGE_HZ:g} Hz, {1 / CHUNK_S:g} chunks/s, {args.seconds:g} s each; "
            "ages from image stamp to listener, ms"
        )
        print(
            "newest: mean over time of the newest answer's age; thirds: first/last third of the run, median age and node's memory"
        )
        print("models  rate Hz  age p50  age p95  limit   newest  age thirds  MB thirds  lost samples  reactivate s  verdict")
        for row in rows:
            thirds = f"{row['age_p50_first_third_ms']:.0f}/{row['age_p50_last_third_ms']:.0f}"
            memory = f"{row['memory_first_third_mb']:.0f}/{row['memory_last_third_mb']:.0f}"
            verdict = "ok" if row["ok"] else f"MISSED: {', '.join(row['missed'])}"
            print(
                f"{row['stage_ms']:6g}  {row['rate_hz']:7.1f}  {row['age_p50_ms']:7.0f}  {row['age_p95_ms']:7.0f}  "
                f"{row['limit_ms']:5.0f}  {row['information_age_ms']:7.0f}  {thirds:>10}  {memory:>9}  "
                f"{row['lost_samples']:12d}  {row['deactivate_to_activate_s']:12.2f}  {verdict}"
            )
    return 0 if all(row["ok"] for row in rows) else 1


# Name -> (help, its arguments, what runs it).
BENCHMARKS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]] = {
    "solver": ("the solvers against the paper's autograd loop: time, loss, mask IoU, scaling", _solver_arguments, _run_solver),
    "stream": ("masks over time on synthetic videos: IoU, stability, flips, lags", _stream_arguments, _run_stream),
    "pipeline": (
        "the live line on composed scenes: stages, floors, engines, a rival; with --all everything in docs/performance.md",
        _pipeline_arguments,
        _run_pipeline,
    ),
    "node": ("age and losses of the live node: player, node and listener as processes", _node_arguments, _run_node),
    "ablations": (
        "what each part of the factorization is worth, on scenes of real photographs and sounds",
        _ablations_arguments,
        _run_ablations,
    ),
}


def table(rows: Mapping[str, Mapping[str, Any]], first: str) -> str:
    """A Markdown table: one row a name, one column a figure."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [f"| {' | '.join([first, *columns])} |", f"|{'---|' * (len(columns) + 1)}"]
    for name, row in rows.items():
        cells = [name, *(cell(row.get(key, "")) for key in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(value: Any) -> str:
    """A figure with four digits; nothing for None; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
