"""``taco explain``: one figure that shows why something was outlined, or was not."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from taco.clock import NS
from taco.errors import MediaError

if TYPE_CHECKING:
    from taco.config import TacoConfig
    from taco.io.sources import Source
    from taco.pipeline import TacoPipeline
    from taco.types import VideoFrame
    from taco.view.figure import Explanation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco explain``."""
    from taco.cli import add_config_arguments

    parser.add_argument(
        "inputs", nargs="+", metavar="INPUT", help="a video, a picture and a sound, or a bag, as for `taco segment`"
    )
    parser.add_argument("--at", type=float, default=0.0, metavar="S", help="second of the frame (default 0)")
    parser.add_argument(
        "--lead", type=float, default=0.0, metavar="S", help="run this much before it, as a stream would have (default 0)"
    )
    parser.add_argument("-o", "--out", metavar="PNG", help="the figure (default: the input's name, the second and _why.png)")
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="of a bag; found by type when left out")
    parser.add_argument("--audio-topic", default="", metavar="TOPIC", help="of a bag; found by type when left out")
    add_config_arguments(parser)


def make_pipeline(config: TacoConfig) -> TacoPipeline:
    """The pipeline of the command; a seam for tests."""
    from taco.pipeline import TacoPipeline

    return TacoPipeline(config)


def run(args: argparse.Namespace) -> int:
    """Draw the figure; returns the exit status."""
    from taco.cli import config_from, print_json
    from taco.io.files import AudioFeed
    from taco.io.sources import StillSource, open_sources
    from taco.view.draw import sentence
    from taco.view.figure import explain, figure
    from taco.view.overlays import save_image

    config = config_from(args)
    topics = {"image_topic": args.image_topic, "audio_topic": args.audio_topic}
    sources = open_sources(args.inputs, window_s=config.audio.window_s, audio=config.audio, **topics)
    if len(sources) != 1:
        raise MediaError(f"wanted one input to explain, got {len(sources)}")
    (source,) = sources
    frame = frame_at(source, args.at)
    pipeline = make_pipeline(config)
    audio = source.window_settings(config.audio)
    lead_s = max(0.0, args.lead)
    feed = AudioFeed(source.sound(args.at - lead_s - 2 * audio.window_s), audio)
    if lead_s and not isinstance(source, StillSource):
        for earlier in source.frames(max(0.0, args.at - lead_s), args.at, lambda stamp_ns: stamp_ns < frame.stamp_ns):
            pipeline.process(earlier, feed.window(earlier.stamp_ns))
    explanation = explain(pipeline, frame, feed.window(frame.stamp_ns))
    out = Path(args.out or f"{source.name}_{args.at:.2f}s_why.png")
    save_image(out, figure(explanation, f"{source.name} at {args.at:.2f} s"))
    values = as_dict(explanation, out)
    if args.json:
        print_json(values)
    else:
        found = f"{', '.join(values['labels'])}; " if values["labels"] else ""
        print(f"{source.name} at {args.at:.2f} s: {found}{sentence(explanation.scene)} -> {out}")
    return 0


def frame_at(source: Source, at_s: float) -> VideoFrame:
    """What is on the screen at this second; for a picture, its window of sound that holds it."""
    from taco.io.sources import StillSource

    out_of_range = f"{source.inputs[0]}: wanted --at from 0 to {source.duration_s:.1f} s, got {at_s:g}"
    if at_s < 0:
        raise MediaError(out_of_range)
    if isinstance(source, StillSource):
        frame = next((f for f in source.frames() if f.stamp_ns >= at_s * NS), None)
    else:
        frame = None
        for newer in source.frames(max(0.0, at_s - 2.0), at_s + 1e-6):
            frame = newer
        if frame is None:
            frame = next(source.frames(at_s, at_s + 2.0), None)
        if source.duration_s and at_s > source.duration_s:
            frame = None
    if frame is None:
        raise MediaError(out_of_range)
    return frame


def as_dict(explanation: Explanation, out: Path) -> dict[str, Any]:
    """The figure's content as plain values."""
    scene = explanation.scene
    factors = [
        {"seen": view.seen_words, "heard": view.heard_words, "penalty": round(view.penalty, 4)} for view in explanation.factors
    ]
    return {
        "figure": str(out),
        "time_s": scene.stamp_ns / NS,
        "verdict": scene.verdict,
        "heard": [list(pair) for pair in scene.heard],
        "level_dbfs": scene.level_dbfs,
        "sounding_score": scene.sounding_score,
        "labels": [item.label for item in scene.objects],
        "sounding_factor": explanation.sounding,
        "named_factor": explanation.named,
        "factors": factors,
    }
