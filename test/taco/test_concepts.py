"""Naming on made tokens whose right answer is known: one-hot objects, one-hot sounds."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from taco.concepts import (
    SoundEvidence,
    _Parts,
    _Votes,
    image_evidence,
    name_concepts,
    pooled_components,
    pooled_sound,
    sounding_score,
    word_probabilities,
)
from taco.config import ConceptsConfig
from taco.factorization.temporal import RECENCY
from taco.types import Factorization, Tokens
from test.taco.made_concepts import DIM, GRID, STEPS, WORDS, anchors, both, name_all, named, parts, scene, two


@pytest.mark.parametrize(("word", "factor"), [("cat", 0), ("drum", 1)])
def test_what_is_heard_is_named_where_it_is_seen(word, factor):
    heard = named(sound={word: 1.0})
    (concept,) = heard.concepts
    assert (concept.label, concept.factor) == (word, factor)
    assert heard.score > 0.6 and concept.score == heard.score
    assert concept.prompt.argmax() == WORDS.index(word)
    assert [score for _, score in concept.labels] == sorted((score for _, score in concept.labels), reverse=True)


def test_both_senses_vote():
    # The sound slightly prefers a dog, which is nowhere to be seen; the cat, second best, is.
    assert named(sound={"dog": 0.62, "cat": 0.6}).concepts[0].label == "cat"
    blind = ConceptsConfig(image_weight=0.0)
    assert named(sound={"dog": 0.62, "cat": 0.6}, config=blind).concepts[0].label == "dog"


def test_a_sound_from_out_of_view_gives_nothing():
    heard = named(sound={"bell": 1.0})
    assert heard.score < 0.1 and heard.concepts == ()
    assert named(sound={"bell": 1.0}, config=ConceptsConfig(min_score=0.0)).concepts  # the score decides, nothing else


def test_a_sound_that_says_nothing_gives_nothing():
    assert named(sound=dict.fromkeys(WORDS, 0.5)).score < 0.2


def test_no_sounding_factor_and_broken_sound_give_nothing():
    factorization, visual, audio = scene()
    silent = dataclasses.replace(factorization, sounding=-1)
    assert name_concepts(silent, visual, audio, anchors(), ConceptsConfig()) == name_concepts(
        factorization, visual, Tokens(audio.values * float("nan"), audio.grid), anchors(), ConceptsConfig()
    )
    assert name_concepts(silent, visual, audio, anchors(), ConceptsConfig()).concepts == ()


def test_two_objects_sound_where_each_part_of_the_sound_prefers_its_own():
    assert two({"cat": 1.0}, {"drum": 1.0}, sound={"cat": 0.7, "drum": 0.65}) == ([("cat", 0), ("drum", 1)], 1)
    assert two({"drum": 1.0}, {"cat": 1.0}, sound={"cat": 0.65, "drum": 0.7}) == ([("drum", 1), ("cat", 0)], 1)
    one = ConceptsConfig(max_concepts=1)
    assert two({"cat": 1.0}, {"drum": 1.0}, sound={"cat": 0.7, "drum": 0.65}, config=one) == ([("cat", 0)], 0)


def test_one_object_sounds_where_no_part_of_the_sound_is_another():
    alone = {"cat": 1.0}
    assert two({"cat": 1.0}, {"cat": 1.0}, sound=alone)[0] == [("cat", 0)]
    assert two({"cat": 1.0}, {"cat": 1.0, "drum": 0.2}, sound=alone)[0] == [("cat", 0)]
    none = name_all(*scene(sound=alone), anchors(), ConceptsConfig(), list)
    assert [c.label for c in none.concepts] == ["cat"]


def test_what_is_hardly_seen_must_be_heard_the_better():
    factorization, visual, audio = scene(sound={"cat": 0.7, "drum": 0.7})
    dim = visual.values.clone()
    dim[:, WORDS.index("drum")] *= 0.35  # the drum might as well be something else
    told_by_parts = {}
    for weight in (0.0, 1.0):
        found = parts({"cat": 1.0}, {"cat": 1.0 - weight, "drum": weight} if weight else {"cat": 1.0})
        whole = scene(sound={"cat": 1.0, "drum": weight})[2]
        told_by_parts[weight] = name_all(
            factorization, Tokens(dim, GRID), whole, anchors(), ConceptsConfig(min_score=0.0), found
        ).words
    assert len(told_by_parts[1.0]) == 2 and len(told_by_parts[0.0]) == 1


def test_a_second_object_is_the_surer_the_better_the_parts_tell_the_two_apart():
    mixed = {"cat": 0.72, "drum": 0.69}
    apart = both({"cat": 1.0}, {"drum": 1.0}, sound=mixed)[0].concepts[1]
    nearly = both({"cat": 0.72, "drum": 0.69}, {"cat": 0.69, "drum": 0.72}, sound=mixed)[0].concepts[1]
    assert apart.label == nearly.label == "drum" and apart.score > nearly.score + 0.01
    assert two(mixed, mixed, sound=mixed)[0] == [("cat", 0)]  # a siren is no second car for having two names


def test_a_second_object_is_the_surer_the_better_it_is_heard():
    faint, clear = (both({"cat": 1.0}, {"drum": w, "cat": w - 0.05}, sound={"cat": 1.0, "drum": w})[0] for w in (0.9, 0.97))
    silent = both({"cat": 1.0}, {"drum": 0.9, "bell": 0.9, "cat": 0.85}, sound={"cat": 1.0, "drum": 0.9, "bell": 0.9})[0]
    assert faint.words == clear.words == silent.words == ("cat", "drum")
    assert min(clear.concepts[1].score, faint.concepts[1].score) > silent.concepts[1].score + 0.01


def second(drum, apart):
    """Score of a drum beside a cat, both in view. drum: log-odds in its own part; apart: how far over the cat's there."""

    def heard(cat, drum):
        odds = torch.tensor([cat, -13.0, drum, -13.0]).sigmoid()
        return SoundEvidence(odds / odds.sum(), odds)

    seen = torch.tensor([[0.9, 0, 0, 0], [0, 0, 0.9, 0]])
    votes = _Votes(heard(3.0, -13.0), seen, anchors(), ConceptsConfig(), ())
    found = votes.further((0, 0), _Parts(votes.sound, [heard(3.0, -13.0), heard(drum - apart, drum)]))
    return found[0][2] if found else None


def test_a_second_objects_score_weighs_how_well_it_is_heard_and_told_apart():
    assert second(0.0, 2.0) > second(-2.0, 2.0) + 0.02  # the better heard, as well told apart
    assert second(-2.0, 3.0) > second(-2.0, 1.0) + 0.02  # the better told apart, as well heard
    assert second(-2.0, -0.1) is None  # no part prefers it
    assert second(-5.5, 6.0) is not None and second(-6.5, 6.0) is None  # too faint to be asked about


def test_what_the_whole_sound_hides_may_be_heard_in_a_part():
    hidden = {"cat": 1.0, "drum": 0.25}
    assert two({"cat": 1.0}, {"drum": 1.0}, sound=hidden)[0] == [("cat", 0), ("drum", 1)]
    assert two({"cat": 1.0}, hidden, sound=hidden)[0] == [("cat", 0)]


def test_one_factor_is_one_object():
    """A factor that shows a cat as well as a dog is told once, whatever is heard."""
    factorization, visual, audio = scene(sound={"cat": 0.7, "dog": 0.7})
    values = visual.values.clone()
    left = values[:, WORDS.index("cat")] > 0.5
    values[left, WORDS.index("dog")] = 1.0
    found = parts({"cat": 1.0}, {"dog": 1.0})
    heard = name_all(factorization, Tokens(values, GRID), audio, anchors(), ConceptsConfig(), found)
    assert [concept.factor for concept in heard.concepts] == [0] and found.asked == 1


def test_three_objects_sound_each_beside_every_other():
    visual = torch.full((GRID[0] * GRID[1], DIM), 0.01)
    column = torch.arange(len(visual)) % GRID[1] // 2
    for place, word in enumerate(("cat", "drum", "bell")):
        visual[column == place, WORDS.index(word)] = 1.0
    activations = torch.nn.functional.one_hot(column, 3).float()
    factors = activations.T @ visual / activations.sum(0)[:, None]
    audio = scene(sound={"cat": 0.7, "drum": 0.7, "bell": 0.7})[2]
    factorization = Factorization(activations, factors, torch.ones(STEPS, 3), audio.values.mean(0).repeat(3, 1), 0)
    args = factorization, Tokens(visual, GRID), audio, anchors()
    each = parts({"cat": 1.0}, {"drum": 1.0}, {"bell": 1.0})
    assert sorted(name_all(*args, ConceptsConfig(), each).words) == ["bell", "cat", "drum"]
    assert len(name_all(*args, ConceptsConfig(max_concepts=2), each).words) == 2
    loud = (*args[:2], scene(sound={"cat": 0.75, "drum": 0.7, "bell": 0.7})[2], args[3])
    together = parts({"cat": 1.0, "bell": 1.0}, {"drum": 1.0})  # nothing tells the bell from the cat
    assert name_all(*loud, ConceptsConfig(), together).words == ("cat", "drum")
    pair = parts({"cat": 1.0}, {"drum": 1.0})
    args = (*args[:2], scene(sound={"cat": 0.7, "drum": 0.7})[2], args[3])
    assert sorted(name_all(*args, ConceptsConfig(), pair).words) == ["cat", "drum"]  # nobody hears the bell


def test_a_second_object_must_be_in_view():
    assert two({"cat": 1.0}, {"drum": 1.0}, shown=("cat", "cat")) == ([("cat", 0)], 0)  # costs nothing where one is in view
    assert two({"cat": 1.0}, {"dog": 1.0}, sound={"cat": 0.8, "dog": 0.6})[0] == [("cat", 0)]


def test_a_frame_below_the_threshold_keeps_only_the_word_of_the_frame_before():
    sound = {"cat": 0.7, "drum": 0.65}
    score = name_concepts(*scene(sound=sound), anchors(), ConceptsConfig(min_score=0.0)).score
    strict = ConceptsConfig(min_score=min(1.0, 1.2 * score), hysteresis=0.7)
    assert two({"cat": 1.0}, {"drum": 1.0}, sound=sound, config=strict, before=named(sound={"drum": 1.0}))[0] == [("drum", 1)]


def test_the_papers_naming_is_the_sounding_factors_nearest_word():
    factorization, visual, audio = scene(sound={"cat": 1.0})
    wrong = dataclasses.replace(factorization, sounding=1)  # the paper trusts k*, whatever the words say
    config = ConceptsConfig(naming="factor", min_score=0.0)
    (concept,) = name_concepts(wrong, visual, audio, anchors(), config).concepts
    cosines = F.cosine_similarity(wrong.visual_factors[1:2], anchors().visual)
    assert concept.factor == 1 and concept.label == WORDS[int(cosines.argmax())] == "drum"
    assert torch.equal(concept.prompt, wrong.visual_factors[1])
    clip = anchors(visual_logit_scale=100.0)
    assert name_concepts(wrong, visual, audio, clip, ConceptsConfig(min_score=0.0)).concepts[0].label == "drum"
    joint = ConceptsConfig(min_score=0.0, naming="joint")
    assert name_concepts(wrong, visual, audio, clip, joint).concepts[0].label == "cat"


def test_objects_outside_the_bank_take_a_factor_that_shows_them():
    other = torch.zeros(1, DIM)
    other[0, 2] = 12.0  # something that looks more like it than a drum does
    factorization, visual, _ = scene()
    pooled = pooled_components(factorization, visual)
    alone = image_evidence(pooled, anchors())
    against = image_evidence(pooled, anchors(visual_others=other))
    assert alone[1, 2] > 0.98 and against[1, 2] < 0.7
    assert against[0, 0] == pytest.approx(float(alone[0, 0]), abs=0.01)  # the cat is untouched


def test_closed_vocabularies_are_less_sure_than_their_logits_say():
    components = 0.1 * torch.rand(2, DIM, generator=torch.Generator().manual_seed(4))
    logits = components @ anchors().visual.T
    assert torch.allclose(image_evidence(components, anchors()), (0.7 * logits).softmax(-1), atol=1e-6)
    clip = image_evidence(components, anchors(visual_logit_scale=20.0))
    cosines = F.cosine_similarity(components[:, None], anchors().visual[None], dim=-1)
    assert torch.allclose(clip, (20.0 * cosines).softmax(-1), atol=1e-5)


def test_probabilities_follow_the_papers_formula():
    rows = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(7, DIM, generator=torch.Generator().manual_seed(2))
    bank = anchors(audio=rows, audio_projection=lambda x: x @ weight.T, audio_logit_scale=3.0)
    sound = torch.rand(2, DIM, generator=torch.Generator().manual_seed(3))
    logits = [[3.0 * float(torch.dot(weight @ s, r) / (weight @ s).norm() / r.norm()) for r in rows] for s in sound]
    assert torch.allclose(word_probabilities(sound, bank), torch.tensor(logits).softmax(1), atol=1e-6)


def test_newer_sound_counts_more_in_every_frequency_band():
    values = torch.zeros(2, 3, 4)  # bands, steps, dim
    values[:, 0, 0] = values[:, 2, 1] = 1.0
    pooled = pooled_sound(Tokens(values.flatten(0, 1), (2, 3)))
    assert pooled[1] / pooled[0] == pytest.approx(math.exp(1 / RECENCY), rel=1e-4)
    same = pooled_sound(Tokens(torch.ones(6, 4), (2, 3)))
    assert torch.allclose(same, torch.ones(4))


def bank_of(count: int, word: float, rest: float | None = None):
    """(M,) probabilities: ``word`` for the first, the others share what is left (or ``rest`` each)."""
    values = torch.full((count,), (1 - word) / (count - 1) if rest is None else rest)
    values[0] = word
    return values


@pytest.mark.parametrize("count", [7, 70, 527, 10_000])
def test_the_score_means_the_same_whatever_the_size_of_the_bank(count):
    """Probabilities of a softmax over the bank, as CLIP's and CLAP's are."""
    sure, nothing = bank_of(count, 0.9), torch.full((count,), 1 / count)
    another = sure.roll(1)
    agree = sounding_score(sure, torch.stack([nothing, sure]))
    assert agree > 0.8
    assert agree == pytest.approx(
        sounding_score(bank_of(7, 0.9), torch.stack([torch.full((7,), 1 / 7), bank_of(7, 0.9)])), abs=0.05
    )
    assert sounding_score(sure, nothing[None]) < 0.3  # the image says nothing
    assert sounding_score(nothing, sure[None]) < 0.4  # the sound says nothing
    assert sounding_score(sure, another[None]) < 0.1  # the image is sure of another word
    for best in (0.05, 0.10):  # a sound that is but a guess, an image that says nothing, or is sure of another word
        guess = bank_of(count, max(best, 1 / count))
        assert sounding_score(guess, nothing[None]) < 0.4
        assert sounding_score(guess, another[None]) < 0.4


def test_a_sound_without_a_word_stands_against_what_is_in_view():
    heard, seen = torch.tensor([0.3, 0, 0, 0]), torch.tensor([[0.9, 0, 0, 0]])
    scores = [sounding_score(heard, seen, other) for other in (0.0, 0.3, 0.9)]
    assert scores[0] > scores[1] + 0.05 > scores[2] + 0.1
    assert sounding_score(torch.tensor([0.98, 0, 0, 0]), seen, 0.5) > 0.5  # but one that is clear is not lost beside another


def test_hysteresis_keeps_the_word_of_the_frame_before_and_no_other():
    factorization, visual, audio = scene()
    score = name_concepts(factorization, visual, audio, anchors(), ConceptsConfig(min_score=0.0)).score
    word = name_concepts(factorization, visual, audio, anchors(), ConceptsConfig(min_score=0.0)).concepts[0].label
    strict = ConceptsConfig(min_score=min(1.0, 1.2 * score), hysteresis=0.7)
    assert name_concepts(factorization, visual, audio, anchors(), strict).concepts == ()
    before = named(sound={word: 1.0})
    assert name_concepts(factorization, visual, audio, anchors(), strict, before).words == before.words == (word,)
    other = named(sound={"drum": 1.0})
    assert name_concepts(factorization, visual, audio, anchors(), strict, other).concepts == () != other.concepts
    off = ConceptsConfig(min_score=min(1.0, 1.2 * score), hysteresis=1.0)
    assert name_concepts(factorization, visual, audio, anchors(), off, before).concepts == ()


def test_what_is_heard_is_averaged_over_the_time_that_has_passed():
    config = ConceptsConfig(memory_s=0.5, switch_margin=0.0)
    then = named(sound={"cat": 1.0}, config=config)
    alone = named(sound={"drum": 1.0}, config=config)
    for elapsed_s, share in ((0.05, math.exp(-0.1)), (0.5, math.exp(-1)), (5.0, math.exp(-10)), (math.inf, 0.0)):
        now = name_concepts(*scene(sound={"drum": 1.0}), anchors(), config, then, elapsed_s)
        assert torch.allclose(now.sound.share, share * then.sound.share + (1 - share) * alone.sound.share, atol=1e-6)
        assert now.words == (("cat",) if share > 0.5 else ("drum",))
    off = ConceptsConfig(memory_s=0.0, switch_margin=0.0)
    assert torch.equal(name_concepts(*scene(sound={"drum": 1.0}), anchors(), off, then, 0.05).sound.share, alone.sound.share)
    for elapsed_s in (0.0, -1.0):  # time that stands still, or jumps back, is no time to average over
        now = name_concepts(*scene(sound={"drum": 1.0}), anchors(), config, then, elapsed_s)
        assert torch.equal(now.sound.share, alone.sound.share)


def test_another_word_must_beat_the_one_of_the_frame_before_by_a_margin():
    sound = {"cat": 0.7, "drum": 0.71}
    assert named(sound=sound).words == ("drum",)  # by a hair
    then = named(sound={"cat": 1.0})
    for margin, word in ((0.0, "drum"), (0.4, "cat")):
        config = ConceptsConfig(switch_margin=margin)
        assert name_concepts(*scene(sound=sound), anchors(), config, then).words == (word,)
        assert name_concepts(*scene(sound={"drum": 1.0}), anchors(), config, then).words == ("drum",)


def test_a_second_object_comes_and_goes_by_the_hysteresis_and_is_never_told_below_the_threshold():
    one, pair = named(sound={"cat": 1.0}), both({"cat": 1.0}, {"drum": 1.0})[0]
    assert (len(one.words), len(pair.words)) == (1, 2)
    changes = []
    for weight in torch.linspace(0.0, 1.0, 201).tolist():
        unsure, sound = ({"cat": 1.0}, {"bell": 1.0, "drum": weight, "cat": 0.3}), {"cat": 1.0, "drum": 0.5 * weight}
        settings = ConceptsConfig(hysteresis=0.5, memory_s=0.0)
        after = [both(*unsure, sound=sound, config=settings, before=b)[0] for b in (one, pair)]
        changes.append(tuple(len(heard.words) for heard in after))
        assert all(concept.score >= settings.min_score for concept in after[0].concepts)
    assert set(changes) == {(1, 1), (1, 2), (2, 2)}  # never two after one where it would be one after two


def test_a_second_object_needs_the_threshold_that_was_set():
    unsure, sound = ({"cat": 1.0}, {"bell": 1.0, "drum": 0.4, "cat": 0.3}), {"cat": 1.0, "drum": 0.2}
    counts = [len(both(*unsure, sound=sound, config=ConceptsConfig(min_score=score))[0].words) for score in (0.0, 0.4, 0.6)]
    second = both(*unsure, sound=sound, config=ConceptsConfig(min_score=0.0))[0].concepts[1].score
    assert counts == [2, 2, 1] and 0.4 < second < 0.6, second


def test_the_parts_are_averaged_too_each_with_the_one_it_is_like():
    sound, config = {"cat": 0.7, "drum": 0.65}, ConceptsConfig(memory_s=0.5, switch_margin=0.0)
    pair = both({"cat": 1.0}, {"drum": 1.0}, sound=sound, config=config)[0]
    single = both({"cat": 1.0}, {"cat": 1.0}, sound=sound, config=config)[0]
    assert single.words == ("cat",)
    soon, late = (both({"cat": 1.0}, {"cat": 1.0}, sound=sound, config=config, before=pair, elapsed_s=s)[0] for s in (0.1, 5.0))
    assert (soon.words, late.words) == (("cat", "drum"), ("cat",))
    assert torch.allclose(late.parts[1].share, single.parts[1].share, atol=1e-4)
    turned = both({"drum": 1.0}, {"cat": 1.0}, sound=sound, config=config, before=pair, elapsed_s=0.1)[0]
    assert all(torch.allclose(now.share, then.share, atol=1e-5) for now, then in zip(turned.parts, pair.parts))
