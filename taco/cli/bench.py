"""``taco bench``: benchmarks by name, each printing ratios measured in one run on this machine."""

from __future__ import annotations

import argparse
import importlib
import sys

HELP = "measure the solver, the stream or the live node"

# Name -> module with HELP, add_arguments(parser), run(args).
BENCHES = {
    "solver": "taco.cli.bench_solver",
    "stream": "taco.cli.bench_stream",
    "node": "taco.bench.node",
    "ablations": "taco.cli.bench_ablations",
}


def add_arguments(parser) -> None:
    """One sub-command a benchmark."""
    names = parser.add_subparsers(dest="bench", metavar="|".join(BENCHES), required=True)
    for name, module in BENCHES.items():
        bench = importlib.import_module(module)
        sub = names.add_parser(name, help=bench.HELP, description=bench.HELP)
        bench.add_arguments(sub)
        # Suppressed: the command's own --json, given before the name, must not be set back.
        sub.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print the result as JSON on standard output"
        )
        sub.set_defaults(bench_run=bench.run)


def run(args) -> int:
    """Run the benchmark that was named."""
    return args.bench_run(args) or 0


def progress(text: str) -> None:
    """A line on a terminal's standard error."""
    if sys.stderr.isatty():
        print(text, file=sys.stderr)


def table(rows: dict[str, dict[str, float]], first: str) -> str:
    """A Markdown table: one row a name, one column a figure."""
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [f"| {' | '.join([first, *columns])} |", f"|{'---|' * (len(columns) + 1)}"]
    for name, row in rows.items():
        cells = [name, *(cell(row.get(key, "")) for key in columns)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(value) -> str:
    """A figure with four digits; anything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
