"""Whether images are answered: for how long one camera's have not been, and the leading reason."""

from __future__ import annotations

import textwrap
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

WARN_AFTER_S = 1.0  # ours: a robot that acts on what it hears should know within a second that it hears nothing
ARRIVING_S = 5.0  # ours: images count as arriving for this long after the last one; then "no image" is the warning
LINE_WIDTH = 160  # ours: of a reason's own words
SOUND_FAULTS = ("gaps", "overlaps", "strays", "jumps", "rate_changes", "nonfinite")  # of the ring


@dataclass(slots=True)
class _Camera:
    """since: of the first image after the last answer, None before it. counts: as they were at the last answer."""

    last_image: float
    since: float | None = None
    images: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """A camera whose images get no answer.

    camera: its name, "" for a single one.
    quiet_s: for how long.
    reason: in one line.
    """

    camera: str
    quiet_s: float
    reason: str


class Answers:
    """Images and answers of every camera; thread-safe. clock: s, must never jump.

    Unlike rates it outlives a reset: a time line that starts over every second is a reason too.
    """

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._cameras: dict[str, _Camera] = {}
        self._lines: dict[str, str] = {}

    def start(self) -> None:
        """Nobody is owed an answer yet: the node became active, or is paused."""
        with self._lock:
            self._cameras.clear()

    def image(self, camera: str) -> None:
        """An image came."""
        now = self._clock()
        with self._lock:
            entry = self._cameras.setdefault(camera, _Camera(now))
            entry.last_image = now
            entry.since = now if entry.since is None else entry.since
            entry.images += 1

    def answered(self, camera: str, counts: Mapping[str, int]) -> None:
        """A result went out. counts: all counters now, as ``all_counts`` gives them."""
        with self._lock:
            entry = self._cameras.setdefault(camera, _Camera(self._clock()))
            entry.since, entry.images, entry.counts = None, 0, counts

    def tell(self, reason: str, line: str) -> None:
        """Keep the newest words of a reason; how often it happened is in the counters."""
        with self._lock:
            self._lines[reason] = line

    def unanswered(self, counts: Mapping[str, int], in_work_s: float, grace_s: float = 0.0) -> Unanswered | None:
        """The camera that has waited longest, where that is over ``WARN_AFTER_S + grace_s``; None where all is well.

        counts: as ``all_counts`` gives them. in_work_s: for how long the models have worked on the present images, 0 while idle.
        """
        now = self._clock()
        with self._lock:
            waiting = {
                name: now - entry.since
                for name, entry in self._cameras.items()
                if entry.since is not None and now - entry.last_image <= ARRIVING_S
            }
            if not waiting or max(waiting.values()) <= WARN_AFTER_S + grace_s:
                return None
            camera = max(waiting, key=lambda name: waiting[name])
            return Unanswered(camera, waiting[camera], self._reason(self._cameras[camera], counts, in_work_s))

    def _reason(self, entry: _Camera, counts: Mapping[str, int], in_work_s: float) -> str:
        if in_work_s > WARN_AFTER_S:
            return f"the models have worked on one image for {in_work_s:.1f} s"
        risen = {name: count - entry.counts.get(name, 0) for name, count in counts.items()}
        reason = max((name for name in risen if name in self._lines), key=lambda name: risen[name], default="")
        if not risen.get(reason):
            return f"{entry.images} images came, none was taken"
        line = textwrap.shorten(self._lines[reason], LINE_WIDTH, placeholder=" ...")
        fault = max((f"sound.{name}" for name in SOUND_FAULTS), key=lambda name: risen.get(name, 0))
        behind = f" ({risen[fault]} {fault.removeprefix('sound.')} in the sound)" if risen.get(fault) else ""
        return f"{reason}, {risen[reason]} times: {line}{behind}"


def all_counts(statistics, audio) -> dict[str, int]:
    """All counters of a node, those of the ring of sound with ``sound.`` before them."""
    return {**statistics.counts(), **{f"sound.{name}": count for name, count in audio.counts.items()}}
