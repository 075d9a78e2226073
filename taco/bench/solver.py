"""The solvers: time, loss, mask IoU, growth, distance from the machine's limit.

The paper's solver as one would write it with autograd: what ``taco bench solver`` measures against.

Written to be fair: anchors are normalised once and compared by matrix products, gradients come from one backward call.

Table 3 on synthetic scenes: mask IoU of U with each part of the objective taken away.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from taco.bench.problems import BANDS, MadeScene, World, make_world, still, stream
from taco.bench.stream import activation_mask, iou
from taco.config import FactorizationConfig
from taco.factorization import factorize
from taco.factorization.bounded_lstsq import solve_rows
from taco.types import Anchors, Factorization

FIRST_SEED = 9100  # scenes from here on served no tuning
PAPER_STEPS = 1800


def clock() -> float:
    """Processor seconds of this process, all threads: other programs on the machine do not count; seconds where a GPU works."""
    return time.perf_counter() if torch.cuda.is_available() else time.process_time()


def best_ms(call: Callable[[], object], repeats: int = 7) -> float:
    """The fastest of several calls in milliseconds, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        began = clock()
        call()
        times.append(clock() - began)
    return min(times) * 1e3


def solve(
    scene: MadeScene, world: World, *, init: Factorization | None = None, previous: Factorization | None = None, **settings: Any
) -> Factorization:
    """``factorize`` with the scene's grids. settings: fields of ``FactorizationConfig``."""
    config = FactorizationConfig(**settings)
    found = factorize(
        scene.visual, scene.audio, world.anchors, config,
        init=init, previous=previous, visual_grid=scene.visual_grid, audio_grid=scene.audio_grid,
    )  # fmt: skip
    assert isinstance(found, Factorization), "one frame in, one result out"
    return found


def total_loss(scene: MadeScene, world: World, result: Factorization) -> float:
    """The loss of a result, by the library's own terms, without a temporal term."""
    from taco.factorization.anchors import prepared_anchors
    from taco.factorization.objective import Problem, State, loss_terms

    v, a = scene.visual[None], scene.audio[None]
    bank = prepared_anchors(world.anchors, a.shape[2], v.dtype, v.device)
    config = FactorizationConfig(temporal="none")
    recent = a.mean(1)
    logits = bank.audio_logits(recent[:, None], grad=False)[0]
    problem = Problem(v, a, v.square().sum((-1, -2)), a.square().sum((-1, -2)), bank, config, recent, logits)
    r = result
    state = State(r.visual_activations.mT[None], r.visual_factors[None], r.audio_activations.mT[None], r.audio_factors[None])
    return float(loss_terms(problem, state)["total"])


Method = Callable[[MadeScene], tuple[Factorization, float]]  # scene -> (result, milliseconds)


def quality(
    seeds: int, steps: int, progress: Callable[[int, int], None] | None = None, world: World | None = None, side: int = 24
) -> dict[str, dict[str, float]]:
    """Means over scenes of loss, mask IoU and milliseconds: the autograd loop, and the solvers at several sweeps."""
    world = world or make_world(0)
    scenes = [still(world, FIRST_SEED + seed, side=side) for seed in range(seeds)]
    entries: dict[str, Method] = {}

    def timed(call: Callable[[], Factorization]) -> tuple[Factorization, float]:
        began = clock()
        out = call()
        return out, (clock() - began) * 1e3

    def autograd(scene: MadeScene) -> tuple[Factorization, float]:
        start = paper_start(scene)
        return timed(lambda: solve_autograd(scene.visual, scene.audio, world.anchors, FactorizationConfig(), start, steps))

    def closed(scene: MadeScene) -> tuple[Factorization, float]:
        start = paper_start(scene)
        return timed(lambda: solve(scene, world, solver="gradient", max_iterations=steps, init=start))

    def paper_start(scene: MadeScene) -> Factorization:
        return solve(scene, world, solver="gradient", max_iterations=1)

    def block(**settings: Any) -> Method:
        return lambda scene: timed(lambda: solve(scene, world, **settings))

    entries[f"autograd, {steps} steps"] = autograd
    entries[f"gradient (closed form), {steps} steps"] = closed
    entries["block, cold (default)"] = block()
    for sweeps in (1, 2, 3, 4, 8, 15):
        entries[f"block, {sweeps} sweeps"] = block(max_iterations=sweeps)
    for sweeps in (1, 2, 4, 8, 15):
        entries[f"block, {sweeps} sweeps, no box"] = block(max_iterations=sweeps, trust_region=0.0)
    for sweeps in (4, 15):
        entries[f"block, {sweeps} sweeps, random start, bound by penalty"] = block(
            max_iterations=sweeps, start="random", binding="penalty"
        )
    solve(scenes[0], world)  # the word bank is prepared once, before the clock
    out = {}
    for number, (name, run) in enumerate(entries.items(), 1):
        losses, masks, times = [], [], []
        for scene in scenes:
            result, ms = run(scene)
            losses.append(total_loss(scene, world, result))
            masks.append(iou(activation_mask(result, scene.visual_grid), scene.truth))
            times.append(ms)
        out[name] = {
            "loss": statistics.fmean(losses),
            "mask IoU": statistics.fmean(masks),
            "ms (median)": statistics.median(times),
        }
        if progress:
            progress(number, len(entries))
    return out


def ratios(found: dict[str, dict[str, float]], steps: int) -> dict[str, float]:
    """Autograd against block and against the closed form; fewer steps than the paper's are scaled to 1800."""
    loop, closed, block = list(found.values())[:3]
    scaled = loop["ms (median)"] * PAPER_STEPS / steps
    return {
        "autograd / block cold": scaled / block["ms (median)"],
        "autograd / closed form": loop["ms (median)"] / closed["ms (median)"],
        "loss block - autograd": block["loss"] - loop["loss"],
        "IoU block - autograd": block["mask IoU"] - loop["mask IoU"],
    }


def warm_against_cold(videos: int, frames: int = 24) -> dict[str, float]:
    """``compare_starts`` on moving synthetic scenes."""
    world = make_world(0)
    return compare_starts(world, [stream(world, FIRST_SEED + seed, 4 * frames)[:frames] for seed in range(videos)])


def compare_starts(world: World, streams: Sequence[Sequence[tuple[MadeScene, str]]]) -> dict[str, float]:
    """A warm frame's time against a cold one's, as configured and with the sweeps that the warm loss takes.

    The cold start is ours (guided, bound to the recent sound) or the paper's (random, bound by the penalty).
    streams: (scene, event) in order; after an event the start is cold. Empty where no frame follows another.
    """
    warm_ms, cold_ms, warm_loss, cold_loss = [], [], [], []
    to_same: dict[str, list[float]] = {"guided": [], "random": []}
    for own in streams:
        past = None
        for scene, event in own:
            cold = solve(scene, world, temporal="none")
            if past is not None and not event:
                warm = solve(scene, world, init=past, temporal="none")
                warm_ms.append(best_ms(lambda: solve(scene, world, init=past, temporal="none"), 3))  # noqa: B023
                cold_ms.append(best_ms(lambda: solve(scene, world, temporal="none"), 3))  # noqa: B023
                warm_loss.append(total_loss(scene, world, warm))
                cold_loss.append(total_loss(scene, world, cold))
                for start, found in to_same.items():
                    found.append(warm_ms[-1] / _ms_to_loss(scene, world, warm_loss[-1] * (1 + 1e-4), start))
                past = warm
            else:
                past = cold
    if not warm_ms:
        return {}
    return {
        "warm ms": statistics.median(warm_ms),
        "cold ms": statistics.median(cold_ms),
        "warm / cold": statistics.median(warm_ms) / statistics.median(cold_ms),
        **{f"warm / {start} cold to the same loss": statistics.median(found) for start, found in to_same.items()},
        "never reached it (share)": statistics.fmean(r == 0 for found in to_same.values() for r in found),
        "warm loss": statistics.fmean(warm_loss),
        "cold loss": statistics.fmean(cold_loss),
    }


def _ms_to_loss(scene: MadeScene, world: World, goal: float, start: str) -> float:
    """Milliseconds of a cold solve with the fewest sweeps that reach ``goal``; infinite where 32 do not."""
    for sweeps in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32):
        binding = "recent" if start == "guided" else "penalty"
        settings: dict[str, Any] = {"temporal": "none", "max_iterations": sweeps, "start": start, "binding": binding}
        if total_loss(scene, world, solve(scene, world, **settings)) <= goal:
            return best_ms(lambda: solve(scene, world, **settings), 3)  # noqa: B023
    return math.inf


def growth(sides: tuple[int, ...], banks: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Milliseconds of a warm solve as tokens and words grow, and the exponent of a straight line in log-log."""
    out: dict[str, dict[str, float]] = {"tokens (warm ms)": {}, "words (warm ms)": {}}

    def warm_ms(world: World, side: int) -> float:
        scene = still(world, FIRST_SEED, side=side)
        first = solve(scene, world)
        return best_ms(lambda: solve(scene, world, init=first))

    world = make_world(0)
    for side in sides:
        out["tokens (warm ms)"][str(side * side)] = warm_ms(world, side)
    for words in banks:
        out["words (warm ms)"][str(words)] = warm_ms(make_world(1, words=words), 24)
    for row in out.values():
        points = [(math.log(float(size)), math.log(ms)) for size, ms in row.items()]
        mean_x, mean_y = (statistics.fmean(axis) for axis in zip(*points))
        row["exponent"] = sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)
        row["exponent, last two"] = (points[-1][1] - points[-2][1]) / (points[-1][0] - points[-2][0])
    return out


def machine_rates() -> tuple[float, float]:
    """(bytes, floating-point operations) a millisecond, as measured: a sum over more than the caches hold, a square product."""
    big, a = torch.rand(64 * 2**20 // 4), torch.rand(768, 768)
    return big.numel() * 4 / best_ms(lambda: big.sum()), 2 * 768**3 / best_ms(lambda: a @ a, 15)


def sweep_bound(scene: MadeScene, words: int, k: int, read: float, flops: float) -> float:
    """Milliseconds that one sweep with k factors must take at these rates: tokens read twice, and its products."""
    candidates = k - 1
    (n, c), (t, d) = scene.visual.shape, scene.audio.shape
    work = 2 * c * n * (k + 1 + k + candidates) + 4 * d * t * k + 2 * c * words * (k + candidates + 3)
    return 2 * 4 * (n * c + t * d) / read + work / flops


def limit(side: int = 24) -> dict[str, float]:
    """One sweep against what the machine must do for it: read X twice and do its floating-point operations.

    The two rates are measured here: reading by a sum over an array larger than the caches, arithmetic
    by a square float32 product.
    """
    world = make_world(0)
    scene = still(world, FIRST_SEED, side=side)
    first = solve(scene, world)
    few, many = (best_ms(lambda: solve(scene, world, init=first, max_iterations=n, temporal="none"), 15) for n in (2, 10))  # noqa: B023
    sweep = (many - few) / 8
    read, flops = machine_rates()
    k = first.visual_activations.shape[1]
    bound = sweep_bound(scene, len(world.anchors.words), k, read, flops)
    n = len(scene.visual)
    rows, cross, gram = torch.rand(1, k, n), torch.rand(1, k, n), torch.rand(1, k, k) + torch.eye(k)
    return {
        "sweep ms": sweep,
        "limit ms": bound,
        "sweep / limit": sweep / bound,
        "rows pass ms": best_ms(lambda: solve_rows(rows, cross, gram), 30),
        "read GB/s": read / 1e6,
        "GFLOP/s": flops / 1e6,
    }


def batches(sizes: tuple[int, ...]) -> dict[str, dict[str, float]]:
    """Milliseconds a frame of B frames in one call against one by one."""
    world = make_world(0)
    scenes = [still(world, FIRST_SEED + i) for i in range(max(sizes))]
    out = {}
    for size in sizes:
        v, a = torch.stack([s.visual for s in scenes[:size]]), torch.stack([s.audio for s in scenes[:size]])
        cold = best_ms(lambda: factorize(v, a, world.anchors), 3) / size  # noqa: B023
        past = factorize(v, a, world.anchors)
        warm = best_ms(lambda: factorize(v, a, world.anchors, init=past), 3) / size  # noqa: B023
        out[f"batch of {size}"] = {"cold ms a frame": cold, "warm ms a frame": warm}
    return out


def on_gpu() -> dict[str, dict[str, float]]:
    """Cold and warm, batch 1 and 20, where a GPU is at hand; empty where none is."""
    if not torch.cuda.is_available():
        return {}
    from taco.types import Anchors

    world = make_world(0)
    bank = world.anchors
    project = bank.audio_projection
    assert isinstance(project, torch.nn.Module), "of make_world"
    anchors = Anchors(bank.words, bank.visual.cuda(), bank.audio.cuda(), project.cuda(), bank.audio_logit_scale)
    scenes = [still(world, FIRST_SEED + i) for i in range(20)]
    out = {}
    for size in (1, 20):
        v = torch.stack([s.visual for s in scenes[:size]]).cuda()
        a = torch.stack([s.audio for s in scenes[:size]]).cuda()
        past = factorize(v, a, anchors)
        out[f"batch of {size}"] = {
            "cold ms": best_ms(lambda: factorize(v, a, anchors), 20),  # noqa: B023
            "warm ms": best_ms(lambda: factorize(v, a, anchors, init=past), 20),  # noqa: B023
        }
    return out


def run_solver(
    seeds: int = 20, steps: int = PAPER_STEPS, quick: bool = False, progress: Callable[[int, int], None] | None = None
) -> dict[str, dict[str, Any]]:
    """Every part; a dictionary of tables."""
    found: dict[str, dict[str, Any]] = {"quality": quality(seeds, steps, progress)}
    found["ratios"] = ratios(found["quality"], steps)
    found["warm against cold"] = warm_against_cold(1 if quick else 4, 4 if quick else 24)
    found["growth"] = growth((12, 24) if quick else (12, 24, 32, 64), (71, 527) if quick else (71, 527, 5000))
    found["distance to the limit"] = limit()
    found["batches"] = batches((1, 4) if quick else (1, 5, 20))
    found["ablations (mask IoU)"] = ablations(FIRST_SEED, 2 if quick else 12, 20 if quick else 0)
    gpu = on_gpu()
    if gpu:
        found["GPU"] = gpu
    found["machine"] = {"torch threads": torch.get_num_threads(), "torch": torch.__version__}
    return found


HALVED_AT = (500, 1000, 1500)


def loss_of(
    visual: Tensor,
    audio: Tensor,
    parts: tuple[Tensor, Tensor, Tensor, Tensor],
    anchors: Anchors,
    words_v: Tensor,
    words_a: Tensor,
    config: FactorizationConfig,
) -> tuple[Tensor, int]:
    """Loss of one frame (penalty "min", descriptor "component") and k*; parts: u_v, v_v, u_a, v_a."""
    u_v, v_v, u_a, v_a = parts
    c_v, c_a = u_v.T @ visual / len(visual), u_a.T @ audio / len(audio)
    if anchors.audio_projection is not None:
        c_a = anchors.audio_projection(c_a)
    d_v = F.normalize(c_v, dim=-1) @ words_v.T
    d_a = anchors.audio_logit_scale * F.normalize(c_a, dim=-1) @ words_a.T
    ce = -(d_a.softmax(-1) * d_v.log_softmax(-1)).sum(-1)
    norms = torch.linalg.norm(visual - u_v @ v_v) + torch.linalg.norm(audio - u_a @ v_a)
    return norms + config.penalty_weight * ce.min(), int(ce.argmin())


def solve_autograd(
    visual: Tensor, audio: Tensor, anchors: Anchors, config: FactorizationConfig, init: Factorization, steps: int
) -> Factorization:
    """``steps`` of plain gradient descent from ``init``; returns a Factorization (without losses)."""
    words_v, words_a = F.normalize(anchors.visual, dim=-1), F.normalize(anchors.audio, dim=-1)
    logits_v = torch.logit(init.visual_activations, eps=1e-7).requires_grad_()
    logits_a = torch.logit(init.audio_activations, eps=1e-7).requires_grad_()
    v_v, v_a = init.visual_factors.clone().requires_grad_(), init.audio_factors.clone().requires_grad_()
    leaves, rate, best = (logits_v, v_v, logits_a, v_a), config.learning_rate, 0
    u_v, u_a = init.visual_activations, init.audio_activations
    for step in range(steps):
        rate /= 2 if step in HALVED_AT else 1
        u_v, u_a = logits_v.sigmoid(), logits_a.sigmoid()
        loss, best = loss_of(visual, audio, (u_v, v_v, u_a, v_a), anchors, words_v, words_a, config)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's, unannotated
        with torch.no_grad():
            for leaf in leaves:
                assert leaf.grad is not None, "the loss depends on every leaf"
                leaf -= rate * leaf.grad
                leaf.grad = None
            v_v.clamp_(min=0)
            v_a.clamp_(min=0)
    return Factorization(u_v.detach(), v_v.detach(), u_a.detach(), v_a.detach(), sounding=best, iterations=steps)


VARIANTS: dict[str, dict[str, Any]] = {
    "full": {},
    "no component": {"descriptor": "factor"},
    "no min": {"penalty": "mean"},
    "no penalty": {"penalty": "none"},
}
SOLVERS: dict[str, dict[str, Any]] = {
    "gradient": {"solver": "gradient"},
    "block, bound by penalty": {"binding": "penalty"},
    "block": {},
}


def ablations(
    first_seed: int, seeds: int = 12, steps: int = 0, solvers: dict[str, dict[str, Any]] = SOLVERS
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
            assert isinstance(found, list), "a batch in, a list out"
            masks = [iou(activation_mask(f, scene.visual_grid), scene.truth) for f, scene in zip(found, scenes)]
            out[name][variant] = statistics.fmean(masks)
    return out
