"""Hand-over from callbacks to the one thread that owns the models: newest image wins, nothing piles up."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pending:
    """An image message that waits for its turn. Times in ns; arrival_ns by the node's clock."""

    camera: str
    message: object
    stamp_ns: int
    arrival_ns: int


class Mailbox:
    """One place per camera: a new image replaces the one that waits.

    hold: places for images that must wait until their sound is there (centered windows); the newest
    ready one is taken, older ones count as replaced. ``replaced`` counts what was never taken.
    """

    def __init__(self, hold: int = 1):
        self.condition = threading.Condition()
        self.hold = hold
        self.replaced = 0
        self._waiting: dict[str, deque[Pending]] = {}

    def put(self, item: Pending) -> None:
        """Leave an image; never blocks."""
        with self.condition:
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
            for places in self._waiting.values():
                newest = next((i for i in range(len(places) - 1, -1, -1) if ready(places[i])), None)
                if newest is None:
                    continue
                for _ in range(newest):
                    places.popleft()
                    self.replaced += 1
                taken.append(places.popleft())
        return taken

    def clear(self) -> None:
        """Throw away what waits."""
        with self.condition:
            self._waiting.clear()

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
