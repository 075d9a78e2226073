"""What runs on a GPU: the parts that differ, checked on the CPU, and the whole, where a GPU is at hand."""

import dataclasses

import pytest
import torch

from taco.config import FactorizationConfig
from taco.factorization import bounded_lstsq, cuda_graphs, factorize
from taco.factorization.cold_start import gram_schmidt
from taco.types import Anchors
from test.taco.factorization.made_problems import planted_scene

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CFG = FactorizationConfig(n_factors=5)


def parts(f):
    return (f.visual_activations, f.visual_factors, f.audio_activations, f.audio_factors)


@pytest.mark.parametrize("upper", [None, 1.0])
def test_both_row_loops_agree(upper):
    g = torch.Generator().manual_seed(0)
    x, v = torch.rand(2, 30, 9, generator=g), torch.rand(2, 4, 9, generator=g)
    u = torch.rand(2, 4, 30, generator=g)
    gram, cross = v @ v.mT, v @ x.mT
    diagonal = gram.diagonal(dim1=-2, dim2=-1)[..., None]
    others = gram / diagonal - torch.eye(4)
    a, b = u.clone(), u.clone()
    bounded_lstsq._by_torch(a, cross / diagonal, others, upper, 3)
    bounded_lstsq._by_numpy(b, cross / diagonal, others, upper, 3)
    torch.testing.assert_close(a, b)
    c = u.clone()
    bounded_lstsq.solve_rows(c, cross, gram, upper, passes=3)
    torch.testing.assert_close(a, c)
    assert not torch.allclose(a, u)


def test_gram_schmidt_is_orthonormal_and_spans_the_rows():
    y = torch.randn(2, 6, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = gram_schmidt(y)
    torch.testing.assert_close(q @ q.mT, torch.eye(6, dtype=torch.float64).expand(2, -1, -1))
    torch.testing.assert_close((y @ q.mT) @ q, y)


def test_static_buffers_carry_each_calls_values(monkeypatch):
    """The path of a captured graph, with the graph left out: other values of the same shape give other answers."""
    scenes = [planted_scene(seed) for seed in (1, 2)]
    anchors = scenes[0][2]
    plain = [factorize(s[0], s[1], anchors, CFG) for s in scenes]
    warm = factorize(scenes[1][0], scenes[1][1], anchors, CFG, init=plain[1], previous=plain[1])
    run, used = cuda_graphs.run, []
    monkeypatch.setattr(cuda_graphs, "run", lambda key, call, inputs: used.append(1) or run(key, call, inputs, force=True))
    again = [factorize(s[0], s[1], anchors, CFG) for s in scenes]
    again_warm = factorize(scenes[1][0], scenes[1][1], anchors, CFG, init=again[1], previous=again[1])
    for a, b in zip([*plain, warm], [*again, again_warm]):
        assert a.sounding == b.sounding and a.losses == pytest.approx(b.losses)
        for x, y in zip(parts(a), parts(b)):
            assert torch.equal(x, y)
    assert len(used) == 3
    other = dataclasses.replace(CFG, penalty_weight=1000.0)
    assert factorize(scenes[0][0], scenes[0][1], anchors, other).losses["total"] > again[0].losses["total"]


def on_gpu(anchors):
    return Anchors(
        anchors.words, anchors.visual.cuda(), anchors.audio.cuda(), anchors.audio_projection, anchors.audio_logit_scale
    )


@GPU
@pytest.mark.cuda
@pytest.mark.parametrize("config", [CFG, FactorizationConfig(solver="gradient", n_factors=5, max_iterations=50)])
def test_gpu_and_cpu_agree(config):
    x_v, x_a, anchors, _ = planted_scene(1)
    for kw in ({}, {"binding": "penalty"}, {"temporal": "none"}):
        cfg = dataclasses.replace(config, **kw)
        start = factorize(x_v, x_a, anchors, cfg)
        here = factorize(x_v, x_a, anchors, cfg, init=start, previous=start)
        there = factorize(x_v.cuda(), x_a.cuda(), on_gpu(anchors), cfg, init=start, previous=start)
        assert here.sounding == there.sounding and there.visual_activations.is_cuda
        for a, b in zip(parts(here), parts(there)):
            torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-3)


@GPU
@pytest.mark.cuda
def test_a_graph_is_replayed_and_gives_what_kernels_give(monkeypatch):
    anchors = on_gpu(planted_scene(1)[2])
    scenes = [tuple(t.cuda() for t in planted_scene(seed)[:2]) for seed in (1, 2, 3)]
    cuda_graphs._CACHE.clear()
    captured = [factorize(*s, anchors, CFG) for s in scenes]
    assert len(cuda_graphs._CACHE) == 1, "one graph a shape"
    monkeypatch.setattr(cuda_graphs, "ENABLED", False)
    for s, f in zip(scenes, captured):
        eager = factorize(*s, anchors, CFG)
        for a, b in zip(parts(eager), parts(f)):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@GPU
@pytest.mark.cuda
def test_a_solve_never_waits_for_the_host(monkeypatch):
    """Inside the solve any synchronisation is an error (checks before it and reading the result after it may wait)."""
    anchors = on_gpu(planted_scene(1)[2])
    x_v, x_a = (t.cuda() for t in planted_scene(1)[:2])
    factorize(x_v, x_a, anchors, CFG)
    run = cuda_graphs.run

    def strict(*args, **kw):
        torch.cuda.set_sync_debug_mode("error")
        try:
            return run(*args, **kw)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(cuda_graphs, "run", strict)
    monkeypatch.setattr(cuda_graphs, "ENABLED", False)
    factorize(x_v, x_a, anchors, CFG)
