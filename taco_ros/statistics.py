"""What happens in a node, counted: rates, percentiles and drops by reason. Safe to use from every thread."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict, deque

WINDOW_S = 10.0  # rates and percentiles tell of the last seconds
LOG_EVERY_S = 5.0  # the same complaint at most this often


class Statistics:
    """Counters since the start, and samples of the last ``WINDOW_S`` seconds. clock: seconds that never jump."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._samples: dict[str, deque[tuple[float, float]]] = defaultdict(lambda: deque(maxlen=4000))
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
            while entries[0][0] < now - WINDOW_S:  # so that a day's work takes no more memory than ten seconds'
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
        """Is it time to say this again?"""
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
