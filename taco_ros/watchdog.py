"""Runs a node, and ends the process where its models' thread is dead or hung, so that a supervisor starts it again."""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
from collections.abc import Callable

from taco_ros.runtime import orderly_session, spin

PERIOD_S = 0.5  # ours: how often it looks
END_S = 5.0  # ours: how long the process may take to end in order
# Ours: a thread that holds the interpreter for so long stops this one too. Python's own fault handler, which needs no
# interpreter, then ends the process and prints where every thread was.
FROZEN_S = 120.0


class Watchdog(threading.Thread):
    """Looks every ``PERIOD_S``; on the first problem it calls ``end``, and after ``END_S`` it ends the process by force.

    problem: why the process is of no more use, in one line; "" while it is well.
    end: called once, with that line; should end the process in order, with a status other than 0.
    """

    def __init__(self, problem: Callable[[], str], end: Callable[[str], None]):
        super().__init__(name="watchdog", daemon=True)
        self._problem, self._end = problem, end
        self._stopping = threading.Event()

    def run(self) -> None:
        """The loop of the thread."""
        while not self._stopping.wait(PERIOD_S):
            faulthandler.dump_traceback_later(FROZEN_S, exit=True)
            if line := self._problem():
                try:
                    self._end(line)
                finally:
                    if not self._stopping.wait(END_S):
                        os._exit(1)
                return

    def stop(self) -> None:
        """No more watching."""
        self._stopping.set()
        faulthandler.cancel_dump_traceback_later()


def run_watched(make_node: Callable, args=None) -> int:
    """Run a node with a ``worker`` until a signal comes; exit status 0, or 1 where the worker died or hung.

    make_node: called without arguments. Its ``close`` stops the worker and is True where that took place; ``warn(reason,
    line)`` is told of callbacks that fail. Where something does not come to its end the process ends all the same.
    """
    problems: list[str] = []
    with orderly_session(args) as stopping:
        node = make_node()

        def end(line: str) -> None:
            problems.append(line)
            node.get_logger().fatal(f"{line}; the process ends, for a supervisor to start it again")
            stopping.set()

        def on_error(error: Exception) -> None:
            node.warn("callback", f"callback failed: {type(error).__name__}: {error}")

        watchdog = Watchdog(node.worker.problem, end)
        watchdog.start()
        ended = spin(node, on_error, stopping, node.close)
        if not (node.close() and ended):  # Python would wait for what is still at work
            sys.stdout.flush()
            os._exit(1 if problems else 0)
        node.destroy_node()
        watchdog.stop()
    return 1 if problems else 0
