"""Session from init to shutdown, executors, and quality of service.

Images and sound have an executor and a thread of their own. rclpy rebuilds its wait set for every callback from all that
an executor waits for; images and sound come a hundred times a second, and waiting for them together with thirty
services, timers and events took most of a processor core.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from contextlib import contextmanager

import rclpy
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import NotInitializedException
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions, uninstall_signal_handlers

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
END_S = 2.0  # ours: how long a callback that is under way may take at the end; `ros2 launch` sends SIGTERM after 5 s


@contextmanager
def ros_session(args=None):
    """ROS within a ``with`` block; SIGINT and SIGTERM shut ROS down, at any time, and end the block quietly.

    args: list of str, as of the command line; default sys.argv. ROS keeps handling SIGINT until the program ends: under
    `ros2 launch` Ctrl-C arrives twice, from the terminal and from launch, and must not interrupt the clean-up.
    """
    try:
        with _signals_later():
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            _init(args)
        yield
    except ExternalShutdownException:
        pass
    except (rclpy._rclpy_pybind11.RCLError, NotInitializedException):
        if rclpy.ok():
            raise  # otherwise ROS was shut down in the middle of a call
    finally:
        uninstall_signal_handlers()  # waits for the signal thread: of two concurrent shutdowns one fails
        rclpy.try_shutdown()


@contextmanager
def orderly_session(args=None):
    """ROS within a ``with`` block, for a program with threads: SIGINT and SIGTERM only set the Event that this yields.

    ROS is shut down at the end of the block, once the program has stopped its threads and destroyed its nodes, so that
    none finds it gone under its hands. The signals stay harmless until the program ends.
    """
    stopping = threading.Event()
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: stopping.set())
    try:
        _init(args, signal_handler_options=SignalHandlerOptions.NO)
        yield stopping
    finally:
        rclpy.try_shutdown()
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def _signals_later():
    """Hold the signals back within the block, so that none is lost before ROS handles them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _init(args, **options) -> None:
    try:
        rclpy.init(args=args, **options)
    except rclpy._rclpy_pybind11.RCLError as error:
        if "log" not in str(error):
            raise
        reason = " ".join(str(error).split(", at ")[0].split())
        program = os.path.basename(sys.argv[0])
        raise SystemExit(f"{program}: ROS: {reason}; next: let ROS_LOG_DIR name a folder that can be written") from None


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


def spin(node, on_error, stopping: threading.Event, before_end, threads: int = 4) -> bool:
    """Run the node until ``stopping`` is set; whether every callback came to its end then.

    on_error: called with an exception of a callback; the node goes on. before_end: called once ``stopping`` is set, to
    release callbacks that wait for something. Callbacks run on other threads; this one waits for signals.
    """
    inputs, others = _InputExecutor(node), _OtherExecutor(threads, context=node.context)
    others.add_node(node)

    def run(executor, timeout_s: float) -> None:
        while not stopping.is_set() and _spin_once(executor, timeout_s, on_error):
            pass

    runners = [
        threading.Thread(target=run, args=(inputs, SUBSCRIPTION_POLL_S), name="inputs", daemon=True),
        threading.Thread(target=run, args=(others, SUBSCRIPTION_POLL_S), name="callbacks", daemon=True),
    ]
    for runner in runners:
        runner.start()
    try:
        while not stopping.wait(1.0) and node.context.ok():
            pass
    finally:
        stopping.set()
        before_end()
        for runner in runners:
            runner.join(END_S)
        # rclpy 7.1's own shutdown does not wait for callbacks
        pool = threading.Thread(target=others._executor.shutdown, daemon=True)
        pool.start()
        pool.join(END_S)
        ended = not any(runner.is_alive() for runner in (*runners, pool))
        if ended:
            inputs.shutdown(timeout_sec=1.0)
            others.shutdown(timeout_sec=1.0)
    return ended


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
