"""The open set's networks with random weights: as fast as with their own, and of no other use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from taco.backbones.base import Backbones
from taco.backbones.msclap import SAMPLE_RATE, MSCLAPAudioEncoder, Projection
from taco.backbones.open_models import IMAGE_MODEL, IMAGE_MODELS
from taco.backbones.openclip import OpenCLIPImageEncoder, without_warnings
from taco.backbones.vendors import import_open_clip, import_transformers
from taco.config import ModelsConfig
from taco.errors import WeightsError

MEL = (513, 64)  # frequencies and bands of MSCLAP's front end


class _ImageEncoder(OpenCLIPImageEncoder):
    def encode_text(self, words: Sequence[str], batch: int = 64) -> Tensor:
        return torch.randn(len(words), int(self.embed_dim))


class _AudioEncoder(MSCLAPAudioEncoder):
    def encode_text(self, words: Sequence[str], batch: int = 32) -> Tensor:
        return torch.randn(len(words), 1024)


def load(models: ModelsConfig) -> Backbones:
    """Both encoders of the open set in torch, with random weights; words have random vectors."""
    name = models.image or IMAGE_MODEL
    with without_warnings():
        model: Any = import_open_clip().create_model(name, pretrained=None)
    for part in [part for part, _ in model.named_children() if part != "visual"]:
        delattr(model, part)
    image = _ImageEncoder(
        model, _no_text, name=name, image_size=models.image_size or IMAGE_MODELS[name], device=models.device, pyramid=False
    )
    transformers = import_transformers()
    mel = torch.rand(MEL) / SAMPLE_RATE
    tower = transformers.ClapAudioModel(transformers.ClapAudioConfig())
    audio = _AudioEncoder(tower, Projection(768, 1024), mel, 20.0, load_text=_no_text, device=models.device)
    return Backbones(image, audio, ("dog", "siren", "guitar", "rain"), untrained=True)


def _no_text(*_: object) -> Any:
    raise WeightsError("untrained models: wanted no words to encode, for they have no text tower")
