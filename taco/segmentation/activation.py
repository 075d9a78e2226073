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
from taco.segmentation.guided import spread
from taco.segmentation.instances import single_things
from taco.segmentation.parts import AGREES, KEEPS, agreement, chosen_parts, is_clear, keeps, thing_in_outline, uncovered
from taco.segmentation.silhouette import Silhouettes
from taco.segmentation.wordmap import THING, enlarge, thing_box, word_map
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject, VideoFrame

PAD = 1.0  # tokens by which the region that the outline is looked for in is wider than the map's box


@dataclass(slots=True)
class _Found:
    """What is known of one concept: its map on the grid, that spread along the colours, its mask, and the step it is from."""

    coarse: np.ndarray
    reach: np.ndarray
    mask: np.ndarray
    step: str


class ActivationSegmenter:
    """Maps on the token grid, brought to the image's outlines. ``config`` may be replaced while running.

    silhouettes: the outline network; without it, refine "auto" is "edges". Remembers the outlines of the last frames;
    ``reset`` forgets them. steps: by which step each mask of the last frame was found: "parts", "edges" or "none".
    """

    name = "activation"

    def __init__(self, config: SegmentationConfig | None = None, silhouettes: Silhouettes | None = None):
        self.config = config or SegmentationConfig()
        self.silhouettes = silhouettes
        self.steps: tuple[str, ...] = ()
        self._size: tuple[int, int] | None = None

    def reset(self) -> None:
        """Forget the outlines of the frames before."""
        if self.silhouettes:
            self.silhouettes.reset()

    def segment(
        self,
        frame: VideoFrame,
        features: ImageFeatures,
        factorization: Factorization,
        concepts: Sequence[Concept],
        anchors: Anchors,
    ) -> Segmentation:
        """The things that the concepts point at; confidence is at least ``config.threshold`` exactly on their masks.

        One object a concept, or one a thing with ``config.instances`` "apart". A concept without an outline gives an
        object with an empty mask and the box of its map: none is dropped. Objects share no pixel.
        """
        if frame.size != self._size or factorization.restart == "cut":
            self.reset()
        self._size = frame.size
        if self.silhouettes:
            self.silhouettes.keep({concept.label for concept in concepts})
        found = [self._find(frame, features, factorization, concept, anchors) for concept in concepts]
        if len(found) > 1:
            _share_out(found, frame.size)
        self.steps = tuple(item.step for item in found)
        confidence = np.zeros(frame.size, np.float32)
        objects: list[SoundingObject] = []
        for concept, item in zip(concepts, found):
            confidence = np.maximum(confidence, _confidence(item, frame.size, self.config.threshold))
            objects += self._objects(concept, item, frame.size, len(objects) + 1)
        return Segmentation(confidence, tuple(objects))

    def _find(self, frame, features, factorization, concept, anchors) -> _Found:
        coarse = word_map(factorization, concept.prompt, features.tokens, anchors)
        if not coarse.any():  # nothing answers the word: where its factor is
            column = factorization.visual_activations[:, concept.factor]
            coarse = features.tokens.on_grid(column / column.max().clamp_min(1e-12)).float().cpu().numpy()
            return _Found(coarse, coarse, np.zeros(frame.size, bool), "none")
        refine = self._refinement()
        if refine == "none":
            return self._unrefined(coarse, frame.size)
        reach = spread(coarse, frame.rgb)
        heat = enlarge(coarse, reach.shape)
        thing = chosen_parts(reach >= self._level(), heat)
        if refine == "parts":
            box = thing_box(coarse, frame.size, PAD)
            outline, box = self.silhouettes.follow(frame.rgb, box, concept.label)
            mask = thing_in_outline(outline, box, heat, reach, frame.size)
            if self._large(mask) and is_clear(outline, box, frame.size) and keeps(mask, heat) >= KEEPS:
                rest = uncovered(thing, mask)  # others of its kind, that the network did not see
                if rest.any():
                    mask |= self._along_edges(rest, reach, frame.size)
                return _Found(coarse, reach, mask, "parts")
        mask = self._along_edges(thing, reach, frame.size)
        if self._large(mask) and agreement(mask, heat) >= AGREES:
            return _Found(coarse, reach, mask, "edges")
        return self._unrefined(coarse, frame.size)

    def _unrefined(self, coarse: np.ndarray, size: tuple[int, int]) -> _Found:
        return _Found(coarse, coarse, enlarge(coarse, size) >= self._level(), "none")

    def _along_edges(self, parts: np.ndarray, reach: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return cv2.resize(np.where(parts, reach, 0), size[::-1], interpolation=cv2.INTER_LINEAR) >= self._level()

    def _refinement(self) -> str:
        """What ``config.refine`` comes to: parts, edges or none."""
        refine = self.config.refine
        if refine in ("auto", "parts"):
            return "parts" if self.silhouettes else "edges"
        return refine

    def _level(self) -> float:
        """Share of the map's maximum that ``config.threshold`` stands for: its default, the middle, is THING."""
        threshold = min(max(self.config.threshold, 1e-6), 1.0)
        return threshold * 2 * THING if threshold <= 0.5 else THING + (1 - THING) * (2 * threshold - 1)

    def _large(self, mask: np.ndarray) -> bool:
        return np.count_nonzero(mask) >= max(1, self.config.min_area * mask.size)

    def _objects(self, concept: Concept, item: _Found, size: tuple[int, int], first_id: int) -> list[SoundingObject]:
        if not self._large(item.mask):
            box = thing_box(item.coarse, size)
            return [SoundingObject.from_box(box, size, concept.labels, concept.score, first_id)]
        masks = [item.mask]
        if self.config.instances == "apart":
            masks = single_things(item.mask, item.coarse, max(1, round(self.config.min_area * item.mask.size)))
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
