"""``taco config``: every setting with default, range and meaning; checks a settings file."""

from __future__ import annotations

import argparse

from taco.config import TacoConfig, all_settings
from taco.config_schema import Setting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco config``."""
    from taco.cli import add_config_arguments

    parser.add_argument("--yaml", action="store_true", help="print as a YAML file of settings")
    parser.add_argument("--markdown", action="store_true", help="print as the table in docs/settings.md")
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the settings."""
    import yaml

    from taco.cli import config_from, print_json

    config = config_from(args)
    if args.json:
        print_json(config.to_dict())
    elif args.yaml:
        print(yaml.safe_dump(config.to_dict(), sort_keys=False), end="")
    elif args.markdown:
        print(markdown(config), end="")
    else:
        for item in all_settings(config):
            print(f"{item.path} = {item.value!r}  {limits(item)}\n    {item.help}")
            if item.unmet:
                print(f"    Not used with these settings: it needs {item.unmet}.")
    return 0


def limits(item: Setting) -> str:
    """The range or the choices of a setting, with its unit."""
    if item.choices:
        return " | ".join(str(c) or "(empty)" for c in item.choices)
    low, high = item.minimum, item.maximum
    span = f"{low:g} to {high:g}" if low is not None and high is not None else ""
    return f"{span} {item.unit}".strip()


def markdown(config: TacoConfig | None = None) -> str:
    """The settings as a Markdown table."""
    rows = ["| setting | default | range | live | what it is |", "|---|---|---|---|---|"]
    for item in all_settings(config):
        cells = (f"`{item.path}`", f"`{item.value!r}`", limits(item).replace("|", "\\|"), "yes" if item.live else "", item.help)
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"
