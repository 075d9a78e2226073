"""Puts this folder on the path, so that every room's tests can use the helpers in it."""

import pytest

from taco.weights import parts


@pytest.fixture(scope="session", autouse=True)
def made_weights():
    """Made files stand for the paper's: they have not the pinned SHA-256. ``weights/test_pins.py`` tests the real ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "PINNED", {})
        yield
