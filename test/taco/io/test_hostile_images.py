"""Image messages that ask for gigabytes, each in a process of its own: a counted reason, little memory, no noise."""

import json
import subprocess
import sys

import pytest

from test import ROOT
from test.taco.io.hostile_images import ATTACKS

MAX_PIXELS = 2_000_000
OVERHEAD = 4_000_000  # bytes: lazily imported code, and the allocator's


@pytest.mark.parametrize("name", ATTACKS)
def test_no_message_costs_more_than_it_may(name):
    command = [sys.executable, "-m", "test.taco.io.hostile_images", name, str(MAX_PIXELS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stderr == "", done.stderr[-500:]
    told = json.loads(done.stdout)
    assert told["reason"] == ATTACKS[name][1], told["line"]
    assert told["used"] <= 4 * (told["bytes"] + 3 * MAX_PIXELS) + OVERHEAD
    assert told["s"] < 10 and len(told["line"]) < 600
