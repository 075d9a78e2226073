"""The word bank: where words come from, and that their vectors are computed once."""

import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from taco.backbones import build_anchors
from taco.backbones.base import Backbones
from taco.backbones.paper_models import default_words
from taco.backbones.word_bank import resolve_words
from taco.errors import ConfigError


@dataclass
class Encoder:
    """Counts what it is asked. checkpoint: a file standing for its weights."""

    name: str
    width: int
    checkpoint: object = None
    prompt: str = "a {}"
    logit_scale: float = 3.0
    asked: int = 0

    def encode_text(self, words):
        self.asked += 1
        seed = sum(map(ord, self.prompt)) + self.checkpoint.stat().st_size if self.checkpoint else 0
        return torch.stack([torch.full((self.width,), float(sum(map(ord, word)) + seed)) for word in words])

    def project(self, values):
        return 2 * values


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"12345")
    return path


def pair(weights):
    return Backbones(Encoder("image", 4, weights), Encoder("sound", 6, weights), ("dog", "cat", "siren"))


def test_default_bank_is_audiosets_527_names_in_order():
    words = default_words()
    assert len(words) == len(set(words)) == 527
    assert words[0] == "Speech" and words[74] == "Dog" and words[137] == "Music" and words[526] == "Field recording"
    assert all(word == word.strip() and word for word in words)


@pytest.mark.parametrize(
    "given, wanted",
    [
        ((), ("a", "b")),
        (("dog", "siren"), ("dog", "siren")),
        (("dog", "siren", "dog"), ("dog", "siren")),
        (("  fire   truck ", ""), ("fire truck",)),
        (("Male speech, man speaking",), ("Male speech, man speaking",)),
        ("dog", ("dog",)),
    ],
)
def test_words_of_a_list(given, wanted):
    assert resolve_words(given, ("a", "b")) == wanted


def test_words_of_a_file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeff# robots\nchien qui aboie\r\n\n  siren\nsiren\n".encode())
    assert resolve_words((str(path),), ("a",)) == ("chien qui aboie", "siren")


def test_a_file_that_is_called_like_a_word_is_not_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("dog", "bank.lst"):
        (tmp_path / name).write_text("siren\n")
    assert resolve_words(("dog",), ()) == ("dog",)
    assert resolve_words(("bank.lst",), ()) == ("siren",) == resolve_words((str(tmp_path / "dog"),), ())


@pytest.mark.parametrize("content", [None, b"", b"# nothing\n\n", b"\xff\xfe\x00d"])
def test_bad_files_are_named(tmp_path, content):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="word_bank"):
        resolve_words((str(path),), ("a",))


def test_no_words_at_all_are_an_error():
    with pytest.raises(ConfigError, match="at least one word"):
        resolve_words(("  ",), ())


def test_anchors_hold_both_spaces(weights):
    anchors = build_anchors(pair(weights), ("dog", "siren"))
    assert anchors.words == ("dog", "siren")
    assert anchors.visual.shape == (2, 4) and anchors.audio.shape == (2, 6)
    assert anchors.audio_logit_scale == 3.0
    assert torch.equal(anchors.audio_projection(torch.ones(2)), torch.full((2,), 2.0))
    assert build_anchors(pair(weights)).words == ("dog", "cat", "siren")


def test_vectors_are_computed_once_and_read_after(weights):
    first = pair(weights)
    made = build_anchors(first, ("dog", "siren"))
    second = pair(weights)
    read = build_anchors(second, ("dog", "siren"))
    assert (first.image.asked, first.audio.asked, second.image.asked, second.audio.asked) == (1, 1, 0, 0)
    assert torch.equal(made.visual, read.visual) and torch.equal(made.audio, read.audio)


@pytest.mark.parametrize("change", ["weights", "prompt", "words", "order", "model"])
def test_another_model_weights_prompt_or_words_are_computed_anew(weights, change):
    build_anchors(pair(weights), ("dog", "siren"))
    other, words = pair(weights), ("dog", "siren")
    if change == "weights":
        weights.write_bytes(b"123456")
    elif change == "prompt":
        other.image.prompt = "the {}"
    elif change == "model":
        other.image.name = "eagle eye"
    else:
        words = ("dog", "cat") if change == "words" else ("siren", "dog")
    fresh = Encoder(other.image.name, 4, weights, other.image.prompt)
    assert torch.equal(build_anchors(other, words).visual, fresh.encode_text(words))
    assert other.image.asked == 1


@pytest.mark.parametrize("content", [b"", b"noise", "rows", "nan"])
def test_a_damaged_cache_file_is_made_again(weights, cache, content):
    made = build_anchors(pair(weights), ("dog", "siren"))
    for path in (cache / "anchors").glob("*.npy"):
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, np.zeros((1, 4), np.float32) if content == "rows" else np.full((2, 4), np.nan, np.float32))
    again = pair(weights)
    assert torch.equal(build_anchors(again, ("dog", "siren")).visual, made.visual) and again.image.asked == 1


def test_encoders_without_a_weights_file_are_never_cached(cache):
    encoders = pair(None)
    build_anchors(encoders, ("dog",))
    build_anchors(encoders, ("dog",))
    assert encoders.image.asked == 2 and not cache.exists()


def test_a_cache_that_cannot_be_written_is_a_warning_and_not_fatal(weights, cache, caplog):
    cache.write_text("a file where the folder should be")
    assert build_anchors(pair(weights), ("dog",)).words == ("dog",)
    assert "not kept" in caplog.text


def test_only_a_small_regular_file_of_words_is_read(tmp_path):
    """One line for a pipe, a folder, a device, the system's files and a large file, none of which is echoed."""
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "link.txt").symlink_to("/etc/passwd")
    (tmp_path / "device.txt").symlink_to("/dev/zero")
    with (tmp_path / "large.txt").open("w") as large:
        large.truncate(10**9)  # takes no space
    (tmp_path / "long.txt").write_text("dog\n" + "secret " * 20)
    for name, got in (
        ("folder.txt", "Is a directory"),
        ("pipe.txt", "a pipe or a device"),
        ("link.txt", "a line 1 that is none"),
        ("device.txt", "a pipe or a device"),
        ("large.txt", "at most 1 MB"),
        ("long.txt", "a line 2 that is none"),
    ):
        with pytest.raises(ConfigError, match=got) as error:
            resolve_words((str(tmp_path / name),), ())
        assert not any(secret in str(error.value) for secret in ("\n", "secret", "root:", "nologin")), error.value


def test_every_default_word_may_stand_in_a_file(tmp_path):
    (tmp_path / "words.txt").write_text("\n".join(default_words()))
    assert resolve_words((str(tmp_path / "words.txt"),), ()) == default_words()
