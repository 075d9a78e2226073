"""Newest wins, nothing piles up, one thread does the work."""

import threading
import time

import pytest
from ros_help import wait_until

from taco_ros.mailbox import Mailbox, Pending, Worker
from taco_ros.statistics import Statistics


def image(stamp, camera=""):
    return Pending(camera, object(), stamp, 0)


def test_newest_wins():
    box = Mailbox()
    for stamp in (1, 2, 3):
        box.put(image(stamp))
    assert [item.stamp_ns for item in box.take()] == [3] and box.replaced == 2 and not box.take()


def test_one_place_for_every_camera():
    box = Mailbox()
    for stamp, camera in ((1, "front"), (2, "rear"), (3, "front")):
        box.put(image(stamp, camera))
    assert {item.camera: item.stamp_ns for item in box.take()} == {"front": 3, "rear": 2}


def test_held_images_wait_until_ready():
    box = Mailbox(hold=4)
    for stamp in (1, 2, 3, 4, 5):
        box.put(image(stamp))
    assert box.replaced == 1 and not box.take(lambda item: False)
    assert [item.stamp_ns for item in box.take(lambda item: item.stamp_ns <= 3)] == [3] and box.replaced == 2
    assert len(box) == 2
    box.clear()
    assert not len(box)


@pytest.fixture
def worker():
    made = []

    def make(**options):
        made.append(Worker(**options))
        made[-1].start()
        return made[-1]

    yield make
    for each in made:
        each.stop()
        assert not each.is_alive()


def test_work_stays_on_one_thread_and_jobs_come_first(worker):
    seen, gate = [], threading.Event()

    def process(batch):
        gate.wait(5)
        seen.append((threading.current_thread().name, batch[0].stamp_ns))

    thread = worker(process=process)
    thread.mailbox.put(image(1))
    wait_until(lambda: not len(thread.mailbox))
    for stamp in (2, 3):
        thread.mailbox.put(image(stamp))
    job = thread.call(lambda: seen.append(("job", threading.current_thread().name)))
    gate.set()
    job.result(5)
    wait_until(lambda: len(seen) == 3)
    assert seen == [("models", 1), ("job", "models"), ("models", 3)] and thread.mailbox.replaced == 1


def test_faults_are_told_and_survived(worker):
    told, done = [], []

    def process(batch):
        if batch[0].stamp_ns == 1:
            raise ValueError("broken")
        done.append(batch[0].stamp_ns)

    thread = worker(process=process, on_error=told.append)
    thread.mailbox.put(image(1))
    wait_until(lambda: told)
    thread.mailbox.put(image(2))
    wait_until(lambda: done == [2])
    with pytest.raises(KeyError):
        thread.call({}.__getitem__, "x").result(5)
    thread.stop()
    with pytest.raises(RuntimeError):
        thread.call(print)


def test_rate_limit(worker):
    times = []
    thread = worker(process=lambda batch: times.append(time.monotonic()))
    thread.interval_s = 0.1
    end = time.monotonic() + 0.55
    while time.monotonic() < end:
        thread.mailbox.put(image(1))
        time.sleep(0.005)
    assert 4 <= len(times) <= 6 and min(b - a for a, b in zip(times, times[1:])) > 0.095


def test_statistics_over_a_window():
    now = [0.0]
    statistics = Statistics(lambda: now[0])
    for index in range(200):
        now[0] = index * 0.1
        statistics.sample("image", float(index % 10))
    assert statistics.rate("image") == pytest.approx(10) and len(statistics.values("image")) <= 101
    assert statistics.percentile("image", 0.5) == 5 and statistics.percentile("image", 0.95) == 9
    assert statistics.percentile("none", 0.5) is None and statistics.rate("none") == 0 and statistics.silence_s("none") is None
    now[0] += 3
    assert statistics.silence_s("image") == pytest.approx(3)
    statistics.forget()
    assert statistics.values("image") == []


def test_the_same_complaint_is_made_now_and_then():
    now = [0.0]
    statistics = Statistics(lambda: now[0])
    said = [statistics.may_log("gap") for now[0] in (0.0, 1.0, 4.9, 5.1, 6.0)]
    assert said == [True, False, False, True, False] and statistics.may_log("other")
