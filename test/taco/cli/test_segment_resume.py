"""What a run of ``taco segment`` leaves when it is stopped, killed or out of space, and how it goes on."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from taco import cli, segment
from taco.backbones.openclip import OpenCLIPImageEncoder
from taco.errors import MediaError
from taco.io.coco import coco_dataset
from taco.io.results import Results, mask_from_runs, run_lengths, scene_from_record, scene_record
from taco.pipeline import TacoPipeline
from taco.types import SoundingObject, SoundingScene
from test import ROOT
from test.taco import synthetic_weights as synthetic
from test.taco.cli.made_inputs import MadePipeline, files, lines, make_clip

pytestmark = pytest.mark.usefixtures("made_pipeline")


def interrupted(monkeypatch, frames, *words, pipeline=MadePipeline):
    """A run that is stopped, as by Ctrl-C, after so many frames."""
    process, done = pipeline.process, []

    def stops(self, *pair):
        if len(done) == frames:
            raise KeyboardInterrupt
        done.append(pair)
        return process(self, *pair)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "process", stops)
        assert cli.main(["segment", "clip.mp4", "-o", "out", *words]) == 130


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    make_clip(tmp_path / "clip.mp4")
    assert cli.main(["segment", "clip.mp4", "-o", "whole"]) == 0
    MadePipeline.seen = []
    interrupted(monkeypatch, 12)
    assert "goes on from there" in capsys.readouterr().err
    assert [p.name for p in Path("out").iterdir()] == [".taco-part"]
    with Path("out/.taco-part/objects.jsonl").open("a") as stream:
        stream.write('{"frame": 12, "cut')  # as a crash in the middle of a line leaves it
    assert cli.main(["segment", "clip.mp4", "-o", "out"]) == 0
    assert len(MadePipeline.seen) == 20, "no frame was done twice"
    drop = lambda records: [{k: v for k, v in r.items() if k != "stage_ms"} for r in records]  # noqa: E731
    assert drop(lines("out")) == drop(lines("whole"))
    assert files("out") == files("whole")


def test_a_line_without_its_end_is_done_again(tmp_path, monkeypatch):
    """As a crash leaves it between the line and its end: taken for whole, the next line would be written behind it."""
    make_clip(tmp_path / "clip.mp4")
    interrupted(monkeypatch, 5)
    part = Path("out/.taco-part/objects.jsonl")
    part.write_bytes(part.read_bytes()[:-1])
    assert cli.main(["segment", "clip.mp4", "-o", "out"]) == 0
    assert [line["frame"] for line in lines("out")] == list(range(20))


def test_other_settings_do_not_go_on_from_an_old_run(tmp_path, monkeypatch):
    make_clip(tmp_path / "clip.mp4")
    interrupted(monkeypatch, 5)
    MadePipeline.seen = []
    assert cli.main(["segment", "clip.mp4", "-o", "out", "--set", "concepts.min_score=0.123"]) == 0
    assert len(MadePipeline.seen) == 20 and len(lines("out")) == 20


def test_a_run_with_any_word_reads_its_words_from_disk_and_other_words_are_another_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(segment, "make_pipeline", TacoPipeline)
    settings = synthetic.save_open_set(tmp_path / "models", mobile=True) | {"models.engine": "torch"}
    settings["models.word_bank"] = "[a kettle, dog]"
    asked = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    make_clip(tmp_path / "clip.mp4", seconds=0.6)
    interrupted(monkeypatch, 3, *asked, pipeline=TacoPipeline)
    seen, process, encode = [], TacoPipeline.process, OpenCLIPImageEncoder.encode_text
    encoded = []
    monkeypatch.setattr(TacoPipeline, "process", lambda self, *pair: seen.append(self.anchors.words) or process(self, *pair))
    monkeypatch.setattr(OpenCLIPImageEncoder, "encode_text", lambda self, words: encoded.extend(words) or encode(self, words))
    assert cli.main(["segment", "clip.mp4", "-o", "out", *asked]) == 0
    assert seen == 3 * [("a kettle", "dog")] and encoded == []
    interrupted(monkeypatch, 3, *asked, "--overwrite", pipeline=TacoPipeline)
    del seen[:]
    assert cli.main(["segment", "clip.mp4", "-o", "out", *asked, "--set", "models.word_bank=[a whistle]", "--overwrite"]) == 0
    assert seen == 6 * [("a whistle",)] and encoded == ["a whistle"]
    assert json.loads(Path("out/run.json").read_text())["summary"]["resumed_after"] == 0


def test_a_finished_run_is_not_done_again_unless_asked(tmp_path, capsys):
    make_clip(tmp_path / "clip.mp4")
    for options, frames in ((), 20), ((), 20), (("--overwrite",), 40):
        assert cli.main(["segment", "clip.mp4", "-o", "out", *options]) == 0
        assert len(MadePipeline.seen) == frames
    assert "was done already" in capsys.readouterr().out


def test_a_long_run_keeps_no_masks_in_memory(tmp_path):
    mask = np.ones((6, 8), bool)
    outlined = SoundingObject.from_mask(mask, [("dog", 0.5)], 0.75)
    with Results(tmp_path / "out", {}) as results:
        results.add(SoundingScene(7, (6, 8), 0, 6, -12.5, 0.5, "sounding", (outlined,)))
        assert results.records[0]["objects"] == [{"id": 1, "label": "dog", "score": 0.75}]
        assert next(results.read())["objects"][0]["rle"] == [0, 48]


def test_two_runs_do_not_write_the_same_folder(tmp_path):
    with Results(tmp_path / "out", {"a": 1}), pytest.raises(MediaError, match="another run is writing here"):
        Results(tmp_path / "out", {"a": 1}).__enter__()


def test_killed_run_leaves_no_final_name(tmp_path):
    make_clip(tmp_path / "clip.mp4")
    code = """
        import sys, time
        sys.path.insert(0, sys.argv[1])
        from test.taco.cli import made_inputs
        from taco import cli
        from taco import segment
        class Slow(made_inputs.MadePipeline):
            def process(self, frame, window):
                time.sleep(0.2)
                return super().process(frame, window)
        segment.make_pipeline = Slow
        cli.main(["segment", "clip.mp4", "-o", "out"])
    """
    run = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code), str(ROOT)], cwd=tmp_path)
    part = tmp_path / "out/.taco-part/objects.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (part.exists() and part.read_text().count("\n") >= 3):
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".taco-part"]
    done = part.read_text().count("\n")
    MadePipeline.seen = []
    assert cli.main(["segment", "clip.mp4", "-o", "out"]) == 0
    assert done >= 3 and len(MadePipeline.seen) <= 20 - done + 1 and len(lines("out")) == 20


def test_full_disk_is_one_line(tmp_path):
    """A limit on the size of files stands for the full disk."""
    make_clip(tmp_path / "clip.mp4", size=(480, 640))
    code = """
        import resource, sys
        sys.path.insert(0, sys.argv[1])
        from test.taco.cli import made_inputs
        from taco import cli
        from taco import segment
        segment.make_pipeline = made_inputs.MadePipeline
        resource.setrlimit(resource.RLIMIT_FSIZE, (8_000, 8_000))
        sys.exit(cli.main(["segment", "clip.mp4", "-o", "out"]))
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(ROOT)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 1 and "cannot write" in run.stderr and "Traceback" not in run.stderr
    assert [p.name for p in (tmp_path / "out").iterdir() if not p.name.startswith(".")] == []


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (48, 64)])
def test_run_lengths_give_the_mask_back(size):
    noise = np.random.default_rng(0)
    for mask in (noise.random(size) < 0.5, np.zeros(size, bool), np.ones(size, bool)):
        counts = run_lengths(mask)
        assert sum(counts) == mask.size and (mask_from_runs(counts, size) == mask).all()
    assert run_lengths(np.array([[True, False], [True, True]])) == [0, 2, 1, 1], "down the columns, first the zeros"


def test_a_record_gives_what_was_heard_and_an_empty_mask_back():
    outlined = SoundingObject.from_box((3, 2, 6, 3), (10, 20), [("dog", 0.9)], 0.7, 4)
    before = SoundingScene(5, (10, 20), 0, 1, -20.0, 0.7, "no_mask", (outlined,), heard=(("Bark", 0.75), ("Rain", 0.5)))
    after = scene_from_record(json.loads(json.dumps(scene_record(before, 0))))
    assert (after.verdict, after.heard) == ("no_mask", before.heard)
    assert after.objects[0].box == outlined.box and after.objects[0].mask.shape == (10, 20) and not after.objects[0].mask.any()


@pytest.mark.parametrize(
    "damage",
    [{"heard": None}, {"heard": [["Rain"]]}, {"verdict": "loud"}, {"size": 4}, {"heard": [["Rain", 0.1], ["Wind", 0.9]]}],
)
def test_a_line_that_is_none_of_ours_is_one_line(damage):
    record = {**scene_record(SoundingScene(5, (10, 20), 0, 1, -20.0, 0.7, "unknown", heard=(("Rain", 0.5),)), 0), **damage}
    for broken in (record, {name: value for name, value in record.items() if name not in damage}):
        with pytest.raises(MediaError, match="wanted a line of taco segment of this version.*--overwrite") as error:
            scene_from_record(broken)
        assert "\n" not in str(error.value)


def test_a_record_gives_the_scene_back():
    mask = np.zeros((6, 8), bool)
    mask[1:3, 2:7] = True
    outlined = SoundingObject.from_mask(mask, [("dog", 0.5), ("cat", 0.25)], 0.75, id=3)
    scene = SoundingScene(7, (6, 8), -5, 6, -12.5, 0.5, "sounding", (outlined,))
    back = scene_from_record(json.loads(json.dumps(scene_record(scene, 0))))
    assert (back.stamp_ns, back.size, back.window_start_ns, back.level_dbfs) == (7, (6, 8), -5, -12.5)
    assert back.objects[0].labels == outlined.labels and (back.objects[0].mask == mask).all() and back.objects[0].id == 3


def test_coco_has_the_masks_area_and_a_category_for_each_word():
    item = {"id": 1, "label": "dog", "score": 0.5, "box": [0, 0, 4, 4], "area": 7, "rle": [9, 7]}
    records = [
        {"frame": n, "time_s": n / 10, "size": [4, 4], "objects": [{**item, "label": w}]}
        for n, w in enumerate(("dog", "cat", "dog"))
    ]
    found = coco_dataset("clip.mp4", records)
    assert [(one["category_id"], one["area"], one["image_id"]) for one in found["annotations"]] == [
        (1, 7, 1),
        (2, 7, 2),
        (1, 7, 3),
    ]
    assert [(one["id"], one["name"]) for one in found["categories"]] == [(1, "dog"), (2, "cat")]
