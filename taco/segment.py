"""The loop of ``taco segment``: inputs, results on disk, resuming."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from taco import __version__
from taco.clock import NS
from taco.config import TacoConfig
from taco.errors import AudioGapError, ConfigError, MediaError, MissingPackageError
from taco.io import bags
from taco.io.coco import write_coco
from taco.io.files import AudioFeed
from taco.io.results import Record, Results, Summary, scene_from_record, skipped_record, summarize_records
from taco.io.sources import BagSource, Source, StillSource, UnreadableSource, open_sources
from taco.parallel import ClipExecutor
from taco.pipeline import TacoPipeline
from taco.progress import progress
from taco.tracking import Track, Tracker
from taco.types import AudioWindow, SoundingScene, VideoFrame
from taco.view.draw import format_words
from taco.view.html import write_page
from taco.view.overlays import write_overlay
from taco.view.rerun_view import Viewer, check_display, rerun_sdk

CLIP_FRAMES = 50  # ours: frames solved as one problem with temporal "joint"; all their features are in memory at once
RESULT_FORMAT = 2  # version of the lines in objects.jsonl; raise it when they change, and old results are made again
STEP_TOLERANCE_NS = 1_000_000  # ours: a frame may come this much before the time that a step in seconds asks for


@dataclass(frozen=True, slots=True)
class SegmentOptions:
    """What to do with the inputs; named and written as on the command line.

    every: "N", every N-th frame, or "Ts", a frame every T seconds.
    start: begin at this second.
    end: stop before this second.
    fps: rate of a folder of pictures that is given with a sound, Hz.
    image_topic: of a bag; "" finds it by type.
    audio_topic: of a bag; "" finds it by type.
    bag: new bag for the node's messages, or None.
    no_overlay: write no overlay picture and video.
    view: show the results in the Rerun viewer.
    rrd: file for what the viewer would show, or None.
    html: write view.html.
    coco: write coco.json.
    overwrite: process inputs again whose results are complete.

    ConfigError names a value that is out of range or contradicts another one.
    """

    every: str = "1"
    start: float = 0.0
    end: float = float("inf")
    fps: float = 10.0
    image_topic: str = ""
    audio_topic: str = ""
    bag: str | None = None
    no_overlay: bool = False
    view: bool = False
    rrd: str | None = None
    html: bool = False
    coco: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        parse_step(self.every)
        if not self.end > self.start >= 0:
            raise ConfigError(f"--start, --end: wanted 0 <= start < end, got {self.start:g} and {self.end:g}")
        if not 0 < self.fps <= 1000:
            raise ConfigError(f"--fps: wanted 0 to 1000 frames a second, got {self.fps:g}")
        if self.html and self.no_overlay:
            raise ConfigError("--html: wanted the overlay, which --no-overlay leaves out")
        if self.rrd and not self.rrd.endswith(".rrd"):
            raise ConfigError(f"--rrd: wanted a name that ends in .rrd, got {self.rrd}")

    def fingerprint(self, source: Source, config: TacoConfig) -> dict[str, object]:
        """Everything that the results of a source depend on."""
        states = [(path, path.stat()) for path in source.inputs]
        names = ("every", "start", "end", "fps", "image_topic", "audio_topic", "no_overlay", "bag", "html", "coco", "rrd")
        return {
            "version": __version__,
            "format": RESULT_FORMAT,
            "inputs": [[str(path.resolve()), state.st_size, state.st_mtime_ns] for path, state in states],
            "config": config.to_dict(),
            **{name: str(getattr(self, name)) for name in names},
        }


def make_pipeline(config: TacoConfig) -> TacoPipeline:
    """The pipeline of a run; tests replace it."""
    return TacoPipeline(config)


def parse_step(text: str) -> tuple[int, int]:
    """``--every`` as (frames, nanoseconds); one of them is 0. ConfigError where it is neither."""
    try:
        if text.endswith("s"):
            step_ns = round(float(text[:-1]) * NS)
            if step_ns > 0:
                return 0, step_ns
        elif int(text) > 0:
            return int(text), 0
    except (ValueError, OverflowError):
        pass
    raise ConfigError(f"--every: wanted a number of frames (5) or of seconds (0.5s), got {text!r}")


def segment_inputs(
    inputs: Iterable[str],
    config: TacoConfig,
    options: SegmentOptions,
    out: str | None = None,
    executor: ClipExecutor | None = None,
) -> Iterator[tuple[int, Summary]]:
    """Segment every input; (its number from 0 on, its summary) as they get ready.

    inputs: as for ``taco.io.sources.open_sources``.
    out: folder of the results; default: the input's name and _taco, for several inputs "segmented" with a folder each.
    executor: where the work is done; default: in this process.
    Of several inputs, one that fails has a summary with "error", and the others go on; a single one raises its MediaError.
    """
    executor = executor or ClipExecutor()
    remote = executor.name == "ray"  # the other processes may run in another folder
    topics = {"image_topic": options.image_topic, "audio_topic": options.audio_topic}
    paths = [str(Path(path).absolute()) if remote else path for path in inputs]
    sources = open_sources(paths, window_s=config.audio.window_s, fps=options.fps, audio=config.audio, **topics)
    single = len(sources) == 1
    for name in ("bag", "rrd"):
        if getattr(options, name) and not single:
            raise ConfigError(f"--{name}: wanted one input, got {len(sources)}")
    if options.view or options.rrd:
        try:
            rerun_sdk()
        except MissingPackageError as error:
            raise MissingPackageError(f"{error}; or use --html, which needs only a browser") from None
    if options.view:
        check_display()
    if options.bag and Path(options.bag).exists():
        raise MediaError(f"cannot write {options.bag}: it exists; remove it or choose another name")
    base = Path(out or (f"{sources[0].name}_taco" if single else "segmented"))
    base = base.absolute() if remote else base
    jobs = [
        _Job(number, source, base if single else base / source.name, "" if single else f"[{number + 1}/{len(sources)}] ")
        for number, source in enumerate(sources)
    ]
    for job, summary in executor.map(_WorkerFactory(config, options, _torch_threads() if remote else 0), jobs):
        yield job.number, summary


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


@dataclass(frozen=True, slots=True)
class _Job:
    number: int
    source: Source
    folder: Path
    prefix: str  # of the progress bar; "" for a single input


@dataclass(frozen=True)
class _WorkerFactory:
    """Builds the worker of one process; can be sent to another. threads: of torch, 0 for its own choice."""

    config: TacoConfig
    options: SegmentOptions
    threads: int

    def __call__(self) -> Callable[[_Job], Summary]:
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)
        segmenter = _Segmenter(self.config, self.options)

        def work(job: _Job) -> Summary:
            try:
                return segmenter.segment(job.source, job.folder, job.prefix)
            except MediaError as error:
                if not job.prefix:
                    raise
                return {"name": job.source.name, "out": str(job.folder), "error": str(error)}

        return work


class _Segmenter:
    """Segments one source after another; the models are loaded when the first one needs them."""

    def __init__(self, config: TacoConfig, options: SegmentOptions):
        self.config, self.options = config, options
        self.pipeline: TacoPipeline | None = None

    def segment(self, source: Source, folder: Path, prefix: str) -> Summary:
        """Write masks, lines and overlay of one source; its summary."""
        if isinstance(source, UnreadableSource):
            raise source.error
        options = self.options
        results = Results(folder, options.fingerprint(source, self.config))
        finished = results.finished_summary()
        if finished is not None and not options.overwrite:
            return {**finished, "done_already": True}
        if not options.overwrite and (other := results.finished_differently()):
            raise MediaError(f"{folder}: holds finished results with other {other}; choose another -o, or --overwrite them")
        with results:
            resumed = results.resumed
            try:
                seconds = self._process(source, results, prefix)
            except KeyboardInterrupt:
                print(f"\nstopped after {len(results.records)} frames; the same command goes on from there", file=sys.stderr)
                raise
            if not results.records:
                raise MediaError(f"{source.inputs[0]}: no frame between --start {options.start:g} and --end {options.end:g}")
            if not options.no_overlay:
                self._write_overlay(source, results, prefix)
            if options.coco:
                write_coco(folder / "coco.json", source.inputs[0].name, results.read())
            if options.bag:
                _write_bag(options.bag, source, results)
            summary = summarize_records(source.name, results.records, folder) | self._word_bank()
            summary["frames_per_s"] = round((len(results.records) - resumed) / seconds, 4) if seconds > 0 else 0.0
            summary["resumed_after"] = resumed
            results.finish(summary)
        return summary

    def _process(self, source: Source, results: Results, prefix: str) -> float:
        """Every chosen frame that has no line yet; the seconds it took once the models were there."""
        options = self.options
        self.pipeline = self.pipeline or make_pipeline(self.config)
        self.pipeline.reset()
        started = time.perf_counter()
        tracker = self._tracker(results)
        audio = source.window_settings(self.config.audio)
        last_ns = results.last_ns
        reached_s = options.start if last_ns is None else max(options.start, last_ns / NS - source.origin_s)
        feed = AudioFeed(source.sound(reached_s - 2 * audio.window_s), audio)
        frames = source.frames(options.start, options.end, _frame_filter(parse_step(options.every), last_ns))
        total = _expected_frames(source, options, parse_step(options.every))
        with progress(f"{prefix}{source.name}", total, results.resumed) as bar, self._viewer(source) as viewer:
            for frame, scene in self._scenes(self.pipeline, frames, feed):
                if isinstance(scene, AudioGapError):
                    results.add_record(skipped_record(frame, len(results.records), str(scene)))
                    bar.update()
                    continue
                scene = tracker.update(scene)
                results.add(scene, map(_track_record, tracker.tracks))
                if viewer:
                    viewer.log(frame.rgb, scene)
                words = ", ".join(found.label for found in scene.objects) or format_words(scene.heard, 1) or scene.verdict
                bar.set_postfix_str(words[:30], refresh=False)
                bar.update()
        return time.perf_counter() - started

    def _scenes(
        self, pipeline: TacoPipeline, frames: Iterable[VideoFrame], feed: AudioFeed
    ) -> Iterator[tuple[VideoFrame, SoundingScene | AudioGapError]]:
        """(frame, its scene, or the error that says why it has no sound), in order; with temporal "joint" clip by clip."""
        joint = self.config.factorization.temporal == "joint"
        clip: list[tuple[VideoFrame, AudioWindow]] = []

        def solve_clip() -> Iterator[tuple[VideoFrame, SoundingScene]]:
            if clip:
                images, windows = zip(*clip)
                yield from zip(images, pipeline.process_clip(images, windows))
                clip.clear()

        for frame in frames:
            try:
                window = feed.window(frame.stamp_ns)
            except AudioGapError as error:
                yield from solve_clip()
                yield frame, error
                continue
            if not joint:
                yield frame, pipeline.process(frame, window)
                continue
            clip.append((frame, window))
            if len(clip) == CLIP_FRAMES:
                yield from solve_clip()
        yield from solve_clip()

    def _tracker(self, results: Results) -> Tracker:
        """A tracker that goes on with the ids of an interrupted run."""
        config, last_ns = self.config.tracking, results.last_ns
        used = max((found["id"] for record in results.records for found in record["objects"]), default=0)
        tracker = Tracker(config, next_id=used + 1)
        if last_ns is not None:
            recent = (r for r in results.read() if r["stamp_ns"] >= last_ns - round(config.hold_s * NS))
            for record in recent:
                scene = scene_from_record(record)
                if scene is not None:
                    tracker.adopt(scene, {track["id"]: track["age_s"] for track in record["tracks"]})
        return tracker

    @contextlib.contextmanager
    def _viewer(self, source: Source) -> Iterator[Viewer | None]:
        """The Rerun viewer where it is wanted; a file of it appears only when the block ends well."""
        if not (self.options.view or self.options.rrd):
            yield None
            return
        viewer = Viewer(source.name, self.options.rrd or "rerun")
        try:
            yield viewer
        except BaseException:
            viewer.close(keep=False)
            raise
        viewer.close()

    def _write_overlay(self, source: Source, results: Results, prefix: str) -> None:
        if all(record["verdict"] == "skipped" for record in results.records):
            return
        options = self.options
        with progress(f"{prefix}{source.name} overlay", _expected_frames(source, options, (1, 0))) as bar:
            written = write_overlay(source, results, options.start, options.end, bar)
        if options.html:
            write_page(results.folder / "view.html", source.name, results.records, written[-1])

    def _word_bank(self) -> Summary:
        """The word bank of the summary: the models' name, number of words, whether models.word_bank chose them.

        Empty where a pipeline made for a test has none.
        """
        anchors, models = getattr(self.pipeline, "anchors", None), self.config.models
        return {"bank": {"models": models.name, "words": len(anchors.words), "chosen": bool(models.word_bank)}} if anchors else {}


def _track_record(track: Track) -> Record:
    return {"id": track.id, "label": track.label, "state": track.state, "age_s": round(track.age_s, 3)}


def _frame_filter(every: tuple[int, int], last_ns: int | None) -> Callable[[int], bool]:
    """A function of each stamp, in order: is the frame one of ``every`` (see ``parse_step``), and after ``last_ns``?"""
    step, step_ns = every
    count, due_ns = -1, None

    def wanted(stamp_ns: int) -> bool:
        nonlocal count, due_ns
        count += 1
        if step:
            chosen = count % step == 0
        else:
            due_ns = stamp_ns if due_ns is None else due_ns
            chosen = stamp_ns >= due_ns - STEP_TOLERANCE_NS
            while chosen and due_ns <= stamp_ns + STEP_TOLERANCE_NS:
                due_ns += step_ns
        return chosen and (last_ns is None or stamp_ns > last_ns)

    return wanted


def _expected_frames(source: Source, options: SegmentOptions, every: tuple[int, int]) -> int | None:
    """Length of the progress bar; None where the file does not say how long it is."""
    if isinstance(source, StillSource):
        return len(source.stamps_s())
    length_s = min(source.duration_s, options.end) - options.start
    rate = NS / every[1] if every[1] else source.fps / every[0]
    return max(1, round(length_s * min(rate, source.fps or rate))) if source.duration_s > 0 else None


def _write_bag(path: str, source: Source, results: Results) -> None:
    """The node's messages: with the headers of a bag's images, or a file's stamps moved on (``bags.FILE_START_NS``)."""
    records: Iterator[Record] = results.read()
    with bags.BagWriter(path) as writer:
        for scene in filter(None, map(scene_from_record, records)):
            if isinstance(source, BagSource):
                writer.write(scene, source.bag.frame_ids.get(scene.stamp_ns, "camera"))
                continue
            times = ("stamp_ns", "window_start_ns", "window_end_ns")
            moved = {name: getattr(scene, name) + bags.FILE_START_NS for name in times}
            writer.write(dataclasses.replace(scene, **moved))
