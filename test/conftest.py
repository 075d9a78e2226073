"""Shared by all tests: one thread a process; tests of the running graph are marked, to have the machine for themselves."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Processes that run in real time share two cores: `make test` runs them after the others, one after the other."""
    for item in items:
        if "taco_ros" in item.path.parts or item.path.name == "test_demo.py":
            item.add_marker(pytest.mark.live)
