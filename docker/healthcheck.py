"""Exit status 0 where taco_node says on /diagnostics that all is well or only warns; else 1 and a line with the reason."""

import sys
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus

WAIT_S = 10.0  # discovery takes up to 3 s; the node reports every second


def main() -> int:
    """Wait for one report of taco_node."""
    statuses = []
    rclpy.init()
    node = rclpy.create_node("taco_healthcheck")
    node.create_subscription(DiagnosticArray, "/diagnostics", lambda message: statuses.extend(message.status), 10)
    end = time.monotonic() + WAIT_S
    ours = []
    while not ours and time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.5)
        ours = [item for item in statuses if "taco_node" in item.name]
    node.destroy_node()
    rclpy.try_shutdown()
    bad = [item for item in ours if item.level in (DiagnosticStatus.ERROR, DiagnosticStatus.STALE)]
    print("; ".join(f"{item.name}: {item.message}" for item in bad) or ("well" if ours else f"no report within {WAIT_S:g} s"))
    return 0 if ours and not bad else 1


if __name__ == "__main__":
    sys.exit(main())
