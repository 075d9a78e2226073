"""What the image says of each word, written out once more in plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F

from taco.factorization.anchors import CROWD, OTHERS, SURENESS, image_evidence
from taco.types import Anchors, Kinds

RNG = torch.Generator().manual_seed(7)
WORDS, DIM = ("cat", "dog", "drum"), 5


def rows(count):
    return torch.randn(count, DIM, generator=RNG)


@pytest.mark.parametrize("scale", [None, 20.0])
@pytest.mark.parametrize("others", [0, 4])
@pytest.mark.parametrize("kinds", [False, True])
def test_evidence_is_a_softmax_over_words_and_all_else(scale, others, kinds):
    """A word of several kinds has their sum less CROWD times the logarithm of their number; all else counts by OTHERS."""
    owners = torch.tensor([0, 2, 0, 1, 0])
    known, rest, components = rows(5 if kinds else 3), rows(others), rows(2)
    bank = Anchors(
        WORDS,
        rows(3) if kinds else known,
        torch.eye(3),
        visual_logit_scale=scale,
        visual_others=rest if others else None,
        visual_kinds=Kinds(known, owners) if kinds else None,
    )

    def logit(component, vector):
        if scale is None:
            return SURENESS * float(component @ vector)
        return scale * float(F.normalize(component, dim=0) @ F.normalize(vector, dim=0))

    for component, found in zip(components, image_evidence(components, bank)):
        weights = []
        for word in range(3):
            own = [vector for vector, owner in zip(known, owners) if owner == word] if kinds else [known[word]]
            weights.append(sum(math.exp(logit(component, vector)) for vector in own) / len(own) ** CROWD)
        total = sum(weights) + math.exp(OTHERS) * sum(math.exp(logit(component, vector)) for vector in rest)
        assert found.tolist() == pytest.approx([weight / total for weight in weights], rel=1e-4)
