"""The word bank: the words to find, and their anchors in both spaces (paper section 3.3)."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from taco.backbones.base import AudioEncoder, Backbones, ImageEncoder
from taco.backbones.device import release_memory
from taco.errors import ConfigError
from taco.package_files import cache_dir, write_whole
from taco.progress import progress
from taco.types import Anchors
from taco.weights.checksums import file_sha256

log = logging.getLogger(__name__)
AT_A_TIME = 64  # words; ours, as many as the largest encoder takes in one batch
WORD_FILE_BYTES = 1_000_000  # ours: 50,000 words of 20 bytes
WORD_LENGTH = 80  # characters; ours: twice AudioSet's longest name
NO_WORD = re.compile(r"""[^\w\s,.'’"()&/+!?-]""")  # ours; AudioSet's names have letters, spaces and , ' ( ) & - alone
# From which share of the way between what a word has in common with any name (0) and the word itself (1) a name means the word:
# halfway, ours. With a general text encoder (all-MiniLM-L6-v2) puppy and Dog have .76, dog and Bark .41, kettle and Whistle .38.
NEAR = 0.5
FORMAT = 1  # of the cache: to be raised when the vectors of the same words change


def resolve_words(words: Sequence[str], default: Sequence[str]) -> tuple[str, ...]:
    """The words of a list, or of one text file with a word per line, without empty lines and # comments.

    An empty list gives ``default``. The order is kept, repeats are dropped.
    """
    words = [words] if isinstance(words, str) else list(words)
    if path := word_file(words):
        words = read_words(path)
    cleaned = dict.fromkeys(" ".join(str(word).split()) for word in (words or default))
    cleaned.pop("", None)
    if not cleaned:
        raise ConfigError("models.word_bank: wanted at least one word, got none")
    return tuple(cleaned)


def named_like_file(word: str) -> bool:
    """Whether a word has a slash or a suffix: a file "dog" in the working folder is no word bank."""
    return "/" in word or word.endswith(".txt") or re.fullmatch(r"\S+\.\w+", word) is not None


def word_file(words: Sequence[str]) -> Path | None:
    """The file that a list of one path stands for: named *.txt, or named like a file and there; None for words."""
    if len(words) != 1 or not named_like_file(words[0]):
        return None
    path = Path(words[0])
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # no home, a name too long, a zero byte
        path = path.expanduser()
        return path if path.suffix == ".txt" or path.exists() else None
    return None


def read_words(path: Path) -> list[str]:
    """The lines of a text file of words, without # comments. ConfigError says which line is no word, not what it holds."""
    wanted = "models.word_bank: wanted a text file with a word a line"
    try:
        # O_NONBLOCK: a pipe would wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise ConfigError(f"{wanted}, got a pipe or a device: {path}")
            data = stream.read(WORD_FILE_BYTES + 1)
        if len(data) > WORD_FILE_BYTES:
            raise ConfigError(f"{wanted}, at most {WORD_FILE_BYTES / 1e6:g} MB, got a larger one: {path}")
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{wanted}, got one that is not UTF-8: {path}") from None
    except OSError as error:
        raise ConfigError(f"{wanted}, got {str(path)[:200]}: {error.strerror}") from None
    words = [line.strip() for line in lines]
    for number, word in enumerate(words, 1):
        if not word.startswith("#") and (len(word) > WORD_LENGTH or NO_WORD.search(word)):
            raise ConfigError(f"{wanted}, got a line {number} that is none, in {path}")
    words = [word for word in words if word and not word.startswith("#")]
    if not words:
        raise ConfigError("models.word_bank: wanted at least one word in the file, got an empty one")
    return words


def build_anchors(backbones: Backbones, words: Sequence[str] = ()) -> Anchors:
    """Anchors of ``words`` (see resolve_words) in the spaces of both encoders.

    Word vectors of encoders with a weights file (``checkpoint``) and a ``prompt`` are kept in the cache. Closed-vocabulary
    encoders have ``encode_others`` and ``encode_kinds``, and image encoders of that kind no ``logit_scale``. Where any word is
    taken, words compete, and of a few one would win whatever is there: so those of ``backbones.others`` that mean none of the
    bank's compete too, as the other classes of closed vocabularies do (negative labels: Jiang et al. 2024).
    """
    bank = resolve_words(words, backbones.words)
    image, audio = backbones.image, backbones.audio
    scale = getattr(image, "logit_scale", None)
    names = () if set(backbones.others) <= set(bank) else backbones.others
    visual, visual_names = text_vectors(image, bank, names)
    sound, sound_names = text_vectors(audio, bank, names)
    kept = _other_things(bank, names, (visual, visual_names), (sound, sound_names)) if names else []
    return Anchors(
        bank,
        visual,
        sound,
        audio.project,
        float(audio.logit_scale),
        None if scale is None else float(scale),
        _others(image, bank, visual_names[kept]),
        _others(audio, bank, sound_names[kept]),
        image.encode_kinds(bank) if hasattr(image, "encode_kinds") else None,
        sounds_compete=not hasattr(audio, "encode_others"),
    )


def _other_things(bank: tuple[str, ...], names: tuple[str, ...], *spaces: tuple[Tensor, Tensor]) -> list[int]:
    """Which names mean no word of the bank, by their letters and in each space (vectors of bank and names)."""
    said = {word.casefold() for word in bank}
    kept = torch.tensor([said.isdisjoint({name.casefold(), *name.casefold().split(", ")}) for name in names])
    for words, others in spaces:
        alike = F.normalize(others, dim=-1) @ F.normalize(words, dim=-1).T  # (L, M)
        usual = alike.mean(0)
        kept &= (alike < usual + NEAR * (1 - usual)).all(1).cpu()
    return kept.nonzero().flatten().tolist()


def _others(encoder: ImageEncoder | AudioEncoder, bank: tuple[str, ...], names: Tensor) -> Tensor | None:
    """What is in no bank: the names, then what the encoder itself knows of it."""
    own: Tensor = encoder.encode_others(bank).to(names.device) if hasattr(encoder, "encode_others") else names[:0]
    found = torch.cat([names, own]) if len(names) else own
    return found if len(found) else None


def text_vectors(encoder: ImageEncoder | AudioEncoder, *banks: tuple[str, ...]) -> list[Tensor]:
    """(M, D) float32 vectors of the words of each bank, from the cache where it has them. Lets go of the text tower."""
    found = [_vectors(encoder, words) if words else torch.zeros(0, 0) for words in banks]
    if hasattr(encoder, "release_text"):  # half of a CLIP, three quarters of a CLAP
        encoder.release_text()
        release_memory()
    return found


def _vectors(encoder: ImageEncoder | AudioEncoder, words: tuple[str, ...]) -> Tensor:
    path = _cache_file(encoder, words)
    if path is None:
        return encoder.encode_text(words)
    found = _read(path, len(words))
    if found is None:
        if len(words) > AT_A_TIME:
            log.info(
                "computing the vectors of %d words with %s, once; later starts read them from the cache ...",
                len(words),
                encoder.name,
            )
        rows = []
        with progress(f"words of {encoder.name}", len(words), unit="word") as bar:
            for start in range(0, len(words), AT_A_TIME):
                rows.append(encoder.encode_text(words[start : start + AT_A_TIME]).float().cpu())
                bar.update(len(rows[-1]))
        found = torch.cat(rows)
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
        buffer = io.BytesIO()
        np.save(buffer, values.numpy())
        write_whole(path, buffer.getvalue())
    except OSError as error:
        log.warning("the vectors of the words are not kept: %s cannot be written, %s", path.parent, error.strerror)
