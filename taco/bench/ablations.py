"""What each part of the factorization contributes, on scenes of real photographs and sounds.

The live line runs with something else in the factorization's place, or with a part of it left out. Where a stand-in without
sound, words or solving does as well, the factorization decides nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

import taco.pipeline
from taco.config import FactorizationConfig, TacoConfig
from taco.evaluation.composed.scenes import composed_set
from taco.evaluation.datasets import Dataset
from taco.evaluation.methods import MethodRunner
from taco.evaluation.scores import Record, figures, record
from taco.factorization import factorize
from taco.factorization.cold_start import kmeans
from taco.types import Anchors, Factorization

KINDS = ("one", "two", "distractors", "both", "succession", "motion")
BOTH = ("both", "succession")  # kinds in which two objects sound
GRID = (2, 4)  # cells of the fixed grid, a factor each
RESTARTS, ITERATIONS = 8, 100  # of k-means, as the paper's start


# (true factorization, image tokens (N, C_v), their grid, random numbers) -> what takes its place
StandIn = Callable[[Factorization, Tensor, tuple[int, int], torch.Generator], Factorization]


@dataclass(frozen=True, slots=True)
class Ablation:
    """One row of the table.

    stand_in: what takes the factorization's place; None leaves it.
    settings: changes of the configuration.
    cold: every frame by itself.
    """

    help: str
    stand_in: StandIn | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    cold: bool = False


def _with_regions(true: Factorization, tokens: Tensor, labels: Tensor) -> Factorization:
    """Each token belongs to the factor that its label names; a factor's row is the mean of its tokens."""
    active = torch.nn.functional.one_hot(labels, true.visual_factors.shape[0]).to(tokens)
    rows = active.T @ tokens / active.sum(0)[:, None].clamp_min(1)
    return dataclasses.replace(true, visual_activations=active, visual_factors=rows)


def _fixed_grid(true: Factorization, tokens: Tensor, grid: tuple[int, int], random: torch.Generator) -> Factorization:
    rows, columns = (torch.arange(side) * cells // side for side, cells in zip(grid, GRID))
    return _with_regions(true, tokens, (rows[:, None] * GRID[1] + columns).flatten() % len(true.visual_factors))


def _kmeans(true: Factorization, tokens: Tensor, grid: tuple[int, int], random: torch.Generator) -> Factorization:
    centres, labels = kmeans(tokens[None], torch.rand(1, RESTARTS, len(true.visual_factors), generator=random), ITERATIONS)
    return _with_regions(true, tokens, labels[0])


def _random(true: Factorization, tokens: Tensor, grid: tuple[int, int], random: torch.Generator) -> Factorization:
    def like(values: Tensor, peak: float) -> Tensor:
        return torch.rand(values.shape, generator=random) * peak

    sounds = float(true.audio_factors.max())
    return dataclasses.replace(
        true,
        visual_activations=like(true.visual_activations, 1.0),
        visual_factors=like(true.visual_factors, float(tokens.max())),
        audio_activations=like(true.audio_activations, 1.0),
        audio_factors=like(true.audio_factors, sounds),
    )


def _shuffled(true: Factorization, tokens: Tensor, grid: tuple[int, int], random: torch.Generator) -> Factorization:
    """Every sound factor beside another image factor than its own."""
    return dataclasses.replace(
        true, audio_activations=true.audio_activations.roll(1, 1), audio_factors=true.audio_factors.roll(1, 0)
    )


ABLATIONS: dict[str, Ablation] = {
    "as configured": Ablation("the live line"),
    "fixed grid": Ablation("cells of a 2 x 4 grid in place of the image's factors", _fixed_grid),
    "k-means": Ablation("k-means of the image's tokens, without sound or words", _kmeans),
    "random factors": Ablation("random numbers in all four matrices", _random),
    "sound half shuffled": Ablation("each sound factor beside another image factor", _shuffled),
    "no merging": Ablation("alike factors stay apart", settings={"factorization.merge": "never"}),
    "no penalty": Ablation("no semantic penalty", settings={"factorization.penalty": "none"}),
    "no temporal term": Ablation("warm start only", settings={"factorization.temporal_weight": 0.0}),
    "cold every frame": Ablation("neither warm start nor temporal term", cold=True),
    "gradient solver": Ablation("the paper's solver, 1800 steps", settings={"factorization.solver": "gradient"}),
}


def in_place(ablation: Ablation) -> AbstractContextManager[object]:
    """A context in which the pipeline's ``factorize`` answers with the stand-in."""
    random = torch.Generator().manual_seed(0)

    def stand_in(
        visual: Tensor, audio: Tensor, anchors: Anchors, config: FactorizationConfig, **kwargs: Any
    ) -> Factorization | list[Factorization]:
        found = factorize(visual, audio, anchors, config, **kwargs)
        if ablation.stand_in is None or not isinstance(found, Factorization) or found.sounding < 0:
            return found
        return ablation.stand_in(found, visual.clamp_min(0), kwargs["visual_grid"], random)

    return mock.patch.object(taco.pipeline, "factorize", stand_in)


def ablations(
    config: TacoConfig,
    names: Sequence[str] = tuple(ABLATIONS),
    *,
    split: str = "test",
    count: int = 40,
    kinds: Sequence[str] = KINDS,
    progress: Callable[[int, int], None] | None = None,
    method_runner: MethodRunner | None = None,
    dataset: Dataset | None = None,
) -> dict[str, dict[str, float]]:
    """{ablation: figures in percent} of one run over ``count`` scenes of each kind.

    "IoU": of the map at the best threshold; "live IoU": of what is published at the configured threshold; "right word": where
    one object sounds; "both found, KIND": where two do. method_runner, dataset: replace the configured models and scenes.
    """
    method_runner = method_runner or MethodRunner(config)
    dataset = dataset or composed_set(method_runner.anchors.words, split, count, kinds)
    records: dict[str, dict[str, list[Record]]] = {name: {} for name in names}
    for number, clip in enumerate(dataset.clips, 1):
        samples = clip.load(config.audio.window_s)
        for name in names:
            ablation = ABLATIONS[name]
            with in_place(ablation):
                temporal = "none" if ablation.cold else "causal"
                outcomes = method_runner.run("taco", samples, temporal=temporal, settings=ablation.settings)
            found = [record(dataset, sample, outcome, config) for sample, outcome in zip(samples, outcomes)]
            records[name].setdefault(clip.group, []).extend(found)
        method_runner.forget()
        if progress:
            progress(number, len(dataset.clips))
    return {name: _row(dataset, groups) for name, groups in records.items()}


def _row(dataset: Dataset, groups: Mapping[str, Sequence[Record]]) -> dict[str, float]:
    every = figures(dataset, [r for found in groups.values() for r in found])
    row = {"IoU": every["iou"], "live IoU": every["live_iou"], "right word": every.get("right_word", float("nan"))}
    for kind in BOTH:
        if kind in groups:
            row[f"both found, {kind}"] = 100.0 * float(np.mean([all(r["found"]) for r in groups[kind] if "found" in r]))
    return row
