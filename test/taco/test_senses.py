"""What sound and image say of a word alone: odds that no bank changes, kinds that stand for their word."""

import dataclasses

import pytest
import torch

from taco.concepts import image_evidence, likeliest_words, sound_evidence
from taco.types import Anchors, Kinds

DIM = 6


def test_the_odds_of_a_sound_model_do_not_depend_on_the_bank():
    """Sound models that tell every sound by itself: log-odds against "nothing that has a name"."""
    rows = torch.eye(6)
    values = torch.tensor([2.0, -3.0, 1.0, 0.5, 0.0, 4.0])  # cat, dog, rain, wind, nothing, what fills the length
    scale = float(values.norm())
    everything = Anchors(("cat", "dog"), rows[:2], rows[:2], None, scale, audio_others=rows[2:5])
    only = Anchors(("cat",), rows[:1], rows[:1], None, scale, audio_others=rows[1:5])
    one, other = sound_evidence(values, everything), sound_evidence(values, only)
    assert float(one.present[0]) == pytest.approx(torch.tensor(2.0).sigmoid().item(), abs=1e-5)
    assert torch.allclose(one.present[:1], other.present) and torch.allclose(one.share[:1], other.share)
    assert one.other == other.other == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=1e-5)
    assert sound_evidence(torch.tensor([2.0, -3.0, -2.0, -2.5, 0, 4.0]), everything).other < 0.2  # "nothing" is no sound
    shares = torch.tensor([2.0, -3.0, 1.0, 0.5, 0.0]).softmax(0)
    assert torch.allclose(one.share, shares[:2], atol=1e-6)
    assert one.known and not sound_evidence(torch.tensor([-1.0, -3.0, 3.0, 0, 0, 4.0]), everything).known
    assert likeliest_words(one, everything.words, 5) == (("cat", pytest.approx(0.8808, abs=1e-3)),)


def test_a_word_of_many_kinds_is_seen_by_any_of_them():
    """A flamingo is a bird, though the mean of all birds is not like it."""
    kinds = torch.zeros(5, DIM)
    kinds[0, 0] = kinds[1, 1] = kinds[2, 2] = kinds[3, 3] = 12.0  # four birds
    kinds[4, 4] = 12.0  # one dog
    words = torch.tensor([0, 0, 0, 0, 1])
    rows = torch.stack([kinds[:4].mean(0), kinds[4]])
    bank = Anchors(("bird", "dog"), rows, torch.eye(2, DIM), None, 10.0, visual_kinds=Kinds(kinds, words))
    flamingo = torch.eye(DIM)[1:2] + 0.3 * torch.eye(DIM)[4:5]
    assert image_evidence(flamingo, bank)[0, 0] > 0.95
    assert image_evidence(flamingo, dataclasses.replace(bank, visual_kinds=None))[0, 0] < 0.5
    nothing = image_evidence(torch.zeros(1, DIM), bank)[0]
    assert float(nothing[0] / nothing[1]) < 2.5  # four kinds are no four times the word
