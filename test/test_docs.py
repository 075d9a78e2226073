"""The documents agree with the code."""

import ast
import importlib
import re

import pytest

from taco.bench import page
from taco.cli.bench import table
from taco.cli.config import markdown
from taco.config import all_settings
from test import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_settings_table_is_the_one_that_the_code_prints():
    text = (ROOT / "docs/settings.md").read_text()
    assert markdown() in text, "run: make tables"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_name_only_files_that_exist(page):
    for name in re.findall(r"`((?:docs|config|tools|taco|taco_ros|test|launch|msg|requirements)/[\w./-]+)`", page.read_text()):
        path = ROOT / re.sub(r"^taco_ros/(msg|srv)/(\w+)$", r"\1/\2.msg", name).replace("srv/SetWords.msg", "srv/SetWords.srv")
        assert path.exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_settings_named_in_pages_exist(page):
    known = {item.path for item in all_settings()}
    sections = "|".join({path.split(".")[0] for path in known})
    for name in re.findall(rf"`((?:{sections})\.[a-z_]+)(?::=[^`]*)?`", page.read_text()):
        assert name in known or name.endswith((".py", ".md")), f"{page.name} names the setting {name}"


def test_make_targets_named_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets


def test_the_figures_of_the_performance_page_are_those_of_its_measurement():
    measured = page.read(ROOT / "docs/performance.json")
    assert page.markdown(measured, table) in (ROOT / "docs/performance.md").read_text(), "run: make tables"
    assert page.goals(measured) == measured["goals"], "goals have changed since: measure again, or judge the figures anew"


def tree() -> str:
    """The modules with the first line of their docstrings, a folder after the other."""
    lines = []
    for room in ("taco", "taco_ros"):
        for folder in sorted({path.parent for path in (ROOT / room).rglob("*.py")}):
            lines += ["", f"    {folder.relative_to(ROOT)}/"]
            for path in sorted(folder.glob("*.py")):
                first = (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]
                lines.append(f"        {path.name:22s} {first}".rstrip())
    return "\n".join(lines).lstrip("\n")


def test_the_tree_of_the_design_page_is_that_of_the_folders():
    assert tree() in (ROOT / "docs/design.md").read_text(), "run: make tables"


def test_every_step_of_the_design_page_exists():
    text = (ROOT / "docs/design.md").read_text()
    steps = re.findall(r"`(taco(?:_ros)?/[\w/]+)\.py:(\w+)`", text)
    assert len(steps) >= 19
    for file, name in steps:
        assert hasattr(importlib.import_module(file.replace("/", ".")), name), f"{file}.py has no {name}"
