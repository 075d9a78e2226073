"""The documents agree with the code."""

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from taco.bench import page
from taco.cli import parser_for
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


# --- the site


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site. ``--strict``: a broken link or a page outside the navigation ends the build."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -r requirements/docs.txt")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    env = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_has_every_page(site):
    assert {path.stem for path in ROOT.glob("docs/*.md")} <= {path.stem for path in site.glob("*.html")}
    settings = yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)
    assert settings["validation"]["nav"]["omitted_files"] == settings["validation"]["links"]["anchors"] == "warn"


def test_the_site_needs_no_network(site):
    loaded = re.compile(r'<(?:script|img|link|iframe)\b[^>]*?(?:src|href)="(https?:)?//[^"]*"')
    for path in site.glob("*.html"):
        assert not loaded.findall(path.read_text()), path.name


def test_lists_are_lists(site):
    """Python-Markdown wants an empty line before a list, and four spaces inside an item; else its marks stay in the text."""
    for path in site.glob("*.html"):
        text = re.search(r"<article.*</article>", path.read_text(), re.S)
        for paragraph in re.findall(r"<(?:p|li)>(.*?)</(?:p|li)>", text[0] if text else "", re.S):
            assert not re.search(r"\n *(?:[*-] \S|\d\. \S|\|)", paragraph), f"{path.name}: {paragraph[:200]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_prose_has_short_lines(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    for line in text.splitlines():
        assert len(line) <= 140 or line.lstrip().startswith("|") or line.startswith("    "), f"{page.name}: {line[:60]} ..."


def test_printed_messages_have_the_fields_of_their_types():
    """docs/messages.md: every block's keys are its message's, in order; arrays may be shortened."""
    pytest.importorskip("rclpy")
    kinds = re.findall(r"type `(\w+)/msg/(\w+)`", (ROOT / "docs/messages.md").read_text())
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/messages.md").read_text(), re.S)
    kinds.insert(1, kinds[0])  # the second block is of the same topic
    assert len(kinds) == len(blocks) == 5
    for (package, kind), block in zip(kinds, blocks):
        compare_fields(getattr(importlib.import_module(f"{package}.msg"), kind)(), yaml.safe_load(block), kind)


def compare_fields(message, printed, where):
    fields = message.get_fields_and_field_types()
    assert list(printed) == list(fields), where
    for name, kind in fields.items():
        inner = re.search(r"<([\w/]+)|^([\w/]+)$", kind)
        inner = inner[1] or inner[2] if inner else ""
        for value in printed[name] if isinstance(printed[name], list) else [printed[name]]:
            if "/" in inner and value != "...":
                package, name_of = inner.split("/")
                compare_fields(getattr(importlib.import_module(f"{package}.msg"), name_of)(), value, f"{where}.{name}")
            else:
                assert not isinstance(value, dict), f"{where}.{name}"


def commands_of(page):
    """The ``taco`` command lines of a page's blocks, as lists of words."""
    text = re.sub(r"\\\n\s*", "", page.read_text())
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S) + re.findall(r"^    .*$", text, re.M)
    for line in "\n".join(blocks).splitlines():
        if found := re.match(r"\s*(?:\.venv/bin/python -m taco\.cli|taco) ([a-z].*)", line):
            yield shlex.split(re.split(r" {2,}(?=[a-z])", found[1])[0], comments=True)  # words behind two spaces explain


@pytest.mark.parametrize("page", [page for page in PAGES if any(commands_of(page))], ids=lambda p: p.name)
def test_written_commands_are_understood(page):
    for words in commands_of(page):
        if "..." in words:
            continue
        try:
            assert parser_for(words[0]).parse_args(words).command == words[0]
        except SystemExit:
            pytest.fail(f"{page.name}: taco {' '.join(words)}")
