"""The end of a program: orderly whenever a signal comes, and however many."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.ros

PROGRAM = """
import os, signal, threading, time
from taco_ros.runtime import orderly_session, ros_session
import rclpy
from std_msgs.msg import String

def ask(number):
    os.kill(os.getpid(), number)

{body}
print("ended", flush=True)
ask(signal.SIGINT)  # as `ros2 launch` does, after the terminal did
time.sleep(0.01)
"""
BODIES = {
    # leaves at the moment at which the signals' thread shuts ROS down too
    "race": """
for _ in range(5000):  # one in a hundred meets it
    with ros_session([]):
        ask({number})
""",
    "in a call": """
with ros_session([]):
    node = rclpy.create_node("caller")
    ask({number})
    while True:
        node.create_publisher(String, "words", 1).publish(String())
""",
    "at the start": """
with ros_session([]):
    ask({number})
    while True:
        rclpy.create_node("starter").destroy_node()
""",
    "spinning": """
with ros_session([]):
    node = rclpy.create_node("spinner")
    threading.Timer(0.3, ask, ({number},)).start()
    while rclpy.ok():
        rclpy.spin_once(node, timeout_sec=1.0)
""",
    # its threads find ROS there until they have stopped, and nowhere after the block
    "with threads": """
with orderly_session([]) as stopping:
    node, done = rclpy.create_node("worker"), threading.Event()
    publisher = node.create_publisher(String, "words", 1)

    def work():
        while not done.wait(0.001):
            publisher.publish(String())

    thread = threading.Thread(target=work)
    thread.start()
    ask({number})
    assert stopping.wait(10)
    time.sleep(0.1)
    assert rclpy.ok() and thread.is_alive()
    done.set()
    thread.join()
    node.destroy_node()
assert not rclpy.ok()
""",
    "cleaning up": """
with ros_session([]):
    try:
        ask({number})
        while rclpy.ok():
            time.sleep(0.001)
    finally:
        for _ in range(5):
            ask(signal.SIGINT)
            time.sleep(0.002)
        print("cleaned", flush=True)
""",
}


def run(body, domain):
    program = [sys.executable, "-c", PROGRAM.replace("{body}", body)]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM))
@pytest.mark.parametrize("when", BODIES)
def test_a_signal_ends_a_program_quietly(when, number, domain):
    done = run(BODIES[when].replace("{number}", f"signal.{number.name}"), domain)
    told = ["cleaned", "ended"] if when == "cleaning up" else ["ended"]
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("[WARN]")]  # the middleware's own
    assert (done.returncode, done.stdout.split(), complaints) == (0, told, [])


def test_faults_of_a_program_are_not_hidden(domain):
    done = run("with ros_session([]):\n    rclpy.create_node('no good name')", domain)
    assert done.returncode == 1 and "InvalidNodeNameException" in done.stderr
    done = run("with ros_session([]):\n    raise rclpy._rclpy_pybind11.RCLError('out of memory')", domain)
    assert done.returncode == 1 and "RCLError: out of memory" in done.stderr
