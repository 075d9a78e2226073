"""The open set, for any word on small machines: a small OpenCLIP image tower and a CLAP sound tower, from the weights folder."""

from __future__ import annotations

from pathlib import Path

from taco import weights
from taco.backbones.base import Backbones
from taco.backbones.paper_models import any_word_set, check_settings, load_sound, runtime_of
from taco.config import ModelsConfig
from taco.errors import ConfigError

# open_clip's name -> px of the square that an image is resized to: 12 x 12 tokens. Ours: the embedded set has 13 x 13.
IMAGE_MODELS = {"convnext_base_w": 384, "MobileCLIP2-S0": 384, "MobileCLIP2-S2": 384, "MobileCLIP2-S4": 768}
IMAGE_MODEL = "convnext_base_w"  # its weights are free (MIT); those of the others are for research only


def load(models: ModelsConfig) -> Backbones:
    """Both encoders; WeightsError names the command that fetches missing weights."""
    check_settings(models)
    from taco.backbones.openclip import OpenCLIPImageEncoder, check_name

    name, _, own = models.image.partition("=")
    name = name or IMAGE_MODEL
    check_name(name)
    if name not in IMAGE_MODELS and not own:
        raise ConfigError(f"models.image: wanted {', '.join(IMAGE_MODELS)}, or {name}=FILE with its weights, got {name}")
    # On a CPU ONNX Runtime takes three quarters of torch's time for MobileCLIP2's towers and saves nothing for ConvNeXt's.
    runtime = runtime_of(models, "torch" if "convnext" in name else "auto")
    image = OpenCLIPImageEncoder.from_checkpoint(
        Path(own).expanduser() if own else weights.locate(name, models),
        name,
        device=models.device,
        precision=models.precision,
        image_size=models.image_size or IMAGE_MODELS.get(name, IMAGE_MODELS[IMAGE_MODEL]),
        runtime=runtime,
        pyramid=False,
    )
    return any_word_set(image, load_sound(models, runtime))
