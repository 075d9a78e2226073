"""Masks of made scenes: coloured shapes whose outline is known, factors that only know the coarse place."""

import cv2
import numpy as np
import pytest
import torch

from taco.config import SegmentationConfig
from taco.segmentation.activation import ActivationSegmenter
from taco.segmentation.base import Segmentation, Segmenter
from taco.segmentation.silhouette import SIDE, SilhouetteNetwork
from taco.types import Concept, Factorization, ImageFeatures, Tokens, VideoFrame

GRID, SIZE, DIM = (12, 16), (240, 320), 4
PLACES = {0: (90, 120), 1: (230, 110)}  # x, y of the objects


def scene(noise=6.0, seed=0):
    """(rgb, {object: mask}): a red disc and a green square on grey."""
    rgb = np.full((*SIZE, 3), 120, np.uint8)
    masks = {0: np.zeros(SIZE, np.uint8), 1: np.zeros(SIZE, np.uint8)}
    cv2.circle(masks[0], PLACES[0], 45, 1, -1)
    cv2.rectangle(masks[1], (195, 75), (265, 145), 1, -1)
    rgb[masks[0] > 0], rgb[masks[1] > 0] = (200, 40, 30), (30, 180, 60)
    rgb = np.clip(rgb + np.random.default_rng(seed).normal(0, noise, rgb.shape), 0, 255).astype(np.uint8)
    return rgb, {item: mask > 0 for item, mask in masks.items()}


def factors(masks, strength=1.0, restart="") -> Factorization:
    """Factor ``object`` is active where its mask covers a token, and shows direction ``object``."""
    active = torch.full((GRID[0] * GRID[1], DIM), 0.01)
    for item, mask in masks.items():
        share = cv2.resize(mask.astype(np.float32), GRID[::-1], interpolation=cv2.INTER_AREA)
        active[:, item] += strength * torch.from_numpy(cv2.GaussianBlur(share, (3, 3), 0.7)).flatten()
    return Factorization(active, torch.eye(DIM), torch.ones(2, DIM), torch.ones(DIM, 3), 0, restart=restart)


def features() -> ImageFeatures:
    """Tokens that say nothing: the mask must come from the factors."""
    return ImageFeatures(Tokens(torch.rand(GRID[0] * GRID[1], DIM), GRID), {}, SIZE, SIZE)


def concept(item, score=0.8) -> Concept:
    return Concept(min(item, DIM - 1), ((f"object {item}", 0.9),), score, torch.eye(DIM)[item])


class Painter:
    """Stands for the outline network: what stands out is what is not grey. Counts its runs."""

    engine, precision, size = "made", "float32", (SIDE, SIDE)

    def __init__(self, paint=lambda standing: standing):
        self.paint, self.runs = paint, 0

    def __call__(self, values):
        self.runs += 1
        pixels = values[0].transpose(1, 2, 0)
        standing = (np.ptp(pixels * (0.229, 0.224, 0.225) + (0.485, 0.456, 0.406), axis=-1) > 0.3).astype(np.float32)
        return {"out": self.paint(standing)[None, None]}


def segmenter(paint=None, **settings) -> tuple[ActivationSegmenter, SegmentationConfig]:
    """With a made outline network where ``paint`` is given; and its settings."""
    silhouette_network = None if paint is None else SilhouetteNetwork(Painter(paint), "out")
    return ActivationSegmenter(silhouette_network), SegmentationConfig(**settings)


def segment(concepts, with_=None, rgb=None, factorization=None, tokens=None, before=None):
    image, masks = scene()
    frame = VideoFrame(image if rgb is None else rgb, 0)
    found = factors(masks) if factorization is None else factorization
    own, config = with_ or segmenter()
    return own.segment(frame, tokens or features(), found, concepts, None, config, before), masks


def iou(a, b):
    return (a & b).sum() / max(1, (a | b).sum())


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("paint, least", [(None, 0.85), (lambda standing: standing, 0.95)])
def test_the_mask_fits_the_object_and_not_the_grid(number, paint, least):
    found, masks = segment([concept(number)], segmenter(paint))
    (item,) = found.objects
    assert iou(item.mask, masks[number]) > least
    coarse, _ = segment([concept(number)], segmenter(refine="none"))
    assert iou(coarse.objects[0].mask, masks[number]) < iou(item.mask, masks[number]) - 0.05
    x, y = item.centre
    assert abs(x - PLACES[number][0]) < 6 and abs(y - PLACES[number][1]) < 6


def test_what_comes_out_keeps_the_contract():
    assert isinstance(ActivationSegmenter(), Segmenter)
    for threshold in (0.3, 0.5, 0.8):
        found, _ = segment([concept(0, score=0.7)], segmenter(threshold=threshold))
        assert found.confidence.shape == SIZE and found.confidence.dtype == np.float32
        assert found.confidence.min() >= 0 and found.confidence.max() <= 1
        (item,) = found.objects
        assert item.label == "object 0" and item.score == 0.7 and found.steps == ("edges",)
        assert np.array_equal(item.mask, found.confidence >= np.float32(threshold))


def test_two_concepts_share_no_pixel():
    overlapping = {0: np.zeros(SIZE, bool), 1: np.zeros(SIZE, bool)}
    overlapping[0][60:180, 40:190] = overlapping[1][60:180, 130:280] = True
    found, _ = segment([concept(0), concept(1)], segmenter(refine="none"), factorization=factors(overlapping))
    first, second = found.objects
    assert not (first.mask & second.mask).any() and (first.id, second.id) == (1, 2)
    alone, _ = segment([concept(0)], segmenter(refine="none"), factorization=factors(overlapping))
    assert alone.objects[0].mask.sum() > first.mask.sum()


def test_the_factors_place_the_mask_and_not_the_tokens():
    _, masks = scene()
    tokens = torch.zeros(GRID[0] * GRID[1], DIM)
    tokens[:, 0] = factors(masks).visual_activations[:, 1]  # the tokens show word 0 where object 1 is
    found, _ = segment([concept(0)], tokens=ImageFeatures(Tokens(tokens, GRID), {}, SIZE, SIZE))
    assert iou(found.objects[0].mask, masks[0]) > 0.85


def test_nothing_asked_gives_no_object():
    found, _ = segment([])
    assert found.objects == () and not found.confidence.any() and found.confidence.shape == SIZE


def test_an_object_without_an_outline_has_the_box_of_its_factor():
    _, masks = scene()
    against = Concept(1, (("none", 1.0),), 0.5, -torch.ones(DIM))
    (item,) = segment([against])[0].objects
    assert not item.mask.any() and item.score == 0.5
    x, y, width, height = item.box
    ys, xs = np.nonzero(masks[1])
    assert abs(x - xs.min()) <= 20 and abs(y - ys.min()) <= 20 and abs(width - 71) <= 40 and abs(height - 71) <= 40


def test_masks_that_are_too_small_leave_the_box_of_the_map():
    found, masks = segment([concept(0)], segmenter(min_area=0.5))
    (item,) = found.objects
    assert not item.mask.any() and item.box[2] < SIZE[1] / 2
    left, top, width, height = item.box
    assert masks[0][top : top + height, left : left + width].sum() > 0.95 * masks[0].sum()


def test_the_threshold_is_live():
    wide, _ = segment([concept(0)], segmenter(refine="none", threshold=0.2))
    tight, _ = segment([concept(0)], segmenter(refine="none", threshold=0.8))
    assert wide.objects[0].mask.sum() > 1.5 * tight.objects[0].mask.sum()


def test_of_two_objects_that_stand_out_the_one_that_the_map_reaches_is_taken():
    found, masks = segment([concept(1)], segmenter(lambda standing: np.ones_like(standing) * standing))
    assert iou(found.objects[0].mask, masks[1]) > 0.95 and not (found.objects[0].mask & masks[0]).any()


@pytest.mark.parametrize(
    "paint",
    [
        lambda standing: np.zeros_like(standing),  # nothing stands out
        lambda standing: np.full_like(standing, 0.6),  # all does, unclearly
        lambda standing: np.pad(np.ones((3, 3), np.float32), ((95, 94), (95, 94))),  # a crumb on the object
        lambda standing: np.pad(np.ones((9, 9), np.float32), ((0, 183), (0, 183))),  # something in the corner
    ],
)
def test_an_outline_that_does_not_agree_with_the_map_is_not_taken(paint):
    found, masks = segment([concept(0)], segmenter(paint))
    assert found.steps == ("edges",) and iou(found.objects[0].mask, masks[0]) > 0.85


def test_edges_that_lose_the_map_are_not_taken():
    """An object of two colours in a room of one of them: the colours draw the map away from half of it."""
    rgb = np.random.default_rng(3).integers(0, 255, (*SIZE, 3), np.uint8)
    rgb[:, :] = (100, 100, 100)
    rgb[100:104, 60:64] = (255, 0, 0)
    (item,) = segment([concept(0)], rgb=rgb)[0].objects
    plain = segment([concept(0)], segmenter(refine="none"), rgb=rgb)[0].objects[0]
    assert iou(item.mask, plain.mask) > 0.45


def test_refinement_is_hardly_ever_worse_than_the_map():
    """Over 200 made pictures, many of them hopeless: refined below unrefined by more than 5 points in at most 5 %."""
    rng = np.random.default_rng(7)
    worse = {"edges": 0, "parts": 0}
    for _ in range(100):
        rgb, mask = _picture(rng)
        found = factors({0: mask})
        blurred = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 3)
        plain = segment([concept(0)], segmenter(refine="none"), rgb=rgb, factorization=found)[0].objects[0].mask
        for refine in worse:
            outline = rng.choice(["right", "noise", "all"], p=[0.7, 0.2, 0.1])
            network = ActivationSegmenter(_Told(blurred, outline, rng) if refine == "parts" else None)
            told = network, SegmentationConfig()
            refined = segment([concept(0)], told, rgb=rgb, factorization=found)[0].objects[0].mask
            worse[refine] += iou(refined, mask) < iou(plain, mask) - 0.05
    assert worse["edges"] <= 5 and worse["parts"] <= 5, worse


def _picture(rng):
    """A blob of one to three parts in any colours on a ground of any texture."""
    mask = np.zeros(SIZE, np.uint8)
    x, y = rng.integers(60, 260), rng.integers(60, 180)
    for _ in range(rng.integers(1, 4)):
        axes = tuple(int(n) for n in rng.integers(15, 50, 2))
        cv2.ellipse(
            mask, (int(x + rng.integers(-25, 25)), int(y + rng.integers(-25, 25))), axes, int(rng.integers(180)), 0, 360, 1, -1
        )
    ground = cv2.resize(
        rng.integers(0, 255, (*rng.integers(2, 12, 2), 3)).astype(np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC
    )
    item = cv2.resize(
        rng.integers(0, 255, (*rng.integers(1, 5, 2), 3)).astype(np.uint8), SIZE[::-1], interpolation=cv2.INTER_CUBIC
    )
    rgb = np.where(mask[..., None] > 0, item, ground).astype(np.float32) + rng.normal(0, 8, (*SIZE, 3))
    return np.clip(rgb, 0, 255).astype(np.uint8), mask > 0


class _Told(SilhouetteNetwork):
    """An outline network that is told the truth: right, noise, or all of the region."""

    def __init__(self, truth, outline, rng):
        super().__init__(Painter())
        self.truth, self.outline, self.rng = truth, outline, rng

    def find(self, rgb, box):
        if self.outline == "noise":
            return cv2.resize(self.rng.random((6, 6)).astype(np.float32), (SIDE, SIDE))
        if self.outline == "all":
            return np.ones((SIDE, SIDE), np.float32)
        x, y, width, height = box
        return cv2.resize(self.truth[y : y + height, x : x + width], (SIDE, SIDE))


def test_the_same_frame_gives_the_same_mask():
    first, _ = segment([concept(0)])
    cv2.setRNGSeed(77)
    assert np.array_equal(first.objects[0].mask, segment([concept(0)])[0].objects[0].mask)


def test_a_still_picture_is_outlined_once_and_a_cut_anew():
    with_, before = segmenter(lambda standing: standing), None
    network = with_[0].silhouette_network.network
    for _ in range(4):
        before, _ = segment([concept(0)], with_, before=before)
    assert network.runs == 1
    segment([concept(0)], with_, factorization=factors(scene()[1], restart="cut"), before=before)
    assert network.runs == 2
    segment([concept(0)], with_, before=before)
    assert network.runs == 2  # the outlines travel with the stream: another stream's cut forgets nothing of this one
    segment([concept(0)], with_)
    assert network.runs == 3


def test_several_of_a_kind_are_one_object_or_one_each():
    rgb, masks = scene()
    both = factors({0: masks[0] | masks[1]})
    (together,) = segment([concept(0)], segmenter(instances="together"), factorization=both)[0].objects
    assert iou(together.mask, masks[0] | masks[1]) > 0.8
    apart = segment([concept(0)], segmenter(instances="apart"), factorization=both)[0].objects
    assert [item.id for item in apart] == [1, 2] and len({item.label for item in apart}) == 1
    assert sorted(round(max(iou(item.mask, mask) for mask in masks.values()), 1) >= 0.8 for item in apart) == [True, True]


@pytest.mark.parametrize("shape", [(1, 1), (7, 300), (480, 3), (33, 65)])
@pytest.mark.parametrize("paint", [None, lambda standing: standing, lambda standing: np.ones_like(standing)])
def test_odd_image_sizes(shape, paint):
    rgb = np.random.default_rng(1).integers(0, 255, (*shape, 3), np.uint8)
    (item,) = segment([concept(0)], segmenter(paint), rgb=rgb)[0].objects
    assert item.mask.shape == shape


def test_flat_maps_and_one_coloured_images_are_no_error():
    everywhere = factors({0: np.ones(SIZE, bool)})
    grey = np.full((*SIZE, 3), 90, np.uint8)
    for paint in (None, lambda standing: standing):
        (item,) = segment([concept(0)], segmenter(paint), rgb=grey, factorization=everywhere)[0].objects
        assert item.mask.mean() > 0.95


def long_object():
    """(rgb, its mask, factors that are active on its middle only)."""
    mask = np.zeros(SIZE, bool)
    mask[100:140, 40:280] = True
    rgb = np.full((*SIZE, 3), 120, np.uint8)
    rgb[mask] = (200, 40, 30)
    middle = mask.copy()
    middle[:, :120] = middle[:, 200:] = False
    return rgb, mask, factors({0: middle})


def test_an_object_that_goes_on_beyond_its_map_is_outlined_whole_in_a_first_frame():
    rgb, mask, found = long_object()
    with_ = segmenter(lambda standing: standing)
    (item,) = segment([concept(0)], with_, rgb=rgb, factorization=found)[0].objects
    assert iou(item.mask, mask) > 0.9 and 1 < with_[0].silhouette_network.network.runs <= 3


def test_later_frames_look_at_one_region_each_until_the_object_is_whole():
    rgb, mask, found = long_object()
    with_ = segmenter(lambda standing: standing)
    last, shown = Segmentation(np.zeros(SIZE, np.float32), (), memory={}), []
    for number in range(5):
        last, _ = segment([concept(0)], with_, rgb=rgb, factorization=found, before=last)
        assert with_[0].silhouette_network.network.runs <= min(number + 1, 3)
        shown.append(iou(last.objects[0].mask, mask))
    assert shown[0] < 0.75 and shown[-1] > 0.9 and shown == sorted(shown)


def test_the_region_is_that_of_the_maps_strong_places():
    """What only answers weakly, far away, is not looked at: it would take the outline's pixels from the object."""
    image, masks = scene()
    other = factors({0: masks[1]}).visual_activations[:, 0] - 0.01
    seen = {}
    for strength in (0.0, 0.4, 0.9):
        found = factors({0: masks[0]})
        found.visual_activations[:, 0] += strength * other
        told: list[float] = []
        with_ = segmenter(lambda standing, told=told: told.append(standing.sum()) or standing)
        (item,) = segment([concept(0)], with_, rgb=image, factorization=found)[0].objects
        seen[strength] = told[0]
        assert iou(item.mask, masks[0] | masks[1] if strength == 0.9 else masks[0]) > 0.95
    assert seen[0.4] == seen[0.0] != seen[0.9]
