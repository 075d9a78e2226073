"""The votes and averages of naming, with numbers that are set by hand."""

import pytest
import torch

from taco.concepts import SoundEvidence, _Pairs, _Parts, _Votes, sounding_score
from taco.config import ConceptsConfig
from taco.types import Anchors

WORDS = ("cat", "dog", "drum", "bell")
BANK = Anchors(WORDS, torch.eye(4), torch.eye(4))


def heard(*share, other=0.0):
    values = torch.tensor(share)
    return SoundEvidence(values, values, other, len(share))


def votes(share, *seen, **settings):
    config = ConceptsConfig(**{"image_weight": 1.0, "n_labels": 4, **settings})
    return _Votes(heard(*share), torch.tensor(seen), BANK, config, ())


def test_no_sense_can_veto_a_word_for_good():
    """What one sense is all but sure of wins against what the other one merely thinks of, though the first has never met it."""
    assert votes((1e-9, 0.1, 0, 0), (0.95, 1e-9, 0, 0)).one() == (0, 0)  # seen for sure, heard by no means
    assert votes((1e-9, 0.9, 0, 0), (0.5, 1e-9, 0, 0)).one() == (0, 1)  # heard for sure, seen by no means


def test_further_labels_follow_the_votes_and_none_is_surer_than_the_first():
    by = votes((0.1, 0.2, 0.05, 0.6), (0.05, 0.9, 0.5, 0.01), (0.5, 0.3, 0.0, 0.0))
    labels = by.concept(0, 1, 0.8).labels
    assert [word for word, _ in labels] == ["dog", "drum", "bell", "cat"]
    second = by.concept(1, 0, 0.8).labels  # of two objects, one need not have its factor's best word
    assert second[0][0] == "cat" and second[1][0] == "dog" and second[0][1] == second[1][1]
    assert all(first[1] >= later[1] for first, later in zip(second, second[1:]))


def test_of_many_sounds_that_it_could_be_few_agree_by_chance():
    """A bank of four words, but an ear that tells hundreds: that it means one that is seen says more."""
    ear, eye = torch.tensor([0.3, 0.1, 0.1, 0.1]), torch.tensor([[0.4, 0.1, 0.1, 0.1]])
    scores = [sounding_score(ear, eye, names=names) for names in (0, 4, 20, 500)]
    assert scores[0] == scores[1] < scores[2] - 0.02 and scores[2] < scores[3]


def test_all_that_is_heard_is_averaged():
    then, now = heard(0.8, 0.1, 0, 0, other=0.6), heard(0.2, 0.3, 0.5, 0, other=0.2)
    mixed = now.averaged(then, 0.25)
    assert mixed.other == pytest.approx(0.3)
    assert torch.allclose(mixed.share, torch.tensor([0.35, 0.25, 0.375, 0])) and torch.equal(mixed.share, mixed.present)
    assert now.averaged(None, 0.25) is now and now.averaged(then, 0.0) is now


def at_odds(*values):
    """A sound that is each word with these log-odds."""
    present = torch.tensor(values, dtype=torch.float32).sigmoid()
    return SoundEvidence(present, present)


SHOWN = torch.zeros(4)  # both are in view for sure


def test_of_sounds_in_succession_a_object_is_told_once_however_many_factors_show_it():
    by = votes((0.9, 0.02, 0.02, 0.02), (0.9, 0, 0, 0), (0.85, 0, 0, 0))
    assert by.further((0, 0), _Pairs((at_odds(3, -9, -9, -9), at_odds(3, -9, -9, -9)))) == []


def test_of_sounds_in_succession_each_factors_sound_must_prefer_its_own_word():
    """The first factor's sound is a cat and no drum; the second one's is a drum, and a cat as well or not."""
    factors = torch.tensor([0, 1, 1, 1])

    def odds(cat_in_second):
        pairs = _Pairs((at_odds(3, -9, -2, -9), at_odds(cat_in_second, -9, 3, -9)))
        return float(pairs.odds(0, 0, factors, SHOWN)[2])

    assert odds(-4.0) > odds(2.0) + 0.05 and odds(2.0) > odds(2.9) + 0.05


def test_what_the_whole_tells_clearly_counts_though_the_parts_blur_it():
    parts = [at_odds(2, -9, -4, -9), at_odds(-4, -9, -2, -9)]
    clear, faint = (float(_Parts(whole, parts).odds(0, 0, SHOWN, SHOWN)[2]) for whole in (at_odds(2, -9, 3, -9), parts[0]))
    assert clear > faint + 1
