"""Ctrl-C ends ``taco`` quietly with 130, also in the midst of an import."""

import os
import signal
import subprocess
import sys
import time

import pytest

from test import ROOT

PROGRAM = """
import os, signal, sys, threading, time
from taco.cli import main
{prepare}
threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
sys.exit(main({arguments}))
"""
IMPORTING = """
import importlib.abc, importlib.util
class Slow(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self) if name == "taco.cli.words" else None
    def exec_module(self, module):
        try:
            time.sleep(20)
        except BaseException as error:  # as extension modules do with what they do not expect
            raise ImportError("half done") from error
sys.meta_path.insert(0, Slow())
"""
RUNNING = """
import taco.cli.words
taco.cli.words.run = lambda args: time.sleep(20)
"""


@pytest.mark.parametrize(("prepare", "line"), [(IMPORTING, ""), (RUNNING, "taco: stopped\n")], ids=("importing", "running"))
def test_ctrl_c_is_status_130_and_no_trace(prepare, line):
    program = PROGRAM.format(prepare=prepare, arguments=["words"])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", line)


def test_ctrl_c_belongs_to_the_program_that_has_taken_it():
    from taco.cli import main

    before = signal.getsignal(signal.SIGINT)
    mine = lambda *_: os.abort()  # noqa: E731
    try:
        signal.signal(signal.SIGINT, mine)
        assert main([]) == 2 and signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_call_back_from_ffmpeg_is_not_lost(tmp_path):
    from taco.cli import _on_interrupt
    from taco.io.files import StreamForFFmpeg

    class Interrupted:
        def __index__(self):
            os.kill(os.getpid(), signal.SIGINT)
            return 0

    before = signal.signal(signal.SIGINT, _on_interrupt)
    try:
        (tmp_path / "clip.mp4").write_bytes(b"0")
        with StreamForFFmpeg(tmp_path / "clip.mp4") as stream:
            assert stream.seek(Interrupted()) == 0  # an exception from here would be lost
            with pytest.raises(KeyboardInterrupt):
                time.sleep(5)
    finally:
        signal.signal(signal.SIGINT, before)
