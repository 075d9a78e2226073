"""A fault of every kind against one live node: told in the diagnostics, and passed within seconds of its end."""

import re
import threading
import time

import pytest
import torch

from taco.types import Tokens
from taco_ros import faults
from test import ROOT
from test.taco_ros.fault_runs import FAULTS, TABLE, rig

pytestmark = [pytest.mark.ros, pytest.mark.live]
SOME = (  # of every room one; `python -m test.taco_ros.fault_runs` runs them all
    "image model calls exit",
    "image model gives NaN",
    "publishing fails",
    "image model stuck",
    "20 % of the chunks out of order",
    "sound at 48 kHz at once",
    "camera's clock 5 s behind",
    "half the resolution at once",
)


@pytest.fixture(scope="module")
def run():
    with rig() as one:
        yield one.run


@pytest.mark.parametrize("name", SOME)
def test_a_fault_is_told_and_passes(name, run):
    row = run(FAULTS[name])
    assert row.seen_s is None or row.told
    if not FAULTS[name].reason:
        assert row.answered > 0
    if FAULTS[name].file:
        assert row.answered < row.sent, "the fault had no effect"


def test_the_table_has_them_all():
    text = (ROOT / "docs" / "reliability.md").read_text()
    rows = text[text.index(TABLE) :].split("\n\n")[0].splitlines()[2:]
    assert [re.match(r"\| (.*?) \|", row)[1] for row in rows] == list(FAULTS)


def test_the_injector_is_off_without_its_variable(monkeypatch):
    monkeypatch.delenv(faults.VARIABLE, raising=False)
    assert faults.asked_for() is None
    monkeypatch.setenv(faults.VARIABLE, "")
    assert faults.asked_for() is None


def test_every_kind_of_fault_strikes_its_stage_alone(tmp_path):
    asked = tmp_path / "faults"
    struck = faults.Faults(str(asked))
    sound = struck.wrapped(lambda window: Tokens(torch.ones(8, 3), (1, 8)), "sound")
    assert sound(None).values.sum() == 24, "no file, no fault"
    asked.write_text("image fail\nsegment fail\n")
    assert sound(None).values.sum() == 24
    for kind, error in (("fail", RuntimeError), ("exit", SystemExit), ("memory", MemoryError)):
        asked.write_text(f"image slow 9\nsound {kind}\n")
        with pytest.raises(error, match="on purpose in sound"):
            sound(None)
    asked.write_text("sound nan\n")
    assert torch.isnan(sound(None).values).all() and sound(None).grid == (1, 8)
    for kind, text in (("slow", "sound slow 0.3\n"), ("stuck", "sound stuck\n")):
        asked.write_text(text)
        timer = threading.Timer(0.3, lambda: asked.write_text(""))
        timer.start()
        start = time.monotonic()
        assert sound(None).values.sum() == 24 and time.monotonic() - start > 0.25, kind
        timer.join()
