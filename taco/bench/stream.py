"""Masks over time on synthetic videos: the warm stream and its rivals."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from taco.bench.problems import MadeScene, World, make_world, stream
from taco.config import FactorizationConfig
from taco.factorization import factorize
from taco.types import Factorization

# Seeds 0 to 99 served tuning; these did not.
FRESH_SEEDS = (9001, 9002, 9003, 9004, 9005, 9006)
STEADY = 11
FOUND = 0.5

METHODS: dict[str, tuple[str, FactorizationConfig, bool]] = {
    "block warm": ("the default: warm stream, causal term, recent sound", FactorizationConfig(), True),
    "block warm, no temporal term": ("", FactorizationConfig(temporal="none"), True),
    "block warm, no box": ("penalty not held back", FactorizationConfig(trust_region=0.0), True),
    "block warm, bound by penalty": ("the paper's binding", FactorizationConfig(binding="penalty"), True),
    "block cold": ("guided cold start every frame", FactorizationConfig(temporal="none"), False),
    "block cold, random start": ("", FactorizationConfig(temporal="none", start="random", max_iterations=5), False),
}


# iou, event, word found, processor milliseconds, restart, mask, index of the nearest word
Row = tuple[float, str, bool, float, str, torch.Tensor, int]


def activation_mask(result: Factorization, shape: tuple[int, int]) -> torch.Tensor:
    """(rows, columns) bool: the sounding column of U, scaled to [0, 1], above one half; empty without a sounding factor."""
    if result.sounding < 0:
        return torch.zeros(shape, dtype=torch.bool)
    column = result.visual_activations[:, result.sounding]
    return (column > (column.amin() + column.amax()) / 2).view(shape)


def iou(mask: torch.Tensor, truth: torch.Tensor) -> float:
    """Intersection over union; 1 where both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def follow(
    frames: list[tuple[MadeScene, str]], world: World, config: FactorizationConfig, warm: bool, grids: bool = True
) -> list[Row]:
    """One row a frame."""
    past: Factorization | None = None
    rows: list[Row] = []
    for scene, event in frames:
        visual_grid, audio_grid = (scene.visual_grid, scene.audio_grid) if grids else (None, None)
        began = time.process_time()
        found = factorize(
            scene.visual, scene.audio, world.anchors, config,
            init=past, previous=past, visual_grid=visual_grid, audio_grid=audio_grid,
        )  # fmt: skip
        spent = (time.process_time() - began) * 1e3
        assert isinstance(found, Factorization), "one frame in, one result out"
        past = found if warm else None
        mask = activation_mask(found, scene.visual_grid)
        row = found.visual_factors[max(found.sounding, 0)]
        label = int((world.anchors.visual @ row / world.anchors.visual.norm(dim=-1)).argmax())
        rows.append((iou(mask, scene.truth), event, label == scene.word, spent, found.restart, mask, label))
    return rows


def summary(videos: Sequence[Sequence[Row]]) -> dict[str, float | None]:
    """The figures of one method over its videos; lags in frames until a mask is found again, None without such a change."""
    all_iou, steady, stability, right, ms, flips, kept = [], [], [], [], [], 0, 0
    lags: dict[str, list[int]] = {"sound": [], "cut": []}
    for rows in videos:
        onsets = [i for i, row in enumerate(rows) if row[1]]
        for i, row in enumerate(rows):
            since = i - max(onset for onset in onsets if onset <= i)
            all_iou.append(row[0])
            right.append(row[2])
            ms.append(row[3])
            if since >= STEADY:
                steady.append(row[0])
                stability.append(iou(row[5], rows[i - 1][5]))
                kept += 1
                flips += row[6] != rows[i - 1][6]
        for onset, following in zip(onsets, [*onsets[1:], len(rows)]):
            if rows[onset][1] in lags:
                hit = next((i for i in range(onset, following) if rows[i][0] > FOUND), following)
                lags[rows[onset][1]].append(hit - onset)
    mean = statistics.fmean
    return {
        "iou": mean(all_iou),
        "steady": mean(steady),
        "stability": mean(stability),
        "flips_per_100": 100 * flips / max(kept, 1),
        "label_right": mean(map(float, right)),
        **{f"lag_{kind}": mean(values) if values else None for kind, values in lags.items()},
        "median_ms": statistics.median(ms),
    }


def run_stream(
    seeds: Sequence[int] = FRESH_SEEDS,
    frames: int = 80,
    noise: float = 1.0,
    gap: float = 0.0,
    methods: Mapping[str, tuple[str, FactorizationConfig, bool]] = METHODS,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float | None]]:
    """Every method's figures on the same videos."""
    world = make_world(0, gap=gap)
    videos = [stream(world, seed, frames, noise=noise) for seed in seeds]
    out = {}
    for number, (name, (_, config, warm)) in enumerate(methods.items(), 1):
        out[name] = summary([follow(video, world, config, warm) for video in videos])
        if progress:
            progress(number, len(methods))
    return out
