"""``taco segment``: masks, words and an overlay video of files, folders and bags, through the live node's own line."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import sys
import time
from pathlib import Path

from taco import __version__
from taco.cli.segment_summary import bank_of, summarise, told
from taco.errors import AudioGapError, ConfigError, MediaError, MissingPackageError

HELP = "outline what is heard in videos, pictures with a sound, folders and ROS 2 bags"
NS = 1_000_000_000
CLIP_FRAMES = 50  # that --temporal joint solves as one problem: all their features are in memory at once
FORMAT = 2  # of the lines in objects.jsonl: results of another one are made again


def add_arguments(parser) -> None:
    """Arguments of ``taco segment``."""
    from taco.cli import add_config_arguments
    from taco.parallel import add_engine_arguments

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        HELP + ".\n\n  taco segment clip.mp4\n  taco segment image.png sound.wav -o out/\n  taco segment folder/ --every 0.5s\n"
        "  taco segment recording.mcap --bag found\n\n"
        "Writes objects.jsonl (a line a frame), masks/*.png (pixel value i + 1: object i of the line) and an overlay.\n"
        "A run that was interrupted goes on where it stopped when the same command is given again."
    )
    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="video, picture, folder or bag; a sound file goes with the one before it"
    )
    parser.add_argument("-o", "--out", metavar="DIR", help="folder of the results (default: the input's name and _taco)")
    parser.add_argument("--every", metavar="N|Ts", default="1", help="every N-th frame, or one every T seconds (0.5s)")
    parser.add_argument("--start", type=float, default=0.0, metavar="S", help="begin at this second")
    parser.add_argument("--end", type=float, default=float("inf"), metavar="S", help="stop before this second")
    parser.add_argument(
        "--fps", type=float, default=10.0, help="rate of a folder of pictures that is given with a sound (default 10)"
    )
    parser.add_argument(
        "--temporal",
        choices=("causal", "joint", "none"),
        help=f"consistency over time: with the past (default), over clips of {CLIP_FRAMES} frames that are solved as one problem "
        "(the paper's), or none",
    )
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="of a bag; found by type when left out")
    parser.add_argument("--audio-topic", default="", metavar="TOPIC", help="of a bag; found by type when left out")
    parser.add_argument("--bag", metavar="PATH", help="write the node's messages (objects, mask) into this new bag, mcap")
    parser.add_argument("--no-overlay", action="store_true", help="write no overlay picture and video")
    parser.add_argument(
        "--view", action="store_true", help="show frames, masks, sound and words in the Rerun viewer (pip install rerun-sdk)"
    )
    parser.add_argument("--rrd", metavar="FILE", help="save what --view would show into this file (.rrd)")
    parser.add_argument(
        "--html", action="store_true", help="write view.html, one file that any browser shows: overlay, words, scores"
    )
    parser.add_argument("--overwrite", action="store_true", help="do it again although the results are there")
    add_engine_arguments(parser)
    add_config_arguments(parser)


def make_pipeline(config):
    """The pipeline of the command; a seam for tests."""
    from taco.pipeline import TacoPipeline

    return TacoPipeline(config)


def run(args) -> int:
    """Segment every input; returns the exit status."""
    from taco.cli import config_from, print_json
    from taco.io.sources import open_sources
    from taco.parallel import engine_from

    every = parse_every(args.every)
    if not args.end > args.start >= 0:
        raise ConfigError(f"--start, --end: wanted 0 <= start < end, got {args.start:g} and {args.end:g}")
    if not 0 < args.fps <= 1000:
        raise ConfigError(f"--fps: wanted 0 to 1000 frames a second, got {args.fps:g}")
    config = config_from(args)
    if args.temporal:
        config = config.updated({"factorization.temporal": args.temporal})
    engine = engine_from(args, config)
    if engine.name == "ray":  # the other processes may run in another folder
        args.inputs = [str(Path(path).absolute()) for path in args.inputs]
    topics = {"image_topic": args.image_topic, "audio_topic": args.audio_topic}
    sources = open_sources(args.inputs, window_s=config.audio.window_s, fps=args.fps, audio=config.audio, **topics)
    for option in ("bag", "rrd"):
        if getattr(args, option) and len(sources) > 1:
            raise ConfigError(f"--{option}: wanted one input, got {len(sources)}")
    if args.html and args.no_overlay:
        raise ConfigError("--html: wanted the overlay, which --no-overlay leaves out")
    if args.rrd and not args.rrd.endswith(".rrd"):
        raise ConfigError(f"--rrd: wanted a name that ends in .rrd, got {args.rrd}")
    if args.view or args.rrd:
        from taco.view.rerun_view import rerun_sdk

        try:
            rerun_sdk()
        except MissingPackageError as error:
            raise MissingPackageError(f"{error}; or use --html, which needs only a browser") from None
    if args.bag and Path(args.bag).exists():
        raise MediaError(f"cannot write {args.bag}: it exists; remove it or choose another name")
    out = Path(args.out or f"{sources[0].name}_taco") if len(sources) == 1 else Path(args.out or "segmented")
    jobs = []
    for number, source in enumerate(sources, 1):
        folder = out if len(sources) == 1 else out / source.name
        folder = folder.absolute() if engine.name == "ray" else folder
        jobs.append((number, source, folder, f"[{number}/{len(sources)}] " if len(sources) > 1 else ""))
    found = {}
    for job, summary in engine.map(_Maker(args, config, every, _threads() if engine.name == "ray" else 0), jobs):
        found[job[0]] = summary
        if "error" in summary:
            print(f"taco: {summary['error']}", file=sys.stderr)
        elif not args.json:
            print(told(summary))
    summaries = [found[number] for number, *_ in jobs]
    if args.json:
        print_json(summaries if len(summaries) > 1 else summaries[0])
    failed = [summary for summary in summaries if "error" in summary]
    if failed:
        raise MediaError(f"{len(failed)} of {len(summaries)} inputs failed; the same command tries them again")
    return 0


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def parse_every(text: str) -> tuple[int, int]:
    """``--every`` as (frames, nanoseconds); one of them is 0."""
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


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Builds a worker for one process; can be sent to another, to compute with as many threads, 0 for torch's own choice."""

    args: argparse.Namespace
    config: object
    every: tuple[int, int]
    threads: int

    def __call__(self):
        if self.threads:
            import torch

            torch.set_num_threads(self.threads)
        work = _Work(self.args, self.config, self.every)

        def segment(job) -> dict:
            _, source, folder, prefix = job
            try:
                return work.segment(source, folder, prefix)
            except MediaError as error:
                if not prefix:  # the only input
                    raise
                return {"name": source.name, "out": str(folder), "error": str(error)}

        return segment


class _Work:
    """One run of the command: the pipeline is loaded once, when the first input needs it."""

    def __init__(self, args, config, every: tuple[int, int]):
        self.args, self.config, self.every, self.pipeline = args, config, every, None

    def segment(self, source, folder: Path, prefix: str) -> dict:
        """Masks, lines and overlay of one source; a summary of it."""
        from taco.io.results import Results

        results = Results(folder, self._fingerprint(source))
        if results.done and not self.args.overwrite:
            return {**_summary_of(folder), "done_already": True}
        with results:
            started, before = time.perf_counter(), results.resumed
            try:
                self._process(source, results, prefix)
            except KeyboardInterrupt:
                print(f"\nstopped after {len(results.records)} frames; the same command goes on from there", file=sys.stderr)
                raise
            if not results.records:
                raise MediaError(f"{source.inputs[0]}: no frame between --start {self.args.start:g} and --end {self.args.end:g}")
            seconds = time.perf_counter() - started
            if not self.args.no_overlay:
                self._overlay(source, results, prefix)
            if self.args.bag:
                self._write_bag(source, results)
            summary = summarise(source.name, results.records, folder)
            summary |= self._bank()
            summary["frames_per_s"] = round((len(results.records) - before) / seconds, 2) if seconds > 0 else 0.0
            summary["resumed_after"] = before
            results.finish(summary)
        return summary

    def _process(self, source, results, prefix: str) -> None:
        from tqdm import tqdm

        from taco.io.files import AudioFeed
        from taco.view.draw import told_words

        if self.pipeline is None:
            self.pipeline = make_pipeline(self.config)
        self.pipeline.reset()
        tracker = self._tracker(results)
        audio = self.config.audio
        if source.still:
            audio = dataclasses.replace(audio, window_s=max(0.1, source.window_s), alignment="trailing")
        last_ns = results.last_ns
        reached_s = self.args.start if last_ns is None else max(self.args.start, last_ns / NS - getattr(source, "origin_s", 0.0))
        feed = AudioFeed(source.sound(reached_s - 2 * audio.window_s), audio)
        wanted = self._selection(last_ns)
        viewer = self._viewer(source)
        total = _expected(source, self.args, self.every)
        bar = tqdm(total=total, initial=results.resumed, unit="frame", desc=f"{prefix}{source.name}", disable=None, leave=False)
        with bar, _closing(viewer):
            for frame, scene in self._scenes(source.frames(self.args.start, self.args.end, wanted), feed):
                if isinstance(scene, AudioGapError):
                    results.add_record({**_skipped(frame, len(results.records), scene)})
                    bar.update()
                    continue
                scene = tracker.update(scene)
                results.add(scene, tracker.tracks)
                if viewer:
                    viewer.log(frame.rgb, scene)
                said = ", ".join(thing.label for thing in scene.objects) or told_words(scene.heard, 1) or scene.verdict
                bar.set_postfix_str(said[:30], refresh=False)
                bar.update()

    def _scenes(self, frames, feed):
        """(frame, its scene, or the AudioGapError that says why it has no sound), in order; joint: clip by clip."""
        joint, clip = self.config.factorization.temporal == "joint", []

        def solved():
            scenes = self.pipeline.process_clip(*zip(*clip)) if clip else ()
            yield from zip([frame for frame, _ in clip], scenes)
            clip.clear()

        for frame in frames:
            try:
                window = feed.window(frame.stamp_ns)
            except AudioGapError as error:
                yield from solved()
                yield frame, error
                continue
            if not joint:
                yield frame, self.pipeline.process(frame, window)
                continue
            clip.append((frame, window))
            if len(clip) == CLIP_FRAMES:
                yield from solved()
        yield from solved()

    def _tracker(self, results):
        """A tracker that goes on with the ids of an interrupted run."""
        from taco.io.results import scene_of
        from taco.tracking import Tracker

        config = self.config.tracking
        used = max((thing["id"] for record in results.records for thing in record["objects"]), default=0)
        tracker = Tracker(config, next_id=used + 1)
        if results.resumed:
            recent_ns = results.last_ns - round(config.hold_s * NS)
            for record in results.read():
                if record["stamp_ns"] >= recent_ns and record["verdict"] != "skipped":
                    tracker.adopt(scene_of(record), {track["id"]: track["age_s"] for track in record["tracks"]})
        return tracker

    def _overlay(self, source, results, prefix: str) -> None:
        from tqdm import tqdm

        from taco.view.overlays import write_overlay

        if all(record["verdict"] == "skipped" for record in results.records):
            return
        total = _expected(source, self.args, (1, 0))
        with tqdm(total=total, unit="frame", desc=f"{prefix}{source.name} overlay", disable=None, leave=False) as bar:
            written = write_overlay(source, results, self.args.start, self.args.end, bar)
        if self.args.html:
            from taco.view.html import write_page

            write_page(results.folder / "view.html", source.name, results.records, written[-1])

    def _selection(self, last_ns: int | None):
        """Told every stamp once: is it one of ``--every``, and not done yet?"""
        count, (step, step_ns) = -1, self.every
        due_ns = None

        def wanted(stamp_ns: int) -> bool:
            nonlocal count, due_ns
            count += 1
            if step:
                chosen = count % step == 0
            else:
                due_ns = stamp_ns if due_ns is None else due_ns
                chosen = stamp_ns >= due_ns - 1_000_000
                while chosen and due_ns <= stamp_ns + 1_000_000:
                    due_ns += step_ns
            return chosen and (last_ns is None or stamp_ns > last_ns)

        return wanted

    def _viewer(self, source):
        if not (self.args.view or self.args.rrd):
            return None
        from taco.view.rerun_view import Viewer

        return Viewer(source.name, self.args.rrd or "rerun")

    def _write_bag(self, source, results) -> None:
        import dataclasses

        from taco.io import bags
        from taco.io.results import scene_of

        ids = getattr(getattr(source, "bag", None), "frame_ids", None)
        with bags.BagWriter(self.args.bag) as writer:
            for scene in filter(None, map(scene_of, results.read())):
                if ids is not None:
                    writer.write(scene, ids.get(scene.stamp_ns, "camera"))
                    continue
                moved = {
                    name: getattr(scene, name) + bags.FILE_START_NS for name in ("stamp_ns", "window_start_ns", "window_end_ns")
                }
                writer.write(dataclasses.replace(scene, **moved))

    def _bank(self) -> dict:
        """What was listened for; nothing where a given pipeline has no bank of words."""
        anchors, models = getattr(self.pipeline, "anchors", None), self.config.models
        return {"bank": bank_of(models.name, len(anchors.words), bool(models.word_bank))} if anchors else {}

    def _fingerprint(self, source) -> dict:
        files = []
        for path in source.inputs:
            state = path.stat()
            files.append([str(path.resolve()), state.st_size, state.st_mtime_ns])
        picked = ("every", "start", "end", "fps", "image_topic", "audio_topic", "no_overlay", "bag", "html", "rrd")
        return {
            "version": __version__,
            "format": FORMAT,
            "inputs": files,
            "config": self.config.to_dict(),
            **{name: str(getattr(self.args, name)) for name in picked},
        }


@contextlib.contextmanager
def _closing(viewer):
    """End the viewer's recording with the block; a file of it appears only when the block ended well."""
    try:
        yield
    except BaseException:
        if viewer:
            viewer.close(keep=False)
        raise
    if viewer:
        viewer.close()


def _skipped(frame, index: int, error) -> dict:
    from taco.io.results import skipped

    return {**skipped(frame.stamp_ns, index, str(error)), "size": list(frame.size)}


def _summary_of(folder: Path) -> dict:
    import json

    return json.loads((folder / "run.json").read_text())["summary"]


def _expected(source, args, every) -> int | None:
    """Frames to come, for the progress bar; None where the file does not tell its length."""
    if source.still:
        return len(source.stamps_s())
    length_s = min(source.duration_s, args.end) - args.start
    rate = 1e9 / every[1] if every[1] else source.fps / every[0]
    return max(1, round(length_s * min(rate, source.fps or rate))) if source.duration_s > 0 else None
