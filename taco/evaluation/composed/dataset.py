"""The stamp scenes as a data set like any other: clips of frames with their sound and truth."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from taco.evaluation.composed.scenes import SceneFrame, Stamps
from taco.evaluation.datasets import Dataset, Rules, Sample

SCORED_KINDS = ("one", "two", "both", "distractors", "motion")  # as in the first scenes
MORE_KINDS = ("three", "several")
NEGATIVE_KINDS = ("silence", "noise", "offscreen", "speech", "weather", "music")
COUNT = 40  # scenes of a kind
MOTION_SHARE = 10  # one clip of moving camera (30 frames) for so many still scenes of a kind
SCORED_EVERY = 5  # of a clip's frames; all are run, as a stream


@dataclass(frozen=True, slots=True)
class StampClip:
    """One scene, composed when it is loaded. words: what the models can name."""

    kind: str
    split: str
    seed: int
    words: tuple[str, ...]
    bank: str = "all"
    background: str = "natural"

    @property
    def id(self) -> str:
        """For tables and files."""
        return f"{self.kind}-{self.split}-{self.seed:04d}"

    @property
    def group(self) -> str:
        """The kind: figures are told by it."""
        return self.kind

    def load(self, window_s: float = 1.0) -> list[Sample]:
        """The frames of the scene."""
        scene = stamps_of(self.words, window_s, self.bank, self.background).compose(self.kind, self.split, self.seed)
        out = []
        for number, frame in enumerate(scene.frames):
            sounding = _by_word(frame)
            quiet = [thing for thing in frame.things if not thing.sounding]
            word = scene.heard[0] if len(scene.heard) == 1 and sounding else ""
            silent = np.any([thing.mask for thing in quiet], 0) if quiet else None
            unheard = tuple(thing.word for thing in quiet if thing.word)
            truth = frame.truth if number % SCORED_EVERY == 0 else None
            out.append(Sample(f"{self.id}/{number}", frame.frame, frame.window, truth, 0, word, sounding, silent, unheard))
        return out


def _by_word(frame: SceneFrame) -> tuple[tuple[str, np.ndarray], ...]:
    """(word, (H, W) bool mask) of what sounds; several of a kind are one answer."""
    masks: dict[str, np.ndarray] = {}
    for thing in frame.things:
        if thing.sounding:
            masks[thing.word] = masks[thing.word] | thing.mask if thing.word in masks else thing.mask
    return tuple(masks.items())


@functools.lru_cache(2)
def stamps_of(words: tuple[str, ...], window_s: float, bank: str = "all", background: str = "natural") -> Stamps:
    """The composer for these words, kept: reading cut-outs and sounds takes a while."""
    return Stamps(words, window_s=window_s, bank=bank, background=background)


def stamp_set(
    words: Sequence[str],
    split: str = "test",
    count: int = COUNT,
    kinds: Sequence[str] = (),
    *,
    bank: str = "all",
    background: str = "natural",
) -> Dataset:
    """``count`` scenes of each kind; a tenth as many moving clips, which have 30 frames each.

    kinds: () those with something that sounds in view; of the first scenes where the bank is theirs.
    """
    words = tuple(words)
    kinds = tuple(kinds) or SCORED_KINDS + (MORE_KINDS if bank == "all" else ())
    each = {kind: max(1, count // MOTION_SHARE) if kind == "motion" else count for kind in kinds}
    clips = tuple(StampClip(kind, split, seed, words, bank, background) for kind in kinds for seed in range(each[kind]))
    return Dataset("stamps", split, clips, Rules("threshold", temporal="causal", size=0), words)
