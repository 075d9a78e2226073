"""The figures of docs/how.md: each step has its picture, drawn from what `taco explain` gives."""

import importlib
import re

import numpy as np
from PIL import Image

from taco import AudioWindow, TacoPipeline, VideoFrame
from taco.backbones.base import Backbones
from taco.demo import figures
from taco.view.figure import explain
from test import ROOT

PICTURES = ROOT / "docs/pictures"


def test_each_step_has_its_small_picture_on_the_page():
    named = re.findall(r"pictures/how-(\w+)\.webp", (ROOT / "docs/how.md").read_text())
    assert tuple(named) == figures.STEPS
    sizes = {path.name: path.stat().st_size for path in PICTURES.iterdir()}
    assert set(sizes) == {"taco.webp", *(f"how-{step}.webp" for step in figures.STEPS)}
    assert sum(size for name, size in sizes.items() if name != "taco.webp") < 1.5e6 and sizes["taco.webp"] < 3e6
    for name in sizes:
        assert Image.open(PICTURES / name).width >= 640


def test_a_moment_is_drawn_step_by_step(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    own = importlib.import_module("own_encoders")
    pipeline = TacoPipeline(backbones=Backbones(own.ColourEncoder(), own.PitchEncoder(), own.WORDS))
    rgb = np.full((240, 320, 3), 128, np.uint8)
    rgb[50:150, 25:125], rgb[75:200, 190:300] = (220, 30, 30), (30, 30, 220)
    time_s = np.arange(16000) / 16000
    moments = []
    for number, hz in enumerate((200, 3000, 200)):
        tone = (0.3 * np.sin(2 * np.pi * hz * time_s) * (time_s % 0.25 < 0.15)).astype(np.float32)
        moments.append(explain(pipeline, VideoFrame(rgb, number * 10**9), AudioWindow(tone, 16000, (number - 1) * 10**9)))
    drawn = figures.drawn(moments, (12, 16))
    assert tuple(drawn) == figures.STEPS
    assert all(picture.dtype == np.uint8 and picture.shape[2] == 3 for picture in drawn.values())
    halves = np.split(drawn["outline"], [drawn["outline"].shape[1] // 2], axis=1)
    blue = [part[180, 330].astype(int) for part in halves]  # inside the blue square, on the map and on the outline
    assert np.abs(blue[0] - (30, 30, 220)).max() > 20 and np.abs(blue[1] - (30, 30, 220)).max() > 20, (
        "the high tone's square is marked"
    )
    red = halves[1][140, 100].astype(int)
    assert np.abs(red - (220, 30, 30)).max() < 12, "the other one is not"
