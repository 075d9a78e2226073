"""A factor explains itself: words in both spaces, maps on both grids."""

import pytest
import torch

from taco.config import FactorizationConfig
from taco.errors import ShapeError, ValueRangeError
from taco.factorization import explain_factors, factorize, nearest_words, sound_map, visual_map
from taco.types import Anchors
from test.taco.factorization.made_problems import Gelu, planted_scene


@pytest.fixture(scope="module")
def found():
    x_v, x_a, anchors, truth = planted_scene(3)
    return factorize(x_v, x_a, anchors, FactorizationConfig(n_factors=5)), anchors, truth, x_a


def test_the_sounding_factor_is_named_alike_in_both_spaces(found):
    f, anchors, truth, x_a = found
    seen, heard = nearest_words(f, anchors, f.sounding, 3)
    cosines = torch.cosine_similarity(x_a[-1][None], anchors.audio)
    assert seen[0][0] == heard[0][0] == anchors.words[int(cosines.argmax())]
    for words in (seen, heard):
        scores = [score for _, score in words]
        assert len(words) == 3 and scores == sorted(scores, reverse=True) and all(-1 <= s <= 1 for s in scores)
    by_hand = torch.cosine_similarity(f.visual_factors[f.sounding][None], anchors.visual)
    assert seen[0][1] == pytest.approx(float(by_hand.max()), abs=1e-5)


def test_maps_lie_on_their_grids(found):
    f, anchors, truth, _ = found
    image = visual_map(f, f.sounding, (12, 12))
    assert image.shape == (12, 12) and float(image[truth].mean()) > float(image[~truth].mean()) + 0.5
    assert torch.equal(image.flatten(), f.visual_activations[:, f.sounding])
    sound = sound_map(f, f.sounding, (2, 8))
    assert sound.shape == (2, 8) and float(sound[1, -1]) == float(f.audio_activations[-1, f.sounding])


def test_all_factors_are_explained(found):
    f, anchors, _, _ = found
    meanings = explain_factors(f, anchors, (12, 12), (2, 8), n=100)
    assert [m.factor for m in meanings] == [0, 1, 2, 3, 4]
    assert all(len(m.visual_words) == len(m.audio_words) == 20 for m in meanings)


def test_an_opaque_projection_is_applied(found):
    f, anchors, _, _ = found
    torch.manual_seed(0)
    project = Gelu(48, 7, torch.float32)
    opaque = Anchors(anchors.words, anchors.visual, torch.randn(20, 7), project, 3.0)
    _, heard = nearest_words(f, opaque, 1, 1)
    by_hand = torch.cosine_similarity(project(f.audio_factors[1]).detach()[None], opaque.audio)
    assert heard[0] == (anchors.words[int(by_hand.argmax())], pytest.approx(float(by_hand.max()), abs=1e-5))


def test_wrong_questions_are_named(found):
    f, anchors, _, _ = found
    with pytest.raises(ValueRangeError, match="factor: wanted 0 to 4, got 5"):
        nearest_words(f, anchors, 5)
    with pytest.raises(ValueRangeError, match="got -1"):
        visual_map(f, -1, (12, 12))
    with pytest.raises(ShapeError, match="audio grid: wanted two sizes with product 16"):
        sound_map(f, 0, (12, 12))
    with pytest.raises(ShapeError, match="anchors.visual"):
        nearest_words(f, Anchors(("a",), torch.ones(1, 3), torch.ones(1, 48)), 0)
