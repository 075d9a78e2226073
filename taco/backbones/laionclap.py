"""LAION CLAP, the alternative to MSCLAP, from a folder in ``transformers``' layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taco.audio import resample
from taco.backbones import htsat
from taco.backbones.checkpoint import SkipInitialisation, check_fits, freeze, load_strictly, read_state_dict, under_prefix
from taco.backbones.device import resolve_device
from taco.backbones.engine_export import IN_TORCH, Runtime
from taco.backbones.onnx_export import Example
from taco.backbones.vendors import import_transformers
from taco.errors import ConfigError, WeightsError
from taco.types import AudioWindow, Tokens

WHAT = "LAION CLAP"
_FETCH = "run `taco weights fetch laion-clap`"


class LAIONCLAPAudioEncoder:
    """A frozen ``ClapModel``: HTS-AT tokens (64, 768), words through RoBERTa, both brought to 512.

    A sound is resampled to the extractor's rate (48 kHz) and repeated to its length (10 s); of a longer
    one the newest part is taken, never a random crop.
    audio, projection: the sound tower and what brings it to the words' space.
    load_text: gives a ``ClapModel`` with its text tower when words are encoded (``release_text``).
    runtime: what runs the sound tower; ``run`` is the tower in it.
    """

    name = "laion-clap"

    def __init__(
        self,
        audio: nn.Module,
        projection: nn.Module,
        logit_scale: float,
        extractor: Any,
        tokenizer: Any,
        *,
        load_text: Callable[[], nn.Module],
        device: str | torch.device = "cpu",
        prompt: str = "This is a sound of {}",
        checkpoint: Path | None = None,
        runtime: Runtime = IN_TORCH,
    ):
        self.prompt, self.checkpoint = prompt, checkpoint
        self.device = resolve_device(str(device))
        self.projection, self.logit_scale = freeze(projection, self.device), logit_scale
        self._extractor, self._tokenizer = extractor, tokenizer
        self._load_text: Callable[[], Any] = load_text
        self._text: Any = None  # the classes of transformers differ between its versions
        size = extractor.nb_max_samples // extractor.hop_length + 1, extractor.feature_size
        example = Example((torch.zeros(1, 1, *size, device=self.device),), names=("log_mel",), fixed=True)
        self.run = runtime.network(htsat.SoundTower(freeze(audio, self.device)), self.name, ("map",), example)

    @classmethod
    def from_checkpoint(
        cls, folder: str | Path, device: str = "cpu", *, prompt: str = "This is a sound of {}", runtime: Runtime = IN_TORCH
    ) -> LAIONCLAPAudioEncoder:
        """Load a folder with config.json, weights, extractor and tokenizer files; WeightsError names what is wrong.

        The text tower is checked, and loaded when words are encoded.
        """
        placed = resolve_device(device)
        folder = Path(folder).expanduser()
        transformers = import_transformers()
        weights = next((folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()), None)
        if weights is None:
            raise WeightsError(f"{WHAT}: wanted model.safetensors or pytorch_model.bin in {folder}, found neither; {_FETCH}")
        try:
            extractor = transformers.ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = _load(folder, weights, text=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WeightsError(
                f"{WHAT}: wanted whole configuration files in {folder}, got {str(error).splitlines()[0]}; {_FETCH}"
            ) from None
        return cls(
            model.audio_model,
            model.audio_projection,
            float(model.logit_scale_a.detach().float().exp()),
            extractor,
            tokenizer,
            load_text=partial(_load, folder, weights, text=True),
            device=placed,
            prompt=prompt,
            checkpoint=weights,
            runtime=runtime,
        )

    def encode(self, window: AudioWindow) -> Tokens:
        """Audio tokens (64, 768) on the grid (2 frequency, 32 time) of a mono window at any sample rate."""
        htsat.check_samples(window.samples)
        rate = self._extractor.sampling_rate
        samples = resample(window.samples, window.sample_rate, rate)
        samples = htsat.fit_length(samples, self._extractor.nb_max_samples)
        features = self._extractor(samples, sampling_rate=rate, truncation="rand_trunc", padding="repeatpad", return_tensors="pt")
        with torch.inference_mode():
            mel = features["input_features"].to(self.device)
            values, grid = htsat.tokens_of_map(self.run(mel)["map"])
        tiled_s = self._extractor.nb_max_samples / rate
        return Tokens(values.clone(), grid, htsat.times_in_window(len(window.samples) / window.sample_rate, tiled_s, grid[1]))

    def project(self, values: Tensor) -> Tensor:
        """(..., 768) -> (..., 512), CLAP's frozen projection; gradients flow through."""
        projected: Tensor = self.projection(values.to(self.device, torch.float32)).to(values.device)
        return projected

    def encode_text(self, words: Sequence[str], batch: int = 32) -> Tensor:
        """(M, 512) vectors of the prompted words, float32, not normalised. Texts are cut to 77 tokens."""
        if not words:
            raise ConfigError("encode_text: wanted at least one word, got none")
        model = self._text = self._text or freeze(self._load_text(), self.device)
        prompts = [self.prompt.format(word) for word in words]
        rows = []
        with torch.inference_mode():
            for start in range(0, len(prompts), batch):
                ids = self._tokenizer(
                    prompts[start : start + batch], padding=True, truncation=True, max_length=77, return_tensors="pt"
                )
                found = model.text_model(ids["input_ids"].to(self.device), attention_mask=ids["attention_mask"].to(self.device))
                rows.append(model.text_projection(found.pooler_output))
        return torch.cat(rows).clone()

    def release_text(self) -> None:
        """Let go of the text tower until the next ``encode_text``."""
        self._text = None


def _load(folder: Path, weights: Path, *, text: bool) -> Any:
    """A ``ClapModel`` with one of its towers, of a file whose every tensor is checked by name and shape."""
    transformers = import_transformers()
    state = {key: value for key, value in read_state_dict(weights, WHAT).items() if not key.endswith("embeddings.position_ids")}
    config = transformers.ClapConfig.from_pretrained(folder, local_files_only=True)
    with SkipInitialisation():
        model = transformers.ClapModel(config)
    own = model.state_dict()
    for key in own.keys() - state.keys():  # buffers that newer versions keep and older files lack
        if key.endswith(("position_ids", "token_type_ids", "relative_position_index")):
            state[key] = own[key]
    check_fits(model, state, WHAT, weights)
    with torch.no_grad():
        model.logit_scale_a.copy_(state["logit_scale_a"])
    kept, dropped = ("text", "audio") if text else ("audio", "text")
    for part in ("model", "projection"):
        load_strictly(getattr(model, f"{kept}_{part}"), under_prefix(state, f"{kept}_{part}."), WHAT, weights)
        setattr(model, f"{dropped}_{part}", nn.Identity())
    return model
