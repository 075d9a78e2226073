"""Sound in the messages of others: twins of both audio_common_msgs, built here under their common name, real processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ros_help import ROOT, parameters, wait_until

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
CMAKE = """cmake_minimum_required(VERSION 3.16)
project(audio_common_msgs)
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
find_package(std_msgs REQUIRED)
rosidl_generate_interfaces(audio_common_msgs {files} DEPENDENCIES std_msgs)
ament_package()
"""
PACKAGE = """<package format="3"><name>audio_common_msgs</name><version>0.0.0</version><description>twin</description>
<maintainer email="twin@example.com">a</maintainer><license>Apache-2.0</license><buildtool_depend>ament_cmake</buildtool_depend>
<depend>std_msgs</depend><depend>rosidl_default_generators</depend>
<member_of_group>rosidl_interface_packages</member_of_group></package>
"""


def built(name: str) -> dict[str, str]:
    """Build a twin under build/ (once) and return the environment in which it imports."""
    home = ROOT / "build" / f"twins-{Path(sys.prefix).name}" / name
    source, install = home / "src", home / "install"
    (source / "msg").mkdir(parents=True, exist_ok=True)
    texts = {f"msg/{kind}.msg": fields + "\n" for kind, fields in TWINS[name].items()}
    texts |= {"CMakeLists.txt": CMAKE.format(files=" ".join(f'"{file}"' for file in texts)), "package.xml": PACKAGE}
    if not (home / "done").is_file() or any((source / file).read_text() != text for file, text in texts.items()):
        for file, text in texts.items():
            (source / file).write_text(text)
        prefix = sys.prefix
        path = f"{prefix}/bin:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "AMENT_PREFIX_PATH": prefix, "CMAKE_PREFIX_PATH": prefix}
        configure = ["cmake", "-S", source, "-B", home / "build", "-GNinja", f"-DCMAKE_INSTALL_PREFIX={install}"]
        configure += [f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
        for command in (configure, ["cmake", "--build", home / "build"], ["cmake", "--install", home / "build"]):
            done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        (home / "done").touch()
    (site,) = install.glob("lib/python*/site-packages")
    libraries = [str(install / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return {"PYTHONPATH": str(site), "LD_LIBRARY_PATH": ":".join(filter(None, libraries))}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.timeout(240)
def test_sound_of_others_is_found_by_its_type(name, start, robot):
    environment = built(name)
    robot._play_sound = lambda chunk_s: None  # this robot's own microphone stays off
    robot.node.destroy_publisher(robot.audio)
    script = ROOT / "test" / "taco_ros" / "twin_publisher.py"
    start(script, name, environment=environment, interpreter=sys.executable)
    start("taco_node", *parameters(models__image="standin:5"), environment=environment)
    wait_until(robot.image.get_subscription_count, 30, "the node")
    robot.play()
    message = robot.wait_objects("red", 30)
    assert -15 < message.level < -10


@pytest.mark.timeout(240)
def test_mp3_is_refused_with_the_setting_to_change(start, robot):
    environment = built("drivers")
    robot.node.destroy_publisher(robot.audio)
    start(ROOT / "test" / "taco_ros" / "twin_publisher.py", "drivers-mp3", environment=environment, interpreter=sys.executable)
    node = start("taco_node", *parameters(models__image="standin:5", audio__type="audio_common"), environment=environment)
    node.wait_log("format:=wave")
    assert "[audio_format: " in node.log


def test_a_missing_package_fails_configure_with_its_name(start):
    node = start("taco_node", *parameters(models__image="standin:5", audio__type="audio_common_mgonzs13"))
    node.wait_log("configure failed: audio.type audio_common_mgonzs13: wanted the package audio_common_msgs, got none")
