"""Bearings, target poses and markers: what they say, when they are silent, and what a follower makes of them."""

import dataclasses
import math
import sys
import types
from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, Vector3Stamped
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from visualization_msgs.msg import Marker, MarkerArray

from taco import geometry
from taco.clock import NS
from taco.types import SoundingObject
from taco_ros.conversions import MessageError, ns_to_stamp, stamp_to_ns
from taco_ros.targets import depth_metres
from taco_ros.transforms import Transforms
from test.taco_ros.made_targets import SIZE, Bench, camera_info, depth_image, header, thing, vector

pytestmark = pytest.mark.ros


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def test_topics_are_reliable_depth_one_and_named_as_promised(bench):
    kinds = {name: (kind, depth) for name, (kind, depth, _) in bench.topics.items()}
    directions = {f"~/{name}": (Vector3Stamped, 1) for name in ("bearing", "speaker")}
    assert kinds == directions | {"~/target_pose": (PoseStamped, 1), "~/markers": (MarkerArray, 1)}


def test_a_bearing_without_range_and_no_pose(bench):
    assert bench.see(5.0, thing()) == {}
    (message,) = bench.sent("bearing")
    assert message.header == header(5.0)
    wanted = np.array([(43.5 - 32) / 50, (23.5 - 24) / 50, 1.0])
    assert vector(message.vector) == pytest.approx(wanted / np.linalg.norm(wanted))
    assert bench.sent("target_pose") == [] and bench.warnings == []


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
def test_a_pose_with_depth_lies_on_the_bearing_and_looks_along_it(bench, encoding):
    bench.targets._on_depth(depth_image(5.02, 3.0, encoding=encoding))
    places = bench.see(5.0, thing())
    (bearing,), (pose,) = bench.sent("bearing"), bench.sent("target_pose")
    at = vector(pose.pose.position)
    assert at[2] == pytest.approx(3.0, abs=1e-3) and np.cross(at, vector(bearing.vector)) == pytest.approx([0, 0, 0], abs=1e-6)
    assert pose.header == header(5.0) and places[1].header == header(5.0) and vector(places[1].point) == pytest.approx(at)
    o = pose.pose.orientation
    assert geometry.rotate(np.array([1.0, 0, 0]), (o.x, o.y, o.z, o.w)) == pytest.approx(vector(bearing.vector), abs=1e-6)


def test_a_thing_without_an_outline_has_a_bearing_and_no_range(bench):
    bench.targets._on_depth(depth_image(5.0, 3.0))
    bench.targets._on_depth(depth_image(6.0, 3.0))
    outlined = thing(20)
    bare = SoundingObject.from_box(outlined.box, SIZE, outlined.labels, outlined.score, outlined.id)
    assert set(bench.see(5.0, outlined)) == {outlined.id} and bench.see(6.0, bare) == {}
    with_outline, without = (vector(message.vector) for message in bench.sent("bearing"))
    assert np.abs(np.subtract(with_outline, without)).max() < 0.02 and bench.warnings == []
    assert len(bench.sent("target_pose")) == 1


def test_silence_and_loss_publish_nothing_old(bench):
    bench.targets._on_depth(depth_image(1.0, 3.0))
    bench.see(1.0, thing())
    for t in (1.1, 1.2, 2.5):
        bench.see(t)
    assert len(bench.sent("bearing")) == len(bench.sent("target_pose")) == 1


def test_two_equal_sources_do_not_make_it_dither(bench):
    for i in range(40):
        bench.see(i / 10, thing(5, id=1, score=0.70), thing(50, id=2, score=0.70 + 0.1 * (-1) ** i))
    directions = {round(vector(m.vector)[0], 3) for m in bench.sent("bearing")}
    assert len(bench.sent("bearing")) == 40 and len(directions) == 1


def person(x=40, id=2, score=0.6, word="person"):
    return dataclasses.replace(thing(x, id=id, score=score), labels=((word, 0.7),))


def test_the_bearing_of_a_speaker_is_published_beside_that_of_the_target(bench):
    bench.see(1.0, thing(5, score=0.9), person(40), person(20, id=3, score=0.5))
    (target,), (speaker,) = bench.sent("bearing"), bench.sent("speaker")
    assert vector(target.vector)[0] < -0.3 and vector(speaker.vector) == pytest.approx(
        np.array([11.5, -0.5, 50]) / np.linalg.norm([11.5, -0.5, 50])
    )
    assert speaker.header == header(1.0)
    bench.see(1.1, thing(5, score=0.9))
    bench.see(1.2, person(score=0.29))
    assert len(bench.sent("speaker")) == 1, "a dog is none, nor is a person below min_score"


def test_words_and_frame_of_a_speaker_are_settings(monkeypatch):
    tf = Tf((1.0, 2.0, 0.5), FROM_OPTICAL)
    bench = Bench(monkeypatch, tf, target_frame="odom", speaker_words=("woman", "man"))
    bench.see(5.0, person(28, word="woman"))
    bench.see(5.1, person(28))
    (speaker,) = bench.sent("speaker")
    assert speaker.header == header(5.0, "odom") and vector(speaker.vector) == pytest.approx([1, 0, 0], abs=0.02)


def test_minimum_score(monkeypatch):
    bench = Bench(monkeypatch, min_score=0.9)
    bench.see(1.0, thing(score=0.89))
    assert bench.sent("bearing") == []


@pytest.mark.parametrize(
    ("message", "reason", "says"),
    [
        (depth_image(5.0, 3.0, (24, 32)), "depth", "wanted 64 x 48 px like the camera's image, got 32 x 24"),
        (depth_image(5.5, 3.0), "depth_stamp", r"got one \+0.50 s from it"),
        (depth_image(5.0, math.nan), "depth", "got 0"),
        (depth_image(5.0, 0.0), "depth", "got 0"),
        (depth_image(5.0, 3.0, encoding="16UC1").__class__(header=header(5.0), encoding="rgb8"), "depth_encoding", "got 'rgb8'"),
        (Image(header=header(5.0), height=48, width=64, encoding="32FC1", step=256), "depth_size", "0 bytes"),
    ],
)
def test_bad_depth_is_told_and_leaves_the_bearing(bench, message, reason, says):
    bench.targets._on_depth(message)
    assert bench.see(5.0, thing()) == {}
    assert bench.reasons == [reason]
    assert __import__("re").search(says, bench.warnings[0][1])
    assert len(bench.sent("bearing")) == 1 and bench.sent("target_pose") == []


@pytest.mark.parametrize(
    ("info", "reason", "says"),
    [
        (None, "no_camera_info", "remap `camera_info`"),
        (camera_info((0.0,) * 9), "camera_info", "wanted a calibrated camera"),
        (CameraInfo(height=64, width=48, k=camera_info().k), "camera_info", "another camera's"),
        (CameraInfo(height=48, width=64, k=camera_info().k, distortion_model="x", d=[1.0]), "camera_info", "wanted distortion"),
    ],
)
def test_bad_calibration_is_told_and_nothing_is_published(bench, info, reason, says):
    bench.targets._on_info(info)
    bench.see(5.0, thing())
    assert bench.reasons == [reason] and says in bench.warnings[0][1]
    assert bench.sent("bearing") == [] and bench.sent("target_pose") == []


def test_a_camera_without_calibration_is_told_once_until_the_next_activation(bench):
    bench.targets._on_info(None)
    for i in range(20):
        bench.see(i, thing())
    assert bench.reasons == ["no_camera_info"] and all(not array.markers for array in bench.sent("markers"))
    bench.targets.stop()
    bench.see(21, thing())
    assert bench.reasons == ["no_camera_info"] * 2


def test_depth_layouts():
    values = np.array([[1000, 2000], [3000, 0]], np.uint16)
    padded = np.zeros((2, 6), np.uint8)
    padded[:, :4] = values.astype(">u2").view(np.uint8).reshape(2, 4)
    message = Image(height=2, width=2, encoding="16UC1", is_bigendian=1, step=6, data=array("B", padded.tobytes()))
    assert depth_metres(message) == pytest.approx(values / 1000)
    with pytest.raises(MessageError, match="wanted 32FC1"):
        depth_metres(Image(encoding="8UC1"))


class Tf:
    """Rules of a tf buffer: known frames, and stamps between the oldest and the newest transform."""

    def __init__(self, offset=(0.0, 0, 0), turn=(0.0, 0, 0, 1), first=0.0, last=100.0):
        self.offset, self.turn, self.first, self.last, self.asked = np.array(offset), turn, first, last, []

    def lookup(self, target, source, stamp):
        self.asked.append((target, source, stamp_to_ns(stamp)))
        if {target, source} - {"odom", "camera_optical_frame", "laser"}:
            raise MessageError("tf_missing", f"no frame {target}")
        if not self.first <= stamp_to_ns(stamp) / NS <= self.last:
            raise MessageError("tf_old", "the buffer does not reach so far")
        return self.offset, self.turn


# The optical frame of a camera that looks along the robot's x axis.
FROM_OPTICAL = (-0.5, 0.5, -0.5, 0.5)


def test_target_frame_turns_bearing_and_pose_at_the_images_stamp(monkeypatch):
    tf = Tf((1.0, 2.0, 0.5), FROM_OPTICAL)
    bench = Bench(monkeypatch, tf, target_frame="odom")
    bench.targets._on_depth(depth_image(5.0, 3.0))
    places = bench.see(5.0, thing(28, 20))
    (bearing,), (pose,) = bench.sent("bearing"), bench.sent("target_pose")
    assert tf.asked == [("odom", "camera_optical_frame", 5 * NS)]
    assert bearing.header == header(5.0, "odom") and pose.header == header(5.0, "odom")
    assert vector(bearing.vector) == pytest.approx([1, 0, 0], abs=0.02)
    assert vector(pose.pose.position) == pytest.approx([4, 2, 0.5], abs=0.05)
    o = pose.pose.orientation
    assert geometry.rotate(np.array([0, 0, 1.0]), (o.x, o.y, o.z, o.w))[2] > 0.99, "z of the pose points up in odom"
    assert places[1].header.frame_id == "camera_optical_frame"


@pytest.mark.parametrize(
    ("tf", "frame", "reason"), [(Tf(), "map", "tf_missing"), (Tf(last=4.0), "odom", "tf_old"), (Tf(first=6.0), "odom", "tf_old")]
)
def test_a_missing_or_old_transform_is_told_and_nothing_goes_out_in_the_wrong_frame(monkeypatch, tf, frame, reason):
    bench = Bench(monkeypatch, tf, target_frame=frame)
    bench.targets._on_depth(depth_image(5.0, 3.0))
    bench.see(5.0, thing())
    assert bench.reasons == [reason] and bench.sent("bearing") == [] and bench.sent("target_pose") == []


def laser(t, frame="laser"):
    """A wall 3 m ahead of the laser and a thing 1.5 m ahead of it."""
    angles = np.linspace(-0.6, 0.6, 121)
    ranges = 3.0 / np.cos(angles)
    ranges[np.abs(angles) < 0.1] = 1.5
    return LaserScan(
        header=header(t, frame), angle_min=-0.6, angle_increment=0.01, range_min=0.1, range_max=30.0, ranges=array("f", ranges)
    )


def test_a_laser_gives_the_range_through_the_transform(monkeypatch):
    # laser (x forward, z up) to optical (z forward): the way back of FROM_OPTICAL.
    tf = Tf((0.0, 0.0, 0.0), (0.5, -0.5, 0.5, 0.5))
    bench = Bench(monkeypatch, tf)
    bench.targets._on_scan(laser(5.05))
    bench.see(5.0, thing(28, 20))
    (pose,) = bench.sent("target_pose")
    assert vector(pose.pose.position)[2] == pytest.approx(1.5, abs=0.02)
    assert tf.asked == [("camera_optical_frame", "laser", round(5.05 * NS))]
    bench.see(5.1, thing(5, 20))
    assert "scan" in bench.reasons or len(bench.sent("target_pose")) == 2


def test_a_laser_without_its_transform_leaves_the_bearing(monkeypatch):
    bench = Bench(monkeypatch, Tf())
    bench.targets._on_scan(laser(5.0, "other"))
    bench.see(5.0, thing())
    assert bench.reasons == ["tf_missing"] and len(bench.sent("bearing")) == 1 and bench.sent("target_pose") == []


def test_without_tf2_ros_the_line_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    bench = Bench(monkeypatch, target_frame="odom")
    bench.see(5.0, thing())
    assert bench.reasons == ["tf_package"] and "ros-$ROS_DISTRO-tf2-ros" in bench.warnings[0][1]


def test_the_adapter_asks_tf2_at_the_stamp_and_sorts_its_errors(monkeypatch):
    class TransformException(Exception):
        pass

    class ExtrapolationException(TransformException):
        pass

    asked = []

    class Buffer:
        def lookup_transform(self, target, source, at, timeout):
            asked.append((target, source, at.nanoseconds))
            if target == "old":
                raise ExtrapolationException("Lookup would require\nextrapolation")
            if target == "none":
                raise TransformException("no frame")
            xyz, q = SimpleNamespace(x=1.0, y=2.0, z=3.0), SimpleNamespace(x=0.0, y=0.0, z=0.0, w=1.0)
            return SimpleNamespace(transform=SimpleNamespace(translation=xyz, rotation=q))

    fake = types.ModuleType("tf2_ros")
    fake.Buffer, fake.TransformListener = Buffer, lambda buffer, node: None
    fake.TransformException, fake.ExtrapolationException = TransformException, ExtrapolationException
    monkeypatch.setitem(sys.modules, "tf2_ros", fake)
    transforms = Transforms(None)
    offset, turn = transforms.lookup("odom", "camera", ns_to_stamp(7 * NS + 5))
    assert asked == [("odom", "camera", 7 * NS + 5)] and list(offset) == [1, 2, 3] and list(turn) == [0, 0, 0, 1]
    for frame, reason in (("old", "tf_old"), ("none", "tf_missing")):
        with pytest.raises(MessageError) as error:
            transforms.lookup(frame, "camera", ns_to_stamp(1))
        assert error.value.reason == reason and "\n" not in str(error.value)


def test_markers_show_every_object_and_take_back_what_is_gone(bench):
    bench.targets._on_depth(depth_image(1.0, 3.0))
    bench.see(1.0, thing(10, id=1, score=0.9), thing(40, id=2, score=0.5))
    (first,) = bench.sent("markers")
    kinds = {(m.ns, m.id): m for m in first.markers}
    assert set(kinds) == {(ns, id) for ns in ("bearing", "label", "target") for id in (1, 2)}
    assert kinds["label", 1].text == "dog 0.90  3.2 m" and kinds["label", 1].type == Marker.TEXT_VIEW_FACING
    assert kinds["bearing", 1].color.a == 1.0 and kinds["bearing", 2].color.a == 0.5, "the target stands out"
    assert all(m.header == header(1.0) and m.lifetime.nanosec == 500_000_000 for m in first.markers)
    arrow = kinds["bearing", 1].points
    assert vector(arrow[0]) == pytest.approx([0, 0, 0]) and vector(arrow[1]) == pytest.approx(
        vector(kinds["target", 1].pose.position)
    )
    bench.see(1.1, thing(10, id=1))
    actions = {(m.ns, m.id): m.action for m in bench.sent("markers")[1].markers}
    assert (
        actions["bearing", 2] == actions["label", 2] == actions["target", 2] == Marker.DELETE
        and actions["bearing", 1] == Marker.ADD
    )
    bench.see(1.2)
    assert {m.action for m in bench.sent("markers")[2].markers} == {Marker.DELETE}


def test_no_work_when_nobody_listens(bench):
    for _, _, publisher in bench.topics.values():
        publisher.listeners = 0
    bench.targets._on_info(None)
    assert bench.see(1.0, thing()) == {} and bench.warnings == []


class Follower:
    """The rules of nav2's FollowObject on its pose topic: no zero stamp, newer than 2 s, transformed at the stamp into odom."""

    def __init__(self, tf, timeout_s=2.0):
        self.tf, self.timeout_s, self.pose, self.refused = tf, timeout_s, None, []

    def receive(self, message):
        if stamp_to_ns(message.header.stamp) == 0:
            self.refused.append("zero stamp")
            return
        self.pose = message

    def goal(self, now):
        """Position in odom; None when the object counts as lost."""
        if self.pose is None or now - stamp_to_ns(self.pose.header.stamp) / NS > self.timeout_s:
            return None
        offset, turn = self.tf.lookup("odom", self.pose.header.frame_id, self.pose.header.stamp)
        return geometry.rotate(vector(self.pose.pose.position), turn) + offset


def test_a_follower_drives_to_the_sound_and_stops_when_it_ends(bench):
    follower = Follower(Tf((0.0, 0, 0), FROM_OPTICAL))
    for i in range(10):
        bench.targets._on_depth(depth_image(10 + i / 10, 3.0))
        bench.see(10 + i / 10, thing(28, 20))
    for pose in bench.sent("target_pose"):
        follower.receive(pose)
    assert len(bench.sent("target_pose")) == 10 and not follower.refused
    assert follower.goal(11.0) == pytest.approx([3, 0, 0], abs=0.05)
    for i in range(30):  # silence: nothing new, so the follower gives up by its own clock
        bench.targets._on_depth(depth_image(11 + i / 10, 3.0))
        bench.see(11 + i / 10)
    assert len(bench.sent("target_pose")) == 10 and follower.goal(14.0) is None


def test_a_reset_forgets_measurements_and_target(monkeypatch):
    """A new time line may have the same stamps."""
    bench = Bench(monkeypatch, Tf((0.0, 0.0, 0.0), (0.5, -0.5, 0.5, 0.5)), hold_s=60.0)
    bench.targets._on_depth(depth_image(5.0, 3.0))
    bench.targets._on_scan(laser(5.0))
    assert set(bench.see(5.0, thing(28, 20, id=1))) == {1}
    bench.targets.reset()
    assert bench.see(5.01, thing(28, 20, id=2)) == {} and len(bench.sent("target_pose")) == 1
    assert len(bench.sent("bearing")) == 2, "another target, though the first was to be held"
