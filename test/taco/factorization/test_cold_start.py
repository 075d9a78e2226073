"""Where the solvers begin: the paper's k-means and random activations, and our clusters guided by the sound."""

import pytest
import torch

from taco.config import FactorizationConfig
from taco.factorization import cold_start, factorize
from taco.factorization.cold_start import guided_draws, guided_start, lloyd, low_rank_scores, plus_plus, smoothed
from test.taco.factorization.made_problems import as_problem, planted_scene, quarters, random_problem
from test.taco.factorization.reference import kmeans

K = 5
PAPER = FactorizationConfig(solver="gradient", n_factors=K, max_iterations=1, learning_rate=1e-6)


def started(seed, n=90):
    """The paper's start (one step of next to no length) and the random numbers that it drew."""
    x_v, x_a, anchors, _ = random_problem(seed, n=n, t=40, c=6, ca=5)
    f = factorize(x_v, x_a, anchors, PAPER, generator=torch.Generator().manual_seed(seed))
    g = torch.Generator().manual_seed(seed)
    rand, randn = ({"generator": g, "dtype": torch.float64} for _ in range(2))
    draws = torch.rand(8, K, **rand), torch.rand(8, K, **rand), torch.randn(K, n, **randn), torch.randn(K, 40, **randn)
    return f, x_v, x_a, draws


@pytest.mark.parametrize("seed", range(4))
def test_the_paper_starts_at_the_best_of_eight_k_means_and_random_activations(seed):
    f, x_v, x_a, draws = started(seed)
    torch.testing.assert_close(f.visual_factors, kmeans(x_v, draws[0]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(f.audio_factors, kmeans(x_a, draws[1]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(f.visual_activations, draws[2].sigmoid().T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(f.audio_activations, draws[3].sigmoid().T, atol=1e-4, rtol=1e-4)


def test_each_part_of_k_means_matters_here():
    """Or the test above could not tell: fewer restarts, fewer iterations and other seeds end elsewhere."""
    f, x_v, _, draws = started(1)
    for other in (kmeans(x_v, draws[0][:1]), kmeans(x_v, draws[0], 3), kmeans(x_v, draws[0][4:])):
        assert not torch.allclose(f.visual_factors, other, atol=1e-2)


def guided(seed, quiet=False, **settings):
    x_v, x_a, anchors, truth = planted_scene(seed)
    problem = as_problem(x_v, x_a, anchors, FactorizationConfig(n_factors=6, **settings), grid=None if quiet else (12, 12))
    g = torch.Generator().manual_seed(seed)
    draws = tuple(torch.rand(shape, generator=g)[None] for _, shape in guided_draws(problem))
    return problem, guided_start(problem, draws), truth


@pytest.mark.parametrize("seed", range(6))
def test_factor_0_is_the_cluster_that_fits_the_sound(seed):
    problem, state, truth = guided(seed)
    heard = problem.recent_logits[0, 0].softmax(-1)
    d = torch.cosine_similarity(state.visual_v[0][:, None], problem.bank.visual[None], dim=-1)
    entropies = -(heard * d.log_softmax(-1)).sum(-1)
    enough = (state.visual_u[0] > 0.5).sum(-1) >= 6
    assert int(entropies.masked_fill(~enough, torch.inf).argmin()) == 0 and state.sounding.tolist() == [0]
    mask = (state.visual_u[0, 0] > 0.5).view(truth.shape)
    assert float((mask & truth).sum() / (mask | truth).sum()) > 0.4
    torch.testing.assert_close(state.visual_u.unique(), torch.tensor([0.02, 0.9]))


@pytest.mark.parametrize("seed", range(6))
def test_the_sound_s_factor_0_is_the_newest_sound(seed):
    problem, state, _ = guided(seed)
    assert torch.equal(state.audio_v[0, 0], problem.recent[0])
    means = [problem.audio[0][row > 0.5].mean(0) for row in state.audio_u[0] if (row > 0.5).any()]
    near = torch.cosine_similarity(torch.stack(means), problem.recent, dim=-1)
    assert int(near.argmax()) == 0, "it has the tokens of the cluster nearest to it"


def test_without_a_penalty_the_sound_has_no_say():
    problem, state, _ = guided(2, penalty="none")
    assert not torch.equal(state.audio_v[0, 0], problem.recent[0])
    other = as_problem(problem.visual[0], planted_scene(5)[1], problem.bank.anchors, problem.config, grid=(12, 12))
    g = torch.Generator().manual_seed(2)
    draws = tuple(torch.rand(shape, generator=g)[None] for _, shape in guided_draws(other))
    assert torch.equal(guided_start(other, draws).visual_u, state.visual_u)


def test_a_cluster_of_few_tokens_is_not_what_sounds():
    """Five tokens that are the word itself, and an object of forty that is nearly it: the object is meant."""
    x_v, x_a, anchors, label = quarters(0, side=12)
    word = anchors.visual[int((anchors.audio @ x_a.mean(0)).argmax())]
    x_v = x_v.clone()
    x_v[:5] = 30 * torch.nn.functional.normalize(word, dim=0)
    problem = as_problem(x_v, x_a, anchors, FactorizationConfig(n_factors=6), grid=(12, 12))
    draws = tuple(torch.rand(shape, generator=torch.Generator().manual_seed(1))[None] for _, shape in guided_draws(problem))
    state = guided_start(problem, draws)
    assert int((state.visual_u[0, 0] > 0.5).sum()) >= 6


def test_half_of_the_restarts_are_seeded_at_the_tokens_nearest_to_the_word_heard(monkeypatch):
    given = []

    def spy(points, uniforms, first=None):
        given.append((uniforms.shape, first))
        return plus_plus(points, uniforms, first)

    monkeypatch.setattr(cold_start, "plus_plus", spy)
    problem, _, _ = guided(1)
    (shape, first), (shape_a, first_a) = given
    assert shape == (1, 8, 6) and shape_a == (1, 4, 6) and first_a is None
    heard, words = problem.recent_logits[0, 0].softmax(-1), torch.nn.functional.normalize(problem.bank.anchors.visual, dim=-1)
    nearest = (problem.visual[0] @ (heard @ words - words.mean(0))).argsort(descending=True)[:8]
    assert first.shape == (1, 4) and set(first[0].tolist()) <= set(nearest.tolist()) and len(set(first[0].tolist())) > 1


def test_seeds_are_drawn_by_squared_distance_and_given_ones_stand_first():
    points = torch.tensor([[0.0], [0.0], [1.0], [3.0]])[None]
    uniforms = torch.tensor([[0.3, 0.05], [0.3, 0.2], [0.3, 0.99]])[None]  # from token 1, the squares are 0, 0, 1, 9
    assert plus_plus(points, uniforms)[0].tolist() == [[1, 2], [1, 3], [1, 3]]
    got = plus_plus(points, uniforms, torch.tensor([[3, 3]]))[0].tolist()  # from token 3 they are 9, 9, 4, 0
    assert got == [[3, 0], [3, 0], [1, 3]]
    alike = plus_plus(torch.ones(1, 10, 2), torch.rand(1, 2, 4, generator=torch.Generator().manual_seed(0)))
    assert len(set(alike[0, 0].tolist())) > 1, "all points alike: evenly drawn, not the first one over and over"


def test_an_empty_cluster_keeps_its_centre():
    points = torch.tensor([[0.0], [1.0], [10.0], [11.0]])[None]
    centres, labels, inertia = lloyd(points, torch.tensor([[[0.0], [11.0], [500.0]]])[None], 5)
    assert centres[0, 0].flatten().tolist() == [0.5, 10.5, 500.0] and labels.tolist() == [[[0, 0, 1, 1]]]
    assert inertia.tolist() == [[pytest.approx(1.0)]]


def test_scores_are_smoothed_half_and_half_by_their_3_x_3_means():
    scores = torch.rand(1, 12, 2, generator=torch.Generator().manual_seed(0))
    got, image = smoothed(scores, (3, 4)), scores.view(3, 4, 2)
    for y in range(3):
        for x in range(4):
            near = image[max(0, y - 1) : y + 2, max(0, x - 1) : x + 2].reshape(-1, 2).mean(0)
            torch.testing.assert_close(got[0, 4 * y + x], (image[y, x] + near) / 2)
    assert smoothed(scores, None) is scores and smoothed(scores, (1, 12)) is scores


def test_smoothing_makes_the_clusters_whole():
    """In noise, more tokens lie in the cluster of their own object where the grid is known."""

    def purity(grid):
        pure = []
        for seed in range(6):
            x_v, x_a, anchors, label = quarters(seed, noise=1.6)
            problem = as_problem(x_v, x_a, anchors, FactorizationConfig(n_factors=4), grid=grid)
            g = torch.Generator().manual_seed(seed)
            draws = tuple(torch.rand(shape, generator=g)[None] for _, shape in guided_draws(problem))
            labels = guided_start(problem, draws).visual_u[0].argmax(0)
            counts = torch.stack([torch.bincount(label.flatten()[labels == k], minlength=4) for k in range(4)])
            pure.append(float(counts.amax(1).sum() / 256))
        return sum(pure) / 6

    assert purity((16, 16)) > purity(None) + 0.02


def test_low_rank_scores_keep_what_the_largest_directions_hold():
    """Against a singular value decomposition: nearly all of the energy that rank 6 can hold (after one step, 96 %)."""
    x_v = quarters(1, noise=1.0)[0]
    scores = low_rank_scores(x_v[None], 6)[0]
    best = torch.linalg.svdvals(x_v)[:6].square().sum()
    assert scores.shape == (256, 6) and 0.985 < float(scores.square().sum() / best) <= 1


@pytest.mark.parametrize("solver", ["block", "gradient"])
def test_frames_of_a_batch_draw_one_after_another(solver):
    x_v, x_a, anchors, _ = random_problem(1)
    config = FactorizationConfig(solver=solver, n_factors=3, max_iterations=1)
    batch = factorize(torch.stack([x_v] * 2), torch.stack([x_a] * 2), anchors, config, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(5)
    alone = [factorize(x_v, x_a, anchors, config, generator=g) for _ in range(2)]
    for one, together in zip(alone, batch):
        torch.testing.assert_close(one.visual_activations, together.visual_activations)
    assert not torch.allclose(batch[0].visual_activations, batch[1].visual_activations)
