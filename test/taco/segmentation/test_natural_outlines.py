"""Outlines of real objects on real photographs, the word given: what must hold whatever the constants are."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from taco.config import SegmentationConfig, TacoConfig
from taco.evaluation.composed.scenes import SceneComposer
from taco.evaluation.metrics import mask_iou
from taco.factorization import factorize
from taco.pipeline import TacoPipeline
from taco.segmentation.activation import ActivationSegmenter
from taco.segmentation.maps import enlarge, word_map
from taco.types import Concept

pytestmark = pytest.mark.data
KINDS, SEEDS = ("one", "two", "several", "distractors"), 10


@pytest.fixture(scope="module")
def outlined():
    """Of 40 scenes: the truth, is the map's maximum on it, and the object by each way of refining."""
    pipeline = TacoPipeline(TacoConfig().updated({"models.threads": 1}))
    anchors, count = pipeline.anchors, len(pipeline.anchors.words)
    told = replace(anchors, audio=torch.eye(count), audio_projection=None, audio_logit_scale=12.0)
    segmenter = ActivationSegmenter(pipeline.segmenter.silhouette_network)
    ways = {way: SegmentationConfig(refine=way) for way in ("none", "edges", "auto")}
    stamps, out = SceneComposer(anchors.words), []
    for kind in KINDS:
        for seed in range(SEEDS):
            scene = stamps.compose(kind, "val", seed)
            (frame,), word = scene.frames, scene.sounding_words[0]
            index = anchors.words.index(word)
            truth = np.any([item.mask for item in frame.objects if item.sounding and item.word == word], 0)
            features = pipeline.backbones.image.encode(frame.frame)
            tokens, sound = features.tokens, torch.eye(count)[[index] * 8]
            chance = torch.Generator().manual_seed(0)
            grids = {"visual_grid": tokens.grid, "audio_grid": (1, 8)}
            factors = factorize(tokens.values, sound, told, pipeline.config.factorization, generator=chance, **grids)
            concept = Concept(factors.sounding, ((word, 0.9),), 0.8, anchors.visual[index])
            heat = enlarge(word_map(factors, concept.prompt, tokens, anchors), frame.frame.size)
            placed = bool(truth[np.unravel_index(heat.argmax(), heat.shape)])
            objects = {}
            for way, config in ways.items():
                objects[way] = segmenter.segment(frame.frame, features, factors, [concept], anchors, config).objects
            out.append(SimpleNamespace(truth=truth, placed=placed, objects=objects))
    return out


@pytest.mark.parametrize("way", ["edges", "auto"])
def test_an_outline_is_hardly_ever_worse_than_the_map(outlined, way):
    ious = {how: np.array([mask_iou(one.objects[how][0].mask, one.truth) for one in outlined]) for how in ("none", way)}
    gain = ious[way] - ious["none"]
    assert np.mean(gain < -0.05) <= 0.05
    assert gain.mean() > {"edges": 0.03, "auto": 0.2}[way]


@pytest.mark.parametrize("way", ["none", "edges", "auto"])
def test_what_is_placed_is_never_dropped_or_lost(outlined, way):
    assert all(len(one.objects[way]) == 1 and min(one.objects[way][0].box[2:]) > 0 for one in outlined)
    placed = [one for one in outlined if one.placed]
    assert len(placed) > len(outlined) / 2
    lost = [mask_iou(one.objects[way][0].mask, one.truth) < 0.1 for one in placed]
    assert np.mean(lost) <= 0.05
