"""Hand-over from callbacks to the one thread that owns the models: newest image wins, nothing piles up.

A waiting image gives way to the next one where that is due sooner than this one has been waiting. What a robot
acts upon is the newest answer it has, which at its oldest is an image's age when the answer came plus the time to the
answer after it. Starting d seconds later on an image that is a seconds younger lowers this sum by a - d. So half
an image period at most is waited, and that long only for a camera that keeps its time.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from statistics import median

REMEMBERED = 9  # arrivals that tell a camera's period
LATE_S = 0.003  # an image may come this much after it is due
TOGETHER_S = 0.005  # so long the image of another camera, exposed at the same time, is waited for: they are encoded together


@dataclass(frozen=True, slots=True)
class Pending:
    """An image message that waits for its turn. Times in ns; arrival_ns by the node's clock."""

    camera: str
    message: object
    stamp_ns: int
    arrival_ns: int


class Rhythm:
    """When a camera's next image is due, by the arrivals of the last ones. Times in s of a clock that never jumps."""

    def __init__(self):
        self._arrivals: deque[float] = deque(maxlen=REMEMBERED)

    def note(self, now: float) -> None:
        """An image came."""
        self._arrivals.append(now)

    @property
    def last(self) -> float:
        """When the newest one came."""
        return self._arrivals[-1]

    def due_in(self, now: float) -> float | None:
        """Seconds until the next image; None where it is overdue, or the camera does not keep its time (one slip is allowed)."""
        if len(self._arrivals) < REMEMBERED // 2:
            return None
        times = list(self._arrivals)
        periods = sorted(later - earlier for earlier, later in zip(times, times[1:]))
        period = median(periods)
        if periods[1] < 0.75 * period or periods[-2] > 1.25 * period:
            return None
        left = times[-1] + period - now
        return max(left, 0.0) if left > -LATE_S else None


class Mailbox:
    """One place per camera: a new image replaces the one that waits.

    hold: places for images that must wait until their sound is there (centered windows); the newest
    ready one is taken, older ones count as replaced. ``replaced`` counts what was never taken.
    """

    def __init__(self, hold: int = 1, clock=time.monotonic):
        self.condition = threading.Condition()
        self.hold = hold
        self.replaced = 0
        self._clock = clock
        self._waiting: dict[str, deque[Pending]] = {}
        self._rhythms: dict[str, Rhythm] = {}
        self._patient_until: float | None = None

    def put(self, item: Pending) -> None:
        """Leave an image; never blocks."""
        with self.condition:
            self._rhythms.setdefault(item.camera, Rhythm()).note(self._clock())
            places = self._waiting.setdefault(item.camera, deque())
            while len(places) >= self.hold:
                places.popleft()
                self.replaced += 1
            places.append(item)
            self.condition.notify()

    def take(self, ready: Callable[[Pending], bool] = lambda item: True) -> list[Pending]:
        """The newest ready image of every camera; an empty list where there is none. Never blocks."""
        taken = []
        with self.condition:
            self._patient_until = None
            for places in self._waiting.values():
                newest = next((i for i in range(len(places) - 1, -1, -1) if ready(places[i])), None)
                if newest is None:
                    continue
                for _ in range(newest):
                    places.popleft()
                    self.replaced += 1
                taken.append(places.popleft())
        return taken

    def patience_s(self) -> float:
        """How long what waits should be left, in s, for what is due sooner; 0: take it now. Ask again after an arrival."""
        with self.condition:
            now = self._clock()
            if self.hold > 1 or not len(self):  # held images are far older than what waiting could save
                return 0.0
            wanted = max((self._worth_waiting_s(camera, now) for camera in self._rhythms), default=0.0)
            if wanted and self._patient_until is None:
                self._patient_until = now + wanted
            return max(0.0, min(wanted, self._patient_until - now)) if wanted else 0.0

    def _worth_waiting_s(self, camera: str, now: float) -> float:
        rhythm = self._rhythms[camera]
        due_s = rhythm.due_in(now)
        if due_s is None:
            return 0.0
        limit_s = now - rhythm.last if self._waiting.get(camera) else TOGETHER_S
        return due_s + LATE_S if due_s < limit_s else 0.0

    def clear(self) -> None:
        """Throw away what waits."""
        with self.condition:
            self._waiting.clear()
            self._rhythms.clear()
            self._patient_until = None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))


class Worker(threading.Thread):
    """The thread that owns the models. Jobs (``call``) come first, then the newest images.

    process: called with a list of Pending, at most one of a camera. ready: may this image be taken yet?
    interval_s: shortest time between two calls of ``process``; may be changed at any time.
    on_error: called with an exception that ``process`` raised; the thread goes on.
    """

    def __init__(self, process, ready=lambda item: True, on_error=lambda error: None):
        super().__init__(name="models", daemon=True)
        self.mailbox = Mailbox()
        self.interval_s = 0.0
        self._process, self._ready, self._on_error = process, ready, on_error
        self._jobs: deque[tuple[Callable, Future]] = deque()
        self._stopping = False

    def call(self, job: Callable, *arguments) -> Future:
        """Run ``job`` on this thread, before the next image; the Future gives its result or exception."""
        future: Future = Future()
        with self.mailbox.condition:
            if self._stopping:
                raise RuntimeError("the models' thread has stopped")
            self._jobs.append((lambda: job(*arguments), future))
            self.mailbox.condition.notify()
        return future

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish the frame in work and end the thread."""
        with self.mailbox.condition:
            self._stopping = True
            self.mailbox.condition.notify()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout_s)

    def run(self) -> None:
        """The loop of the thread."""
        next_start = 0.0
        condition = self.mailbox.condition
        while True:
            with condition:
                if not self._jobs and not self._stopping:
                    early = next_start - time.monotonic()
                    if early > 0 or not len(self.mailbox):
                        condition.wait(max(early, 0.0) or 0.5)
                    elif self.mailbox.hold > 1:
                        condition.wait(0.01)  # an image waits for its sound
                    elif patience_s := self.mailbox.patience_s():
                        condition.wait(patience_s)
                        continue
                jobs, self._jobs = self._jobs, deque()
                if self._stopping and not jobs:
                    return
            for job, future in jobs:
                _run(job, future)
            if time.monotonic() < next_start:
                continue
            batch = self.mailbox.take(self._ready)
            if batch:
                next_start = time.monotonic() + self.interval_s
                try:
                    self._process(batch)
                except Exception as error:
                    self._on_error(error)


def _run(job: Callable, future: Future) -> None:
    try:
        result = job()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
