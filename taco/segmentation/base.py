"""The protocol of segmenters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from taco.config import SegmentationConfig
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject, VideoFrame


@dataclass(frozen=True, slots=True)
class Segmentation:
    """The masks of a frame.

    confidence: (H, W) float32 in [0, 1], at image size.
    objects: the outlined objects, best first.
    steps: how each concept's mask was found, where the segmenter has several ways.
    memory: for the next frame of the same stream; opaque to callers.
    """

    confidence: np.ndarray
    objects: tuple[SoundingObject, ...]
    steps: tuple[str, ...] = ()
    memory: Any = None


@runtime_checkable
class Segmenter(Protocol):
    """Turns sounding concepts into masks at image size. It has no memory, so that streams can share it."""

    name: str

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
        """Masks of the concepts' objects. before: the result for the frame before in the same stream."""
