"""Replacements of the factorization: each does what its name says, and the table distinguishes them."""

import pytest
import torch

import taco.pipeline
from taco.bench.ablations import ABLATIONS, GRID, ablations, in_place
from taco.cli import bench as command
from taco.config import FactorizationConfig
from taco.types import Anchors
from test.taco.evaluation import made_models as models


def solved(name):
    """Of synthetic tokens: (the true answer, what the pipeline would get, the image tokens)."""
    random = torch.Generator().manual_seed(1)
    visual, audio = torch.rand(96, 5, generator=random), torch.rand(12, 4, generator=random)
    words = Anchors(("a", "b"), torch.rand(2, 5, generator=random), torch.rand(2, 4, generator=random))
    args = visual, audio, words, FactorizationConfig()
    grids = {"visual_grid": (8, 12), "audio_grid": (1, 12)}
    true = taco.pipeline.factorize(*args, **grids)
    with in_place(ABLATIONS[name]):
        return true, taco.pipeline.factorize(*args, **grids), visual


def test_the_grid_is_fixed_and_knows_only_the_tokens_in_its_cells():
    true, found, visual = solved("fixed grid")
    cells = found.visual_activations.view(8, 12, 8)
    for k in range(8):
        row, column = divmod(k, GRID[1])
        inside = torch.zeros(8, 12)
        inside[row * 4 : row * 4 + 4, column * 3 : column * 3 + 3] = 1
        assert torch.equal(cells[..., k], inside)
        torch.testing.assert_close(found.visual_factors[k], visual.view(8, 12, 5)[inside > 0].mean(0))
    assert torch.equal(found.audio_activations, true.audio_activations)


def test_kmeans_takes_each_token_to_its_nearest_centre():
    _, found, visual = solved("k-means")
    nearest = torch.cdist(visual, found.visual_factors).argmin(1)
    assert torch.equal(found.visual_activations.argmax(1), nearest) and (found.visual_activations.sum(1) == 1).all()


def test_random_factors_have_nothing_of_the_true_ones():
    true, found, _ = solved("random factors")
    for name in ("visual_activations", "visual_factors", "audio_activations", "audio_factors"):
        pair = torch.stack([getattr(true, name).flatten(), getattr(found, name).flatten()])
        assert abs(float(torch.corrcoef(pair)[0, 1])) < 0.5


def test_shuffling_parts_every_pair_and_loses_no_factor():
    true, found, _ = solved("sound half shuffled")
    assert torch.equal(found.visual_factors, true.visual_factors)
    rows = [tuple(row.tolist()) for row in true.audio_factors]
    assert [rows.index(tuple(row.tolist())) for row in found.audio_factors] == [7, 0, 1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(
        found.audio_activations @ found.audio_factors, true.audio_activations @ true.audio_factors
    )  # the sound that is explained stays the same


def test_the_stand_in_is_gone_afterwards():
    before = taco.pipeline.factorize
    with pytest.raises(RuntimeError), in_place(ABLATIONS["k-means"]):
        assert taco.pipeline.factorize is not before
        raise RuntimeError
    assert taco.pipeline.factorize is before


def test_the_table_tells_the_true_factors_from_random_ones_and_from_a_grid():
    steps = []
    found = ablations(
        models.CONFIG, ("as configured", "random factors", "cold every frame"),
        method_runner=models.method_runner(), dataset=models.made(3),
        progress=lambda done, total: steps.append((done, total)),
    )  # fmt: skip
    assert list(found) == ["as configured", "random factors", "cold every frame"] and steps == [(1, 3), (2, 3), (3, 3)]
    assert found["as configured"]["right word"] == 100 and found["as configured"]["live IoU"] > 60
    assert found["random factors"]["live IoU"] < found["as configured"]["live IoU"] - 30
    assert found["cold every frame"] == pytest.approx(found["as configured"], abs=20)


def test_it_is_a_bench_by_name(capsys):
    assert "photographs" in command.BENCHMARKS["ablations"][0]
    from taco import cli

    assert cli.main(["bench", "ablations", "--count", "0"]) == 2
    assert "--count: wanted 1 or more" in capsys.readouterr().err
    assert cli.main(["bench", "ablations", "--only", "kmeans"]) == 2
    assert "wanted some of as configured, fixed grid, k-means" in capsys.readouterr().err
