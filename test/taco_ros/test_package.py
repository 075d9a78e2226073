"""The files that make it a ROS package and a Python package agree."""

import ast
import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
import yaml
from catkin_pkg.changelog import get_changelog_from_path
from catkin_pkg.changelog_generator import FORTHCOMING_LABEL, get_version_section_match
from catkin_pkg.package import parse_package

import taco
from test.taco_ros.graph import BIN, ROOT

PACKAGE = ET.parse(ROOT / "package.xml").getroot()
MODULES = [*(ROOT / "taco_ros").glob("*.py"), *(ROOT / "launch").glob("*.py")]
PROVIDERS = {"tf2_ros": "tf2_ros_py"}  # packages whose Python module has another name
OPTIONAL = {"audio_common_msgs", "hri_msgs", "odas_ros_msgs"}  # taken where they are installed
ROS_NAMES = ("_msgs", "_srvs", "_interfaces", "_bridge", "_ros", "_index_python")


def test_one_version():
    shown = subprocess.run([sys.executable, "setup.py", "--version"], cwd=ROOT, capture_output=True, text=True)
    assert PACKAGE.findtext("version") == taco.__version__ == shown.stdout.splitlines()[-1], shown.stderr


def test_package_xml():
    assert PACKAGE.findtext("name") == "taco_ros" and PACKAGE.findtext("license") == "Apache-2.0"
    assert PACKAGE.findtext("export/build_type") == "ament_cmake"
    assert PACKAGE.findtext("member_of_group") == "rosidl_interface_packages"


def test_every_imported_ros_package_is_declared():
    declared = {item.text for item in PACKAGE if item.tag.endswith("depend")}
    used = set()
    for path in MODULES:
        for entry in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in entry.names] if isinstance(entry, ast.Import) else []
            names += [entry.module] if isinstance(entry, ast.ImportFrom) and entry.module and not entry.level else []
            used |= {name.partition(".")[0] for name in names}
    ros = {PROVIDERS.get(name, name) for name in used if name.endswith(ROS_NAMES) or name in ("rclpy", "launch")}
    assert ros - {"taco_ros"} - OPTIONAL <= declared, "add them to package.xml"
    hints = re.findall(r"ros-(?:\$ROS_DISTRO|\{distro\})-([a-z0-9-]+)", "".join(path.read_text() for path in MODULES))
    assert {"tf2-ros-py", "rviz2"} <= set(hints) and {hint.replace("-", "_") for hint in hints} <= declared


def test_package_xml_is_ready_for_bloom():
    package = parse_package(ROOT / "package.xml")
    warnings = []
    package.validate(warnings=warnings)
    assert not warnings and {url.type for url in package.urls} == {"website", "repository", "bugtracker"}
    order = [
        "name",
        "version",
        "description",
        "maintainer",
        "license",
        "url",
        "author",
        "buildtool_depend",
        "build_depend",
        "depend",
    ]
    order += ["exec_depend", "test_depend", "member_of_group", "export"]
    tags = list(dict.fromkeys(item.tag for item in PACKAGE))
    assert tags == order
    assert not [item.text for item in PACKAGE if (item.text or "").endswith("-pip")]  # build farm and PEP 668 refuse pip
    (rviz,) = (item for item in package.exec_depends if item.condition)
    assert rviz.name == "rviz2" and not rviz.evaluate_condition({}) and rviz.evaluate_condition({"TACO_WITH_RVIZ": "true"})


def test_changelog_is_read_by_the_release_tools():
    text = (ROOT / "CHANGELOG.rst").read_text()
    versions = [version for version, _, _ in get_changelog_from_path(ROOT / "CHANGELOG.rst").foreach_version()]
    assert versions[-1] == PACKAGE.findtext("version") and get_version_section_match(text, FORTHCOMING_LABEL)


@pytest.mark.parametrize("name", ("taco_node", "microphone", "player"))
def test_executables_are_installed_where_launch_looks(name):
    script = BIN / name
    assert script.is_file() and script.stat().st_mode & 0o111 and script.read_text().startswith("#!/usr/bin/env python3\n")
    assert f"scripts/{name}" in (ROOT / "CMakeLists.txt").read_text()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "msg").glob("*.msg")) + sorted((ROOT / "srv").glob("*.srv")), ids=lambda p: p.name
)
def test_every_field_has_a_comment(path):
    listed = (ROOT / "CMakeLists.txt").read_text()
    assert f"{path.parent.name}/{path.name}" in listed
    for line in path.read_text().splitlines():
        if line and not line.startswith(("#", "---")):
            assert re.match(r"[\w/\[\]<=]+ \w+( = \S+)? +# \S", line), line


def test_rviz_shows_topics_that_exist_with_a_fitting_qos():
    shown = yaml.safe_load((ROOT / "config" / "taco.rviz").read_text())["Visualization Manager"]["Displays"]
    topics = {item["Topic"]["Value"]: item for item in shown if "Topic" in item}
    kinds = {
        "taco_node/overlay": "Image",
        "taco_node/mask_color": "Image",
        "taco_node/confidence": "Image",
        "taco_node/markers": "MarkerArray",
    }
    assert {topic: item["Class"].rpartition("/")[2] for topic, item in topics.items()} == kinds
    for item in topics.values():
        assert (item["Topic"]["Reliability Policy"], item["Topic"]["Durability Policy"]) == ("Reliable", "Volatile")


def test_loopback_profile_is_well_formed():
    tree = ET.parse(ROOT / "config" / "fastdds_loopback.xml")
    space = {"f": "http://www.eprosima.com"}
    assert tree.find(".//f:interfaceWhiteList/f:address", space).text == "127.0.0.1"
    assert int(tree.find(".//f:segment_size", space).text) >= 4 * 1280 * 720 * 3
