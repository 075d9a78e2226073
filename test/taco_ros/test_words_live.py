"""Words of a running node: refused where the parameter is set, never read from files, and no file's lines come back."""

import os

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.parameter import Parameter

from taco_ros.srv import SetWords
from test.taco_ros.graph import parameters

pytestmark = pytest.mark.ros


def set_words(robot, *words):
    return robot.call(SetWords, "taco_node/set_words", SetWords.Request(words=words))


def set_parameter(robot, *words):
    kind = Parameter.Type.STRING_ARRAY
    request = SetParameters.Request(parameters=[Parameter("models.word_bank", kind, list(words)).to_parameter_msg()])
    return robot.call(SetParameters, "taco_node/set_parameters", request).results[0]


def shown(robot):
    answer = robot.call(GetParameters, "taco_node/get_parameters", GetParameters.Request(names=["models.word_bank"]))
    return list(answer.values[0].string_array_value)


def change(robot, transition):
    request = ChangeState.Request(transition=Transition(id=transition))
    return robot.call(ChangeState, "taco_node/change_state", request, 60).success


def test_a_running_node_takes_words_and_no_files(start, robot, tmp_path):
    (tmp_path / "words.txt").write_text("hunter2\n")
    os.mkfifo(tmp_path / "pipe.txt")
    node = start("taco_node", *parameters(models__image="standin:5"))
    node.wait_log("configured")
    refused = set_parameter(robot, "aardvark")
    assert not refused.successful and "'aardvark'" in refused.reason and shown(robot) == []
    for path in ("words.txt", "pipe.txt", "nothing.txt"):
        path = str(tmp_path / path)
        for message in (set_words(robot, path).message, set_parameter(robot, path).reason):
            assert message.startswith("models.word_bank: wanted words, got ") and "\n" not in message
    for path in ("/etc/passwd", "/etc/no-such-file", "/dev/zero"):  # the same line, whether it is there or not
        assert set_words(robot, path).message.endswith("a file of words is read at configure only")
    assert set_parameter(robot, "red", "blue").successful and shown(robot) == ["red", "blue"]
    assert set_words(robot, "red").message == "1 words in use" and shown(robot) == ["red"]
    assert set_parameter(robot, "").successful  # the way back, as docs/ros.md tells
    assert set_words(robot).message == "3 words in use"
    assert "hunter2" not in node.log and "Traceback" not in node.log and node.stop() == 0


def test_a_file_of_words_at_configure_is_not_echoed(start, robot, tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("red\nhunter2\n")
    node = start("taco_node", *parameters(models__image="standin:5", models__word_bank=f"['{path}']"))
    node.wait_log("configure failed: models.word_bank: wanted words that the models know")
    path.unlink()
    path.symlink_to("/etc/passwd")
    assert not change(robot, Transition.TRANSITION_CONFIGURE)
    node.wait_log("got a line 1 that is none")
    path.unlink()
    os.mkfifo(path)
    assert not change(robot, Transition.TRANSITION_CONFIGURE)
    node.wait_log("got a pipe or a device")
    path.unlink()
    path.write_text("# robots\nred\nblue\n")
    assert change(robot, Transition.TRANSITION_CONFIGURE)
    node.wait_log("; 2 words;")
    assert not any(secret in node.log for secret in ("hunter2", "root:", "Traceback"))
