"""Draw masks your own way: a segmenter is one method, from the factors and the words they were given to masks.

usage: python examples/own_segmenter.py

This one takes the map of the named factor as it is, enlarged and cut at half of its height. It runs on ``own_encoders``.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from own_encoders import WORDS, ColourEncoder, PitchEncoder

from taco import AudioWindow, TacoPipeline, VideoFrame
from taco.backbones.base import Backbones
from taco.config import SegmentationConfig
from taco.segmentation.base import Segmentation
from taco.types import Anchors, Concept, Factorization, ImageFeatures, SoundingObject


class CoarseSegmenter:
    """Masks from the factors' maps alone: fast, and as coarse as the grid of tokens."""

    name = "coarse"

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
        height, width = frame.size
        confidence, objects = np.zeros((height, width), np.float32), []
        for concept in concepts:
            coarse = features.tokens.on_grid(factorization.visual_activations[:, concept.factor])
            fine = cv2.resize(coarse.float().cpu().numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
            found = SoundingObject.from_mask(fine > 0.5 * fine.max(), concept.labels, concept.score, id=len(objects) + 1)
            if found:
                objects.append(found)
                confidence = np.maximum(confidence, fine.clip(0, 1) * concept.score)
        return Segmentation(confidence, tuple(objects))


def main() -> None:
    pipeline = TacoPipeline(backbones=Backbones(ColourEncoder(), PitchEncoder(), WORDS), segmenter=CoarseSegmenter())
    rgb = np.full((480, 640, 3), 128, np.uint8)
    rgb[100:300, 50:250], rgb[150:400, 380:600] = (220, 30, 30), (30, 30, 220)
    tone = 0.3 * np.sin(2 * np.pi * 3000 * np.arange(16000) / 16000).astype(np.float32)
    scene = pipeline.process(VideoFrame(rgb, 0), AudioWindow(tone, 16000, 0))
    print(scene.verdict, *(f"{item.label!r} in box {item.box}, {item.mask.sum()} px" for item in scene.objects))


if __name__ == "__main__":
    main()
