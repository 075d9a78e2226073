"""Files in place of a camera or a microphone: each piece when it is due, again and again."""

import itertools
import threading
import time

import numpy as np
import pytest

from taco.clock import NS
from taco.io.live_inputs import _played, open_camera
from taco.types import VideoFrame
from test.taco.cli.made_inputs import make_clip

MS = NS // 1000


def stamps_ms(stamps, start_ns, period_s, count):
    """When the first images of a made file come, in ms after its start."""
    blank = np.zeros((8, 8, 3), np.uint8)
    played = _played(lambda: [VideoFrame(blank, ms * MS) for ms in stamps], start_ns, period_s, threading.Event())
    return [round((frame.stamp_ns - start_ns) / MS) for frame in itertools.islice(played, count)]


def test_what_lies_behind_the_period_is_left_out():
    assert stamps_ms((0, 50, 120), time.monotonic_ns(), 0.1, 5) == [0, 50, 100, 150, 200]


@pytest.mark.parametrize(("late_ms", "first"), [(0, 0), (90, 0), (250, 300)])
def test_a_start_in_the_past_goes_on_with_the_next_turn(late_ms, first):
    start_ns = time.monotonic_ns() - late_ms * MS
    assert stamps_ms((0, 50), start_ns, 0.1, 3) == [first, first + 50, first + 100]


def test_a_pieces_stamp_is_the_time_at_which_it_comes():
    start_ns = time.monotonic_ns()
    stamps_ms((0, 100), start_ns, 0.2, 4)
    assert time.monotonic_ns() >= start_ns + 300 * MS


def test_a_camera_file_begins_again_after_the_sounds_period(tmp_path):
    start_ns = time.monotonic_ns()
    camera = open_camera(str(make_clip(tmp_path / "clip.mp4", 1.0)), start_ns, 0.3)
    frames = list(itertools.islice(camera.pieces(threading.Event()), 5))
    stamps, greys = [frame.stamp_ns - start_ns for frame in frames], [frame.rgb.mean() for frame in frames]
    assert greys[3:] == greys[:2] and greys[1] != greys[0]
    assert [round(stamp / MS, -1) for stamp in stamps] == [0, 100, 200, 300, 400]
    assert np.ptp(np.diff(stamps)) < 5 * MS
