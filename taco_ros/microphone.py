"""``microphone``: a sound device as ``audio`` messages; survives overflow and replugging."""

from __future__ import annotations

import json
import sys
import threading
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos_overriding_options import QoSOverridingOptions

from taco.config import MicrophoneConfig
from taco.errors import TacoError
from taco.io.sound_device import Capture, device_list, refresh_devices, sounddevice
from taco_ros import diagnostics
from taco_ros.audio_messages import chunk_message
from taco_ros.diagnostics import Statistics
from taco_ros.msg import AudioChunk
from taco_ros.parameters import Parameters
from taco_ros.runtime import output_qos, ros_session

AUDIO_DEPTH = 200  # ours: chunks kept for a slow subscriber, 10 s by default


class MicrophoneNode(Node):
    """Opens the device on a thread of its own and opens it again when it is lost. Settings are those of MicrophoneConfig."""

    def __init__(self):
        super().__init__("microphone")
        self.config = Parameters(self, MicrophoneConfig()).config()
        sounddevice()  # a missing library ends the node at once
        self.statistics = Statistics()
        self.state, self.problem = "opening", ""
        self._publisher = self.create_publisher(
            AudioChunk, "audio", output_qos(AUDIO_DEPTH), qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self.create_timer(1.0, self._on_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)
        self._thread.start()

    def now_ns(self) -> int:
        """The node's clock."""
        return self.get_clock().now().nanoseconds

    def _run(self) -> None:
        first = True
        while not self._stopping.is_set():
            capture = None
            try:
                if not first:
                    refresh_devices()
                capture = Capture(self.config, self.now_ns)
                self._record(capture)
            except TacoError as error:
                self._lost(str(error))
            except Exception as error:
                if not self.context.ok():
                    return  # ROS ended while a chunk was on its way
                self._lost(f"microphone: {type(error).__name__}: {' '.join(str(error).split())}")
            finally:
                if capture is not None:
                    capture.close()
            first = False
            self._stopping.wait(self.config.reopen_s)

    def _lost(self, line: str) -> None:
        self.state, self.problem = "lost", line
        self.statistics.count("lost")
        if self.statistics.may_log("lost"):
            self.get_logger().warning(f"{line}; trying again every {self.config.reopen_s:g} s")

    def _record(self, capture: Capture) -> None:
        """Publish until the device is gone or the node ends."""
        last_block = time.monotonic()
        while not self._stopping.is_set():
            block = capture.read(0.1)
            if block is None:
                quiet_s = time.monotonic() - last_block
                if quiet_s > self.config.silent_s or not capture.alive:
                    self._lost(f"microphone: no sound from {capture.name} for {quiet_s:.1f} s, it may be unplugged")
                    return
                continue
            last_block = time.monotonic()
            if self.state != "recording":
                self.state, self.problem = "recording", ""
                config = self.config
                self.get_logger().info(f"recording {capture.name}: {config.sample_rate} Hz, {config.channels} channel(s)")
            if block.overflow:
                self.statistics.count("overflows")
                if self.statistics.may_log("overflow"):
                    self.get_logger().warning("the sound device overflowed: samples were lost; is the machine overloaded?")
            self.statistics.sample("chunks")
            self.statistics.count("chunks")
            self.statistics.count("samples", len(block.samples))
            self._publisher.publish(chunk_message(block.samples, self.config.sample_rate, block.first_ns, self.config.frame_id))

    def _on_diagnostics(self) -> None:
        counts = self.statistics.counts()
        values = {
            "topic": self._publisher.topic_name,
            "subscribers": self._publisher.get_subscription_count(),
            "device": self.config.device or "default",
            "sample_rate_hz": self.config.sample_rate,
            "channels": self.config.channels,
            "rate_hz": self.statistics.rate("chunks"),
            **{name: counts.get(name, 0) for name in ("chunks", "samples", "overflows", "lost")},
        }
        level = diagnostics.ERROR if self.state == "lost" else diagnostics.OK
        entry = diagnostics.status(f"{self.get_fully_qualified_name()}: device", level, self.problem or self.state, values)
        self._diagnostics.publish(diagnostics.diagnostic_array(self.get_clock().now().to_msg(), [entry]))

    def close(self) -> None:
        """Close the device."""
        self._stopping.set()
        self._thread.join(3.0)


def print_devices(as_json: bool) -> None:
    """What ``--list`` shows."""
    found = device_list()
    if as_json:
        print(json.dumps(found))
        return
    print("number  channels  rate Hz  name (host API)")
    for item in found:
        mark = " (default)" if item["default"] else ""
        print(f"{item['number']:6}  {item['channels']:8}  {item['sample_rate']:7}  {item['name']} ({item['host_api']}){mark}")
    if not found:
        print("no input device found; is one plugged in, and may this user open it (group audio)?")


def main(args=None) -> int:
    """Run the node until it is stopped, or list the devices; exit status 0, 1 (failed) or 2 (bad usage)."""
    args = sys.argv if args is None else args
    own = rclpy.utilities.remove_ros_args(args)[1:]
    unknown = [word for word in own if word not in ("--list", "--json")]
    if unknown:
        print(f"microphone: wanted --list, --json or --ros-args, got {unknown[0]}", file=sys.stderr)
        return 2
    try:
        if "--list" in own:
            print_devices("--json" in own)
            return 0
        with ros_session(args):
            node = MicrophoneNode()
            try:
                while rclpy.ok():
                    rclpy.spin_once(node, timeout_sec=1.0)  # Kilted's rclpy.spin may sleep through a shutdown
            finally:
                node.close()
    except TacoError as error:
        print(f"microphone: {' '.join(str(error).removeprefix('microphone: ').split())}", file=sys.stderr)
        return 1
    return 0
