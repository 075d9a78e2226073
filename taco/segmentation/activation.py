"""Masks from the factors' map of a word, refined along outlines.

In three steps: the factors' map of the word; the map spread along the image's colours; the outline of what stands out there,
of which the parts that the map reaches are kept. A step is taken only where its result agrees with the one before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from taco.config import SegmentationConfig
from taco.segmentation.base import Segmentation
from taco.segmentation.instances import single_objects
from taco.segmentation.maps import (
    OBJECT_LEVEL,
    Rectangle,
    enlarge,
    factor_map,
    map_rectangle,
    spread_along_colours,
    word_map,
)
from taco.segmentation.parts import (
    KEPT_STRENGTH,
    LEAST_OVERLAP,
    chosen_parts,
    is_clear,
    kept_strength,
    map_overlap,
    object_in_outline,
    uncovered_parts,
    widen,
)
from taco.segmentation.silhouette import FrameOutlines, SilhouetteNetwork
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject, VideoFrame

PAD = 0.5  # tokens by which the region of the outline is wider than the map's box; ours, chosen on val


@dataclass(slots=True)
class _ConceptMask:
    """The mask of one concept.

    coarse: the word's map on the grid.
    reach: the map spread along the colours.
    mask: (H, W) bool.
    step: the last step taken: "parts", "edges" or "none".
    """

    coarse: np.ndarray
    reach: np.ndarray
    mask: np.ndarray
    step: str


class ActivationSegmenter:
    """Maps on the token grid, brought to the image's outlines.

    silhouette_network: finds outlines; without it, refine "auto" means "edges".
    """

    name = "activation"

    def __init__(self, silhouette_network: SilhouetteNetwork | None = None):
        self.silhouette_network = silhouette_network

    def segment(
        self,
        frame: VideoFrame,
        features: ImageFeatures,
        factorization: Factorization,
        concepts: Sequence[Concept],
        anchors: Anchors,
        config: SegmentationConfig,
        before: Segmentation | None = None,
    ) -> Segmentation:
        """The objects of the concepts; the confidence is at least ``config.threshold`` exactly on their masks.

        One mask for each concept, or with ``config.instances`` "apart" for each object in it. Masks share no pixel. A concept
        without an outline gives an object with an empty mask and the box of its map: none is dropped.
        before: its outlines are reused where the image has hardly changed.
        The steps of the result are "parts", "edges" or "none".
        """
        outlines = None
        if self.silhouette_network and config.refine in ("auto", "parts"):
            past = None if before is None else before.memory if factorization.restart != "cut" else {}
            outlines = FrameOutlines(self.silhouette_network, frame.rgb, past)
        found = [self._mask_of(frame, features, factorization, concept, anchors, config, outlines) for concept in concepts]
        if len(found) > 1:
            _resolve_overlaps(found, frame.size)
        confidence = np.zeros(frame.size, np.float32)
        objects: list[SoundingObject] = []
        for concept, item in zip(concepts, found):
            confidence = np.maximum(confidence, _confidence(item, frame.size, config.threshold))
            objects += _objects(concept, item, frame.size, config, len(objects) + 1)
        steps = tuple(item.step for item in found)
        return Segmentation(confidence, tuple(objects), steps, outlines.now if outlines else None)

    def _mask_of(
        self,
        frame: VideoFrame,
        features: ImageFeatures,
        factorization: Factorization,
        concept: Concept,
        anchors: Anchors,
        config: SegmentationConfig,
        outlines: FrameOutlines | None,
    ) -> _ConceptMask:
        coarse = word_map(factorization, concept.prompt, features.tokens, anchors)
        if not coarse.any():  # the factors speak against the word: the place of its factor, without a mask
            coarse = factor_map(factorization, concept.factor, features.tokens)
            return _ConceptMask(coarse, coarse, np.zeros(frame.size, bool), "none")
        level = _map_level(config.threshold)
        if config.refine == "none":
            return _unrefined(coarse, frame.size, level)
        reach = spread_along_colours(coarse, frame.rgb)
        heat = enlarge(coarse, reach.shape)
        parts = chosen_parts(reach >= level, heat)
        if outlines:
            mask = _in_outline(coarse, heat, reach, frame.size, config, outlines, concept.label)
            if mask is not None:
                rest = uncovered_parts(parts, mask)  # others of its kind that the network did not outline
                if rest.any():
                    mask |= _along_edges(rest, reach, frame.size, level)
                return _ConceptMask(coarse, reach, mask, "parts")
        mask = _along_edges(parts, reach, frame.size, level)
        if _is_large_enough(mask, config) and map_overlap(mask, heat) >= LEAST_OVERLAP:
            return _ConceptMask(coarse, reach, mask, "edges")
        return _unrefined(coarse, frame.size, level)


def _in_outline(
    coarse: np.ndarray,
    heat: np.ndarray,
    reach: np.ndarray,
    size: tuple[int, int],
    config: SegmentationConfig,
    outlines: FrameOutlines,
    name: str,
) -> np.ndarray | None:
    """(H, W) bool: the object in its outline; None where no outline is clear and agrees with the map.

    Where the object goes on beyond the region of the outline, the region is widened.
    """
    mask = None
    region = np.where(chosen_parts(coarse >= OBJECT_LEVEL, coarse), coarse, 0)
    seen: tuple[np.ndarray, Rectangle] | None = outlines.outline(map_rectangle(region, size, PAD), name)
    while seen:
        outline, box = seen
        item = object_in_outline(outline, box, heat, reach, size)
        if _is_large_enough(item, config) and is_clear(outline, box, size) and kept_strength(item, heat) >= KEPT_STRENGTH:
            mask = item
        wider = widen(item, box)
        seen = outlines.wider(wider, name) if wider else None
    return mask


def _unrefined(coarse: np.ndarray, size: tuple[int, int], level: float) -> _ConceptMask:
    return _ConceptMask(coarse, coarse, enlarge(coarse, size) >= level, "none")


def _along_edges(parts: np.ndarray, reach: np.ndarray, size: tuple[int, int], level: float) -> np.ndarray:
    mask: np.ndarray = cv2.resize(np.where(parts, reach, 0), size[::-1], interpolation=cv2.INTER_LINEAR) >= level
    return mask


def _map_level(threshold: float) -> float:
    """Share of the map's maximum that ``config.threshold`` means: OBJECT_LEVEL for its default of 0.5."""
    threshold = min(max(threshold, 1e-6), 1.0)
    return threshold * 2 * OBJECT_LEVEL if threshold <= 0.5 else OBJECT_LEVEL + (1 - OBJECT_LEVEL) * (2 * threshold - 1)


def _is_large_enough(mask: np.ndarray, config: SegmentationConfig) -> bool:
    return bool(np.count_nonzero(mask) >= max(1, config.min_area * mask.size))


def _objects(
    concept: Concept, item: _ConceptMask, size: tuple[int, int], config: SegmentationConfig, first_id: int
) -> list[SoundingObject]:
    if not _is_large_enough(item.mask, config):
        box = map_rectangle(item.coarse, size)
        return [SoundingObject.from_box(box, size, concept.labels, concept.score, first_id)]
    masks = [item.mask]
    if config.instances == "apart":
        masks = single_objects(item.mask, item.coarse, max(1, round(config.min_area * item.mask.size)))
    found = [SoundingObject.from_mask(mask, concept.labels, concept.score, first_id + n) for n, mask in enumerate(masks)]
    return [item for item in found if item is not None]


def _resolve_overlaps(found: list[_ConceptMask], size: tuple[int, int]) -> None:
    """Each pixel of several masks goes to the one whose map is the strongest there."""
    claims = np.sum([item.mask for item in found], 0)
    if claims.max() < 2:
        return
    strength = np.stack([np.where(item.mask, enlarge(item.reach, size), -1) for item in found])
    winner = strength.argmax(0)
    for index, item in enumerate(found):
        item.mask = item.mask & (winner == index)


def _confidence(item: _ConceptMask, size: tuple[int, int], threshold: float) -> np.ndarray:
    """(H, W) float32 in [0, 1]: at least ``threshold`` exactly on the mask; inside and outside, the map ranks the pixels."""
    heat = cv2.resize(item.reach.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    threshold = min(max(threshold, 1e-6), 1.0)
    below = np.nextafter(np.float32(threshold), np.float32(0))
    return np.where(item.mask, threshold + (1 - threshold) * heat, np.minimum(threshold * heat, below)).astype(np.float32)
