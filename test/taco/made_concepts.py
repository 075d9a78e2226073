"""Made tokens whose right answer is known: one-hot objects, one-hot sounds; and naming as the pipeline does it."""

import dataclasses
import math

import torch

from taco.concepts import name_concepts, name_further
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


def name_all(factorization, visual, audio, bank, config, parts, before=None, elapsed_s=math.inf):
    """Both steps of naming, as the pipeline takes them; ``parts`` is asked where there may be several."""
    naming = name_concepts(factorization, visual, audio, bank, config, before, elapsed_s)
    if naming.may_be_several and config.max_concepts > 1:
        naming = name_further(naming, parts(), bank, config, before, elapsed_s)
    return naming


def parts(*sounds):
    """The sounds that the sound is taken apart into, each with its words by weight; counts how often it is asked."""

    def found():
        found.asked += 1
        return [scene(sound=words)[2] for words in sounds]

    found.asked = 0
    return found


def both(*sounds, shown=("cat", "drum"), sound=None, config=None, **before):
    found = parts(*sounds)
    scene_of = scene(shown, sound or {"cat": 0.7, "drum": 0.7})
    return name_all(*scene_of, anchors(), config or ConceptsConfig(), found, **before), found.asked


def two(*args, **kwargs):
    heard, asked = both(*args, **kwargs)
    return [(c.label, c.factor) for c in heard.concepts], asked
