"""Rates, percentiles and drops by reason, and their messages on ``/diagnostics``."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter, defaultdict, deque
from statistics import median
from typing import TYPE_CHECKING

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from taco.clock import NS
from taco_ros.answers import Unanswered, all_counts

if TYPE_CHECKING:
    from taco.types import SoundingScene

OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR
SKEW_WARNING_S = 0.2  # ours: a difference of the camera's and the sound's delays that spoils the pairing
HEARD_WORDS = 3  # ours: words of the newest image that are reported
WINDOW_S = 10.0  # ours: rates and percentiles cover the last seconds
SAMPLES_KEPT = 4000  # ours: more than a window holds at 100 chunks and 60 images a second
START_S = 5.0  # ours: for so long after activation the sound may still be gathering
LOG_EVERY_S = 5.0  # ours: the same warning is logged at most this often
STATUS_LOG_EVERY_S = 30.0  # ours: ... and one that /diagnostics repeats every second
DROPS = (
    "replaced",
    "out_of_order",
    "too_old",
    "paused",
    "image_stamp",
    "image_size",
    "image_encoding",
    "image_data",
    "no_audio",
    "audio_gap",
    "audio_too_old",
    "audio_not_yet",
    "failed",
)
UNPLACED = ("no_camera_info", "camera_info", "depth", "depth_stamp", "depth_encoding", "depth_size", "scan", "scan_stamp")
UNPLACED += ("tf_missing", "tf_old", "tf_package", "direction", "direction_stamp")
BAD_SOUND = ("audio_stamp", "audio_format", "audio_size", "audio_type")


def status(name: str, level: bytes, message: str, values: dict) -> DiagnosticStatus:
    """One DiagnosticStatus; values are turned into text."""
    return DiagnosticStatus(name=name, level=level, message=message, hardware_id="taco_ros", values=_pairs(values))


def _pairs(values: dict) -> list[KeyValue]:
    return [KeyValue(key=key, value=_text(value)) for key, value in values.items()]


def _text(value) -> str:
    if value is None:
        return "unknown"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def skew_s(statistics: Statistics) -> float | None:
    """How much longer images take to arrive than sound, in s: the difference of the median delays.

    Delays are taken between the stamp (of the sound: of its last sample) and the arrival on the node's clock.
    """
    images, sounds = statistics.values("image_delay_s"), statistics.values("audio_delay_s")
    return median(images) - median(sounds) if images and sounds else None


def memory_mb() -> float:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def gpu_memory_mb() -> float | None:
    """GPU memory taken by the models; None without a GPU in use."""
    torch = sys.modules.get("torch")  # only if the models have imported it
    return torch.cuda.memory_allocated() / 1e6 if torch and torch.cuda.is_initialized() else None


def input_status(name: str, what: str, source, statistics: Statistics, active: bool, limit_s: float, waited_s: float, hint):
    """Status of a camera or of the sound: a warning where nothing has arrived for ``limit_s``.

    what: name of its samples in ``statistics``. source: an input with ``topic`` and ``publishers``. active: whether it
    should be subscribed, since ``waited_s``. hint: what to do, added to the warning.
    """
    values = {"topic": source.topic, "publishers": source.publishers, "rate_hz": statistics.rate(what)}
    values["strangers"] = source.strangers
    if not active:
        return status(name, OK, "not subscribed", values)
    quiet_s = statistics.silence_s(what)
    quiet_s = waited_s if quiet_s is None else min(quiet_s, waited_s)
    if quiet_s < limit_s and source.rivals:
        return status(name, WARN, source.rivals, values)
    if quiet_s < limit_s:
        return status(name, OK, f"{values['rate_hz']:.1f} Hz", values)
    line = f"no {what.split('.')[0]} on {source.topic} for {quiet_s:.0f} s (publishers: {values['publishers']})"
    return status(name, WARN, line + (f"; {hint}" if hint else ""), values)


# How a frame's factorization started: from the frame before, or cold and why (``Factorization.restart``).
STARTS = ("warm", "cold", "cut", "sound", "shape", "silence", "blank")


def stream_status(
    name: str,
    statistics: Statistics,
    state: str,
    newest: SoundingScene | None = None,
    in_work_age_s: float | None = None,
    unanswered: Unanswered | None = None,
    error_s: float = 5.0,
) -> DiagnosticStatus:
    """Status of the processing: rates, ages, verdicts, the newest scene's words, drops by reason, skew, times of the stages.

    in_work_age_s: age of the image in work, None while there is none. unanswered: a camera whose images get no answer: a
    warning, after ``error_s`` an error.
    """
    from taco.types import VERDICTS  # imports torch, which the microphone node does not need

    counts = statistics.counts()
    skew = skew_s(statistics)
    values = {
        "state": state,
        "rate_hz": statistics.rate("processed"),
        "age_p50_s": statistics.percentile("age_s", 0.5),
        "age_p95_s": statistics.percentile("age_s", 0.95),
        "in_work_age_s": in_work_age_s,
        "skew_s": skew,
        "iterations": statistics.percentile("iterations", 0.5),
        "time_jumps": counts.get("time_jumps", 0),
    }
    values |= {f"verdict.{verdict}": counts.get(verdict, 0) for verdict in VERDICTS}
    heard = newest.heard[:HEARD_WORDS] if newest else ()
    values["verdict"] = newest.verdict if newest else None
    values["heard"] = ", ".join(f"{word} {score:.2f}" for word, score in heard) or ("nothing" if newest else None)
    values |= {f"dropped.{reason}": counts.get(reason, 0) for reason in DROPS}
    values |= {f"targets.{reason}": counts[reason] for reason in UNPLACED if reason in counts}
    stages = ("convert", "image", "sound", "factorize", "name", "segment", "publish")
    values |= {f"{stage}_ms": statistics.percentile(f"stage.{stage}", 0.5) for stage in stages}
    values |= {f"start.{start}": counts.get(f"start.{start}", 0) for start in STARTS}
    for what, unit in (("factorize", "_ms"), ("loss", "")):  # what the warm start saves, and that it costs nothing
        values[f"warm.{what}{unit}"] = statistics.percentile(f"warm.{what}", 0.5)
        values[f"cold.{what}{unit}"] = statistics.newest(f"cold.{what}")
    lines = []
    if unanswered is not None:
        camera = f"camera {unanswered.camera}: " if unanswered.camera else ""
        lines.append(f"{camera}no answer for {unanswered.quiet_s:.1f} s while images arrive; {unanswered.reason}")
    if skew is not None and abs(skew) > SKEW_WARNING_S:
        lines.append(f"the stamps of camera and sound differ by {skew:.2f} s; next: set audio.offset_s to {-skew:.2f}")
    level = ERROR if unanswered is not None and unanswered.quiet_s >= error_s else WARN if lines else OK
    return status(name, level, "; ".join(lines) or state, values)


def sound_values(audio, statistics: Statistics) -> dict:
    """Key values of the ring: samples, gaps, overlaps and messages that could not be used."""
    counts = statistics.counts()
    return {
        "sample_rate_hz": audio.sample_rate,
        **{key: audio.counts.get(key, 0) for key in ("chunks", "samples", "gaps", "late", "bridged")},
        **{key: audio.counts.get(key, 0) for key in ("overlaps", "strays", "jumps", "rate_changes", "nonfinite", "clipped")},
        **{f"refused.{reason}": counts.get(reason, 0) for reason in BAD_SOUND},
    }


class DiagnosticsPublisher:
    """``/diagnostics`` of a TacoNode: its cameras, sound, stream and models."""

    def __init__(self, node):
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def publish(self) -> None:
        """Send the present state; new warnings are logged too."""
        stamp, statuses = self._node.get_clock().now().to_msg(), list(self._statuses())
        for item in statuses:
            if item.level != OK and self._node.statistics.may_log(item.name, STATUS_LOG_EVERY_S):
                self._node.get_logger().warning(item.message)
        self._publisher.publish(diagnostic_array(stamp, statuses))

    def _statuses(self):
        node, live = self._node, self._node.live
        name, statistics = node.get_fully_qualified_name(), node.statistics
        limit_s, waited_s = node.config.node.no_image_warning_s, node.active_s()
        images, sound = list(node.images), node.sound
        for image in images:
            what = f"image.{image.camera}" if image.camera else "image"
            hint = image.hint() if image.active and waited_s > limit_s else ""
            yield input_status(f"{name}: {what}", what, image, statistics, image.active, limit_s, waited_s, hint)
        if sound is not None:
            listening = any(image.active for image in images)
            entry = input_status(f"{name}: sound", "sound", sound, statistics, listening, limit_s, waited_s, sound.hint())
            entry.values += _pairs(sound_values(node.audio, statistics))
            yield entry
        statistics.set("replaced", node.worker.mailbox.replaced)
        state = "paused" if node.paused else node.state
        newest = live.newest if live is not None else None
        yield stream_status(f"{name}: stream", statistics, state, newest, *self._work(), limit_s)
        values = {"memory_mb": memory_mb(), "device": node.config.models.device}
        if live is not None and live.pipelines:
            values |= {"models": live.models, "words": len(live.words), "device": live.device, "gpu_memory_mb": gpu_memory_mb()}
        yield status(f"{name}: models", OK, "loaded" if live else "not loaded", values)

    def _work(self) -> tuple[float | None, Unanswered | None]:
        """Age of the image in work in s, and the camera whose images get no answer."""
        node, work = self._node, self._node.worker.work
        oldest_ns = min((image.stamp_ns for image in work.images), default=None) if work else None
        age_s = (node.now_ns() - oldest_ns) / NS if oldest_ns is not None else None
        if not node.active_s() or node.paused:
            return age_s, None
        # The window of sound must fill first, and a chosen rate is not a fault.
        grace_s = max(2 * node.worker.interval_s, node.config.audio.window_s if node.active_s() < START_S else 0.0)
        counts = all_counts(node.statistics, node.audio)
        return age_s, node.answers.unanswered(counts, work.lasted_s if oldest_ns is not None else 0.0, grace_s)


def diagnostic_array(stamp, statuses) -> DiagnosticArray:
    """The message. stamp: the present, as diagnostics describe the node and not an image."""
    out = DiagnosticArray(status=list(statuses))
    out.header.stamp = stamp
    return out


class Statistics:
    """Counters since the start, and samples of the last ``WINDOW_S`` seconds; thread-safe. clock: s, must never jump."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._samples: dict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=SAMPLES_KEPT))
        self._logged: dict[str, float] = {}
        self._newest: dict[str, float] = {}

    def count(self, name: str, amount: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name] += amount

    def set(self, name: str, value: int) -> None:
        """Take over a counter that is kept elsewhere."""
        with self._lock:
            self._counts[name] = value

    def counts(self) -> dict[str, int]:
        """All counters."""
        with self._lock:
            return dict(self._counts)

    def note(self, name: str, value: float) -> None:
        """Keep the newest value of what happens too seldom for samples."""
        with self._lock:
            self._newest[name] = value

    def newest(self, name: str) -> float | None:
        """The newest value noted; None before the first."""
        with self._lock:
            return self._newest.get(name)

    def sample(self, name: str, value: float = 0.0) -> None:
        """Note a value, or just that something happened now."""
        now = self._clock()
        with self._lock:
            entries = self._samples[name]
            entries.append((now, value))
            while entries[0][0] < now - WINDOW_S:  # the memory stays that of one window
                entries.popleft()

    def _recent(self, name: str) -> list[tuple[float, float]]:
        since = self._clock() - WINDOW_S
        with self._lock:
            return [entry for entry in self._samples.get(name, ()) if entry[0] >= since]

    def values(self, name: str) -> list[float]:
        """The values noted within the window."""
        return [value for _, value in self._recent(name)]

    def rate(self, name: str) -> float:
        """Events a second within the window; 0 where there were fewer than two."""
        times = [at for at, _ in self._recent(name)]
        return (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0

    def percentile(self, name: str, share: float) -> float | None:
        """The value below which ``share`` in [0, 1] of the window's values lie; None without any."""
        values = sorted(self.values(name))
        return values[min(len(values) - 1, int(share * len(values)))] if values else None

    def silence_s(self, name: str) -> float | None:
        """Seconds since the last event; None before the first."""
        with self._lock:
            entries = self._samples.get(name)
            return self._clock() - entries[-1][0] if entries else None

    def may_log(self, what: str, every_s: float = LOG_EVERY_S) -> bool:
        """Whether this was not logged within the last ``every_s``."""
        now = self._clock()
        with self._lock:
            if now - self._logged.get(what, -1e9) < every_s:
                return False
            self._logged[what] = now
            return True

    def forget(self) -> None:
        """Drop the samples (a new time line); counters stay."""
        with self._lock:
            self._samples.clear()
