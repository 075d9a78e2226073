"""A made pipeline for the tests of ``taco segment``."""

import pytest

from taco import segment
from test.taco.cli.made_inputs import MadePipeline


@pytest.fixture
def made_pipeline(monkeypatch, tmp_path):
    """``taco segment`` runs it, in an empty folder."""
    monkeypatch.setattr(segment, "make_pipeline", MadePipeline)
    monkeypatch.chdir(tmp_path)
    MadePipeline.seen, MadePipeline.clips = [], []
