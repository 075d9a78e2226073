"""Masks without a segmenter: the tokens' answer to a concept's prompt, fitted to the image's edges."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from taco.config import SegmentationConfig
from taco.segmentation.base import Segmentation
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject, VideoFrame

GUIDE_SIDE = 160  # px: the longer side at which edges are looked at


class ActivationSegmenter:
    """Maps on the token grid, brought to image size along edges. ``config`` may be replaced while running."""

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
        """One mask a concept; a concept whose map is flat or whose mask is too small gives none."""
        height, width = frame.size
        if not concepts:
            return Segmentation(np.zeros((height, width), np.float32), ())
        maps = [self._map(frame, features, factorization, concept) for concept in concepts]
        winners = np.argmax(maps, 0) if len(maps) > 1 else None
        objects = []
        for index, (concept, heat) in enumerate(zip(concepts, maps)):
            mask = heat >= self.config.threshold
            if winners is not None:
                mask &= winners == index
            if mask.sum() < max(1, self.config.min_area * height * width):
                continue
            found = SoundingObject.from_mask(mask, concept.labels, concept.score, len(objects) + 1)
            if found:
                objects.append(found)
        return Segmentation(np.max(maps, 0), tuple(objects))

    def _map(self, frame: VideoFrame, features: ImageFeatures, factorization: Factorization, concept: Concept) -> np.ndarray:
        """(H, W) float32 in [0, 1]; all 0 where nothing answers the prompt."""
        tokens = features.tokens
        answer = (tokens.values @ concept.prompt.to(tokens.values)).clamp_min(0)
        top = float(answer.max())
        if top <= 0:
            return np.zeros(frame.size, np.float32)
        coarse = tokens.on_grid(answer / top).float().cpu().numpy()
        return refine(coarse, frame.rgb) if self.config.refine else upsample(coarse, frame.size)


def upsample(coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W) bicubic, cut to [0, 1]."""
    return np.clip(cv2.resize(coarse.astype(np.float32), size[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def refine(coarse: np.ndarray, rgb: np.ndarray, radius: float = 1.0, epsilon: float = 1e-3) -> np.ndarray:
    """(h, w) map in [0, 1] -> (H, W), following the edges of the image (guided filter, He et al. 2010).

    radius: of the filter in cells of the coarse grid. epsilon: variance of the grey values, in
    [0, 1]^2, below which a patch counts as flat.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, GUIDE_SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    guide = cv2.cvtColor(cv2.resize(rgb, small, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    heat = upsample(coarse, small[::-1])
    reach = max(1, round(radius * max(small[0] / coarse.shape[1], small[1] / coarse.shape[0])))

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.blur(values, (2 * reach + 1, 2 * reach + 1), borderType=cv2.BORDER_REFLECT)

    mean_guide, mean_heat = mean(guide), mean(heat)
    slope = (mean(guide * heat) - mean_guide * mean_heat) / (mean(guide * guide) - mean_guide**2 + epsilon)
    offset = mean_heat - slope * mean_guide
    slope, offset = (cv2.resize(mean(part), (width, height), interpolation=cv2.INTER_LINEAR) for part in (slope, offset))
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    out = np.clip(slope * grey + offset, 0, None)
    return np.clip(out / max(float(out.max()), 1e-6), 0, 1).astype(np.float32)
