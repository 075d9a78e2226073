"""The whole measurement of ``taco bench pipeline``, its goals, and its tables in Markdown."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from taco.bench import growth, node, pipeline
from taco.config import TacoConfig
from taco.engines import installed_engines
from taco.errors import ConfigError, TacoError
from taco.evaluation.composed.scenes import ComposedClip
from taco.evaluation.datasets import EvaluationFrame
from taco.pipeline import TacoPipeline

VERSIONS = ("torch", "onnxruntime", "openvino", "numpy", "opencv-python-headless")
ENDURANCE = 10_000  # frames
BUSY_FRAMES = 30  # of the stream that the node gets
# Of the development machine, two quiet cores; figure -> (goal, whether more is better).
GOALS: dict[str, tuple[float, bool]] = {
    "frame end to end, one thread, ms": (40.0, False),
    "frame end to end in bfloat16, one thread, ms": (28.0, False),
    "the same frame, as configured / torch": (1 / 3, False),
    "beside the networks, ms": (8.0, False),
    "TACO / A-prompt, a frame": (1.15, False),
    "warm / guided cold solve to the same loss": (0.25, False),
    "answers a second at 30 Hz, alone": (25.0, True),
    "answers a second beside one busy core": (12.0, True),
    "age p95 beyond the models' 5 ms, ms": (60.0, False),
    "age p95 beyond the models' 30 ms, ms": (60.0, False),
    "age p95 beyond the models' 300 ms, ms": (60.0, False),
    "launch to the first ~/objects, s": (3.0, False),
    "taco --help, s": (0.3, False),
    "taco doctor, s": (3.0, False),
    "memory of the node, MB": (350.0, False),
    f"growth of the memory over {ENDURANCE:,} frames, %": (1.0, False),
    "largest exponent of the time": (1.1, False),
    "largest exponent of the memory": (1.1, False),
}


def about() -> dict[str, str]:
    """Machine, versions, date, and how busy the machine was."""
    found: dict[str, str] = {"date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"}
    found["machine"] = f"{_processor()}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.machine()}"
    found["load before"] = f"{os.getloadavg()[0]:.1f} programs wanted a core in the last minute"
    found["versions"] = f"Python {platform.python_version()}"
    for name in VERSIONS:
        try:
            found["versions"] += f", {name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"engines": ", ".join(installed_engines()) or "none"}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return f"{named} ({'with' if 'avx512_bf16' in flags or 'amx_bf16' in flags else 'without'} bfloat16)"


def measure(
    config: TacoConfig,
    everything: bool = False,
    repeats: int = 1,
    frames: int = 0,
    domain: int = 101,
    progress: Callable[[str], Callable[[int, int], None]] = lambda part: lambda done, total: None,
) -> dict[str, Any]:
    """The tables and their goals.

    everything: also growth, endurance, the node among processes and the starts of commands; a quarter of an hour.
    frames: of the endurance run, 0 for none (with everything: ``ENDURANCE``). progress: a bar for each part.
    """
    torch.set_num_threads(1)
    found: dict[str, Any] = {"about": about()}
    found |= pipeline.run_pipeline(config, repeats=repeats, full=everything, progress=progress("frames"))
    line = None
    if everything or frames:
        line = TacoPipeline(config.updated({"models.threads": 1}))
        stream, still = (ComposedClip(kind, pipeline.SPLIT, 0, tuple(line.anchors.words)).load() for kind in ("motion", "one"))
    if line and (frames or everything):
        found["memory"] = {"steady": growth.steady_memory(line, stream, frames or ENDURANCE, progress("endurance"))}
    if line and everything:
        found["growth"] = growth.solver_growth() | growth.line_growth(config, still[0])
        found["node"] = node_rows(stream[:BUSY_FRAMES], domain)
        found["commands"] = {f"taco {name}": {"s": command_s(name)} for name in ("--help", "doctor")}
    found["goals"] = goals(found)
    return found


def node_rows(clip: Sequence[EvaluationFrame], domain: int, seconds: float = 25.0) -> dict[str, dict[str, Any]]:
    """The node as installed, alone and beside a busy core, and with stand-ins for its models; the reason where it cannot run."""
    rows: dict[str, dict[str, Any]] = {}
    try:
        rows["alone"] = node.measure_models(clip, seconds, domain)
        rows["beside one busy core"] = node.measure_models(clip, seconds, domain + 1, busy=1)
        for number, stage_ms in enumerate(node.STAGES_MS):
            rows[f"stand-in of {stage_ms:g} ms"] = node.measure(stage_ms, 15.0, domain + 2 + number)
    except (TacoError, subprocess.SubprocessError) as error:
        rows["not measured"] = {"why": " ".join(str(error).split())}
    return rows


def command_s(name: str, tries: int = 3) -> float:
    """Seconds of the fastest of some runs of ``taco NAME``."""
    times = []
    for _ in range(tries):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "taco.cli", name], capture_output=True, timeout=120)
        times.append(time.monotonic() - began)
    return min(times)


def goals(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Figure -> its value, its goal, and whether it is met; "not measured" where this run has no such figure."""
    frames, nodes = found.get("frames", {}), found.get("node", {})

    def get(part: Mapping[str, Any], *keys: str) -> float:
        for key in keys:
            part = part.get(key, {})
        return float(part) if isinstance(part, (int, float)) else math.nan

    ours = f"stream, {pipeline.AS_CONFIGURED}"
    values = {
        "frame end to end, one thread, ms": get(frames, ours, "ms"),
        "frame end to end in bfloat16, one thread, ms": get(frames, "stream, openvino bfloat16", "ms"),
        "the same frame, as configured / torch": get(found, "as configured / engine, frame by frame", "torch", "ratio"),
        "beside the networks, ms": get(frames, ours, "beside the networks ms"),
        "TACO / A-prompt, a frame": get(found, "TACO / A-prompt", "ratio"),
        "warm / guided cold solve to the same loss": get(found, "starts", "warm / guided cold to the same loss"),
        "answers a second at 30 Hz, alone": get(nodes, "alone", "rate_hz"),
        "answers a second beside one busy core": get(nodes, "beside one busy core", "rate_hz"),
        "launch to the first ~/objects, s": get(nodes, "alone", "start_s"),
        "memory of the node, MB": get(nodes, "alone", "memory_last_third_mb"),
        f"growth of the memory over {ENDURANCE:,} frames, %": math.nan,
        **{f"taco {name}, s": get(found, "commands", f"taco {name}", "s") for name in ("--help", "doctor")},
    }
    for stage in node.STAGES_MS:
        beyond = get(nodes, f"stand-in of {stage:g} ms", "age_p95_ms") - stage
        values[f"age p95 beyond the models' {stage:g} ms, ms"] = beyond
    if get(found, "memory", "steady", "frames") >= ENDURANCE:
        values[f"growth of the memory over {ENDURANCE:,} frames, %"] = get(found, "memory", "steady", "growth %")
    for kind in ("time", "memory"):
        slopes = [row[f"exponent of the {kind}"] for row in found.get("growth", {}).values()]
        values[f"largest exponent of the {kind}"] = max(slopes, default=math.nan)
    return {name: _judged(values[name], *goal) for name, goal in GOALS.items()}


def _judged(value: float, goal: float, more: bool) -> dict[str, Any]:
    wanted = f"{'>=' if more else '<='} {goal:.3g}"
    if math.isnan(value):
        return {"measured": None, "goal": wanted, "verdict": "not measured"}
    return {"measured": value, "goal": wanted, "verdict": "met" if (value >= goal if more else value <= goal) else "missed"}


def read(path: str | Path) -> dict[str, Any]:
    """A saved measurement; ConfigError where the file is none."""
    try:
        found = json.loads(Path(path).read_text())
        if not isinstance(found, dict) or not {"about", "goals"} <= set(found):
            raise ValueError("no tables of taco bench pipeline")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--from: wanted a file that `taco bench pipeline --save` wrote, got {path}: {error}") from None
    return found


def markdown(found: Mapping[str, Any], table: Callable[[Mapping[str, Mapping[str, Any]], str], str]) -> str:
    """The tables of a measurement, each under its name. table: (rows, first column's name) -> Markdown."""
    parts = ["\n".join(f"* {name}: {text}" for name, text in found["about"].items())]
    parts.append(table(found["goals"], "figure"))
    for name, part in found.items():
        if name not in ("about", "goals", "engine") and part:
            parts.append(f"### {name[0].upper()}{name[1:]}\n\n{table(_flat(part, FIRST.get(name, '')), FIRST.get(name, name))}")
    return "\n\n".join(parts)


FIRST = {"stages": "stage", "frames": "frames, engine", "growth": "size", "node": "node", "commands": "command"}


def _flat(part: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Rows of figures; a flat dictionary becomes one row a figure, and a node's row its few telling figures."""
    if not any(isinstance(row, Mapping) for row in part.values()):
        return {key: {"value": value} for key, value in part.items()}
    if name == "node":
        return {key: dict(_telling(row)) for key, row in part.items()}
    return {key: dict(row) for key, row in part.items()}


def _telling(row: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    names = {
        "rate_hz": "answers/s",
        "age_p50_ms": "age p50 ms",
        "age_p95_ms": "age p95 ms",
        "start_s": "start s",
        "memory_last_third_mb": "MB",
        "why": "why",
    }
    yield from ((shown, row[key]) for key, shown in names.items() if key in row)
    yield from (
        (key.replace("_", " "), row["stages_ms"][key]) for key in ("convert_ms", "publish_ms") if key in row.get("stages_ms", {})
    )
