"""MSCLAP 2023: HTS-AT sound tokens and GPT-2 word vectors in one space."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from taco.audio import resample
from taco.backbones import htsat
from taco.backbones.checkpoint import (
    FETCH,
    SkipInitialisation,
    check_fits,
    freeze,
    load_strictly,
    read_state_dict,
    report_unused,
    under_prefix,
)
from taco.backbones.device import resolve_device
from taco.backbones.engine_export import IN_TORCH, Runtime
from taco.backbones.onnx_export import Example
from taco.backbones.vendors import import_transformers
from taco.errors import ConfigError, MissingPackageError, WeightsError
from taco.types import AudioWindow, Tokens

WHAT = "MSCLAP 2023"
SAMPLE_RATE = 44_100
SECONDS = 7  # of sound that the model takes
HOP = 320  # samples
TEXT_LENGTH = 77  # tokens
END = "<|endoftext|>"
PAD = "!"  # id 0: CLAP's choice
# Names of GPT-2's vocabulary and merges: Hugging Face's, OpenAI's.
TOKENIZER_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_HTSAT, _GPT2 = "audio_encoder.base.htsat.", "caption_encoder.base."
_MEL = _HTSAT + "logmel_extractor.melW"
_MASKS = re.compile(r"\.attn\.(masked_)?bias$")  # GPT-2's causal mask, saved as numbers


class Projection(nn.Module):
    """LayerNorm(l1 x + l2 gelu(l1 x)): from a tower's space to the shared one."""

    def __init__(self, wide: int, out: int):
        super().__init__()
        self.linear1 = nn.Linear(wide, out, bias=False)
        self.linear2 = nn.Linear(out, out, bias=False)
        self.layer_norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        """(..., wide) -> (..., out)."""
        first = self.linear1(x)
        out: Tensor = self.layer_norm(first + self.linear2(F.gelu(first)))
        return out


class MSCLAPAudioEncoder:
    """A frozen CLAP. Build it with ``from_checkpoint``.

    Its tokens are HTS-AT's last map before pooling, 2 frequency x 32 time, 768 wide. A sound is resampled to 44.1 kHz and
    repeated to 7 s; of a longer one the newest 7 s are taken. All is float32: the towers are small, and decibels need the digits.
    load_text: gives the text tower and its projection when words are encoded (``release_text``).
    prompt: template of the word prompts.
    runtime: what runs the sound tower; ``run`` is the tower in it.
    """

    def __init__(
        self,
        audio: nn.Module,
        audio_projection: nn.Module,
        mel: Tensor,
        logit_scale: float,
        *,
        load_text: Callable[[], tuple[nn.Module, nn.Module]],
        tokenizer: GPT2Tokenizer | Path | None = None,
        device: str | torch.device = "cpu",
        prompt: str = "This is a sound of {}",
        checkpoint: Path | None = None,
        name: str = "msclap-2023",
        runtime: Runtime = IN_TORCH,
    ):
        self.name, self.prompt, self.checkpoint = name, prompt, checkpoint
        self.device = resolve_device(str(device))
        self.audio_projection = freeze(audio_projection, self.device)
        self._load_text = load_text
        self._text: tuple[nn.Module, nn.Module] | None = None
        self.mel = mel.to(self.device, torch.float32)
        frames = SAMPLE_RATE * SECONDS // HOP + 1
        example = Example((torch.zeros(1, 1, frames, self.mel.shape[1], device=self.device),), names=("log_mel",), fixed=True)
        self.run = runtime.network(htsat.SoundTower(freeze(audio, self.device)), name, ("map",), example)
        self.logit_scale = float(logit_scale)
        self._tokenizer = tokenizer

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str = "cpu",
        tokenizer: str | Path | None = None,
        *,
        prompt: str = "This is a sound of {}",
        runtime: Runtime = IN_TORCH,
    ) -> MSCLAPAudioEncoder:
        """Load ``CLAP_weights_2023.pth``. The text tower is checked, and loaded when words are encoded.

        tokenizer: folder with GPT-2's vocab.json and merges.txt; None looks beside the checkpoint, or in
        gpt2/ there. Only needed when words are encoded. Raises WeightsError, DeviceError, MissingPackageError.
        """
        placed = resolve_device(device)
        state = _read(path)
        with SkipInitialisation():
            audio = import_transformers().ClapAudioModel(_audio_config(state))
        load_strictly(audio, htsat.clap_audio_state(under_prefix(state, _HTSAT)), f"{WHAT} sound tower", path)
        projection = _projection(state, "audio_encoder.projection.", path)
        _text_towers(state, path, load=False)
        beside = Path(path).expanduser().parent
        report_unused((key for key in state if not key.startswith(_KNOWN)), WHAT)
        return cls(
            audio,
            projection,
            state[_MEL].clone(),
            float(state["logit_scale"].float().exp()),
            load_text=partial(_load_text, path),
            tokenizer=Path(tokenizer) if tokenizer else beside / "gpt2" if (beside / "gpt2").is_dir() else beside,
            device=placed,
            prompt=prompt,
            checkpoint=Path(path).expanduser(),
            runtime=runtime,
        )

    def front_end(self, window: AudioWindow) -> Tensor:
        """(1, 1, 965, 64) log-mel in dB of the window, repeated to 7 s."""
        htsat.check_samples(window.samples)
        samples = resample(window.samples, window.sample_rate, SAMPLE_RATE)
        repeated = torch.from_numpy(np.array(htsat.fit_length(samples, SAMPLE_RATE * SECONDS))).to(self.device)
        return htsat.log_mel(repeated[None], self.mel, HOP)

    def encode(self, window: AudioWindow) -> Tokens:
        """Audio tokens (64, 768) on the grid (2 frequency, 32 time) of a mono window at any sample rate."""
        with torch.inference_mode():
            values, grid = htsat.tokens_of_map(self.run(self.front_end(window))["map"])
        times = htsat.times_in_window(len(window.samples) / window.sample_rate, SECONDS, grid[1])
        return Tokens(values.clone(), grid, times)  # outside inference mode: a solver may differentiate through it

    def project(self, values: Tensor) -> Tensor:
        """(..., 768) -> (..., 1024), CLAP's frozen projection; gradients flow through, for the solver that needs them."""
        weight = next(self.audio_projection.parameters())
        projected: Tensor = self.audio_projection(values.to(weight.device, weight.dtype)).to(values.device)
        return projected

    def encode_text(self, words: Sequence[str], batch: int = 32) -> Tensor:
        """(M, 1024) vectors of the prompted words, float32, not normalised. Texts are cut to 77 tokens."""
        if not words:
            raise ConfigError("encode_text: wanted at least one word, got none")
        if not isinstance(self._tokenizer, GPT2Tokenizer):
            self._tokenizer = GPT2Tokenizer(self._tokenizer or ".", TEXT_LENGTH)
        if self._text is None:
            text, projection = self._load_text()
            self._text = freeze(text, self.device), freeze(projection, self.device)
        texts = [f"{self.prompt.format(word)} {END}" for word in words]
        with torch.inference_mode():
            pieces = [self._tokenizer(texts[start : start + batch]) for start in range(0, len(texts), batch)]
            rows = torch.cat([_text_vectors(ids.to(self.device), *self._text) for ids in pieces])
        return rows.clone()

    def release_text(self) -> None:
        """Let go of the text tower until the next ``encode_text``."""
        self._text = None


def _text_vectors(ids: Tensor, text: nn.Module, projection: nn.Module) -> Tensor:
    """(M, length) token ids -> (M, 1024)."""
    # The last token by the number of non-zero ids, as CLAP was trained; the mask is causal, so padding has no effect.
    last = (ids != 0).sum(1) - 1
    hidden = text(input_ids=ids[:, : int(last.max()) + 1]).last_hidden_state
    vectors: Tensor = projection(hidden[torch.arange(len(ids), device=ids.device), last])
    return vectors


_KNOWN = (_HTSAT, _GPT2, "audio_encoder.projection.", "caption_encoder.projection.", "logit_scale")


def _read(path: str | Path) -> dict[str, Tensor]:
    state = read_state_dict(path, WHAT, wrappers=("model", "state_dict"))
    needed = (_MEL, "logit_scale", _HTSAT + "patch_embed.proj.weight", _GPT2 + "wte.weight")
    missing = [key for key in needed if key not in state]
    if missing:
        found = ", ".join(list(state)[:3])
        raise WeightsError(f"{WHAT}: wanted {missing[0]} in {path}, got {len(state)} other tensors ({found} ...); {FETCH}")
    return state


def _projection(state: Mapping[str, Tensor], prefix: str, path: str | Path) -> Projection:
    weights = under_prefix(state, prefix)
    shape = weights["linear1.weight"].shape if "linear1.weight" in weights else (1024, 768)
    projection = Projection(shape[1], shape[0])
    load_strictly(projection, weights, f"{WHAT} {prefix[:-1]}", path)
    return projection


def _audio_config(state: Mapping[str, Tensor]) -> Any:
    """Of a sound tower of the checkpoint's size."""
    width = state[_HTSAT + "patch_embed.proj.weight"].shape[0]
    depths = []
    for layer in range(len({key.split(".")[4] for key in state if key.startswith(_HTSAT + "layers.")})):
        prefix = f"{_HTSAT}layers.{layer}.blocks."
        depths.append(len({key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}))
    return import_transformers().ClapAudioConfig(
        patch_embeds_hidden_size=width, depths=depths or [2, 2, 6, 2], hidden_size=width * 8, num_mel_bins=state[_MEL].shape[1]
    )


def _load_text(path: str | Path) -> tuple[nn.Module, nn.Module]:
    return _text_towers(_read(path), path)


def _text_towers(state: Mapping[str, Tensor], path: str | Path, load: bool = True) -> tuple[nn.Module, nn.Module]:
    """The text tower and its projection. load: else the tower is only checked, and takes no memory."""
    vocabulary, hidden = state[_GPT2 + "wte.weight"].shape
    positions = state[_GPT2 + "wpe.weight"].shape[0] if _GPT2 + "wpe.weight" in state else 1024
    blocks = len({key.split(".")[3] for key in state if key.startswith(_GPT2 + "h.")})
    transformers = import_transformers()
    config = transformers.GPT2Config(
        vocab_size=vocabulary, n_positions=positions, n_embd=hidden, n_layer=blocks, n_head=max(1, hidden // 64), use_cache=False
    )
    with SkipInitialisation(), torch.device("cpu" if load else "meta"):
        text: nn.Module = transformers.GPT2Model(config)
    words = {key: value for key, value in under_prefix(state, _GPT2).items() if not _MASKS.search(key)}
    (load_strictly if load else check_fits)(text, words, f"{WHAT} text tower", path)
    return text, _projection(state, "caption_encoder.projection.", path)


class GPT2Tokenizer:
    """Text -> token ids by GPT-2's byte-level BPE, padded as CLAP's text tower expects.

    folder: holds vocab.json and merges.txt, or encoder.json and vocab.bpe (the same under OpenAI's names), or tokenizer.json.
    length: texts are cut and padded to this many tokens.
    """

    def __init__(self, folder: str | Path, length: int = 77):
        folder = Path(folder).expanduser()
        pair = next((pair for pair in TOKENIZER_FILES if all((folder / name).is_file() for name in pair)), ())
        whole = folder / "tokenizer.json"
        if not pair and not whole.is_file():
            raise WeightsError(
                f"GPT-2 tokenizer: wanted vocab.json and merges.txt in {folder}, not found; run `taco weights fetch gpt2`"
            )
        try:
            from tokenizers import Tokenizer, models, pre_tokenizers
        except ModuleNotFoundError:
            raise MissingPackageError("tokenizers: not installed; run `pip install transformers`") from None
        try:
            if pair:
                self._tokenizer = Tokenizer(models.BPE.from_file(*(str(folder / name) for name in pair)))
                self._tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            else:
                self._tokenizer = Tokenizer.from_file(str(whole))
        except Exception as error:  # the vendor raises plain Exception on files it can't read
            names = " or ".join(pair or (whole.name,))
            raise WeightsError(
                f"GPT-2 tokenizer: wanted {names} in {folder} whole, got {error}; delete them and run `taco weights fetch gpt2`"
            ) from None
        self._tokenizer.add_special_tokens([END, PAD])
        self._tokenizer.enable_truncation(length)
        self._tokenizer.enable_padding(pad_id=0, pad_token=PAD, length=length)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(M, length) int64 ids, 0 behind the end."""
        return torch.tensor([encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))], dtype=torch.long)
