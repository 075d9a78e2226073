"""An object is all of its factors: what is merged, what stays apart, and what becomes of the factors that are free then."""

import dataclasses
import statistics

import pytest
import torch

from taco.config import FactorizationConfig
from taco.factorization import factorize
from taco.factorization.anchors import prepared_anchors
from taco.factorization.grouping import merge_factors, revive_idle
from taco.factorization.objective import Problem, SolverProducts, State, loss_terms
from taco.types import Anchors
from test.taco.factorization.made_problems import column_iou, quarters, random_problem
from test.taco.factorization.reference import frame_loss

CFG = FactorizationConfig()
SIZES = [(12, 48), (16, 64), (24, 160)]


def solved(seed, side=16, c=64, config=CFG, **past):
    x_v, x_a, anchors, label = quarters(seed, side, c)
    generator = torch.Generator().manual_seed(seed)
    return factorize(x_v, x_a, anchors, config, generator=generator, **past), label


def active(f):
    return f.visual_activations.sum(0) > 0


@pytest.mark.parametrize(("side", "c"), SIZES)
def test_the_sounding_factor_is_the_whole_object(side, c):
    whole, split = [], []
    for seed in range(12):
        f, label = solved(seed, side, c)
        whole.append(column_iou(f, f.sounding, label == 0))
        f, _ = solved(seed, side, c, dataclasses.replace(CFG, merge="never"))
        split.append(column_iou(f, f.sounding, label == 0))
    assert min(whole) > 0.85, whole
    assert statistics.fmean(split) < 0.7, "the problem must be one that splits things"


def test_the_factors_of_other_objects_stay_as_they_are():
    for seed in range(6):
        x_v, x_a, anchors, label = quarters(seed)
        plain, whole = (factorize(x_v, x_a, anchors, dataclasses.replace(CFG, merge=m)) for m in ("never", "auto"))
        k, same = whole.sounding, []
        for j in range(8):
            if whole.visual_activations[:, j].any() and j != k:
                assert torch.equal(whole.visual_activations[:, j], plain.visual_activations[:, j])
                assert torch.equal(whole.visual_factors[j], plain.visual_factors[j])
                same.append(j)
        assert len(same) >= 3, "three other things"
        thing = label == label.flatten()[whole.visual_activations[:, k].argmax()]
        assert all(column_iou(whole, j, thing) < 0.2 for j in same)


def test_losses_are_those_of_the_merged_factors():
    x_v, x_a, anchors, _ = quarters(3)
    plain, whole = (factorize(x_v, x_a, anchors, dataclasses.replace(CFG, merge=m)) for m in ("never", "auto"))
    assert int(active(whole).sum()) < int(active(plain).sum())
    parts = (whole.visual_activations, whole.visual_factors, whole.audio_activations, whole.audio_factors)
    loss, _ = frame_loss(x_v, x_a, *parts, anchors, dataclasses.replace(CFG, penalty="none"))
    reconstructions = whole.losses["visual_reconstruction"] + whole.losses["audio_reconstruction"]
    assert reconstructions == pytest.approx(float(loss), rel=1e-4)
    by_hand = frame_loss(x_v, x_a, *parts, anchors, CFG)[0] - loss
    assert CFG.penalty_weight * whole.losses["penalty"] == pytest.approx(float(by_hand), rel=1e-4)
    assert whole.losses["visual_reconstruction"] < 1.02 * plain.losses["visual_reconstruction"]


def test_a_warm_stream_keeps_the_object_whole_and_its_factor():
    for seed in range(4):
        f, label = solved(seed)
        x_v, x_a, anchors, _ = quarters(seed)
        g = torch.Generator().manual_seed(seed)
        k = f.sounding
        for _ in range(25):
            noisy = (x_v + 0.2 * torch.randn(x_v.shape, generator=g)).clamp(min=0)
            f = factorize(noisy, x_a, anchors, CFG, init=f, previous=f)
            assert f.restart == "" and f.sounding == k
            assert column_iou(f, k, label == 0) > 0.85, seed


@pytest.mark.parametrize("seed", range(3))
def test_a_free_factor_takes_up_what_comes_into_view(seed):
    """After a merge few factors are active; a new object in the picture, with no cut, gets one."""
    x_v, x_a, anchors, label = quarters(seed)
    f = factorize(x_v, x_a, anchors, CFG)
    assert int(active(f).sum()) < 8
    fresh = torch.randn(64, generator=torch.Generator().manual_seed(99)).clamp(min=0)
    new = torch.zeros_like(label, dtype=torch.bool)
    new[6:10, 6:10] = True
    x_v = x_v.clone()
    x_v[new.flatten()] = 10 * torch.nn.functional.normalize(fresh, dim=0)
    for _ in range(2):
        f = factorize(x_v, x_a, anchors, CFG, init=f, previous=f)
        assert f.restart == ""
    k = max(range(8), key=lambda k: column_iou(f, k, new))
    assert column_iou(f, k, new) > 0.8
    assert float(torch.cosine_similarity(f.visual_factors[k], fresh, dim=0)) > 0.9


def test_the_papers_solver_and_binding_merge_only_when_told():
    x_v, x_a, anchors, label = quarters(1)
    for change in ({"solver": "gradient", "max_iterations": 40}, {"binding": "penalty"}):
        plain, never, always = (
            factorize(x_v, x_a, anchors, FactorizationConfig(merge=m, **change)) for m in ("auto", "never", "always")
        )
        assert torch.equal(plain.visual_activations, never.visual_activations)
        assert torch.equal(plain.visual_factors, never.visual_factors)
        assert int(active(always).sum()) < int(active(plain).sum()) == 8


def test_a_batch_merges_each_frame_by_itself():
    made = [quarters(seed) for seed in range(4)]
    batch = factorize(torch.stack([m[0] for m in made]), torch.stack([m[1] for m in made]), made[0][2], CFG)
    for m, together in zip(made, batch):
        alone = factorize(m[0], m[1], made[0][2], CFG)
        assert torch.equal(active(alone), active(together)) and alone.sounding == together.sounding
        torch.testing.assert_close(alone.visual_activations, together.visual_activations, rtol=1e-3, atol=1e-3)


# By hand: two rows of five show the same.


def by_hand(v, u, anchors=None, sounding=0, grid=None, **settings):
    """merged() of given rows v (K, C) and activations u (K, N) of the tokens that they make."""
    u, v = torch.tensor(u)[None], torch.tensor(v)[None]
    x_v, x_a = u.mT @ v, torch.rand(1, 5, 4)
    k, c = v.shape[1:]
    anchors = anchors or Anchors(("a", "b", "c"), torch.eye(3, c), torch.rand(3, 4), None, 5.0)
    bank = prepared_anchors(anchors, 4, torch.float32, x_v.device)
    config = FactorizationConfig(n_factors=k, **settings)
    heard = bank.audio_logits(x_a.mean(1, keepdim=True), grad=False)[0]
    squares = x_v.square().sum((-1, -2)), x_a.square().sum((-1, -2))
    problem = Problem(x_v, x_a, *squares, bank, config, x_a.mean(1), heard, grid)
    state = State(u, v, torch.rand(1, k, 5), torch.rand(1, k, 4), torch.tensor([sounding]))
    return merge_factors(problem, state), problem


V = [[4.0, 0.0, 0.0, 0.0], [2.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]]
U = [[0.5, 0.5, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 0.0, 0.7]]


def test_parallel_rows_become_one_and_nothing_is_lost():
    state, problem = by_hand(V, U, sounding=0)
    assert state.sounding.tolist() == [0]
    assert not state.visual_u[0, 1].any() and not state.visual_v[0, 1].any()
    torch.testing.assert_close(state.visual_u.mT @ state.visual_v, problem.visual)
    assert float(state.visual_u.max()) <= 1.0
    (
        torch.testing.assert_close(state.visual_u[0, 2], torch.tensor(U[2])),
        torch.testing.assert_close(state.visual_v[0, 2], torch.tensor(V[2])),
    )


def test_activations_that_add_up_to_more_than_one_are_scaled():
    state, problem = by_hand([V[0], V[0], V[2]], [[0.9, 0.9, 0, 0, 0], [0.8, 0.0, 0.8, 0, 0], U[2]])
    assert float(state.visual_u.max()) == pytest.approx(1.0)
    torch.testing.assert_close(state.visual_u.mT @ state.visual_v, problem.visual)
    assert float(loss_terms(problem, state)["visual_reconstruction"]) < 1e-3


@pytest.mark.parametrize(
    ("sounding", "settings", "left"),
    [
        (0, {}, [True, False, True]),
        (1, {}, [False, True, True]),
        (2, {}, [True, True, True]),  # the object of the other two is not the sounding one
    ],
)
def test_what_shows_the_sounding_object_goes_into_the_sounding_factor(sounding, settings, left):
    state, _ = by_hand(V, U, sounding=sounding, **settings)
    assert state.visual_u[0].any(-1).tolist() == left and state.sounding.tolist() == [sounding]


def test_without_a_penalty_the_sound_has_no_say_and_nothing_is_merged():
    x_v, x_a, anchors, _ = quarters(3)
    for settings in ({"penalty": "none"}, {"penalty_weight": 0.0}):
        off, on = (factorize(x_v, x_a, anchors, dataclasses.replace(CFG, merge=m, **settings)) for m in ("never", "always"))
        assert torch.equal(off.visual_activations, on.visual_activations)


def test_parts_that_do_not_touch_stay_two():
    """Rows alike: side by side they are one object, with a gap of tokens between them two."""
    rows = [[1.0, 0, 0, 0], [0.99, 0.14, 0, 0], [0, 0, 1.0, 0]]
    near, far = torch.zeros(3, 12), torch.zeros(3, 12)
    near[0, :3] = near[1, 3:6] = near[2, 6:] = 1
    far[0, :3] = far[1, 9:] = far[2, 4:8] = 1
    for activations, left in ((near, 2), (far, 3)):
        state, _ = by_hand(rows, activations.tolist(), grid=(1, 12))
        assert int(state.visual_u[0].any(-1).sum()) == left


def test_groups_are_joined_by_way_of_others():
    """Each row is alike to the next, the first and the last are not."""
    turned = [[1.0, 0.0, 0, 0], [0.92, 0.392, 0, 0], [0.693, 0.721, 0, 0], [0.0, 0.0, 1.0, 0.0]]
    state, _ = by_hand(turned, torch.eye(4, 6).tolist())
    assert int(state.visual_u[0].any(-1).sum()) == 2


@pytest.mark.parametrize(("cosine", "left"), [(0.65, 3), (0.8, 3), (0.93, 2), (0.96, 2)])
def test_how_alike_rows_must_be(cosine, left):
    second = [cosine, (1 - cosine**2) ** 0.5, 0.0, 0.0]
    state, _ = by_hand([[1.0, 0, 0, 0], second, [0, 0, 1.0, 0]], torch.eye(3, 6).tolist())
    assert int(state.visual_u[0].any(-1).sum()) == left


@pytest.mark.parametrize(
    ("others", "scale", "size", "left"),
    [
        (None, None, 9.0, 3),  # a softmax over the bank alone is sure of whatever is in it
        (torch.eye(4)[3:], None, 9.0, 2),
        (torch.eye(4)[3:].expand(300, 4), None, 0.05, 3),  # seen so faintly that it might be something else
        (None, 20.0, 9.0, 3),
        (torch.eye(4)[3:], 20.0, 9.0, 2),  # cosines with a scale of their own
        (torch.eye(4)[3:].expand(300, 4), 0.1, 9.0, 3),
    ],
)
def test_different_rows_of_one_word_become_one_where_both_are_sure(others, scale, size, left):
    """Head and tail: rows with a cosine of 0.5, both nearest to word a; the third is b."""
    words = torch.tensor([[1.0, 0, 1.0, 0], [0, 1.0, 0, 0], [0, 1.0, 0, 1.0]]) / 2**0.5
    anchors = Anchors(("a", "b", "c"), words, torch.rand(3, 4), None, 5.0, visual_logit_scale=scale, visual_others=others)
    rows = [[size, 0.1 * size, 0.36 * size, 0], [0.36 * size, 0.0, size, 0.0], [0, size, 0, 0]]
    state, _ = by_hand(rows, torch.eye(3, 6).tolist(), anchors)
    assert int(state.visual_u[0].any(-1).sum()) == left


def test_a_part_that_looks_different_counts_in_full():
    """Parallel rows keep the reconstruction; of one word but another look, each token of a part is as much of the object."""
    words = torch.tensor([[1.0, 0, 1.0, 0], [0, 1.0, 0, 0], [0, 1.0, 0, 1.0]]) / 2**0.5
    anchors = Anchors(("a", "b", "c"), words, torch.rand(3, 4), None, 5.0, visual_others=torch.eye(4)[3:])
    head, tail = [9.0, 1.0, 3.0, 0], [3.0, 0.0, 9.0, 0.0]
    u = [[0.8, 0.0, 0.0, 0.0, 0.0], [0.0, 0.4, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 1.0]]
    state, _ = by_hand([head, tail, [0, 9.0, 0, 0]], u, anchors)
    assert state.visual_u[0, 0].tolist() == pytest.approx([0.8, 0.4, 0.4, 0.0, 0.0])
    torch.testing.assert_close(state.visual_v[0, 0], (torch.tensor(head) + torch.tensor(tail)) / 2)
    assert torch.equal(state.visual_u[0, 2], torch.tensor(u[2]))


def test_factors_without_activation_are_of_no_group():
    state, _ = by_hand([V[0], V[0], V[2]], [U[0], [0.0] * 5, U[2]], sounding=2)
    torch.testing.assert_close(state.visual_u[0, 0], torch.tensor(U[0]))
    torch.testing.assert_close(state.visual_v[0, 1], torch.tensor(V[0]))


def test_idle_factors_point_at_what_is_explained_worst():
    """Three idle factors and two unexplained objects: the first two take one each, in order of their residual."""
    x = torch.tensor([[5.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 3.1, 0, 0], [0, 0, 2.0, 0]])[None]
    u = torch.tensor([[1.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])[None]
    v = torch.tensor([[5.0, 0, 0, 0], [7.0, 7.0, 7.0, 7.0], [0, 0, 0, 0]])[None]
    got = revive_idle(x, u, v)
    torch.testing.assert_close(got[0], torch.tensor([[5.0, 0, 0, 0], [0, 3.1, 0, 0], [0, 0, 2.0, 0]]))
    assert revive_idle(x, torch.ones_like(u), v) is v


def test_merging_and_reviving_take_random_problems_as_they_come():
    for seed in range(5):
        x_v, x_a, anchors, _ = random_problem(seed)
        f = factorize(x_v, x_a, anchors, FactorizationConfig(n_factors=6))
        for _ in range(5):
            f = factorize(x_v, x_a, anchors, FactorizationConfig(n_factors=6), init=f, previous=f)
        assert bool(active(f)[f.sounding]) and torch.isfinite(f.visual_factors).all()
        assert float(f.visual_activations.min()) >= 0 and float(f.visual_activations.max()) <= 1


def sure_words(*visual):
    """Anchors that can be sure of their words: products are logits, and there is something outside the bank."""
    rows = torch.tensor(visual)
    others = torch.full((1, rows.shape[1]), -1.0)
    return Anchors(("a", "b"), rows, torch.rand(len(rows), 4), None, 5.0, visual_others=others)


def test_two_words_that_both_are_sure_of_stay_two_however_parallel():
    rows = [[4.0, 1.0, 0, 0], [4.0, 0, 1.0, 0], [0, 0, 0, 3.0]]
    assert torch.cosine_similarity(torch.tensor(rows[0]), torch.tensor(rows[1]), dim=0) > 0.93
    activations = [[1.0, 1, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 0, 0, 1]]
    left = {}
    for other in ([-9.0, 0, 0, -9.0], [0, -9.0, 9.0, -9.0]):  # the word of the second row, which no row or the second one shows
        state, _ = by_hand(rows, activations, sure_words([0, 9.0, -9.0, -9.0], other))
        left[other[2]] = int(state.visual_u[0].any(-1).sum())
    assert left == {0: 2, 9.0: 3}, "parallel is enough where one of them is sure of no word"


def test_each_factor_counts_as_much_as_it_is_there_and_speaks_for_the_word():
    """The whole answers to the word as its parts did, and its row is their mean by activation times what each says of it."""
    rows, bank = [[4.0, 0, 0, 0], [1.0, 3.0, 0, 0]], sure_words([6.0, 0, 0, 0], [0, 0, 6.0, 0])
    activations = [[0.5, 0.5, 0.5, 0, 0, 0], [0, 0, 0, 0.8, 0, 0]]
    state, _ = by_hand(rows, activations, bank)
    assert state.visual_u[0].any(-1).tolist() == [True, False]
    parts = torch.tensor(activations).T @ (torch.tensor(rows) @ bank.visual[0])
    whole = state.visual_u[0].T @ (state.visual_v[0] @ bank.visual[0])
    torch.testing.assert_close(whole, parts)
    mass = torch.tensor([1.5 * 24.0, 0.8 * 6.0])
    mean = (mass[:, None] * torch.tensor(rows)).sum(0) / mass.sum()
    assert torch.cosine_similarity(state.visual_v[0, 0], mean, dim=0) == pytest.approx(1, abs=1e-5)


def test_faint_traces_do_not_make_two_parts_touch():
    rows = [[1.0, 0, 0, 0], [0.99, 0.14, 0, 0]]
    for trace, left in ((0.3, 2), (0.8, 1)):
        activations = torch.zeros(2, 12)
        activations[0, :3] = activations[1, 9:] = 1
        activations[1, 3:9] = trace
        state, _ = by_hand(rows, activations.tolist(), grid=(1, 12))
        assert int(state.visual_u[0].any(-1).sum()) == left


def test_what_is_known_of_the_factors_follows_them():
    rows, activations = torch.tensor(V)[None], torch.tensor(U)[None]
    plain, problem = by_hand(V, U, sounding=2)
    cross = activations @ problem.visual
    logits = problem.bank.visual_logits(cross)[0]
    known = SolverProducts(cross, torch.rand(1, 3, 4), torch.ones(1), torch.ones(1), logits)
    state = merge_factors(problem, State(activations, rows, plain.audio_u, plain.audio_v, torch.tensor([0]), known))
    torch.testing.assert_close(state.products.visual_cross, state.visual_u @ problem.visual)
    assert not torch.allclose(state.products.visual_cross, cross)
