"""``taco bench stream``: masks over time on made videos."""

from __future__ import annotations

HELP = "masks over time on made videos: IoU, stability, flips, lags"


def add_arguments(parser) -> None:
    """Arguments of ``taco bench stream``."""
    parser.add_argument("--seeds", type=int, nargs="+", metavar="SEED", help="videos (default: six that nobody tuned on)")
    parser.add_argument("--frames", type=int, default=80, help="frames a video (default: %(default)s)")
    parser.add_argument("--noise", type=float, default=1.0, help="noise of the tokens; 3 is hard (default: %(default)s)")
    parser.add_argument("--gap", type=float, default=0.0, help="gap between tokens and words; 1 is hard (default: %(default)s)")


def run(args) -> int:
    """Run it and print the figures."""
    from taco.bench.stream import FRESH_SEEDS, run_stream
    from taco.cli import print_json
    from taco.cli.bench import progress, table
    from taco.errors import ValueRangeError

    if args.frames < 48:
        raise ValueRangeError(f"--frames: wanted at least 48 (four scenes of more than a second each), got {args.frames}")
    found = run_stream(args.seeds or FRESH_SEEDS, args.frames, args.noise, args.gap, say=progress)
    print_json(found) if args.json else print(table(found, "method"))
    return 0
