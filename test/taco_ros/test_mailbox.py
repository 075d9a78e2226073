"""Newest wins, nothing piles up, one thread does the work."""

import threading
import time

import pytest

from taco.mailbox import Mailbox, PendingImage
from taco_ros.diagnostics import Statistics
from taco_ros.worker import Worker
from test.taco_ros.graph import wait_until


def image(stamp, camera=""):
    return PendingImage(camera, object(), stamp, 0)


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
    box = Mailbox(capacity=4)
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
    assert len(statistics._samples["image"]) <= 101  # what is older is not kept
    now[0] += 3
    assert statistics.silence_s("image") == pytest.approx(3)
    statistics.forget()
    assert statistics.values("image") == []


def test_the_same_complaint_is_made_now_and_then():
    now = [0.0]
    statistics = Statistics(lambda: now[0])
    said = [statistics.may_log("gap") for now[0] in (0.0, 1.0, 4.9, 5.1, 6.0)]
    assert said == [True, False, False, True, False] and statistics.may_log("other")


class Camera:
    """Puts images into a mailbox by a clock that is set by hand."""

    def __init__(self, **options):
        self.now = 100.0
        self.box = Mailbox(clock=lambda: self.now, **options)

    def plays(self, period, count, name="", jitter=()):
        """``count`` images; all but the last are taken at once."""
        for index in range(count):
            self.box.take()
            self.now += period + (jitter[index % len(jitter)] if jitter else 0.0)
            self.box.put(image(int(self.now * 1000), name))

    def later(self, seconds):
        self.now += seconds
        return self.box.wait_s()


def test_a_waiting_image_gives_way_to_the_next_where_that_is_due_sooner():
    camera = Camera()
    camera.plays(0.1, 10)
    assert camera.later(0.0) == 0  # just come: taken at once
    assert camera.later(0.03) == 0  # the next one is 70 ms away
    assert camera.later(0.04) == pytest.approx(0.03, abs=0.004)  # ... 30 ms away: fresher by 70
    camera.now += 0.03
    camera.box.put(image(1))
    assert camera.box.wait_s() == 0 and camera.box.replaced == 1


def test_nobody_waits_for_an_image_that_is_late_or_unsteady():
    camera = Camera()
    camera.plays(0.1, 10)
    assert camera.later(0.09) > 0 and camera.later(0.02) == 0 and camera.later(1.0) == 0  # late, then lost
    camera = Camera()
    camera.plays(0.1, 12, jitter=(0.0, 0.05, -0.06))
    assert camera.later(0.09) == 0
    camera = Camera()
    camera.plays(0.1, 3)
    assert camera.later(0.09) == 0  # too few to tell
    camera = Camera(capacity=5)
    camera.plays(0.1, 10)
    assert camera.later(0.09) == 0  # waits for its sound already


def test_one_slip_does_not_unsettle_a_steady_camera():
    camera = Camera()
    camera.plays(0.1, 6)
    camera.plays(0.2, 1)
    camera.plays(0.1, 2)
    assert camera.later(0.08) > 0


def test_cameras_that_expose_together_are_taken_together():
    camera = Camera()
    for _ in range(10):
        camera.plays(0.097, 1, "front")
        camera.plays(0.003, 1, "rear")
    camera.box.take()
    camera.now += 0.097
    camera.box.put(image(1, "front"))
    assert 0 < camera.box.wait_s() < 0.01  # the other one comes in 3 ms
    camera.now += 0.003
    camera.box.put(image(1, "rear"))
    assert camera.box.wait_s() == 0 and len(camera.box.take()) == 2


def test_waiting_has_an_end_however_many_cameras_there_are():
    camera = Camera()
    for _ in range(10):
        for name in "abcd":
            camera.plays(0.025, 1, name)
    start, waited = camera.now, 0
    while (wait := camera.later(0.0)) > 0 and waited < 100:
        camera.now += wait
        waited += 1
        camera.box.put(image(1, "abcd"[waited % 4]))
    assert camera.now - start < 0.06


def test_once_the_wait_is_over_nothing_more_is_waited():
    """A negative wait would end at once and begin again, and the models' thread would do nothing else."""
    camera = Camera()
    for _ in range(10):
        for period, name in ((0.092, "a"), (0.004, "b"), (0.004, "c")):
            camera.plays(period, 1, name)
    camera.box.take()
    camera.now += 0.092
    camera.box.put(image(1, "a"))
    assert camera.box.wait_s() > 0
    camera.now += 0.008  # longer than was meant: the machine is busy
    assert camera.box.wait_s() == 0


def test_what_was_to_be_waited_is_not_waited_again_for_the_next_camera():
    """The second is due 4 ms after the first, the third 4 ms after the second: together they would cost 11 ms."""
    camera = Camera()
    for _ in range(10):
        for period, name in ((0.092, "a"), (0.004, "b"), (0.004, "c")):
            camera.plays(period, 1, name)
    camera.box.take()
    camera.now += 0.092
    camera.box.put(image(1, "a"))
    assert camera.box.wait_s() == pytest.approx(0.007)
    camera.now += 0.004
    camera.box.put(image(2, "b"))
    assert camera.box.wait_s() == pytest.approx(0.003)
    camera.box.take()
    camera.box.put(image(3, "b"))
    assert camera.box.wait_s() == pytest.approx(0.007), "what was taken waits no more"


def processed(thread, done):
    """Image numbers that a 170 ms job takes from a 10 Hz camera, once the camera's rhythm is known, without the last."""
    start = time.monotonic()
    for index in range(1, 16):
        time.sleep(max(0.0, start + 0.1 * index - time.monotonic()))
        thread.mailbox.put(image(index))
    wait_until(lambda: done and done[-1] == 15, 5)
    return done[4:-1]


def test_the_thread_waits_for_the_fresher_image(worker):
    """Taken at once, images of 70, 40 and 10 ms age alternate (6 8 9 11 13 14); now only those that just came are taken."""
    for _ in range(3):  # a machine that is too busy to keep 10 Hz tells nothing
        done = []

        def process(batch, done=done):
            done.append(batch[0].stamp_ns)
            time.sleep(0.17)

        numbers = processed(worker(process=process), done)
        if len(numbers) > 2 and {later - earlier for earlier, later in zip(numbers, numbers[1:])} == {2}:
            return
    raise AssertionError(f"three times it took {done}")
