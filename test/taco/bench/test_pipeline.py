"""The benchmark of the live line: every part on made frames, and its judgement by hand."""

import json
import math

import numpy as np
import pytest
import torch

from taco.bench import growth, page, pipeline
from taco.bench.pipeline import AS_CONFIGURED, Clip, Sample
from taco.cli import main
from taco.cli.bench import table
from taco.config import TacoConfig
from taco.engines import installed_engines
from taco.evaluation.datasets import EvaluationFrame
from taco.pipeline import TacoPipeline
from taco.types import AudioWindow, VideoFrame

CONFIG = TacoConfig().updated({"models.image": "standin:5", "segmentation.refine": "none"})


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def frames(count, level=0.3, step=4):
    """A red square that goes to the right before grey, with its tone; level 0 is silence."""
    time_s = np.arange(16000) / 16000
    window = AudioWindow((level * np.sin(2 * np.pi * 300 * time_s)).astype(np.float32), 16000, 0)
    out = []
    for number in range(count):
        rgb = np.full((96, 128, 3), 90, np.uint8)
        rgb[24:64, 16 + step * number : 56 + step * number] = (220, 20, 20)
        out.append(EvaluationFrame(f"made/{number}", VideoFrame(rgb, number * 10**8), window, None, 0, "red"))
    return tuple(out)


@pytest.fixture(scope="module")
def found():
    clips = [Clip("moving", frames(5), True), Clip("one", frames(1), False), Clip("silent", frames(2, 0.0), False)]
    return pipeline.run_pipeline(CONFIG, clips)


def test_streams_cold_and_silent_frames_are_told_apart(found):
    rows = found["frames"]
    assert {name: row["frames"] for name, row in rows.items()} == {
        f"stream, {AS_CONFIGURED}": 4,
        f"cold, {AS_CONFIGURED}": 2,
        f"silent, {AS_CONFIGURED}": 2,
    }
    moving = rows[f"stream, {AS_CONFIGURED}"]
    assert moving["outlined"] == 4 and 5 <= moving["ms"] <= moving["p95 ms"] and moving["processor ms"] > 0
    assert rows[f"silent, {AS_CONFIGURED}"]["outlined"] == 0
    assert rows[f"silent, {AS_CONFIGURED}"]["ms"] < moving["ms"]


def test_every_stage_has_its_row_and_no_network_is_made_up(found):
    stages = found["stages"]
    assert list(stages) == ["image", "sound", "factorize", "name", "segment", "drawing (only with a listener)"]
    assert stages["image"]["ms"] >= 5 and stages["image"]["frames"] == 4 and "floor ms" not in stages["image"]
    assert stages["factorize"]["ratio"] == pytest.approx(stages["factorize"]["ms"] / stages["factorize"]["floor ms"])
    assert found["TACO / A-prompt"]["outlined frames"] == 6 and found["TACO / A-prompt"]["ratio"] > 0
    assert found["starts"]["warm ms"] > 0 and found["engine"] == "torch"


def test_the_clock_sees_networks_in_their_stage_and_leaves_no_trace(monkeypatch):
    network = torch.nn.Linear(1, 1)
    run = pipeline.TorchNetwork(network, ("y",))
    line = TacoPipeline(CONFIG)
    encode = line.backbones.image.encode
    monkeypatch.setattr(line.backbones.image, "encode", lambda frame: (run(torch.zeros(1)), encode(frame))[1])
    clock, own = pipeline._StageClock(), vars(pipeline.TorchNetwork)["__call__"]
    with clock.running():
        sample, scene = clock.process(line, frames(1)[0])
        run(torch.zeros(1))  # between the frames: nobody's
    assert list(sample.networks) == ["image"] and 0 < sample.networks["image"] < sample.stages["image"][0]
    assert 0 < sample.beside < sample.wall and scene.verdict == sample.verdict == "sounding"
    assert vars(pipeline.TorchNetwork)["__call__"] is own and pipeline.taco.pipeline._timed is not clock._timed


def test_engines_that_fall_back_are_no_row_of_their_own():
    assert list(pipeline.load_engines(CONFIG)) == [AS_CONFIGURED]  # the stand-in runs in torch whatever is asked for
    assert set(pipeline.engine_settings()) >= {AS_CONFIGURED, "torch", *installed_engines()}


def test_summary_and_stages_by_hand():
    one = Sample(10.0, 8.0, "sounding", {"image": [6.0, 5.0]}, {"image": 4.0})
    two = Sample(20.0, 9.0, "unknown", {"image": [8.0, 7.0], "name": [2.0, 2.0]}, {"image": 4.0})
    row = pipeline.summary([one, two, two])
    assert (row["frames"], row["outlined"], row["ms"], row["processor ms"], row["beside the networks ms"]) == (3, 1, 20, 9, 16)
    stages = pipeline.stage_table([one, two, two], [1.0, 3.0], {"name": 0.5})
    assert stages["image"] == {"frames": 3, "ms": 8.0, "p95 ms": 8.0, "processor ms": 7.0, "floor ms": 4.0, "ratio": 2.0}
    assert stages["name"]["frames"] == 2 and stages["name"]["ratio"] == 4.0
    assert stages["drawing (only with a listener)"]["ms"] == 2.0 and pipeline.summary([]) == {}


def test_exponents_and_peaks():
    assert growth.exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2) and math.isnan(growth.exponent([1, 2], [0, 1]))
    assert 30 < growth.peak_mb(lambda: np.ones(5 * 10**6).sum()) < 80  # 40 MB, and freed at once
    assert growth.peak_mb(lambda: None) < 5


def test_growth_measures_every_size():
    found = growth.solver_growth((7, 30), (2, 4), (6, 8))
    assert list(found) == ["words", "factors", "tokens of the image"]
    assert found["words"]["ms at 30"] > 0 and found["tokens of the image"]["ms at 64"] > 0
    line = growth.line_growth(CONFIG, frames(1)[0], (1, 2), (128, 256), (1.0, 2.0))
    assert list(line) == ["cameras", "pixels of the camera", "seconds of sound"]
    assert line["cameras"]["ms at 2"] > 0 and "ms at 49152" in line["pixels of the camera"]


def test_memory_that_grows_is_seen(monkeypatch):
    line = TacoPipeline(CONFIG)
    sizes = iter([400.0] * 20 + [404.0] * 180)
    monkeypatch.setattr(growth, "resident_mb", lambda: next(sizes))
    row = growth.steady_memory(line, frames(3), 200)
    assert row == {"frames": 200, "MB early": 404.0, "MB late": 404.0, "growth %": 0.0, "MB at most": 404.0}
    sizes = iter(400.0 + number / 10 for number in range(200))
    row = growth.steady_memory(line, frames(3), 200)
    assert row["growth %"] == pytest.approx(100 * (418.95 / 402.95 - 1))


MEASURED = {
    "frames": {f"stream, {AS_CONFIGURED}": {"ms": 39.0, "beside the networks ms": 9.0}},
    "node": {"alone": {"rate_hz": 26.0, "age_p95_ms": 60.0}, "stand-in of 30 ms": {"age_p95_ms": 95.0}},
    "memory": {"steady": {"frames": 10_000, "growth %": 0.2}},
    "growth": {"words": {"exponent of the time": 0.3, "exponent of the memory": 1.2}},
}


def test_goals_are_judged_in_their_direction():
    judged = page.goals(MEASURED)
    verdicts = {name: row["verdict"] for name, row in judged.items() if row["verdict"] != "not measured"}
    assert verdicts == {
        "frame end to end, one thread, ms": "met",
        "beside the networks, ms": "missed",
        "answers a second at 30 Hz, alone": "met",
        "age p95 beyond the models' 30 ms, ms": "missed",
        "growth of the memory over 10,000 frames, %": "met",
        "largest exponent of the time": "met",
        "largest exponent of the memory": "missed",
    }
    assert list(judged) == list(page.GOALS) and judged["age p95 beyond the models' 30 ms, ms"]["measured"] == 65.0
    short = page.goals({"memory": {"steady": {"frames": 50, "growth %": 0.2}}})
    assert short["growth of the memory over 10,000 frames, %"]["verdict"] == "not measured"


def test_the_command_saves_and_prints_tables_again(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "run_pipeline", lambda config, **options: {"engine": "torch", "frames": MEASURED["frames"]})
    file = tmp_path / "found.json"
    assert main(["bench", "pipeline", "--save", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "| frame end to end, one thread, ms | 39 | <= 40 | met |" in printed and "### Frames" in printed
    assert "| TACO / A-prompt, a frame |  | <= 1.15 | not measured |" in printed and "versions: Python 3" in printed
    assert main(["bench", "pipeline", "--from", str(file)]) == 0
    assert capsys.readouterr().out == printed == page.markdown(json.loads(file.read_text()), table) + "\n"


def test_wrong_arguments_are_refused(tmp_path, capsys):
    for argv, said in (
        (["--repeats", "0"], "--repeats, --frames: wanted 1 or more"),
        (["--save", str(tmp_path / "no" / "found.json")], "--save: wanted a file in a folder that is there"),
        (["--from", str(tmp_path / "none.json")], "--from: wanted a file that `taco bench pipeline --save` wrote"),
    ):
        assert main(["bench", "pipeline", *argv]) == 2
        assert said in capsys.readouterr().err
