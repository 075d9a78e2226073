"""Shared by all tests: one thread a process; tests of the running graph go one after the other, in one worker."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Processes that run in real time share two cores: with `-n 2` they stay in one worker."""
    for item in items:
        if "taco_ros" in item.path.parts or item.path.name == "test_demo.py":
            item.add_marker(pytest.mark.xdist_group("live"))
