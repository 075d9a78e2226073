"""Properties of the fast solver."""

import dataclasses

import pytest
import torch
from factorization_problems import as_init, planted_scene, random_problem
from factorization_reference import frame_loss

from taco.config import FactorizationConfig
from taco.factorization import factorize


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


def test_the_sounding_thing_is_outlined():
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
