"""The ``taco`` command: exit status 0 (done), 1 (failed, one line on stderr), 2 (bad usage)."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from taco import __version__
from taco.errors import ConfigError, TacoError
from taco.threads import share_heap, wait_passively

if TYPE_CHECKING:
    from taco.config import TacoConfig

COMMANDS = {  # name -> help; here, so that `taco --help` imports no command
    "segment": "outline sounding objects in videos, pictures with a sound, folders and ROS 2 bags",
    "live": "see and hear with a camera and a microphone of this machine, on a page in the browser; no ROS",
    "explain": "draw why something was outlined: image, activations, mask, spectrogram, nearest words, all factors",
    "evaluate": "score methods on S4, MS3, AVSS, ADE Sound Prompted, composed scenes or photographs, beside the paper's figures",
    "bench": "measure the live line, the solver, the stream or the live node",
    "weights": "list, fetch, verify or locate the weights of the models",
    "models": "compare the sets of models: what each needs, and how fast it is on this machine",
    "words": "list the words that are listened for, with their classes of sound and image, or look words up",
    "export": "write one of the networks as an ONNX file, checked against torch",
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
    share_heap()
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _on_interrupt)
    argv = sys.argv[1:] if argv is None else argv
    argv = [f"./{word}" if _is_dashed_file(word) else word for word in argv]
    named = next((word for word in argv if not word.startswith("-")), None)
    try:
        parser = parser_for(named)
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help(sys.stderr)
            return 2
        return args.run(args) or 0
    except ConfigError as error:
        return _fail(error, 2)
    except (TacoError, OSError) as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("stopped", 130)


def _is_dashed_file(word: str) -> bool:
    """Whether a word that looks like options names a file, as "-x.mp4" from ``taco segment *`` does."""
    return word.startswith("-") and "." in word and Path(word).is_file()


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    """Ctrl-C. In the midst of an import, which an exception would leave half done and in others' hands, the process ends.

    In a call-back from FFmpeg, where PyAV would lose the exception, it comes again a little later.
    """
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            os._exit(130)
        if frame.f_code.co_qualname == "StreamForFFmpeg.seek":
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _fail(error: Exception | str, status: int) -> int:
    try:
        print(f"taco: {' '.join(str(error).split())}", file=sys.stderr)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    return status


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """``--preset NAME``, ``--models NAME``, ``--config FILE``, ``--set NAME=VALUE``: how every command takes settings."""
    parser.add_argument("--models", metavar="NAME", help="the set of models: short for --set models.name=NAME")
    parser.add_argument("--preset", metavar="NAME", help="settings for a purpose: fast, accurate, speech ... (docs/robot.md)")
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings; it counts more than --preset")
    parser.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="one setting (see `taco config`); may be repeated"
    )


def config_from(args: argparse.Namespace) -> TacoConfig:
    """The TacoConfig of ``add_config_arguments``; ConfigError names a wrong setting."""
    import yaml

    from taco.config import TacoConfig, unused_settings

    config = TacoConfig.from_yaml(preset_file(args.preset)) if args.preset else TacoConfig()
    config = TacoConfig.from_yaml(args.config, config) if args.config else config
    changes: dict[str, object] = {"models.name": args.models} if args.models else {}
    for item in args.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"--set: wanted NAME=VALUE, got {item!r}")
        try:
            changes[name.strip()] = yaml.safe_load(value) if value.strip() else ""
        except (yaml.YAMLError, ValueError, RecursionError):  # of a date that is none, of brackets in brackets
            raise ConfigError(f"--set {name}: wanted a YAML value, got {value!r}") from None
    config = config.updated(changes)
    for line in unused_settings(config):
        print(f"taco: {line}", file=sys.stderr)
    return config


def preset_file(name: str) -> Path:
    """The file of a preset, of the clone or of what pip installed; ConfigError names those that there are."""
    from importlib.metadata import PackageNotFoundError, files

    found = sorted((Path(__file__).parents[2] / "config/presets").glob("*.yaml"))
    if not found:
        with contextlib.suppress(PackageNotFoundError):
            found = [Path(str(one.locate())) for one in files("taco-sounding") or () if one.match("config/presets/*.yaml")]
    named = {path.stem: path for path in found}
    if name not in named:
        raise ConfigError(f"--preset: wanted one of {', '.join(named) or 'none (no presets are installed)'}, got {name!r}")
    return named[name]


def print_json(value: object) -> None:
    """Print a result as JSON."""
    print(json.dumps(value, indent=1, default=str))
