"""Sounds one after the other on made tokens: each pair of factors names its own."""

import dataclasses
import math

import pytest
import torch

from taco.concepts import (
    SoundEvidence,
    _Pairs,
    name_concepts,
    name_further,
    sound_components,
)
from taco.config import ConceptsConfig
from taco.types import Factorization, Tokens
from test.taco.made_concepts import DIM, WORDS, anchors, name_all, parts, scene


def in_turn(first, second, shown=("cat", "drum"), swapped=False, fading=0.0):
    """A scene in which one word sounds, then the other; each factor's own sound is its word's, or the other's."""
    factorization, visual, _ = scene(shown)
    audio = torch.full((6, DIM), 0.01)
    audio[:3, WORDS.index(first)] = audio[3:, WORDS.index(second)] = 1.0
    audio[3:, WORDS.index(first)] += fading
    own = torch.zeros(6, 2)
    for step in range(6):
        word = first if step < 3 else second
        own[step, shown.index(word) if word in shown else 1] = 0.9
    own = own.flip(1) if swapped else own
    factors = own.T @ audio / own.sum(0)[:, None].clamp_min(1e-6)
    factorization = dataclasses.replace(factorization, audio_activations=own, audio_factors=factors)
    return factorization, visual, Tokens(audio, (1, 6))


@pytest.mark.parametrize("order", [("cat", "drum"), ("drum", "cat")])
def test_of_sounds_one_after_the_other_each_pair_names_its_own(order):
    naming = name_all(*in_turn(*order), anchors(), ConceptsConfig(), lambda: ())
    assert naming.in_succession and set(naming.words) == set(order)
    assert naming.words[0] == order[1], "the newest first"
    for concept in naming.concepts:
        assert concept.factor == ("cat", "drum").index(concept.label)
        assert int(concept.heard.argmax()) == WORDS.index(concept.label), "its own sound, not the whole"


def test_of_sounds_one_after_the_other_a_pair_that_belongs_to_another_names_nothing():
    naming = name_all(*in_turn("cat", "drum", swapped=True), anchors(), ConceptsConfig(), lambda: ())
    assert naming.in_succession and len(naming.concepts) == 1


def test_a_sound_from_elsewhere_before_or_after_names_nothing_in_view():
    found = [name_all(*in_turn(*order), anchors(), ConceptsConfig(), lambda: ()) for order in (("cat", "bell"), ("bell", "cat"))]
    assert [naming.words for naming in found] == [(), ("cat",)] and found[1].in_succession


def test_the_better_the_pairs_are_told_apart_the_surer_is_the_second():
    clear, blurred = (
        name_all(*in_turn("cat", "drum", fading=fading), anchors(), ConceptsConfig(), lambda: ()) for fading in (0.0, 0.8)
    )
    assert clear.words == blurred.words and clear.concepts[1].score > blurred.concepts[1].score + 0.005


def test_parts_are_not_used_where_the_pairs_tell_the_sounds_apart():
    lone = name_concepts(*in_turn("cat", "drum"), anchors(), ConceptsConfig())
    told = [name_further(lone, parts, anchors(), ConceptsConfig()).words for parts in ((), parts({"bell": 1.0}, {"dog": 1.0})())]
    assert told[0] == told[1] and len(told[0]) == 2


def test_a_factors_own_sound_is_the_mean_of_its_tokens_and_of_a_silent_one_that_of_all():
    audio = torch.tensor([[1.0, 0, 0], [0, 3.0, 0], [0, 1.0, 0]])
    activations = torch.tensor([[0.5, 0, 0], [0, 0.2, 0], [0, 0.6, 0]])
    f = Factorization(torch.ones(4, 3), torch.ones(3, 3), activations, torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0]]), 0)
    want = torch.tensor([[1.0, 0, 0], [0, 1.5, 0], [1 / 3, 4 / 3, 0]])
    torch.testing.assert_close(sound_components(f, Tokens(audio, (1, 3))), want)


@pytest.mark.parametrize("worse", [{"drum_in_cats": 2.5}, {"cat_in_drums": 1.5}, {"drum": -1.0}])
def test_each_pair_must_prefer_its_own_word(worse):
    def odds(drum=1.0, drum_in_cats=-4.0, cat_in_drums=-4.0):
        own = []
        for cat, other in ((3.0, drum_in_cats), (cat_in_drums, drum)):
            present = torch.tensor([cat, -13.0, other, -13.0]).sigmoid()
            own.append(SoundEvidence(torch.tensor([0.3, 0, 0.3, 0]), present))
        return float(_Pairs(own).odds(0, 0, torch.tensor([0, 0, 1, 0]), torch.zeros(4))[2])

    assert odds(**worse) < odds() - 0.1


def test_a_second_that_is_hardly_audible_in_its_own_sound_is_not_asked_about():
    faint = [SoundEvidence(torch.full((4,), 0.2), torch.tensor([3.0, -13, -13, -13]).sigmoid()) for _ in range(2)]
    assert float(_Pairs(faint).odds(0, 0, torch.tensor([0, 0, 1, 0]), torch.zeros(4))[2]) == -math.inf


def test_a_second_is_the_surer_the_more_of_its_own_sound_it_is():
    odds = torch.tensor([[3.0, -13, -4, -13], [-4.0, -13, 1, -13]]).sigmoid()
    found = []
    for share in (0.2, 0.9):
        own = [SoundEvidence(torch.tensor([0.9, 0, 0, 0]), odds[0]), SoundEvidence(torch.tensor([0, 0, share, 0]), odds[1])]
        found.append(float(_Pairs(own).odds(0, 0, torch.tensor([0, 0, 1, 0]), torch.zeros(4))[2]))
    assert found[1] > found[0] + 0.3


def test_the_papers_concept_carries_the_sound_of_its_own_factor():
    config = ConceptsConfig(naming="factor", min_score=0.0)
    (concept,) = name_concepts(*in_turn("cat", "drum"), anchors(), config).concepts
    assert concept.factor == 0 and int(concept.heard.argmax()) == WORDS.index("cat"), "though the newest is a drum"
