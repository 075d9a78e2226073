"""Perception Encoder for sound (PE-A-Frame and PE-AV, Vyas et al. 2025): a token every 40 ms, in one space with words.

The weights come in a folder in ``transformers``' layout, of ``pe_audio`` or of ``pe_audio_video``; of the latter only the ear is
used, for a sound model sees no image here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taco.audio import resample
from taco.backbones.checkpoint import (
    SkipInitialisation,
    check_fits,
    fetched_by,
    freeze,
    load_strictly,
    read_state_dict,
    report_unused,
    under_prefix,
)
from taco.backbones.device import resolve_device
from taco.backbones.htsat import check_samples
from taco.backbones.vendors import import_transformers
from taco.errors import ConfigError, WeightsError
from taco.types import AudioWindow, Tokens

WHAT = "Perception Encoder"
KINDS = {"pe-audio": "pe_audio", "pe-audio-video": "pe_audio_video"}  # models.audio -> model_type in config.json
WEIGHTS = "model.safetensors"
SAMPLE_RATE = 48_000
TEXT_LENGTH = 512  # tokens; ours: longer than any word, shorter than what the text tower takes
_PARTS = ("audio_encoder.", "audio_head.", "text_audio_head.", "text_audio_logit_scale", "text_audio_logit_bias", "text_model.")
_EAR = "audio_model."  # prefix of the ear within the model of sound and video
LAYER_NORM_EPS = 1e-6  # as in both heads of the model


class Head(nn.Module):
    """Projection of a LayerNorm: from a tower's space to the shared one."""

    def __init__(self, wide: int, out: int):
        super().__init__()
        self.layer_norm = nn.LayerNorm(wide, eps=LAYER_NORM_EPS)
        self.proj = nn.Linear(wide, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., wide) -> (..., out)."""
        projected: Tensor = self.proj(self.layer_norm(x))
        return projected

    def longest(self) -> float:
        """No output is longer: the LayerNorm bounds the length of what is projected."""
        norm = self.layer_norm
        bound = math.sqrt(len(norm.weight)) * float(norm.weight.abs().max()) + float(norm.bias.norm())
        return bound * float(torch.linalg.matrix_norm(self.proj.weight, 2))


class PEAudioEncoder:
    """A frozen Perception Encoder for sound. Build it with ``from_folder``.

    The model scores every word by itself: log-odds s <a, t> + b of products, not of cosines. Both sides get two more coordinates
    that complete them to fixed lengths, so that cosines times ``logit_scale`` are these log-odds exactly.
    Tokens are split into their positive and negative parts, so that a non-negative factorization loses nothing of them.
    folder: where the text tower comes from when words are encoded (``release_text``).
    """

    prompt = "{}"
    only_torch = True  # whatever runs the other networks

    def __init__(
        self,
        audio: nn.Module,
        audio_head: Head,
        text_head: Head,
        scale: float,
        bias: float,
        hop: int,
        folder: Path,
        device: torch.device,
        name: str = "pe-audio",
    ):
        self.name, self.device, self.checkpoint, self._folder, self._hop = name, device, folder / WEIGHTS, folder, hop
        self._audio: Any = freeze(audio, device)
        self._audio_head, self._text_head = freeze(audio_head, device), freeze(text_head, device)
        self._lengths = (audio_head.longest() ** 2 + 1) ** 0.5, (text_head.longest() ** 2 + (bias / scale) ** 2) ** 0.5
        self._offset = bias / scale
        self.logit_scale = scale * self._lengths[0] * self._lengths[1]
        self._text: tuple[Any, Any] | None = None

    @classmethod
    def from_folder(cls, folder: str | Path, name: str = "pe-audio", device: str = "auto") -> PEAudioEncoder:
        """Load a folder with config.json, model.safetensors and tokenizer files; WeightsError says what is wrong.

        The text tower is checked, and loaded when words are encoded.
        """
        placed, folder = resolve_device(device), Path(folder).expanduser()
        with fetched_by(name):
            state = _ear(folder, name)
            config = _config(folder, name)
            transformers = import_transformers()
            with SkipInitialisation():
                audio = transformers.AutoModel.from_config(config.audio_config)
                wide = config.text_config.hidden_size
                heads = Head(config.audio_config.hidden_size, wide), Head(wide, wide)
                with torch.device("meta"):
                    text = transformers.AutoModel.from_config(config.text_config)
            what, path = f"{WHAT} ({name})", folder / WEIGHTS
            for module, part in zip((audio, *heads), _PARTS):
                load_strictly(module, under_prefix(state, part), f"{what} {part[:-1]}", path)
            check_fits(text, under_prefix(state, "text_model."), f"{what} text_model", path)
            scale, bias = (float(state[key].float().reshape(-1)[0]) if key in state else 0.0 for key in _PARTS[3:5])
            if not scale > 0:
                raise WeightsError(f"{what}: wanted a text_audio_logit_scale above 0 in {path}, got {scale:g}")
        return cls(audio, *heads, scale, bias, int(config.audio_config.dac_config.hop_length), folder, placed, name)

    def encode(self, window: AudioWindow) -> Tokens:
        """Audio tokens (T, 2 C) >= 0 on the grid (1, T), one every 40 ms, of a mono window at any sample rate."""
        check_samples(window.samples)
        samples = resample(window.samples, window.sample_rate, SAMPLE_RATE)
        if rest := -len(samples) % self._hop:
            samples = np.pad(samples, (0, rest), "reflect" if len(samples) > 1 else "edge")
        with torch.inference_mode():
            values = torch.from_numpy(np.array(samples, np.float32)).to(self.device)
            found = self._audio(input_values=values[None, None]).last_hidden_state[0].float()
        return Tokens(torch.cat([found.clamp_min(0), (-found).clamp_min(0)], -1), (1, len(found)))

    def project(self, values: Tensor) -> Tensor:
        """(..., 2 C) -> (..., D + 3); gradients flow through."""
        half = values.shape[-1] // 2
        found = self._audio_head((values[..., :half] - values[..., half:]).to(self.device, torch.float32)).to(values.device)
        one = torch.ones_like(found[..., :1])
        rest = (self._lengths[0] ** 2 - 1 - found.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()
        return torch.cat([found, one, torch.zeros_like(one), rest], -1)

    def encode_text(self, words: Sequence[str], batch: int = 32) -> Tensor:
        """(M, D + 3) vectors of the words, float32, all of one length. Texts are cut to 512 tokens."""
        if not words:
            raise ConfigError("encode_text: wanted at least one word, got none")
        self._text = self._text or _text_tower(self._folder, self.name, self.device)
        tower, tokenizer = self._text
        rows = []
        with torch.inference_mode():
            for start in range(0, len(words), batch):
                prompts = [self.prompt.format(word) for word in words[start : start + batch]]
                ids = tokenizer(prompts, padding=True, truncation=True, max_length=TEXT_LENGTH, return_tensors="pt")
                ids = {key: ids[key].to(self.device) for key in ("input_ids", "attention_mask")}
                hidden = tower(**ids, output_hidden_states=True).hidden_states[-1]
                rows.append(self._text_head(hidden[:, 0].float()))
        found = torch.cat(rows)
        return self._completed(torch.cat([found, torch.full_like(found[:, :1], self._offset)], -1))

    def encode_others(self, words: Sequence[str]) -> Tensor:
        """(1, D + 3): none of the words, whose log-odds are 0."""
        return self._completed(torch.zeros(1, self._text_head.proj.out_features + 1, device=self.device))

    def _completed(self, rows: Tensor) -> Tensor:
        rest = (self._lengths[1] ** 2 - rows.square().sum(-1, keepdim=True)).clamp_min(0).sqrt()
        return F.pad(torch.cat([rows, rest], -1), (0, 1))

    def release_text(self) -> None:
        """Let go of the text tower, two thirds of the model, until the next ``encode_text``."""
        self._text = None


def _ear(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of sound and words, under the names of the sound model."""
    state = read_state_dict(folder / WEIGHTS, f"{WHAT} ({name})")
    if name == "pe-audio":
        report_unused((key for key in state if not key.startswith(_PARTS)), WHAT)
        return state
    found = {key: value for key, value in state.items() if key.startswith("text_model.")}
    return found | under_prefix(state, _EAR)


def _config(folder: Path, name: str) -> Any:
    """The configuration of the sound model."""
    transformers = import_transformers()
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type != KINDS[name]:
            wanted = f"wanted model_type {KINDS[name]} in {folder / 'config.json'}"
            raise WeightsError(f"{WHAT} ({name}): {wanted}, got {config.model_type!r}")
        return config.audio_config if name == "pe-audio-video" else config
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _incomplete(folder, name, error) from None


def _text_tower(folder: Path, name: str, device: torch.device) -> tuple[Any, Any]:
    """The text tower with its weights, and the tokenizer."""
    transformers = import_transformers()
    with fetched_by(name):
        config, state = _config(folder, name), _ear(folder, name)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _incomplete(folder, name, error) from None
        with SkipInitialisation():
            text = transformers.AutoModel.from_config(config.text_config)
        load_strictly(text, under_prefix(state, "text_model."), f"{WHAT} ({name}) text_model", folder / WEIGHTS)
    return freeze(text, device), tokenizer


def _incomplete(folder: Path, name: str, error: Exception) -> WeightsError:
    got = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return WeightsError(
        f"{WHAT} ({name}): wanted whole configuration files in {folder}, got {got}; run `taco weights fetch {name}`"
    )
