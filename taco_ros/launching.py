"""What the launch files share: their arguments and what they become. ``launch`` is imported only when launch calls."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

RESPAWN_DELAY_S = 2.0  # ours: a node that fails at once fills no log


class Argument(NamedTuple):
    """An argument of a launch file. An empty default of a setting leaves it to the parameter files."""

    name: str
    default: str
    text: str
    choices: tuple[str, ...] = ()


SHARED = (
    Argument("namespace", "", "Namespace of the nodes and of their relative topics."),
    Argument("params_file", "", "Parameter file; copy config/taco.yaml, keep the lines you change. Empty: the defaults."),
    Argument("preset", "", "Settings for a purpose, before those of params_file: a name of config/presets."),
    Argument("compressed", "false", "true: subscribe to the image topics' /compressed (sensor_msgs/CompressedImage)."),
    Argument(
        "audio_topic", "audio", "Sound topic: taco_ros/AudioChunk, or AudioDataStamped or AudioStamped of audio_common_msgs."
    ),
    Argument("microphone", "false", "true: also start the microphone node, publishing on audio_topic."),
    Argument("mic_device", "", "Sound device of the microphone node: a part of its name, or its number (microphone --list)."),
    Argument("scan_topic", "scan", "Laser scan (sensor_msgs/LaserScan), for positions without depth."),
    Argument("viewer", "", "rerun: open the Rerun viewer; rerun+http://HOST:9876/proxy: send to one; a path .rrd: save."),
    Argument("device", "", "Where the models run: auto, cpu or cuda:N. A GPU asked for and missing is an error."),
    Argument("model_dir", "", "Folder of the models' weights."),
    Argument("models", "", "Set of models: embedded, open or paper."),
    Argument("word_bank", "", "Words to listen for (`taco words` lists them), separated by commas, or a text file of them."),
    Argument("rviz", "false", "true: also start RViz, where it is installed, with the overlay and the markers."),
    Argument("autostart", "", "true: configure and activate the node at once; false: wait for a lifecycle manager."),
    Argument("use_sim_time", "", "true: use /clock (simulation, `ros2 bag play --clock`)."),
    Argument("respawn", "true", "true: start taco_node again 2 s after it ended by itself."),
    Argument("log_level", "info", "Least severity that is logged.", ("debug", "info", "warn", "error", "fatal")),
)
ONE_CAMERA = (
    Argument("image_topic", "image", "Camera topic (sensor_msgs/Image); with compressed:=true without its /compressed."),
    Argument("camera_info_topic", "camera_info", "Calibration of the camera (sensor_msgs/CameraInfo), for bearings."),
    Argument("depth_topic", "depth", "Depth image registered to the camera (32FC1 m or 16UC1 mm), for positions."),
)
SEVERAL_CAMERAS = (
    Argument("cameras", "front,rear", "Names of the cameras, separated by commas."),
    Argument("image_topics", "", "Their topics in the same order, separated by commas; empty: NAME/image."),
    Argument("camera_info_topics", "", "Their calibrations in the same order, for bearings; empty: NAME/camera_info."),
    Argument("depth_topics", "", "Their depth images in the same order, for positions; empty: NAME/depth."),
)
SETTINGS = {"viewer": "node.viewer", "device": "models.device", "model_dir": "models.model_dir", "models": "models.name"}
RVIZ_TOPICS = ("overlay", "mask_color", "confidence", "markers")  # those of config/taco.rviz

Value = Callable[[str], str]  # the text of an argument, by its name


def is_true(value: Value, name: str) -> bool:
    """A yes/no argument; ValueError names it."""
    text = value(name).lower()
    if text not in ("true", "false", "1", "0"):
        raise ValueError(f"{name}: wanted true or false, got {value(name)!r}")
    return text in ("true", "1")


def list_of(text: str) -> list[str]:
    """The parts of a comma-separated list, brackets allowed."""
    return [part.strip() for part in text.strip("[] ").split(",") if part.strip()]


def parameter_files(value: Value, presets: Path) -> list[str]:
    """Parameter files in the order in which they count: preset, then params_file. ValueError where one does not exist."""
    files = []
    if name := value("preset"):
        names = sorted(path.stem for path in presets.glob("*.yaml"))
        if name not in names:
            raise ValueError(f"preset: wanted one of {', '.join(names)}, got {name!r}")
        files.append(str(presets / f"{name}.yaml"))
    if path := value("params_file"):
        if not Path(path).is_file():
            raise ValueError(f"params_file: wanted an existing file, got {path!r}")
        files.append(path)
    return files


def clock_parameters(value: Value) -> dict[str, bool]:
    """``use_sim_time`` where it was given, for every node."""
    return {"use_sim_time": is_true(value, "use_sim_time")} if value("use_sim_time") else {}


def node_parameters(value: Value, cameras: list[str]) -> dict[str, object]:
    """Parameters of taco_node that arguments set; they count more than the files'. cameras: their names, [] for one camera."""
    out: dict[str, object] = {path: value(name) for name, path in SETTINGS.items() if value(name)}
    if words := list_of(value("word_bank")):
        out["models.word_bank"] = words
    if is_true(value, "compressed"):
        out["node.image_transport"] = "compressed"
    if value("autostart"):
        out["node.autostart"] = is_true(value, "autostart")
    if cameras:
        out["node.cameras"] = cameras
    return out | clock_parameters(value)


def one_camera(value: Value) -> tuple[list[str], list[tuple[str, str]]]:
    """No names of cameras, and the remappings of taco_node."""
    return [], [(topic, value(f"{topic}_topic")) for topic in ("image", "audio", "camera_info", "depth", "scan")]


def several_cameras(value: Value) -> tuple[list[str], list[tuple[str, str]]]:
    """Names of the cameras and remappings; ValueError for a wrong name, or where there are not as many topics as cameras."""
    cameras = list_of(value("cameras"))
    for name in cameras:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name):
            raise ValueError(f"cameras: wanted names of letters, digits and _ separated by commas, got {name!r}")
    if not cameras or len(set(cameras)) < len(cameras):
        raise ValueError(f"cameras: wanted different names separated by commas, got {value('cameras')!r}")
    remappings = [("audio", value("audio_topic")), ("scan", value("scan_topic"))]
    for kind in ("image", "camera_info", "depth"):
        topics = list_of(value(f"{kind}_topics"))
        if topics and len(topics) != len(cameras):
            raise ValueError(f"{kind}_topics: wanted {len(cameras)} topics for {', '.join(cameras)}, got {len(topics)}")
        remappings += [(f"{name}/{kind}", topic) for name, topic in zip(cameras, topics)]
    return cameras, remappings


def rviz_remappings(cameras: list[str]) -> list[tuple[str, str]]:
    """RViz shows the first of several cameras."""
    return [(f"taco_node/{topic}", f"taco_node/{cameras[0]}/{topic}") for topic in RVIZ_TOPICS] if cameras else []


def without_missing(value: Value, warn: Callable[[str], None], installed: Callable[[str], bool]) -> Value:
    """The arguments without those whose optional package is missing: a warning for each, and the node starts all the same.

    To be asked before anything starts: an error of launch after the first start leaves that node running, without launch.
    installed: whether the package of an argument ("rviz", "viewer") is there.
    """
    off = {}
    if is_true(value, "rviz") and not installed("rviz"):
        off["rviz"] = "false"
        distro = os.environ.get("ROS_DISTRO", "jazzy")
        warn(f"rviz: wanted the package rviz2, found none; going on without; next: apt-get install ros-{distro}-rviz2")
    if value("viewer") and not installed("viewer"):
        off["viewer"] = ""
        warn("viewer: wanted the Python package rerun, found none; going on without; next: pip install rerun-sdk")
    return lambda name: off.get(name, value(name))


def is_installed(argument: str) -> bool:
    """Whether the package is there that an argument ("rviz", "viewer") needs."""
    if argument == "viewer":  # asked of the nodes' Python, which may be that of a virtual environment, as launch's is not
        code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('rerun') is None)"
        return subprocess.run(["/usr/bin/env", "python3", "-c", code]).returncode == 0
    from ament_index_python.packages import PackageNotFoundError, get_package_prefix

    try:
        return Path(get_package_prefix("rviz2"), "lib", "rviz2", "rviz2").is_file()
    except PackageNotFoundError:
        return False


def description(config: Path, arguments: tuple[Argument, ...], inputs):
    """The launch description of a file.

    config: the folder with presets/ and taco.rviz. inputs: from the arguments (a Value) to the names of several cameras and
    the remappings of taco_node.
    """
    from launch.actions import DeclareLaunchArgument, OpaqueFunction

    from launch import LaunchDescription

    declared = [
        DeclareLaunchArgument(item.name, default_value=item.default, description=item.text, choices=item.choices or None)
        for item in arguments
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=lambda context: _nodes(context, config, inputs))])


def _nodes(context, config: Path, inputs) -> list:
    """The nodes, once the arguments are known. All that can fail comes first: nothing has been started yet."""
    from launch.logging import get_logger
    from launch.substitutions import LaunchConfiguration
    from launch_ros.actions import Node

    def given(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    value = without_missing(given, get_logger("taco").warning, is_installed)
    cameras, remappings = inputs(value)
    files, clock = parameter_files(value, config / "presets"), clock_parameters(value)
    common = {"namespace": value("namespace"), "ros_arguments": ["--log-level", value("log_level")], "output": "screen"}
    actions = [
        Node(
            package="taco_ros",
            executable="taco_node",
            name="taco_node",
            parameters=[*files, node_parameters(value, cameras)],
            remappings=remappings,
            respawn=is_true(value, "respawn"),
            respawn_delay=RESPAWN_DELAY_S,
            **common,
        )
    ]
    if is_true(value, "microphone"):
        device = {"device": value("mic_device")} if value("mic_device") else {}
        actions.append(
            Node(
                package="taco_ros",
                executable="microphone",
                name="microphone",
                parameters=[*files, device | clock],
                remappings=[("audio", value("audio_topic"))],
                **common,
            )
        )
    if is_true(value, "rviz"):
        actions.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=value("namespace"),  # the topics in the file are relative
                arguments=["-d", str(config / "taco.rviz")],
                parameters=[clock],
                remappings=rviz_remappings(cameras),
            )
        )
    return actions
