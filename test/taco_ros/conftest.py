import os
import signal

import pytest

from test.taco_ros.graph import Process, Robot, middleware, parameters, reserved_domain


@pytest.fixture(scope="session", autouse=True)
def environment(tmp_path_factory):
    """For this process and for all that it starts."""
    os.environ |= middleware(tmp_path_factory.mktemp("ros_log"))
    os.environ.pop("RMW_IMPLEMENTATION", None)


@pytest.fixture(autouse=True)
def interruptible():
    """A program that runs in this process leaves ctrl-C to ROS; pytest wants it back."""
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def domain():
    with reserved_domain() as number:
        yield number


@pytest.fixture
def start(tmp_path, domain):
    """start(executable, *arguments) runs it in this test's domain; ends it at the end of the test."""
    running = []

    def starter(executable, *arguments, **options):
        running.append(Process(executable, *arguments, domain=domain, folder=tmp_path, **options))
        return running[-1]

    yield starter
    for process in running:
        process.stop()
        print(f"--- {process.log_file.name}\n{process.log}")  # pytest shows it where the test failed


@pytest.fixture
def robot(domain):
    """A robot in this test's domain."""
    robot = Robot(domain)
    yield robot
    robot.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """(robot, node process) that the tests of a module share: stand-in models, active."""
    with reserved_domain() as number:
        robot = Robot(number)
        node = Process("taco_node", *parameters(models__image="standin:5"), domain=number, folder=tmp_path_factory.mktemp("node"))
        try:
            node.wait_log("active")
            robot.wait_matched()
            yield robot, node
            assert node.stop() == 0, node.log
            assert "Traceback" not in node.log, node.log
        finally:
            robot.close()
            node.stop()
