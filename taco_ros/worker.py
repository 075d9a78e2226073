"""The thread that owns the models: jobs first, then the waiting images."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future

from taco_ros.mailbox import Mailbox

SOUND_POLL_S = 0.01  # ours: how often a waiting image asks whether the second half of its window has come


class Worker(threading.Thread):
    """The thread that owns the models: jobs (``call``) first, then the newest images.

    process: called with a list of PendingImage, at most one of each camera.
    ready: whether an image may be taken yet.
    on_error: called with an exception that ``process`` raised; the thread goes on.
    interval_s: shortest time between two calls of ``process``; may be changed at any time.
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
        """Finish the current images and end the thread."""
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
                    elif self.mailbox.capacity > 1:
                        condition.wait(SOUND_POLL_S)
                    elif wait_s := self.mailbox.wait_s():
                        condition.wait(wait_s)
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
