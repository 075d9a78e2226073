"""A program's time with ROS: from init to an orderly end, whoever asks for it and however often."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

import rclpy
from rclpy.exceptions import NotInitializedException
from rclpy.executors import ExternalShutdownException
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
