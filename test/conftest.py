"""Shared by all tests: one thread a process; tests of the running graph are marked, to have the machine for themselves."""

import os

import pytest
from hypothesis import settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
# The same examples in every run, so that a change is to blame when one fails; other ones with TACO_FUZZ.
settings.register_profile("taco", derandomize="TACO_FUZZ" not in os.environ)
settings.load_profile("taco")


def pytest_collection_modifyitems(items):
    """Processes that run in real time share two cores: `make test` runs them after the others, one after the other."""
    for item in items:
        if "taco_ros" in item.path.parts or item.path.name == "test_demo.py":
            item.add_marker(pytest.mark.live)
