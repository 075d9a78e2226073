"""Bad and empty input, and when a stream starts afresh."""

import dataclasses

import pytest
import torch

from taco.config import FactorizationConfig
from taco.errors import ConfigError, ShapeError, ValueRangeError
from taco.factorization import check_factor_count, factorize
from taco.factorization.temporal import (
    CUT,
    RECENCY,
    StreamMemory,
    block_means,
    cut_score,
    guess_grid,
    recency_weights,
    sound_change,
)
from taco.types import Anchors
from test.taco.factorization.made_problems import planted_scene, random_problem

CFG = FactorizationConfig(n_factors=3)


def good():
    return random_problem(1)[:3]


def with_value(tensor, value):
    tensor = tensor.clone()
    tensor[1, 2] = value
    return tensor


X_V, X_A, ANCHORS = good()
ANCHORS_32 = random_problem(1, dtype=torch.float32)[2]
BAD = [
    (X_V[0], X_A, CFG, ShapeError, "visual: wanted"),
    (X_V[None, None], X_A, CFG, ShapeError, "visual: wanted"),
    (X_V, X_A[None], CFG, ShapeError, "audio: wanted"),
    (X_V[None], X_A[None].expand(2, -1, -1), CFG, ShapeError, "audio: wanted 1 frames"),
    (X_V.numpy(), X_A, CFG, ShapeError, "visual: wanted"),
    (X_V.long(), X_A, CFG, ShapeError, "visual: wanted a float tensor"),
    (X_V[:, :-1], X_A, CFG, ShapeError, "visual: wanted tokens of dimension 10"),
    (X_V, X_A[:, :-1], CFG, ShapeError, "audio: wanted tokens"),
    (X_V[:0], X_A, CFG, ShapeError, "visual: wanted at least one"),
    (X_V, X_A[:0], CFG, ShapeError, "audio: wanted at least one"),
    (with_value(X_V, float("nan")), X_A, CFG, ValueRangeError, "visual: wanted finite"),
    (X_V, with_value(X_A, float("inf")), CFG, ValueRangeError, "audio: wanted finite"),
    (X_V, with_value(X_A, float("-inf")), CFG, ValueRangeError, "audio: wanted finite"),
    (X_V.float() * 1e16, X_A.float(), CFG, ValueRangeError, "visual: wanted values up to 1e"),
    (X_V, X_A, FactorizationConfig(n_factors=13), ValueRangeError, "n_factors: wanted 1 to 12"),
]


@pytest.mark.parametrize("solver", ["block", "gradient"])
@pytest.mark.parametrize(("visual", "audio", "config", "error", "words"), BAD)
def test_bad_input_names_the_argument(visual, audio, config, error, words, solver):
    config = dataclasses.replace(config, solver=solver, max_iterations=2)
    with pytest.raises(error, match=words) as caught:
        factorize(visual, audio, ANCHORS, config)
    assert isinstance(caught.value, ValueError) and ", got" in str(caught.value) and "\n" not in str(caught.value)


def test_no_factors_and_no_words_are_refused():
    with pytest.raises(ConfigError, match="n_factors"):
        FactorizationConfig(n_factors=0)
    with pytest.raises(ValueRangeError, match="at least one word"):
        Anchors((), torch.zeros(0, 4), torch.zeros(0, 4))
    with pytest.raises(ShapeError, match="anchors"):
        factorize(X_V, X_A, None, CFG)


def test_a_projection_of_the_wrong_size_is_named():
    wrong = Anchors(ANCHORS.words, ANCHORS.visual, ANCHORS.audio, lambda x: x[..., :3], 5.0)
    with pytest.raises(ShapeError, match="anchors.audio_projection"):
        factorize(X_V, X_A, wrong, CFG)
    broken = Anchors(ANCHORS.words, ANCHORS.visual, ANCHORS.audio, torch.nn.Linear(4, 11).double(), 5.0)
    with pytest.raises(ShapeError, match="audio: wanted tokens that anchors.audio_projection takes"):
        factorize(X_V, X_A, broken, CFG)


def test_negative_tokens_are_clamped_and_counted():
    signed_v, signed_a = X_V - 0.1, X_A.clone()
    signed_a[0, 0] = -1.0
    a = factorize(signed_v, signed_a, ANCHORS, CFG)
    b = factorize(signed_v.clamp(min=0), signed_a.clamp(min=0), ANCHORS, CFG)
    assert a.clamped == int((signed_v < 0).sum()) + 1 and b.clamped == 0
    assert torch.equal(a.visual_activations, b.visual_activations)
    assert float(signed_v.min()) < 0, "the caller's tensor was changed"


@pytest.mark.parametrize("solver", ["block", "gradient"])
@pytest.mark.parametrize(("blank", "reason"), [("audio", "silence"), ("visual", "blank")])
def test_all_zero_tokens_give_no_sounding_factor(solver, blank, reason):
    x_v, x_a = (X_V, torch.zeros_like(X_A)) if blank == "audio" else (torch.zeros_like(X_V), X_A)
    f = factorize(x_v, x_a, ANCHORS, FactorizationConfig(solver=solver, n_factors=3, max_iterations=3))
    assert f.sounding == -1 and f.restart == reason
    assert f.visual_activations.shape == (36, 3) and float(f.visual_activations.abs().max()) == 0
    assert all(torch.isfinite(torch.tensor(v)) for v in f.losses.values())
    batch = factorize(torch.stack([X_V, x_v]), torch.stack([X_A, x_a]), ANCHORS, dataclasses.replace(CFG, temporal="joint"))
    assert batch[0].sounding >= 0 and batch[1].sounding == -1
    alone = factorize(X_V, X_A, ANCHORS, CFG)
    torch.testing.assert_close(batch[0].visual_activations, alone.visual_activations)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e12])
@pytest.mark.parametrize("solver", ["block", "gradient"])
def test_tokens_of_any_size_give_finite_factors(scale, solver):
    cfg = FactorizationConfig(solver=solver, n_factors=3, max_iterations=5)
    f = factorize(X_V.float() * scale, X_A.float() * scale, ANCHORS_32, cfg)
    for part in (f.visual_activations, f.visual_factors, f.audio_activations, f.audio_factors):
        assert torch.isfinite(part).all()


@pytest.mark.parametrize("words", [1, 2, 10_000])
@pytest.mark.parametrize("solver", ["block", "gradient"])
def test_word_banks_of_any_size(words, solver):
    g = torch.Generator().manual_seed(0)
    bank = Anchors(
        tuple(map(str, range(words))), torch.randn(words, 10, generator=g), torch.randn(words, 9, generator=g), None, 10.0
    )
    f = factorize(X_V, X_A, bank, FactorizationConfig(solver=solver, n_factors=3, max_iterations=3))
    assert f.sounding >= 0 and torch.isfinite(f.visual_factors).all()


def stream(cfg=CFG):
    x_v, x_a, anchors, _ = planted_scene(2)
    return x_v, x_a, anchors, factorize(x_v, x_a, anchors, cfg)


def test_the_same_scene_goes_on_warm():
    x_v, x_a, anchors, first = stream()
    f = factorize(x_v * 1.05, x_a, anchors, CFG, init=first, previous=first)
    assert first.restart == "cold" and f.restart == "" and f.iterations == 2


def test_how_much_of_the_picture_must_change_for_a_cut():
    """By the score of the block means: a little over its limit is a cut, a little below it none."""
    x_v, x_a, anchors, first = stream()
    other, seen = planted_scene(7)[0], set()
    for share in torch.linspace(0, 1, 41).tolist():
        tokens = (1 - share) * x_v + share * other
        score = float(cut_score(block_means(tokens[None], guess_grid(len(tokens)))[0], first.memory.blocks))
        if abs(score - CUT) < 0.3:
            cut = factorize(tokens, x_a, anchors, CFG, init=first, previous=first).restart == "cut"
            assert cut == (score > CUT), score
            seen.add(cut)
    assert seen == {True, False}


@pytest.mark.parametrize("argument", ["init", "both"])
def test_a_cut_starts_cold(argument):
    _, x_a, anchors, first = stream()
    other = planted_scene(7)[0]
    past = {"init": first} if argument == "init" else {"init": first, "previous": first}
    f = factorize(other, x_a, anchors, CFG, **past)
    assert f.restart == "cut"
    cold = factorize(other, x_a, anchors, CFG)
    torch.testing.assert_close(f.visual_activations, cold.visual_activations)


def test_another_sound_starts_cold():
    x_v, _, anchors, first = stream()
    f = factorize(x_v, planted_scene(8)[1], anchors, CFG, init=first, previous=first)
    assert f.restart == "sound"


def test_silence_drops_the_memory():
    x_v, x_a, anchors, first = stream()
    quiet = factorize(x_v, torch.zeros_like(x_a), anchors, CFG, init=first, previous=first)
    assert quiet.restart == "silence" and quiet.sounding == -1 and quiet.memory is None
    back = factorize(x_v, x_a, anchors, CFG, init=quiet, previous=quiet)
    assert back.restart == "silence" and back.sounding >= 0
    torch.testing.assert_close(back.visual_activations, first.visual_activations)


@pytest.mark.parametrize("solver", ["block", "gradient"])
def test_another_token_count_starts_cold(solver):
    cfg = FactorizationConfig(solver=solver, n_factors=3, max_iterations=3)
    x_v, x_a, anchors, first = stream(cfg)
    for v, a in ((x_v[:100], x_a), (x_v, x_a[:9])):
        f = factorize(v, a, anchors, cfg, init=first, previous=first)
        assert f.restart == "shape" and len(f.visual_activations) == len(v)
    f = factorize(x_v, x_a, anchors, dataclasses.replace(cfg, n_factors=4), init=first, previous=first)
    assert f.restart == "shape"


def test_a_wrong_init_is_named():
    x_v, x_a, anchors, first = stream()
    with pytest.raises(ShapeError, match="init: wanted a list of 2"):
        factorize(torch.stack([x_v] * 2), torch.stack([x_a] * 2), anchors, CFG, init=first)
    with pytest.raises(ShapeError, match="previous: wanted a Factorization"):
        factorize(x_v, x_a, anchors, CFG, previous=[3])


def test_it_is_a_pure_function():
    x_v, x_a, anchors, first = stream()
    before = [t.clone() for t in (x_v, x_a, first.visual_activations, first.visual_factors)]
    a = factorize(x_v, x_a, anchors, CFG, init=first, previous=first)
    b = factorize(x_v, x_a, anchors, CFG, init=first, previous=first)
    assert torch.equal(a.visual_activations, b.visual_activations)
    for old, new in zip(before, (x_v, x_a, first.visual_activations, first.visual_factors)):
        assert torch.equal(old, new)


@pytest.mark.parametrize("solver", ["block", "gradient"])
@pytest.mark.parametrize("projection", ["linear", "gelu"])
def test_it_works_within_inference_mode(solver, projection):
    """As the pipeline calls it: tokens made in inference mode, weights outside."""
    _, _, anchors, _ = random_problem(1, projection=projection)
    cfg = FactorizationConfig(solver=solver, n_factors=3, binding="penalty", max_iterations=3)
    outside = factorize(X_V, X_A, anchors, cfg)
    with torch.inference_mode():
        within = factorize(X_V * 1.0, X_A * 1.0, anchors, cfg)
        again = factorize(X_V * 1.0, X_A * 1.0, anchors, cfg, init=within, previous=within)
    assert again.restart == ""
    torch.testing.assert_close(within.visual_activations, outside.visual_activations)


def test_a_projection_without_gradient_is_named():
    frozen = random_problem(1, projection="gelu")[2]
    blind = dataclasses.replace(frozen, audio_projection=torch.no_grad()(frozen.audio_projection.forward))
    cfg = FactorizationConfig(solver="gradient", n_factors=3, max_iterations=3)
    with pytest.raises(ValueRangeError, match="audio_projection: wanted a differentiable function"):
        factorize(X_V, X_A, blind, cfg)
    assert factorize(X_V, X_A, blind, CFG).sounding >= 0, "bound to the recent sound no gradient is needed"


def test_recency_weights_are_those_of_a_token_s_time_in_every_band():
    got = recency_weights(6, (2, 3), torch.float64, "cpu")
    by_hand = (torch.tensor([-1.0, -0.5, 0.0], dtype=torch.float64) / RECENCY).exp()
    torch.testing.assert_close(got, by_hand.repeat(2) / (2 * by_hand.sum()))
    torch.testing.assert_close(recency_weights(3, None, torch.float64, "cpu"), by_hand / by_hand.sum())
    assert recency_weights(2, (2, 1), torch.float32, "cpu").tolist() == [0.5, 0.5]


def memory(heard, sound):
    return StreamMemory(torch.zeros(9, 4), torch.tensor(heard), torch.tensor(sound))


@pytest.mark.parametrize(
    ("heard", "sound", "change"),
    [
        ([0.9, 0.1], [1.0, 0.0], 0.0),
        ([0.4, 0.6], [1.0, 0.0], 0.5),  # other words, the same tokens
        ([0.9, 0.1], [0.0, 1.0], 1.0),  # the same words, other tokens
        ([0.4, 0.6], [0.8, 0.6], 0.5),  # the larger of both
        ([0.8, 0.2], [0.6, 0.8], 0.4),
    ],
)
def test_another_sound_is_told_by_words_or_by_tokens(heard, sound, change):
    before = memory([0.9, 0.1], [1.0, 0.0])
    assert float(sound_change(torch.tensor(heard), torch.tensor(sound), before)) == pytest.approx(change, abs=1e-6)


def test_another_sound_of_the_same_word_starts_cold():
    x_v, x_a, anchors, _ = planted_scene(2)
    one_word = Anchors(("w",), anchors.visual[:1], anchors.audio[:1], None, 5.0)
    first = factorize(x_v, x_a, one_word, CFG)
    other = x_a.roll(7, 1)
    assert factorize(x_v, other, one_word, CFG, init=first, previous=first).restart == "sound"
    assert factorize(x_v, x_a * 0.9, one_word, CFG, init=first, previous=first).restart == ""


def test_the_cut_score_by_hand():
    blocks = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert float(cut_score(blocks, blocks)) == 0
    assert float(cut_score(blocks, blocks.flip(0))) == pytest.approx(4 / 2)
    assert float(cut_score(blocks, blocks + 0.5)) == pytest.approx(1 / 2)


def test_block_means_are_those_of_nine_parts_of_the_picture():
    image = torch.arange(7 * 8, dtype=torch.float32).view(7, 8, 1)
    rows, columns = ((0, 3), (3, 5), (5, 7)), ((0, 3), (3, 6), (6, 8))
    wanted = [image[a:b, c:d].mean() for c, d in columns for a, b in rows]
    torch.testing.assert_close(block_means(image.view(1, 56, 1), (7, 8))[0, :, 0], torch.stack(wanted))
    assert block_means(torch.rand(1, 5, 2), None).shape == (1, 5, 2)


def test_more_factors_than_tokens_are_refused_with_their_numbers():
    check_factor_count(FactorizationConfig(n_factors=12), 165, 12)
    for counts in ((165, 12), (12, 165)):
        with pytest.raises(
            ValueRangeError, match=rf"n_factors: wanted 1 to 12 \({counts[0]} visual, {counts[1]} audio tokens\), got 13"
        ):
            check_factor_count(FactorizationConfig(n_factors=13), *counts)


def test_a_silent_frame_does_not_make_the_rest_of_a_clip_start_cold():
    x_v, x_a, anchors, _ = planted_scene(2)
    cfg = dataclasses.replace(CFG, temporal="joint")
    visual, audio = torch.stack([x_v] * 3), torch.stack([x_a] * 3)
    first = factorize(visual, audio, anchors, cfg)
    audio[1] = 0
    again = factorize(visual, audio, anchors, cfg, init=first)
    assert [f.restart for f in again] == ["", "silence", ""]
