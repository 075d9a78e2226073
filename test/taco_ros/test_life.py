"""Life of the node: transitions, failures, laziness, simulated time, several cameras, orientation, compressed input."""

import time

import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from taco.clock import NS
from taco_ros.conversions import compressed_message, image_message, ns_to_stamp, stamp_to_ns
from taco_ros.msg import SoundingObjectArray
from test.taco_ros.graph import RED_BOX, Robot, diagnostic, parameters, scene_image, wait_until

pytestmark = pytest.mark.ros
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = (
    Transition.TRANSITION_CONFIGURE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_ACTIVATE,
    Transition.TRANSITION_DEACTIVATE,
)


def change(robot, transition, name="taco_node"):
    request = ChangeState.Request(transition=Transition(id=transition))
    return robot.call(ChangeState, f"{name}/change_state", request, 40).success


def state(robot):
    return robot.call(GetState, "taco_node/get_state", GetState.Request()).current_state.label


def test_a_whole_life(start, robot):
    node = start("taco_node", *parameters(models__image="standin:5", node__autostart=False))
    assert state(robot) == "unconfigured"
    assert not change(robot, ACTIVATE)  # not possible from here: answered, survived
    assert change(robot, CONFIGURE) and state(robot) == "inactive"
    assert robot.image.get_subscription_count() == 0
    assert change(robot, ACTIVATE) and state(robot) == "active"
    robot.wait_matched()
    robot.play()
    robot.wait_objects("red")

    assert change(robot, DEACTIVATE)
    wait_until(lambda: robot.image.get_subscription_count() == 0, 10, "unsubscribed")
    count = len(robot.received)
    begin = time.monotonic()
    assert change(robot, ACTIVATE)
    assert time.monotonic() - begin < 1.0  # the models stayed
    wait_until(lambda: len(robot.received) > count, 10, "answers again")
    assert change(robot, DEACTIVATE) and change(robot, CLEANUP) and state(robot) == "unconfigured"
    assert "models freed" in node.log
    assert change(robot, CONFIGURE) and change(robot, ACTIVATE)
    robot.wait_objects("red")
    assert node.stop() == 0 and "Traceback" not in node.log, node.log


def test_failures_leave_it_usable(start, robot):
    given = parameters(models__image="standin:5", audio__window="2.0", node__autostart=True)
    node = start("taco_node", *given)
    node.wait_log("configure failed: unknown setting audio.window; did you mean audio.window_s?")
    assert state(robot) == "unconfigured" and node.log.count("[ERROR]") == 1 and "Traceback" not in node.log
    assert not change(robot, CONFIGURE)
    assert robot.call(GetParameters, "taco_node/get_parameters", GetParameters.Request(names=["audio.window_s"])).values


def test_bad_words_fail_configure_and_can_be_put_right(start, robot):
    node = start("taco_node", *parameters(models__image="standin:5", models__word_bank="[red, purple]"))
    node.wait_log("configure failed")
    assert "purple" in node.log and state(robot) == "unconfigured"
    request = SetParameters.Request(parameters=[Parameter("models.word_bank", value=["red", "blue"]).to_parameter_msg()])
    assert robot.call(SetParameters, "taco_node/set_parameters", request).results[0].successful
    assert change(robot, CONFIGURE) and change(robot, ACTIVATE)
    robot.wait_matched()


def test_no_camera_is_told_with_the_topics_that_are_there(start, robot):
    other = robot.node.create_publisher(Image, "front/image_raw", 1)
    messages = robot.listen(DiagnosticArray, "/diagnostics")
    node = start("taco_node", *parameters(models__image="standin:5", node__no_image_warning_s=1.0), "-r", "image:=front/image")
    node.wait_log("no image on /front/image for")
    assert "(publishers: 0); image topics found: /front/image_raw" in node.log
    level, line, _ = wait_until(
        lambda: (e := diagnostic(messages, "taco_node: image")) and e[0] == b"\x01" and e, 10, "a warning"
    )
    assert line.startswith("no image on /front/image for")
    robot.node.destroy_publisher(other)


def test_lazy_subscribes_only_while_somebody_listens(start, tmp_path, domain):
    node = start("taco_node", *parameters(models__image="standin:5", node__lazy=True))
    node.wait_log("lazy: waiting for a listener")
    robot = Robot(domain, objects="nothing")
    try:
        time.sleep(0.5)
        assert robot.image.get_subscription_count() == 0
        listener = robot.node.create_subscription(SoundingObjectArray, "taco_node/objects", robot._on_objects, 10)
        robot.wait_matched()
        robot.play()
        robot.wait_objects("red")
        robot.node.destroy_subscription(listener)
        wait_until(lambda: robot.image.get_subscription_count() == 0, 30, "unsubscribed")
    finally:
        robot.close()


def test_incompatible_qos_is_told_with_the_fix(start, domain):
    robot = Robot(domain, image_reliability=ReliabilityPolicy.BEST_EFFORT)
    try:
        override = ["-p", "qos_overrides./image.subscription.reliability:=reliable"]
        node = start("taco_node", *parameters(models__image="standin:5"), *override)
        node.wait_log("qos_overrides./image.subscription.reliability")
        assert "a publisher of /image cannot reach this node: its reliability QoS" in node.log
    finally:
        robot.close()


def test_simulated_time_and_loops(start, domain):
    robot = Robot(domain)
    clock = robot.node.create_publisher(Clock, "/clock", QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT))
    try:
        node = start("taco_node", *parameters(models__image="standin:5", use_sim_time=True, node__max_age_s=0.4))
        robot.wait_matched()
        wait_until(clock.get_subscription_count, 10, "the clock's subscriber")

        def bag(seconds, speed):
            """A replay from 5 s on: stamps and clock start over every time."""
            begin = time.monotonic()
            for step in range(round(seconds * 20)):
                now_ns = 5 * NS + step * NS // 20
                time.sleep(max(0.0, begin + step / 20 / speed - time.monotonic()))
                clock.publish(Clock(clock=ns_to_stamp(now_ns)))
                robot.send_sound(now_ns - NS // 20, 800, step * 800)
                if step % 2 == 0:
                    robot.send_image(now_ns)

        for speed in (1.0, 4.0, 2.0):
            count = len(robot.received)
            bag(max(3.0, 1.5 * speed), speed)  # 1.5 s of real time at least: a busy machine answers few images
            wait_until(lambda count=count: len(robot.received) >= count + 5, 5, f"answers at speed {speed}")
        stamps = [stamp_to_ns(message.header.stamp) for message in robot.received]
        assert sum(later < earlier for earlier, later in zip(stamps, stamps[1:])) == 2  # three rounds
        assert max(stamps) < 11 * NS and robot.received[-1].objects[0].label == "red"
        # at the turn of a loop an image may overtake the clock; within a round none is old
        assert "time jumped back" in node.log and node.log.count("[too_old") <= 2
    finally:
        robot.close()


def test_centered_windows_wait_for_their_sound(start, robot):
    start("taco_node", *parameters(models__image="standin:5", audio__alignment="centered", audio__window_s=0.6))
    robot.wait_matched()
    robot.play()
    message = robot.wait_objects("red")
    start_ns, end_ns = stamp_to_ns(message.audio_window_start), stamp_to_ns(message.audio_window_end)
    assert (start_ns + end_ns) / 2 == pytest.approx(stamp_to_ns(message.header.stamp), abs=1_000_000)
    count, begin = len(robot.received), time.monotonic()
    wait_until(lambda: len(robot.received) >= count + 10, 20, "a stream")
    assert 10 / (time.monotonic() - begin) > 3
    assert 0.3 < np.median(robot.ages_s[-10:]) < 1.0


def test_rotated_camera_and_compressed_images(start, domain):
    given = parameters(models__image="standin:5", node__image_transport="compressed", node__rotation=90, node__mirror=True)
    start("taco_node", *given, "-r", "image:=/front/image_raw")
    robot = Robot(domain)
    publisher = robot.node.create_publisher(CompressedImage, "/front/image_raw/compressed", robot.best_effort)
    masks = robot.listen(Image, "taco_node/mask")
    robot.send_image = lambda stamp_ns: publisher.publish(
        compressed_message(scene_image(), "jpeg", Header(stamp=ns_to_stamp(stamp_ns), frame_id="front"))
    )
    try:
        wait_until(publisher.get_subscription_count, 30, "the node")
        robot.play()
        box = robot.wait_objects("red").objects[0].bounding_box
        assert np.abs(np.array([box.x_offset, box.y_offset, box.width, box.height]) - RED_BOX).max() < 40
        wait_until(lambda: masks, 10, "a mask")
        assert (masks[-1].height, masks[-1].width, masks[-1].header.frame_id) == (480, 640, "front")
    finally:
        robot.close()


def test_several_cameras_share_one_sound(start, robot):
    start(
        "taco_node",
        *parameters(models__image="standin:5", node__cameras="[front, rear]"),
        "-r",
        "__ns:=/robot1",
        "-r",
        "/robot1/audio:=/audio",
    )
    names = ("front", "rear")
    answers = {name: robot.listen(SoundingObjectArray, f"/robot1/taco_node/{name}/objects") for name in names}
    publishers = {name: robot.node.create_publisher(Image, f"/robot1/{name}/image", robot.best_effort) for name in names}
    pictures = {"front": scene_image(), "rear": scene_image()[:, ::-1].copy()}

    def send(stamp_ns):
        for name, publisher in publishers.items():
            publisher.publish(image_message(pictures[name], "rgb8", Header(stamp=ns_to_stamp(stamp_ns), frame_id=name)))

    robot.send_image = send
    wait_until(lambda: all(p.get_subscription_count() for p in publishers.values()), 30, "the node")
    robot.play(image_hz=8)
    found = {name: wait_until(lambda name=name: next((m for m in answers[name] if m.objects), None), 20, name) for name in names}
    for name, message in found.items():
        assert message.header.frame_id == name and message.objects[0].label == "red"
    x_front, x_rear = (found[name].objects[0].bounding_box.x_offset for name in names)
    assert abs(x_front - 50) < 40 and abs(x_rear - 390) < 40
