"""The word bank: the words to find, and their anchors in both spaces (paper section 3.3)."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from taco.backbones.base import AudioEncoder, Backbones, ImageEncoder
from taco.errors import ConfigError
from taco.package_files import cache_dir
from taco.types import Anchors
from taco.weights.checksums import file_sha256

log = logging.getLogger(__name__)
FORMAT = 1  # of the cache: to be raised when the vectors of the same words change


def resolve_words(words: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """The words of a list, or of one text file with a word per line, without empty lines and # comments.

    An empty list gives ``default``. The order is kept, repeats are dropped.
    """
    words = [words] if isinstance(words, str) else list(words)
    if len(words) == 1 and _is_path(words[0]):
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


def _is_path(word: str) -> bool:
    """Only a word that looks like a path is read as a file: a file "dog" in the working folder is no word bank."""
    looks_like_one = "/" in word or bool(Path(word).suffix)
    return word.endswith(".txt") or (looks_like_one and Path(word).expanduser().is_file())


def build_anchors(backbones: Backbones, words: Sequence[str] = ()) -> Anchors:
    """Anchors of ``words`` (see resolve_words) in the spaces of both encoders.

    Word vectors of encoders with a weights file (``checkpoint``) and a ``prompt`` are kept in the cache. Closed-vocabulary
    encoders have ``encode_others`` and ``encode_kinds``, and image encoders of that kind no ``logit_scale``.
    """
    bank = resolve_words(words, backbones.words)
    image, audio = backbones.image, backbones.audio
    scale = getattr(image, "logit_scale", None)
    return Anchors(
        bank,
        text_vectors(image, bank),
        text_vectors(audio, bank),
        audio.project,
        float(audio.logit_scale),
        None if scale is None else float(scale),
        image.encode_others(bank) if hasattr(image, "encode_others") else None,
        audio.encode_others(bank) if hasattr(audio, "encode_others") else None,
        image.encode_kinds(bank) if hasattr(image, "encode_kinds") else None,
    )


def text_vectors(encoder: ImageEncoder | AudioEncoder, words: tuple[str, ...]) -> Tensor:
    """(M, D) float32 vectors of the words, from the cache where it has them."""
    path = _cache_file(encoder, words)
    if path is None:
        return encoder.encode_text(words)
    found = _read(path, len(words))
    if found is None:
        if len(words) > 64:
            log.info(
                "computing the vectors of %d words with %s, once; later starts read them from the cache ...",
                len(words),
                encoder.name,
            )
        found = encoder.encode_text(words).float().cpu()
        _write(path, found)
    return found.to(getattr(encoder, "device", "cpu"))


def _cache_file(encoder: ImageEncoder | AudioEncoder, words: tuple[str, ...]) -> Path | None:
    """Named by model, hash of the weights, prompt and words; None for encoders without a weights file."""
    checkpoint, prompt = getattr(encoder, "checkpoint", None), getattr(encoder, "prompt", None)
    if checkpoint is None or prompt is None or not Path(checkpoint).is_file():
        return None
    key = json.dumps([FORMAT, encoder.name, file_sha256(Path(checkpoint)), prompt, words])
    return cache_dir() / "anchors" / f"{encoder.name}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.npy"


def _read(path: Path, count: int) -> Tensor | None:
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    good = values.ndim == 2 and values.dtype == np.float32 and len(values) == count and np.isfinite(values).all()
    return torch.from_numpy(values) if good else None


def _write(path: Path, values: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as out:
            np.save(out, values.numpy())
        os.replace(out.name, path)
    except OSError as error:
        log.warning("the vectors of the words are not kept: %s cannot be written, %s", path.parent, error.strerror)
