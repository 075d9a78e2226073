"""Masks for models without a segmenter: the factors say where a word is, an outline says how far the thing goes.

In steps that each answer for themselves: the factors' own map of the word; the map spread along the image's colours; the
outline of what stands out there, of which the parts are kept that the map reaches. A step whose outcome does not agree with
the one before it is not taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from taco.config import SegmentationConfig
from taco.segmentation.base import Segmentation
from taco.segmentation.instances import single_things
from taco.segmentation.maps import THING, enlarge, spread, thing_box, word_map
from taco.segmentation.parts import AGREES, KEEPS, agreement, chosen_parts, is_clear, keeps, thing_in_outline, uncovered, widened
from taco.segmentation.silhouette import Follower, Silhouettes
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject, VideoFrame

PAD = 0.5  # tokens by which the region that the outline is looked for in is wider than the map's box


@dataclass(slots=True)
class _Found:
    """What is known of one concept: its map on the grid, that spread along the colours, its mask, and the step it is from."""

    coarse: np.ndarray
    reach: np.ndarray
    mask: np.ndarray
    step: str


class ActivationSegmenter:
    """Maps on the token grid, brought to the image's outlines.

    silhouettes: the outline network; without it, refine "auto" is "edges".
    """

    name = "activation"

    def __init__(self, silhouettes: Silhouettes | None = None):
        self.silhouettes = silhouettes

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
        """The things that the concepts point at; confidence is at least ``config.threshold`` exactly on their masks.

        One object a concept, or one a thing with ``config.instances`` "apart". A concept without an outline gives an
        object with an empty mask and the box of its map: none is dropped. Objects share no pixel. before: outlines of the
        frame before are carried on where the picture has hardly changed. steps of the result: "parts", "edges" or "none".
        """
        follower = None
        if self.silhouettes and config.refine in ("auto", "parts"):
            past = None if before is None else before.memory if factorization.restart != "cut" else {}
            follower = Follower(self.silhouettes, frame.rgb, past)
        found = [self._find(frame, features, factorization, concept, anchors, config, follower) for concept in concepts]
        if len(found) > 1:
            _share_out(found, frame.size)
        confidence = np.zeros(frame.size, np.float32)
        objects: list[SoundingObject] = []
        for concept, item in zip(concepts, found):
            confidence = np.maximum(confidence, _confidence(item, frame.size, config.threshold))
            objects += _objects(concept, item, frame.size, config, len(objects) + 1)
        steps = tuple(item.step for item in found)
        return Segmentation(confidence, tuple(objects), steps, follower.now if follower else None)

    def _find(self, frame, features, factorization, concept, anchors, config, follower: Follower | None) -> _Found:
        coarse = word_map(factorization, concept.prompt, features.tokens, anchors)
        if not coarse.any():  # nothing answers the word: where its factor is
            column = factorization.visual_activations[:, concept.factor]
            coarse = features.tokens.on_grid(column / column.max().clamp_min(1e-12)).float().cpu().numpy()
            return _Found(coarse, coarse, np.zeros(frame.size, bool), "none")
        level = _level(config.threshold)
        if config.refine == "none":
            return _unrefined(coarse, frame.size, level)
        reach = spread(coarse, frame.rgb)
        heat = enlarge(coarse, reach.shape)
        thing = chosen_parts(reach >= level, heat)
        if follower:
            mask = _in_outline(coarse, heat, reach, frame.size, config, follower, concept.label)
            if mask is not None:
                rest = uncovered(thing, mask)  # others of its kind, that the network did not see
                if rest.any():
                    mask |= _along_edges(rest, reach, frame.size, level)
                return _Found(coarse, reach, mask, "parts")
        mask = _along_edges(thing, reach, frame.size, level)
        if _is_large(mask, config) and agreement(mask, heat) >= AGREES:
            return _Found(coarse, reach, mask, "edges")
        return _unrefined(coarse, frame.size, level)


def _in_outline(coarse, heat, reach, size, config, follower: Follower, name: str) -> np.ndarray | None:
    """(H, W) bool: the thing in its outline, None where there is none that is clear and agrees with the map.

    Where the thing goes on beyond the region that the outline is of, a wider one is looked at.
    """
    mask = None
    region = np.where(chosen_parts(coarse >= THING, coarse), coarse, 0)
    seen = follower.outline(thing_box(region, size, PAD), name)
    while seen:
        outline, box = seen
        thing = thing_in_outline(outline, box, heat, reach, size)
        if _is_large(thing, config) and is_clear(outline, box, size) and keeps(thing, heat) >= KEEPS:
            mask = thing
        wider = widened(thing, box)
        seen = follower.wider(wider, name) if wider else None
    return mask


def _unrefined(coarse: np.ndarray, size: tuple[int, int], level: float) -> _Found:
    return _Found(coarse, coarse, enlarge(coarse, size) >= level, "none")


def _along_edges(parts: np.ndarray, reach: np.ndarray, size: tuple[int, int], level: float) -> np.ndarray:
    return cv2.resize(np.where(parts, reach, 0), size[::-1], interpolation=cv2.INTER_LINEAR) >= level


def _level(threshold: float) -> float:
    """Share of the map's maximum that ``config.threshold`` stands for: its default, the middle, is THING."""
    threshold = min(max(threshold, 1e-6), 1.0)
    return threshold * 2 * THING if threshold <= 0.5 else THING + (1 - THING) * (2 * threshold - 1)


def _is_large(mask: np.ndarray, config: SegmentationConfig) -> bool:
    return np.count_nonzero(mask) >= max(1, config.min_area * mask.size)


def _objects(concept: Concept, item: _Found, size: tuple[int, int], config: SegmentationConfig, first_id: int):
    if not _is_large(item.mask, config):
        box = thing_box(item.coarse, size)
        return [SoundingObject.from_box(box, size, concept.labels, concept.score, first_id)]
    masks = [item.mask]
    if config.instances == "apart":
        masks = single_things(item.mask, item.coarse, max(1, round(config.min_area * item.mask.size)))
    return [SoundingObject.from_mask(mask, concept.labels, concept.score, first_id + n) for n, mask in enumerate(masks)]


def _share_out(found: list[_Found], size: tuple[int, int]) -> None:
    """Every pixel that several masks hold goes to the one whose map is the strongest there."""
    claims = np.sum([item.mask for item in found], 0)
    if claims.max() < 2:
        return
    strength = np.stack([np.where(item.mask, enlarge(item.reach, size), -1) for item in found])
    winner = strength.argmax(0)
    for index, item in enumerate(found):
        item.mask = item.mask & (winner == index)


def _confidence(item: _Found, size: tuple[int, int], threshold: float) -> np.ndarray:
    """(H, W) float32 in [0, 1]: from ``threshold`` on exactly on the mask; on either side of it the map ranks the pixels."""
    heat = cv2.resize(item.reach.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    threshold = min(max(threshold, 1e-6), 1.0)
    below = np.nextafter(np.float32(threshold), np.float32(0))
    return np.where(item.mask, threshold + (1 - threshold) * heat, np.minimum(threshold * heat, below)).astype(np.float32)
