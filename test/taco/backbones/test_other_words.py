"""Words that compete with the bank's where models take any word: however few are listened for, a sound of none is rejected."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from taco.backbones import build_anchors, load_backbones
from taco.backbones.base import Backbones
from taco.backbones.paper_models import default_words, other_words
from taco.concepts import sound_evidence, sounding_score
from taco.config import TacoConfig
from taco.factorization.anchors import image_evidence
from taco.pipeline import TacoPipeline
from taco.types import AudioWindow, VideoFrame
from test.taco import synthetic_weights as synthetic

LEAST = TacoConfig().concepts.min_score
FOUR = ("kettle", "puppy", "rooster", "tuba")
# How alike words are, as a general text encoder has it: see NEAR in taco/backbones/word_bank.py.
LIKE = {"puppy": ("Dog", 0.8), "kettle": ("Whistle", 0.4)}


class Tower:
    """Made vectors: all share a direction, a word has one of its own, words that are alike some of another's."""

    checkpoint, name = None, "made"

    def __init__(self, dim, scale, share, seed):
        self.logit_scale, self._share, self._known = scale, share, {}
        self._draws = torch.Generator().manual_seed(seed)
        self._common, self._dim = self._direction(dim), dim

    def _direction(self, dim):
        return F.normalize(torch.randn(dim, generator=self._draws), dim=0)

    def own(self, word):
        if word not in self._known:
            row, (other, alike) = self._direction(self._dim), LIKE.get(word, ("", 0.0))
            self._known[word] = alike * self.own(other) + (1 - alike**2) ** 0.5 * row if other else row
        return self._known[word]

    def encode_text(self, words):
        return torch.stack([self._common + self.own(word) for word in words])

    def project(self, values):
        return values

    def component(self, word):
        """What the tower makes of a thing: a direction that all have, and some of its word's. "": of nothing that has a name."""
        row = self._direction(self._dim)
        return F.normalize(row + self._share * self.own(word) if word else row, dim=0)


class SingleTower(Tower):
    """The same that scores each word by itself, as Perception Encoder does: log-odds against a row of its own."""

    def encode_text(self, words):
        return F.pad(torch.stack([self.own(word) for word in words]), (0, 1))

    def encode_others(self, words):
        return F.one_hot(torch.tensor([self._dim])).float()

    def project(self, values):
        return F.pad(values, (0, 1), value=0.4)


TOWERS = {  # cosines with the right word a tenth above those with others, times 100 (CLIP) and 20 (CLAP)
    "mobileclip-msclap": (512, Tower, 1024),
    "convnext-laion": (640, Tower, 512),
    "convnext-pe-audio": (640, SingleTower, 512),
}


class Made:
    """A set of models and its anchors."""

    def __init__(self, name, bank, seed=0):
        wide, ear, narrow = TOWERS[name]
        self.eye, self.ear = Tower(wide, 100.0, 0.3, seed), ear(narrow, 20.0, 2.0, seed + 1000)
        self.anchors = build_anchors(Backbones(self.eye, self.ear, default_words(), other_words()), bank)

    def heard(self, word):
        return sound_evidence(self.ear.component(word), self.anchors)

    def score(self, heard, *seen):
        sound = self.heard(heard)
        shown = image_evidence(torch.stack([self.eye.component(word) for word in seen]), self.anchors)
        return sounding_score(sound.present, shown, sound.other, sound.names, sound.total)


@pytest.mark.parametrize("words", [1, 4, 89, 527])
@pytest.mark.parametrize("name", TOWERS)
def test_the_score_tells_in_view_from_out_of_view_for_any_size_of_the_bank(name, words):
    bank = default_words() if words == 527 else tuple(f"word {n}" for n in range(words))
    found = {"in view": [], "elsewhere": [], "nothing": [], "another's": [], "behind": []}
    for seed in range(20):
        made = Made(name, bank, seed)
        first, second, third = (bank[n % words] for n in range(3))
        found["in view"].append(made.score(first, first, second))
        found["nothing"].append(made.score("", first, second))
        if words > 1:
            found["elsewhere"].append(made.score(first, second, third))
        if words < 527:  # a name that isn't in the bank: heard while a word is in view, and in view while a word is heard
            found["another's"].append(made.score("Cat", first, second))
            found["behind"].append(made.score(first, "Cat", "Siren"))
    assert min(found.pop("in view")) > LEAST
    # Of what has no name a word may be taken by chance, as seldom as with the long list.
    assert sum(score > LEAST for score in found.pop("nothing")) <= 2
    assert not [(what, max(scores)) for what, scores in found.items() if scores and max(scores) > LEAST]


@pytest.mark.parametrize("name", TOWERS)
def test_a_name_that_means_a_word_does_not_compete_with_it(name):
    """The user says puppy, the models would rather say Dog; rooster is one of the names in "Chicken, rooster"."""
    assert {"Dog", "Whistle", "Chicken, rooster"} <= set(other_words())
    for seed in range(5):
        made = Made(name, FOUR, seed)
        for word, thing in (("puppy", "puppy"), ("puppy", "Dog"), ("kettle", "kettle"), ("rooster", "rooster"), ("tuba", "tuba")):
            assert made.score(thing, thing, "Car") > LEAST, (word, thing)
            assert FOUR[int(made.heard(thing).present.argmax())] == word
        # What is alike, but nearer to any name than to the word, is another thing.
        assert made.score("Whistle", "Whistle", "Car") < LEAST
        assert len(made.anchors.visual_others) == len(other_words()) - 2  # Dog; Chicken, rooster


def test_the_long_list_competes_with_itself_alone():
    anchors = Made("convnext-laion", ()).anchors
    assert anchors.words == default_words() and anchors.visual_others is None and anchors.audio_others is None


def test_names_of_kinds_and_places_do_not_compete():
    names = other_words()
    assert {"Dog", "Speech", "Male speech, man speaking", "Siren"} <= set(names) < set(default_words())
    assert not {"Animal", "Music", "Inside, small room", "Noise", "Silence"} & set(names)


@pytest.mark.parametrize("name", ["open", "paper"])
@pytest.mark.parametrize("audio", ["", "pe-audio"])
def test_every_set_that_takes_any_word_has_them_and_publishes_none(name, audio, tmp_path, monkeypatch):
    """Their vectors are computed once, in one visit of the text towers, for every list of words."""
    from test.taco import tiny_saved

    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    settings = {**synthetic.save_open_set(tmp_path / "models"), "models.name": name, "models.audio": audio}
    tiny_saved.save_pe_audio(tmp_path / "models", False)
    more = {"models.segmenter": "activation", "models.engine": "torch", "concepts.min_score": 0.0, "segmentation.min_area": 0.0}
    config = TacoConfig().updated({**settings, **more})
    backbones = load_backbones(config.models)
    visits, encoded, load, encode = [], [], backbones.image._load_text, backbones.image.encode_text
    monkeypatch.setattr(backbones.image, "_load_text", lambda: visits.append(1) or load())
    monkeypatch.setattr(backbones.image, "encode_text", lambda words: encoded.append(len(words)) or encode(words))
    pipeline = TacoPipeline(config, backbones=backbones)
    anchors = pipeline.anchors
    assert len(visits) == 1 and sum(encoded) == 4 + len(other_words())
    assert anchors.words == ("dog", "siren", "guitar", "rain") and anchors.sounds_compete == (audio == "")
    assert 0 < len(anchors.visual_others) < len(other_words())
    assert len(anchors.audio_others) == len(anchors.visual_others) + bool(audio)  # "none of them" is the last
    scene = pipeline.process(VideoFrame(synthetic.picture(), 0), AudioWindow(synthetic.sound(16000), 16000, 0))
    named = [word for item in scene.objects for word, _ in item.labels] + [word for word, _ in scene.heard]
    assert set(named) <= set(anchors.words) and np.isfinite(scene.sounding_score)
    pipeline.set_words(["a kettle"])
    assert len(visits) == 2 and encoded[-1] == 1 and sum(encoded) == 5 + len(other_words())
    assert pipeline.backbones.image._text is None and pipeline.backbones.audio._text is None
