"""The installed node as a process, against a real publisher and subscriber."""

import time

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import DescribeParameters, GetParameters, SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64
from std_srvs.srv import SetBool, Trigger

from taco.clock import NS
from taco.palette import colour_of
from taco.types import VERDICTS
from taco_ros.conversions import stamp_to_ns
from taco_ros.msg import SoundingObjectArray, SoundingTrackArray
from taco_ros.srv import SetWords
from test.taco_ros.graph import BLUE_BOX, RED_BOX, TONES, diagnostic, wait_until

pytestmark = pytest.mark.ros


@pytest.fixture
def playing(live):
    robot, node = live
    robot.tone = TONES["red"]
    robot.play()
    robot.wait_objects("red")
    yield robot
    robot.stop_playing()


def near(box, wanted, tolerance=40):
    return all(abs(a - b) <= tolerance for a, b in zip((box.x_offset, box.y_offset, box.width, box.height), wanted))


def set_parameter(robot, name, value):
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    return robot.call(SetParameters, "taco_node/set_parameters", request).results[0]


def test_sound_chooses_the_thing(playing):
    found = playing.wait_objects("red").objects[0]
    assert near(found.bounding_box, RED_BOX) and 0.5 < found.score <= 1.0
    assert (found.mask.width, found.mask.height) == (found.bounding_box.width, found.bounding_box.height)
    assert found.mask.encoding == "mono8" and set(found.mask.data) <= {0, 255}
    playing.tone = TONES["blue"]
    other = playing.wait_objects("blue").objects[0]
    assert near(other.bounding_box, BLUE_BOX) and other.id != found.id


def test_silence_gives_empty_messages(playing):
    playing.tone = 0
    message = playing.wait_objects(empty=True)
    wait_until(lambda: playing.received[-1].level <= -100, 10, "a silent window")
    assert message.sounding_score < 0.5 and not playing.received[-1].objects


PICTURES = ("mask", "mask_color", "confidence", "overlay", "sound_map")


def test_outputs_carry_the_images_header(playing):
    topics = {name: playing.listen(Image, f"taco_node/{name}") for name in PICTURES}
    topics["overlay/compressed"] = playing.listen(CompressedImage, "taco_node/overlay/compressed")
    wait_until(lambda: all(len(messages) > 2 for messages in topics.values()), 20, "all pictures")
    sent = set(playing.sent)
    for name, messages in topics.items():
        for message in messages:
            assert stamp_to_ns(message.header.stamp) in sent and message.header.frame_id == "camera_optical", name
    for message in playing.received[-5:]:
        assert stamp_to_ns(message.header.stamp) in sent and message.header.frame_id == "camera_optical"
        assert all(thing.mask.header == message.header for thing in message.objects)
        start, end = stamp_to_ns(message.audio_window_start), stamp_to_ns(message.audio_window_end)
        assert end - start == pytest.approx(NS, abs=1000) and 0 <= stamp_to_ns(message.header.stamp) - end < 0.3 * NS
    mask, overlay, confidence = topics["mask"][-1], topics["overlay"][-1], topics["confidence"][-1]
    assert (mask.encoding, overlay.encoding, confidence.encoding) == ("mono8", "rgb8", "32FC1")
    assert (mask.height, mask.width, overlay.step, confidence.step) == (480, 640, 1920, 2560)
    tint = topics["mask_color"][-1]
    colours = np.frombuffer(tint.data, np.uint8).reshape(480, 640, 3)
    assert tint.encoding == "rgb8" and tuple(colours[200, 150]) == colour_of("red") and not colours[300, 500].any()
    small = cv2.imdecode(np.frombuffer(topics["overlay/compressed"][-1].data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    large = np.frombuffer(overlay.data, np.uint8).reshape(480, 640, 3)
    assert np.abs(small[50:250].astype(int) - large[50:250]).mean() < 8, "JPEG, red first, of the same picture"
    assert len(topics["overlay/compressed"][-1].data) < len(overlay.data) / 10
    identity = next(m for m in reversed(playing.received) if m.header.stamp == mask.header.stamp).objects[0].id
    pixels = np.frombuffer(mask.data, np.uint8).reshape(480, 640)
    assert set(np.unique(pixels)) == {0, identity} and pixels[200, 150] == identity and pixels[300, 500] == 0
    values = np.frombuffer(confidence.data, np.float32)
    assert values.min() >= 0 and 0.5 < values.max() <= 1


def test_tracks_tell_age_and_state_through_silence(playing):
    messages = playing.listen(SoundingTrackArray, "taco_node/tracks")
    identity = playing.wait_objects("red").objects[0].id

    def seen(state):
        """(track, stamp) of the thing in its newest message with this state."""
        for message in reversed(messages):
            for track in message.tracks:
                if track.id == identity and track.state == state:
                    return track, stamp_to_ns(message.header.stamp)
        return None

    first, at = wait_until(lambda: seen("sounding"), 10, "a track")
    assert (first.label, first.silent_for) == ("red", 0.0) and at in set(playing.sent)
    wait_until(lambda: seen("sounding")[1] > at, 10, "more")
    second, later = seen("sounding")
    assert second.age - first.age == pytest.approx((later - at) / NS, abs=1e-3)
    playing.tone = 0
    fading, _ = wait_until(lambda: seen("fading"), 10, "a fading track")
    assert 0 < fading.silent_for < 1.0 and fading.age > second.age
    lost, at = wait_until(lambda: seen("lost"), 10, "a lost track")
    assert lost.silent_for >= 1.0
    wait_until(lambda: stamp_to_ns(messages[-1].header.stamp) > at, 10, "the next message")
    assert all(track.id != identity for track in messages[-1].tracks)


def test_diagnostics_tell_of_everything(playing):
    messages = playing.listen(DiagnosticArray, "/diagnostics")
    wait_until(lambda: len(messages) >= 2, 10, "diagnostics")
    level, line, values = diagnostic(messages, "taco_node: stream")
    assert level == b"\x00" and line == "active"
    assert float(values["rate_hz"]) > 2 and 0 < float(values["age_p50_s"]) <= float(values["age_p95_s"]) < 2
    assert abs(float(values["skew_s"])) < 0.1 and float(values["image_ms"]) >= 5 and float(values["iterations"]) >= 1
    assert {"dropped.no_audio", "dropped.too_old", "dropped.replaced", "factorize_ms"} <= set(values)
    assert {f"verdict.{verdict}" for verdict in VERDICTS} <= set(values)
    assert values["verdict"] in VERDICTS and values["heard"]  # what the newest image gave, and what is heard
    _, line, before = diagnostic(messages, "taco_node: sound")
    wait_until(lambda: diagnostic(messages, "taco_node: sound")[2]["chunks"] != before["chunks"], 5, "more sound")
    after = diagnostic(messages, "taco_node: sound")[2]
    assert int(after["chunks"]) - int(before["chunks"]) > 20 and after["gaps"] == before["gaps"] and line.endswith("Hz")
    _, _, values = diagnostic(messages, "taco_node: models")
    assert "standin" in values["models"] and float(values["memory_mb"]) > 50
    assert diagnostic(messages, "taco_node: image")[2]["topic"] == "/image"


def test_debug_times(playing):
    topics = {
        name: playing.listen(Float64, f"taco_node/debug/{name}_ms")
        for name in ("processing_time", "pipeline_latency", "cyclic_time")
    }
    wait_until(lambda: all(len(messages) > 3 for messages in topics.values()), 10, "debug times")
    assert 5 <= topics["processing_time"][-1].data < 2000 and topics["pipeline_latency"][-1].data >= 5
    assert topics["cyclic_time"][-1].data > 20


def test_words_by_service_and_parameter(playing):
    refused = playing.call(SetWords, "taco_node/set_words", SetWords.Request(words=["purple"]))
    assert not refused.success and "purple" in refused.message
    accepted = playing.call(SetWords, "taco_node/set_words", SetWords.Request(words=["green", "blue"]))
    assert accepted.success and accepted.message == "2 words in use"
    shown = playing.call(GetParameters, "taco_node/get_parameters", GetParameters.Request(names=["models.word_bank"]))
    assert list(shown.values[0].string_array_value) == ["green", "blue"]
    playing.tone = TONES["blue"]
    found = playing.wait_objects("blue").objects[0]
    assert "red" not in [found.label, *found.other_labels]
    assert set_parameter(playing, "models.word_bank", ["red", "blue"]).successful
    playing.tone = TONES["red"]
    playing.wait_objects("red")
    assert playing.call(SetWords, "taco_node/set_words", SetWords.Request()).message == "3 words in use"


def test_pause_and_reset(playing):
    assert playing.call(SetBool, "taco_node/pause", SetBool.Request(data=True)).success
    wait_until(lambda: time.time_ns() - stamp_to_ns(playing.received[-1].header.stamp) > NS, 10, "silence of a paused node")
    assert playing.call(SetBool, "taco_node/pause", SetBool.Request(data=False)).success
    playing.wait_objects("red", 5)
    assert playing.call(Trigger, "taco_node/reset", Trigger.Request()).success
    playing.wait_objects("red", 10)


def test_parameter_services_answer_at_once(playing):
    times = []
    for _ in range(20):
        start = time.monotonic()
        playing.call(GetParameters, "taco_node/get_parameters", GetParameters.Request(names=["node.max_age_s"]))
        times.append(time.monotonic() - start)
    assert sorted(times)[10] < 0.2, times


def test_live_and_frozen_parameters(playing):
    assert set_parameter(playing, "concepts.min_score", 1.0).successful
    playing.wait_objects(empty=True)
    assert set_parameter(playing, "concepts.min_score", 0.3).successful
    playing.wait_objects("red")
    frozen = set_parameter(playing, "models.name", "paper")
    assert not frozen.successful and "cleanup" in frozen.reason
    outside = set_parameter(playing, "node.max_age_s", 1000.0)
    assert not outside.successful
    described = playing.call(
        DescribeParameters,
        "taco_node/describe_parameters",
        DescribeParameters.Request(names=["node.max_age_s", "audio.alignment"]),
    )
    ranged, chosen = described.descriptors
    assert ranged.floating_point_range[0].to_value == 60.0 and "seconds" in ranged.description or "Unit: s" in ranged.description
    assert "centered" in chosen.description


def test_rate_limit(playing):
    assert set_parameter(playing, "node.max_rate_hz", 2.0).successful
    time.sleep(0.6)  # what was under way
    before, start = len(playing.received), time.monotonic()
    wait_until(lambda: len(playing.received) >= before + 4, 10, "four slow answers")
    assert (len(playing.received) - before) / (time.monotonic() - start) < 3.0
    assert set_parameter(playing, "node.max_rate_hz", 0.0).successful


def test_bad_images_are_dropped_and_counted(playing):
    messages = playing.listen(DiagnosticArray, "/diagnostics")

    def dropped(reason):
        entry = diagnostic(messages, "taco_node: stream")
        return int(entry[2][f"dropped.{reason}"]) if entry else 0

    def bad(stamp_ns, **changes):
        message = playing.send_image(stamp_ns)
        playing.sent.pop()
        for name, value in changes.items():
            setattr(message, name, value)
        playing.image.publish(message)

    playing.stop_playing()
    try:
        for reason, stamp_ns, changes in (
            ("image_encoding", None, {"encoding": "32SC4"}),
            ("image_size", None, {"width": 641}),
            ("image_stamp", 0, {}),
            ("too_old", -5 * NS, {}),
        ):
            before = dropped(reason)

            def again(reason=reason, stamp_ns=stamp_ns, changes=changes, before=before):
                bad(0 if stamp_ns == 0 else time.time_ns() + (stamp_ns or 0), **changes)
                time.sleep(0.1)
                return dropped(reason) > before

            wait_until(again, 10, reason)
    finally:
        playing.play()
    playing.wait_objects("red")


def test_a_gap_in_the_sound_is_counted_and_passes(live):
    robot, _ = live
    messages = robot.listen(DiagnosticArray, "/diagnostics")
    robot.tone = TONES["red"]
    assert robot.call(Trigger, "taco_node/reset", Trigger.Request()).success
    wait_until(lambda: messages, 5, "diagnostics")
    dropped = int(diagnostic(messages, "taco_node: stream")[2]["dropped.audio_gap"])
    now = time.time_ns()
    for part in range(30):  # 1.5 s of sound in the past with 0.2 s missing in the middle
        if not 14 <= part < 18:
            robot.send_sound(now - (30 - part) * NS // 20, 800)
    time.sleep(0.2)  # sound and images travel apart
    robot.send_image(now)
    wait_until(lambda: int(diagnostic(messages, "taco_node: stream")[2]["dropped.audio_gap"]) == dropped + 1, 10, "a gap")
    assert all(stamp_to_ns(message.header.stamp) != now for message in robot.received)


def test_clocks_that_differ_are_told_and_put_right(live):
    robot, _ = live
    messages = robot.listen(DiagnosticArray, "/diagnostics")
    robot.tone, robot.sound_offset_ns = TONES["red"], 2 * NS
    assert robot.call(Trigger, "taco_node/reset", Trigger.Request()).success
    robot.play()
    try:

        def told():
            entry = diagnostic(messages, "taco_node: stream")
            return entry if entry and entry[0] > b"\x00" and "next: set audio.offset_s to -" in entry[1] else None

        _, line, values = wait_until(told, 15, "the skew")
        assert line.startswith("no answer for ") and float(values["skew_s"]) == pytest.approx(2.0, abs=0.3)
        assert set_parameter(robot, "audio.offset_s", -2.0).successful
        assert robot.call(Trigger, "taco_node/reset", Trigger.Request()).success
        robot.wait_objects("red")
    finally:
        robot.stop_playing()
        robot.sound_offset_ns = 0
        assert set_parameter(robot, "audio.offset_s", 0.0).successful


def test_message_is_readable_by_name(playing):
    message: SoundingObjectArray = playing.wait_objects("red")
    assert message.get_fields_and_field_types()["objects"] == "sequence<taco_ros/SoundingObject>"
    assert -15 < message.level < -10 and 0 <= message.sounding_score <= 1
