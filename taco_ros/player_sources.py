"""What the player plays: files or a bag as one time-ordered stream of things to publish."""

from __future__ import annotations

import heapq
import importlib
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from taco.bags import opened
from taco.errors import MediaError
from taco.media.reading import chunks, frames, is_image, probe, read_image

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something to publish. due_ns: when, in media time; stamp_ns: its stamp, in media time.

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
        images_s = max(len(files) / (image_rate or 10.0), sound_s)
        images = _pictures(files, image_rate or 10.0, images_s)
    else:
        images, images_s = iter(()), 0.0
    sounds = _sound(sound, chunk_s, max(images_s, sound_s)) if sound else iter(())
    return heapq.merge(ahead(images, 6), ahead(sounds, 50), key=lambda event: event.due_ns)


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
    """Length of the sound, decoded where the header does not tell it."""
    told = probe(path).duration_s
    return told or max(chunk.end_ns for chunk in chunks(path)) / NS


def _sound(path: Path, chunk_s: float, length_s: float) -> Iterator[Event]:
    """The sound in equal chunks, a chunk due when its last sample has sounded, as from a microphone; silence at the end."""
    waiting, start_ns, rate = np.zeros((0, 1), np.float32), None, 0
    for chunk in chunks(path):
        if start_ns is None:
            start_ns, rate, waiting = chunk.stamp_ns, chunk.sample_rate, np.zeros((0, chunk.samples.shape[1]), np.float32)
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

    with opened(path) as reader:
        classes = {c.topic: _message_class(c.msgtype) for c in reader.connections if not topics or c.topic in topics}
    classes = {topic: kind for topic, kind in classes.items() if kind is not None}
    if not classes:
        raise MediaError(f"{path}: wanted topics that can be published, got none of {', '.join(topics) or 'a known type'}")

    def events() -> Iterator[Event]:
        with opened(path) as reader:
            chosen = [connection for connection in reader.connections if connection.topic in classes]
            first_ns = None
            for connection, time_ns, data in reader.messages(chosen):
                first_ns = time_ns if first_ns is None else first_ns
                message = deserialize_message(bytes(data), classes[connection.topic])
                yield Event(time_ns - first_ns, time_ns, connection.topic, message)

    return classes, ahead(events(), 20)


def _message_class(name: str) -> type | None:
    package, _, kind = name.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        return None


def ahead(events: Iterator[Event], count: int) -> Iterator[Event]:
    """The same events, decoded up to ``count`` early on a thread, so that publishing keeps its rhythm."""
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
