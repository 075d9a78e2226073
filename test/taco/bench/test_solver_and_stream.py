"""The benchmarks of solver and stream: synthetic scenes are as described, and so are the figures."""

import json

import pytest
import torch

from taco.bench.problems import make_world, still, stream
from taco.bench.solver import SOLVERS, ablations, batches, growth, quality, ratios
from taco.bench.stream import METHODS, activation_mask, iou, run_stream, summary
from taco.cli import main
from taco.types import Factorization


@pytest.fixture(scope="module")
def world():
    return make_world(0, words=30, visual_dim=48, audio_dim=40)


def test_a_scene_is_a_function_of_its_seed(world):
    a, b, other = still(world, 1), still(world, 1), still(world, 2)
    assert torch.equal(a.visual, b.visual) and torch.equal(a.audio, b.audio) and torch.equal(a.truth, b.truth)
    assert not torch.equal(a.visual, other.visual)
    assert a.visual.shape == (576, 48) and a.audio.shape == (64, 40) and float(a.visual.min()) >= 0
    assert 0.02 < float(a.truth.float().mean()) < 0.45


def test_the_truth_is_where_the_word_is(world):
    scene = still(world, 3, noise=0.1)
    fit = (scene.visual @ world.visual[scene.word].clamp(min=0)).view(24, 24)
    assert float(fit[scene.truth].min()) > float(fit[~scene.truth].mean())


def test_a_stream_changes_sound_and_place(world):
    frames = stream(world, 5, 48)
    events = [event for _, event in frames]
    assert [(i, e) for i, e in enumerate(events) if e] == [(0, "start"), (12, "sound"), (24, "cut"), (36, "sound")]
    words = [scene.word for scene, _ in frames]
    assert len(set(words[:12])) == 1 and words[12] != words[11] and words[36] != words[35]


def test_masks_and_summary_by_hand():
    u = torch.tensor([[0.1, 0.9], [0.2, 0.0], [0.3, 0.8], [0.0, 0.1]])
    f = Factorization(u, torch.ones(2, 3), torch.ones(5, 2), torch.ones(2, 3), sounding=1)
    mask = activation_mask(f, (2, 2))
    assert mask.tolist() == [[True, False], [True, False]]
    assert iou(mask, torch.tensor([[True, True], [False, False]])) == pytest.approx(1 / 3)
    assert iou(mask & False, mask & False) == 1.0
    on, off = torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 2, dtype=torch.bool)
    rows = [(1.0, "start", True, 1.0, "cold", on, 7)] + [(1.0, "", True, 1.0, "", on, 7)] * 11
    rows += [(0.0, "sound", False, 3.0, "", off, 7), (0.2, "", False, 3.0, "", off, 7), (0.9, "", True, 3.0, "", on, 8)]
    figures = summary([rows])
    assert figures["lag_sound"] == 2 and figures["steady"] == 1.0 and figures["stability"] == 1.0
    assert figures["iou"] == pytest.approx((12 + 0.2 + 0.9) / 15) and figures["label_right"] == pytest.approx(13 / 15)
    with_cut = [(*row[:1], "cut" if row[1] == "sound" else row[1], *row[2:]) for row in rows]
    assert summary([with_cut, rows])["lag_cut"] == 2


def test_the_box_holds_the_mask_and_the_loss_alone_does_not():
    """The trap: more sweeps without a box give a lower loss and a worse mask."""
    found = quality(5, 5, None, make_world(0, words=100, visual_dim=128, audio_dim=96), side=12)
    boxed, free = found["block, cold (default)"], found["block, 15 sweeps, no box"]
    assert free["loss"] < boxed["loss"] and free["mask IoU"] < boxed["mask IoU"] - 0.1
    assert boxed["mask IoU"] > 0.85
    assert set(ratios(found, 5)) >= {"autograd / block cold", "autograd / closed form"}
    assert found["autograd, 5 steps"]["loss"] == pytest.approx(found["gradient (closed form), 5 steps"]["loss"], rel=1e-3)


def test_every_part_of_the_objective_is_needed():
    """Table 3 on synthetic scenes, the paper's solver: the full objective is far ahead of each ablation."""
    found = ablations(40, 6, 600, {"gradient": SOLVERS["gradient"]})["gradient"]
    assert found["full"] > 0.1 + max(value for name, value in found.items() if name != "full"), found


def test_a_warm_stream_beats_random_cold_starts(monkeypatch):
    methods = {name: METHODS[name] for name in ("block warm", "block cold, random start")}
    monkeypatch.setattr(
        "taco.bench.stream.make_world", lambda seed, gap: make_world(seed, words=100, visual_dim=96, audio_dim=64)
    )
    found = run_stream((1,), 48, methods=methods)
    assert found["block warm"]["steady"] > 0.8 > found["block cold, random start"]["steady"]


def test_growth_and_batches_measure():
    out = growth((6, 8), (20, 40))
    assert set(out["tokens (warm ms)"]) == {"36", "64", "exponent", "exponent, last two"}
    assert all(ms > 0 for row in batches((1, 2)).values() for ms in row.values())


def test_the_command_prints_a_table_and_json(capsys, monkeypatch):
    monkeypatch.setattr("taco.bench.stream.run_stream", lambda *a, **k: {"block warm": {"iou": 0.5}})
    assert main(["bench", "stream", "--seeds", "1"]) == 0
    assert "| block warm | 0.5 |" in capsys.readouterr().out
    for argv in (["bench", "stream", "--json"], ["bench", "--json", "stream"]):
        assert main(argv) == 0
        assert json.loads(capsys.readouterr().out) == {"block warm": {"iou": 0.5}}
    assert main(["bench", "stream", "--frames", "3"]) == 1
    assert "--frames: wanted at least 48" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "nothing"])
    assert stopped.value.code == 2
