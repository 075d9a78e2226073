"""Overlay pictures and videos of finished results."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taco.clock import NS
from taco.io import files
from taco.io.results import Results, scene_from_record
from taco.io.sources import Source, StillSource
from taco.io.video_writer import VideoWriter
from taco.types import SoundingScene
from taco.view import draw

if TYPE_CHECKING:
    from tqdm import tqdm

STILL_FPS = 10


def write_overlay(source: Source, results: Results, start_s: float, end_s: float, bar: tqdm[Any] | None = None) -> list[Path]:
    """``overlay.mp4`` with the sound, and for a picture ``overlay.png`` of its surest window; the paths written.

    Every frame of the source from ``start_s`` to ``end_s`` is shown; one that was not looked at shows what was found last.
    bar: updated after each frame.
    """
    written = []
    if isinstance(source, StillSource):
        used = [record for record in results.records if record["verdict"] != "skipped"]
        best = max(used, key=lambda record: (len(record["objects"]) > 0, record.get("sounding_score", 0.0)))
        found = scene_from_record(next(record for record in results.read() if record["frame"] == best["frame"]))
        assert found is not None  # as it was not skipped
        written.append(results.folder / "overlay.png")
        save_image(written[-1], draw.overlay(source.rgb, found))
        if len(results.records) == 1:
            return written
    scenes = filter(None, map(scene_from_record, results.read()))
    shown = _still_frames(source, scenes) if isinstance(source, StillSource) else _video_frames(source, scenes, start_s, end_s)
    written.append(results.folder / "overlay.mp4")
    sound = source.sound(start_s)
    fps = max(1.0, source.fps)
    with VideoWriter(written[-1], fps=fps, sample_rate=source.sample_rate, channels=source.channels) as writer:
        pending, first_ns, end_ns = None, None, 0
        for picture, stamp_ns in shown:
            writer.write(picture, stamp_ns)
            first_ns = stamp_ns if first_ns is None else first_ns
            end_ns = stamp_ns
            while pending is None or pending.stamp_ns <= stamp_ns:
                if pending is not None and pending.end_ns > first_ns:
                    writer.write_audio(pending)
                pending = next(sound, None)
                if pending is None:
                    sound = iter(())
                    break
            if bar is not None:
                bar.update()
        if pending is not None and pending.stamp_ns <= end_ns + NS // 10:
            writer.write_audio(pending)
    return written


def save_image(path: Path, rgb: np.ndarray) -> None:
    """Write a picture whole or not at all."""
    from PIL import Image

    with files.atomic(path) as part:
        Image.fromarray(rgb).save(part)


def _video_frames(
    source: Source, scenes: Iterator[SoundingScene], start_s: float, end_s: float
) -> Iterator[tuple[np.ndarray, int]]:
    """Every frame with the newest scene that is not after it; one scene is in memory at a time."""
    scene, later = None, next(scenes, None)
    for frame in source.frames(start_s, end_s):
        while later is not None and later.stamp_ns <= frame.stamp_ns:
            scene, later = later, next(scenes, None)
        picture = draw.overlay(frame.rgb, scene) if scene is not None and tuple(scene.size) == frame.size else frame.rgb
        yield picture, frame.stamp_ns


def _still_frames(source: StillSource, scenes: Iterator[SoundingScene]) -> Iterator[tuple[np.ndarray, int]]:
    """The picture during each window of the sound, with what was found in that window."""
    step_ns = NS // STILL_FPS
    tick_ns = None
    for scene in scenes:
        picture = draw.overlay(source.rgb, scene)
        tick_ns = scene.window_start_ns if tick_ns is None else tick_ns
        while tick_ns < scene.stamp_ns:
            yield picture, tick_ns
            tick_ns += step_ns
