"""``taco evaluate natural`` from end to end on made models and made photographs."""

import dataclasses
import json

import cv2
import pytest

from taco import cli
from taco.cli import evaluate
from taco.evaluation import natural, report
from taco.evaluation.datasets import Dataset, ScoringRules
from taco.evaluation.methods import MethodRunner
from test.taco.evaluation import made_models as models
from test.taco.evaluation.made_models import MadeClip


@dataclasses.dataclass(frozen=True)
class Photo(MadeClip):
    """A made clip with what the command asks of a natural one."""

    photograph: str = "x.jpg"
    number: int = 0


@pytest.fixture
def photographs(monkeypatch):
    """Three photographs of one thing, three pairs; what was asked for is kept."""
    asked = []

    def photograph_set(words, split, kinds, given):
        asked.append((tuple(words), split, kinds, given))
        clips = [Photo(f"photo{i}", ((w, None, w),), "photo", f"{i}.jpg") for i, w in enumerate(models.WORDS)]
        clips += [Photo(f"pair{i}", ((w, models.WORDS[i - 1], w),), "pair", f"{i}.jpg") for i, w in enumerate(models.WORDS)]
        return Dataset("natural", split, tuple(clips), ScoringRules("threshold", temporal="causal", size=0), tuple(words))

    monkeypatch.setattr(natural, "photograph_set", photograph_set)
    monkeypatch.setattr(evaluate, "make_method_runner", lambda config: MethodRunner(config, pipeline=models.pipeline(config)))
    return asked


def run(*words, capsys):
    status = cli.main(["evaluate", "natural", *map(str, words), "--set", "factorization.n_factors=4"])
    out = capsys.readouterr()
    return status, out.out, out.err


def test_tables_by_kind_and_word_and_a_sheet(photographs, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    status, out, err = run("--sheet", sheet, "--audio", "silence", capsys=capsys)
    assert status == 0 and "natural test: 100%" in err and "6/6" in err
    assert photographs == [(models.WORDS, "test", ("photo", "pair"), False)]
    first = [line.split()[0] for line in out.splitlines() if line[:1].isalpha() and ":" not in line]
    assert first.count("taco") >= 4 and {"all", "pair", "photo", *models.WORDS} <= set(first)
    assert "silence instead: taco reports in 0.0 %" in out
    assert cv2.imread(str(sheet)).shape[0] > 400


def test_figures_of_random_weights_say_so(photographs, monkeypatch, capsys):
    monkeypatch.setattr(report, "warning", lambda backbones: "random weights")
    _, out, err = run("--method", "taco", capsys=capsys)
    assert out.splitlines()[0] == err.splitlines()[0] == "random weights"


def test_json_holds_the_same_and_made_models_find_their_squares(photographs, capsys):
    status, out, _ = run("--json", "--split", "val", "--method", "taco", "true-word", capsys=capsys)
    found = json.loads(out)
    assert status == 0 and set(found["rows"]) == {"taco", "true-word"} and found["photographs"] == 3
    assert found["rows"]["true-word"]["right_word"] == 100 and found["rows"]["true-word"]["live_iou"] > 60
    assert found["kinds"]["pair"]["true-word"]["on_silent"] == 0 and set(found["words"]) == set(models.WORDS)


def test_a_given_word_runs_the_told_method_only(photographs, capsys):
    status, out, _ = run("--word", "given", "--json", capsys=capsys)
    assert status == 0 and set(json.loads(out)["rows"]) == {"true-word"} and photographs[0][-1] is True


def test_clips_are_asked_for(photographs, capsys):
    assert run("--clip", "--limit", 1, "--method", "taco", capsys=capsys)[0] == 0
    assert photographs[0][2] == ("clip",)


@pytest.mark.parametrize(
    ("words", "told"),
    [(("--sheet", "no/such/folder/x.png"), "--sheet"), (("--seeds", "3"), "one seed"), (("--bank", "general"), "models' bank")],
)
def test_unusable_input_is_one_line(photographs, words, told, capsys):
    status, out, err = run(*words, capsys=capsys)
    assert status == 2 and told in err and err.count("\n") == 1 and not out
