"""Session from init to shutdown, executors, and quality of service.

Images and sound have an executor and a thread of their own. rclpy rebuilds its wait set for every callback from all that
an executor waits for; images and sound come a hundred times a second, and waiting for them together with thirty
services, timers and events took most of a processor core.
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
    """ROS within a ``with`` block; SIGINT and SIGTERM shut ROS down, at any time, and end the block quietly.

    args: list of str, as of the command line; default sys.argv. ROS keeps handling SIGINT until the program ends: under
    `ros2 launch` Ctrl-C arrives twice, from the terminal and from launch, and must not interrupt the clean-up.
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
            raise  # otherwise ROS was shut down in the middle of a call
    finally:
        uninstall_signal_handlers()  # waits for the signal thread: of two concurrent shutdowns one fails
        rclpy.try_shutdown()


SUBSCRIPTION_POLL_S = 0.2  # ours: poll period for new subscriptions


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
    """Run the node until ROS is shut down. on_error: called with an exception of a callback; the node goes on."""
    inputs, others = _InputExecutor(node), _OtherExecutor(threads, context=node.context)
    others.add_node(node)
    stopping = threading.Event()

    def listen() -> None:
        while not stopping.is_set() and node.context.ok():
            _spin_once(inputs, SUBSCRIPTION_POLL_S, on_error)

    listener = threading.Thread(target=listen, name="inputs", daemon=True)
    listener.start()
    try:
        while node.context.ok() and _spin_once(others, 1.0, on_error):
            pass
    finally:
        stopping.set()
        listener.join(2.0)
        inputs.shutdown(timeout_sec=1.0)
        others.shutdown(timeout_sec=1.0)


def _spin_once(executor, timeout_s: float, on_error) -> bool:
    """One round; False when it is time to end."""
    try:
        executor.spin_once(timeout_sec=timeout_s)
    except ExternalShutdownException:
        return False
    except Exception as error:  # a fault in one callback must not end the node
        if not executor.context.ok():
            return False
        on_error(error)
    return True


def refuse_impossible_transitions(node) -> None:
    """Make a lifecycle node answer False to a transition that its state does not have; rclpy raises out of the executor."""
    original = node._service_change_state.callback

    def answer(request, response):
        try:
            return original(request, response)
        except Exception as error:
            node.get_logger().warning(f"transition refused: {str(error).splitlines()[0]}")
            response.success = False
            return response

    node._service_change_state.callback = answer


LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)


def sensor_qos(depth: int) -> QoSProfile:
    """Best effort, volatile: for subscriptions, compatible with every publisher of sensor data (REP-2003)."""
    return QoSProfile(depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)


def output_qos(depth: int) -> QoSProfile:
    """Reliable, volatile: for publishers, compatible with every subscriber, best-effort ones too."""
    return QoSProfile(depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
