"""How time and memory of the live line grow with its sizes: exponents of straight lines in log-log, and hours of frames."""

from __future__ import annotations

import gc
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from taco.backbones.device import release_memory
from taco.bench.problems import make_world, still
from taco.bench.solver import FIRST_SEED, best_ms, solve
from taco.concepts import name_concepts
from taco.config import ConceptsConfig, TacoConfig
from taco.evaluation.datasets import EvaluationFrame
from taco.pipeline import TacoPipeline
from taco.types import AudioWindow, Tokens, VideoFrame

WORDS = (7, 70, 700, 10_000)
FACTORS = (4, 8, 16, 32)
TOKENS = (12, 24, 36, 48)  # on a side of the grid
CAMERAS = (1, 2, 4, 8)
PICTURES = (320, 640, 1280, 1920)  # px, width of the camera's image
WINDOWS_S = (1.0, 2.0, 4.0, 8.0)
SETTLED = 0.1  # share of the frames after which the memory is looked at: caches are full, the allocator's pools are there

Row = dict[str, float]


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the straight line through the points in log-log; nan where a value is not positive."""
    if min(values) <= 0:
        return math.nan
    x, y = ([math.log(value) for value in axis] for axis in (sizes, values))
    middle, height = statistics.fmean(x), statistics.fmean(y)
    return sum((a - middle) * (b - height) for a, b in zip(x, y)) / sum((a - middle) ** 2 for a in x)


def resident_mb() -> float:
    """Resident memory of this process."""
    return _status_mb("VmRSS")


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(key + ":"))


def peak_mb(call: Callable[[], object]) -> float:
    """Memory that a call takes on top of what is there, at its peak; Linux."""
    gc.collect()
    release_memory()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident_mb()
    call()
    return max(0.0, _status_mb("VmHWM") - before)


def _measured(sizes: Sequence[float], call_at: Callable[[float], Callable[[], object]], repeats: int = 5) -> Row:
    times, peaks = [], []
    for size in sizes:
        call = call_at(size)
        call()  # its caches are filled
        peaks.append(peak_mb(call))
        times.append(best_ms(call, repeats))
    out: Row = {f"ms at {size:g}": ms for size, ms in zip(sizes, times)}
    out |= {f"MB at {size:g}": mb for size, mb in zip(sizes, peaks)}
    out |= {"exponent of the time": exponent(sizes, times), "of its last two": exponent(sizes[-2:], times[-2:])}
    return out | {"exponent of the memory": exponent(sizes, [max(mb, 0.1) for mb in peaks])}


def solver_growth(
    words: Sequence[int] = WORDS, factors: Sequence[int] = FACTORS, sides: Sequence[int] = TOKENS
) -> dict[str, Row]:
    """A warm solve and its naming on synthetic tokens (768 wide, 576 of them where their number does not change)."""

    def call(count: int = 527, side: int = 24, k: int = 8) -> Callable[[], object]:
        world = make_world(1, words=count)
        scene = still(world, FIRST_SEED, side=side)
        first = solve(scene, world, n_factors=k)
        visual, audio = Tokens(scene.visual, scene.visual_grid), Tokens(scene.audio, scene.audio_grid)

        def run() -> None:
            found = solve(scene, world, init=first, n_factors=k)
            name_concepts(found, visual, audio, world.anchors, ConceptsConfig())

        return run

    return {
        "words": _measured(words, lambda n: call(count=int(n))),
        "factors": _measured(factors, lambda n: call(k=int(n))),
        "tokens of the image": _measured([side * side for side in sides], lambda n: call(side=math.isqrt(int(n)))),
    }


def line_growth(
    config: TacoConfig,
    frame: EvaluationFrame,
    cameras: Sequence[int] = CAMERAS,
    widths: Sequence[int] = PICTURES,
    windows_s: Sequence[float] = WINDOWS_S,
) -> dict[str, Row]:
    """The whole line on a frame: cameras with one sound, pixels of the camera's image, seconds of the window."""
    import cv2

    pipeline = TacoPipeline(config.updated({"models.threads": 1}))

    def one(rgb: np.ndarray, window: AudioWindow) -> Callable[[], object]:
        def run() -> None:
            pipeline.reset()
            pipeline.process(VideoFrame(rgb, frame.frame.stamp_ns), window)

        return run

    def several(count: float) -> Callable[[], object]:
        frames = [VideoFrame(frame.frame.rgb, frame.frame.stamp_ns) for _ in range(int(count))]
        siblings = [pipeline.sibling() for _ in frames]

        def run() -> None:
            shared = pipeline.encodings(frames)
            for sibling, own in zip(siblings, frames):
                sibling.reset()
                sibling.process(own, frame.window, shared)

        return run

    def seen(pixels: float) -> Callable[[], object]:
        height, width = frame.frame.size
        scale = (pixels / (height * width)) ** 0.5
        size = round(width * scale), round(height * scale)
        return one(cv2.resize(frame.frame.rgb, size, interpolation=cv2.INTER_AREA), frame.window)

    def heard(seconds: float) -> Callable[[], object]:
        rate = frame.window.sample_rate
        return one(frame.frame.rgb, AudioWindow(np.resize(frame.window.samples, round(seconds * rate)), rate, 0))

    height, width = frame.frame.size
    return {
        "cameras": _measured(cameras, several, 3),
        "pixels of the camera": _measured([w * w * height / width for w in widths], seen, 3),
        "seconds of sound": _measured(windows_s, heard, 3),
    }


def steady_memory(
    pipeline: TacoPipeline,
    frames: Sequence[EvaluationFrame],
    count: int,
    progress: Callable[[int, int], None] | None = None,
) -> Row:
    """Resident memory over ``count`` frames, the given ones again and again as one stream.

    Growth is the median of the last tenth over that of the second tenth: a peak of one frame is no growth.
    """
    seen: list[float] = []
    if progress:
        progress(0, count)
    for number in range(count):
        frame = frames[number % len(frames)]
        if number % len(frames) == 0:
            pipeline.reset()
        with torch.inference_mode():
            pipeline.process(frame.frame, frame.window)
        seen.append(resident_mb())
        if progress:
            progress(number + 1, count)
    tenth = max(1, round(SETTLED * count))
    early, late = statistics.median(seen[tenth : 2 * tenth] or seen), statistics.median(seen[-tenth:])
    return {"frames": count, "MB early": early, "MB late": late, "growth %": 100 * (late / early - 1), "MB at most": max(seen)}
