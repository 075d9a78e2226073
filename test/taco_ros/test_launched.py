"""The graph as `ros2 launch` starts it, asked with the `ros2` command line; where both are installed."""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from rclpy.serialization import serialize_message
from rosbags.rosbag2 import Writer
from rosbags.typesys import Stores, get_typestore
from std_msgs.msg import Header

from taco.clock import NS
from taco_ros.conversions import image_message, ns_to_stamp
from test.taco_ros.graph import PREFIXES, ROOT, Process, scene_image, wait_until

ROS2 = shutil.which("ros2")
WANTED = ("launch_ros", "ros2launch", "ros2lifecycle", "ros2node", "ros2param", "ros2topic")
HERE = ROS2 and all(importlib.util.find_spec(name) for name in WANTED)
pytestmark = [
    pytest.mark.ros,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not HERE, reason="ros2 launch and its commands come with ROS from apt, not from wheels"),
]
START_S = 60.0  # a busy machine imports torch and loads a model
ENVIRONMENT = {"AMENT_PREFIX_PATH": ":".join(PREFIXES)}
STAND_IN = "/**/taco_node: {{ros__parameters: {{models.image: 'standin:5'{more}}}}}\n"


class Launch(Process):
    """`ros2 launch` in a session of its own, as in a terminal."""

    def pids(self) -> list[int]:
        """The nodes that it has started, in order."""
        return [int(number) for number in re.findall(r"process started with pid \[(\d+)\]", self.log)]

    def press_ctrl_c(self, timeout_s=START_S) -> float:
        """SIGINT to launch and to all its nodes, as a terminal sends it; seconds until launch has ended."""
        begin = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        self.process.wait(timeout_s)
        return time.monotonic() - begin


@pytest.fixture
def launch(domain, tmp_path):
    """launch(file, *arguments) runs one of our launch files with stand-in models (more: further parameters, in YAML)."""
    running = []

    def starter(file, *arguments, more=""):
        parameters = tmp_path / "standin.yaml"
        parameters.write_text(STAND_IN.format(more=f", {more}" if more else ""))
        if not any(argument.startswith("params_file:=") for argument in arguments):
            arguments += (f"params_file:={parameters}",)
        options = {"domain": domain, "folder": tmp_path, "environment": ENVIRONMENT}
        running.append(Launch(Path(ROS2), "launch", "taco_ros", file, *arguments, **options))
        return running[-1]

    yield starter
    for process in running:
        process.stop(30)
        print(f"--- {process.log}")
        try:
            os.killpg(process.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        pytest.fail("launch left nodes behind")


@pytest.fixture
def ros2(domain):
    """ros2(*arguments): what a command prints."""

    def run(*arguments):
        environment = {**os.environ, **ENVIRONMENT, "ROS_DOMAIN_ID": str(domain)}
        command = [ROS2, *arguments, "--no-daemon", "--spin-time", "5"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


@pytest.fixture
def bag(tmp_path):
    """One second of a camera."""
    store, start_ns = get_typestore(Stores.ROS2_JAZZY), 5 * NS
    with Writer(tmp_path / "bag", version=9) as writer:
        connection = writer.add_connection("/camera/image_raw", "sensor_msgs/msg/Image", typestore=store)
        for index in range(10):
            stamp_ns = start_ns + index * NS // 10
            header = Header(stamp=ns_to_stamp(stamp_ns), frame_id="front")
            writer.write(connection, stamp_ns, serialize_message(image_message(scene_image(), "rgb8", header)))
    return tmp_path / "bag"


def test_the_launched_node_answers_a_bag(launch, start, robot, ros2, bag):
    node = launch(
        "taco.launch.py", "image_topic:=/camera/image_raw", "log_level:=debug", "preset:=speech", more="models.word_bank: [red]"
    )
    node.wait_log("active", START_S)
    wait_until(lambda: robot.audio.get_subscription_count(), START_S, "the node to listen")
    player = start("player", bag, "--loop", "--wait", "40")
    robot.play(image_hz=1.0)  # its sound; its images go elsewhere
    answer = robot.wait_objects("red", 60)
    assert answer.header.frame_id == "front"
    assert player.stop() == 0
    topics = ros2("topic", "list", "-t").splitlines()
    for topic in ("/camera/image_raw [sensor_msgs/msg/Image]", "/taco_node/mask [sensor_msgs/msg/Image]"):
        assert topic in topics
    assert "/taco_node/objects [taco_ros/msg/SoundingObjectArray]" in topics and "/taco_node" in ros2("node", "list")
    assert ros2("lifecycle", "get", "/taco_node").startswith("active")
    assert "3.0" in ros2("param", "get", "/taco_node", "tracking.hold_s")  # of the preset


def test_the_parameter_file_decides_where_no_argument_does(launch, ros2):
    node = launch("taco.launch.py", more="node.autostart: false, use_sim_time: true")
    wait_until(lambda: "/taco_node" in ros2("node", "list"), START_S, "the node")
    assert ros2("lifecycle", "get", "/taco_node").startswith("unconfigured") and node.process.poll() is None
    assert "True" in ros2("param", "get", "/taco_node", "use_sim_time")


@pytest.mark.parametrize("moment", ("active", "process started"))
def test_ctrl_c_ends_everything_soon_and_quietly(launch, moment):
    """Also while the node imports its packages or loads its models."""
    node = launch("taco.launch.py")
    node.wait_log(moment, START_S)
    took_s = node.press_ctrl_c()
    print(f"ctrl-C when {moment!r}: {took_s:.2f} s")
    assert took_s < 5.0  # then launch would send SIGTERM
    for word in ("Traceback", "context is invalid", "Failed to publish", "SIGTERM"):
        assert word not in node.log, node.log


def test_without_optional_packages_the_node_starts_all_the_same(launch):
    """Found missing only once the node runs, they end launch and leave the node behind."""
    if any(Path(prefix, "share", "rviz2").is_dir() for prefix in PREFIXES):
        pytest.skip("rviz2 is installed")
    node = launch("taco.launch.py", "rviz:=true", "viewer:=rerun")
    node.wait_log("active", START_S)
    assert "rviz: wanted the package rviz2" in node.log
    assert importlib.util.find_spec("rerun") or "viewer: wanted the Python package rerun" in node.log


@pytest.mark.parametrize(
    ("file", "argument", "words"),
    [
        ("taco.launch.py", "params_file:=/no/such.yaml", "params_file: wanted an existing file, got '/no/such.yaml'"),
        ("taco.launch.py", "log_level:=loud", "not valid"),
        ("taco.launch.py", "preset:=fats", "preset: wanted one of accurate, default, fast"),
        ("cameras.launch.py", "cameras:=front,rear left", "cameras: wanted names of letters, digits and _"),
    ],
)
def test_a_wrong_argument_is_one_line_and_nothing_starts(launch, file, argument, words):
    node = launch(file, argument)
    assert node.wait(START_S) != 0
    assert words in node.log and "Traceback" not in node.log and not node.pids()


def test_a_node_that_died_is_started_again(launch):
    node = launch("taco.launch.py")
    node.wait_log("active", START_S)
    os.kill(node.pids()[0], signal.SIGKILL)
    wait_until(lambda: len(node.pids()) == 2 and node.log.count(": active") == 2, START_S, "the node again")


def test_several_cameras(launch, ros2):
    node = launch(
        "cameras.launch.py", "cameras:=front,rear", "image_topics:=/f/image_raw,/r/image_raw", "depth_topics:=/f/d,/r/d"
    )
    node.wait_log("active", START_S)
    topics = ros2("topic", "list").split()
    assert {"/f/image_raw", "/r/image_raw", "/taco_node/front/objects", "/taco_node/rear/overlay"} <= set(topics)
    assert "/f/d" in topics and "/front/camera_info" in topics


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "launch").glob("*.launch.py")))
def test_arguments_are_shown(ros2, file):
    shown = subprocess.run([ROS2, "launch", str(ROOT / "launch" / file), "--show-args"], capture_output=True, text=True)
    assert shown.returncode == 0 and "'log_level'" in shown.stdout and "'debug', 'info'" in shown.stdout
