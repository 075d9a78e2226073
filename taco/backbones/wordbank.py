"""The word bank: which words are listened for, and their anchors in both spaces (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from taco.backbones.base import Backbones
from taco.errors import ConfigError
from taco.types import Anchors


def resolve_words(words: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """The words of a list, or of one text file with a word a line (empty lines and # comments are left out).

    An empty list gives ``default``. Order is kept, repeats are dropped.
    """
    words = [words] if isinstance(words, str) else list(words)
    if len(words) == 1 and (words[0].endswith(".txt") or Path(words[0]).is_file()):
        try:
            lines = Path(words[0]).expanduser().read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"models.word_bank: wanted a text file with a word a line, got {words[0]}: {error}") from None
        words = [line for line in lines if not line.lstrip().startswith("#")]
        if not any(line.strip() for line in words):
            raise ConfigError("models.word_bank: wanted at least one word in the file, got an empty one")
    cleaned = dict.fromkeys(" ".join(str(word).split()) for word in (words or default))
    cleaned.pop("", None)
    if not cleaned:
        raise ConfigError("models.word_bank: wanted at least one word, got none")
    return tuple(cleaned)


def build_anchors(backbones: Backbones, words: Sequence[str] = ()) -> Anchors:
    """Anchors of ``words`` (see resolve_words) in the spaces of both encoders."""
    bank = resolve_words(words, backbones.words)
    image, audio = backbones.image, backbones.audio
    return Anchors(bank, image.encode_text(bank), audio.encode_text(bank), audio.project, float(audio.logit_scale))
