"""Masks without a segmenter: the tokens' answer to a concept's prompt, cut out along the image's own colours."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from taco.config import SegmentationConfig
from taco.segmentation.base import Segmentation
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject, VideoFrame

# px, longer side of the image when the mask is cut out: roughly where the thing is, then along its edges.
ROUGH_SIDE, FINE_SIDE = 64, 128
BAND = 5  # px of the fine size: so far the edge may lie from where the rough cut put it
SURROUNDINGS = 20  # px of the fine size around the thing that tell its background's colours
# Shares of the map's maximum: below SURELY_NOT never thing, from SURELY on always, LIKELY where the cut starts; what lies over
# AGAIN is given to the second cut as thing even if the first, whose edges weigh more, left it out.
SURELY_NOT, LIKELY, AGAIN, SURELY = 0.1, 0.4, 0.6, 0.85
PART = 0.1  # parts of a mask smaller than this share of its greatest part are dropped


class ActivationSegmenter:
    """Maps on the token grid, brought to image size. ``config`` may be replaced while running."""

    name = "activation"

    def __init__(self, config: SegmentationConfig | None = None):
        self.config = config or SegmentationConfig()

    def segment(
        self,
        frame: VideoFrame,
        features: ImageFeatures,
        factorization: Factorization,
        concepts: Sequence[Concept],
        anchors: Anchors,
    ) -> Segmentation:
        """One mask a concept; a concept that nothing answers, or whose mask is too small, gives none."""
        height, width = frame.size
        if not concepts:
            return Segmentation(np.zeros((height, width), np.float32), ())
        maps = [self._map(frame, features, concept) for concept in concepts]
        least = max(self.config.threshold, 1e-6)  # a threshold of 0 takes what answers at all
        masks = [heat >= least for heat in maps]
        if len(maps) > 1:
            winners = np.argmax(maps, 0)
            masks = [mask & (winners == index) for index, mask in enumerate(masks)]
        objects = []
        for concept, mask in zip(concepts, masks):
            if np.count_nonzero(mask) < max(1, self.config.min_area * height * width):
                continue
            objects.append(SoundingObject.from_mask(mask, concept.labels, concept.score, len(objects) + 1))
        return Segmentation(np.max(maps, 0) if len(maps) > 1 else maps[0], tuple(objects))

    def _map(self, frame: VideoFrame, features: ImageFeatures, concept: Concept) -> np.ndarray:
        """(H, W) float32 in [0, 1]; all 0 where nothing answers the prompt. Products, not cosines: see concepts."""
        tokens = features.tokens
        answer = (tokens.values @ concept.prompt.to(tokens.values)).clamp_min(0)
        top = float(answer.max())
        if top <= 0:
            return np.zeros(frame.size, np.float32)
        coarse = tokens.on_grid(answer / top).float().cpu().numpy()
        return cut_out(coarse, frame.rgb) if self.config.refine else upsample(coarse, frame.size)


def upsample(coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) float32, bicubic, kept in [0, 1]."""
    return np.clip(cv2.resize(coarse.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def cut_out(coarse: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """(h, w) map in [0, 1] -> (H, W) float32 in [0, 1] that is at least 0.5 exactly on the thing.

    The strongest part of the map is surely thing, its weak part surely not; between them a graph cut
    over the image's colours decides (GrabCut, Rother et al. 2004), at a small size. A second cut, at
    twice that size and with the colours learnt from the first, moves the edge and gives strong parts
    that were left out another chance. On either side of 0.5 the map still ranks the pixels. Deterministic.
    """
    height, width = rgb.shape[:2]
    fine = cv2.resize(rgb, _within(rgb, FINE_SIDE), interpolation=cv2.INTER_AREA)
    smooth = upsample(coarse, fine.shape[:2])
    colours = np.zeros((1, 65)), np.zeros((1, 65))  # GrabCut's models of background and thing
    thing = _moved_to_edges(_rough_cut(coarse, fine, colours), fine, smooth, colours)
    inside = cv2.resize(thing.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR)
    inside = cv2.threshold(inside, 0.4999, 1.0, cv2.THRESH_BINARY)[1]
    return cv2.addWeighted(inside, 0.5, cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR), 0.499, 0.0)


def _within(rgb: np.ndarray, side: int) -> tuple[int, int]:
    """(width, height) of the image when its longer side is at most ``side`` px."""
    height, width = rgb.shape[:2]
    scale = min(1.0, side / max(height, width))
    return max(2, round(width * scale)), max(2, round(height * scale))


def _rough_cut(coarse: np.ndarray, fine: np.ndarray, colours: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(h, w) bool at ROUGH_SIDE: the thing by the map and the colours, which are learnt on the way.

    By the map alone, and no colours learnt, where there is nothing to compare.
    """
    small = cv2.resize(fine, _within(fine, ROUGH_SIDE), interpolation=cv2.INTER_AREA)
    heat = upsample(coarse, small.shape[:2])
    labels = np.full(heat.shape, cv2.GC_BGD, np.uint8)
    labels[heat > SURELY_NOT] = cv2.GC_PR_BGD
    labels[heat > LIKELY] = cv2.GC_PR_FGD
    labels[heat >= SURELY * heat.max()] = cv2.GC_FGD
    if not ((labels == cv2.GC_BGD).any() and (labels == cv2.GC_FGD).any()):
        return heat >= 0.5
    cv2.setRNGSeed(0)
    cv2.grabCut(small, labels, None, *colours, 1, cv2.GC_INIT_WITH_MASK)
    return _great_parts((labels & cv2.GC_FGD) > 0, heat)


def _moved_to_edges(rough: np.ndarray, fine: np.ndarray, heat: np.ndarray, colours: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """The rough cut at FINE_SIDE: its edge moved by up to BAND px to where the colours change, strong parts judged again."""
    thing = (cv2.resize(rough.astype(np.float32), fine.shape[1::-1], interpolation=cv2.INTER_LINEAR) >= 0.5).astype(np.uint8)
    if not (colours[0].any() and thing.any()):
        return thing > 0
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * BAND + 1, 2 * BAND + 1))
    inner = cv2.erode(thing, disc)
    outer = cv2.dilate(thing, disc) | (heat > LIKELY * heat.max())
    labels = thing | (heat > AGAIN * heat.max()) | cv2.GC_PR_BGD  # 3: probably thing, 2: probably not
    labels[inner > 0], labels[outer == 0] = cv2.GC_FGD, cv2.GC_BGD
    x, y, width, height = cv2.boundingRect(outer)
    left, top = max(0, x - SURROUNDINGS), max(0, y - SURROUNDINGS)
    near = np.s_[top : y + height + SURROUNDINGS, left : x + width + SURROUNDINGS]
    part = np.ascontiguousarray(labels[near])
    cv2.grabCut(np.ascontiguousarray(fine[near]), part, None, *colours, 1, cv2.GC_EVAL)
    thing[near] = part & cv2.GC_FGD
    return _great_parts(thing > 0, heat)


def _great_parts(thing: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Connected parts that are not tiny and hold at least half of the map's strength."""
    count, parts, stats, _ = cv2.connectedComponentsWithStats(thing.astype(np.uint8))
    if count < 2:
        return thing
    great = stats[1:, cv2.CC_STAT_AREA].max()
    keep = [False] + [
        stats[part, cv2.CC_STAT_AREA] >= PART * great and heat[parts == part].max() >= 0.5 * heat.max()
        for part in range(1, count)
    ]
    return np.array(keep)[parts]
