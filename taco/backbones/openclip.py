"""OpenCLIP ConvNeXt: visual tokens and the segmenter's feature pyramid in one pass."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taco.backbones.checkpoint import SkipInitialisation, freeze, load_strictly, read_state_dict
from taco.backbones.device import resolve_device, resolve_precision
from taco.backbones.vendors import import_open_clip
from taco.errors import ConfigError
from taco.types import ImageFeatures, Tokens, VideoFrame

# Of colours in [0, 1], as OpenCLIP trained.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
STRIDE = 32  # of ConvNeXt's last stage
IMAGE_SIZE = 764  # px, the paper's reference runs; padded to 768: 24 x 24 tokens
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids", "attn_mask")


@contextmanager
def _without_warnings() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class OpenCLIPImageEncoder:
    """A frozen OpenCLIP model with a ConvNeXt trunk.

    model: the open_clip model.
    tokenizer: list of strings -> (M, length) token ids.
    image_size: px, side of the square that an image is resized to.
    precision: number type of the image trunk; everything that leaves this class is float32.
    prompt: template of the word prompts.
    """

    model: Any  # open_clip's classes have no annotations

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str = "convnext_large_d_320",
        image_size: int = IMAGE_SIZE,
        device: str | torch.device = "cpu",
        precision: str = "float32",
        prompt: str = "A photo of a {}",
        checkpoint: Path | None = None,
    ):
        trunk: Any = getattr(model.visual, "trunk", None)
        if not (hasattr(trunk, "stages") and len(trunk.stages) == 4 and hasattr(trunk.head, "norm")):
            raise ConfigError(f"models.image: wanted an open_clip model with a ConvNeXt trunk, got {name}")
        self.name, self.image_size, self.prompt, self.checkpoint = name, image_size, prompt, checkpoint
        self.device = resolve_device(str(device))
        self.dtype = resolve_precision(precision, self.device)
        self.model = freeze(model, self.device)
        self.tokenizer = tokenizer
        self.logit_scale = float(self.model.logit_scale.detach().float().exp())
        self.embed_dim = int(self.model.text_projection.shape[-1]) if hasattr(model, "text_projection") else None
        trunk.stem.to(self.dtype)
        trunk.stages.to(self.dtype)
        trunk.to(memory_format=torch.channels_last)
        self._mean = torch.tensor(MEAN, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(STD, device=self.device).view(1, 3, 1, 1)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        name: str = "convnext_large_d_320",
        device: str = "cpu",
        precision: str = "float32",
        *,
        image_size: int = 0,
        prompt: str = "A photo of a {}",
    ) -> OpenCLIPImageEncoder:
        """Load ``open_clip_pytorch_model.bin`` or ``.safetensors`` (or an open_clip training checkpoint).

        name: any open_clip model with a ConvNeXt trunk. image_size: 0 takes 764 px.
        Raises WeightsError (missing, damaged, of another model), DeviceError, MissingPackageError.
        """
        placed = resolve_device(device)
        what = f"OpenCLIP {name}"
        state = read_state_dict(path, what)
        open_clip = import_open_clip()
        if name not in open_clip.list_models():
            raise ConfigError(f"models.image: wanted the name of an open_clip ConvNeXt model, got {name!r}")
        with _without_warnings(), SkipInitialisation():  # open_clip warns that no weights are loaded; they are, below
            model = open_clip.create_model(name, pretrained=None)
        for key in _NOT_WEIGHTS:
            state.pop(key, None)
        for key in ("logit_scale", "logit_bias"):  # some files keep these scalars as one-element vectors
            own = getattr(model, key, None)
            if key in state and own is not None and state[key].numel() == 1:
                state[key] = state[key].reshape(own.shape)
        load_strictly(model, state, what, path)
        return cls(
            model,
            open_clip.get_tokenizer(name),
            name=name,
            image_size=image_size or IMAGE_SIZE,
            device=placed,
            precision=precision,
            prompt=prompt,
            checkpoint=Path(path).expanduser(),
        )

    def preprocess(self, frame: VideoFrame) -> Tensor:
        """(1, 3, S, S) float32: resized to the square, normalised, zero-padded right and below to a multiple of 32."""
        # A copy: the picture may be a view with negative strides (flipped, BGR) or read-only (a message's buffer).
        pixels = torch.from_numpy(np.array(frame.rgb)).to(self.device).permute(2, 0, 1)[None].float()
        square = F.interpolate(pixels, size=(self.image_size, self.image_size), mode="bilinear", align_corners=True)
        margin = -self.image_size % STRIDE
        return F.pad((square / 255.0 - self._mean) / self._std, (0, margin, 0, margin))

    def encode(self, frame: VideoFrame) -> ImageFeatures:
        """Visual tokens (N, 768), not normalised, and the maps "res2" to "res5" of the padded image."""
        return self.encode_batch([frame])[0]

    def encode_batch(self, frames: Sequence[VideoFrame]) -> list[ImageFeatures]:
        """Several images, of any shapes, in one pass; the same as one by one up to rounding."""
        with torch.inference_mode():
            images = torch.cat([self.preprocess(frame) for frame in frames])
            pyramid = self.pyramid(images)
            dense = pyramid["res5"]
            tokens = self.project_dense(dense.flatten(2).transpose(1, 2))
        tokens = tokens.clone()  # outside inference mode: a solver may differentiate through it
        grid, padded, size = (
            (dense.shape[-2], dense.shape[-1]),
            (images.shape[-2], images.shape[-1]),
            (self.image_size, self.image_size),
        )
        return [
            ImageFeatures(Tokens(own, grid), {name: maps[row : row + 1] for name, maps in pyramid.items()}, padded, size)
            for row, own in enumerate(tokens)
        ]

    @torch.inference_mode()
    def pyramid(self, images: Tensor) -> dict[str, Tensor]:
        """Maps at 1/4, 1/8, 1/16 and 1/32 of (B, 3, H, W) normalised images, float32."""
        trunk = self.model.visual.trunk
        x = trunk.stem(images.to(self.dtype).contiguous(memory_format=torch.channels_last))
        maps = {}
        for level, stage in enumerate(trunk.stages, 2):
            x = stage(x)
            maps[f"res{level}"] = x.float()
        maps["res5"] = trunk.norm_pre(maps["res5"])
        return maps

    @torch.inference_mode()
    def project_dense(self, values: Tensor) -> Tensor:
        """(..., C5) locations, or pooled locations, of res5 -> (..., 768) in the space of the words."""
        visual = self.model.visual
        flat = values.reshape(-1, values.shape[-1], 1, 1).float()
        projected: Tensor = visual.head(visual.trunk.head(flat)).reshape(*values.shape[:-1], -1)
        return projected

    def encode_text(self, words: Sequence[str], batch: int = 64) -> Tensor:
        """(M, 768) vectors of the prompted words, float32, not normalised."""
        if not words:
            raise ConfigError("encode_text: wanted at least one word, got none")
        prompts = [self.prompt.format(word) for word in words]
        with torch.inference_mode():
            pieces = [self.tokenizer(prompts[start : start + batch]) for start in range(0, len(prompts), batch)]
            rows = torch.cat([self.model.encode_text(ids.to(self.device)).float() for ids in pieces])
        return rows.clone()
