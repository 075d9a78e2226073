"""Two executors for one node: what arrives all the time on a thread of its own, everything else beside it.

rclpy builds its wait set anew for every callback, from all that an executor waits for. Sound and images come a hundred
times a second; waiting for them together with thirty services, timers and events took most of a processor.
"""

from __future__ import annotations

import threading

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor

IDLE_S = 0.2  # so soon a new subscription is noticed


class InputGroup(MutuallyExclusiveCallbackGroup):
    """Callback group of subscriptions whose callbacks are short and come often."""


class _InputExecutor(SingleThreadedExecutor):
    """Waits for the input groups of a node that another executor owns."""

    def __init__(self, node):
        super().__init__(context=node.context)
        self._only = [node]

    def get_nodes(self):
        return self._only

    def can_execute(self, entity) -> bool:
        return isinstance(entity.callback_group, InputGroup) and super().can_execute(entity)


class _OtherExecutor(MultiThreadedExecutor):
    """Everything but the input groups."""

    def can_execute(self, entity) -> bool:
        return not isinstance(entity.callback_group, InputGroup) and super().can_execute(entity)


def spin(node, on_error, threads: int = 4) -> None:
    """Run the node until ROS is shut down. on_error: told of an exception in a callback; the node goes on."""
    inputs, others = _InputExecutor(node), _OtherExecutor(threads, context=node.context)
    others.add_node(node)
    stopping = threading.Event()

    def listen() -> None:
        while not stopping.is_set() and node.context.ok():
            _once(inputs, IDLE_S, on_error)

    listener = threading.Thread(target=listen, name="inputs", daemon=True)
    listener.start()
    try:
        while node.context.ok() and _once(others, 1.0, on_error):
            pass
    finally:
        stopping.set()
        listener.join(2.0)
        inputs.shutdown(timeout_sec=1.0)
        others.shutdown(timeout_sec=1.0)


def _once(executor, timeout_s: float, on_error) -> bool:
    """One round; False when it is time to end."""
    try:
        executor.spin_once(timeout_sec=timeout_s)
    except ExternalShutdownException:
        return False
    except Exception as error:  # a callback's fault must not end a day's work
        if not executor.context.ok():
            return False
        on_error(error)
    return True
