"""What launch files make of their arguments; the launched graph itself is tested in ``test_launched.py``."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import yaml
from rcl_interfaces.srv import GetParameters

from taco.config import MicrophoneConfig, TacoConfig, all_settings
from taco.config_schema import settings_in
from taco_ros import launching
from taco_ros.inputs import ImageInput
from taco_ros.parameters import read_parameter_file
from test.taco_ros.graph import ROOT, parameters, wait_until

PRESETS = ROOT / "config" / "presets"


def value_of(*tables, **given):
    """The arguments as launch would give them."""
    defaults = {item.name: item.default for item in (*launching.SHARED, *(tables or launching.ONE_CAMERA))}
    assert set(given) <= set(defaults)
    return lambda name: {**defaults, **given}[name]


def several(**given):
    return value_of(*launching.SEVERAL_CAMERAS, **given)


def test_every_argument_is_described():
    for table in (launching.ONE_CAMERA, launching.SEVERAL_CAMERAS):
        arguments = (*table, *launching.SHARED)
        assert len({item.name for item in arguments}) == len(arguments)
        assert all(item.text.endswith(".") and len(item.text) > 15 for item in arguments)
        assert all(not item.choices or item.default in item.choices for item in arguments)


def test_arguments_become_settings_that_exist():
    given = value_of(device="cpu", models="paper", model_dir="/m", word_bank="dog, cat", compressed="true", autostart="false")
    config = TacoConfig().updated(launching.node_parameters(given, ["front"]))
    assert (config.models.device, config.models.name, config.models.word_bank) == ("cpu", "paper", ("dog", "cat"))
    assert (config.node.image_transport, config.node.autostart, config.node.cameras) == ("compressed", False, ("front",))
    assert launching.node_parameters(value_of(use_sim_time="True"), []) == {"use_sim_time": True}


def test_defaults_leave_every_setting_to_the_parameter_file():
    for value in (value_of(), several()):
        assert launching.node_parameters(value, []) == {} and launching.clock_parameters(value) == {}
        assert launching.parameter_files(value, PRESETS) == []
    with pytest.raises(ValueError, match="rviz: wanted true or false, got 'yes'"):
        launching.is_true(value_of(rviz="yes"), "rviz")


def test_a_preset_counts_less_than_the_parameter_file_and_both_exist(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.touch()
    value = value_of(preset="fast", params_file=str(mine))
    assert launching.parameter_files(value, PRESETS) == [str(PRESETS / "fast.yaml"), str(mine)]
    for wrong, words in (
        ({"params_file": "/no/such.yaml"}, "existing file, got '/no/such.yaml'"),
        ({"preset": "fats"}, "fast, "),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            launching.parameter_files(value_of(**wrong), PRESETS)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False)])
def test_yes_and_no(text, meant):
    assert launching.is_true(value_of(rviz=text), "rviz") is meant


def test_several_cameras():
    value = several(
        cameras="[front, rear]", image_topics="/f/image_raw,/r/image_raw", depth_topics="/f/d,/r/d", audio_topic="/mic"
    )
    cameras, remappings = launching.several_cameras(value)
    assert cameras == ["front", "rear"]
    wanted = {"audio": "/mic", "scan": "scan", "front/image": "/f/image_raw", "rear/image": "/r/image_raw"}
    assert dict(remappings) == wanted | {"front/depth": "/f/d", "rear/depth": "/r/d"}
    assert launching.rviz_remappings(cameras)[0] == ("taco_node/overlay", "taco_node/front/overlay")
    assert launching.rviz_remappings([]) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cameras": "front,rear left"}, "names of letters, digits and _ separated by commas, got 'rear left'"),
        ({"cameras": "front,front"}, "different names"),
        ({"cameras": ""}, "different names"),
        ({"camera_info_topics": "/a"}, "camera_info_topics: wanted 2 topics for front, rear, got 1"),
        ({"image_topics": "/a,/b,/c"}, "image_topics: wanted 2 topics for front, rear, got 3"),
    ],
)
def test_wrong_cameras_are_one_line(given, words):
    with pytest.raises(ValueError, match=words) as caught:
        launching.several_cameras(several(**given))
    assert "\n" not in str(caught.value)


def test_a_camera_without_images_is_told_the_topic_to_remap():
    topics = SimpleNamespace(
        resolve_topic_name=lambda name: f"/{name}",
        get_topic_names_and_types=lambda: [("/front/image_raw", ["sensor_msgs/msg/Image"])],
        get_fully_qualified_name=lambda: "/taco_node",
        count_publishers=lambda topic: 1,
    )
    for camera, name in (("front", "front/image"), ("", "image")):
        hint = ImageInput(topics, camera, "raw", None, None, None).hint()
        assert hint == f"image topics found: /front/image_raw; remap `{name}`"


def test_a_missing_optional_package_is_a_warning():
    lines = []
    value = launching.without_missing(value_of(rviz="true", viewer="rerun"), lines.append, lambda argument: False)
    assert (value("rviz"), value("viewer"), value("log_level")) == ("false", "", "info")
    assert [line.partition(":")[0] for line in lines] == ["rviz", "viewer"] and all("next: " in line for line in lines)
    value = launching.without_missing(value_of(rviz="true", viewer="rerun"), lines.append, lambda argument: True)
    assert (value("rviz"), value("viewer")) == ("true", "rerun") and len(lines) == 2


def test_rviz_is_remapped_in_what_it_shows():
    shown = yaml.safe_load((ROOT / "config" / "taco.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {item["Topic"]["Value"] for item in shown if "Topic" in item}
    assert topics == {f"taco_node/{name}" for name in launching.RVIZ_TOPICS}


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_presets_are_few_settings_that_exist(path):
    text, own = path.read_text(), read_parameter_file(path, "taco_node")
    config = TacoConfig.from_yaml(path)
    assert config == TacoConfig().updated(own)
    known = {item.path: item.default for item in all_settings()}
    same = {name for name, value in own.items() if known[name] == value}
    assert same == ({"models.name"} if path.stem == "default" else set()) and 1 <= len(own) <= 6
    assert text.startswith("# ") and f"| `{path.stem}` |" in (ROOT / "docs" / "robot.md").read_text()


def test_the_parameters_of_the_microphone_node_exist():
    assert "device" in {item.path.removeprefix(".") for item in settings_in("", MicrophoneConfig())}


@pytest.mark.ros
def test_the_node_starts_with_what_the_launch_file_would_pass(start, robot, tmp_path):
    """The very arguments of launch_ros: a parameter file of the settings, then the remappings."""
    own = launching.node_parameters(value_of(device="cpu", word_bank="red, blue"), []) | {"models.image": "standin:5"}
    file = tmp_path / "launch_params.yaml"
    file.write_text(yaml.safe_dump({"/robot1/taco_node": {"ros__parameters": own}}))
    arguments = ["--ros-args", "--log-level", "info", "-r", "__node:=taco_node", "-r", "__ns:=/robot1"]
    arguments += ["--params-file", ROOT / "config" / "taco.yaml", "--params-file", file]
    arguments += ["-r", "image:=/image", "-r", "audio:=/audio", "-r", "camera_info:=/camera_info", "-r", "depth:=/depth"]
    node = start("taco_node", *arguments)
    node.wait_log("2 words")
    robot.wait_matched()
    assert wait_until(lambda: ("taco_node", "/robot1") in robot.node.get_node_names_and_namespaces(), 10)


@pytest.mark.ros
def test_the_node_takes_a_preset_and_then_a_parameter_file(start, robot, tmp_path):
    """ROS reads parameter files in their order: what both set is the later one's."""
    file = tmp_path / "mine.yaml"
    file.write_text("/**/taco_node: {ros__parameters: {models.image: 'standin:5', models.word_bank: [red, blue]}}")
    node = start("taco_node", "--ros-args", "--params-file", PRESETS / "speech.yaml", "--params-file", file)
    node.wait_log("2 words", 60)
    asked = GetParameters.Request(names=["tracking.hold_s"])
    assert robot.call(GetParameters, "taco_node/get_parameters", asked).values[0].double_value == 3.0


def test_the_arguments_are_read_without_ros():
    """Launch runs in the system's Python: the models' packages may be in a virtual environment that it does not see."""
    code = "import sys, taco_ros.launching; print([name for name in ('rclpy', 'numpy', 'launch', 'taco') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.ros
def test_the_health_check_of_docker_asks_the_node(start):
    check = ROOT / "docker" / "healthcheck.py"
    assert start(check, interpreter=sys.executable).wait() == 1  # no node
    node = start("taco_node", *parameters(models__image="standin:5"))
    node.wait_log("active", 60)
    healthy = start(check, interpreter=sys.executable)
    assert healthy.wait() == 0 and "well" in healthy.log
