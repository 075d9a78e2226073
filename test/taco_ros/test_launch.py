"""The launch files: checked against the settings here, and started for real where launch is installed."""

import ast
import importlib.util
import subprocess
import sys

import pytest
import yaml

from taco.config import TacoConfig, all_settings
from test.taco_ros.graph import ROOT, wait_until

FILES = ("taco.launch.py", "cameras.launch.py")
WANTED = ["namespace", "params_file", "image_topic", "compressed", "audio_topic", "microphone", "mic_device"]
WANTED += [
    "camera_info_topic",
    "depth_topic",
    "scan_topic",
    "viewer",
    "device",
    "model_dir",
    "models",
    "word_bank",
    "rviz",
    "autostart",
]
WANTED += ["use_sim_time", "log_level"]


def has_launch() -> bool:
    # the folder launch/ of this repository is no package
    return importlib.util.find_spec("launch_ros") is not None


def parts_of(name):
    """Constants and plain functions of a launch file, without importing launch."""
    tree = ast.parse((ROOT / "launch" / name).read_text())
    keep = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name not in ("nodes", "generate_launch_description")]
    keep += [n for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id in ("ARGUMENTS", "SETTINGS")]
    space = {"DEFAULTS": "config/taco.yaml"}
    exec(compile(ast.Module(keep, []), name, "exec"), space)
    return space


def value_of(space, **given):
    defaults = {name: default for name, default, _ in space["ARGUMENTS"]}
    return lambda name: {**defaults, **given}[name]


def test_every_argument_is_there_and_described():
    space = parts_of("taco.launch.py")
    assert [name for name, _, _ in space["ARGUMENTS"]] == WANTED
    assert all(text.endswith(".") and len(text) > 15 for _, _, text in space["ARGUMENTS"])


def test_arguments_become_settings_that_exist():
    space = parts_of("taco.launch.py")
    given = value_of(
        space, device="cpu", models="paper", model_dir="/m", word_bank="dog, cat", compressed="true", autostart="false"
    )
    parameters = space["parameters_from"](given)
    assert parameters.pop("use_sim_time") is False
    config = TacoConfig().updated(parameters)
    assert (config.models.device, config.models.name, config.models.word_bank) == ("cpu", "paper", ("dog", "cat"))
    assert (config.node.image_transport, config.node.autostart) == ("compressed", False)


def test_defaults_change_nothing():
    space = parts_of("taco.launch.py")
    parameters = space["parameters_from"](value_of(space))
    assert parameters.pop("use_sim_time") is False and TacoConfig().updated(parameters) == TacoConfig()
    with pytest.raises(ValueError, match="true or false"):
        space["is_true"]("yes")


def test_camera_lists():
    space = parts_of("cameras.launch.py")
    assert space["words_of"]("[front, rear]") == ["front", "rear"]
    remaps = space["remappings_from"](["front", "rear"], ["/f/image_raw", "/r/image_raw"], "/mic")
    assert remaps == [("audio", "/mic"), ("front/image", "/f/image_raw"), ("rear/image", "/r/image_raw")]
    with pytest.raises(ValueError, match="wanted 2 topics"):
        space["remappings_from"](["front", "rear"], ["/f"], "/mic")
    assert "node.cameras" in {item.path for item in all_settings()}


@pytest.mark.ros
def test_the_node_starts_with_what_the_launch_file_would_pass(start, robot, tmp_path):
    """The very arguments of launch_ros: a parameter file of the settings, then the remappings."""
    space = parts_of("taco.launch.py")
    own = space["parameters_from"](value_of(space, device="cpu", word_bank="red, blue")) | {"models.image": "standin:5"}
    file = tmp_path / "launch_params.yaml"
    file.write_text(yaml.safe_dump({"/robot1/taco_node": {"ros__parameters": own}}))
    arguments = ["--ros-args", "--log-level", "info", "-r", "__node:=taco_node", "-r", "__ns:=/robot1"]
    arguments += ["--params-file", ROOT / "config" / "taco.yaml", "--params-file", file]
    arguments += ["-r", "image:=/image", "-r", "audio:=/audio", "-r", "camera_info:=/camera_info", "-r", "depth:=/depth"]
    node = start("taco_node", *arguments)
    node.wait_log("2 words")
    robot.wait_matched()
    assert wait_until(lambda: ("taco_node", "/robot1") in robot.node.get_node_names_and_namespaces(), 10)


@pytest.mark.parametrize("name", FILES)
def test_launch_describes_its_arguments(name):
    if not has_launch():
        pytest.skip("launch and launch_ros come with ROS from apt, not from wheels")
    done = subprocess.run(["ros2", "launch", str(ROOT / "launch" / name), "--show-args"], capture_output=True, text=True)
    assert done.returncode == 0 and all(f"'{argument}'" in done.stdout for argument, _, _ in parts_of(name)["ARGUMENTS"])
    assert sys.version_info >= (3, 11)
