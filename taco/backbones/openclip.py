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
from taco.backbones.engine_export import IN_TORCH, Runtime
from taco.backbones.onnx_export import Example
from taco.backbones.vendors import import_open_clip
from taco.errors import ConfigError
from taco.types import ImageFeatures, Tokens, VideoFrame

# Of colours in [0, 1], as OpenCLIP trained.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
STRIDE = 32  # of ConvNeXt's last stage
IMAGE_SIZE = 764  # px, the paper's reference runs; padded to 768: 24 x 24 tokens
OUTPUTS = ("res2", "res3", "res4", "res5", "tokens")  # of the trunk as a network
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids", "attn_mask")


@contextmanager
def _without_warnings() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class DenseProjection(nn.Module):
    """CLIP's head for single locations of res5, or for pooled ones: (..., C5) -> (..., D) in the space of the words."""

    def __init__(self, visual: Any):
        super().__init__()
        self.pool, self.head = visual.trunk.head, visual.head

    def forward(self, values: Tensor) -> Tensor:
        flat = values.reshape(-1, values.shape[-1], 1, 1).float()
        projected: Tensor = self.head(self.pool(flat)).reshape(*values.shape[:-1], -1)
        return projected


class TrunkNetwork(nn.Module):
    """(B, 3, H, W) normalised images -> the maps "res2" to "res5" and the tokens (B, N, D), float32."""

    def __init__(self, visual: Any):
        super().__init__()
        self.stem, self.stages, self.norm_pre = visual.trunk.stem, visual.trunk.stages, visual.trunk.norm_pre
        self.project = DenseProjection(visual)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let the trunk compute in this number type."""
        self.stem.to(dtype)
        self.stages.to(dtype)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = images.to(next(self.stem.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        maps = {}
        for level, stage in enumerate(self.stages, 2):
            x = stage(x)
            maps[f"res{level}"] = x.float()
        maps["res5"] = self.norm_pre(maps["res5"])
        maps["tokens"] = self.project(maps["res5"].flatten(2).transpose(1, 2))
        return maps


class OpenCLIPImageEncoder:
    """A frozen OpenCLIP model with a ConvNeXt trunk.

    model: the open_clip model.
    tokenizer: list of strings -> (M, length) token ids.
    image_size: px, side of the square that an image is resized to.
    precision: number type of the image trunk; everything that leaves this class is float32.
    prompt: template of the word prompts.
    runtime: what runs the trunk; ``run`` is the trunk in it. Where that is not torch, the model keeps only what torch still runs.
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
        runtime: Runtime = IN_TORCH,
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
        self.project = DenseProjection(self.model.visual)
        network = TrunkNetwork(self.model.visual)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        # Any size: a small one makes the check of an export quick.
        example = Example((torch.zeros(1, 3, 256, 256, device=self.device),), ((0, 2, 3),), ("image",))
        self.run = runtime.network(network, f"trunk-{name}", OUTPUTS, example)
        if self.run.engine == "torch":
            network.compute_in(self.dtype)
        else:
            trunk.stem, trunk.stages = nn.Identity(), nn.ModuleList()
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
        runtime: Runtime = IN_TORCH,
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
            runtime=runtime,
        )

    @property
    def engine(self) -> str:
        """What runs the trunk."""
        return self.run.engine

    @property
    def precision(self) -> str:
        """Of its numbers."""
        return str(self.dtype).removeprefix("torch.") if self.engine == "torch" else self.run.precision

    @property
    def padded_size(self) -> int:
        """px, side of the square that the network sees."""
        return self.image_size + -self.image_size % STRIDE

    def preprocess(self, frame: VideoFrame) -> Tensor:
        """(1, 3, S, S) float32: resized to the square, normalised, zero-padded right and below to a multiple of 32."""
        # A copy: the picture may be a view with negative strides (flipped, BGR) or read-only (a message's buffer).
        pixels = torch.from_numpy(np.array(frame.rgb)).to(self.device).permute(2, 0, 1)[None].float()
        square = F.interpolate(pixels, size=(self.image_size, self.image_size), mode="bilinear", align_corners=True)
        margin = self.padded_size - self.image_size
        return F.pad((square / 255.0 - self._mean) / self._std, (0, margin, 0, margin))

    def encode(self, frame: VideoFrame) -> ImageFeatures:
        """Visual tokens (N, 768), not normalised, and the maps "res2" to "res5" of the padded image."""
        return self.encode_batch([frame])[0]

    def encode_batch(self, frames: Sequence[VideoFrame]) -> list[ImageFeatures]:
        """Several images, of any shapes, in one pass; the same as one by one up to rounding."""
        with torch.inference_mode():
            images = torch.cat([self.preprocess(frame) for frame in frames])
            pyramid = dict(self.run(images))
            dense, tokens = pyramid["res5"], pyramid.pop("tokens")
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
        found = self.run(images)
        return {name: found[name] for name in OUTPUTS[:-1]}

    @torch.inference_mode()
    def project_dense(self, values: Tensor) -> Tensor:
        """(..., C5) locations, or pooled locations, of res5 -> (..., 768) in the space of the words."""
        projected: Tensor = self.project(values)
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
