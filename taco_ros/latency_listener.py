"""The listener of ``taco bench node``: notes when answers arrive."""

from __future__ import annotations

import argparse
import json
import sys
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node

from taco.clock import NS
from taco_ros.msg import SoundingObjectArray
from taco_ros.ros_time import stamp_to_ns
from taco_ros.runtime import ros_session

QUIET_S = 2.0  # ours: the stream has ended this long after the last answer


class Listener(Node):
    """Keeps (arrival, age) in s of every answer, and the newest diagnostics."""

    def __init__(self):
        super().__init__("bench_listener")
        self.answers: list[tuple[float, float]] = []
        self.found = 0
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.memory_mb: list[float] = []  # of the node while it answers
        self.create_subscription(SoundingObjectArray, "taco_node/objects", self._on_objects, 50)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_objects(self, message: SoundingObjectArray) -> None:
        now_ns = self.get_clock().now().nanoseconds
        self.answers.append((time.monotonic(), (now_ns - stamp_to_ns(message.header.stamp)) / NS))
        self.found += bool(message.objects)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            self.diagnostics[status.name.rpartition(": ")[2]] = {pair.key: pair.value for pair in status.values}
        if self.answers and time.monotonic() - self.answers[-1][0] < QUIET_S and "models" in self.diagnostics:
            self.memory_mb.append(float(self.diagnostics["models"]["memory_mb"]))

    def listen(self, limit_s: float) -> None:
        """Until the answers have begun and ended."""
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            rclpy.spin_once(self, timeout_sec=0.1)
            if self.answers and time.monotonic() - self.answers[-1][0] > QUIET_S:
                return

    def transition_s(self, transition: int) -> float:
        """Seconds that a transition of the node takes; -1 where it failed."""
        client = self.create_client(ChangeState, "taco_node/change_state")
        client.wait_for_service(5.0)
        start = time.monotonic()
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        rclpy.spin_until_future_complete(self, future, timeout_sec=10.0)
        done = future.done() and future.result().success
        return time.monotonic() - start if done else -1.0


def summary(answers: list[tuple[float, float]], found: int, memory_mb: list[float]) -> dict:
    """Rates, ages in ms and the node's memory: over all, and of the first and the last third (does it grow?).

    information_age_ms: mean over time, not over answers, of how old the newest answer is.
    """
    ages = [1000.0 * age for _, age in answers]
    third = max(1, len(ages) // 3)
    span = answers[-1][0] - answers[0][0] if len(answers) > 1 else 0.0
    steps = [(age, later - at) for (at, age), (later, _) in zip(answers, answers[1:])]
    third_mb = max(1, len(memory_mb) // 3)
    return {
        "answers": len(ages),
        "found": found,
        "rate_hz": (len(ages) - 1) / span if span else 0.0,
        "age_p50_ms": percentile(ages, 0.5),
        "age_p95_ms": percentile(ages, 0.95),
        "age_max_ms": max(ages, default=float("nan")),
        "age_p50_first_third_ms": percentile(ages[:third], 0.5),
        "age_p50_last_third_ms": percentile(ages[-third:], 0.5),
        "age_p95_first_third_ms": percentile(ages[:third], 0.95),
        "age_p95_last_third_ms": percentile(ages[-third:], 0.95),
        "information_age_ms": 1000.0 * sum(age * gap + gap * gap / 2 for age, gap in steps) / span if span else float("nan"),
        "memory_first_third_mb": percentile(memory_mb[:third_mb], 0.5),
        "memory_last_third_mb": percentile(memory_mb[-third_mb:], 0.5),
        "memory_first_mb": memory_mb[0] if memory_mb else float("nan"),
        "memory_last_mb": memory_mb[-1] if memory_mb else float("nan"),
    }


def percentile(values: list[float], part: float) -> float:
    """The value below which this part of the values lies; nan of none."""
    values = sorted(values)
    return values[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


def main(args=None) -> int:
    """Listen, restart the node's subscriptions once, print JSON; exit status 1 where no answer came."""
    parser = argparse.ArgumentParser(prog="python -m taco_ros.latency_listener")
    parser.add_argument("--limit-s", type=float, default=120.0)
    options = parser.parse_args(rclpy.utilities.remove_ros_args(sys.argv if args is None else args)[1:])
    with ros_session(args):
        listener = Listener()
        listener.listen(options.limit_s)
        result = summary(listener.answers, listener.found, listener.memory_mb)
        result["first_at_s"] = listener.answers[0][0] if listener.answers else float("nan")  # of ``time.monotonic``
        result["diagnostics"] = dict(listener.diagnostics)  # as they are now: a restart forgets the times
        stopped = listener.transition_s(Transition.TRANSITION_DEACTIVATE)
        started = listener.transition_s(Transition.TRANSITION_ACTIVATE)
        result["deactivate_to_activate_s"] = stopped + started if min(stopped, started) >= 0 else float("nan")
        print(json.dumps(result))
        return 0 if listener.answers else 1
    return 1  # interrupted


if __name__ == "__main__":
    sys.exit(main())
