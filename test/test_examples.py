"""The examples run unchanged and print what they promise."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import cv2
import pytest
import soundfile
from PIL import Image

from taco.demo import show
from taco.evaluation.composed.sources import SceneSources
from taco.io.files import frames, read_audio
from test import ROOT


def run(name: str, *arguments) -> str:
    command = [sys.executable, str(ROOT / f"examples/{name}.py"), *map(str, arguments)]
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_example_is_tested_here():
    text = (ROOT / "test/test_examples.py").read_text() + (ROOT / "test/taco_ros/test_own_message.py").read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert f'run("{path.stem}"' in text or f"examples/{path.name}" in text, f"{path.name} has no test"


def test_own_tokens_find_the_half_that_sounds():
    inside, outside = map(float, re.search(r"bell's half ([\d.]+), on the dog's half ([\d.]+)", run("own_tokens")).groups())
    assert inside > 0.8 and outside < 0.1


def test_own_encoders_outline_the_colour_of_the_tone():
    low, high = run("own_encoders").splitlines()
    assert "red, a low tone" in low and "box (49, 99," in low
    assert "blue, a high tone" in high and "box (379, 149," in high


def test_an_own_segmenter_draws_the_named_factor():
    found = re.search(r"sounding 'blue, a high tone' in box \((\d+), (\d+), (\d+), (\d+)\)", run("own_segmenter"))
    left, top, width, height = map(int, found.groups())
    # the blue square is x 380 to 600, y 150 to 400; the grid has cells of 40 px
    assert abs(left - 380) <= 20 and abs(top - 150) <= 20 and abs(left + width - 600) <= 20 and abs(top + height - 400) <= 20


@pytest.fixture(scope="module")
def barking(tmp_path_factory):
    """Three seconds of the demo's first scene: a dog barks beside a silent hen."""
    path = tmp_path_factory.mktemp("clip") / "barking.mp4"
    show.make(SceneSources(), path, (dataclasses.replace(show.scenes()[0], seconds=3.0, sounds=((0.0, 0),)),))
    return path


@pytest.mark.data
def test_a_stream_is_followed_with_steady_ids(barking):
    lines = run("stream", barking).splitlines()
    assert len(lines) == 30 and "not enough sound" in lines[0]
    assert sum("#1 dog" in line for line in lines) >= 15


@pytest.mark.data
def test_a_photo_and_a_sound_give_a_drawn_outline(barking, tmp_path):
    printed = run("photo_and_sound", barking, barking, tmp_path / "out.png")
    assert re.search(r"^dog  score 0\.\d+  box x=", printed, re.M)
    assert cv2.imread(str(tmp_path / "out.png")).shape == (480, 640, 3)


@pytest.mark.data
def test_the_readmes_python_runs_as_it_stands_and_warns_of_nothing(barking, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    Image.fromarray(next(frames(barking)).rgb).save(tmp_path / "photo.jpg", quality=95)
    sound = read_audio(barking)
    soundfile.write(tmp_path / "sound.wav", sound.samples, sound.sample_rate)
    command = [sys.executable, "-W", "error::UserWarning", "-c", code]
    env = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HOME": os.environ["HOME"]}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^dog 0\.\d+ \(\d+, \d+, \d+, \d+\) \(480, 640\)$", done.stdout, re.M) and "sounding" in done.stdout


@pytest.mark.data
def test_words_are_said_in_another_language(barking):
    lines = run("own_language", barking).splitlines()
    assert len(lines) == 3 and sum("chien 0." in line for line in lines) >= 2


@pytest.mark.data
def test_the_notebook_runs_from_its_first_cell_to_its_last(barking, monkeypatch, capsys):
    monkeypatch.chdir(barking.parent)
    cells = json.loads((ROOT / "examples/clip_to_plot.ipynb").read_text())["cells"]
    names = {}
    for cell in cells:
        assert not cell.get("outputs"), "a notebook is committed without its outputs"
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]).replace('"clip.mp4"', repr(str(barking))), names)
    assert "sounding     dog 0." in capsys.readouterr().out
    assert names["sheet"].width > 900 and names["plot"].getcolors(1000)[0] and len(names["plot"].getcolors(1000)) >= 2
