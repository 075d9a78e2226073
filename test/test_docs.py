"""The papers agree with the code."""

import re

import pytest

from taco.cli.config import markdown
from taco.config import walk
from test import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


def test_settings_table_is_the_one_that_the_code_prints():
    text = (ROOT / "docs/settings.md").read_text()
    assert markdown() in text, "run: .venv/bin/python -m taco.cli config --markdown, and put it into docs/settings.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_pages_name_only_files_that_exist(page):
    for name in re.findall(r"`((?:docs|config|tools|taco|taco_ros|test|launch|msg|requirements)/[\w./-]+)`", page.read_text()):
        path = ROOT / re.sub(r"^taco_ros/(msg|srv)/(\w+)$", r"\1/\2.msg", name).replace("srv/SetWords.msg", "srv/SetWords.srv")
        assert path.exists(), f"{page.name} names {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_settings_named_in_pages_exist(page):
    known = {item.path for item in walk()}
    sections = "|".join({path.split(".")[0] for path in known})
    for name in re.findall(rf"`((?:{sections})\.[a-z_]+)(?::=[^`]*)?`", page.read_text()):
        assert name in known or name.endswith((".py", ".md")), f"{page.name} names the setting {name}"


def test_make_targets_named_in_the_readme_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([a-z-]+)", (ROOT / "README.md").read_text())) <= targets
