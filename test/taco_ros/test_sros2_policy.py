"""The SROS2 policy: its form, and that it allows each node what the node has, and nothing else."""

import xml.etree.ElementTree as ElementTree

import pytest
from rclpy.node import Node

from test.taco_ros.graph import ROOT, parameters

FILE = ROOT / "config" / "sros2" / "policy.xml"
# Elements and attributes of SROS2's policy schema, version 0.2.0: element -> (children, attributes).
SCHEMA = {
    "policy": ({"enclaves"}, {"version"}),
    "enclaves": ({"enclave"}, set()),
    "enclave": ({"profiles"}, {"path"}),
    "profiles": ({"profile"}, set()),
    "profile": ({"topics", "services"}, {"ns", "node"}),
    "topics": ({"topic"}, {"publish", "subscribe"}),
    "services": ({"service"}, {"reply", "request"}),
    "topic": (set(), set()),
    "service": (set(), set()),
}


def allowed(node: str, rule: str) -> set[str]:
    """Full names that the policy allows a node in the root namespace. rule: publish, subscribe, reply or request."""
    profile = ElementTree.parse(FILE).find(f".//profile[@node='{node}']")
    names = [entry.text for group in profile if group.get(rule) == "ALLOW" for entry in group]
    return {name.replace("~/", f"/{node}/") if name.startswith("~/") else f"/{name.removeprefix('/')}" for name in names}


def test_the_policy_is_of_sros2s_form():
    root = ElementTree.parse(FILE).getroot()
    assert root.tag == "policy" and root.get("version") == "0.2.0"
    assert {profile.get("node") for profile in root.iter("profile")} == {"taco_node", "microphone", "player"}
    assert [enclave.get("path") for enclave in root.iter("enclave")] == ["/taco/taco_node", "/taco/microphone", "/taco/player"]
    for element in root.iter():
        children, attributes = SCHEMA[element.tag]
        assert {child.tag for child in element} <= children and set(element.attrib) <= attributes, element.tag
        assert bool(len(element)) == bool(children), f"{element.tag} {element.attrib} is empty"
        if not children:
            assert element.text and element.text == element.text.strip() and "*" not in element.text
        if element.tag in ("topics", "services"):
            assert set(element.attrib.values()) == {"ALLOW"}


@pytest.mark.ros
def test_a_running_node_needs_nothing_that_the_policy_does_not_allow(start, robot):
    node = start("taco_node", *parameters(models__image="standin:5"))
    node.wait_log("active")
    robot.play()
    robot.wait_objects("red")
    assert isinstance(robot.node, Node)
    used = {
        "publish": robot.node.get_publisher_names_and_types_by_node("taco_node", "/"),
        "subscribe": robot.node.get_subscriber_names_and_types_by_node("taco_node", "/"),
        "reply": robot.node.get_service_names_and_types_by_node("taco_node", "/"),
        "request": robot.node.get_client_names_and_types_by_node("taco_node", "/"),
    }
    for rule, found in used.items():
        names = {name for name, _ in found}
        assert names <= allowed("taco_node", rule), (rule, names - allowed("taco_node", rule))
    own = {name for name in allowed("taco_node", "publish") if name.startswith("/taco_node/")}
    optional = {"/taco_node/bearing", "/taco_node/target_pose", "/taco_node/markers", "/taco_node/detections"}
    assert own - optional <= {name for name, _ in used["publish"]}, own
