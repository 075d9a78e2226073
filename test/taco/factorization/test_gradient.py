"""The paper's solver follows autograd, step for step."""

import pytest
import torch

from taco.config import FactorizationConfig
from taco.factorization import factorize
from taco.factorization.anchors import prepared_anchors
from taco.factorization.gradient import gradients
from taco.factorization.objective import Problem, State, squared_residual
from test.taco.factorization.made_problems import as_init, random_problem
from test.taco.factorization.reference import clip_loss, descend

CASES = [
    {},
    {"penalty": "mean"},
    {"penalty": "none"},
    {"descriptor": "factor"},
    {"reverse_penalty_weight": 40.0},
    {"reverse_penalty_weight": 40.0, "penalty": "mean", "descriptor": "factor"},
    {"reconstruction_weights": (0.5, 2.0)},
]


def config(**kw):
    return FactorizationConfig(solver="gradient", n_factors=3, **kw)


def problem_of(x_v, x_a, anchors, cfg, linked=None):
    bank = prepared_anchors(anchors, x_a.shape[-1], x_v.dtype, x_v.device)
    squares = x_v.square().sum((-1, -2)), x_a.square().sum((-1, -2))
    return Problem(x_v, x_a, *squares, bank, cfg, x_a.mean(1), None, linked=linked)


def names(f):
    return (f.visual_activations, f.visual_factors, f.audio_activations, f.audio_factors)


def relative(a, b):
    return float(torch.linalg.norm(a - b) / torch.linalg.norm(b))


@pytest.mark.parametrize("projection", ["none", "linear", "gelu"])
@pytest.mark.parametrize("case", CASES)
def test_closed_form_gradients_equal_autograd(case, projection):
    cfg = config(temporal="joint", **case)
    made = [random_problem(seed, projection=projection) for seed in (1, 2, 3)]
    anchors = made[0][2]
    tokens = [(m[0], m[1]) for m in made]
    leaves = [[p.clone().requires_grad_() for p in m[3]] for m in made]
    loss, best = clip_loss(tokens, leaves, anchors, cfg)
    wanted = torch.autograd.grad(loss, [leaf for frame in leaves for leaf in frame])
    x_v, x_a = torch.stack([m[0] for m in made]), torch.stack([m[1] for m in made])
    stacked = [torch.stack([m[3][i] for m in made]) for i in range(4)]
    state = State(stacked[0].mT.contiguous(), stacked[1], stacked[2].mT.contiguous(), stacked[3])
    with torch.no_grad():
        got, sounding = gradients(problem_of(x_v, x_a, anchors, cfg, linked=torch.ones(2, dtype=x_v.dtype)), state)
    assert sounding.tolist() == list(best)
    for frame in range(3):
        for i in range(4):
            mine = got[i][frame].mT if i % 2 == 0 else got[i][frame]
            torch.testing.assert_close(mine, wanted[frame * 4 + i], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("case", CASES[:5])
def test_gradcheck_in_float64(case):
    """The closed form as the backward of a function whose forward is the loss: finite differences agree."""
    cfg = config(temporal="none", **case)
    x_v, x_a, anchors, start = random_problem(4, n=9, t=5, c=6, ca=5, d=6, m=5)
    prob = problem_of(x_v[None], x_a[None], anchors, cfg)

    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, *parts):
            ctx.save_for_backward(*parts)
            with torch.no_grad():
                return clip_loss([(x_v, x_a)], [parts], anchors, cfg)[0]

        @staticmethod
        def backward(ctx, up):
            u_v, v_v, u_a, v_a = (p[None] for p in ctx.saved_tensors)
            with torch.no_grad():
                got, _ = gradients(prob, State(u_v.mT.contiguous(), v_v, u_a.mT.contiguous(), v_a))
            return tuple(up * (g[0].mT if i % 2 == 0 else g[0]) for i, g in enumerate(got))

    assert torch.autograd.gradcheck(Loss.apply, [p.clone().requires_grad_() for p in start], eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES[:5])
def test_follows_an_autograd_solver_from_init(case, dtype):
    cfg = config(max_iterations=200, temporal="none", **case)
    x_v, x_a, anchors, start = random_problem(5, dtype=dtype, projection="gelu")
    wanted, best = descend([(x_v, x_a)], [start], anchors, cfg, 200)
    got = factorize(x_v, x_a, anchors, cfg, init=as_init(start))
    assert got.sounding == best[0] and got.iterations == 200 and got.restart == ""
    for mine, theirs in zip(names(got), wanted[0]):
        assert relative(mine, theirs) < 1e-3


def test_the_rate_is_halved_at_the_papers_steps():
    cfg = config(max_iterations=1510, temporal="none", learning_rate=0.05)
    x_v, x_a, anchors, start = random_problem(6, n=12, t=6, c=5, ca=5, d=4, m=4)
    wanted, _ = descend([(x_v, x_a)], [start], anchors, cfg, 1510)
    got = factorize(x_v, x_a, anchors, cfg, init=as_init(start))
    for mine, theirs in zip(names(got), wanted[0]):
        assert relative(mine, theirs) < 1e-3


def test_joint_and_causal_temporal_terms_follow_autograd():
    made = [random_problem(seed) for seed in (1, 2, 3, 4)]
    anchors = made[0][2]
    tokens, starts = [(m[0], m[1]) for m in made], [m[3] for m in made]
    x_v, x_a = torch.stack([t[0] for t in tokens]), torch.stack([t[1] for t in tokens])
    inits = [as_init(s) for s in starts]
    for temporal, past in (("joint", None), ("causal", [as_init(random_problem(9)[3], 1)] * 4)):
        cfg = config(max_iterations=100, temporal=temporal)
        wanted, best = descend(tokens, starts, anchors, cfg, 100, past)
        got = factorize(x_v, x_a, anchors, cfg, init=inits, previous=past)
        assert [g.sounding for g in got] == list(best)
        for mine, theirs in zip(got, wanted):
            for a, b in zip(names(mine), theirs):
                assert relative(a, b) < 1e-3
        # The term must matter, or this test could not fail.
        without = factorize(x_v, x_a, anchors, config(max_iterations=100, temporal="none"), init=inits)
        assert relative(without[1].visual_factors, wanted[1][1]) > 1e-2


def test_a_batch_equals_its_frames_one_by_one():
    made = [random_problem(seed) for seed in (1, 2, 3)]
    cfg = config(max_iterations=30)
    batch = factorize(torch.stack([m[0] for m in made]), torch.stack([m[1] for m in made]), made[0][2], cfg)
    for m, together in zip(made, batch):
        alone = factorize(m[0], m[1], made[0][2], cfg)
        for a, b in zip(names(alone), names(together)):
            torch.testing.assert_close(a, b)


def test_cold_start_draws_from_the_generator():
    x_v, x_a, anchors, _ = random_problem(1)
    cfg = config(max_iterations=5)

    def run(seed):
        return factorize(x_v, x_a, anchors, cfg, generator=torch.Generator().manual_seed(seed)).visual_activations

    assert torch.equal(run(1), run(1)) and not torch.allclose(run(1), run(2))


def test_it_takes_the_papers_1800_steps_by_itself():
    x_v, x_a, anchors, start = random_problem(7, n=10, t=6, c=5, ca=5, d=4, m=4)
    own = factorize(x_v, x_a, anchors, config(temporal="none"), init=as_init(start))
    assert own.iterations == 1800
    told, fewer = (
        factorize(x_v, x_a, anchors, config(temporal="none", max_iterations=n), init=as_init(start)) for n in (1800, 1700)
    )
    for mine, same, other in zip(names(own), names(told), names(fewer)):
        assert torch.equal(mine, same) and not torch.equal(mine, other)


def test_a_residual_that_has_lost_its_digits_is_formed_anew():
    """|R| of a fit that is nearly exact: the difference of Gram matrices is noise there in float32."""
    random = torch.Generator().manual_seed(0)
    u, v = torch.rand(1, 3, 200, generator=random), torch.rand(1, 3, 50, generator=random)
    x = u.mT @ v + 1e-5 * torch.rand(1, 200, 50, generator=random)
    square, cross, gram = x.square().sum((-1, -2)), u @ x, u @ u.mT
    true = float((x.double() - u.double().mT @ v.double()).square().sum())
    found = float(squared_residual(x, square, u, v, cross, gram))
    by_grams = float(square - 2 * (cross * v).sum() + (gram * (v @ v.mT)).sum())
    assert found == pytest.approx(true, rel=0.05) and abs(by_grams - true) > 10 * true
