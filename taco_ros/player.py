"""``player``: files or a bag as live topics, at the rate and with the stamps of a robot's camera and microphone."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image

from taco.bags import is_bag
from taco.errors import TacoError
from taco_ros.conversions import NS, image_message, ns_to_stamp, packed, stamp_to_ns
from taco_ros.msg import AudioChunk
from taco_ros.player_sources import Event, bag_events, file_events
from taco_ros.session import ros_session
from taco_ros.sounds import chunk_message

CLOCK_STEP_S = 0.01
SETTLE_S = 0.5  # a subscriber that we see may not see us yet


def parser() -> argparse.ArgumentParser:
    """The command line; ROS arguments follow after --ros-args (-r image:=/camera/image_raw)."""
    out = argparse.ArgumentParser(prog="player", description="Publish files or a bag as live camera and microphone topics.")
    out.add_argument("path", nargs="?", type=Path, help="video, picture, folder of pictures, or ROS 2 bag")
    out.add_argument("--sound", type=Path, help="sound file; default: the video's own sound")
    out.add_argument("--image-rate", type=float, default=0.0, help="images a second (default: a video's own, 10 of pictures)")
    out.add_argument("--chunk-s", type=float, default=0.05, help="length of a sound chunk in s (default 0.05)")
    out.add_argument("--loop", action="store_true", help="start again at the end, until stopped")
    out.add_argument("--speed", type=float, default=1.0, help="faster or slower than life; other than 1 needs --clock")
    out.add_argument("--clock", action="store_true", help="publish /clock and stamp with it, for nodes with use_sim_time")
    out.add_argument("--keep-stamps", action="store_true", help="bag: leave the recorded stamps as they are")
    out.add_argument("--topics", nargs="+", default=(), help="bag: only these topics")
    out.add_argument("--compressed", choices=("jpeg", "png"), help="publish image/compressed instead of image")
    out.add_argument("--best-effort", action="store_true", help="publish best effort instead of reliable")
    out.add_argument("--frame-id", default="camera", help="frame_id of the images (default camera)")
    out.add_argument("--wait", type=float, default=0.0, help="wait up to so many s for a subscriber of every topic; fail without")
    out.add_argument(
        "--subscribers", type=int, default=1, help="how many subscribers of every topic --wait waits for (default 1)"
    )
    out.add_argument("--verbose", action="store_true", help="tell the progress every second")
    return out


class Player(Node):
    """Publishes events when they are due. options: what ``parser`` gives."""

    def __init__(self, options):
        super().__init__("player")
        self.options = options
        self.published = 0
        self._late_s = 0.0
        self._bag = options.path is not None and is_bag(options.path)
        self._base_ns = 0
        self._clock_publisher = self.create_publisher(Clock, "/clock", 10) if options.clock else None
        if self._bag:
            classes, self._first = bag_events(options.path, tuple(options.topics))
            self._topics = {topic: self._publisher(kind, topic, 50) for topic, kind in classes.items()}
        else:
            self._first = self._file_events()
            self._topics = self._file_topics()

    def _publisher(self, kind, topic: str, depth: int):
        reliability = ReliabilityPolicy.BEST_EFFORT if self.options.best_effort else ReliabilityPolicy.RELIABLE
        overrides = QoSOverridingOptions.with_default_policies()
        profile = QoSProfile(depth=depth, reliability=reliability)
        return self.create_publisher(kind, topic, profile, qos_overriding_options=overrides)

    def _file_events(self):
        options = self.options
        return file_events(options.path, options.sound, options.image_rate, options.chunk_s)

    def _file_topics(self) -> dict:
        out = {}
        if self.options.path is not None:
            image = self.resolve_topic_name("image")
            if self.options.compressed:
                out["image"] = self._publisher(CompressedImage, image + "/compressed", 5)
            else:
                out["image"] = self._publisher(Image, image, 5)
        out["sound"] = self._publisher(AudioChunk, "audio", 100)
        return out

    def wait(self, seconds: float) -> None:
        """Until every topic has a subscriber; TacoError after ``seconds``."""
        end = time.monotonic() + seconds
        while missing := [p.topic_name for p in self._topics.values() if p.get_subscription_count() < self.options.subscribers]:
            if time.monotonic() > end:
                raise TacoError(
                    f"player: wanted a subscriber of {', '.join(missing)} within {seconds:g} s, got none; "
                    "is the node active, and is ROS_DOMAIN_ID the same?"
                )
            rclpy.spin_once(self, timeout_sec=0.05)
        time.sleep(SETTLE_S)

    def play(self) -> None:
        """Publish everything, once or for ever."""
        while rclpy.ok():
            self._play_once()
            if not self.options.loop:
                return
            self._first = bag_events(self.options.path, tuple(self.options.topics))[1] if self._bag else self._file_events()

    def _play_once(self) -> None:
        speed = self.options.speed
        start = time.monotonic()
        # Simulated time starts at 1 s after nothing (0 means "no time yet"), and starts over in a loop, as with `ros2 bag play`.
        self._base_ns = NS if self.options.clock else self.get_clock().now().nanoseconds
        offset_ns, told = None, start
        for event in self._first:
            if not rclpy.ok():
                return
            self._sleep_until(start, event.due_ns / NS / speed, speed)
            if self._bag:
                offset_ns = self._base_ns - event.stamp_ns if offset_ns is None else offset_ns
                self._publish_recorded(event, offset_ns)
            else:
                self._publish(event)
            self.published += 1
            if self.options.verbose and time.monotonic() - told > 1.0:
                told = time.monotonic()
                self.get_logger().info(f"{event.due_ns / NS:.1f} s, {self.published} messages, at most {self._late_s:.2f} s late")

    def _sleep_until(self, start: float, due_s: float, speed: float) -> None:
        while (rest := start + due_s - time.monotonic()) > 0:
            time.sleep(min(rest, CLOCK_STEP_S) if self._clock_publisher else rest)
            self._tick(self._base_ns + round((time.monotonic() - start) * speed * NS))
        self._late_s = max(self._late_s, -rest)
        self._tick(self._base_ns + round(due_s * speed * NS))

    def _tick(self, now_ns: int) -> None:
        if self._clock_publisher:
            self._clock_publisher.publish(Clock(clock=ns_to_stamp(now_ns)))

    def _publish(self, event: Event) -> None:
        stamp_ns = self._base_ns + event.stamp_ns
        if event.kind == "sound":
            samples, rate = event.payload
            self._topics["sound"].publish(chunk_message(samples, rate, stamp_ns))
            return
        publisher = self._topics["image"]
        publisher.publish(picture_message(event.payload, stamp_ns, self.options.frame_id, self.options.compressed))

    def _publish_recorded(self, event: Event, offset_ns: int) -> None:
        header = getattr(event.payload, "header", None)
        if header is not None and not self.options.keep_stamps and stamp_to_ns(header.stamp) > 0:
            header.stamp = ns_to_stamp(stamp_to_ns(header.stamp) + offset_ns)
        self._topics[event.kind].publish(event.payload)


def picture_message(rgb, stamp_ns: int, frame_id: str, compressed: str | None = None):
    """(H, W, 3) uint8 as Image (rgb8), or as CompressedImage where ``compressed`` is jpeg or png."""
    from std_msgs.msg import Header

    header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)
    if not compressed:
        return image_message(rgb, "rgb8", header)
    import cv2

    data = cv2.imencode(f".{compressed}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    return CompressedImage(header=header, format=f"rgb8; {compressed} compressed bgr8", data=packed(data))


def main(args=None) -> int:
    """Play and end; exit status 0 (played), 1 (failed) or 2 (bad usage)."""
    args = sys.argv if args is None else args
    options = parser().parse_args(rclpy.utilities.remove_ros_args(args)[1:])
    if options.speed <= 0 or (options.speed != 1.0 and not options.clock):
        print(
            "player: --speed needs --clock: stamps of real time at another speed would contradict the sample rate",
            file=sys.stderr,
        )
        return 2
    with ros_session(args):
        try:
            player = Player(options)
            if options.wait:
                player.wait(options.wait)
            player.play()
            time.sleep(0.3)  # what is on its way still leaves
        except (TacoError, OSError) as error:
            print(f"player: {' '.join(str(error).removeprefix('player: ').split())}", file=sys.stderr)
            return 1
    return 0
