"""Bearings and poses over the real middleware: the installed node, the manual's example, the viewers."""

import os
import sys
import time

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, Vector3Stamped
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from taco.config import TargetsConfig
from taco_ros.conversions import image_message, ns_to_stamp, stamp_to_ns
from taco_ros.targets import Targets
from test import ROOT
from test.taco_ros.graph import RED_BOX, TONES, parameters, wait_until
from test.taco_ros.made_targets import camera_info, depth_image, header, result, thing, vector

pytestmark = pytest.mark.ros


@pytest.fixture
def context(domain):
    import rclpy

    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    yield context
    rclpy.try_shutdown(context=context)


def test_over_the_real_middleware(context):
    """Calibration and depth come over topics, bearing and pose leave over topics with the promised QoS."""
    import rclpy
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.qos import QoSProfile, ReliabilityPolicy

    node = rclpy.create_node("targets_under_test", context=context)
    peer = rclpy.create_node("robot", context=context)
    reliable = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
    warnings, got = [], {"bearing": [], "target_pose": []}
    create = lambda kind, topic, depth: node.create_publisher(kind, topic, reliable)  # noqa: E731
    targets = Targets(node, create, "~/", "", TargetsConfig, None, lambda *line: warnings.append(line))
    targets.start()
    info, depth = peer.create_publisher(CameraInfo, "camera_info", 5), peer.create_publisher(Image, "depth", 5)
    peer.create_subscription(Vector3Stamped, "targets_under_test/bearing", got["bearing"].append, reliable)
    peer.create_subscription(PoseStamped, "targets_under_test/target_pose", got["target_pose"].append, reliable)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    executor.add_node(peer)
    deadline, t = time.monotonic() + 20, 1.0
    while time.monotonic() < deadline and not got["target_pose"]:
        t += 0.1
        info.publish(camera_info())
        depth.publish(depth_image(t, 3.0))
        for _ in range(6):
            executor.spin_once(timeout_sec=0.02)
        targets.publish(result(t, thing()))
        for _ in range(4):
            executor.spin_once(timeout_sec=0.02)
    pose = got["target_pose"][0]
    assert pose.pose.position.z == pytest.approx(3.0) and stamp_to_ns(pose.header.stamp) > 0
    assert [m.header for m in got["bearing"]].count(pose.header) == 1
    targets.stop()
    executor.shutdown()
    node.destroy_node()
    peer.destroy_node()


def test_the_installed_node_tells_where_the_sound_is(live):
    """Camera, calibration, depth, sound in; bearing, pose, place, markers out under the image's header; silence ends them."""
    robot, node = live
    info = robot.node.create_publisher(CameraInfo, "camera_info", robot.best_effort)
    depth = robot.node.create_publisher(Image, "depth", robot.best_effort)
    bearings, poses, arrays = (
        robot.listen(kind, f"taco_node/{name}", 1)
        for kind, name in ((Vector3Stamped, "bearing"), (PoseStamped, "target_pose"), (MarkerArray, "markers"))
    )
    wait_until(lambda: info.get_subscription_count() and depth.get_subscription_count(), 20, "the node's inputs")
    metres = np.full((480, 640), 4.0, np.float32)
    metres[:, :320] = 2.0  # the red thing is on the left
    send = robot.send_image

    def send_all(stamp_ns, *arguments):
        head = Header(stamp=ns_to_stamp(stamp_ns), frame_id=robot.frame_id)
        k = [600.0, 0.0, 319.5, 0.0, 600.0, 239.5, 0.0, 0.0, 1.0]
        info.publish(CameraInfo(header=head, height=480, width=640, distortion_model="plumb_bob", d=[0.0] * 5, k=k))
        depth.publish(image_message(metres, "32FC1", head))
        return send(stamp_ns, *arguments)

    robot.send_image, robot.tone = send_all, TONES["red"]
    robot.play()
    try:
        wait_until(lambda: len(poses) > 5 and len(arrays) > 5, 40, "poses and markers")
        sent, pose, bearing = set(robot.sent), poses[-1], bearings[-1]
        assert {stamp_to_ns(m.header.stamp) for m in [*poses, *bearings]} <= sent
        assert pose.header.frame_id == bearing.header.frame_id == robot.frame_id
        x, y = (RED_BOX[0] + RED_BOX[2] / 2 - 320) / 600, (RED_BOX[1] + RED_BOX[3] / 2 - 240) / 600
        wanted = np.array([x, y, 1.0]) / np.linalg.norm([x, y, 1.0])
        assert vector(bearing.vector) @ wanted > np.cos(np.radians(2))
        assert vector(pose.pose.position) == pytest.approx(2.0 * np.array([x, y, 1.0]), abs=0.1)
        placed = [m for m in robot.received if m.objects and m.objects[0].place]
        assert placed and placed[-1].objects[0].place[0].point.z == pytest.approx(2.0, abs=0.05)
        assert {marker.ns for marker in arrays[-1].markers} == {"bearing", "label", "target"}
        robot.tone = 0
        robot.wait_objects(empty=True)
        time.sleep(0.3)
        count = len(poses)
        time.sleep(1.0)
        assert len(poses) == count, "silence publishes no old pose again"
    finally:
        robot.send_image = send
        robot.stop_playing()


def test_the_pan_tilt_example_of_the_manual_runs(context, domain, tmp_path):
    """The code block of docs/targets.md, as a process: a bearing in, a point 2 m along it out."""
    import re
    import subprocess

    import rclpy
    from geometry_msgs.msg import PointStamped
    from rclpy.executors import SingleThreadedExecutor

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/targets.md").read_text(), re.S)
    (code,) = (block for block in blocks if "look_at_sound" in block)
    (tmp_path / "look.py").write_text(code)
    env = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    process = subprocess.Popen([sys.executable, str(tmp_path / "look.py")], env=env)
    peer, got = rclpy.create_node("head", context=context), []
    try:
        bearings = peer.create_publisher(Vector3Stamped, "taco_node/bearing", 1)
        peer.create_subscription(PointStamped, "look_at", got.append, 1)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(peer)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not got:
            message = Vector3Stamped(header=header(7.0))
            message.vector.x, message.vector.z = 0.6, 0.8
            bearings.publish(message)
            executor.spin_once(timeout_sec=0.1)
        executor.shutdown()
    finally:
        process.kill()  # on Kilted (rclpy 9.1.2) one in four rclpy.spin does not notice a SIGTERM
        process.wait()
        peer.destroy_node()
    assert vector(got[0].point) == pytest.approx([1.2, 0, 1.6]) and got[0].header == header(7.0)


def test_the_foxglove_layout_names_topics_that_are_published():
    import json
    import re

    text = (ROOT / "config/taco.foxglove.json").read_text()
    layout = json.loads(text)
    source = "".join((ROOT / "taco_ros" / name).read_text() for name in ("outputs.py", "targets.py", "node.py"))
    for topic in set(re.findall(r'"/taco_node/([\w/]+)', text)):
        assert f'"{topic}"' in source or topic.startswith("debug/") and f'"{topic[6:]}"' in source, topic

    def panels(part):
        return {part} if isinstance(part, str) else panels(part["first"]) | panels(part["second"])

    assert panels(layout["layout"]) == set(layout["configById"])
    fields = (ROOT / "msg/SoundingObjectArray.msg").read_text()
    for field in re.findall(r'"/taco_node/objects\.(\w+)', text):
        assert re.search(rf"\b{field}\b", fields), field


def test_a_viewer_without_its_package_is_one_line(start, tmp_path):
    (tmp_path / "rerun.py").write_text("raise ImportError('not here')\n")
    arguments = parameters(models__image="standin:5", node__viewer="rerun")
    node = start("taco_node", *arguments, environment={"PYTHONPATH": str(tmp_path)})
    node.wait_log("configure failed: the viewer needs rerun-sdk; `pip install rerun-sdk`")
    assert "Traceback" not in node.log
