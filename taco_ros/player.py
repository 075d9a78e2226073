"""``player``: files or a bag as live topics, at a robot's rate and with its stamps.

Files or a bag become one stream of events in the order of time, which the node publishes when they are due.
"""

from __future__ import annotations

import argparse
import heapq
import importlib
import queue
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from taco.clock import NS
from taco.errors import MediaError, TacoError
from taco.io.bags import is_bag, open_bag
from taco.io.files import chunks, frames, is_image, probe, read_image
from taco_ros.audio_messages import chunk_message
from taco_ros.conversions import compressed_message, image_message, ns_to_stamp, stamp_to_ns
from taco_ros.msg import AudioChunk
from taco_ros.runtime import ros_session

CLOCK_STEP_S = 0.01  # ours: period of /clock
SETTLE_S = 0.5  # ours: a subscriber that we see may not see us yet
PICTURE_RATE_HZ = 10.0  # ours: of pictures without --image-rate
DRAIN_S = 0.3  # ours: the last messages still leave before the node ends


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
    out.add_argument("--verbose", action="store_true", help="log the progress every second")
    return out


class Player(Node):
    """Publishes events when they are due. options: of ``parser``."""

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
        """Wait until every topic has its subscribers; TacoError after ``seconds``."""
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
        """Publish everything, once or for ever. In a loop the time goes on, and the sound goes on without a break."""
        speed, start = self.options.speed, time.monotonic()
        # Simulated time starts at 1 s, as 0 means "no time yet".
        self._base_ns = NS if self.options.clock else self.get_clock().now().nanoseconds
        while rclpy.ok():
            length_ns = self._play_once(start)
            if not self.options.loop:
                return
            if self._bag:
                self._first = bag_events(self.options.path, tuple(self.options.topics))[1]
                length_ns = max(length_ns, round((time.monotonic() - start) * speed * NS))
            else:
                self._first = self._file_events()
            self._base_ns += length_ns
            start += length_ns / NS / speed

    def _play_once(self, start: float) -> int:
        """Publish one pass that began at ``start`` (s of ``time.monotonic``).

        Returns its length in media time, ns: to the end of the sound, or one period after the last image.
        """
        offset_ns, logged_at, sound_ns, last_ns, count = None, start, 0, 0, 0
        for event in self._first:
            if not rclpy.ok():
                break
            self._sleep_until(start, event.due_ns)
            if self._bag:
                offset_ns = self._base_ns - event.stamp_ns if offset_ns is None else offset_ns
                self._publish_recorded(event, offset_ns)
            else:
                self._publish(event)
            if event.kind == "sound":
                sound_ns = event.due_ns
            else:
                last_ns, count = event.due_ns, count + 1
            self.published += 1
            if self.options.verbose and time.monotonic() - logged_at > 1.0:
                logged_at = time.monotonic()
                self.get_logger().info(f"{event.due_ns / NS:.1f} s, {self.published} messages, at most {self._late_s:.2f} s late")
        period_ns = last_ns // (count - 1) if count > 1 else round(NS / (self.options.image_rate or PICTURE_RATE_HZ))
        return sound_ns or last_ns + period_ns

    def _sleep_until(self, start: float, due_ns: int) -> None:
        speed = self.options.speed
        while (rest := start + due_ns / NS / speed - time.monotonic()) > 0:
            time.sleep(min(rest, CLOCK_STEP_S) if self._clock_publisher else rest)
            # A sleep ends late: a clock beyond the event would have to go back to it.
            self._tick(min(due_ns, round((time.monotonic() - start) * speed * NS)))
        self._late_s = max(self._late_s, -rest)
        self._tick(due_ns)

    def _tick(self, media_ns: int) -> None:
        if self._clock_publisher:
            self._clock_publisher.publish(Clock(clock=ns_to_stamp(self._base_ns + media_ns)))

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
    header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=frame_id)
    return compressed_message(rgb, compressed, header) if compressed else image_message(rgb, "rgb8", header)


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
            time.sleep(DRAIN_S)
        except (TacoError, OSError) as error:
            print(f"player: {' '.join(str(error).removeprefix('player: ').split())}", file=sys.stderr)
            return 1
    return 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something to publish.

    due_ns: when, in media time.
    stamp_ns: its stamp, in media time.
    kind: "image" (payload (H, W, 3) uint8), "sound" (payload ((n, channels) float32, sample rate)), or the
    name of a topic of a bag (payload: a message).
    """

    due_ns: int
    stamp_ns: int
    kind: str
    payload: object


def file_events(pictures: Path | None, sound: Path | None, image_rate: float, chunk_s: float) -> Iterator[Event]:
    """Events of a video, a picture or a folder of pictures, and of a sound file (default: the video's own sound).

    image_rate: Hz; of pictures, and at most this many of a video (0: all). A single picture, or the last one, is
    repeated until the sound ends; after its end the sound goes on as silence until the pictures end.
    """
    if pictures is None and sound is None:
        raise MediaError("player: wanted pictures, a video, a sound or a bag, got nothing; see --help")
    is_video = pictures is not None and pictures.is_file() and not is_image(pictures)
    if sound is None and is_video and probe(pictures).sample_rate:
        sound = pictures
    sound_s = _length_s(sound) if sound else 0.0
    if is_video:
        images, images_s = _video(pictures, image_rate), probe(pictures).duration_s
    elif pictures is not None:
        files = picture_files(pictures)
        image_rate = image_rate or PICTURE_RATE_HZ
        images_s = max(len(files) / image_rate, sound_s)
        images = _pictures(files, image_rate, images_s)
    else:
        images, images_s = iter(()), 0.0
    sounds = _sound(sound, chunk_s, max(images_s, sound_s)) if sound else iter(())
    return heapq.merge(read_ahead(images, 6), read_ahead(sounds, 50), key=lambda event: event.due_ns)


def picture_files(path: Path) -> list[Path]:
    """The picture, or those of a folder in the order of their names; MediaError where there is none."""
    if not path.exists():
        raise MediaError(f"no such file or folder: {path}")
    files = [path] if path.is_file() else sorted(file for file in path.iterdir() if is_image(file))
    if not files:
        raise MediaError(f"{path}: wanted a folder with pictures (png, jpg, ...), got none in it")
    return files


def _pictures(files: list[Path], rate: float, length_s: float) -> Iterator[Event]:
    rgb, last = None, None
    for index in range(max(1, round(length_s * rate))):
        file = files[min(index, len(files) - 1)]
        if file != last:
            rgb, last = read_image(file), file
        stamp_ns = round(index * NS / rate)
        yield Event(stamp_ns, stamp_ns, "image", rgb)


def _video(path: Path, rate: float) -> Iterator[Event]:
    due_ns = 0
    for frame in frames(path):
        if rate and frame.stamp_ns < due_ns - NS // 1000:
            continue
        due_ns += round(NS / rate) if rate else 0
        yield Event(frame.stamp_ns, frame.stamp_ns, "image", frame.rgb)


def _length_s(path: Path) -> float:
    """Length of the sound, decoded where the header does not have it."""
    return probe(path).duration_s or max(chunk.end_ns for chunk in chunks(path)) / NS


def _sound(path: Path, chunk_s: float, length_s: float) -> Iterator[Event]:
    """The sound in equal chunks, a chunk due when its last sample has sounded, as from a microphone.

    Silence before its first sample and after its last, so that it covers all of ``length_s``.
    """
    waiting, start_ns, rate = np.zeros((0, 1), np.float32), None, 0
    for chunk in chunks(path):
        if start_ns is None:
            start_ns, rate = min(0, chunk.stamp_ns), chunk.sample_rate
            before = round(max(0, chunk.stamp_ns) * rate / NS)
            waiting = np.zeros((before, chunk.samples.shape[1]), np.float32)
        waiting = np.concatenate([waiting, chunk.samples])
        count = round(chunk_s * rate)
        while len(waiting) >= count:
            yield _sound_event(waiting[:count], rate, start_ns)
            start_ns, waiting = start_ns + round(count * NS / rate), waiting[count:]
    missing = max(0, round(length_s * rate) - round((start_ns or 0) * rate / NS) - len(waiting))
    waiting = np.concatenate([waiting, np.zeros((missing, waiting.shape[1]), np.float32)])
    while len(waiting):
        yield _sound_event(waiting[:count], rate, start_ns)
        start_ns, waiting = start_ns + round(count * NS / rate), waiting[count:]


def _sound_event(samples: np.ndarray, rate: int, start_ns: int) -> Event:
    return Event(start_ns + round(len(samples) * NS / rate), start_ns, "sound", (samples, rate))


def bag_events(path: Path, topics: tuple[str, ...] = ()) -> tuple[dict[str, type], Iterator[Event]]:
    """(message class by topic, events) of a ROS 2 bag; topics whose type is not installed here are left out."""
    from rclpy.serialization import deserialize_message

    with open_bag(path) as reader:
        classes = {c.topic: _message_class(c.msgtype) for c in reader.connections if not topics or c.topic in topics}
    classes = {topic: kind for topic, kind in classes.items() if kind is not None}
    if not classes:
        raise MediaError(f"{path}: wanted topics that can be published, got none of {', '.join(topics) or 'a known type'}")

    def events() -> Iterator[Event]:
        with open_bag(path) as reader:
            chosen = [connection for connection in reader.connections if connection.topic in classes]
            first_ns = None
            for connection, time_ns, data in reader.messages(chosen):
                first_ns = time_ns if first_ns is None else first_ns
                message = deserialize_message(bytes(data), classes[connection.topic])
                yield Event(time_ns - first_ns, time_ns, connection.topic, message)

    return classes, read_ahead(events(), 20)


def _message_class(name: str) -> type | None:
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        return None


def read_ahead(events: Iterator[Event], count: int) -> Iterator[Event]:
    """The same events, decoded up to ``count`` early on a thread, so that publishing stays on time."""
    line: queue.Queue = queue.Queue(count)
    stopped = threading.Event()

    def put(item) -> None:
        while not stopped.is_set():
            try:
                line.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for event in events:
                put(event)
                if stopped.is_set():
                    return
            put(None)
        except Exception as error:
            put(error)

    threading.Thread(target=work, daemon=True).start()
    try:
        while (item := line.get()) is not None:
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        stopped.set()
