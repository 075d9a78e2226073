"""What an installation brings, and what it leaves among the sources."""

import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from test import ROOT

FUNCTIONS = r"/^has_gpu/,/^}/p; /^install_cpu_torch/,/^}/p"


@pytest.mark.parametrize(("gpu", "offered", "asked"), [("0", True, 1), ("0", False, 1), ("1", True, 0)])
def test_the_cpu_build_is_chosen_where_there_is_no_gpu(tmp_path, gpu, offered, asked):
    pip = tmp_path / "bin/pip"
    pip.parent.mkdir()
    pip.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\nexit {int(not offered)}\n')
    pip.chmod(0o755)
    code = f'set -euo pipefail; source <(sed -n "{FUNCTIONS}" tools/setup.sh); has_gpu || install_cpu_torch'
    env = {"PATH": "/usr/bin:/bin", "GPU": gpu, "venv": str(tmp_path), "log": str(tmp_path / "log")}
    done = subprocess.run(["bash", "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    lines = (tmp_path / "asked").read_text().splitlines() if asked else []
    assert len(lines) == asked and all(re.fullmatch(r"install torch==[\d.]+\+cpu", line) for line in lines)
    assert ("PIP_EXTRA_INDEX_URL=ADDRESS make setup" in done.stdout) == (gpu == "0" and not offered)


def test_pip_leaves_nothing_among_the_sources(tmp_path):
    tree = tmp_path / "tree"
    (tree / "taco").mkdir(parents=True)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "taco/__init__.py"):
        shutil.copy(ROOT / name, tree / name)
    before = {path.name for path in tree.iterdir()}
    shutil.copytree(ROOT / "config/presets", tree / "config/presets")
    before.add("config")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path / "out"), "."]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    assert {path.name for path in tree.iterdir()} == before | {"build"}
    assert [path.name for path in (tree / "build").iterdir()] == ["pip"] and (
        wheel := list((tmp_path / "out").glob("taco_sounding-*.whl"))
    )
    assert any(name.endswith("config/presets/fast.yaml") for name in zipfile.ZipFile(wheel[0]).namelist())


def test_clean_keeps_the_results_of_the_demo(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("build/demo/overlay.mp4", "build/cache/show.mp4", "install/x", "taco.egg-info/PKG-INFO", "README.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    subprocess.run(["make", "clean"], cwd=tmp_path, check=True, capture_output=True)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["Makefile", "README.md", "build/demo/overlay.mp4"]
