"""Frozen encoders: one adapter a file, its vendor package imported inside it, and the loaders that pick one by name."""

from __future__ import annotations

from collections.abc import Sequence

from taco.backbones.base import Backbones
from taco.config import ModelsConfig
from taco.types import Anchors


def load_backbones(models: ModelsConfig) -> Backbones:
    """The image and sound encoders that ``models`` names; WeightsError tells how to get missing weights."""
    if models.image.partition(":")[0] == "standin":
        from taco.backbones import standin

        return standin.load(models)
    if models.name == "embedded":
        from taco.backbones import embedded

        return embedded.load(models)
    from taco.backbones import paper

    return paper.load(models)


def build_anchors(backbones: Backbones, words: Sequence[str] = ()) -> Anchors:
    """The word bank in both spaces, computed once and then read from disk.

    words: the words, or one path of a text file with a word a line; empty takes the models' own list.
    ConfigError names words that a closed vocabulary lacks.
    """
    from taco.backbones import word_bank

    return word_bank.build_anchors(backbones, words)
