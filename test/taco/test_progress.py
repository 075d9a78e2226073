"""Progress: a bar on a terminal, a line now and then elsewhere."""

import sys
import time

from taco import progress as room
from taco.progress import progress


def test_in_a_log_there_is_a_line_now_and_then_and_none_for_what_is_quick(capsys, monkeypatch):
    monkeypatch.setattr(room, "LINE_S", 0.2)
    with progress("quick", 3) as bar:
        for _ in range(3):
            bar.update()
    assert capsys.readouterr().err == ""
    with progress("slow", 100) as bar:
        for _ in range(5):
            time.sleep(0.15)
            bar.update()
    told = capsys.readouterr().err
    assert 1 <= told.count("\n") <= 3 and "\r" not in told and told.endswith("\n")
    assert all(line.startswith("slow: ") and "/100 [" in line for line in told.splitlines())


def test_slow_work_is_told_in_seconds_a_piece(capsys, monkeypatch):
    monkeypatch.setattr(room, "LINE_S", 0.5)
    with progress("slow", 9) as bar:
        time.sleep(1.2)
        bar.update()
    assert "s/frame" in capsys.readouterr().err


def test_on_a_terminal_there_is_a_bar_that_goes(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("clip", 2) as bar:
        bar.update()
    told = capsys.readouterr().err
    assert "\rclip:   0%" in told and "\n" not in told.strip("\n\r")


def test_what_was_there_before_is_counted_and_an_empty_line_is_not_printed(capsys, monkeypatch):
    monkeypatch.setattr(room, "LINE_S", 0.0)
    with progress("slow", 20, done=12) as bar:
        assert "12/20" in capsys.readouterr().err
        bar.display("")  # as tqdm clears a bar
        assert capsys.readouterr().err == ""
        bar.update()
    assert "13/20" in capsys.readouterr().err
