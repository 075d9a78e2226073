"""SAM 3 (Carion et al. 2025) through ``transformers``: instances of a word in an image, which is encoded once.

The weights come in a folder as ``save_pretrained`` writes it, of the image model alone or, as the hub has it, with the video
tracker.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taco.backbones.checkpoint import SkipInitialisation, check_fits, fetched_by, freeze, read_state_dict, report_unused
from taco.backbones.device import resolve_device, resolve_precision
from taco.backbones.vendors import import_transformers
from taco.errors import ConfigError, MissingPackageError, WeightsError
from taco.segmentation.sam3_tracker import NECK, TRACKER, Sam3Tracker

log = logging.getLogger(__name__)
NAMES = {"sam3": "SAM 3", "sam3_lite_text": "SAM 3 with a light text tower"}  # of models.segmenter and of the weights
WEIGHTS = "model.safetensors"
KINDS = {"sam3": ("sam3", "sam3_video"), "sam3_lite_text": ("sam3_lite_text",)}  # model_type in config.json
WORD_TOKENS = 32  # of a prompt, with its two ends: what SAM 3 was trained with
KEPT_WORDS = 1024  # whose vectors stay in memory, 32 kB each; ours
_DETECTOR = "detector_model."
_TEXT = "text_encoder."


@dataclass(frozen=True, slots=True)
class Instances:
    """What SAM 3 finds of a word in an image.

    presence: in [0, 1], that the word is in the image at all.
    scores: (Q,) in [0, 1], each the product of an instance's own probability and the presence, as SAM 3's.
    masks: (Q, h, w) float32 probabilities of the whole image on the network's own grid.
    """

    presence: float
    scores: Tensor
    masks: Tensor


class Sam3Network:
    """A frozen SAM 3. Build it with ``from_folder``.

    model: ``Sam3Model`` or ``Sam3LiteTextModel``.
    processor: ``Sam3Processor`` with its image processor and tokenizer.
    dtype: of the whole network; masks and scores are float32.
    tracker: None where it was not asked for.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        name: str = "sam3",
        tracker: Sam3Tracker | None = None,
    ):
        self.tracker = tracker
        self.name, self.device, self.dtype = name, device, dtype
        self.model: Any = freeze(model, device, dtype)
        self._processor = processor
        self._prompt = lru_cache(maxsize=KEPT_WORDS)(self._encode_word)

    @classmethod
    def from_folder(
        cls, folder: str | Path, name: str = "sam3", device: str = "auto", precision: str = "auto", track: bool = False
    ) -> Sam3Network:
        """Load a folder with config.json, model.safetensors, processor and tokenizer files; WeightsError says what is wrong.

        track: load the tracker too; ConfigError where the weights have none.
        """
        placed = resolve_device(device)
        dtype = resolve_precision(precision, placed)
        transformers = import_transformers()
        if not hasattr(transformers, "Sam3Model"):
            raise MissingPackageError(
                f"{NAMES[name]}: wanted transformers 5.18 or newer, got {transformers.__version__}; "
                "run `pip install -U transformers`"
            )
        folder = Path(folder).expanduser()
        with fetched_by(name):
            state = read_state_dict(folder / WEIGHTS, NAMES[name])
            config, model, processor = _build(transformers, folder, name)
            own = _own_tensors(state, model.state_dict(), NAMES[name])
            check_fits(model, own, NAMES[name], folder / WEIGHTS)
            model.load_state_dict(own, assign=True)  # mapped from the file: a copy would take 3.4 GB more
            tracker = Sam3Tracker.from_state(config, state, folder / WEIGHTS, placed, dtype) if track else None
        return cls(model, processor, placed, dtype, name, tracker)

    @torch.inference_mode()
    def encode(self, rgb: np.ndarray) -> Any:
        """(H, W, 3) uint8 -> the image's features, which serve any number of words."""
        pixels = self._processor.image_processor(images=rgb, return_tensors="pt")["pixel_values"]
        return self.model.get_vision_features(pixels.to(self.device, self.dtype))

    @torch.inference_mode()
    def find(self, image: Any, word: str) -> Instances:
        """The instances of a word; image: of ``encode``."""
        vectors, mask = self._prompt(word)
        found = self.model(vision_embeds=image, text_embeds=vectors, attention_mask=mask)
        presence = found.presence_logits[0].float().sigmoid()
        return Instances(
            float(presence), found.pred_logits[0].float().sigmoid() * presence, found.pred_masks[0].float().sigmoid()
        )

    def _encode_word(self, word: str) -> tuple[Any, Tensor]:
        """The text tower's output and which of its tokens count."""
        if not word.strip():
            raise ConfigError(f"{NAMES[self.name]}: wanted a word as prompt, got an empty one")
        ids = self._processor.tokenizer([word])["input_ids"][0]
        if len(ids) > WORD_TOKENS:
            log.warning("%s: of %r its first %d of %d tokens count", NAMES[self.name], word[:80], WORD_TOKENS - 2, len(ids) - 2)
        padded = self._processor.tokenizer(
            [word], padding="max_length", truncation=True, max_length=WORD_TOKENS, return_tensors="pt"
        ).to(self.device)
        mask: Tensor = padded["attention_mask"]
        return self.model.get_text_features(padded["input_ids"], attention_mask=mask), mask


def _build(transformers: Any, folder: Path, name: str) -> tuple[Any, Any, Any]:
    """The configuration, the network without its weights, and its processor."""
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        if config.model_type not in KINDS[name]:
            wanted = f"wanted model_type {' or '.join(KINDS[name])} in {folder / 'config.json'}"
            raise WeightsError(f"{NAMES[name]}: {wanted}, got {config.model_type!r}")
        with SkipInitialisation():
            model = transformers.AutoModel.from_config(getattr(config, "detector_config", config))
        return config, model, transformers.Sam3Processor.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{NAMES[name]}: wanted whole configuration files in {folder}, got {str(error).strip().splitlines()[0][:200]}; "
            f"run `taco weights fetch {name}`"
        ) from None


def _own_tensors(state: Mapping[str, Tensor], own: Mapping[str, Tensor], what: str) -> dict[str, Tensor]:
    """The image model's tensors under its own names, which differ where a tracker is in the file, and in the text tower."""
    names = {key.removeprefix(_DETECTOR): key for key in state if not key.startswith((TRACKER, NECK))}
    found: dict[str, Tensor] = {}
    for key in own:
        other = (
            key.replace(f"{_TEXT}text_model.", _TEXT)
            if f"{_TEXT}text_model." in key
            else key.replace(_TEXT, f"{_TEXT}text_model.")
        )
        source = names.pop(key, None) or names.pop(other, None)
        if source is not None:
            found[key] = state[source]
    report_unused(names.values(), what)
    return found
