"""LAION CLAP, the alternative to MSCLAP, from a folder in ``transformers``' layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taco.audio import resample
from taco.backbones import htsat
from taco.backbones.checkpoint import SkipInitialisation, freeze, load_strictly, read_state_dict
from taco.backbones.device import resolve_device
from taco.backbones.vendors import import_transformers
from taco.errors import ConfigError, WeightsError
from taco.types import AudioWindow, Tokens

WHAT = "LAION CLAP"
_FETCH = "run `taco weights fetch laion-clap`"


class LAIONCLAPAudioEncoder:
    """A frozen ``ClapModel``: HTS-AT tokens (64, 768), words through RoBERTa, both brought to 512.

    A sound is resampled to the extractor's rate (48 kHz) and repeated to its length (10 s); of a longer
    one the newest part is taken, never a random crop.
    """

    name = "laion-clap"

    model: Any  # as are extractor and tokenizer: the classes of transformers differ between its versions

    def __init__(
        self,
        model: nn.Module,
        extractor: Any,
        tokenizer: Any,
        *,
        device: str | torch.device = "cpu",
        prompt: str = "This is a sound of {}",
        checkpoint: Path | None = None,
    ):
        self.prompt, self.checkpoint = prompt, checkpoint
        self.device = resolve_device(str(device))
        self.model = freeze(model, self.device)
        self.logit_scale = float(self.model.logit_scale_a.detach().float().exp())
        self._extractor, self._tokenizer = extractor, tokenizer

    @classmethod
    def from_checkpoint(
        cls, folder: str | Path, device: str = "cpu", *, prompt: str = "This is a sound of {}"
    ) -> LAIONCLAPAudioEncoder:
        """Load a folder with config.json, weights, extractor and tokenizer files; WeightsError names what is wrong."""
        placed = resolve_device(device)
        folder = Path(folder).expanduser()
        transformers = import_transformers()
        weights = next((folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()), None)
        if weights is None:
            raise WeightsError(f"{WHAT}: wanted model.safetensors or pytorch_model.bin in {folder}, found neither; {_FETCH}")
        state = {
            key: value for key, value in read_state_dict(weights, WHAT).items() if not key.endswith("embeddings.position_ids")
        }
        try:
            config = transformers.ClapConfig.from_pretrained(folder, local_files_only=True)
            with SkipInitialisation():
                model = transformers.ClapModel(config)
            extractor = transformers.ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{WHAT}: wanted whole configuration files in {folder}, got {str(error).splitlines()[0]}; {_FETCH}"
            ) from None
        own = model.state_dict()
        for key in own.keys() - state.keys():  # buffers that newer versions keep and older files lack
            if key.endswith(("position_ids", "token_type_ids", "relative_position_index")):
                state[key] = own[key]
        load_strictly(model, state, WHAT, weights)
        return cls(model, extractor, tokenizer, device=placed, prompt=prompt, checkpoint=weights)

    def encode(self, window: AudioWindow) -> Tokens:
        """Audio tokens (64, 768) on the grid (2 frequency, 32 time) of a mono window at any sample rate."""
        htsat.check_samples(window.samples)
        rate = self._extractor.sampling_rate
        samples = resample(window.samples, window.sample_rate, rate)
        samples = htsat.fit_length(samples, self._extractor.nb_max_samples)
        features = self._extractor(samples, sampling_rate=rate, truncation="rand_trunc", padding="repeatpad", return_tensors="pt")
        with torch.inference_mode():
            mel = features["input_features"].to(self.device)
            values, grid = htsat.tokens_of_map(self.model.audio_model(input_features=mel).last_hidden_state)
        tiled_s = self._extractor.nb_max_samples / rate
        return Tokens(values.clone(), grid, htsat.times_in_window(len(window.samples) / window.sample_rate, tiled_s, grid[1]))

    def project(self, values: Tensor) -> Tensor:
        """(..., 768) -> (..., 512), CLAP's frozen projection; gradients flow through."""
        projected: Tensor = self.model.audio_projection(values.to(self.device, torch.float32)).to(values.device)
        return projected

    def encode_text(self, words: Sequence[str], batch: int = 32) -> Tensor:
        """(M, 512) vectors of the prompted words, float32, not normalised."""
        if not words:
            raise ConfigError("encode_text: wanted at least one word, got none")
        prompts = [self.prompt.format(word) for word in words]
        rows = []
        with torch.inference_mode():
            for start in range(0, len(prompts), batch):
                ids = self._tokenizer(
                    prompts[start : start + batch], padding=True, truncation=True, max_length=77, return_tensors="pt"
                )
                found = self.model.text_model(
                    ids["input_ids"].to(self.device), attention_mask=ids["attention_mask"].to(self.device)
                )
                rows.append(self.model.text_projection(found.pooler_output))
        return torch.cat(rows).clone()
