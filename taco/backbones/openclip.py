"""OpenCLIP with a convolutional trunk (ConvNeXt, FastViT): visual tokens and the feature pyramid in one pass."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taco.backbones.checkpoint import SkipInitialisation, check_fits, freeze, load_strictly, read_state_dict, under_prefix
from taco.backbones.device import resolve_device, resolve_precision
from taco.backbones.engine_export import IN_TORCH, Runtime
from taco.backbones.onnx_export import Example
from taco.backbones.vendors import import_open_clip
from taco.errors import ConfigError
from taco.types import ImageFeatures, Tokens, VideoFrame

# Of colours in [0, 1], as OpenCLIP trained where its table of pretrained models says nothing else.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
IMAGE_SIZE = 764  # px, the paper's reference runs; padded to 768: 24 x 24 tokens
FITTING = "a ConvNeXt or FastViT (MobileCLIP2-S0 to -S4) image tower, whose map can be read location by location"
_NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size", "text.transformer.embeddings.position_ids", "attn_mask")


@contextmanager
def without_warnings() -> Iterator[None]:
    """No warnings of open_clip that it loads no weights."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class DenseProjection(nn.Module):
    """CLIP's head for single locations of the last map, or for pooled ones: (..., C) -> (..., D) in the space of the words."""

    def __init__(self, visual: Any):
        super().__init__()
        self.pool, self.head = visual.trunk.head, visual.head

    def forward(self, values: Tensor) -> Tensor:
        flat = values.reshape(-1, values.shape[-1], 1, 1).float()
        projected: Tensor = self.head(self.pool(flat)).reshape(*values.shape[:-1], -1)
        return projected


class TrunkNetwork(nn.Module):
    """(B, 3, H, W) normalised images -> the maps of the stages, from "res2" on, and the tokens (B, N, D), float32."""

    def __init__(self, visual: Any):
        super().__init__()
        trunk = visual.trunk
        self.stem, self.stages = trunk.stem, trunk.stages
        self.last = trunk.final_conv if hasattr(trunk, "final_conv") else trunk.norm_pre  # FastViT's, ConvNeXt's
        self.project = DenseProjection(visual)
        self.levels = tuple(f"res{level}" for level in range(2, 2 + len(trunk.stages)))

    def compute_in(self, dtype: torch.dtype) -> None:
        """Let the trunk compute in this number type."""
        for part in (self.stem, self.stages, self.last):
            part.to(dtype)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        x = images.to(next(self.stem.parameters()).dtype).contiguous(memory_format=torch.channels_last)
        x = self.stem(x)
        maps = {}
        for level, stage in zip(self.levels, self.stages):
            x = stage(x)
            maps[level] = x.float()
        maps[self.levels[-1]] = top = self.last(x).float()
        maps["tokens"] = self.project(top.flatten(2).transpose(1, 2))
        return maps


class OpenCLIPImageEncoder:
    """A frozen OpenCLIP model with a convolutional trunk, ConvNeXt or FastViT.

    model: the open_clip model.
    tokenizer: list of strings -> (M, length) token ids.
    image_size: px, side of the square that an image is resized to.
    colours: mean and standard deviation of colours in [0, 1] that the model was trained with.
    precision: number type of the image trunk; everything that leaves this class is float32.
    prompt: template of the word prompts.
    runtime: what runs the trunk; ``run`` is the trunk in it. Where that is not torch, the model keeps only what torch still runs.
    pyramid: give the maps of all stages, as FC-CLIP needs them; else of the last one alone.
    load_text: gives a model with its text tower when words are encoded (``release_text``); None: ``model`` has it.
    """

    model: Any  # open_clip's classes have no annotations

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[[list[str]], Tensor],
        *,
        name: str = "convnext_large_d_320",
        image_size: int = IMAGE_SIZE,
        colours: tuple[Sequence[float], Sequence[float]] = (MEAN, STD),
        device: str | torch.device = "cpu",
        precision: str = "float32",
        prompt: str = "A photo of a {}",
        checkpoint: Path | None = None,
        runtime: Runtime = IN_TORCH,
        pyramid: bool = True,
        load_text: Callable[[], nn.Module] | None = None,
    ):
        trunk: Any = getattr(model.visual, "trunk", None)
        if not (hasattr(trunk, "stages") and (hasattr(trunk, "norm_pre") or hasattr(trunk, "final_conv"))):
            raise _no_map(name)
        self.name, self.image_size, self.prompt, self.checkpoint = name, image_size, prompt, checkpoint
        self.device = resolve_device(str(device))
        self.dtype = resolve_precision(precision, self.device)
        self.model = freeze(model, self.device)
        if hasattr(trunk, "final_conv"):
            from timm.utils.model import reparameterize_model

            reparameterize_model(trunk, inplace=True)  # FastViT's parallel branches become one convolution each
        self.tokenizer = tokenizer
        self._load_text: Callable[[], Any] = load_text or (lambda: self.model)
        self._text: Any = None
        self.logit_scale = float(self.model.logit_scale.detach().float().exp())
        network = TrunkNetwork(self.model.visual)
        self.project = network.project
        with torch.inference_mode():
            self.embed_dim = self.project(torch.zeros(1, trunk.num_features, device=self.device)).shape[-1]
        self._stride: int = trunk.feature_info[-1]["reduction"]
        self._levels = network.levels if pyramid else network.levels[-1:]
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
        # Any size: a small one makes the check of an export quick.
        example = Example((torch.zeros(1, 3, 256, 256, device=self.device),), ((0, 2, 3),), ("image",))
        self.run = runtime.network(network, f"trunk-{name}", (*self._levels, "tokens"), example)
        if self.run.engine == "torch":
            network.compute_in(self.dtype)
        else:
            trunk.stem, trunk.stages = nn.Identity(), nn.ModuleList()
            if hasattr(trunk, "final_conv"):
                trunk.final_conv = nn.Identity()
        self._mean, self._std = (torch.tensor(values, device=self.device).view(1, 3, 1, 1) for values in colours)

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
        pyramid: bool = True,
    ) -> OpenCLIPImageEncoder:
        """Load ``open_clip_pytorch_model.bin`` or ``.safetensors`` (or an open_clip training checkpoint).

        name: any open_clip model with a ConvNeXt or FastViT trunk. image_size: 0 takes 764 px.
        The text tower is checked, and loaded when words are encoded.
        Raises WeightsError (missing, damaged, of another model), ConfigError (name), DeviceError, MissingPackageError.
        """
        placed = resolve_device(device)
        check_name(name)
        open_clip = import_open_clip()
        return cls(
            _load(path, name, text=False),
            open_clip.get_tokenizer(name),
            name=name,
            image_size=image_size or IMAGE_SIZE,
            colours=_colours(name),
            device=placed,
            precision=precision,
            prompt=prompt,
            checkpoint=Path(path).expanduser(),
            runtime=runtime,
            pyramid=pyramid,
            load_text=partial(_load, path, name, text=True),
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
        return self.image_size + -self.image_size % self._stride

    def preprocess(self, frame: VideoFrame) -> Tensor:
        """(1, 3, S, S) float32: resized to the square, normalised, zero-padded right and below to whole tokens."""
        # A copy: the picture may be a view with negative strides (flipped, BGR) or read-only (a message's buffer).
        pixels = torch.from_numpy(np.array(frame.rgb)).to(self.device).permute(2, 0, 1)[None].float()
        square = F.interpolate(pixels, size=(self.image_size, self.image_size), mode="bilinear", align_corners=True)
        margin = self.padded_size - self.image_size
        return F.pad((square / 255.0 - self._mean) / self._std, (0, margin, 0, margin))

    def encode(self, frame: VideoFrame) -> ImageFeatures:
        """Visual tokens (N, D), not normalised, and the maps of the padded image, "res2" to "res5" or the last one alone."""
        return self.encode_batch([frame])[0]

    def encode_batch(self, frames: Sequence[VideoFrame]) -> list[ImageFeatures]:
        """Several images, of any shapes, in one pass; the same as one by one up to rounding."""
        with torch.inference_mode():
            images = torch.cat([self.preprocess(frame) for frame in frames])
            found = self.run(images)
            pyramid = {level: found[level] for level in self._levels}
            dense, tokens = pyramid[self._levels[-1]], found["tokens"]
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
        return {name: found[name] for name in self._levels}

    @torch.inference_mode()
    def project_dense(self, values: Tensor) -> Tensor:
        """(..., C) locations, or pooled locations, of the last map -> (..., D) in the space of the words."""
        projected: Tensor = self.project(values)
        return projected

    def encode_text(self, words: Sequence[str], batch: int = 64) -> Tensor:
        """(M, D) vectors of the prompted words, float32, not normalised. Texts are cut to the model's 77 tokens."""
        if not words:
            raise ConfigError("encode_text: wanted at least one word, got none")
        model = self._text = self._text or freeze(self._load_text(), self.device)
        prompts = [self.prompt.format(word) for word in words]
        with torch.inference_mode():
            pieces = [self.tokenizer(prompts[start : start + batch]) for start in range(0, len(prompts), batch)]
            rows = torch.cat([model.encode_text(ids.to(self.device)).float() for ids in pieces])
        return rows.clone()

    def release_text(self) -> None:
        """Let go of the text tower until the next ``encode_text``."""
        self._text = None


def check_name(name: str) -> None:
    """ConfigError where open_clip has no model of this name, or one without a map of locations (a ViT)."""
    open_clip = import_open_clip()
    if name not in open_clip.list_models():
        raise ConfigError(f"models.image: wanted the name of an open_clip model with {FITTING}, got {name!r}")
    trunk = str(open_clip.get_model_config(name)["vision_cfg"].get("timm_model_name", ""))
    if not re.search("convnext|fastvit", trunk):
        raise _no_map(name)


def _no_map(name: str) -> ConfigError:
    return ConfigError(f"models.image: wanted an open_clip model with {FITTING}, got {name}")


def _colours(name: str) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation of the model's training, from open_clip's table of pretrained models."""
    tags = import_open_clip().list_pretrained_tags_by_model(name)
    found = import_open_clip().get_pretrained_cfg(name, tags[0]) if tags else {}
    return found.get("mean") or MEAN, found.get("std") or STD


def _load(path: str | Path, name: str, *, text: bool) -> nn.Module:
    """The open_clip model with one of its towers, of a file whose every tensor is checked by name and shape."""
    what = f"OpenCLIP {name}"
    state = read_state_dict(path, what)
    with without_warnings(), SkipInitialisation():  # open_clip warns that no weights are loaded; they are, below
        model: Any = import_open_clip().create_model(name, pretrained=None)
    for key in _NOT_WEIGHTS:
        state.pop(key, None)
    for key in ("logit_scale", "logit_bias"):  # some files keep these scalars as one-element vectors
        own = getattr(model, key, None)
        if key in state and own is not None and state[key].numel() == 1:
            state[key] = state[key].reshape(own.shape)
    check_fits(model, state, what, path)
    if text:
        model.visual = nn.Identity()
        load_strictly(model, {key: value for key, value in state.items() if not key.startswith("visual.")}, what, path)
        return model  # type: ignore[no-any-return]  # open_clip's classes have no annotations
    kept = nn.Module()
    kept.visual, kept.logit_scale = model.visual, nn.Parameter(state["logit_scale"].clone())
    load_strictly(model.visual, under_prefix(state, "visual."), what, path)
    return kept
