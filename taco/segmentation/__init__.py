"""From sounding concepts to masks, one segmenter per file, and the loader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taco.backbones.base import Backbones
from taco.config import TacoConfig
from taco.errors import ConfigError, MissingPackageError, WeightsError
from taco.segmentation.base import Segmenter
from taco.threads import model_threads

if TYPE_CHECKING:
    from taco.segmentation.silhouette import SilhouetteNetwork


def load_segmenter(config: TacoConfig, backbones: Backbones) -> Segmenter:
    """The segmenter of ``config.models.segmenter``; empty takes the model set's own."""
    name = config.models.segmenter or ("fcclip" if config.models.name == "paper" else "activation")
    if name == "activation":
        from taco.segmentation.activation import ActivationSegmenter

        return ActivationSegmenter(_silhouette_network(config))
    if name in ("sam3", "sam3_lite_text"):
        from taco.segmentation import sam3
        from taco.segmentation.activation import ActivationSegmenter

        return sam3.load(config, ActivationSegmenter(_silhouette_network(config)))
    if config.models.name != "paper":
        raise ConfigError(f"models.segmenter: fcclip needs models.name paper, got {config.models.name!r}")
    from taco.segmentation.fcclip import load

    return load(config, backbones)


def _silhouette_network(config: TacoConfig) -> SilhouetteNetwork | None:
    """The outline network; None where its file or an engine is missing, unless ``segmentation.refine`` requires it."""
    from taco.package_files import model_dir
    from taco.segmentation.silhouette import SilhouetteNetwork
    from taco.weights import locate_packaged

    try:
        (path,) = locate_packaged("u2netp", model_dir(config.models.model_dir) / "embedded")
        return SilhouetteNetwork.from_file(path, threads=model_threads(config.models.threads))
    except (WeightsError, MissingPackageError) as error:
        if config.segmentation.refine == "parts":
            raise type(error)(f"segmentation.refine: parts: {error}") from None
        return None
