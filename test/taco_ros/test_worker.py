"""The models' thread outlives every fault; where it cannot, nobody waits for it and the process ends."""

import subprocess
import sys
import threading
import time

import pytest

from taco.config import TacoConfig
from taco.errors import ConfigError, TacoError
from taco.mailbox import PendingImage
from taco_ros.worker import Worker
from test import ROOT
from test.taco_ros.graph import wait_until


def image(number=0):
    return PendingImage("", None, number, number)


class Thread:
    """A worker with what it did and complained of."""

    def __init__(self, process=None, ready=lambda item: True, limit_s=60.0):
        self.done, self.errors = [], []
        self.worker = Worker(process or self.done.extend, ready, self.errors.append, limit_s)
        self.worker.start()

    def does(self, number=1):
        """Whether it still takes images."""
        self.worker.mailbox.put(image(number))
        wait_until(lambda: any(item.stamp_ns == number for item in self.done), 10, "the image")


@pytest.fixture
def thread():
    made = []

    def make(*arguments, **options):
        made.append(Thread(*arguments, **options))
        return made[-1]

    yield make
    for one in made:
        one.worker.stop(0.1)


FAULTS = (RuntimeError, MemoryError, SystemExit, KeyboardInterrupt, OverflowError)


@pytest.mark.parametrize("kind", FAULTS)
def test_a_fault_while_processing_or_in_a_job_costs_that_one(kind, thread):
    def process(batch):
        if batch[0].stamp_ns == 7:
            raise kind("on purpose")
        one.done.extend(batch)

    one = thread(process)
    one.worker.mailbox.put(image(7))
    wait_until(lambda: one.errors, 10)
    with pytest.raises(kind):
        one.worker.call(process, [image(7)]).result(10)
    one.does(1)
    assert [type(error) for error in one.errors] == [kind] and one.worker.problem() == ""


def test_every_job_that_waits_is_done(thread):
    one, gate = thread(), threading.Event()
    first = one.worker.call(gate.wait, 10)
    others = [one.worker.call(str, number) for number in range(3)]
    gate.set()
    assert [first.result(10), *(job.result(10) for job in others)] == [True, "0", "1", "2"]


@pytest.mark.parametrize("kind", FAULTS)
def test_an_image_whose_turn_cannot_be_told_is_taken_and_never_stays(kind, thread):
    def ready(item):
        if item.stamp_ns == 7:
            raise kind("on purpose")
        return True

    one = thread(ready=ready)
    one.does(7)
    one.does(1)
    assert [type(error) for error in one.errors] == [kind]


def test_a_fault_of_the_loop_itself_passes(thread):
    one = thread()
    take, fails = one.worker.mailbox.take, [RuntimeError("on purpose")]
    one.worker.mailbox.take = lambda ready: (_ for _ in ()).throw(fails.pop()) if fails else take(ready)
    one.does(1)
    assert len(one.errors) == 1


def test_the_next_start_follows_the_present_interval(thread):
    one = thread()
    one.worker.interval_s = 1000.0
    one.does(1)
    one.worker.mailbox.put(image(2))
    time.sleep(0.3)
    assert len(one.done) == 1
    one.worker.interval_s = 0.0
    wait_until(lambda: len(one.done) == 2, 10, "the second image")


@pytest.mark.parametrize("rate_hz", (1e-10, 5e-324, 0.0099))
def test_a_rate_that_is_a_slip_is_refused(rate_hz):
    with pytest.raises(ConfigError, match="node.max_rate_hz: wanted 0 or 0.01 to 1000 Hz, got"):
        TacoConfig().updated({"node.max_rate_hz": rate_hz})
    for good in (0.0, 0.01, 1000.0):
        assert TacoConfig().updated({"node.max_rate_hz": good}).node.max_rate_hz == good


def test_a_dead_thread_is_told_and_nobody_waits_for_it(thread):
    one = thread()
    hold = threading.Event()
    first = one.worker.call(hold.wait, 10)
    waiting = one.worker.call(lambda: "never")
    one.worker.mailbox.take = lambda ready: (_ for _ in ()).throw(SystemExit("on purpose"))
    one.worker._refuse_jobs()  # as at its end
    with pytest.raises(RuntimeError, match="has stopped"):
        waiting.result(1)
    hold.set()
    one.worker.join(10)
    assert one.worker.problem() == "the models' thread has died: SystemExit: on purpose"
    with pytest.raises(RuntimeError, match="has stopped"):
        one.worker.call(lambda: "never")
    assert first.done()


def test_who_waits_when_the_thread_dies_is_told(thread):
    one, waiting = thread(), []

    def dies(ready):
        waiting.append(one.worker.call(lambda: "never"))
        raise SystemExit("on purpose")

    one.worker.mailbox.take = dies
    one.worker.mailbox.put(image(1))
    one.worker.join(10)
    with pytest.raises(RuntimeError, match="has stopped"):
        waiting[0].result(1)


def test_a_job_waits_for_what_was_begun_before_it(thread):
    one = thread()
    one.worker.call(time.sleep, 1.0, limit_s=20.0)
    wait_until(lambda: one.worker.work, 10)
    assert one.worker.wait_for(lambda: "done", limit_s=0.1) == "done", "its own limit counts from its own start"


def test_a_hung_thread_is_told_and_every_wait_for_it_has_an_end(thread):
    hold = threading.Event()
    one = thread(lambda batch: hold.wait(30), limit_s=0.2)
    one.worker.mailbox.put(image(1))
    wait_until(lambda: one.worker.work, 10)
    assert [item.stamp_ns for item in one.worker.work.images] == [1]
    start = time.monotonic()
    with pytest.raises(TacoError, match=r"wanted an answer within 0\.1 s, got none"):
        one.worker.wait_for(lambda: "never", limit_s=0.1)
    assert time.monotonic() - start < 5
    wait_until(one.worker.problem, 10)
    assert one.worker.problem().startswith("the models' thread hangs: an image is in work for ")
    waiting = one.worker.call(lambda: "never")
    assert one.worker.stop(0.1) is False and one.worker.problem() == ""
    with pytest.raises(RuntimeError, match="has stopped"):
        waiting.result(1)
    hold.set()


def test_stopping_lets_go_of_who_waits_for_the_job_that_runs(thread):
    one, hold = thread(), threading.Event()
    running = one.worker.call(hold.wait, 30)
    wait_until(lambda: one.worker.work, 10)
    one.worker.stop(0.1)
    with pytest.raises(RuntimeError, match="has stopped"):
        running.result(1)
    hold.set()


def test_a_jobs_own_limit_counts(thread):
    one, hold = thread(limit_s=0.05), threading.Event()
    future = one.worker.call(hold.wait, 30, limit_s=1000.0)
    wait_until(lambda: one.worker.work, 10)
    time.sleep(0.2)
    assert one.worker.problem() == ""  # loading may take longer than an image
    hold.set()
    assert future.result(10)


PROGRAM = """
import time
from taco_ros import watchdog
watchdog.END_S = 0.2
dog = watchdog.Watchdog(lambda: "it hangs", lambda line: print(line, flush=True))
dog.start()
time.sleep(60)
"""


def test_a_process_that_does_not_end_in_order_is_ended():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=50, cwd=ROOT)
    assert (done.returncode, done.stdout) == (1, "it hangs\n")


FROZEN = """
import re
from taco_ros import watchdog
watchdog.FROZEN_S = 1.0
watchdog.Watchdog(lambda: "", print).start()
import time; time.sleep(1.5)
re.match("(a+)+b", "a" * 60)  # holds the interpreter for longer than anybody lives
"""


def test_a_process_whose_interpreter_is_held_is_ended_too():
    done = subprocess.run([sys.executable, "-c", FROZEN], capture_output=True, text=True, timeout=50, cwd=ROOT)
    assert done.returncode == 1 and "Timeout (0:00:01)!" in done.stderr


def test_a_watchdog_that_was_stopped_ends_nobody():
    """The fault handler's own clock goes on where it isn't told."""
    stopped = "dog.stop()\ndog.join()\ntime.sleep(2)\nprint('well')\n"
    program = PROGRAM.replace("END_S = 0.2", "FROZEN_S = 1.0").replace('lambda: "it hangs"', 'lambda: ""')
    program = program.replace("time.sleep(60)\n", "time.sleep(0.8)\n" + stopped)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50, cwd=ROOT)
    assert (done.returncode, done.stdout) == (0, "well\n"), done.stderr
