"""Quality of service of the topics, in one place."""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL, reliability=ReliabilityPolicy.RELIABLE)


def sensor_qos(depth: int) -> QoSProfile:
    """Best effort, volatile: a subscription that fits every publisher of sensor data (REP-2003)."""
    return QoSProfile(depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)


def output_qos(depth: int) -> QoSProfile:
    """Reliable, volatile: a publisher that fits every subscriber, best effort ones too."""
    return QoSProfile(depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
