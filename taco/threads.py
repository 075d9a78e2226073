"""CPU threads of the models: how many, and that they sleep while they wait. Torch is imported only where it is needed."""

from __future__ import annotations

import contextlib
import ctypes
import os
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")
# For OpenMP, by which torch spreads its work: threads without work sleep. By default they wait busily, and beside another busy
# program a frame takes several times as long.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}

M_ARENA_MAX = -8  # of glibc's malloc.h

_before = 0  # torch's threads before they were left to an engine; 0: they were not


def wait_passively() -> None:
    """Let threads without work sleep; takes effect only before torch is imported. Variables that are set already stay."""
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)


def share_heap() -> None:
    """Let all threads allocate from one heap: with one for each, glibc's default, the models keep 20 to 30 MB more.

    For the whole process, so for our own programs only; threads that have a heap already keep it.
    """
    with contextlib.suppress(OSError, AttributeError):  # other systems, other C libraries
        ctypes.CDLL("libc.so.6").mallopt(M_ARENA_MAX, 1)


def model_threads(setting: int = 0) -> int:
    """How many threads the models may use: ``models.threads``, else torch's choice as it was before engines came."""
    import torch

    now = torch.get_num_threads()
    return setting or (_before if _before and now == 1 else now)


def use_threads(count: int) -> None:
    """Let torch compute with ``count`` threads."""
    import torch

    if count != torch.get_num_threads():
        torch.set_num_threads(count)


def leave_threads_to_engine() -> None:
    """One thread for torch where an engine computes the networks: what torch still does is small, and more would only wait."""
    global _before
    _before = model_threads()
    use_threads(1)


def side_threads(count: int) -> int:
    """Of ``count`` threads of the models those of the networks on a ``SideThread``; the image encoder has the others."""
    return max(1, count // 3)  # ours: of the embedded networks, those beside the image encoder take a third


class SideThread:
    """A thread beside the caller's, for networks that run at the same time: an engine leaves Python to others while it computes.

    It starts with its first work, and is a daemon: work that hangs keeps no program from ending.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        weakref.finalize(self, self._work.put, None)

    def submit(self, work: Callable[[], Result]) -> Future[Result]:
        """Do this after what was submitted before; the Future has its result, or whatever it raised."""
        future: Future[Result] = Future()
        self._work.put((future, work))
        if self._thread is None or not self._thread.is_alive():  # none yet, or lost in a fork
            self._thread = threading.Thread(target=_do, args=(self._work,), name="models, beside", daemon=True)
            self._thread.start()
        return future


def _do(tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]) -> None:
    """Until there is None: without a reference to the SideThread, so that its end ends this."""
    while task := tasks.get():
        future, work = task
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
        del task, future, work  # until the next one comes
