"""The sound's factors beside the image's: which sound goes with which object, when it sounds, and how times are read."""

import dataclasses

import pytest
import torch

from taco.config import FactorizationConfig
from taco.factorization import explain_factors, factorize
from taco.factorization.grouping import pair_sources, pairs_sources, source_activations, word_agreement
from taco.factorization.objective import State, loss_terms
from taco.factorization.temporal import RECENCY, course_change, mean_of_rounds, recency_weights
from taco.types import Anchors, Factorization
from test.taco.factorization.made_problems import as_problem

WORDS = tuple("abcdef")
STEPS = 12


def in_turn(*order, side=6, scale=20.0):
    """Thirds of an image show a, b, c; the sound is one word after the other; each with a little of all else."""
    g = torch.Generator().manual_seed(4)
    rows = torch.eye(len(WORDS))
    visual = 5 * rows[torch.arange(side * side) // (side * side // 3)] + 0.05 * torch.rand(side * side, 6, generator=g)
    heard = [WORDS.index(order[step * len(order) // STEPS]) for step in range(STEPS)]
    audio = rows[heard] + 0.02 * torch.rand(STEPS, 6, generator=g)
    return visual, audio, Anchors(WORDS, rows, rows, None, scale)


@pytest.mark.parametrize("order", ["ab", "ba", "ca", "abc", "cba"])
@pytest.mark.parametrize("seed", range(3))
def test_each_object_has_its_own_sound_as_its_partner(order, seed):
    visual, audio, anchors = in_turn(*order)
    config = FactorizationConfig(n_factors=4)
    f = factorize(visual, audio, anchors, config, generator=torch.Generator().manual_seed(seed))
    for word in order:
        row = WORDS.index(word)
        shown = f.visual_activations[torch.arange(36) // 12 == row].mean(0) if row < 3 else None
        factor = int((shown * f.visual_factors[:, row]).argmax())
        sound = f.audio_activations[:, factor] @ audio
        assert int(sound.argmax()) == row, "what sounds with the thing is its own word"
        times = (source_activations(f)[:, factor] > 0.5).nonzero().flatten().tolist()
        turn, length = order.index(word), STEPS // len(order)
        assert set(times) == set(range(turn * length, (turn + 1) * length)), "its source sounds throughout its turn"


def test_the_newest_sound_is_the_partner_of_the_sounding_factor():
    for order in ("ab", "ba"):
        visual, audio, anchors = in_turn(*order)
        f = factorize(visual, audio, anchors, FactorizationConfig(n_factors=4))
        assert int(f.visual_factors[f.sounding].argmax()) == WORDS.index(order[-1])
        assert int((f.audio_activations[:, f.sounding] @ audio).argmax()) == WORDS.index(order[-1])


def made_state(order):
    """Three factors that are a, b and c on the image, and on the sound in another order."""
    visual, audio, anchors = in_turn("a", "b", "c")
    u_v = torch.nn.functional.one_hot(torch.arange(36) // 12, 3).float().T[None]
    u_a = torch.nn.functional.one_hot(torch.arange(STEPS) // 4, 3).float().T[order][None]
    v_v, v_a = (u @ x / u.sum(-1, keepdim=True) for u, x in ((u_v, visual), (u_a, audio)))
    problem = as_problem(visual, audio, anchors, FactorizationConfig(n_factors=3))
    return problem, State(u_v, v_v, u_a, v_a, torch.tensor([0]))


@pytest.mark.parametrize("order", [[0, 1, 2], [1, 0, 2], [2, 0, 1], [1, 2, 0]])
def test_pairing_only_changes_the_order_of_the_sounds_factors(order):
    problem, state = made_state(order)
    logits = problem.bank.audio_logits(state.audio_u @ problem.audio)[0]
    agreed = word_agreement(problem, state, logits)
    assert agreed.shape == (1, 3, 3) and agreed.min() >= 0 and agreed.max() <= 1
    assert agreed[0].argmax(1).tolist() == [order.index(k) for k in range(3)]
    found, moved = pair_sources(problem, state)
    assert torch.equal(found.visual_u, state.visual_u) and torch.equal(found.sounding, state.sounding)
    straight = made_state([0, 1, 2])[1]
    assert torch.equal(found.audio_u, straight.audio_u) and torch.equal(found.audio_v, straight.audio_v)
    torch.testing.assert_close(moved, problem.bank.audio_logits(found.audio_u @ problem.audio)[0])
    known, computed = (loss_terms(problem, found, given) for given in (moved, None))
    assert known.keys() == computed.keys() and all(torch.allclose(known[name], computed[name]) for name in known)


def test_a_factor_without_activation_agrees_with_nothing():
    problem, state = made_state([0, 1, 2])
    u_v, u_a = state.visual_u.clone(), state.audio_u.clone()
    u_v[:, 1], u_a[:, 2] = 0, 0
    idle = dataclasses.replace(state, visual_u=u_v, audio_u=u_a)
    agreed = word_agreement(problem, idle, problem.bank.audio_logits(u_a @ problem.audio)[0])[0]
    assert agreed[1].max() == 0 and agreed[:, 2].max() == 0 and agreed[0, 0] > 0


def test_every_frame_of_a_batch_is_paired_by_itself():
    visual, audio, anchors = in_turn("a", "b")
    other = in_turn("c", "a")[1]
    config = FactorizationConfig(n_factors=4)
    both = factorize(torch.stack([visual, visual]), torch.stack([audio, other]), anchors, config)
    for sound, found in zip((audio, other), both):
        alone = factorize(visual, sound, anchors, config)
        torch.testing.assert_close(found.audio_activations, alone.audio_activations)


def test_the_papers_solver_and_a_solve_without_a_penalty_are_left_as_they_are():
    assert pairs_sources(FactorizationConfig())
    for changes in ({"solver": "gradient"}, {"binding": "penalty"}, {"penalty": "none"}, {"penalty_weight": 0.0}):
        assert not pairs_sources(FactorizationConfig(**changes))


def test_a_source_is_all_of_its_factors():
    u = torch.tensor([[0.9, 0, 0], [0, 0.8, 0], [0.4, 0.8, 0], [0, 0, 1.0]])
    v = torch.tensor([[1.0, 0.1, 0], [2.0, 0, 0], [0, 0, 1.0]])
    f = Factorization(torch.ones(4, 3), torch.ones(3, 3), u, v, 0)
    want = torch.tensor([[0.9, 0.9, 0], [0.8, 0.8, 0], [1.0, 1.0, 0], [0, 0, 1.0]])
    torch.testing.assert_close(source_activations(f), want)


def test_the_change_of_a_sound_is_told_by_its_thirds_in_either_band():
    def course(*rows, bands=1):
        return course_change(torch.tensor(rows, dtype=torch.float32).repeat(bands, 1), (bands, len(rows)))

    a, b = (1.0, 0.0), (0.0, 1.0)
    assert course(a, a, a, a, a, a) == pytest.approx(0, abs=1e-6) and course(a, a, a, b, b, b, bands=2) == pytest.approx(1)
    assert course(a, b, a, b, a, b) == pytest.approx(0, abs=1e-6), "what alternates goes on"
    assert course(a, b) == 0.0, "too short to tell"
    shuffled = torch.tensor([a, b, b, a, a, b])
    assert course_change(shuffled, (1, 6), torch.tensor([0.1, 0.9, 0.7, 0.2, 0.4, 0.6])) == pytest.approx(1)


def test_times_of_the_steps_give_their_weights():
    times = torch.tensor([0.5, 0.25, 1.0])
    by_hand = ((times - 1) / RECENCY).exp()
    got = recency_weights(6, (2, 3), torch.float32, "cpu", times)
    torch.testing.assert_close(got, by_hand.repeat(2) / by_hand.sum() / 2)
    visual, audio, anchors = in_turn("a", "b")
    backwards = torch.linspace(1, 0, STEPS)
    f = factorize(visual, audio, anchors, FactorizationConfig(n_factors=4), audio_times=backwards)
    assert int(f.visual_factors[f.sounding].argmax()) == 0, "what comes first in the tokens is the newest"


def test_rounds_of_one_window_are_folded_into_one():
    rows = torch.tensor([[1.0, 2, 3, 4, 5, 6], [10, 20, 30, 40, 50, 60]])
    assert mean_of_rounds(rows, None) is rows
    assert mean_of_rounds(rows, torch.tensor([0.2, 0.5, 0.8, 0.2, 0.5, 0.8])).tolist() == [[2.5, 3.5, 4.5], [25, 35, 45]]
    assert mean_of_rounds(rows, torch.linspace(0, 1, 6)).tolist() == rows.tolist()
    visual, audio, anchors = in_turn("a", "b")
    f = factorize(visual, audio, anchors, FactorizationConfig(n_factors=4))
    twice = torch.arange(STEPS) % 6 / 6
    maps = [meaning.sound_map for meaning in explain_factors(f, anchors, (6, 6), (1, STEPS), audio_times=twice)]
    assert [tuple(each.shape) for each in maps] == [(1, 6)] * 4
    torch.testing.assert_close(maps[0][0], f.audio_activations[:, 0].view(2, 6).mean(0))
