"""What a scene tells of the sound: names from the sound model itself where it has them, and the map of what is reported."""

import dataclasses

import numpy as np
import pytest
import torch

import taco.pipeline
from taco.config import TacoConfig
from taco.pipeline import TacoPipeline, _sound_map
from test.taco.test_pipeline import picture, tone


@pytest.fixture
def pipeline():
    settings = {"models.image": "standin", "segmentation.refine": "none", "concepts.naming": "joint", "concepts.max_concepts": 1}
    return TacoPipeline(TacoConfig().updated(settings))


def test_a_sound_model_that_names_more_than_the_bank_is_asked_what_is_heard(pipeline, monkeypatch):
    asked = []

    def likeliest_sounds(self, component, count):
        asked.append((component, count))
        return (("Hum", 0.5), ("red", 0.25))

    assert pipeline.process(picture(), tone("red")).heard[0][0] == "red"
    monkeypatch.setattr(type(pipeline.backbones.audio), "likeliest_sounds", likeliest_sounds, raising=False)
    scene = pipeline.process(picture(), tone("red"))
    assert scene.heard == (("Hum", 0.5), ("red", 0.25)) and scene.objects[0].label == "red"
    ((component, count),) = asked
    assert count == pipeline.config.concepts.n_heard
    assert component.shape == pipeline.encodings().sound(tone("red")).values[0].shape


def test_the_sound_map_is_that_of_the_reported_factor(pipeline, monkeypatch):
    """Though the solver's k* is another one: naming has the last word."""
    inner = taco.pipeline.factorize

    def mistaken(*args, **kwargs):
        found = inner(*args, **kwargs)
        activations = found.audio_activations * torch.linspace(0.2, 1, found.audio_activations.shape[1])
        return dataclasses.replace(found, sounding=(found.sounding + 1) % activations.shape[1], audio_activations=activations)

    monkeypatch.setattr(taco.pipeline, "factorize", mistaken)
    scene, audio = pipeline.process(picture(), tone("red")), pipeline.encodings().sound(tone("red"))
    factor, found = scene.concepts[0].factor, scene.factorization
    assert factor != found.sounding
    np.testing.assert_allclose(scene.sound_map, _sound_map(found, factor, audio))
    np.testing.assert_allclose(scene.objects[0].sound_map, scene.sound_map)
    assert not np.allclose(scene.sound_map, _sound_map(found, found.sounding, audio))
