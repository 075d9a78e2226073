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
    """confidence: (H, W) float32 in [0, 1] at image size. objects: what was outlined in it, best first.

    steps: how each concept's mask was found, where the segmenter has several ways. memory: what the next frame of the same
    stream may start from; opaque to callers.
    """

    confidence: np.ndarray
    objects: tuple[SoundingObject, ...]
    steps: tuple[str, ...] = ()
    memory: object = None


@runtime_checkable
class Segmenter(Protocol):
    """Turns sounding concepts into masks at image size. It remembers nothing: streams share it."""

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
        """Masks of the things that the concepts point at. before: of the frame before in the same stream."""
