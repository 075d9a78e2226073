"""The page: what stands in it, and where the marks of its plot lie."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from taco.evaluation import report
from taco.types import AudioWindow

POINT = {"threshold": 0.5, "accepted": 90.0, "frames": 20.0, "pixels": 3.0}
FOUND = {"auc": 93.5, "at_95": POINT, "configured": {**POINT, "accepted": 50.0}, "fpr": [0.0, 0.2, 1.0], "tpr": [0.0, 0.9, 1.0]}
ROWS = {name: {"iou": (iou, 0.0), "ms": (9.0, 0.0)} for name, iou in (("taco", 60.0), ("u", 70.0), ("true-word", 80.0))}


class Texts(HTMLParser):
    """Rows of tables as lists of texts; attributes of the bold cells."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.cell, self.best = [], None, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = dict(attrs)

    def handle_endtag(self, tag):
        self.cell = None if tag in ("td", "th") else self.cell

    def handle_data(self, data):
        if self.cell is not None:
            self.rows[-1][-1] += data
            if self.cell.get("class") == "best":
                self.best.append(data)


def test_the_best_row_but_the_ceiling_is_bold_and_times_are_not_judged():
    told = Texts(report.html_page("T", ["a < b"], "stamps", ROWS))
    assert told.rows[:4] == [["", "IoU", "ms"], ["taco", "60.00", "9"], ["u", "70.00", "9"], ["true-word", "80.00", "9"]]
    assert told.best == ["70.00"]


def test_groups_are_compared_by_one_figure_with_bars():
    text = report.html_page("T", [], "stamps", ROWS, groups={"one": ROWS, "two": {"taco": {"iou": (25.4, 0.0)}}})
    told = Texts(text)
    assert ["", "taco", "u", "true-word"] in told.rows and ["two", "25.40", "-", "-"] in told.rows
    assert "--share:25%" in text and "IoU by group" in text and text.count("<details>") == 1


def test_marks_of_the_plot_lie_at_the_operating_points():
    text = report.html_page("T", [], "stamps", ROWS, wrong={"noise": {"taco": FOUND, "u": FOUND}})
    x0, y0 = map(float, re.search(r"points='([\d.]+),([\d.]+)", text).groups())  # nothing accepted, nothing reported
    marks = [tuple(map(float, found)) for found in re.findall(r"cx=([\d.]+) cy=([\d.]+)", text)]
    assert marks == [(x0 + 0.2 * 300, y0 - 0.9 * 300), (x0 + 0.2 * 300, y0 - 0.5 * 300)]
    told = Texts(text)
    assert ["noise, taco", "93.5", "95 %", "0.50", "90.0", "20.0", "3.0"] in told.rows
    assert text.count("<polyline") == 1 and "The other methods" in text and "noise, taco: AUC 93.5" in text


def test_nothing_of_a_name_becomes_markup():
    text = report.html_page("<b>", ["<i>"], "stamps", {"<u>": {"iou": (1.0, 0.0)}}, groups={"<s>": ROWS})
    assert not re.search("<[bius]>", text) and "&lt;b&gt;" in text


@pytest.mark.parametrize(("rate", "seconds"), [(8000, 1.0), (44100, 1.0), (16000, 0.01)])
def test_the_sound_is_drawn_with_its_pitch_and_its_map(rate, seconds):
    t = np.arange(round(rate * seconds)) / rate
    window = AudioWindow((0.5 * np.sin(2 * np.pi * 1000 * t)).astype(np.float32), rate, 0)
    shown = report._sound_panel(window, np.array([[0.0, 0.0, 1.0, 0.0]]), (200, 80))
    assert shown.shape == (200, 80, 3) and shown.dtype == np.uint8
    below = shown[-20].astype(int).sum(1)
    assert (below[42:58] > 500).all() and (below[:38] < 60).all() and (below[62:] < 60).all()
    if seconds == 1.0:
        middle = shown[:144, 40].astype(int).sum(1)
        height = 1 - np.log(1000 / 60) / np.log(rate / 2 / 60)  # of 1 kHz on the logarithmic axis, from the top
        assert abs(middle.argmax() / 144 - height) < 0.05
