"""The ``taco`` command: exit status 0 (done), 1 (failed, one line on stderr), 2 (bad usage)."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from typing import TYPE_CHECKING

from taco import __version__
from taco.errors import ConfigError, TacoError

if TYPE_CHECKING:
    from taco.config import TacoConfig

COMMANDS = ("segment", "explain", "evaluate", "bench", "weights", "words", "config", "doctor")


def parser_for(command: str | None) -> argparse.ArgumentParser:
    """The parser; only the module of ``command`` is imported, so that ``taco --help`` stays fast."""
    parser = argparse.ArgumentParser(prog="taco", description="Outline in images what is heard.")
    parser.add_argument("--version", action="version", version=f"taco {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="|".join(COMMANDS), required=True)
    for name in COMMANDS:
        if command in (name, None):
            module = importlib.import_module(f"taco.cli.{name}")
            sub = commands.add_parser(name, help=module.HELP, description=module.HELP)
            module.add_arguments(sub)
            sub.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
            sub.set_defaults(run=module.run)
        else:
            commands.add_parser(name, add_help=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    named = next((word for word in argv if not word.startswith("-")), None)
    args = parser_for(named if named in COMMANDS else None).parse_args(argv)
    try:
        return args.run(args) or 0
    except ConfigError as error:
        return _fail(error, 2)
    except (TacoError, OSError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("stopped", 130)


def _fail(error: Exception | str, status: int) -> int:
    try:
        print(f"taco: {' '.join(str(error).split())}", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return status


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--config FILE`` and ``--set section.name=value``: the way every command takes settings."""
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="one setting (see `taco config`); may be repeated"
    )


def config_from(args: argparse.Namespace) -> TacoConfig:
    """The TacoConfig of ``add_config_arguments``; ConfigError names a wrong setting."""
    import yaml

    from taco.config import TacoConfig, unused_settings

    config = TacoConfig.from_yaml(args.config) if args.config else TacoConfig()
    changes: dict[str, object] = {}
    for item in args.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set: wanted NAME=VALUE, got {item!r}")
        try:
            changes[name.strip()] = yaml.safe_load(value) if value.strip() else ""
        except yaml.YAMLError:
            raise ConfigError(f"--set {name}: wanted a YAML value, got {value!r}") from None
    config = config.updated(changes)
    for line in unused_settings(config):
        print(f"taco: {line}", file=sys.stderr)
    return config


def print_json(value: object) -> None:
    """Print a result as JSON."""
    print(json.dumps(value, indent=1, default=str))
