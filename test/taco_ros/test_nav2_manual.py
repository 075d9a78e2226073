"""The Nav2 set-ups of docs/targets.md: well formed, and each name one of Nav2's (read in its branch jazzy, 1.3.13)."""

import ast
import re
import xml.etree.ElementTree as ET

import pytest
import yaml

from test import ROOT

BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "docs/targets.md").read_text(), re.S)
# Ports by node, from nav2_tree_nodes.xml and BehaviorTree.CPP.
NODES = {
    "RecoveryNode": {"number_of_retries"},
    "PipelineSequence": set(),
    "Sequence": set(),
    "RateController": {"hz"},
    "KeepRunningUntilFailure": set(),
    "GoalUpdater": {"input_goal", "output_goal"},
    "ComputePathToPose": {"goal", "path", "planner_id", "error_code_id"},
    "TruncatePath": {"distance", "input_path", "output_path"},
    "FollowPath": {"path", "controller_id", "error_code_id"},
    "ClearEntireCostmap": {"service_name"},
    "Wait": {"wait_duration"},
}
# Parameters that the server and its controller declare.
FOLLOWING = """
    controller_frequency detection_timeout rotate_to_object_timeout static_object_timeout linear_tolerance angular_tolerance
    max_retries base_frame fixed_frame desired_distance skip_orientation search_by_rotating search_angle transform_tolerance
    odom_topic odom_duration filter_coef controller
"""
CONTROLLER = "k_phi k_delta beta lambda v_linear_min v_linear_max v_angular_max slowdown_radius use_collision_detection"


def block(kind: str, word: str) -> str:
    (found,) = (text for language, text in BLOCKS if language == kind and word in text)
    return found


def test_the_tree_is_made_of_nodes_and_ports_that_jazzy_has():
    root = ET.fromstring(block("xml", "GoalUpdater"))
    assert root.tag == "root" and root.get("BTCPP_format") == "4"
    trees = {tree.get("ID"): tree for tree in root.findall("BehaviorTree")}
    assert root.get("main_tree_to_execute") in trees
    written, read = {"goal"}, set()
    for tree in trees.values():
        for node in [child for child in tree.iter() if child is not tree]:
            assert set(node.attrib) <= NODES[node.tag] | {"name"}, node.tag
            outputs = {
                name for name in node.attrib if name.startswith("output") or (node.tag, name) == ("ComputePathToPose", "path")
            }
            for name, value in node.attrib.items():
                if value.startswith("{") and not name.startswith("error_code"):
                    (written if name in outputs else read).add(value.strip("{}"))
    assert read <= written, "every value of the blackboard that is read is written by a node"


def test_the_parameters_are_those_that_the_servers_declare():
    server = yaml.safe_load(block("yaml", "following_server"))
    ours = server["following_server"]["ros__parameters"]
    assert (
        set(ours) <= set(FOLLOWING.split())
        and set(ours["controller"]) <= set(CONTROLLER.split())
        and ours["controller"]["use_collision_detection"] is False
    )
    assert server["lifecycle_manager_following"]["ros__parameters"] == {"autostart": True, "node_names": ["following_server"]}
    moving = yaml.safe_load(block("yaml", "goal_updater_topic"))
    assert moving["bt_navigator"]["ros__parameters"] == {"goal_updater_topic": "/taco_node/target_pose"}


def test_the_launch_file_starts_what_the_parameters_are_for():
    text = block("python", "opennav_following")
    calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Node"]
    names = [next(item.value.value for item in call.keywords if item.arg == "name") for call in calls]
    assert names == list(yaml.safe_load(block("yaml", "following_server")))


def test_the_launch_file_is_one_that_launch_takes(tmp_path):
    pytest.importorskip("launch_ros")
    path = tmp_path / "following.launch.py"
    path.write_text(block("python", "opennav_following"))
    space = {"__file__": str(path)}
    exec(compile(path.read_text(), path, "exec"), space)
    assert len(space["generate_launch_description"]().entities) == 2
