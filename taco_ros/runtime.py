"""A program's time with ROS: from init to an orderly end, whoever asks for it and however often.

Two executors for one node: what arrives all the time on a thread of its own, everything else beside it.

rclpy builds its wait set anew for every callback, from all that an executor waits for. Sound and images come a hundred
times a second; waiting for them together with thirty services, timers and events took most of a processor.

Quality of service of the topics, in one place.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import NotInitializedException
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import uninstall_signal_handlers


@contextmanager
def ros_session(args=None):
    """ROS for the body of a program's ``with``; SIGINT and SIGTERM shut ROS down, at any time, and end the body quietly.

    args: list of str, as of the command line; default sys.argv. SIGINT is left to ROS to the end of the program: under
    `ros2 launch` a ctrl-C comes twice, from the terminal and from launch, and must not cut the cleaning up in two.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    rclpy.init(args=args)
    try:
        yield
    except ExternalShutdownException:
        pass
    except (rclpy._rclpy_pybind11.RCLError, NotInitializedException):
        if rclpy.ok():
            raise  # else ROS was shut down in the middle of a call
    finally:
        uninstall_signal_handlers()  # waits for the signals' thread: where two shut down at once, one of them fails
        rclpy.try_shutdown()


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


LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)


def sensor_qos(depth: int) -> QoSProfile:
    """Best effort, volatile: a subscription that fits every publisher of sensor data (REP-2003)."""
    return QoSProfile(depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)


def output_qos(depth: int) -> QoSProfile:
    """Reliable, volatile: a publisher that fits every subscriber, best effort ones too."""
    return QoSProfile(depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
