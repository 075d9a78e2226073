"""Two microphones and two cameras on the same topics, participants of their own: the node listens to one of each and says so."""

import threading
import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

from test.taco_ros.graph import TONES, Robot, diagnostic, parameters, wait_until

pytestmark = pytest.mark.ros


@pytest.mark.timeout(180)
def test_the_first_is_listened_to_until_it_falls_silent(start, robot, domain):
    told = robot.listen(DiagnosticArray, "/diagnostics")
    node = start("taco_node", *parameters(models__image="standin:5"))
    node.wait_log("active")
    robot.wait_matched()
    robot.play()
    robot.wait_objects("red", 30)
    rival = Robot(domain)
    try:
        rival.tone, rival.frame_id = TONES["blue"], "other_camera"
        rival.wait_matched()
        rival.play()
        wait_until(lambda: rival.sent and len(rival.sent) > 10, 20, "the rival's images")
        seen = len(robot.received)
        time.sleep(3.0)
        answers = robot.received[seen:]
        assert len(answers) > 15
        assert {(answer.header.frame_id, answer.objects[0].label) for answer in answers if answer.objects} == {
            ("camera_optical", "red")
        }

        def warned(name):
            level, line, values = diagnostic(told, name) or (None, "", {})
            return level == DiagnosticStatus.WARN and "2 publishers (/robot)" in line and int(values["strangers"]) > 0 and line

        for name, topic in ((": image", "/image"), (": sound", "/audio")):
            assert wait_until(lambda name=name: warned(name), 20, f"a warning on {name}").startswith(topic)
        robot.stop_playing()
        answer = robot.wait_objects("blue", 30)
        assert answer.header.frame_id == "other_camera"
        assert threading.active_count() < 50 and "Traceback" not in node.log
    finally:
        rival.close()
