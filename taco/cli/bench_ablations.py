"""``taco bench ablations``: what each part of the factorization is worth."""

from __future__ import annotations

HELP = "what each part of the factorization is worth, on scenes of real photographs and sounds"


def add_arguments(parser) -> None:
    """Arguments of ``taco bench ablations``."""
    from taco.cli import add_config_arguments

    parser.add_argument("--split", choices=("val", "test"), default="test", help="of the scenes (default: %(default)s)")
    parser.add_argument("--count", type=int, default=40, metavar="N", help="scenes of each kind (default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="of scenes, as `taco evaluate stamps` has them")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some rows of the table (a wrong name lists them)")
    add_config_arguments(parser)


def run(args) -> int:
    """Run it and print the table."""
    from taco.bench.ablations import ABLATIONS, KINDS, ablations
    from taco.cli import config_from, print_json
    from taco.cli.bench import progress, table
    from taco.errors import ConfigError

    if args.count < 1:
        raise ConfigError(f"--count: wanted 1 or more, got {args.count}")
    wanted = args.only or list(ABLATIONS)
    if unknown := [name for name in wanted if name not in ABLATIONS]:
        raise ConfigError(f"--only: wanted some of {', '.join(ABLATIONS)}; got {', '.join(unknown)}")
    names = dict.fromkeys(("as configured", *wanted))
    found = ablations(
        config_from(args), tuple(names), split=args.split, count=args.count, kinds=args.kinds or KINDS, say=progress
    )
    print_json(found) if args.json else print(table(found, "replaced by"))
    return 0
