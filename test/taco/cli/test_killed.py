"""SIGKILL at random moments: nothing half-written has a final name, and the same command ends as if nothing had happened."""

import random

import pytest

from test.taco.cli.kills import COMMANDS, Killer


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_killed_run_ends_in_the_same_result(name, tmp_path):
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    killer = Killer(COMMANDS[name], tmp_path, random.Random(seed))
    killer.kill()
    killer.kill(anew=False)  # on what the first one left
    assert killer.resume() == killer.whole
