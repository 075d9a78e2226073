"""An evaluation that is stopped or killed in the middle, and the same command again."""

import json
import signal
import subprocess
import sys
import time

import pytest

from taco import cli
from test import ROOT
from test.taco.evaluation import made_datasets


def words(data, out, image="standin"):
    models = ["--set", f"models.image={image}", "--set", "models.threads=1"]
    return ["evaluate", "s4", "--data", str(data), "--method", "taco", "u", "--seeds", "2", "--json", "--out", str(out), *models]


def figures(text):
    found = json.loads(text)
    for row in found["rows"].values():
        row.pop("ms")  # the only thing that differs
    return found


@pytest.mark.parametrize(("sign", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_that_was_stopped_ends_in_the_same_table(sign, status, tmp_path, capsys):
    data, out = made_datasets.s4(tmp_path / "s4"), tmp_path / "out"
    command = words(data, out, "standin:200")  # a second a clip, so that there is a middle
    process = subprocess.Popen(
        [sys.executable, "-m", "taco.cli", *command],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a script's `make test &` has it ignored
    )
    deadline = time.monotonic() + 90
    while not list(out.rglob("*.npz")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(sign)
    told = process.communicate(timeout=30)[1]
    assert process.returncode == status, told
    if sign == signal.SIGINT:
        assert told.endswith("stopped after 1 of 2 clips; the same command goes on from there\ntaco: stopped\n")
    assert len(list(out.rglob("*.npz"))) == 1
    before = next(out.rglob("*.npz")).stat().st_mtime_ns

    assert cli.main(command) == 0
    resumed = capsys.readouterr()
    assert "1 of 2 clips are there already" in resumed.err
    assert [path.stat().st_mtime_ns for path in sorted(out.rglob("*.npz"))][0] == before and not list(out.rglob("*.part"))
    assert cli.main(words(data, tmp_path / "whole", "standin:1")) == 0
    whole = figures(capsys.readouterr().out)
    assert figures(resumed.out) == whole and whole["frames"] == 10
