"""Frozen encoders, one adapter per file, and the loaders that choose by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from taco.backbones.base import Backbones
from taco.config import ModelsConfig
from taco.threads import SideThread, model_threads
from taco.types import Anchors


def load_backbones(models: ModelsConfig) -> Backbones:
    """The image and sound encoders of the settings; WeightsError says how to get missing weights."""
    backbones = _load(models)
    return replace(backbones, side=SideThread()) if model_threads(models.threads) > 1 else backbones


def _load(models: ModelsConfig) -> Backbones:
    if models.image.partition(":")[0] == "standin":
        from taco.backbones import stand_in

        return stand_in.load(models)
    if models.name == "embedded":
        from taco.backbones import embedded_models

        return embedded_models.load(models)
    if models.name == "open":
        from taco.backbones import open_models

        return open_models.load(models)
    from taco.backbones import paper_models

    return paper_models.load(models)


def build_anchors(backbones: Backbones, words: Sequence[str] = ()) -> Anchors:
    """The word bank in both spaces, computed once and then read from disk.

    words: the words, or the path of one text file with a word per line; empty takes the models' own list.
    ConfigError names words that a closed vocabulary lacks.
    """
    from taco.backbones import word_bank

    return word_bank.build_anchors(backbones, words)
