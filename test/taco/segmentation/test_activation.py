"""Masks of made scenes: coloured shapes whose outline is known, tokens that only know the coarse place."""

import cv2
import numpy as np
import pytest
import torch

from taco.config import SegmentationConfig
from taco.segmentation.activation import ActivationSegmenter, cut_out, upsample
from taco.segmentation.base import Segmenter
from taco.types import Concept, Factorization, ImageFeatures, Tokens, VideoFrame

GRID, SIZE, DIM = (12, 16), (240, 320), 4
PLACES = {0: (90, 120), 1: (230, 110)}  # x, y of the things


def scene(noise=6.0):
    """(rgb, {thing: mask}): a red disc and a green square on grey."""
    rgb = np.full((*SIZE, 3), 120, np.uint8)
    masks = {0: np.zeros(SIZE, np.uint8), 1: np.zeros(SIZE, np.uint8)}
    cv2.circle(masks[0], PLACES[0], 45, 1, -1)
    cv2.rectangle(masks[1], (195, 75), (265, 145), 1, -1)
    rgb[masks[0] > 0], rgb[masks[1] > 0] = (200, 40, 30), (30, 180, 60)
    rgb = np.clip(rgb + np.random.default_rng(0).normal(0, noise, rgb.shape), 0, 255).astype(np.uint8)
    return rgb, {thing: mask > 0 for thing, mask in masks.items()}


def features(masks, strength=1.0) -> ImageFeatures:
    """Tokens that answer direction ``thing`` where its mask covers their cell."""
    values = torch.full((GRID[0] * GRID[1], DIM), 0.01)
    for thing, mask in masks.items():
        share = cv2.resize(mask.astype(np.float32), GRID[::-1], interpolation=cv2.INTER_AREA)
        values[:, thing] += strength * torch.from_numpy(cv2.GaussianBlur(share, (3, 3), 0.7)).flatten()
    return ImageFeatures(Tokens(values, GRID), {}, SIZE, SIZE)


def concept(thing, score=0.8) -> Concept:
    return Concept(0, ((f"thing {thing}", 0.9),), score, torch.eye(DIM)[thing])


def segment(concepts, config=None, rgb=None, found=None):
    image, masks = scene()
    parts = features(masks) if found is None else found
    n = parts.tokens.values.shape[0]
    factorization = Factorization(torch.ones(n, 1), torch.ones(1, DIM), torch.ones(2, 1), torch.ones(1, 3), 0)
    frame = VideoFrame(image if rgb is None else rgb, 0)
    return ActivationSegmenter(config).segment(frame, parts, factorization, concepts, None), masks


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("thing", [0, 1])
def test_the_mask_fits_the_thing_and_not_the_grid(thing):
    found, masks = segment([concept(thing)])
    (item,) = found.objects
    assert iou(item.mask, masks[thing]) > 0.9
    coarse, _ = segment([concept(thing)], SegmentationConfig(refine=False))
    assert iou(coarse.objects[0].mask, masks[thing]) < iou(item.mask, masks[thing]) - 0.05
    x, y = item.centre
    assert abs(x - PLACES[thing][0]) < 6 and abs(y - PLACES[thing][1]) < 6


def test_what_comes_out_keeps_the_contract():
    segmenter = ActivationSegmenter()
    assert isinstance(segmenter, Segmenter)
    found, _ = segment([concept(0, score=0.7)])
    assert found.confidence.shape == SIZE and found.confidence.dtype == np.float32
    assert found.confidence.min() >= 0 and found.confidence.max() <= 1
    (item,) = found.objects
    assert item.label == "thing 0" and item.score == 0.7
    assert np.array_equal(item.mask, found.confidence >= 0.5)


def test_two_concepts_share_no_pixel():
    found, masks = segment([concept(0), concept(1)])
    first, second = found.objects
    assert not (first.mask & second.mask).any() and (first.id, second.id) == (1, 2)
    assert iou(first.mask, masks[0]) > 0.85 and iou(second.mask, masks[1]) > 0.85


def test_nothing_asked_or_nothing_found_gives_no_object():
    assert segment([])[0].objects == () and not segment([])[0].confidence.any()
    found, _ = segment([concept(2)], found=features({}, 0.0))
    against = Concept(0, (("none", 1.0),), 0.5, -torch.ones(DIM))
    assert segment([against])[0].objects == ()
    assert found.confidence.shape == SIZE


def test_small_masks_are_left_out_and_the_threshold_is_live():
    assert segment([concept(0)], SegmentationConfig(min_area=0.5))[0].objects == ()
    wide, _ = segment([concept(0)], SegmentationConfig(refine=False, threshold=0.2))
    tight, _ = segment([concept(0)], SegmentationConfig(refine=False, threshold=0.8))
    assert wide.objects[0].mask.sum() > 1.5 * tight.objects[0].mask.sum()


def test_the_same_frame_gives_the_same_mask():
    rgb, masks = scene()
    coarse = features(masks).tokens.on_grid(features(masks).tokens.values[:, 0]).numpy()
    cv2.setRNGSeed(123)
    first = cut_out(coarse, rgb)
    cv2.setRNGSeed(77)
    assert np.array_equal(first, cut_out(coarse, rgb))


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (480, 3), (33, 65)])
def test_odd_image_sizes(shape):
    rgb = np.random.default_rng(1).integers(0, 255, (*shape, 3), np.uint8)
    coarse = np.random.default_rng(2).random((3, 5)).astype(np.float32)
    assert cut_out(coarse, rgb).shape == shape and upsample(coarse, shape).shape == shape


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_flat_maps_and_one_coloured_images_are_no_error(level):
    flat = np.full(GRID, level, np.float32)
    out = cut_out(flat, np.full((*SIZE, 3), 90, np.uint8))
    assert np.isfinite(out).all() and ((out >= 0.5).all() if level else (out < 0.5).all())
