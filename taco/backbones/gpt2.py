"""GPT-2's byte-level BPE from its two files, padded as CLAP's text tower expects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from taco.errors import MissingPackageError, WeightsError

END = "<|endoftext|>"
PAD = "!"  # id 0: CLAP's choice
FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))


class GPT2Tokenizer:
    """Text -> token ids.

    folder: holds vocab.json and merges.txt, or encoder.json and vocab.bpe (the same files under
    OpenAI's names), or tokenizer.json. length: texts are cut and padded to this many tokens.
    """

    def __init__(self, folder: str | Path, length: int = 77):
        folder = Path(folder).expanduser()
        pair = next((pair for pair in FILES if all((folder / name).is_file() for name in pair)), ())
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
