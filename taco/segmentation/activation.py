"""Masks without a segmenter: the tokens' answer to a concept's prompt, cut out along the image's own colours."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from taco.config import SegmentationConfig
from taco.segmentation.base import Segmentation
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject, VideoFrame

CUT_SIDE = 128  # px: longer side of the image when the mask is cut out
# Shares of the map's maximum: below SURELY_NOT never thing, from SURELY on always, LIKELY where the cut starts.
SURELY_NOT, LIKELY, SURELY = 0.1, 0.4, 0.85
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
        winners = np.argmax(maps, 0)
        objects = []
        for index, (concept, heat) in enumerate(zip(concepts, maps)):
            mask = (heat >= self.config.threshold) & (heat > 0) & (winners == index)
            if mask.sum() < max(1, self.config.min_area * height * width):
                continue
            objects.append(SoundingObject.from_mask(mask, concept.labels, concept.score, len(objects) + 1))
        return Segmentation(np.max(maps, 0), tuple(objects))

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
    over the image's colours decides (GrabCut, Rother et al. 2004), at a reduced size. On either side
    of 0.5 the map still ranks the pixels. Deterministic.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, CUT_SIDE / max(height, width))
    size = (max(2, round(height * scale)), max(2, round(width * scale)))
    heat = upsample(coarse, size)
    labels = np.full(size, cv2.GC_BGD, np.uint8)
    labels[heat > SURELY_NOT] = cv2.GC_PR_BGD
    labels[heat > LIKELY] = cv2.GC_PR_FGD
    labels[heat >= SURELY * heat.max()] = cv2.GC_FGD
    thing = heat >= 0.5
    if (labels == cv2.GC_BGD).any() and (labels == cv2.GC_FGD).any():  # else there are no colours to compare
        small = cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA)
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(np.ascontiguousarray(small), labels, None, *models, 1, cv2.GC_INIT_WITH_MASK)
        thing = _great_parts((labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD), heat)
    inside = cv2.resize(thing.astype(np.float32), (width, height), interpolation=cv2.INTER_LINEAR) >= 0.5
    smooth = upsample(coarse, (height, width))
    return np.where(inside, 0.5 + 0.5 * smooth, np.minimum(0.5 * smooth, np.float32(0.499))).astype(np.float32)


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
