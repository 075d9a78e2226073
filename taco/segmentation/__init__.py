"""From sounding concepts to masks: one segmenter a file, and the loader that picks one by name."""

from __future__ import annotations

from taco.backbones.base import Backbones
from taco.config import TacoConfig
from taco.errors import ConfigError, MissingPackageError, WeightsError
from taco.segmentation.base import Segmenter


def load_segmenter(config: TacoConfig, backbones: Backbones) -> Segmenter:
    """The segmenter of ``config.models.segmenter``; empty takes the model set's own."""
    name = config.models.segmenter or ("activation" if config.models.name == "embedded" else "fcclip")
    if name == "activation":
        from taco.segmentation.activation import ActivationSegmenter

        return ActivationSegmenter(_silhouettes(config))
    if config.models.name != "paper":
        raise ConfigError(f"models.segmenter: fcclip needs models.name paper, got {config.models.name!r}")
    from taco.segmentation.fcclip import load

    return load(config, backbones)


def _silhouettes(config: TacoConfig):
    """The outline network, or None where its file or an engine is missing and ``segmentation.refine`` does not ask for it."""
    import torch

    from taco.package_files import model_dir
    from taco.segmentation.silhouette import Silhouettes
    from taco.weights import packaged

    try:
        (path,) = packaged.locate("u2netp", model_dir(config.models.model_dir) / "embedded")
        return Silhouettes.from_file(path, threads=config.models.threads or torch.get_num_threads())
    except (WeightsError, MissingPackageError) as error:
        if config.segmentation.refine == "parts":
            raise type(error)(f"segmentation.refine: parts: {error}") from None
        return None
