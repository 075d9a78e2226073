"""Hand-over of images from cameras to the models' thread: the newest image wins, nothing piles up.

A waiting image gives way to the next one where that is due sooner than this one has been waiting. A robot acts on the
newest answer it has; at its oldest, that is the image's age when the answer came plus the time to the next answer.
Starting d seconds later on an image that is a seconds younger lowers this sum by a - d. So the wait is at most half
an image period, and only for a camera with a steady rate.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

ARRIVALS = 9  # ours: arrivals that a camera's period is measured from
STEADY = (0.75, 1.25)  # ours: periods of a steady camera lie in this range of their median, one slip aside
LATE_S = 0.003  # ours: an image may come this much after it is due
TOGETHER_S = 0.005  # ours: longest wait for an image that another camera took at the same time; both are encoded in one pass


@dataclass(frozen=True, slots=True)
class PendingImage:
    """An image message that waits for its turn.

    camera: its name, "" for a single one.
    message: what holds it: sensor_msgs/Image or CompressedImage, or a VideoFrame.
    stamp_ns: of the image.
    arrival_ns: by the clock of this program.
    """

    camera: str
    message: object
    stamp_ns: int
    arrival_ns: int


class CameraRhythm:
    """When a camera's next image is due, from the arrivals of the last ones. Times in s of a clock that never jumps."""

    def __init__(self) -> None:
        self._arrivals: deque[float] = deque(maxlen=ARRIVALS)

    def note(self, now: float) -> None:
        """An image came."""
        self._arrivals.append(now)

    @property
    def last(self) -> float:
        """When the newest one came."""
        return self._arrivals[-1]

    def due_in(self, now: float) -> float | None:
        """Seconds until the next image; None where it is overdue or the camera is not steady."""
        if len(self._arrivals) < ARRIVALS // 2:
            return None
        times = list(self._arrivals)
        periods = sorted(later - earlier for earlier, later in zip(times, times[1:]))
        period = median(periods)
        if periods[1] < STEADY[0] * period or periods[-2] > STEADY[1] * period:
            return None
        left = times[-1] + period - now
        return max(left, 0.0) if left > -LATE_S else None


class Mailbox:
    """The waiting images of every camera; thread-safe.

    capacity: images that may wait per camera. With 1 a new image replaces the waiting one; with more (centered windows,
        whose sound comes later) the newest ready one is taken.
    replaced: how many images were never taken.
    """

    def __init__(self, capacity: int = 1, clock: Callable[[], float] = time.monotonic):
        self.condition = threading.Condition()
        self.capacity = capacity
        self.replaced = 0
        self._clock = clock
        self._waiting: dict[str, deque[PendingImage]] = {}
        self._rhythms: dict[str, CameraRhythm] = {}
        self._wait_until: float | None = None

    def put(self, item: PendingImage) -> None:
        """Leave an image; never blocks."""
        with self.condition:
            self._rhythms.setdefault(item.camera, CameraRhythm()).note(self._clock())
            places = self._waiting.setdefault(item.camera, deque())
            while len(places) >= self.capacity:
                places.popleft()
                self.replaced += 1
            places.append(item)
            self.condition.notify()

    def take(self, ready: Callable[[PendingImage], bool] = lambda item: True) -> list[PendingImage]:
        """The newest ready image of every camera; an empty list where there is none. Never blocks."""
        taken = []
        with self.condition:
            self._wait_until = None
            for places in self._waiting.values():
                newest = next((i for i in range(len(places) - 1, -1, -1) if ready(places[i])), None)
                if newest is None:
                    continue
                for _ in range(newest):
                    places.popleft()
                    self.replaced += 1
                taken.append(places.popleft())
        return taken

    def wait_s(self) -> float:
        """How long to leave the waiting images for one that is due soon, in s; 0: take them now. Ask again after an arrival."""
        with self.condition:
            now = self._clock()
            if self.capacity > 1 or not len(self):  # images that wait for sound are far older than what this wait could save
                return 0.0
            wanted = max((self._worth_waiting_s(camera, now) for camera in self._rhythms), default=0.0)
            if not wanted:
                return 0.0
            if self._wait_until is None:
                self._wait_until = now + wanted
            return max(0.0, min(wanted, self._wait_until - now))

    def _worth_waiting_s(self, camera: str, now: float) -> float:
        rhythm = self._rhythms[camera]
        due_s = rhythm.due_in(now)
        if due_s is None:
            return 0.0
        limit_s = now - rhythm.last if self._waiting.get(camera) else TOGETHER_S
        return due_s + LATE_S if due_s < limit_s else 0.0

    def clear(self) -> None:
        """Drop all waiting images."""
        with self.condition:
            self._waiting.clear()
            self._rhythms.clear()
            self._wait_until = None

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))
