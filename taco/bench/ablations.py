"""Table 3 on made scenes: mask IoU of U with each part of the objective taken away."""

from __future__ import annotations

import statistics

import torch

from taco.bench.scenes import BANDS, make_world, still
from taco.bench.stream import activation_mask, iou
from taco.config import FactorizationConfig
from taco.factorization import factorize

VARIANTS: dict[str, dict] = {
    "full": {},
    "no component": {"descriptor": "factor"},
    "no min": {"penalty": "mean"},
    "no penalty": {"penalty": "none"},
}
SOLVERS: dict[str, dict] = {
    "gradient": {"solver": "gradient"},
    "block, bound by penalty": {"binding": "penalty"},
    "block": {},
}


def ablations(
    first_seed: int, seeds: int = 12, steps: int = 0, solvers: dict[str, dict] = SOLVERS
) -> dict[str, dict[str, float]]:
    """Mean mask IoU of each solver (rows) under each variant (columns), on small scenes; steps: 0 takes the solver's own."""
    world = make_world(0, words=100, visual_dim=128, audio_dim=96)
    scenes = [still(world, first_seed + seed, side=12) for seed in range(seeds)]
    visual, audio = torch.stack([s.visual for s in scenes]), torch.stack([s.audio for s in scenes])
    out: dict[str, dict[str, float]] = {}
    for name, base in solvers.items():
        out[name] = {}
        for variant, change in VARIANTS.items():
            config = FactorizationConfig(temporal="none", max_iterations=steps, **base, **change)
            found = factorize(visual, audio, world.anchors, config, audio_grid=(BANDS, audio.shape[1] // BANDS))
            masks = [iou(activation_mask(f, scene.truth.shape), scene.truth) for f, scene in zip(found, scenes)]
            out[name][variant] = statistics.fmean(masks)
    return out
