"""Times of messages, and the error of a message that cannot be used. Needs no models: the microphone node stays small."""

from __future__ import annotations

from builtin_interfaces.msg import Time

from taco.errors import TacoError

NS = 1_000_000_000


class MessageError(TacoError):
    """A message cannot be used. ``reason`` is a short fixed word, the name of a counter in diagnostics."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


def stamp_to_ns(stamp) -> int:
    """builtin_interfaces/Time -> integer nanoseconds."""
    return stamp.sec * NS + stamp.nanosec


def ns_to_stamp(ns: int) -> Time:
    """Integer nanoseconds -> builtin_interfaces/Time; times before 1970 become 0."""
    sec, nanosec = divmod(max(0, int(ns)), NS)
    return Time(sec=sec, nanosec=nanosec)
