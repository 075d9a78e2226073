"""CPU threads of the models: torch keeps one where an engine runs, and threads without work sleep."""

import gc
import json
import os
import platform
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from taco import threads
from taco.backbones import embedded_models, load_backbones
from taco.backbones.pe_audio import PEAudioEncoder
from taco.config import ModelsConfig, TacoConfig
from taco.engines import installed_engines
from taco.pipeline import TacoPipeline
from taco.segmentation.activation import ActivationSegmenter
from taco.segmentation.sam3 import Sam3Segmenter
from taco.types import VideoFrame
from test import ROOT

FRAMES = """
import sys, time
import numpy as np
from taco.threads import wait_passively
wait_passively()
from taco.config import TacoConfig
from taco.pipeline import TacoPipeline
from taco.types import AudioWindow, VideoFrame
pipelines = [TacoPipeline(TacoConfig().updated({"models.threads": int(count)})) for count in sys.argv[1:]]
noise = np.random.default_rng(0)
rgb, samples = noise.integers(0, 255, (480, 640, 3), np.uint8), noise.normal(0, 0.1, 16000).astype(np.float32)
times = [[] for _ in pipelines]
for number in range(25):
    for pipeline, own in zip(pipelines, times):
        start = time.perf_counter()
        pipeline.process(VideoFrame(rgb, number * 10**8), AudioWindow(samples, 16000, number * 10**8))
        own.append(time.perf_counter() - start)
print([sorted(own[5:])[10] for own in times])
"""


@pytest.fixture
def restored(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.setattr(threads, "_before", 0)
    yield
    torch.set_num_threads(before)


def test_the_setting_comes_before_torchs_choice(restored):
    torch.set_num_threads(3)
    assert threads.model_threads() == 3 and threads.model_threads(2) == 2


def test_a_later_pipeline_has_the_threads_that_torch_left_to_an_engine(restored):
    torch.set_num_threads(3)
    threads.leave_threads_to_engine()
    threads.leave_threads_to_engine()
    assert torch.get_num_threads() == 1 and threads.model_threads() == 3
    threads.use_threads(2)
    assert threads.model_threads() == 2


@pytest.mark.parametrize(("only_torch", "left"), [(True, 3), (False, 1)], ids=["SAM 3", "maps"])
def test_torch_keeps_its_threads_where_a_large_network_runs_in_torch_only(restored, only_torch, left):
    torch.set_num_threads(3)
    models = load_backbones(ModelsConfig(image="standin"))
    models.image.engine = "onnxruntime"
    maps = ActivationSegmenter(None)
    TacoPipeline(backbones=models, segmenter=Sam3Segmenter(SimpleNamespace(name="sam3"), maps) if only_torch else maps)
    assert torch.get_num_threads() == left and PEAudioEncoder.only_torch


@pytest.mark.data
@pytest.mark.skipif(not installed_engines(), reason="no engine is installed")
def test_torch_keeps_one_thread_where_an_engine_runs(restored):
    embedded_models.fetch(ModelsConfig())
    torch.set_num_threads(2)
    for setting in (0, 2):
        assert TacoPipeline(TacoConfig().updated({"models.threads": setting})).backbones.image.engine != "torch"
        assert torch.get_num_threads() == 1
    TacoPipeline(TacoConfig().updated({"models.engine": "torch"}))
    assert torch.get_num_threads() == 2


def test_variables_that_are_set_stay():
    code = (
        "import json, os, sys; from taco.threads import wait_passively; wait_passively(); "
        "print(json.dumps([os.environ['OMP_WAIT_POLICY'], os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules]))"
    )
    env = {name: value for name, value in os.environ.items() if name not in threads.PASSIVE} | {"OMP_WAIT_POLICY": "ACTIVE"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["ACTIVE", "0", False]


def test_the_node_waits_passively_before_torch_is_imported():
    lines = (ROOT / "scripts" / "taco_node").read_text().splitlines()
    calls = [number for number, line in enumerate(lines) if line.startswith("wait_passively()")]
    imported = [number for number, line in enumerate(lines) if line.startswith("from taco_ros")]
    assert len(calls) == 1 and calls < imported


@pytest.mark.live
@pytest.mark.data
@pytest.mark.skipif(not installed_engines(), reason="no engine is installed")
def test_the_default_answers_beside_a_busy_core():
    embedded_models.fetch(ModelsConfig())
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        run = [sys.executable, "-c", FRAMES]
        times = [  # a process each, in the same minute
            json.loads(subprocess.run([*run, count], cwd=ROOT, capture_output=True, text=True, check=True).stdout)[0]
            for count in ("0", "1", "0", "1")
        ]
    finally:
        busy.kill()
        busy.wait()
    default, one = np.min(times[::2]), np.min(times[1::2])
    assert default < 1.5 * one  # busily waiting threads made it five times as long


def test_a_side_thread_does_its_work_in_order_and_gives_back_what_it_raised():
    side, done = threads.SideThread(), []
    assert [side.submit(lambda n=n: done.append(n) or n).result(10) for n in range(3)] == done == [0, 1, 2]
    with pytest.raises(SystemExit, match="no"):
        side.submit(lambda: sys.exit("no")).result(10)
    assert side.submit(threading.current_thread).result(10).daemon  # and goes on


def test_a_side_thread_ends_with_its_owner():
    side = threads.SideThread()
    thread = side.submit(threading.current_thread).result(10)
    del side
    gc.collect()
    thread.join(10)
    assert not thread.is_alive()


def test_a_program_ends_though_its_side_thread_hangs():
    code = "import time; from taco.threads import SideThread; side = SideThread(); side.submit(lambda: time.sleep(600))"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("count, side", [(1, 1), (2, 1), (3, 1), (4, 1), (6, 2), (8, 2), (12, 4)])
def test_the_networks_beside_the_image_encoder_get_a_third_of_the_threads(count, side):
    assert threads.side_threads(count) == side


def test_one_thread_of_the_models_means_no_side_thread(restored):
    one, two = (load_backbones(ModelsConfig(image="standin:1", threads=count)) for count in (1, 2))
    assert one.side is None and isinstance(two.side, threads.SideThread)


def test_the_person_detector_runs_beside_the_encoder_with_the_same_answer(restored):
    embedded_models.fetch(ModelsConfig())
    one, two = (embedded_models.load(ModelsConfig(threads=count)).image for count in (1, 2))
    assert one.side is None and two.side is not None
    noise = np.random.default_rng(0)
    frame = VideoFrame(noise.integers(0, 255, (120, 160, 3), np.uint8), 0)
    seen = []
    boxes = two.person.boxes
    two.person.boxes = lambda frames: seen.append(threading.current_thread()) or boxes(frames)
    torch.testing.assert_close(one.encode(frame).tokens.values, two.encode(frame).tokens.values, rtol=1e-4, atol=1e-4)
    assert len(seen) == 1 and seen[0] is not threading.current_thread()


HEAPS = """
import ctypes, sys, threading
from taco.threads import share_heap
if sys.argv[1:]:
    share_heap()
ready = threading.Barrier(4)
threads = [threading.Thread(target=lambda: (bytearray(5000), ready.wait(20))) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
ctypes.CDLL(None).malloc_stats()
"""


def test_threads_share_one_heap_where_they_are_told_to():
    def heaps(*arguments):
        command = [sys.executable, "-c", HEAPS, *arguments]
        return subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True).stderr.count("Arena ")

    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    assert heaps() > 1 == heaps("share")
