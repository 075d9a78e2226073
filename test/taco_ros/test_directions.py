"""Sound directions as messages: what is read, in whose frame, and two equal things in view of the installed node."""

import dataclasses
import math
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from geometry_msgs.msg import Vector3, Vector3Stamped
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from taco.clock import NS
from taco.config import DirectionConfig, TacoConfig
from taco_ros import directions as module
from taco_ros.conversions import MessageError, ns_to_stamp
from taco_ros.directions import DirectionInput, directions_of_sources, directions_of_vector, in_camera
from taco_ros.live import Result
from test.taco_ros.graph import ROOT, TONES, built, parameters, wait_until
from test.taco_ros.made_targets import Bench, header, result, thing

pytestmark = pytest.mark.ros
ODAS = {
    "OdasSst": "int64 id\nfloat64 x\nfloat64 y\nfloat64 z\nfloat64 activity",
    "OdasSstArrayStamped": "std_msgs/Header header\nodas_ros_msgs/OdasSst[] sources",
}
HRI = {
    "IdsList": "std_msgs/Header header\nstring[] ids",
    "NormalizedRegionOfInterest2D": "std_msgs/Header header\nfloat32 xmin\nfloat32 ymin\nfloat32 xmax\nfloat32 ymax\nfloat32 c",
}


def towards(t, x, y, z, frame="camera_optical_frame"):
    return Vector3Stamped(header=header(t, frame), vector=Vector3(x=float(x), y=float(y), z=float(z)))


def test_a_vector_has_its_length_as_weight_and_nonsense_is_refused():
    found = directions_of_vector(towards(5.0, 0, 0, 0.5))
    assert (found.stamp_ns, found.frame_id) == (5 * NS, "camera_optical_frame")
    assert found.vectors.tolist() == [[0, 0, 0.5]] and found.weights.tolist() == [0.5]
    assert directions_of_vector(towards(5.0, 3, 4, 0)).weights.tolist() == [1.0]
    for bad, reason in (((5.0, 0, 0, 0), "direction"), ((5.0, math.nan, 0, 1), "direction"), ((0.0, 1, 0, 0), "direction_stamp")):
        with pytest.raises(MessageError) as error:
            directions_of_vector(towards(*bad))
        assert error.value.reason == reason


def test_the_sources_of_odas_have_their_activity_as_weight_and_empty_places_are_skipped():
    places = ((1, 0, 0, 0.5), (0, 0, 0, 0.0), (0, 1, 0, 7.0), (0, 0, 1, 0.0), (math.nan, 0, 1, 0.9))
    sources = [SimpleNamespace(x=x, y=y, z=z, activity=a) for x, y, z, a in places]
    found = directions_of_sources(SimpleNamespace(header=header(5.0, "array"), sources=sources))
    assert found.vectors.tolist() == [[1, 0, 0], [0, 1, 0]] and found.weights.tolist() == [0.5, 1.0]
    assert len(directions_of_sources(SimpleNamespace(header=header(5.0), sources=[])).weights) == 0


@pytest.fixture
def array(monkeypatch):
    """A DirectionInput without middleware."""
    monkeypatch.setattr(module.Subscription, "__init__", lambda self, *args: setattr(self, "_warn", args[-1]))
    said = []
    made = DirectionInput(None, DirectionConfig(), None, lambda reason, line: said.append(reason))
    made.said = said
    made.start = made.stop = lambda: None
    return made


def test_what_came_within_the_window_is_used_and_a_new_time_line_forgets_it(array):
    for t in (1.0, 2.0, 3.0, 4.0):
        array._on_message(towards(t, 0, 0, 1))
    array._on_message(towards(2.5, 0, 0, 0))
    assert [item.stamp_ns for item in array.within(2 * NS, 3 * NS)] == [2 * NS, 3 * NS] and array.said == ["direction"]
    array.reset()
    assert array.within(0, 9 * NS) == []


def test_directions_are_turned_into_the_cameras_frame_once_a_frame():
    asked = []

    def lookup(target, source, stamp):
        asked.append((target, source))
        return np.array([9.0, 9, 9]), (
            0.5,
            -0.5,
            0.5,
            0.5,
        )  # a body (x forward, z up) to the optical frame that looks the same way

    found = [
        directions_of_vector(towards(5.0, *v, frame)) for *v, frame in ((1, 1, 0, "array"), (1, -1, 0, "array"), (1, 0, 1, "cam"))
    ]
    angles, _ = in_camera(found, DirectionConfig(), Header(frame_id="cam"), lookup)
    assert angles == pytest.approx([-math.pi / 4, math.pi / 4, math.pi / 4]) and asked == [("cam", "array")]
    angles, _ = in_camera(found[:1], DirectionConfig(mount="fixed", yaw_deg=-90.0), Header(frame_id="cam"), None)
    assert angles == pytest.approx([math.pi / 4]) and len(asked) == 1


def test_what_the_sound_does_not_come_from_is_left_out_with_its_track(monkeypatch, array):
    bench = Bench(monkeypatch, directions=array)
    made = result(5.0, thing(4, id=1), thing(52, id=2))
    whole = Result("", made.header, None, made.scene, (SimpleNamespace(id=1), SimpleNamespace(id=2), SimpleNamespace(id=3)))
    assert bench.targets.directed(whole, TacoConfig()) is whole, "no direction, no change"
    array._on_message(towards(4.9, math.tan(0.4), 0, 1))
    narrow = TacoConfig().updated({"direction.tolerance_deg": 5.0})
    out = bench.targets.directed(whole, narrow)
    assert [item.id for item in out.scene.objects] == [2] and [track.id for track in out.tracks] == [2, 3]
    late = dataclasses.replace(whole, scene=dataclasses.replace(made.scene, window_start_ns=5 * NS, window_end_ns=6 * NS))
    assert bench.targets.directed(late, narrow) is late, "directions of another time"
    bench.targets.reset()
    assert bench.targets.directed(whole, narrow) is whole


def test_directions_without_their_transform_or_a_calibration_change_nothing_and_are_told(monkeypatch, array):
    def lookup(target, source, stamp):
        raise MessageError("tf_missing", f"no frame {source}")

    bench = Bench(monkeypatch, SimpleNamespace(lookup=lookup), directions=array)
    made = result(5.0, thing(4, id=1))
    whole = Result("", made.header, None, made.scene)
    array._on_message(towards(4.9, 1, 0, 0, "elsewhere"))
    assert bench.targets.directed(whole, TacoConfig()) is whole and bench.reasons == ["tf_missing"]
    assert bench.warnings[0][1] == "sound_direction: no frame elsewhere"
    bench.targets._on_info(None)
    assert bench.targets.directed(whole, TacoConfig()) is whole and bench.reasons[1:] == ["no_camera_info"]


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "odas_ros_msgs.msg", None)
    with pytest.raises(MessageError, match=r"direction.type odas: wanted the package odas_ros_msgs, got none"):
        DirectionInput(None, DirectionConfig(type="odas"), None, None)


def two_red_squares():
    rgb = np.full((480, 640, 3), 90, np.uint8)
    rgb[140:340, 40:200] = rgb[140:340, 440:600] = (220, 20, 20)
    return rgb


@pytest.fixture
def watching(robot):
    """A robot that sees two equal red squares, hears their tone, and knows its camera."""
    robot.rgb, robot.tone = two_red_squares(), TONES["red"]
    info = robot.node.create_publisher(CameraInfo, "camera_info", 5)
    send = robot.send_image

    def send_all(stamp_ns, *arguments):
        head = Header(stamp=ns_to_stamp(stamp_ns), frame_id=robot.frame_id)
        k = [600.0, 0.0, 319.5, 0.0, 600.0, 239.5, 0.0, 0.0, 1.0]
        info.publish(CameraInfo(header=head, height=480, width=640, distortion_model="plumb_bob", d=[0.0] * 5, k=k))
        return send(stamp_ns, *arguments)

    robot.send_image = send_all
    yield robot
    robot.stop_playing()


def sides(message) -> set[str]:
    """Where the outlined pixels of the newest answer are."""
    out = set()
    for item in message.objects:
        box = item.bounding_box
        columns = np.flatnonzero(np.frombuffer(item.mask.data, np.uint8).reshape(box.height, box.width).any(0)) + box.x_offset
        out |= {"left"} if (columns < 320).any() else set()
        out |= {"right"} if (columns >= 320).any() else set()
    return out


def test_two_equal_things_in_view_are_told_apart_by_a_vector(start, watching):
    start("taco_node", *parameters(models__image="standin:5", direction__mount="fixed", direction__tolerance_deg=5.0))
    array = watching.node.create_publisher(Vector3Stamped, "sound_direction", 10)
    watching.wait_matched()
    watching.play()
    wait_until(lambda: watching.received and sides(watching.received[-1]) == {"left", "right"}, 40, "both, without a direction")
    for heading, wanted in ((0.31, "left"), (-0.31, "right")):  # rad, counter-clockwise

        def send(heading=heading):
            vector = Vector3(x=math.cos(heading), y=math.sin(heading))
            array.publish(Vector3Stamped(header=Header(stamp=watching.node.get_clock().now().to_msg()), vector=vector))
            return sides(watching.received[-1])

        wait_until(lambda send=send, wanted=wanted: send() == {wanted}, 30, f"the one on the {wanted}")


@pytest.mark.timeout(240)
def test_the_sources_of_odas_and_the_messages_for_people(start, watching, tmp_path):
    both = [built("odas_ros_msgs", "odas", ODAS), built("hri_msgs", "hri", HRI)]
    environment = {key: ":".join(one[key] for one in both) for key in both[0]}
    given = parameters(models__image="standin:5", direction__type="odas", direction__mount="fixed", direction__tolerance_deg=5.0)
    node = start("taco_node", *given, "-p", 'targets.speaker_words:=["red"]', environment=environment)
    script = ROOT / "test" / "taco_ros" / "odas_publisher.py"
    odas = start(script, math.cos(0.31), math.sin(-0.31), 0.3, environment=environment, interpreter=sys.executable)
    speakers = watching.listen(Vector3Stamped, "taco_node/speaker", 1)
    watching.wait_matched()
    watching.play()
    wait_until(lambda: watching.received and sides(watching.received[-1]) == {"right"}, 40, f"the right one\n{node.log}")
    wait_until(lambda: speakers and speakers[-1].vector.x > 0.2, 20, "a bearing to the right")
    wait_until(lambda: re.search(r"region 0\.(6|7)\d 0\.\d\d (0\.9\d|1\.00) 0\.\d\d True", odas.log), 20, f"a region: {odas.log}")
    assert re.search(r"speakers \['\d+'\]", odas.log)
