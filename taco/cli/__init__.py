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
from taco.threads import wait_passively

if TYPE_CHECKING:
    from taco.config import TacoConfig

COMMANDS = {  # name -> help; here, so that `taco --help` imports no command
    "segment": "outline sounding objects in videos, pictures with a sound, folders and ROS 2 bags",
    "explain": "draw why something was outlined: image, activations, mask, spectrogram, nearest words, all factors",
    "evaluate": "score methods on S4, MS3, AVSS, ADE Sound Prompted, composed scenes or photographs, beside the paper's figures",
    "bench": "measure the solver, the stream or the live node",
    "weights": "list, fetch, verify or locate the weights of the models",
    "words": "list the words that are listened for, with their classes of sound and image, or look words up",
    "config": "list every setting, or check and print a file of settings",
    "doctor": "report what would run here: packages, devices, weights, ROS, microphones, and the times of one frame",
}


def parser_for(command: str | None) -> argparse.ArgumentParser:
    """The parser; only the module of ``command`` is imported."""
    parser = argparse.ArgumentParser(prog="taco", description="Outline in images what makes the sound.")
    parser.add_argument("--version", action="version", version=f"taco {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands (taco COMMAND --help tells more)")
    for name, text in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text)
        if command == name:
            module = importlib.import_module(f"taco.cli.{name}")
            module.add_arguments(sub)
            sub.add_argument("--json", action="store_true", help="print the result as JSON on standard output")
            sub.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit status. Without a command it prints the help, and the status is 2."""
    wait_passively()  # before a command imports torch
    argv = sys.argv[1:] if argv is None else argv
    named = next((word for word in argv if not word.startswith("-")), None)
    parser = parser_for(named)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
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
