"""The live line on composed everyday scenes: stages, floors, engines, a rival and starts, interleaved in one run.

Every figure is of frames of ``taco evaluate stamps`` (split ``val``) at 640 x 480: a moving camera as a stream, single scenes as
cold frames, and silent ones by themselves.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch

import taco.pipeline
from taco.bench.problems import MadeScene, World
from taco.bench.solver import compare_starts, machine_rates, solve, sweep_bound
from taco.config import TacoConfig
from taco.engines import OnnxRuntimeNetwork, OpenVinoNetwork, TorchNetwork, installed_engines
from taco.evaluation.composed.scenes import ComposedClip
from taco.evaluation.datasets import EvaluationFrame
from taco.evaluation.methods import MethodRunner, as_factors
from taco.factorization import factorize
from taco.pipeline import TacoPipeline
from taco.segmentation.base import Segmentation
from taco.types import Concept, Factorization, SoundingScene
from taco.view.draw import overlay

SPLIT = "val"  # so that nothing here touches the scenes that figures are published of
STILLS = ("one", "two", "both", "distractors", "several")
NETWORKS = (TorchNetwork, OnnxRuntimeNetwork, OpenVinoNetwork)
AS_CONFIGURED = "as configured"
OUTLINED = "sounding"  # the verdict of a frame in which an object is outlined


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames that follow each other. stream: a moving camera, each frame starts from the one before."""

    name: str
    frames: tuple[EvaluationFrame, ...]
    stream: bool


@dataclass(slots=True)
class Sample:
    """One processed frame in milliseconds: (wall, processor) as a whole, by stage, and of the networks in a stage."""

    wall: float = 0.0
    processor: float = 0.0
    verdict: str = ""
    stages: dict[str, list[float]] = field(default_factory=dict)
    networks: dict[str, float] = field(default_factory=dict)

    @property
    def beside(self) -> float:
        """Wall milliseconds outside of the networks."""
        return self.wall - sum(self.networks.values())


def everyday_clips(words: Sequence[str], motions: int, stills: int, silences: int, length: int) -> list[Clip]:
    """Composed clips: streams of ``length`` frames, single scenes of each kind, and silent ones."""
    own = tuple(words)

    def clip(kind: str, seed: int) -> Clip:
        composed = ComposedClip(kind, SPLIT, seed, own)
        return Clip(composed.id, tuple(composed.load()[:length]), kind == "motion")

    wanted = [("motion", motions), *((kind, stills) for kind in STILLS), ("silence", silences)]
    return [clip(kind, seed) for kind, count in wanted for seed in range(count)]


class _StageClock:
    """While it is entered, stages of the pipeline and calls of networks are timed into ``sample``."""

    def __init__(self) -> None:
        self.sample, self._stage = Sample(), "before"

    @contextmanager
    def _timed(self, times: dict[str, float], stage: str) -> Iterator[None]:
        outer, self._stage = self._stage, stage
        wall, processor = time.perf_counter(), time.process_time()
        yield
        spent = [1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)]
        times[stage], self.sample.stages[stage], self._stage = spent[0], spent, outer

    def _network(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(network: object, *inputs: object) -> Any:
            began = time.perf_counter()
            found = call(network, *inputs)
            spent = 1e3 * (time.perf_counter() - began)
            self.sample.networks[self._stage] = self.sample.networks.get(self._stage, 0.0) + spent
            return found

        return timed

    @contextmanager
    def running(self) -> Iterator[None]:
        """Put the clocks in place."""
        with mock.patch.object(taco.pipeline, "_timed", self._timed):
            patches = [mock.patch.object(kind, "__call__", self._network(kind.__call__)) for kind in NETWORKS]
            for patch in patches:
                patch.start()
            try:
                yield
            finally:
                for patch in patches:
                    patch.stop()

    def process(self, pipeline: TacoPipeline, frame: EvaluationFrame) -> tuple[Sample, SoundingScene]:
        """Process a frame and say what it took."""
        sample = self.sample = Sample()
        wall, processor = time.perf_counter(), time.process_time()
        scene = pipeline.process(frame.frame, frame.window)
        sample.wall, sample.processor = 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)
        sample.verdict = scene.verdict
        self.sample = Sample()  # of what runs between the frames
        return sample, scene


def engine_settings() -> dict[str, dict[str, object]]:
    """Name -> settings of what is compared: as configured first, then torch and every installed engine."""
    found: dict[str, dict[str, object]] = {AS_CONFIGURED: {}, "torch": {"models.engine": "torch"}}
    found |= {name: {"models.engine": name, "models.precision": "float32"} for name in installed_engines()}
    if "openvino" in found:
        found["openvino bfloat16"] = {"models.engine": "openvino", "models.precision": "bfloat16"}
    return found


def load_engines(config: TacoConfig) -> dict[str, TacoPipeline]:
    """A pipeline of each engine, after a warm-up run. Left out: what is as configured, and what falls back to something else."""
    out: dict[str, TacoPipeline] = {}
    configured = ""
    for name, settings in engine_settings().items():
        if name == configured:
            continue
        pipeline = TacoPipeline(config.updated(settings))
        runs = engine_name(pipeline)
        if name == AS_CONFIGURED or runs == name:
            configured = configured or runs
            pipeline.warm_up()
            out[name] = pipeline
    return out


def engine_name(pipeline: TacoPipeline) -> str:
    """What runs the image encoder, and its precision where that is not float32."""
    image = pipeline.backbones.image
    precision = getattr(image, "precision", "float32")
    return " ".join([getattr(image, "engine", "torch"), *([precision] if precision != "float32" else [])])


def measure_frames(
    pipelines: Mapping[str, TacoPipeline], clips: Sequence[Clip], repeats: int, progress: Callable[[int, int], None] | None = None
) -> tuple[dict[str, dict[str, list[Sample]]], list[float], list[float]]:
    """({"stream" | "cold" | "silent": {engine: samples}}, milliseconds of the drawing, of A-prompt / TACO where both outline).

    Engines take turns frame by frame, the order turning too, so that a busy moment of the machine is everybody's.
    """
    samples: dict[str, dict[str, list[Sample]]] = {
        kind: {name: [] for name in pipelines} for kind in ("stream", "cold", "silent")
    }
    drawing: list[float] = []
    against: list[float] = []
    clock, names = _StageClock(), list(pipelines)
    rival = MethodRunner(pipelines[names[0]].config, pipeline=pipelines[names[0]].sibling())
    total = repeats * sum(len(clip.frames) for clip in clips)
    done = 0
    if progress:
        progress(0, total)
    with clock.running():
        for clip in [clip for _ in range(repeats) for clip in clips]:
            for pipeline in pipelines.values():
                pipeline.reset()
            before: Segmentation | None = None
            for number, frame in enumerate(clip.frames):
                turn = done % len(names)
                for name in names[turn:] + names[:turn]:
                    sample, scene = clock.process(pipelines[name], frame)
                    kind = "silent" if scene.verdict == "silent" else "stream" if clip.stream and number else "cold"
                    samples[kind][name].append(sample)
                    if name == names[0]:
                        ours, began = (sample, scene), time.perf_counter()
                        overlay(frame.frame.rgb, scene)
                        drawing.append(1e3 * (time.perf_counter() - began))
                if ours[1].verdict != "silent":
                    spent, before = _a_prompt(rival, frame, before)
                    if ours[1].verdict == OUTLINED:
                        against.append(ours[0].wall / spent)
                done += 1
                if progress:
                    progress(done, total)
    return samples, drawing, against


@torch.inference_mode()
def _a_prompt(runner: MethodRunner, frame: EvaluationFrame, before: Segmentation | None) -> tuple[float, Segmentation]:
    """Milliseconds of the rival on the same models: the segmenter prompted with the best word of the sound; no factorization."""
    runner.forget()
    pipeline, began = runner.base, time.perf_counter()
    features, audio = runner.encoded(frame)
    _, heard = runner.evidence(frame)
    index = int(heard.argmax())
    factors = as_factors(pipeline.anchors, [index], features.tokens, audio)
    score = float(heard[index])
    concept = Concept(index, ((pipeline.anchors.words[index], score),), score, factors.visual_factors[index])
    config = pipeline.config.segmentation
    found = pipeline.segmenter.segment(frame.frame, features, factors, (concept,), pipeline.anchors, config, before)
    return 1e3 * (time.perf_counter() - began), found


@torch.inference_mode()
def starts_on_frames(pipeline: TacoPipeline, clips: Sequence[Clip], limit: int) -> dict[str, float]:
    """Warm solves against cold ones on the tokens of streams: see ``compare_starts``. limit: frames of each stream."""
    world = World(torch.empty(0), torch.empty(0), pipeline.anchors)
    streams = []
    for clip in clips:
        if clip.stream:
            scenes = [_as_scene(pipeline, frame) for frame in clip.frames[:limit]]
            streams.append([(scene, "" if number else "start") for number, scene in enumerate(scenes)])
    return compare_starts(world, streams) if streams else {}


def _as_scene(pipeline: TacoPipeline, frame: EvaluationFrame) -> MadeScene:
    encodings = pipeline.encodings()
    visual, audio = encodings.image(frame.frame).tokens, encodings.sound(frame.window)
    return MadeScene(visual.values, audio.values, torch.zeros(visual.grid, dtype=torch.bool), -1)


@torch.inference_mode()
def factorize_floor_ms(pipeline: TacoPipeline, frame: EvaluationFrame) -> float:
    """What the sweeps of a warm solve must cost on this machine: tokens read, and products at the rate of a large one."""
    scene = _as_scene(pipeline, frame)
    world = World(torch.empty(0), torch.empty(0), pipeline.anchors)
    first = solve(scene, world)
    warm = factorize(scene.visual, scene.audio, pipeline.anchors, init=first, visual_grid=scene.visual_grid)
    assert isinstance(warm, Factorization), "one frame in, one result out"
    words = len(pipeline.anchors.words)
    return warm.iterations * sweep_bound(scene, words, first.visual_activations.shape[1], *machine_rates())


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which this part of the values lies; nan of none."""
    return float(np.percentile(values, 100 * part)) if len(values) else math.nan


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Median and 95th percentile of the wall time, medians of processor time and of what is beside the networks, in ms."""
    if not samples:
        return {}
    return {
        "frames": len(samples),
        "outlined": sum(sample.verdict == OUTLINED for sample in samples),
        "ms": statistics.median(sample.wall for sample in samples),
        "p95 ms": percentile([sample.wall for sample in samples], 0.95),
        "processor ms": statistics.median(sample.processor for sample in samples),
        "beside the networks ms": statistics.median(sample.beside for sample in samples),
    }


def stage_table(samples: Sequence[Sample], drawing: Sequence[float], floors: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """A row for each stage. floor ms: its networks alone, or what ``floors`` says; ratio: median over floor."""
    out: dict[str, dict[str, float]] = {}
    for stage in dict.fromkeys(name for sample in samples for name in sample.stages):
        there = [sample for sample in samples if stage in sample.stages]
        wall = [sample.stages[stage][0] for sample in there]
        networks = [sample.networks.get(stage, 0.0) for sample in there]
        row = {"frames": len(there), "ms": statistics.median(wall), "p95 ms": percentile(wall, 0.95)}
        row["processor ms"] = statistics.median(sample.stages[stage][1] for sample in there)
        floor = floors.get(stage, statistics.median(networks))
        out[stage] = row | ({"floor ms": floor, "ratio": row["ms"] / floor} if floor else {})
    if drawing:
        out["drawing (only with a listener)"] = {
            "frames": len(drawing),
            "ms": statistics.median(drawing),
            "p95 ms": percentile(drawing, 0.95),
        }
    return out


def run_pipeline(
    config: TacoConfig,
    clips: Sequence[Clip] | None = None,
    repeats: int = 1,
    full: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Stages, engines, rival and starts, as dictionaries of tables; one thread for the models.

    clips: None composes them, more of them with ``full``.
    """
    config = config.updated({"models.threads": 1})
    pipelines = load_engines(config)
    first = pipelines[AS_CONFIGURED]
    if clips is None:
        clips = everyday_clips(first.anchors.words, *((6, 6, 10, 30) if full else (2, 2, 4, 16)))
    samples, drawing, against = measure_frames(pipelines, clips, repeats, progress)
    streaming = samples["stream"][AS_CONFIGURED]
    sounding = next(frame for clip in clips for frame in clip.frames if first.process(frame.frame, frame.window).factorization)
    floors = {"factorize": factorize_floor_ms(first, sounding)}
    out: dict[str, Any] = {"engine": engine_name(first)}
    out["stages"] = stage_table(streaming, drawing, floors)
    out["stages, cold frames"] = stage_table(samples["cold"][AS_CONFIGURED], [], {})
    out["frames"] = {f"{kind}, {name}": summary(own) for kind, engines in samples.items() for name, own in engines.items() if own}
    paired = {
        name: statistics.median(a.wall / b.wall for a, b in zip(streaming, other))
        for name, other in samples["stream"].items()
        if other and name != AS_CONFIGURED
    }
    out["as configured / engine, frame by frame"] = {name: {"ratio": ratio} for name, ratio in paired.items()}
    if against:
        out["TACO / A-prompt"] = {"outlined frames": len(against), "ratio": statistics.median(against)}
    out["starts"] = starts_on_frames(first, clips, 12 if full else 5)
    return out
