"""From sounding concepts to masks: one segmenter a file, and the loader that picks one by name."""

from __future__ import annotations

from taco.backbones.base import Backbones
from taco.config import TacoConfig
from taco.errors import ConfigError
from taco.segmentation.base import Segmenter


def load_segmenter(config: TacoConfig, backbones: Backbones) -> Segmenter:
    """The segmenter of ``config.models.segmenter``; empty takes the model set's own."""
    name = config.models.segmenter or ("activation" if config.models.name == "embedded" else "fcclip")
    if name == "activation":
        from taco.segmentation.activation import ActivationSegmenter

        return ActivationSegmenter(config.segmentation)
    if config.models.name != "paper":
        raise ConfigError(f"models.segmenter: fcclip needs models.name paper, got {config.models.name!r}")
    from taco.segmentation.fcclip import load

    return load(config, backbones)
