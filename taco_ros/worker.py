"""The thread that owns the models: jobs first, then the waiting images. It outlives every fault, and tells when it cannot."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, wait
from dataclasses import dataclass, field

from taco.errors import TacoError
from taco.mailbox import Mailbox, PendingImage

SOUND_POLL_S = 0.01  # ours: how often a waiting image asks whether the second half of its window has come
IDLE_POLL_S = 0.5  # ours: longest sleep, so that nothing depends on a notification
FAULT_PAUSE_S = 0.1  # ours: after a fault of the loop itself, which may come back at once
STOP_S = 2.0  # ours: less than the 5 s after which `ros2 launch` sends SIGTERM


@dataclass(frozen=True, slots=True)
class Work:
    """What the thread is doing.

    what: in words.
    limit_s: after this long it counts as hung.
    images: the PendingImages in work, none for a job.
    since: when it began, on the monotonic clock.
    """

    what: str
    limit_s: float
    images: Sequence[PendingImage] = ()
    since: float = field(default_factory=time.monotonic)

    @property
    def lasted_s(self) -> float:
        """For how long."""
        return time.monotonic() - self.since


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], object]
    limit_s: float
    future: Future


class Worker(threading.Thread):
    """The thread that owns the models: jobs (``call``) first, then the newest images.

    process: called with a list of PendingImage, at most one of each camera.
    ready: whether an image may be taken yet.
    on_error: called with an exception that any of them raised, SystemExit included; the thread goes on.
    interval_s: shortest time between two calls of ``process``; may be changed at any time.
    limit_s: a job or a call of ``process`` that takes longer counts as hung, see ``problem``.
    work: what it is doing now, None while idle.
    """

    def __init__(self, process, ready=lambda item: True, on_error=lambda error: None, limit_s: float = 60.0):
        super().__init__(name="models", daemon=True)
        self.mailbox = Mailbox()
        self.interval_s = 0.0
        self.limit_s = limit_s
        self.work: Work | None = None
        self._process, self._ready, self._on_error = process, ready, on_error
        self._jobs: deque[_Job] = deque()
        self._running: _Job | None = None
        self._last_start = -float("inf")
        self._stopping = False
        self._end = ""

    def call(self, job: Callable, *arguments, limit_s: float | None = None) -> Future:
        """Run ``job`` on this thread, before the next image; the Future gives its result or exception.

        limit_s: longer than this is hung, default the worker's. RuntimeError where the thread has ended.
        """
        future: Future = Future()
        with self.mailbox.condition:
            if self._stopping or self._end:
                raise RuntimeError("the models' thread has stopped")
            self._jobs.append(_Job(lambda: job(*arguments), self.limit_s if limit_s is None else limit_s, future))
            self.mailbox.condition.notify()
        return future

    def wait_for(self, job: Callable, *arguments, limit_s: float | None = None):
        """The result of ``job``, as by ``call``; TacoError where it is not there within the limit."""
        limit_s = self.limit_s if limit_s is None else limit_s
        before, future = self.work, self.call(job, *arguments, limit_s=limit_s)
        wait([future], limit_s + (before.limit_s if before else 0.0))
        if future.done():
            return future.result()
        raise TacoError(f"models' thread: wanted an answer within {limit_s:g} s, got none; next: restart the node")

    def problem(self) -> str:
        """Why this thread is of no more use, in one line; "" while it is well or was stopped."""
        if self._stopping:
            return ""
        if self._end or (self.ident and not self.is_alive()):
            return f"the models' thread has died: {self._end or 'for an unknown reason'}"
        work = self.work
        if work and work.lasted_s > work.limit_s:
            return f"the models' thread hangs: {work.what} for {work.lasted_s:.0f} s, limit {work.limit_s:g} s"
        return ""

    def stop(self, timeout_s: float = STOP_S) -> bool:
        """Finish the current images and end the thread; whether it ended in time. Nobody waits for it any more then."""
        with self.mailbox.condition:
            self._stopping = True
            self.mailbox.condition.notify()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout_s)
        self._refuse_jobs()
        return not self.is_alive()

    def run(self) -> None:
        """The loop of the thread."""
        try:
            while self._round():
                pass
        except BaseException as error:
            self._end = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")
        finally:
            self._refuse_jobs()

    def _round(self) -> bool:
        """Wait, then do what is there; False when it is time to end."""
        try:
            jobs = self._wait()
            if jobs is None:
                return False
            for job in jobs:
                self._run(job)
            if time.monotonic() >= self._last_start + self.interval_s and (batch := self.mailbox.take(self._may_take)):
                self._last_start = time.monotonic()
                self._run_guarded(Work("an image is in work", self.limit_s, batch), self._process, batch)
        except Exception as error:
            self._on_error(error)
            time.sleep(FAULT_PAUSE_S)
        return True

    def _wait(self) -> deque[_Job] | None:
        """The jobs after the next wait, maybe none; None when it is time to end."""
        condition = self.mailbox.condition
        with condition:
            while not self._jobs and not self._stopping:
                early = self._last_start + self.interval_s - time.monotonic()  # by the present interval: it may have changed
                if early > 0 or not len(self.mailbox):
                    condition.wait(min(early, IDLE_POLL_S) if early > 0 else IDLE_POLL_S)
                elif self.mailbox.capacity > 1:
                    condition.wait(SOUND_POLL_S)
                elif wait_s := self.mailbox.wait_s():
                    condition.wait(wait_s)
                    continue
                break
            jobs, self._jobs = self._jobs, deque()
            return None if self._stopping and not jobs else jobs

    def _may_take(self, item: PendingImage) -> bool:
        try:
            return self._ready(item)
        except BaseException as error:
            self._on_error(error)
            return True  # an image that stayed would raise for ever

    def _run(self, job: _Job) -> None:
        self._running = job
        try:
            self.work = Work("a job is in work", job.limit_s)
            result = job.work()
        except BaseException as error:
            _settle(job.future.set_exception, error)
        else:
            _settle(job.future.set_result, result)
        finally:
            self.work = self._running = None

    def _run_guarded(self, work: Work, action: Callable, *arguments) -> None:
        self.work = work
        try:
            action(*arguments)
        except BaseException as error:
            self._on_error(error)
        finally:
            self.work = None

    def _refuse_jobs(self) -> None:
        """Let nobody wait for what will not be done."""
        with self.mailbox.condition:
            jobs, self._jobs = [*self._jobs, *([self._running] if self._running else [])], deque()
        for job in jobs:
            _settle(job.future.set_exception, RuntimeError("the models' thread has stopped"))


def _settle(give: Callable, value) -> None:
    with contextlib.suppress(InvalidStateError):  # it was refused meanwhile
        give(value)
