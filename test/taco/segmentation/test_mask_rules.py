"""Rules of masks that both segmenters keep: scaled maps, no pixel twice, none that the map does not touch."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from taco.config import SegmentationConfig
from taco.segmentation.activation import ActivationSegmenter
from taco.segmentation.fcclip import FCCLIPSegmenter
from taco.segmentation.fcclip_head import Proposals
from taco.segmentation.parts import chosen_parts
from taco.segmentation.silhouette import Outline, SilhouetteNetwork, _tracked_rectangle
from taco.types import Anchors, Concept, Factorization, ImageFeatures, Tokens, VideoFrame

SIDE, DIM, GRID = 128, 16, (16, 16)
AXES = torch.eye(DIM)
WORDS = ("dog", "siren", "table")
ANCHORS = Anchors(WORDS, AXES[:3], torch.eye(3), None, 10.0)
FRAME = VideoFrame(np.full((SIDE, SIDE, 3), 120, np.uint8), 0)
FEATURES = ImageFeatures(Tokens(torch.rand(256, DIM), GRID), {}, (SIDE, SIDE), (SIDE, SIDE))


def concept(factor, score=0.8):
    return Concept(factor, ((WORDS[factor], 0.9),), score, AXES[factor])


# --- FC-CLIP, on made queries: (rows, columns, word, logit inside, logit outside) on a 32 x 32 map


class MadeQueries(FCCLIPSegmenter):
    def __init__(self, boxes):
        self.scales, self.alpha, self.beta, self.encoder = (20.0, 20.0), 0.4, 1.0, None
        self.decoder = SimpleNamespace(void=AXES[-1:])
        masks = torch.stack([torch.full((32, 32), float(outside)) for *_, outside in boxes])
        for mask, (rows, columns, _, inside, _) in zip(masks, boxes):
            mask[rows, columns] = inside
        vectors = torch.stack([AXES[WORDS.index(word)] for _, _, word, *_ in boxes])
        self.made = Proposals(masks, F.normalize(vectors - 0.5 * AXES[-1], dim=-1), vectors)

    def propose(self, features):
        return self.made


def by_queries(boxes, concepts, **settings):
    factorization = Factorization(torch.rand(256, 3), AXES[:3].clone(), torch.full((4, 3), 0.5), torch.ones(3, 3), 0)
    config = SegmentationConfig(split=False, **settings)
    return MadeQueries(boxes).segment(FRAME, FEATURES, factorization, concepts, ANCHORS, config)


def box(rows, columns):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[4 * rows.start : 4 * rows.stop, 4 * columns.start : 4 * columns.stop] = True
    return mask


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


EVERYWHERE, MIDDLE, LEFT, RIGHT = slice(0, 32), slice(8, 24), slice(2, 20), slice(12, 30)


def test_a_map_that_is_nowhere_low_is_scaled_to_the_full_range():
    """The word is seen a little everywhere (0.5), which is no reason to outline everything."""
    boxes = [(MIDDLE, LEFT, "dog", 6, 0), (EVERYWHERE, EVERYWHERE, "table", -6, -6)]
    found = by_queries(boxes, [concept(0)], threshold=0.4)
    assert found.confidence.min() == 0 and found.confidence.max() == 1
    assert iou(found.objects[0].mask, box(MIDDLE, LEFT)) > 0.9


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_two_queries_claim_goes_to_the_surer_one(order):
    boxes = [(MIDDLE, LEFT, "dog", 1, -8), (MIDDLE, RIGHT, "siren", 1, -8)]
    boxes += [(MIDDLE, slice(2, 11), "dog", 8, -8), (MIDDLE, slice(12, 30), "siren", 8, -8)]  # the siren is sure of the overlap
    found = by_queries(boxes, [concept(factor) for factor in order], threshold=0.3)
    masks = {item.label: item.mask for item in found.objects}
    assert not (masks["dog"] & masks["siren"]).any()
    assert iou(masks["siren"], box(MIDDLE, RIGHT)) > 0.9 and iou(masks["dog"], box(MIDDLE, slice(2, 12))) > 0.8


# --- the factors' own maps


def by_factors(maps, concepts, rgb=None, silhouette_network=None, **settings):
    """maps: (16, 16) activations of the factors, in order of the words."""
    activations = torch.stack([torch.as_tensor(values, dtype=torch.float32).flatten() for values in maps], 1)
    factorization = Factorization(activations, AXES[: len(maps)].clone(), torch.ones(2, len(maps)), torch.ones(len(maps), 3), 0)
    frame = FRAME if rgb is None else VideoFrame(rgb, 0)
    asked = frame, FEATURES, factorization, concepts, ANCHORS, SegmentationConfig(**settings)
    return ActivationSegmenter(silhouette_network).segment(*asked)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_what_two_maps_claim_goes_to_the_stronger_one(order):
    dog, siren = np.zeros(GRID), np.zeros(GRID)
    dog[4:12, 1:6], dog[4:12, 6:10] = 1.0, 0.5  # of the overlap, columns 6 to 10, the dog is less sure
    siren[4:12, 6:15] = 1.0
    found = by_factors([dog, siren], [concept(factor) for factor in order], refine="none")
    masks = {item.label: item.mask for item in found.objects}
    overlap = np.s_[40:88, 52:76]
    assert masks["siren"][overlap].all() and not masks["dog"][overlap].any() and masks["dog"][40:88, 16:40].all()
    (alone,) = by_factors([dog, siren], [concept(0)], refine="none").objects
    assert alone.mask[overlap].mean() > 0.9, "the dog would have it, were it not for the siren"


class Network:
    """Stands for the outline network: ``values`` is what stands out, whatever it sees."""

    engine, precision, size = "made", "float32", (192, 192)

    def __init__(self, values):
        self.values = np.asarray(values, np.float32)

    def __call__(self, pixels):
        return {"out": self.values[None, None]}


def two_places(*places):
    """Red places (left, right, strength) in a grey picture, from top 40 to 88, and the map of them."""
    rgb, heat = np.full((SIDE, SIDE, 3), 120, np.uint8), np.zeros((SIDE, SIDE), np.float32)
    for left, right, strength in places:
        rgb[40:88, left:right], heat[40:88, left:right] = (210, 40, 30), strength
    return rgb, cv2.resize(heat, GRID, interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("threshold", [0.3, 0.5])
def test_a_second_place_that_the_map_hardly_reaches_is_no_part_of_the_object(threshold):
    """It lies over the level of masks, but below half of the map's maximum: another object that looks a little like it."""
    rgb, coarse = two_places((12, 44, 1.0), (88, 104, 0.44))
    whole = by_factors([coarse], [concept(0)], rgb, refine="none").objects[0].mask
    found = by_factors([coarse], [concept(0)], rgb, refine="edges", threshold=threshold)
    (item,) = found.objects
    assert whole[60, 96] and found.steps == ("edges",)
    assert item.mask[60, 28] and not item.mask[:, 70:].any()
    assert np.array_equal(item.mask, found.confidence >= np.float32(threshold)), "the map is strong there, the mask is not"


def test_a_mask_along_the_edges_that_loses_half_of_the_map_is_not_believed():
    rgb, coarse = two_places((12, 44, 1.0), (84, 116, 0.42))
    found = by_factors([coarse], [concept(0)], rgb, refine="edges")
    (item,) = found.objects
    assert found.steps == ("none",) and item.mask[60, 28] and item.mask[60, 100]


def test_what_the_network_overlooks_of_two_alike_is_outlined_along_its_edges():
    rgb, coarse = two_places((12, 44, 1.0), (84, 116, 1.0))
    left = np.zeros((192, 192))
    left[48:144, 16:72] = 1.0  # of the region that holds both
    found = by_factors([coarse], [concept(0)], rgb, silhouette_network=SilhouetteNetwork(Network(left), "out"))
    (item,) = found.objects
    assert found.steps == ("parts",) and item.mask[60, 28] and item.mask[60, 100] and not item.mask[60, 64]


def test_an_outline_that_holds_but_a_little_of_the_map_is_not_believed():
    rgb, coarse = two_places((12, 60, 1.0))
    corner = np.zeros((192, 192))
    corner[40:90, 40:90] = 1.0  # clear, and within the object, which is four times as large
    found = by_factors([coarse], [concept(0)], rgb, silhouette_network=SilhouetteNetwork(Network(corner), "out"))
    assert found.steps == ("edges",) and iou(found.objects[0].mask, box(slice(10, 22), slice(3, 15))) > 0.8


# --- which connected parts of an outline count


def parts(*places):
    """(60, 80) mask of boxes (top, left, height, width, strength) and the map of them."""
    mask, heat = np.zeros((60, 80), bool), np.zeros((60, 80), np.float32)
    for top, left, height, width, strength in places:
        mask[top : top + height, left : left + width], heat[top : top + height, left : left + width] = True, strength
    return mask, heat


def test_a_part_with_little_of_the_maps_strength_is_left_out():
    mask, heat = parts((10, 10, 20, 20, 1.0), (10, 50, 5, 6, 1.0), (40, 50, 9, 9, 1.0))  # 400, 30 and 81 px
    kept = chosen_parts(mask, heat)
    assert kept[15, 15] and kept[45, 55] and not kept[12, 52]


def test_a_crumb_is_left_out_beside_a_far_larger_part_however_strong_it_is():
    mask, heat = parts((0, 0, 40, 50, 0.05), (0, 60, 15, 20, 0.9), (50, 60, 5, 6, 1.0))  # 2000, 300 and 30 px
    heat[0, 0] = 0.6
    assert chosen_parts(mask, heat)[5, 65] and not chosen_parts(mask, heat)[52, 62]
    mask[:40, :50] = False
    assert chosen_parts(mask, heat)[52, 62], "beside the smaller one it is not so small"


# --- the outline network and what is carried on


def test_the_network_sees_a_dark_picture_as_bright_as_a_light_one():
    seen = []

    class RecordingNetwork(Network):
        def __call__(self, pixels):
            seen.append(pixels)
            return super().__call__(pixels)

    light = np.random.default_rng(0).integers(0, 125, (192, 192, 3)).astype(np.uint8) * 2
    network = SilhouetteNetwork(RecordingNetwork(np.zeros((192, 192))), "out")
    for rgb in (light, light // 2):
        network.find(rgb, (0, 0, 192, 192))
    assert np.allclose(*seen, atol=1e-4) and seen[0].max() > 2


@pytest.mark.parametrize(("zoom", "carried_on"), [(1.15, True), (1.25, False), (0.75, False)])
def test_an_outline_is_not_carried_on_over_more_than_a_little_movement(zoom, carried_on):
    """However well the movement can be followed: what comes that near shows more of itself."""
    noise = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, (72, 96)).astype(np.float32), (0, 0), 10)
    then = 200 * (noise - noise.min()) / np.ptp(noise)
    left, top = 47.5 * (1 - zoom), 35.5 * (1 - zoom)
    now = cv2.warpAffine(then, np.float32([[zoom, 0, left], [0, zoom, top]]), (96, 72), borderMode=cv2.BORDER_REPLICATE)
    box = _tracked_rectangle(Outline(np.zeros((4, 4)), (100, 80, 300, 300), then), now, (480, 640))
    assert (box is not None) == carried_on
