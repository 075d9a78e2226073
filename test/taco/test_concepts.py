"""Naming on made tokens whose right answer is known: one-hot things, one-hot sounds."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from taco.concepts import (
    SoundPart,
    image_evidence,
    name_concepts,
    pooled_components,
    pooled_sound,
    sounding_score,
    word_probabilities,
)
from taco.config import ConceptsConfig
from taco.types import Anchors, Factorization, Tokens

WORDS = ("cat", "dog", "drum", "bell")
DIM, GRID, STEPS = 6, (4, 6), 5


def anchors(**changes) -> Anchors:
    """Word w is direction w in both spaces; products are logits."""
    rows = torch.eye(len(WORDS), DIM)
    return dataclasses.replace(Anchors(WORDS, 8 * rows, rows, None, 10.0), **changes)


def scene(shown=("cat", "drum"), sound={"cat": 1.0}, hiss=0.6):  # noqa: B006 (never changed)
    """Left half of the grid shows the first word, right half the second; a factor for each; the sound's words by weight."""
    visual = torch.full((GRID[0] * GRID[1], DIM), 0.01)
    left = (torch.arange(len(visual)) % GRID[1]) < GRID[1] // 2
    for side, word in zip((left, ~left), shown):
        visual[side, WORDS.index(word)] = 1.0
    audio = torch.zeros(STEPS, DIM)
    for word, weight in sound.items():
        audio[:, WORDS.index(word)] = weight
    for word in sound:  # a sound that lives comes and goes
        audio[:, WORDS.index(word)] *= 1 + hiss * torch.tensor([1.0, -1, 1, -1, 1])
    activations = torch.stack([left, ~left], 1).float()
    factors = torch.stack([visual[left].mean(0), visual[~left].mean(0)])
    factorization = Factorization(activations, factors, torch.ones(STEPS, 2), audio.mean(0).repeat(2, 1), 0)
    return factorization, Tokens(visual, GRID), Tokens(audio, (1, STEPS))


def named(*args, config=None, bank=None, **kwargs):
    return name_concepts(*scene(*args, **kwargs), bank or anchors(), config or ConceptsConfig())


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


def test_a_sound_that_says_nothing_stays_in_the_middle():
    assert 0.4 < named(sound=dict.fromkeys(WORDS, 0.5)).score < 0.8


def test_no_sounding_factor_and_broken_sound_give_nothing():
    factorization, visual, audio = scene()
    silent = dataclasses.replace(factorization, sounding=-1)
    assert name_concepts(silent, visual, audio, anchors(), ConceptsConfig()) == name_concepts(
        factorization, visual, Tokens(audio.values * float("nan"), audio.grid), anchors(), ConceptsConfig()
    )
    assert name_concepts(silent, visual, audio, anchors(), ConceptsConfig()).concepts == ()


def parts(held, struck, levels):
    """The held and the struck part of a sound, each with its words by weight and its level; counts how often it is asked."""

    def found():
        found.asked += 1
        return tuple(SoundPart(scene(sound=words)[2], level) for words, level in zip((held, struck), levels))

    found.asked = 0
    return found


def both(held, struck, shown=("cat", "drum"), sound=None, config=None, levels=(-3.0, -3.0), **before):
    found = parts(held, struck, levels)
    scene_of = scene(shown, sound or {"cat": 0.7, "drum": 0.7})
    return name_concepts(*scene_of, anchors(), config or ConceptsConfig(), parts=found, **before), found.asked


def two(*args, **kwargs):
    heard, asked = both(*args, **kwargs)
    return [(c.label, c.factor) for c in heard.concepts], asked


def test_two_things_sound_where_each_part_of_the_sound_prefers_its_own():
    assert two({"cat": 1.0}, {"drum": 1.0}, sound={"cat": 0.7, "drum": 0.65}) == ([("cat", 0), ("drum", 1)], 1)
    assert two({"drum": 1.0}, {"cat": 1.0}, sound={"cat": 0.65, "drum": 0.7}) == ([("drum", 1), ("cat", 0)], 1)
    one = ConceptsConfig(max_concepts=1)
    assert two({"cat": 1.0}, {"drum": 1.0}, sound={"cat": 0.7, "drum": 0.65}, config=one) == ([("cat", 0)], 0)


def test_one_thing_sounds_where_both_parts_prefer_it_or_one_cannot_tell():
    alone = {"cat": 0.7, "drum": 0.65}
    assert two({"cat": 1.0}, {"cat": 0.7, "drum": 0.6}, sound=alone)[0] == [("cat", 0)]
    assert two({"drum": 0.65, "cat": 0.6}, {"drum": 1.0}, sound=alone)[0] == [("cat", 0)]
    none = name_concepts(*scene(sound=alone), anchors(), ConceptsConfig(), parts=lambda: None)
    assert [c.label for c in none.concepts] == ["cat"]


def test_a_weak_part_has_to_prefer_its_word_by_more():
    sound = {"cat": 0.7, "drum": 0.65}
    for part in (0, 1):
        level = [-3.0, -3.0]
        held, struck = ({"cat": 0.8, "drum": 0.72}, {"drum": 1.0}) if part == 0 else ({"cat": 1.0}, {"drum": 0.8, "cat": 0.72})
        assert len(two(held, struck, sound=sound, levels=level)[0]) == 2
        level[part] = -14.0
        assert len(two(held, struck, sound=sound, levels=level)[0]) == 1
        assert len(two({"cat": 1.0}, {"drum": 1.0}, sound=sound, levels=level)[0]) == 2


def test_a_second_thing_must_be_in_view():
    assert two({"cat": 1.0}, {"drum": 1.0}, shown=("cat", "cat")) == ([("cat", 0)], 0)  # costs nothing where one is in view
    assert two({"cat": 1.0}, {"dog": 1.0}, sound={"cat": 0.8, "dog": 0.4})[0] == [("cat", 0)]


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


def test_things_outside_the_bank_take_a_factor_that_shows_them():
    other = torch.zeros(1, DIM)
    other[0, 2] = 12.0  # something that looks more like it than a drum does
    factorization, visual, _ = scene()
    pooled = pooled_components(factorization, visual)
    alone = image_evidence(pooled, anchors())
    against = image_evidence(pooled, anchors(visual_others=other))
    assert alone[1, 2] > 0.99 and against[1, 2] < 0.6
    assert against[0, 0] == pytest.approx(float(alone[0, 0]), abs=0.01)  # the cat is untouched


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
    assert pooled[1] / pooled[0] == pytest.approx(2.71828, rel=1e-4)
    same = pooled_sound(Tokens(torch.ones(6, 4), (2, 3)))
    assert torch.allclose(same, torch.ones(4))


@pytest.mark.parametrize(("cat", "dog"), [(1.0, 0.0), (0.5, 0.5), (0.2, 0.6), (0.0, 0.6)])
def test_the_score_weighs_what_is_in_view_against_what_is_not(cat, dog):
    heard = torch.tensor([cat, dog, 0, 0])
    seen = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1.0, 0]])  # a cat and a drum, no dog
    weight = 1.25 * 4**0.6
    assert sounding_score(heard, seen) == pytest.approx(weight * cat / (weight * cat + dog), abs=1e-5)
    assert sounding_score(torch.tensor([0.0, 0, 1, 0]), seen) == pytest.approx(1.0)


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
        assert torch.allclose(now.sound, share * then.sound + (1 - share) * alone.sound, atol=1e-6)
        assert now.words == (("cat",) if share > 0.5 else ("drum",))
    off = ConceptsConfig(memory_s=0.0, switch_margin=0.0)
    assert torch.equal(name_concepts(*scene(sound={"drum": 1.0}), anchors(), off, then, 0.05).sound, alone.sound)
    for elapsed_s in (0.0, -1.0):  # time that stands still, or jumps back, is no time to average over
        assert torch.equal(name_concepts(*scene(sound={"drum": 1.0}), anchors(), config, then, elapsed_s).sound, alone.sound)


def test_another_word_must_beat_the_one_of_the_frame_before_by_a_margin():
    sound = {"cat": 0.7, "drum": 0.71}
    assert named(sound=sound).words == ("drum",)  # by a hair
    then = named(sound={"cat": 1.0})
    for margin, word in ((0.0, "drum"), (0.4, "cat")):
        config = ConceptsConfig(switch_margin=margin)
        assert name_concepts(*scene(sound=sound), anchors(), config, then).words == (word,)
        assert name_concepts(*scene(sound={"drum": 1.0}), anchors(), config, then).words == ("drum",)


def test_a_second_thing_comes_and_goes_by_a_margin():
    """A part that is as undecided as it may be: two after two, one after one."""
    sound = {"cat": 0.7, "drum": 0.65}
    unsure = ({"cat": 0.7, "drum": 0.66}, {"drum": 1.0})
    one, pair = named(sound=sound), both({"cat": 1.0}, {"drum": 1.0}, sound=sound)[0]
    assert (one.words, pair.words) == (("cat",), ("cat", "drum"))
    free, wide = ConceptsConfig(switch_margin=0.0), ConceptsConfig(switch_margin=2.0)
    assert both(*unsure, sound=sound, config=wide, before=one)[0].words == ("cat",)
    assert both(*unsure, sound=sound, config=wide, before=pair)[0].words == ("cat", "drum")
    assert both(*unsure, sound=sound, config=free, before=one)[0].words == both(*unsure, sound=sound, config=free)[0].words
    assert both({"cat": 1.0}, {"drum": 1.0}, sound=sound, before=one)[0].words == ("cat", "drum")  # no doubt


def test_the_parts_are_averaged_too():
    sound, config = {"cat": 0.7, "drum": 0.65}, ConceptsConfig(memory_s=0.5, switch_margin=0.0)
    pair = both({"cat": 1.0}, {"drum": 1.0}, sound=sound, config=config)[0]
    single = both({"cat": 1.0}, {"cat": 1.0}, sound=sound, config=config)[0]
    assert single.words == ("cat",)
    soon, late = (both({"cat": 1.0}, {"cat": 1.0}, sound=sound, config=config, before=pair, elapsed_s=s)[0] for s in (0.1, 5.0))
    assert (soon.words, late.words) == (("cat", "drum"), ("cat",))
    assert torch.allclose(late.parts[1], single.parts[1], atol=1e-4)
