"""The protocols of image and audio encoders."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from taco.errors import ConfigError
from taco.threads import SideThread
from taco.types import AudioWindow, ImageFeatures, Tokens, VideoFrame


@runtime_checkable
class ImageEncoder(Protocol):
    """A frozen image model whose tokens live in the same space as its word vectors.

    Optional: ``encode_batch(frames) -> list[ImageFeatures]``, one pass for several images (see ``encode_images``), and
    ``every_image = True`` of one that must see each image, even where nothing moves in it (``models.still_tolerance``).
    Encoders of both kinds with a text tower have ``release_text()``: called when words have been encoded and kept on disk.
    """

    name: str

    def encode(self, frame: VideoFrame) -> ImageFeatures:
        """One trunk pass: visual tokens (N, C_v) and the feature pyramid a segmenter may need."""

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """(M, C_v) vectors of the words; ConfigError names words that a closed vocabulary lacks."""


def encode_images(encoder: ImageEncoder, frames: Sequence[VideoFrame]) -> list[ImageFeatures]:
    """The features of several images, in their order: in one pass where the encoder has ``encode_batch``, else one by one."""
    if len(frames) > 1 and hasattr(encoder, "encode_batch"):
        batch: list[ImageFeatures] = encoder.encode_batch(frames)
        return batch
    return [encoder.encode(frame) for frame in frames]


@runtime_checkable
class AudioEncoder(Protocol):
    """A frozen sound model. Words are compared after ``project``, on cosines times ``logit_scale``.

    Optional: ``encode_means(windows) -> list[Tokens]``, for sounds of which no course over time is asked: all in one pass, with
    as few tokens as say what it is (see ``encode_means``).
    """

    name: str
    logit_scale: float

    def encode(self, window: AudioWindow) -> Tokens:
        """Audio tokens (T, C_a) of a mono window at any sample rate."""

    def project(self, values: Tensor) -> Tensor:
        """Token-space vectors (..., C_a) -> word space (..., D_a)."""

    def encode_text(self, words: Sequence[str]) -> Tensor:
        """(M, D_a) vectors of the words; ConfigError names words that a closed vocabulary lacks."""


def encode_means(encoder: AudioEncoder, windows: Sequence[AudioWindow]) -> list[Tokens]:
    """Tokens of several windows whose mean alone matters: in one pass where the encoder has ``encode_means``, else one by one."""
    if windows and hasattr(encoder, "encode_means"):
        found: list[Tokens] = encoder.encode_means(windows)
        return found
    return [encoder.encode(window) for window in windows]


@dataclass(frozen=True, slots=True)
class Backbones:
    """A pair of encoders.

    words: those that both know, the default word bank.
    others: of encoders that take any word: names of everyday things that compete with the bank's words, and are not reported.
    side: where sounds are encoded beside images; None: one after the other.
    untrained: the weights are random: what comes of them means nothing.
    """

    image: ImageEncoder
    audio: AudioEncoder
    words: tuple[str, ...]
    others: tuple[str, ...] = ()
    side: SideThread | None = None
    untrained: bool = False


def token_counts(backbones: Backbones, window_s: float = 1.0) -> tuple[int, int]:
    """(N, T): the numbers of tokens of a 480 x 640 px image and of a window of sound; runs each model once, on noise."""
    noise = np.random.default_rng(0)
    frame = VideoFrame(noise.integers(0, 255, (480, 640, 3), np.uint8), 0)
    window = AudioWindow(noise.uniform(-0.1, 0.1, round(window_s * 16000)).astype(np.float32), 16000, 0)
    with torch.inference_mode():
        return len(backbones.image.encode(frame).tokens.values), len(backbones.audio.encode(window).values)


@dataclass(frozen=True, slots=True)
class WordSource:
    """What the sound models ("ear") and the image models ("eye") call a word; the names are keys of `taco words --json`.

    word: of the word bank.
    ear, eye: names of the classes; empty where no model of that side knows the word, ("any words",) where a model takes any.
    ear_models, eye_models: the models that the classes belong to.
    """

    word: str
    ear: tuple[str, ...] = ()
    eye: tuple[str, ...] = ()
    ear_models: tuple[str, ...] = ()
    eye_models: tuple[str, ...] = ()


def unknown_words_error(unknown: Sequence[str], known: Iterable[str], model: str) -> ConfigError:
    """The error for words that a closed vocabulary lacks."""
    known = list(known)
    near = difflib.get_close_matches(unknown[0], known, 1)
    hint = f"did you mean {near[0]}?" if near else f"it knows {', '.join(known[:12])}, ..."
    return ConfigError(f"models.word_bank: {model} does not know {', '.join(repr(word[:80]) for word in unknown[:5])}; {hint}")
