"""How the node's process ends: at once when told to, whenever that is, and with an error where its models' thread is lost."""

import random
import signal
import time
from pathlib import Path

import pytest
from lifecycle_msgs.msg import Transition

from test.taco_ros.graph import parameters, wait_until
from test.taco_ros.test_life import change

pytestmark = pytest.mark.ros
COMPLAINTS = ("Traceback", "context is invalid", "Failed to publish log message", "Error", "never awaited")
IMAGE_LIMIT_S = 60.0


def faulty(start, tmp_path, **settings):
    """A node whose faults stand in the file returned."""
    file = tmp_path / "faults"
    settings = {"models__image": "standin:5", **settings}
    return start("taco_node", *parameters(**settings), environment={"TACO_FAULTS": str(file)}), file


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("image stuck", "the models' thread hangs: an image is in work for"),
        ("thread exit", "the models' thread has died: SystemExit"),
    ],
)
def test_a_lost_models_thread_ends_the_process_with_an_error(fault, line, start, robot, tmp_path):
    node, file = faulty(start, tmp_path, node__stuck_s=1.0)
    robot.wait_matched(60)
    robot.play()
    robot.wait_objects("red", 60)
    file.write_text(fault)
    assert node.wait(60) == 1
    (fatal,) = [text for text in node.log.splitlines() if "[FATAL]" in text]
    assert line in fatal and fatal.endswith("the process ends, for a supervisor to start it again")
    assert not any(word in node.log.replace(fatal, "") for word in COMPLAINTS), node.log


def test_models_slower_than_the_limit_are_slow_and_not_hung(start, robot):
    node = start("taco_node", *parameters(models__image="standin:1800", node__stuck_s=1.0))
    robot.wait_matched(60)
    robot.play()
    robot.wait_objects("red", 60)
    robot.wait_objects("red", 60)
    assert "it counts as hung after" in node.log and "[FATAL]" not in node.log, node.log
    assert node.stop(40) == 0, node.log


def test_a_stuck_model_keeps_neither_ctrl_c_nor_a_transition_waiting(start, robot, tmp_path):
    node, file = faulty(start, tmp_path)
    robot.wait_matched(60)
    robot.play()
    robot.wait_objects("red", 60)
    file.write_text("image stuck")
    time.sleep(1.0)
    assert change(robot, Transition.TRANSITION_DEACTIVATE)
    cleanup = robot.node.create_client(*_cleanup())
    cleanup.call_async(_request())
    time.sleep(1.0)
    begin = time.monotonic()
    assert node.stop(40) == 0 and time.monotonic() - begin < 20, node.log  # 2 s for each of thread, callbacks and pool
    assert node.log.count("given up, as the node ends") == 1, node.log
    assert not any(word in node.log for word in COMPLAINTS), node.log


def _cleanup():
    from lifecycle_msgs.srv import ChangeState

    return ChangeState, "taco_node/change_state"


def _request():
    from lifecycle_msgs.srv import ChangeState

    return ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CLEANUP))


def test_ctrl_c_at_any_moment_ends_the_node_quietly(start, robot):
    """From the first imports until images are answered: status 130 before the program has begun, 0 from then on."""
    robot.play()
    chance = random.Random()
    begin = time.monotonic()
    statuses, longest_s = set(), 4.0
    for _ in range(8):
        node = start("taco_node", *parameters(models__image="standin:5"))
        maps = Path(f"/proc/{node.process.pid}/maps")
        wait_until(lambda maps=maps: "rclpy" in maps.read_text() or "numpy" in maps.read_text(), 60, "the first imports")
        time.sleep(chance.uniform(0.0, longest_s))
        begun = "[taco_node]" in node.log
        statuses.add(status := node.stop(30))
        assert status in ((0,) if begun else (0, 130)), (status, node.log)
        assert not any(word in node.log for word in COMPLAINTS), node.log
        if time.monotonic() - begin > IMAGE_LIMIT_S:
            break


def test_sigterm_while_models_load_ends_the_node_quietly(start):
    node = start("taco_node", *parameters(models__image="standin:5"))
    wait_until(lambda: "libtorch" in Path(f"/proc/{node.process.pid}/maps").read_text(), 60, "torch")
    node.process.send_signal(signal.SIGTERM)
    assert node.wait(30) in (0, -signal.SIGTERM)
    assert not any(word in node.log for word in COMPLAINTS), node.log


@pytest.mark.parametrize("name", ("taco_node", "microphone", "player"))
def test_a_log_folder_that_cannot_be_written_is_one_line(name, start, tmp_path):
    (tmp_path / "file").touch()
    arguments = [tmp_path] if name == "player" else []
    process = start(name, *arguments, environment={"ROS_LOG_DIR": str(tmp_path / "file" / "logs")})
    assert process.wait(60) == 1
    (line,) = process.log.splitlines()
    assert line.startswith(f"{name}: ROS: failed to initialize logging") and "next: let ROS_LOG_DIR name a folder" in line
