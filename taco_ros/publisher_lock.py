"""Listening to one publisher of a topic at a time: two microphones or two cameras on one topic must not mix.

rclpy does not tell which publisher sent a message (its GID), but the number that the publisher gave it. Each publisher counts
its own messages, so another one's numbers do not follow: they repeat, fall back or jump.
"""

from __future__ import annotations

import time

TIMEOUT_S = 2.0  # ours: after this silence another publisher may take over
MAX_STEP = 200  # ours: messages of one publisher that may be lost at once, 2 s at 100 Hz
CONTESTED_S = 10.0  # ours: the window of the diagnostics


class PublisherLock:
    """Which messages are of the publisher listened to. Its first message decides; ``timeout_s`` of silence frees the place.

    Of two publishers that count nearly in step the one ahead stays, the other's numbers are behind from then on.

    strangers: messages of others so far. clock: s, must never jump.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S, clock=time.monotonic):
        self.strangers = 0
        self._timeout_s, self._clock = timeout_s, clock
        self._number: int | None = None
        self._frame_id = ""
        self._heard_at = self._stranger_at = -1e9

    @property
    def contested(self) -> bool:
        """Whether others have been sending within the last seconds."""
        return self._clock() - self._stranger_at < CONTESTED_S

    def release(self) -> None:
        """Listen to whoever sends next."""
        self._heard_at = -1e9

    def admits(self, number: int | None, frame_id: str) -> bool:
        """Whether a message is of the publisher listened to.

        number: its place in the publisher's count; None where the middleware does not tell, then ``frame_id`` decides alone.
        """
        now = self._clock()
        if now - self._heard_at <= self._timeout_s and not self._follows(number, frame_id):
            self.strangers += 1
            self._stranger_at = now
            return False
        self._number, self._frame_id, self._heard_at = number, frame_id, now
        return True

    def _follows(self, number: int | None, frame_id: str) -> bool:
        if number is None or self._number is None:
            return frame_id == self._frame_id
        step = number - self._number
        return step == 1 or (frame_id == self._frame_id and 1 < step <= MAX_STEP)
