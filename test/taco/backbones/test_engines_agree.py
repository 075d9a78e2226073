"""The whole embedded set in every installed engine against torch, on a composed scene."""

import numpy as np
import pytest
import torch

from taco.backbones import embedded_models
from taco.config import ModelsConfig, TacoConfig
from taco.engines import installed_engines
from taco.evaluation.composed.scenes import composed_set
from taco.pipeline import TacoPipeline

pytestmark = pytest.mark.data


def pipeline(engine: str) -> TacoPipeline:
    return TacoPipeline(TacoConfig().updated({"models.engine": engine}))


@pytest.fixture(scope="module")
def in_torch():
    embedded_models.fetch(ModelsConfig())
    return pipeline("torch")


@pytest.fixture(scope="module")
def scene(in_torch):
    """A scene in which something is found."""
    for clip in composed_set(in_torch.anchors.words, "val", 5, ("one",)).clips:
        scene = clip.load()[0]
        in_torch.reset()
        if in_torch.process(scene.frame, scene.window).objects:
            return scene
    raise AssertionError("wanted an object in one of five scenes, got none")


@pytest.mark.parametrize("engine", installed_engines())
def test_the_whole_embedded_set_is_the_same_in_every_engine(in_torch, scene, engine):
    other = pipeline(engine)
    assert other.backbones.image.engine == engine and other.backbones.image.precision == "float32"
    for wanted, got in zip(
        (in_torch.backbones.image.encode(scene.frame).tokens, in_torch.backbones.audio.encode(scene.window)),
        (other.backbones.image.encode(scene.frame).tokens, other.backbones.audio.encode(scene.window)),
    ):
        assert wanted.grid == got.grid
        assert torch.cosine_similarity(wanted.values, got.values, dim=1).min() >= 0.9999
    in_torch.reset()
    objects, found = (each.process(scene.frame, scene.window).objects for each in (in_torch, other))
    assert [item.label for item in found] == [item.label for item in objects]
    for item, same in zip(objects, found):
        assert np.sum(item.mask & same.mask) >= 0.999 * np.sum(item.mask | same.mask)
