"""Properties of the fast solver."""

import dataclasses

import pytest
import torch

from taco.config import FactorizationConfig
from taco.factorization import factorize
from taco.factorization.anchors import unit
from taco.factorization.block import BlockSolver, Side
from taco.types import Anchors, Factorization
from test.taco.factorization.made_problems import as_init, as_problem, planted_scene, random_problem
from test.taco.factorization.reference import frame_loss


def parts(f):
    return (f.visual_activations, f.visual_factors, f.audio_activations, f.audio_factors)


def true_loss(f, x_v, x_a, anchors, config):
    return float(frame_loss(x_v, x_a, *parts(f), anchors, config)[0].detach())


def iou(mask, truth):
    return float((mask & truth).sum() / (mask | truth).sum())


ABLATIONS = [
    {},
    {"penalty": "mean"},
    {"penalty": "none"},
    {"descriptor": "factor"},
    {"reverse_penalty_weight": 60.0},
    {"reverse_penalty_weight": 60.0, "penalty": "mean"},
    {"descriptor": "factor", "penalty": "mean"},
    {"reconstruction_weights": (0.3, 3.0)},
    {"reconstruction_weights": (1.0, 0.0)},
]


@pytest.mark.parametrize("projection", ["linear", "gelu"])
@pytest.mark.parametrize("case", ABLATIONS)
def test_the_loss_never_rises(case, projection):
    x_v, x_a, anchors, start = random_problem(3, n=40, projection=projection)
    cfg = FactorizationConfig(n_factors=3, binding="penalty", temporal="none", **case)
    last = true_loss(as_init(start), x_v, x_a, anchors, cfg)
    first = last
    for sweeps in range(1, 12):
        f = factorize(x_v, x_a, anchors, dataclasses.replace(cfg, max_iterations=sweeps), init=as_init(start))
        loss = true_loss(f, x_v, x_a, anchors, cfg)
        assert loss <= last * (1 + 1e-9), (sweeps, last, loss)
        assert f.losses["total"] == pytest.approx(loss, rel=1e-7)
        last = loss
    assert last < first * 0.95


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("binding", ["recent", "penalty"])
def test_factors_keep_their_ranges(binding, dtype):
    for seed in range(5):
        x_v, x_a, anchors, _ = random_problem(seed, dtype=dtype)
        f = factorize(x_v, x_a, anchors, FactorizationConfig(n_factors=4, binding=binding, max_iterations=6))
        for u in (f.visual_activations, f.audio_activations):
            assert u.dtype == dtype and float(u.min()) >= 0 and float(u.max()) <= 1
        for v in (f.visual_factors, f.audio_factors):
            assert v.dtype == dtype and float(v.min()) >= 0 and torch.isfinite(v).all()
        assert 0 <= f.sounding < 4


def test_permuting_tokens_permutes_activations():
    x_v, x_a, anchors, start = random_problem(3)
    cfg = FactorizationConfig(n_factors=3, binding="penalty", max_iterations=5)
    order_v, order_a = torch.randperm(len(x_v)), torch.randperm(len(x_a))
    a = factorize(x_v, x_a, anchors, cfg, init=as_init(start))
    moved = (start[0][order_v], start[1], start[2][order_a], start[3])
    b = factorize(x_v[order_v], x_a[order_a], anchors, cfg, init=as_init(moved))
    torch.testing.assert_close(a.visual_activations[order_v], b.visual_activations)
    torch.testing.assert_close(a.audio_activations[order_a], b.audio_activations)
    torch.testing.assert_close(a.visual_factors, b.visual_factors)


def test_a_restart_from_the_answer_stops_at_once():
    x_v, x_a, anchors, start = random_problem(3)
    cfg = FactorizationConfig(n_factors=3, binding="penalty", temporal="none", max_iterations=3000)
    answer = factorize(x_v, x_a, anchors, cfg, init=as_init(start))
    assert answer.iterations < 3000
    again = factorize(x_v, x_a, anchors, cfg, init=answer)
    assert again.iterations == 1 and again.restart == ""
    assert again.losses["total"] == pytest.approx(answer.losses["total"], rel=1e-5)


@pytest.mark.parametrize("off", [{"penalty_weight": 0.0}, {"penalty": "none"}])
@pytest.mark.parametrize("solver", ["block", "gradient"])
def test_without_penalty_it_is_two_separate_factorizations(solver, off):
    x_v, x_a, anchors, _ = random_problem(3)
    _, other_a, _, _ = random_problem(4)
    other_v = random_problem(5)[0]
    cfg = FactorizationConfig(solver=solver, n_factors=3, max_iterations=20, **off)
    f = factorize(x_v, x_a, anchors, cfg)
    changed_sound, changed_image = factorize(x_v, other_a, anchors, cfg), factorize(other_v, x_a, anchors, cfg)
    assert torch.equal(f.visual_activations, changed_sound.visual_activations)
    assert torch.equal(f.audio_factors, changed_image.audio_factors)


@pytest.mark.parametrize("binding", ["recent", "penalty"])
def test_known_factors_are_recovered(binding):
    """Exact products of sparse factors: the residual vanishes and each planted row is found."""
    g = torch.Generator().manual_seed(0)
    k, n, t, c = 4, 80, 40, 24
    v_v, v_a = torch.rand(k, c, generator=g) ** 4, torch.rand(k, c, generator=g) ** 4
    u_v = torch.eye(k)[torch.arange(n) % k] * (0.6 + 0.4 * torch.rand(n, 1, generator=g))
    u_a = torch.eye(k)[torch.arange(t) % k] * (0.6 + 0.4 * torch.rand(t, 1, generator=g))
    x_v, x_a = (u_v @ v_v).double(), (u_a @ v_a).double()
    anchors = random_problem(1, c=c, ca=c)[2]
    f = factorize(x_v, x_a, anchors, FactorizationConfig(n_factors=k, binding=binding, penalty="none", max_iterations=200))
    assert f.losses["visual_reconstruction"] < 0.02 * float(x_v.norm())
    found = torch.nn.functional.normalize(f.visual_factors, dim=-1) @ torch.nn.functional.normalize(v_v.double(), dim=-1).T
    assert float(found.max(0).values.min()) > 0.99


def test_the_sounding_object_is_outlined():
    scores = []
    for seed in range(12):
        x_v, x_a, anchors, truth = planted_scene(seed)
        f = factorize(x_v, x_a, anchors, FactorizationConfig(n_factors=6))
        column = f.visual_activations[:, f.sounding].reshape(truth.shape)
        scores.append(iou(column > 0.5 * column.max(), truth))
        heard = f.audio_factors[f.sounding]
        assert float(torch.cosine_similarity(heard, x_a[-1], dim=0)) > 0.9
    assert sum(scores) / len(scores) > 0.85, scores


def test_a_batch_equals_its_frames_one_by_one():
    scenes = [planted_scene(seed) for seed in range(4)]
    anchors = scenes[0][2]
    for cfg in (FactorizationConfig(n_factors=5), FactorizationConfig(n_factors=5, binding="penalty")):
        batch = factorize(torch.stack([s[0] for s in scenes]), torch.stack([s[1] for s in scenes]), anchors, cfg)
        for scene, together in zip(scenes, batch):
            alone = factorize(scene[0], scene[1], anchors, cfg)
            assert alone.sounding == together.sounding
            for a, b in zip(parts(alone), parts(together)):
                torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_warm_and_cold_frames_share_a_batch():
    scenes = [planted_scene(seed) for seed in range(3)]
    anchors, cfg = scenes[0][2], FactorizationConfig(n_factors=5)
    x_v, x_a = torch.stack([s[0] for s in scenes]), torch.stack([s[1] for s in scenes])
    first = factorize(x_v, x_a, anchors, cfg)
    mixed = factorize(x_v, x_a, anchors, cfg, init=[first[0], None, first[2]], previous=[first[0], None, first[2]])
    assert [f.restart for f in mixed] == ["", "cold", ""] and [f.iterations for f in mixed] == [2, 2, 2]
    torch.testing.assert_close(mixed[1].visual_activations, first[1].visual_activations, rtol=1e-3, atol=1e-3)


def test_start_and_box_are_switchable():
    x_v, x_a, anchors, _ = random_problem(1)
    guided, rough, free = (
        factorize(x_v, x_a, anchors, FactorizationConfig(n_factors=5, penalty_weight=5000.0, **change))
        for change in ({}, {"start": "random"}, {"trust_region": 0.0})
    )
    assert not torch.allclose(guided.visual_activations, rough.visual_activations)
    assert not torch.allclose(guided.visual_activations, free.visual_activations)


# The temporal term: the sounding factors are drawn to those of the frame before, or of the neighbours in a clip.


def cosine_to(f, past):
    """Cosines of the sounding factors of image and sound with those of ``past``."""
    return [
        float(torch.cosine_similarity(a[f.sounding], b[past.sounding], dim=0))
        for a, b in ((f.visual_factors, past.visual_factors), (f.audio_factors, past.audio_factors))
    ]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("binding", ["recent", "penalty"])
def test_the_causal_term_draws_the_sounding_factors_to_the_past(binding, seed):
    """One factor, so that no other can take its place."""
    x_v, x_a, anchors, _ = random_problem(seed)
    past = as_init(random_problem(seed + 50, k=1)[3])
    init = as_init(random_problem(seed, k=1)[3])

    def solved(weight, temporal="causal"):
        cfg = FactorizationConfig(n_factors=1, binding=binding, temporal=temporal, temporal_weight=weight)
        return factorize(x_v, x_a, anchors, cfg, init=init, previous=past)

    without, little, much = solved(1.0, "none"), solved(0.05), solved(0.2)
    for none, some, more in zip(cosine_to(without, past), cosine_to(little, past), cosine_to(much, past)):
        assert none < some < more
    assert much.losses["temporal"] == pytest.approx(sum(cosine_to(much, past)), abs=1e-6) and without.losses["temporal"] == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_joint_term_draws_neighbours_to_each_other(seed):
    made = [random_problem(seed + i, k=1) for i in range(3)]
    x_v, x_a = torch.stack([m[0] for m in made]), torch.stack([m[1] for m in made])
    found = {}
    for temporal in ("none", "joint"):
        cfg = FactorizationConfig(n_factors=1, binding="penalty", temporal=temporal, temporal_weight=0.02)
        clip = factorize(x_v, x_a, made[0][2], cfg, init=[as_init(m[3]) for m in made])
        found[temporal] = [cosine_to(a, b) for a, b in zip(clip, clip[1:])]
    for none, joint in zip(zip(*found["none"]), zip(*found["joint"])):  # of the image, then of the sound
        assert sum(joint) > sum(none)


@pytest.mark.parametrize("weight", [1.0, 0.4])
@pytest.mark.parametrize("visual", [True, False])
def test_the_pull_is_on_the_sounding_row_by_its_slope(visual, weight):
    """Activations that do not overlap make the rows independent: each is its least squares, the sounding one less the slope."""
    x_v, x_a, anchors, _ = random_problem(1, n=36, t=12)
    problem = as_problem(x_v, x_a, anchors, FactorizationConfig(n_factors=3, temporal_weight=0.7))
    problem.previous_visual, problem.previous_audio = (unit(torch.rand(1, c).double()) for c in (10, 9))
    u_v, u_a = (torch.eye(3).repeat_interleave(n // 3, 1)[None].double() * 0.5 for n in (36, 12))
    v_v, v_a = torch.rand(1, 3, 10).double(), torch.rand(1, 3, 9).double()
    sides = [
        Side(x, square, weight, u, v.clone(), u @ x, side)
        for x, square, u, v, side in (
            (problem.visual, problem.visual_square, u_v, v_v, True),
            (problem.audio, problem.audio_square, u_a, v_a, False),
        )
    ]
    solver = BlockSolver(problem, *sides, torch.tensor([1]))
    side, before, past = (sides[0], v_v, problem.previous_visual) if visual else (sides[1], v_a, problem.previous_audio)
    side.measure_norm()
    solver.update_factors(side, False)
    gram = float(side.u[0, 0] @ side.u[0, 0])
    row = before[0, 1].clone().requires_grad_()
    torch.cosine_similarity(row, past[0], dim=0).backward()
    wanted = side.cross[0] / gram
    wanted[1] += problem.temporal_weight * float(side.norm) / weight * row.grad / gram
    torch.testing.assert_close(side.v[0], wanted.clamp_min(0))


# Binding: which factor sounds, and which sound is its partner.


@pytest.mark.parametrize("shift", range(4))
def test_the_partner_of_the_sounding_factor_is_the_factor_of_the_newest_sound(shift):
    """Whatever the order of the sound's factors at the start."""
    x_v, x_a, anchors, _ = planted_scene(3)
    x_a = torch.cat([planted_scene(5)[1][:8], x_a[8:]])
    cfg = FactorizationConfig(n_factors=4, temporal="none")
    first = factorize(x_v, x_a, anchors, cfg)
    moved = dataclasses.replace(
        first, audio_activations=first.audio_activations.roll(shift, 1), audio_factors=first.audio_factors.roll(shift, 0)
    )
    f = factorize(x_v, x_a, anchors, cfg, init=moved)
    weights = torch.linspace(-4, 0, len(x_a)).exp()
    near = torch.cosine_similarity(f.audio_factors, (weights / weights.sum() @ x_a)[None], dim=-1)
    assert f.restart == "" and int(near.argmax()) == f.sounding
    assert float(near[f.sounding]) > 0.9
    loudest = f.audio_activations[-4:].mean(0)
    assert int(loudest.argmax()) == f.sounding, "its activations went with it"


@pytest.mark.parametrize(("tokens", "sounds"), [(2, False), (12, True)])
def test_a_factor_of_few_tokens_does_not_sound(tokens, sounds):
    """Factor 1 shows the word itself on so many tokens, factor 0 something that is half the word on half of the picture."""
    g = torch.Generator().manual_seed(0)
    words = torch.eye(6) + 0.05 * torch.rand(6, 6, generator=g)
    anchors = Anchors(tuple("abcdef"), words, torch.eye(6), None, 20.0)
    half = (words[0] + words[1])[None]
    x_v = torch.cat([words[:1].expand(tokens, -1), half.expand(32, -1), words[2:3].expand(32 - tokens, -1)])
    x_v = 5 * x_v + 0.01 * torch.rand(64, 6, generator=g)
    x_a = torch.eye(6)[:1].expand(12, 6) + 0.01 * torch.rand(12, 6, generator=g)
    u = torch.zeros(64, 3)
    u[:tokens, 1], u[tokens : tokens + 32, 0], u[tokens + 32 :, 2] = 0.9, 0.9, 0.9
    init = Factorization(
        u, 5 * torch.stack([half[0], words[0], words[2]]), torch.rand(12, 3, generator=g), torch.rand(3, 6, generator=g), 0
    )
    f = factorize(x_v, x_a, anchors, FactorizationConfig(n_factors=3, merge="never"), init=init)
    assert float(f.visual_activations[:, 1].sum()) == pytest.approx(tokens, rel=0.3)
    assert f.sounding == (1 if sounds else 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_image_s_activations_are_at_rest_given_the_factors(seed):
    """One more pass over the columns of U, by hand, moves them by less than 0.4 % (2 % after two passes, 8 % after one)."""
    x_v, x_a, anchors, _ = random_problem(seed, n=60, c=12)
    f = factorize(x_v, x_a, anchors, FactorizationConfig(n_factors=5, penalty="none", merge="never"))
    u, v = f.visual_activations.clone(), f.visual_factors
    for k in range(5):
        rest = x_v - u @ v + u[:, k : k + 1] * v[k]
        u[:, k] = (rest @ v[k] / (v[k] @ v[k])).clamp(0, 1)
    assert float((u - f.visual_activations).norm() / u.norm()) < 0.004


def test_the_penalty_moves_the_sounding_activations_by_the_box_at_most_both_ways():
    x_v, x_a, anchors, start = random_problem(2)
    problem = as_problem(x_v, x_a, anchors, FactorizationConfig(n_factors=3, penalty_weight=5000.0))
    state = [part[None].mT.contiguous() if i % 2 == 0 else part[None] for i, part in enumerate(start)]
    x = ((problem.visual, problem.visual_square, True), (problem.audio, problem.audio_square, False))
    sides = [Side(t, square, 1.0, u, v, u @ t, visual) for (t, square, visual), u, v in zip(x, state[::2], state[1::2])]
    solver = BlockSolver(problem, *sides, None)
    heard = torch.nn.functional.cosine_similarity(anchors.audio_projection(problem.recent), anchors.audio, dim=-1)
    torch.testing.assert_close(solver.target[0, 0], (anchors.audio_logit_scale * heard).softmax(-1).detach())
    found, _ = solver.run(2)
    k = int(found.sounding)
    moved = found.visual_u[0, k] - solver.trusted[0, k]
    assert float(moved.max()) == pytest.approx(0.1) and float(moved.min()) == pytest.approx(-0.1)


def test_of_an_image_of_few_tokens_some_factor_sounds_all_the_same():
    """No factor can have the least area: the one that fits sounds, wherever it stands."""
    for seed in range(6):
        words = torch.eye(5)[torch.randperm(5, generator=torch.Generator().manual_seed(seed))]
        anchors = Anchors(tuple("abcde"), words, torch.eye(5), None, 20.0)
        f = factorize(5 * words[:3], torch.eye(5)[:1].expand(4, 5), anchors, FactorizationConfig(n_factors=3, start="random"))
        assert float(torch.cosine_similarity(f.visual_factors[f.sounding], words[0], dim=0)) > 0.9


@pytest.mark.parametrize("solver", ["block", "gradient"])
def test_a_start_outside_its_range_is_brought_into_it(solver):
    x_v, x_a, anchors, start = random_problem(4)
    cfg = FactorizationConfig(solver=solver, n_factors=3, max_iterations=2)
    wild = [3 * part - 1 for part in start]
    tame = [part.clamp(0, 1) if i % 2 == 0 else part.clamp(min=0) for i, part in enumerate(wild)]
    a, b = (factorize(x_v, x_a, anchors, cfg, init=as_init(tuple(given))) for given in (wild, tame))
    for x, y in zip(parts(a), parts(b)):
        assert torch.equal(x, y)
