"""``factorize``: checks, warm or cold start, solver, result.

Which frames start warm and which cold, and one solve for each of the two groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from taco.config import FactorizationConfig
from taco.errors import ShapeError, ValueRangeError
from taco.factorization import cuda_graphs, gradient
from taco.factorization.anchors import prepared_anchors, unit
from taco.factorization.block import COLD_SWEEPS, WARM_SWEEPS, solve_block
from taco.factorization.cold_start import guided_draws, guided_start
from taco.factorization.grouping import merge_factors, merges_factors, pair_sources, pairs_sources
from taco.factorization.objective import Problem, SolverProducts, State, loss_terms
from taco.factorization.temporal import (
    CUT,
    SOUND_CHANGE,
    StreamMemory,
    block_means,
    cut_score,
    guess_grid,
    recency_weights,
    sound_change,
)
from taco.types import Anchors, Factorization

Grid = tuple[int, int] | None
Starts = Sequence[Factorization | None]
Tensors = tuple[Tensor | None, ...]
# Ours: of a token's values, so that sums of squares stay finite in the dtype; below its inverse all counts as zero.
LARGEST = {torch.float32: 1e15, torch.float64: 1e150}


@torch.no_grad()
def factorize(
    visual: Tensor,
    audio: Tensor,
    anchors: Anchors,
    config: FactorizationConfig | None = None,
    *,
    init: Factorization | Sequence[Factorization | None] | None = None,
    previous: Factorization | Sequence[Factorization | None] | None = None,
    generator: torch.Generator | None = None,
    visual_grid: Grid = None,
    audio_grid: Grid = None,
    audio_times: Tensor | None = None,
) -> Factorization | list[Factorization]:
    """Factor image and audio tokens together so that one pair of factors agrees in words (paper Eq. 6).

    visual: (N, C_v), audio: (T, C_a) float tokens of one frame, negative values are set to 0 and
    counted; or (B, N, C_v), (B, T, C_a): B frames, which gives a list of B results (init and previous
    are then lists of B, entries may be None). anchors: the word bank in both spaces.

    init: starting U and V; the gradient solver takes it as it is, the block solver drops it where it
    finds a cut, another sound or another token count and says so in ``restart``. previous: the last
    frame's result, constants of the causal temporal term. generator: random numbers of a cold start;
    None draws the same ones every time. visual_grid: (rows, columns) of the image tokens, row-major
    (None: square where N is); audio_grid: (frequency bands, time steps) of the sound's (None: (1, T)); audio_times: (steps,)
    where in the window they lie, 0 its start and 1 its end (None: evenly).

    A pure function: same arguments (and generator state), same answer. Silence (all-zero audio tokens)
    or a black image (all-zero visual tokens) gives zeros, ``sounding`` -1 and restart "silence" or "blank".
    Raises ShapeError or ValueRangeError (both ValueError) that name the argument, wanted and got.
    """
    config = config or FactorizationConfig()
    single = isinstance(visual, Tensor) and visual.ndim == 2
    visual, audio = _batched("visual", visual, single), _batched("audio", audio, single)
    dtype = visual.dtype if visual.dtype in (torch.float32, torch.float64) else torch.float32
    _check_shapes(visual, audio, anchors, config)
    visual_grid = _grid("visual_grid", visual_grid, visual.shape[1]) or guess_grid(visual.shape[1])
    audio_grid = _grid("audio_grid", audio_grid, audio.shape[1])
    visual, blank, clamped_v = _cleaned("visual", visual, dtype)
    audio, silent, clamped_a = _cleaned("audio", audio, dtype)
    frames = visual.shape[0]
    inits, pasts = _listed("init", init, frames, single), _listed("previous", previous, frames, single)
    bank = prepared_anchors(anchors, audio.shape[2], dtype, visual.device)
    recent = torch.einsum("t,btc->bc", recency_weights(audio.shape[1], audio_grid, dtype, visual.device, audio_times), audio)
    recent_logits = bank.audio_logits(recent[:, None], grad=False)[0]
    square_v, square_a = (torch.linalg.vector_norm(x.flatten(1), dim=1).square() for x in (visual, audio))
    problem = Problem(visual, audio, square_v, square_a, bank, config, recent, recent_logits, visual_grid)
    blocks, words = block_means(visual, visual_grid), recent_logits.squeeze(1).softmax(-1)
    empty = [s or b for s, b in zip(silent, blank)]
    reasons = []
    for frame in range(frames):
        past = inits[frame] or pasts[frame]
        reason = _restart_reason(problem, frame, inits[frame], past, blocks[frame], words[frame])
        reasons.append("silence" if silent[frame] else "blank" if blank[frame] else reason)
    _add_temporal(problem, pasts, reasons, empty)
    state, iterations = solve(problem, inits, reasons, empty, generator)
    if merges_factors(config):
        state = merge_factors(problem, state)
    audio_logits = None
    if pairs_sources(config):
        state, audio_logits = pair_sources(problem, state)
    values = {name: value.tolist() for name, value in loss_terms(problem, state, audio_logits).items()}
    assert state.sounding is not None, "a solved state"
    sounding = state.sounding.tolist()
    out = []
    for frame in range(frames):
        nothing = empty[frame]
        parts = state.visual_u[frame].mT, state.visual_v[frame], state.audio_u[frame].mT, state.audio_v[frame]
        u_v, v_v, u_a, v_a = ((torch.zeros_like(part) if nothing else part).contiguous() for part in parts)
        out.append(
            Factorization(
                u_v,
                v_v,
                u_a,
                v_a,
                sounding=-1 if nothing else sounding[frame],
                losses=_empty_losses(problem, frame) if nothing else {name: value[frame] for name, value in values.items()},
                iterations=0 if nothing else iterations[frame],
                restart=reasons[frame],
                clamped=clamped_v[frame] + clamped_a[frame],
                memory=None if nothing else StreamMemory(blocks[frame], words[frame], recent[frame]),
            )
        )
    return out[0] if single else out


def _restart_reason(
    problem: Problem, frame: int, init: Factorization | None, past: Factorization | None, blocks: Tensor, words: Tensor
) -> str:
    """Why this frame cannot start from ``init``; "" where it can."""
    if past is None:
        return "cold"
    shapes = (problem.visual.shape[1:], problem.audio.shape[1:], problem.config.n_factors)
    got = (
        (past.visual_activations.shape[0], past.visual_factors.shape[1]),
        (past.audio_activations.shape[0], past.audio_factors.shape[1]),
        past.visual_factors.shape[0],
    )
    if (tuple(shapes[0]), tuple(shapes[1]), shapes[2]) != got:
        return "shape"
    if past.sounding < 0 and not bool(past.visual_factors.any()):
        return "silence"
    memory = past.memory
    # The paper's solver starts from any ``init``, and any past pulls it.
    if problem.config.solver == "gradient" or not isinstance(memory, StreamMemory):
        return "" if init is not None else "cold"
    if memory.blocks.shape == blocks.shape and memory.word_probabilities.shape == words.shape:
        before = StreamMemory(memory.blocks.to(blocks), memory.word_probabilities.to(words), memory.sound.to(words))
        change = sound_change(words, problem.recent[frame], before)
        scores = torch.stack([cut_score(blocks, before.blocks), change]).tolist()
        if scores[0] > CUT:
            return "cut"
        if scores[1] > SOUND_CHANGE:
            return "sound"
    return "" if init is not None else "cold"


def _add_temporal(problem: Problem, pasts: Starts, reasons: list[str], empty: list[bool]) -> None:
    """The temporal term: pairs of a clip, or the constants that the past gives. A past that was dropped pulls nothing."""
    config = problem.config
    if config.temporal == "joint" and problem.frames > 1:
        links = [float(not (a or b)) for a, b in zip(empty[:-1], empty[1:])]
        problem.linked = problem.visual.new_tensor(links)
    if config.temporal != "causal" or config.temporal_weight == 0:
        return
    rows_v, rows_a = problem.visual.new_zeros(problem.frames, problem.visual.shape[2]), torch.zeros_like(problem.recent)
    any_past = False
    for frame, past in enumerate(pasts):
        dropped = reasons[frame] in ("cut", "sound", "silence", "blank", "shape")
        if past is None or dropped or past.sounding < 0:
            continue
        any_past = True
        rows_v[frame] = unit(past.visual_factors[past.sounding].to(rows_v))
        rows_a[frame] = unit(past.audio_factors[past.sounding].to(rows_a))
    if any_past:
        problem.previous_visual, problem.previous_audio = rows_v, rows_a


def _batched(name: str, value: object, single: bool) -> Tensor:
    rank = 2 if single else 3
    if not (isinstance(value, Tensor) and value.ndim == rank and value.is_floating_point()):
        got = f"{tuple(value.shape)} {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
        wanted = "(tokens, dimension)" if single else "(tokens, dimension) or (frames, tokens, dimension)"
        raise ShapeError(f"{name}: wanted a float tensor {wanted}, got {got}")
    return value[None] if single else value


def _check_shapes(visual: Tensor, audio: Tensor, anchors: Anchors, config: FactorizationConfig) -> None:
    for name, value in (("visual", visual), ("audio", audio)):
        if 0 in value.shape:
            raise ShapeError(f"{name}: wanted at least one frame, token and dimension, got {tuple(value.shape)}")
    if visual.shape[0] != audio.shape[0]:
        raise ShapeError(f"audio: wanted {visual.shape[0]} frames as in visual, got {audio.shape[0]}")
    if visual.device != audio.device:
        raise ShapeError(f"audio: wanted a tensor on {visual.device} as visual is, got {audio.device}")
    if not isinstance(anchors, Anchors):
        raise ShapeError(f"anchors: wanted Anchors, got {type(anchors).__name__}")
    if visual.shape[2] != anchors.visual.shape[1]:
        raise ShapeError(
            f"visual: wanted tokens of dimension {anchors.visual.shape[1]} as anchors.visual has, got {visual.shape[2]}"
        )
    check_factor_count(config, visual.shape[1], audio.shape[1])


def check_factor_count(config: FactorizationConfig, visual: int, audio: int) -> None:
    """ValueRangeError where there are fewer tokens of an image (``visual``) or of a window (``audio``) than factors."""
    most = min(visual, audio)
    if not 1 <= config.n_factors <= most:
        raise ValueRangeError(f"n_factors: wanted 1 to {most} ({visual} visual, {audio} audio tokens), got {config.n_factors}")


def _cleaned(name: str, tokens: Tensor, dtype: torch.dtype) -> tuple[Tensor, list[bool], list[int]]:
    """Tokens >= 0 in the solver's dtype, whether each frame is all zero, and how many values were negative."""
    tokens = tokens.detach().to(dtype)
    flat = tokens.reshape(tokens.shape[0], -1)
    low, high = torch.stack([flat.amin(1), flat.amax(1)]).tolist()
    for frame, (a, b) in enumerate(zip(low, high)):
        if not (abs(a) < float("inf") and abs(b) < float("inf")):  # a NaN makes both NaN
            where = f" in frame {frame}" if len(low) > 1 else ""
            raise ValueRangeError(f"{name}: wanted finite values, got NaN or infinity{where}")
        if b > LARGEST[dtype]:
            raise ValueRangeError(f"{name}: wanted values up to {LARGEST[dtype]:g}, whose squares can be summed, got {b:g}")
    counts = [0] * len(low)
    if min(low) < 0:
        counts = (flat < 0).sum(1).tolist()
        tokens = tokens.clamp_min(0)
    return tokens.contiguous(), [b <= 1 / LARGEST[dtype] for b in high], counts


def _grid(name: str, grid: Grid, n: int) -> Grid:
    if grid is None:
        return None
    if len(grid) != 2 or grid[0] * grid[1] != n:
        raise ShapeError(f"{name}: wanted two sizes with product {n}, got {grid}")
    return (int(grid[0]), int(grid[1]))


def _listed(
    name: str, value: Factorization | Sequence[Factorization | None] | None, frames: int, single: bool
) -> list[Factorization | None]:
    if value is None:
        return [None] * frames
    values: list[Factorization | None] = [value] if isinstance(value, Factorization) else list(value)
    if len(values) != frames or not all(v is None or isinstance(v, Factorization) for v in values):
        wanted = "a Factorization" if single else f"a list of {frames} Factorizations (or None)"
        raise ShapeError(f"{name}: wanted {wanted}, got {type(value).__name__} of {len(values)}")
    return values


def _empty_losses(problem: Problem, frame: int) -> dict[str, float]:
    b1, b2 = problem.config.reconstruction_weights
    v, a = problem.visual_square[frame].sqrt().item(), problem.audio_square[frame].sqrt().item()
    return {
        "visual_reconstruction": v,
        "audio_reconstruction": a,
        "penalty": 0.0,
        "reverse_penalty": 0.0,
        "temporal": 0.0,
        "total": b1 * v + b2 * a,
    }


TENSORS = (
    "visual", "audio", "visual_square", "audio_square", "recent", "recent_logits", "previous_visual", "previous_audio", "linked"
)  # fmt: skip


def solve(
    problem: Problem, inits: Starts, reasons: list[str], empty: list[bool], generator: torch.Generator | None
) -> tuple[State, list[int]]:
    """Warm and cold frames each in one go; a coupled clip in one go, cold if any of its frames is (reasons then say so)."""
    cold = [bool(reason) for reason in reasons]
    if problem.linked is not None:
        whole_cold = any(c and not e for c, e in zip(cold, empty)) or any(init is None for init in inits)
        cold = [whole_cold] * problem.frames
        reasons[:] = [reason or ("cold" if whole_cold else "") for reason in reasons]
    done: list[tuple[list[int], State]] = []
    iterations = [0] * problem.frames
    for is_cold in (True, False):
        frames = [f for f, c in enumerate(cold) if c == is_cold]
        if not frames:
            continue
        part = problem
        if len(frames) < problem.frames:
            part = problem.select(torch.tensor(frames, device=problem.visual.device))
        state, count = _solve_group(part, [inits[f] for f in frames], is_cold, generator)
        for f in frames:
            iterations[f] = count
        done.append((frames, state))
    if len(done) == 1:
        return done[0][1], iterations
    order = torch.tensor(done[0][0] + done[1][0], device=problem.visual.device).argsort()
    return state_from_tensors([torch.cat(pair)[order] for pair in zip(*(state_tensors(state) for _, state in done))]), iterations


def _solve_group(problem: Problem, inits: Starts, cold: bool, generator: torch.Generator | None) -> tuple[State, int]:
    """All frames of a problem from the same kind of start, as one captured graph on a GPU."""
    config, dtype, device = problem.config, problem.visual.dtype, problem.visual.device
    guided = config.solver == "block" and config.start == "guided"
    steps = config.max_iterations or (
        gradient.STEPS if config.solver == "gradient" else COLD_SWEEPS if cold else WARM_SWEEPS
    )  # fmt: skip
    given: Tensors
    if cold:
        wanted = (guided_draws if guided else gradient.random_draws)(problem)
        given = random_numbers(wanted, generator, problem.frames, dtype, device)
    else:
        given = stacked_starts([init for init in inits if init is not None], dtype, device)
    count = [steps]

    def call(*tensors: Tensor | None) -> Tensors:
        values: dict[str, Any] = dict(zip(TENSORS, tensors))
        part = replace(problem, **values)
        rest = tensors[len(TENSORS) :]
        if not cold:
            start = state_from_tensors(rest)
        else:
            draws = [draw for draw in rest if draw is not None]
            start = guided_start(part, draws) if guided else gradient.random_start(part, draws)
        if config.solver == "gradient":
            return state_tensors(gradient.solve_gradient(part, start, steps))
        state, count[0] = solve_block(part, start, steps)
        return state_tensors(state)

    inputs = (*(getattr(problem, name) for name in TENSORS), *given)
    key = (id(problem.bank), config, problem.visual_grid, cold)
    if config.solver == "gradient":  # 1800 steps are no graph; their kernels are queued without waiting for the host
        return state_from_tensors(call(*inputs)), steps
    return state_from_tensors(cuda_graphs.run(key, call, inputs)), count[0]


def state_tensors(state: State) -> Tensors:
    """A state as a plain tuple of tensors."""
    parts = (state.visual_u, state.visual_v, state.audio_u, state.audio_v, state.sounding)
    products = state.products
    return parts if products is None else (*parts, *(getattr(products, name) for name in SolverProducts.__slots__))


def state_from_tensors(parts: Sequence[Any]) -> State:
    """The inverse of ``state_tensors``."""
    visual_u, visual_v, audio_u, audio_v, sounding = parts[:5]
    products = SolverProducts(*parts[5:]) if len(parts) > 5 else None
    return State(visual_u, visual_v, audio_u, audio_v, sounding, products)


def random_numbers(
    wanted: Sequence[tuple[str, tuple[int, ...]]],
    generator: torch.Generator | None,
    frames: int,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, ...]:
    """Random numbers (B, *shape) for each wanted (kind, shape), frame by frame, so that a batch gets what its
    frames would get one after another; without a generator every frame gets the same ones."""
    source = generator or torch.Generator().manual_seed(0)
    make = {"uniform": torch.rand, "normal": torch.randn}
    times = frames if generator is not None else 1
    rows = [
        [make[kind](shape, generator=source, dtype=dtype, device=source.device) for kind, shape in wanted] for _ in range(times)
    ]
    return tuple(torch.stack(part).to(device).expand(frames, *part[0].shape).contiguous() for part in zip(*rows))


def stacked_starts(inits: Sequence[Factorization], dtype: torch.dtype, device: torch.device) -> Tensors:
    """Starting U^T, V of both sides and the sounding factors (None where one is not known), kept in their ranges."""

    def stack(name: str) -> Tensor:
        return torch.stack([getattr(f, name) for f in inits]).to(device=device, dtype=dtype)

    known = all(f.sounding >= 0 for f in inits)
    return (
        stack("visual_activations").clamp(0, 1).mT.contiguous(),
        stack("visual_factors").clamp_min(0),
        stack("audio_activations").clamp(0, 1).mT.contiguous(),
        stack("audio_factors").clamp_min(0),
        torch.tensor([f.sounding for f in inits], device=device) if known else None,
    )
