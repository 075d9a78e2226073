"""ROS stamps as integer nanoseconds."""

from __future__ import annotations

from builtin_interfaces.msg import Time

from taco.clock import NS


def stamp_to_ns(stamp: Time) -> int:
    """builtin_interfaces/Time -> integer nanoseconds."""
    return int(stamp.sec * NS + stamp.nanosec)


def ns_to_stamp(ns: int) -> Time:
    """Integer nanoseconds -> builtin_interfaces/Time; times before 1970 become 0."""
    sec, nanosec = divmod(max(0, int(ns)), NS)
    return Time(sec=sec, nanosec=nanosec)
