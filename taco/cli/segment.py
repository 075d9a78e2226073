"""``taco segment``: masks, words and overlays of files, folders and bags."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

from taco.cli import add_config_arguments, config_from, print_json
from taco.errors import MediaError

VERDICT_WORDS = {
    "sounding": "with sounding objects",
    "no_mask": "seen and heard without an outline",
    "not_in_view": "heard but not in view",
    "unknown": "with other sounds",
    "silent": "silent",
    "skipped": "without usable sound",
}
MOST_WORDS = 4  # ours: words in the printed line; run.json has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco segment``."""
    from taco.parallel import add_executor_arguments

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = (
        (parser.description or "")
        + ".\n\n  taco segment clip.mp4\n  taco segment image.png sound.wav -o out/\n  taco segment folder/ --every 0.5s\n"
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
        help="consistency over time: with the past (default), over clips that are each solved as one problem (the "
        "paper's), or none",
    )
    parser.add_argument("--image-topic", default="", metavar="TOPIC", help="of a bag (default: found by type)")
    parser.add_argument("--audio-topic", default="", metavar="TOPIC", help="of a bag (default: found by type)")
    parser.add_argument("--bag", metavar="PATH", help="write the node's messages (objects, mask) into this new bag, mcap")
    parser.add_argument("--no-overlay", action="store_true", help="write no overlay picture and video")
    parser.add_argument(
        "--view", action="store_true", help="show frames, masks, sound and words in the Rerun viewer (pip install rerun-sdk)"
    )
    parser.add_argument("--rrd", metavar="FILE", help="save what --view would show into this file (.rrd)")
    parser.add_argument(
        "--html", action="store_true", help="write view.html, one file that any browser shows: overlay, words, scores"
    )
    parser.add_argument(
        "--coco", action="store_true", help="write coco.json: frames, words and masks as a COCO data set, for other tools"
    )
    parser.add_argument("--overwrite", action="store_true", help="process inputs again whose results are complete")
    add_executor_arguments(parser)
    add_config_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Segment every input; returns the exit status."""
    from taco.parallel import executor_from
    from taco.segment import SegmentOptions, segment_inputs

    options = SegmentOptions(**{item.name: getattr(args, item.name) for item in dataclasses.fields(SegmentOptions)})
    config = config_from(args)
    if args.temporal:
        config = config.updated({"factorization.temporal": args.temporal})
    summaries = {}
    for number, summary in segment_inputs(args.inputs, config, options, args.out, executor_from(args, config)):
        summaries[number] = summary
        if "error" in summary:
            print(f"taco: {summary['error']}", file=sys.stderr)
        elif not args.json:
            print(format_summary(summary))
    if args.json:
        ordered = [summaries[number] for number in sorted(summaries)]
        print_json(ordered if len(ordered) > 1 else ordered[0])
    failed = sum("error" in summary for summary in summaries.values())
    if failed:
        raise MediaError(f"{failed} of {len(summaries)} inputs failed; the same command tries them again")
    return 0


def format_summary(summary: Mapping[str, Any]) -> str:
    """The lines printed for an input: what was outlined, and what was heard with which word bank."""
    counts = summary["verdicts"]
    parts = [f"{counts[name]} {words}" for name, words in VERDICT_WORDS.items() if counts.get(name)]
    outlined, heard = (_format_shares(summary.get(name, {})) for name in ("words", "heard"))
    speed = f", {format_speed(summary['frames_per_s'])}" if summary.get("frames_per_s") else ""
    done = " (was done already; --overwrite does it again)" if summary.get("done_already") else ""
    found = f"{summary['frames']} frames, {', '.join(parts)}{speed}; {outlined or 'nothing outlined'}"
    line = f"{summary['name']}: {found} -> {summary['out']}{done}"
    return f"{line}\n  heard: {heard or 'nothing'}; {format_bank(**summary['bank'])}" if "bank" in summary else line


def format_speed(frames_per_s: float) -> str:
    """Frames a second, or seconds a frame where it takes longer than one."""
    return f"{frames_per_s:.1f} frames/s" if frames_per_s >= 1 else f"{1 / frames_per_s:.1f} s/frame"


def format_bank(models: str, words: int, chosen: bool) -> str:
    """Which words were listened for, and how to listen for others. chosen: by the setting models.word_bank."""
    what = f"listened for {words} word{'' if words == 1 else 's'} of the {models} models"
    if chosen:
        return f"{what} (models.word_bank; `taco words` lists what there is)"
    more = "models.word_bank takes any others" if models != "embedded" else "`taco words`; --models open takes any word"
    return f"{what} ({more})"


def _format_shares(words: Mapping[str, float]) -> str:
    return ", ".join(f"{word} {share:.0%}" for word, share in list(words.items())[:MOST_WORDS])
