"""Made models and scenes for ``taco evaluate``."""

import pytest

from taco.cli import evaluate
from taco.evaluation.composed import scenes
from taco.evaluation.datasets import Dataset, ScoringRules
from taco.evaluation.methods import MethodRunner
from test.taco.evaluation import made_models as models
from test.taco.evaluation.test_runner import MadeClip


@pytest.fixture
def made_models(monkeypatch):
    monkeypatch.setattr(evaluate, "make_method_runner", lambda config: MethodRunner(config, pipeline=models.pipeline(config)))


@pytest.fixture
def made_scenes(monkeypatch, made_models):
    """Stamps without the packages: squares and tones; a kind for each case."""

    def composed_set(words, split="test", count=4, kinds=(), **material):
        clips = []
        for kind in kinds or ("one", "two"):
            for i in range(count):
                a, b = words[i % 3], words[(i + 1) % 3]
                pair = {"one": (a, None, a), "two": (a, b, a), "silence": (a, b, None), "offscreen": (a, None, b)}[kind]
                clips.append(MadeClip(f"{kind}-{split}-{i}", (pair,), kind))
        return Dataset("stamps", split, tuple(clips), ScoringRules("threshold", temporal="causal", size=0), tuple(words))

    monkeypatch.setattr(scenes, "composed_set", composed_set)
