"""The paper's solver: gradient descent, with gradients in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taco.factorization.cold_start import kmeans
from taco.factorization.objective import Problem, State, add_row, loss_weights, penalty, squared_residual

# The paper's section 4 and its public reference runs.
STEPS = 1800
HALVED_AT = (500, 1000, 1500)  # the learning rate
RESTARTS = 8  # of k-means
KMEANS_ITERATIONS = 100


def random_draws(problem: Problem) -> list[tuple[str, tuple[int, ...]]]:
    """The random numbers that ``random_start`` takes."""
    k, n, t = problem.config.n_factors, problem.visual.shape[1], problem.audio.shape[1]
    return [("uniform", (RESTARTS, k)), ("uniform", (RESTARTS, k)), ("normal", (k, n)), ("normal", (k, t))]


def random_start(problem: Problem, draws: Sequence[Tensor]) -> State:
    """U = sigmoid(N(0, 1)), V = k-means centres; draws: as ``random_draws`` says, one set a frame."""
    visual_v, _ = kmeans(problem.visual, draws[0], KMEANS_ITERATIONS)
    audio_v, _ = kmeans(problem.audio, draws[1], KMEANS_ITERATIONS)
    return State(draws[2].sigmoid(), visual_v, draws[3].sigmoid(), audio_v)


def to_logits(u: Tensor) -> Tensor:
    """logit(U), with U kept one rounding step inside (0, 1) so that exact zeros and ones stay finite."""
    return torch.logit(u, eps=torch.finfo(u.dtype).eps)


def solve_gradient(problem: Problem, start: State, steps: int) -> State:
    """``steps`` of descent from ``start`` (paper section 4 and its public reference runs).

    The answer holds U and the sounding factor of the last forward pass and V after the last update.
    """
    logits_v, logits_a = to_logits(start.visual_u), to_logits(start.audio_u)
    state = State(start.visual_u, start.visual_v.clone(), start.audio_u, start.audio_v.clone(), start.sounding)
    rate = problem.config.learning_rate
    for step in range(steps):
        if step in HALVED_AT:
            rate /= 2
        state.visual_u, state.audio_u = logits_v.sigmoid(), logits_a.sigmoid()
        grads, state.sounding = gradients(problem, state)
        for logits, u, grad in ((logits_v, state.visual_u, grads[0]), (logits_a, state.audio_u, grads[2])):
            # d sigmoid / d logit = U (1 - U)
            logits.addcmul_(grad, u * (1 - u), value=-rate)
        for v, grad in ((state.visual_v, grads[1]), (state.audio_v, grads[3])):
            v.add_(grad, alpha=-rate).clamp_(min=0)
    return state


def gradients(problem: Problem, state: State) -> tuple[tuple[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """d loss / d (U_v^T, V_v, U_a^T, V_a) of the summed loss at ``state``, and argmin CE_v (B,).

    With R = X - U V: d |R|_F / d U = (U V V^T - X V^T) / |R|_F and d |R|_F / d V = (U^T U V - U^T X) / |R|_F,
    and the penalty enters U through the component (1/N) U^T X.
    """
    config = problem.config
    b1, b2, _, _ = loss_weights(config)
    cross_v, cross_a = state.visual_u @ problem.visual, state.audio_u @ problem.audio
    by_component = config.descriptor == "component"
    n, t = problem.visual.shape[1], problem.audio.shape[1]
    described = (cross_v / n, cross_a / t) if by_component else (state.visual_v, state.audio_v)
    found = penalty(problem.bank, *described, config)
    out = []
    for visual in (True, False):
        if visual:
            x, square, u, v, cross, weight, pull = (
                problem.visual, problem.visual_square, state.visual_u, state.visual_v, cross_v, b1, found.visual_gradient
            )  # fmt: skip
        else:
            x, square, u, v, cross, weight, pull = (
                problem.audio, problem.audio_square, state.audio_u, state.audio_v, cross_a, b2, found.audio_gradient
            )  # fmt: skip
        gram_u = u @ u.mT
        residual = squared_residual(x, square, u, v, cross, gram_u)
        # The norm has no slope where it is 0, as autograd has it.
        scale = torch.where(residual > 0, weight / residual.clamp_min(1e-30).sqrt(), 0.0)[:, None, None]
        toward = v * -scale
        grad_v = (gram_u @ v - cross) * scale
        if pull is not None and by_component:
            toward = toward.add_(pull, alpha=1 / x.shape[1])
        elif pull is not None:
            grad_v = grad_v.add_(pull)
        grad_u = torch.baddbmm((v @ v.mT * scale) @ u, toward, x.mT)
        past = problem.temporal_gradient(v, found.sounding, visual)
        if past is not None:
            grad_v = add_row(grad_v, found.sounding, past)
        out += [grad_u, grad_v]
    return (out[0], out[1], out[2], out[3]), found.sounding
