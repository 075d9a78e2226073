"""What the pipeline asks of a segmenter. Adapters live in the files beside this one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from taco.config import SegmentationConfig
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject, VideoFrame


@dataclass(frozen=True, slots=True)
class Segmentation:
    """confidence: (H, W) float32 in [0, 1] at image size. objects: what was outlined in it, best first."""

    confidence: np.ndarray
    objects: tuple[SoundingObject, ...]


@runtime_checkable
class Segmenter(Protocol):
    """Turns sounding concepts into masks at image size."""

    name: str
    config: SegmentationConfig  # replaced while running when a live setting changes

    def segment(
        self,
        frame: VideoFrame,
        features: ImageFeatures,
        factorization: Factorization,
        concepts: Sequence[Concept],
        anchors: Anchors,
    ) -> Segmentation:
        """Masks of the things that the concepts point at."""
