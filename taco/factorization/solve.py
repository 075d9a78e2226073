"""Which frames start warm and which cold, and one solve for each of the two groups."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from taco.factorization import gradient, graphs
from taco.factorization.block import COLD_SWEEPS, WARM_SWEEPS, solve_block
from taco.factorization.problem import Known, Problem, State
from taco.factorization.start import guided_draws, guided_start
from taco.types import Factorization

TENSORS = (
    "visual", "audio", "visual_square", "audio_square", "recent", "heard", "previous_visual", "previous_audio", "linked"
)  # fmt: skip


def solve(problem: Problem, inits, reasons: list[str], empty: list[bool], generator) -> tuple[State, list[int]]:
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
    return unflattened([torch.cat(pair)[order] for pair in zip(*(flattened(state) for _, state in done))]), iterations


def _solve_group(problem: Problem, inits, cold: bool, generator) -> tuple[State, int]:
    """All frames of a problem from the same kind of start, as one captured graph on a GPU."""
    config, dtype, device = problem.config, problem.visual.dtype, problem.visual.device
    guided = config.solver == "block" and config.start == "guided"
    steps = config.max_iterations or (
        gradient.STEPS if config.solver == "gradient" else COLD_SWEEPS if cold else WARM_SWEEPS
    )  # fmt: skip
    if cold:
        wanted = (guided_draws if guided else gradient.random_draws)(problem)
        given = drawn(wanted, generator, problem.frames, dtype, device)
    else:
        given = stacked(inits, dtype, device)
    count = [steps]

    def call(*tensors: Tensor | None) -> tuple[Tensor, ...]:
        part = replace(problem, **dict(zip(TENSORS, tensors)))
        rest = tensors[len(TENSORS) :]
        if not cold:
            start = State(*rest)
        else:
            start = guided_start(part, rest) if guided else gradient.random_start(part, rest)
        if config.solver == "gradient":
            return flattened(gradient.solve_gradient(part, start, steps))
        state, count[0] = solve_block(part, start, steps)
        return flattened(state)

    inputs = (*(getattr(problem, name) for name in TENSORS), *given)
    key = (id(problem.bank), config, problem.visual_grid, cold)
    if config.solver == "gradient":  # 1800 steps are no graph; their kernels are queued without waiting for the host
        return unflattened(call(*inputs)), steps
    return unflattened(graphs.run(key, call, inputs)), count[0]


def flattened(state: State) -> tuple[Tensor, ...]:
    """A state as a plain tuple of tensors."""
    known = state.known
    parts = (state.visual_u, state.visual_v, state.audio_u, state.audio_v, state.sounding)
    return parts if known is None else (*parts, *(getattr(known, name) for name in Known.__slots__))


def unflattened(parts) -> State:
    """The inverse of ``flattened``."""
    parts = tuple(parts)
    return State(*parts[:5], Known(*parts[5:]) if len(parts) > 5 else None)


def drawn(wanted, generator: torch.Generator | None, frames: int, dtype, device) -> tuple[Tensor, ...]:
    """Random numbers (B, *shape) for each wanted (kind, shape), frame by frame, so that a batch gets what its
    frames would get one after another; without a generator every frame gets the same ones."""
    source = generator or torch.Generator().manual_seed(0)
    make = {"uniform": torch.rand, "normal": torch.randn}
    times = frames if generator is not None else 1
    rows = [
        [make[kind](shape, generator=source, dtype=dtype, device=source.device) for kind, shape in wanted] for _ in range(times)
    ]
    return tuple(torch.stack(part).to(device).expand(frames, *part[0].shape).contiguous() for part in zip(*rows))


def stacked(inits: list[Factorization], dtype, device) -> tuple[Tensor | None, ...]:
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
