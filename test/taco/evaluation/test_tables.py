"""``taco evaluate`` from end to end on made models: tables beside the paper's, pages, errors, tuned thresholds."""

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from taco import cli
from taco.cli import evaluate
from taco.config import TacoConfig
from taco.errors import ConfigError
from taco.evaluation import report, streams, tables
from taco.evaluation.composed import scenes
from taco.evaluation.composed.sources import catalogue
from taco.evaluation.methods import MethodRunner
from taco.pipeline import TacoPipeline
from taco.segmentation.activation import ActivationSegmenter
from test.taco.evaluation import made_datasets as trees
from test.taco.evaluation import made_models as models
from test.taco.evaluation.test_runner import CONFIG, made

EYE = models.Eye.encode_text


def run(*words, capsys):
    status = cli.main(["evaluate", *map(str, words), "--set", "factorization.n_factors=4"])
    out = capsys.readouterr()
    return status, out.out, out.err


def test_stamps_table_wrong_sounds_and_page(made_scenes, tmp_path, capsys):
    page = tmp_path / "page.html"
    words = ("stamps", "--limit", 4, "--out", tmp_path, "--audio", "silence", "offscreen", "--html", page)
    status, out, err = run(*words, capsys=capsys)
    assert status == 0 and "stamps val: 100%" in err and "8/8" in err
    lines = out.splitlines()
    assert lines[0] == "stamps test: 8 clips, 8 frames, 1 seed(s), embedded models, 3 words"
    rows = {line.split()[0]: line.split() for line in lines if line[:1].isalpha()}
    assert {"taco", "u", "a-fcclip", "late-fusion", "no-sound", "true-word"} <= set(rows)
    assert "IoU@val" in out and "wrong sound: offscreen" in out
    text = page.read_text()
    Whole().feed(text)
    assert text.count("data:image/jpeg;base64,") >= 4 * 5 and "<svg" in text and "U map" in text
    assert not re.search(r"(src|href)=['\"]?https?:", text)


class Whole(HTMLParser):
    """Fails on tags that close what is not open."""

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "img", "html"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag != "html" and self.open:
            assert self.open.pop() == tag


def test_json_tells_the_same_and_a_second_run_reads_it_from_disk(made_scenes, tmp_path, capsys):
    words = (
        "stamps",
        "--limit",
        3,
        "--method",
        "taco",
        "true-word",
        "--seeds",
        2,
        "--out",
        tmp_path,
        "--audio",
        "silence",
        "--json",
    )
    _, first, _ = run(*words, capsys=capsys)
    _, second, err = run(*words, capsys=capsys)
    found = json.loads(first)
    assert json.loads(second) == found and "6/6" not in err
    assert set(found["rows"]) == {"taco", "true-word"} and found["seeds"] == 2
    assert set(found["groups"]) == {"one", "two"} and 0 < found["val_thresholds"]["taco"] < 1
    assert set(found["wrong_sounds"]["silence"]) == {"taco"}  # nothing to tell the ceiling about
    point = found["wrong_sounds"]["silence"]["taco"]["at_95"]
    assert point["frames"] == 0.0 and point["accepted"] >= 90


@pytest.mark.parametrize("dataset", ["stamps", "streams"])
def test_figures_of_random_weights_say_so_at_once_and_in_every_report(dataset, made_scenes, tmp_path, monkeypatch, capsys):
    def untrained(config):
        return MethodRunner(config, pipeline=TacoPipeline(config, backbones=random, segmenter=ActivationSegmenter()))

    random = replace(models.backbones(), untrained=True)
    monkeypatch.setattr(evaluate, "make_method_runner", untrained)
    monkeypatch.setattr(
        streams, "stream_figures", lambda *a, **k: {mode: dict.fromkeys(("iou", "ms"), 1.0) for mode in streams.MODES}
    )
    more = ["--limit", 2, "--out", tmp_path, "--html", tmp_path / "page.html"] + ["--method", "taco"] * (dataset == "stamps")
    _, out, err = run(dataset, *more, capsys=capsys)
    said = "The models' weights are random, not trained: these figures mean nothing."
    assert out.splitlines()[0] == said == err.splitlines()[0]
    assert said in html.unescape((tmp_path / "page.html").read_text())
    _, out, _ = run(dataset, *more, "--json", capsys=capsys)
    assert json.loads(out)["warning"] == said


@pytest.mark.parametrize(
    "name, bank, asked, wanted",
    [
        ("open", (), "auto", "stamps"),  # any word: those of the scenes
        ("paper", (), "all", "stamps"),
        ("open", ("a kettle", "dog"), "auto", ("a kettle", "dog")),
        ("open", (), "instruments", scenes.INSTRUMENTS),
        ("embedded", (), "auto", ()),  # its own list
    ],
)
def test_sets_that_take_any_word_listen_for_the_words_of_the_stamps(name, bank, asked, wanted, made_scenes):
    heard = []
    config = TacoConfig().updated({"models.name": name, "models.word_bank": bank})
    runner = SimpleNamespace(set_words=heard.append, anchors=SimpleNamespace(words=models.WORDS))
    tables.TableEvaluation(tables.TableOptions("stamps", bank=asked, methods=("taco",)), config, lambda _: runner)
    words = dict.fromkeys(entry.word for entry in catalogue("all")) if wanted == "stamps" else wanted
    assert heard == ([tuple(words)] if words else []) and len(words) != 1


def test_iterations_give_score_and_time_rows(made_scenes, tmp_path, capsys):
    words = ("stamps", "--limit", 2, "--method", "gradient", "--iterations", 300, 1, "--out", tmp_path, "--json")
    _, out, _ = run(*words, capsys=capsys)
    rows = json.loads(out)["rows"]
    assert set(rows) == {"gradient x1", "gradient x300"}
    assert rows["gradient x300"]["ms"][0] > rows["gradient x1"]["ms"][0]


def test_a_public_set_is_told_beside_the_paper(made_models, tmp_path, capsys):
    trees.s4(tmp_path / "data")
    words = ("s4", "--data", tmp_path / "data", "--out", tmp_path / "out", "--method", "taco", "a-fcclip", "--limit", 1)
    status, out, _ = run(*words, capsys=capsys)
    assert status == 0 and "not comparable" in out and "Only the first 1 clips" in out and "--bank specific" in out
    table = out[out.index("\n\n") :]
    assert re.search(r"^taco +\d", table, re.M) and re.search(r"^  paper +64\.04 +71\.50", table, re.M)
    assert re.search(r"^  reference +51\.52 +57\.25", table, re.M)


@pytest.mark.parametrize("name, build", [("ms3", trees.ms3), ("ade-sp", trees.ade)])
def test_general_banks(name, build, made_models, tmp_path, capsys):
    build(tmp_path / "data")
    words = (name, "--data", tmp_path / "data", "--out", tmp_path / "out", "--method", "taco", "--json")
    _, out, _ = run(*words, capsys=capsys)
    assert json.loads(out)["words"] == (2 if name == "ms3" else 3)  # MS3 leaves the first word out
    assert set(json.loads(out)["rows"]["taco"]) >= ({"iou", "f"} if name == "ms3" else {"iou", "map"})


@pytest.mark.parametrize(
    "name, build, classes, columns",
    [
        ("avss", trees.avss, {"background", "dog", "violin"}, {"miou", "f"}),
        ("ade-sp-semantic", trees.ade, {"background", "dog", "cat"}, {"miou", "f"}),
        ("ade-sp", trees.ade, {"dog", "cat"}, {"iou", "map"}),
        ("s4", trees.s4, {"dog barking", "playing violin"}, {"iou", "f"}),
    ],
)
def test_figures_of_each_class(name, build, classes, columns, made_models, tmp_path, capsys):
    build(tmp_path / "data")
    bank = ("--bank", "general") if name != "ade-sp" else ()  # the made models know other words than the set
    words = (name, "--data", tmp_path / "data", "--out", tmp_path / "out", "--method", "u", "--groups", "--json", *bank)
    _, out, _ = run(*words, capsys=capsys)
    groups = json.loads(out)["groups"]
    assert set(groups) == classes
    assert all(columns <= set(group["u"]) and 0 <= group["u"][key][0] <= 100 for group in groups.values() for key in columns)


def test_a_specific_bank_of_unknown_words_is_refused_by_a_closed_vocabulary(made_models, tmp_path, capsys, monkeypatch):
    def refuse(self, words):
        if "dog" in words:
            raise ConfigError(f"models.word_bank: eye does not know {words[0]}")
        return EYE(self, words)

    trees.avss(tmp_path / "data")
    monkeypatch.setattr(models.Eye, "encode_text", refuse)
    status, _, err = run("avss", "--data", tmp_path / "data", "--out", tmp_path / "out", capsys=capsys)
    assert status == 2 and "does not know background" in err


def test_paper_takes_the_papers_models_solver_and_binding(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(
        evaluate,
        "make_method_runner",
        lambda config: seen.append(config) or MethodRunner(CONFIG, pipeline=models.pipeline(CONFIG)),
    )
    trees.s4(tmp_path / "data")
    words = ["s4", "--data", tmp_path / "data", "--out", tmp_path / "out", "--limit", 1, "--iterations", 3, "--paper", "--json"]
    assert cli.main(["evaluate", *map(str, words)]) == 0
    assert (seen[0].models.name, seen[0].factorization.solver, seen[0].factorization.binding) == ("paper", "gradient", "penalty")


@pytest.mark.parametrize(
    "words, status, told",
    [
        (("s4",), 2, "--data DIR"),
        (("s4", "--data", "nowhere"), 1, "nowhere"),
        (("stamps", "--method", "tacco"), 2, "did you mean taco"),
        (("stamps", "--seeds", "0"), 1, "wanted 1 or more"),
        (("stamps", "--html", "no/such/folder/x.html"), 2, "--html"),
        (("stamps", "--engine", "dask"), 2, "--engine"),
    ],
)
def test_errors_are_one_line(words, status, told, made_scenes, tmp_path, capsys):
    got, _, err = run(*words, "--out", tmp_path, capsys=capsys)
    line = err.strip().splitlines()[-1]
    assert got == status and told in line and line.startswith("taco: ")


def test_rivals_and_ceiling_in_one_line():
    values = {"taco": 45, "a-fcclip": 30, "late-fusion": 46, "true-word": 60}
    rows = {name: {"fixed_iou": (value, 0.0)} for name, value in values.items()}
    told = tables.against_rivals(rows)
    assert told == "taco: IoU +15.0 points from a-fcclip, -1.0 from late fusion, 75 % of the ceiling true-word"


def test_json_knows_no_nan():
    assert evaluate._finite({"a": [float("nan"), 1.0], "b": (2, "nan")}) == {"a": [None, 1.0], "b": [2, "nan"]}


def test_every_published_figure_has_its_column_and_its_word_bank():
    for rows in (*report.PUBLISHED.values(), *report.PUBLISHED_SPECIFIC.values()):
        for figures in rows.values():
            assert set(figures) <= set(report.HEADINGS)
    assert report.published_figures("ade-sp", "no-min") == {"paper": {"iou": 29.93, "map": 34.59}}
    assert report.published_figures("ade-sp", "no-min", "specific") == {}
    assert report.published_figures("ms3", "gradient") == {
        "paper": {"iou": 50.46, "f": 58.11},
        "reference": {"iou": 43.15, "f": 47.50},
    }
    assert report.published_figures("ms3", "gradient", "specific") == {"paper": {"iou": 47.23}}
    assert report.published_figures("s4", "a-fcclip", "specific")["paper"] == {"iou": 51.52, "f": 57.25}
    assert report.published_figures("s4", "taco", "my-words.txt") == {} == report.published_figures("stamps", "taco")
    assert report.published_figures("avss", "taco", "specific")["paper"] == {"miou": 20.50, "f": 23.02}


def test_table_tells_deviation_only_where_there_is_one():
    table = report.text_table(
        "", {"taco": {"iou": (50.0, 1.234), "f": (60.0, 0.0), "ms": (12.4, 0.0), "hit": (float("nan"), 0.0)}}
    )
    assert table.splitlines()[1].split() == ["taco", "50.00", "±1.23", "60.00", "-", "12"]


def test_best_and_worst_frames_are_of_different_clips():
    records = [{"id": f"clip{c}/{f}", "scored": True, "iou": np.full(19, c / 10 + f / 100)} for c in range(5) for f in range(3)]
    best, worst = report.extremes(records, 2)
    assert [r["id"] for r in best] == ["clip4/2", "clip3/2"] and [r["id"] for r in worst] == ["clip0/0", "clip1/0"]


def test_pictures_show_the_frames_that_were_scored(tmp_path):
    from taco.evaluation import runner

    data = made(3)
    method_runner = MethodRunner(CONFIG, pipeline=models.pipeline(CONFIG))
    plan = runner.Run(data, ("taco",), (0,), CONFIG)
    records = runner.evaluate(plan, tmp_path, method_runner=method_runner)["taco"][0]
    (shown,) = report.pictures(plan, method_runner, "taco", 0, records[1:2])
    assert shown.facts.endswith("clip1/0") and [name for name, _ in shown.panels][:5] == [
        "image",
        "truth",
        "mask",
        "map",
        "U map",
    ]
    assert len(shown.panels) == 6 and shown.words
    assert all(rgb.dtype == np.uint8 and rgb.ndim == 3 for _, rgb in shown.panels)
