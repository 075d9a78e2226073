"""Settings as parameters: nothing is lost, nothing is listed twice."""

import pytest
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter

from taco.config import MicrophoneConfig, TacoConfig, all_settings
from taco.errors import ConfigError
from taco_ros.parameters import Parameters, parameter_file, parameter_settings, read_parameter_file
from test.taco_ros.graph import ROOT


@pytest.fixture
def node(domain):
    made = []

    def make(overrides=(), *arguments):
        context = rclpy.Context()
        rclpy.init(context=context, domain_id=domain, args=["--ros-args", *arguments] if arguments else None)
        values = [Parameter(name, value=value) for name, value in dict(overrides).items()]
        made.append((Node("taco_node", context=context, parameter_overrides=values), context))
        return made[-1][0]

    yield make
    for node, context in made:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_parameter_file_is_generated_from_the_settings():
    assert (ROOT / "config" / "taco.yaml").read_text() == parameter_file(), "run: make tables"
    assert TacoConfig.from_yaml(ROOT / "config" / "taco.yaml") == TacoConfig()
    assert set(read_parameter_file(ROOT / "config" / "taco.yaml", "taco_node")) == {item.path for item in all_settings()}
    assert set(read_parameter_file(ROOT / "config" / "taco.yaml", "microphone")) == {
        i.path for i in parameter_settings(MicrophoneConfig())
    }


def test_ros_reads_the_file_as_the_defaults(node):
    ros = node((), "--params-file", str(ROOT / "config" / "taco.yaml"))
    assert len(ros._parameter_overrides) > 40
    assert Parameters(ros, TacoConfig()).config() == TacoConfig()


def test_every_setting_is_a_described_parameter(node):
    ros = node()
    Parameters(ros, TacoConfig())
    for item in all_settings():
        described = ros.describe_parameter(item.path)
        assert item.help in described.description, item.path
        if item.minimum is not None and item.maximum is not None and item.type in (int, float):
            ranges = described.floating_point_range if item.type is float else described.integer_range
            assert (ranges[0].from_value, ranges[0].to_value) == (item.minimum, item.maximum), item.path
        value = ros.get_parameter(item.path).value
        assert (tuple(value) if isinstance(item.default, tuple) else value) == item.default, item.path


def test_a_whole_number_is_taken_for_a_setting_in_seconds(node):
    """`ros2 param set /taco_node node.max_age_s 1` sends an integer."""
    ros = node()
    parameters = Parameters(ros, TacoConfig())
    assert ros.set_parameters([Parameter("node.max_age_s", value=1)])[0].successful
    assert parameters.config().node.max_age_s == 1.0


def test_values_given_at_start(node):
    ros = node({"audio.window_s": 2, "models.word_bank": ["a", ""], "factorization.reconstruction_weights": [1.0, 0.5]})
    config = Parameters(ros, TacoConfig()).config()
    assert (config.audio.window_s, config.models.word_bank) == (2.0, ("a",))
    assert config.factorization.reconstruction_weights == (1.0, 0.5)


@pytest.mark.parametrize(
    "name, value, told",
    (
        ("audio.windows_s", 2.0, "did you mean audio.window_s"),
        ("window_s", 2.0, "unknown setting window_s"),
        ("audio.window_s", 99.0, "audio.window_s: wanted 0.1 to 10"),
        ("audio.alignment", "centred", "did you mean centered"),
        ("models.threads", "two", "models.threads: wanted int"),
    ),
)
def test_wrong_parameters_do_not_stop_the_node_but_its_configuration(node, name, value, told):
    parameters = Parameters(node({name: value}), TacoConfig())
    with pytest.raises(ConfigError, match=told):
        parameters.config()


def test_a_wrong_value_can_be_put_right(node):
    parameters = Parameters(node({"audio.alignment": "centred"}), TacoConfig())
    good = [Parameter("audio.alignment", value="centered")]
    result, config = parameters.check_change(TacoConfig(), good, running=False)
    assert result.successful and config.audio.alignment == "centered" and not parameters.problem


def test_what_ros_declares_is_left_alone(node):
    parameters = Parameters(node({"use_sim_time": True, "qos_overrides./image.subscription.depth": 3}), TacoConfig())
    assert not parameters.problem
    result, config = parameters.check_change(TacoConfig(), [Parameter("use_sim_time", value=False)], running=True)
    assert result.successful and config == TacoConfig()


def test_changes_while_running(node):
    parameters = Parameters(node(), TacoConfig())
    live, config = parameters.check_change(TacoConfig(), [Parameter("node.max_age_s", value=1)], running=True)
    assert live.successful and config.node.max_age_s == 1.0
    frozen, config = parameters.check_change(TacoConfig(), [Parameter("models.device", value="cpu")], running=True)
    assert not frozen.successful and "models.device cannot change" in frozen.reason and config == TacoConfig()


def test_microphone_settings_have_plain_names(node):
    parameters = Parameters(node({"device": "usb", "block_s": 0.1}), MicrophoneConfig())
    assert parameters.config() == MicrophoneConfig(device="usb", block_s=0.1)
    with pytest.raises(ConfigError, match="unknown setting devise; did you mean device|unknown setting devise"):
        Parameters(node({"devise": "usb"}), MicrophoneConfig()).config()
