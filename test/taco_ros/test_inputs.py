"""Sound in the messages of others: twins of both audio_common_msgs, built here under their common name, real processes."""

import sys

import pytest
from diagnostic_msgs.msg import DiagnosticArray

from test.taco_ros.graph import ROOT, built, diagnostic, parameters, wait_until

pytestmark = pytest.mark.ros

# From the packages' documentation: ros-drivers' audio_common 0.4 and mgonzs13's audio_common.
TWINS = {
    "drivers": {
        "AudioData": "uint8[] data",
        "AudioDataStamped": "std_msgs/Header header\naudio_common_msgs/AudioData audio",
        "AudioInfo": "uint8 channels\nuint32 sample_rate\nstring sample_format\nuint32 bitrate\nstring coding_format",
    },
    "mgonzs13": {
        "AudioData": "float32[] float32_data\nint32[] int32_data\nint16[] int16_data\nint8[] int8_data\nuint8[] uint8_data",
        "AudioInfo": "int32 format\nint32 channels\nint32 rate\nint32 chunk",
        "Audio": "audio_common_msgs/AudioData audio_data\naudio_common_msgs/AudioInfo info",
        "AudioStamped": "std_msgs/Header header\naudio_common_msgs/Audio audio",
    },
}


@pytest.mark.parametrize("kind", (*TWINS, "drivers-s24"))
@pytest.mark.timeout(240)
def test_sound_of_others_is_found_by_its_type(kind, start, robot):
    name = kind.partition("-")[0]
    environment = built("audio_common_msgs", name, TWINS[name])
    robot._play_sound = lambda chunk_s: None  # this robot's own microphone stays off
    robot.node.destroy_publisher(robot.audio)
    script = ROOT / "test" / "taco_ros" / "twin_publisher.py"
    start(script, kind, environment=environment, interpreter=sys.executable)
    start("taco_node", *parameters(models__image="standin:5"), environment=environment)
    wait_until(robot.image.get_subscription_count, 30, "the node")
    robot.play()
    message = robot.wait_objects("red", 30)
    assert -15 < message.level < -10


@pytest.mark.timeout(240)
def test_sound_without_stamps_is_refused_with_the_setting_that_takes_it(start, robot):
    environment = built("audio_common_msgs", "drivers", TWINS["drivers"])
    robot._play_sound = lambda chunk_s: None
    robot.node.destroy_publisher(robot.audio)
    script = ROOT / "test" / "taco_ros" / "twin_publisher.py"
    start(script, "drivers-unstamped", environment=environment, interpreter=sys.executable)
    messages = robot.listen(DiagnosticArray, "/diagnostics")
    given = parameters(models__image="standin:5", node__no_image_warning_s=1.0)
    node = start("taco_node", *given, environment=environment)
    node.wait_log("AudioData carries no stamp; next: set audio.stamp_reference to arrival")
    level, line, _ = wait_until(
        lambda: (found := diagnostic(messages, ": sound")) and found[0] == b"\x01" and found, 20, "a warning"
    )
    assert line.startswith("no sound on /audio") and "carries no stamp" in line and "is the microphone running" not in line
    assert node.log.count("[WARN]") < 6 and "Traceback" not in node.log
    assert node.stop() == 0
    given = parameters(models__image="standin:5", audio__type="audio_common_unstamped")
    node = start("taco_node", *given, environment=environment)
    node.wait_log("configure failed: sound: audio_common_msgs/msg/AudioData carries no stamp; next: set audio.stamp_reference")
    assert node.stop() == 0
    given = parameters(models__image="standin:5", audio__stamp_reference="arrival")
    start("taco_node", *given, environment=environment)
    wait_until(robot.image.get_subscription_count, 30, "the node")
    robot.play()
    message = robot.wait_objects("red", 30)
    assert -15 < message.level < -10


@pytest.mark.timeout(240)
def test_mp3_is_refused_with_the_setting_to_change(start, robot):
    environment = built("audio_common_msgs", "drivers", TWINS["drivers"])
    robot.node.destroy_publisher(robot.audio)
    start(ROOT / "test" / "taco_ros" / "twin_publisher.py", "drivers-mp3", environment=environment, interpreter=sys.executable)
    node = start("taco_node", *parameters(models__image="standin:5", audio__type="audio_common"), environment=environment)
    node.wait_log("format:=wave")
    assert "[audio_format: " in node.log


def test_a_missing_package_fails_configure_with_its_name(start):
    node = start("taco_node", *parameters(models__image="standin:5", audio__type="audio_common_mgonzs13"))
    node.wait_log("configure failed: audio.type audio_common_mgonzs13: wanted the package audio_common_msgs, got none")
