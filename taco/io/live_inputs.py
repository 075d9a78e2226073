"""Cameras and microphones without ROS: devices, addresses, or files that are played in real time, again and again."""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2

from taco.clock import NS
from taco.config import MicrophoneConfig
from taco.errors import MediaError
from taco.io import files
from taco.io.sound_device import Capture
from taco.types import AudioChunk, VideoFrame

STILL_S = 0.1  # ours: a picture in place of a camera is shown ten times a second, as a slow camera's images
READ_S = 0.1  # ours: longest wait for a block of sound, so that the end is noticed soon

Piece = TypeVar("Piece", VideoFrame, AudioChunk)


@dataclass(frozen=True, slots=True)
class LiveInput:
    """A camera or a microphone of ``open_camera`` and ``open_microphone``.

    name: for people.
    sample_rate, channels: of a microphone, else 0.
    pieces: opens it and gives what comes, stamped by ``time.monotonic_ns``, until the event is set; MediaError where it is lost.
    """

    name: str
    pieces: Callable[[threading.Event], Iterator[VideoFrame | AudioChunk]]


def open_camera(name: str, start_ns: int, period_s: float = 0.0) -> LiveInput:
    """A camera by its number, an address (rtsp://..., http://...), or a video or picture file.

    start_ns: when the files begin to play. period_s: after which the file begins again; 0: when it ends.
    MediaError where there is no such camera or file.
    """
    if name.isdigit() or "://" in name:
        device = _opened(name)
        return LiveInput(
            f"camera {name}" if name.isdigit() else "network camera", lambda stop: _device_images(name, device, stop)
        )
    path = Path(name)
    if files.is_image(path):
        rgb = files.read_image(path)
        still = LiveInput(path.name, lambda stop: _played(lambda: [VideoFrame(rgb, 0)], start_ns, STILL_S, stop))
        return still
    info = files.probe(path)
    if info.size is None:
        raise MediaError(f"--camera {name}: wanted a camera, picture or video, got only sound")
    period_s = period_s or info.duration_s
    return LiveInput(path.name, lambda stop: _played(lambda: files.frames(path, end_s=period_s), start_ns, period_s, stop))


def open_microphone(name: str, start_ns: int, period_s: float = 0.0) -> LiveInput:
    """A sound device by its number or part of its name ("": the system's default), or a sound or video file.

    start_ns, period_s: as for ``open_camera``. MediaError where there is no such device or file, or no sound in it.
    """
    path = Path(name)
    if not (name and path.is_file()):
        if path.suffix and not name.isdigit() and ("/" in name or len(path.suffix) in (4, 5)):
            raise MediaError(f"--mic {name}: no such file")
        config = MicrophoneConfig(device=name)
        capture = Capture(config, time.monotonic_ns)
        return LiveInput(capture.name, lambda stop: _device_sound(config, capture, stop))
    info = files.probe(path)
    if not info.sample_rate:
        raise MediaError(f"--mic {name}: wanted sound, got none in it")
    period_s = period_s or info.duration_s
    return LiveInput(path.name, lambda stop: _played(lambda: files.chunks(path), start_ns, period_s, stop))


def _opened(name: str) -> cv2.VideoCapture:
    device = cv2.VideoCapture(int(name) if name.isdigit() else name)
    if not device.isOpened():
        raise MediaError(f"--camera {name}: wanted a camera, cannot open it; is it plugged in, and used by no other program?")
    return device


def _device_images(name: str, device: cv2.VideoCapture, stop: threading.Event) -> Iterator[VideoFrame]:
    try:
        if not device.isOpened():  # opened before, and lost since
            device = _opened(name)
        while not stop.is_set():
            got, bgr = device.read()
            if not got:
                raise MediaError(f"--camera {name}: no more images, it may be unplugged")
            yield VideoFrame(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), time.monotonic_ns())
    finally:
        device.release()


def _device_sound(config: MicrophoneConfig, capture: Capture, stop: threading.Event) -> Iterator[AudioChunk]:
    if not capture.alive:  # opened before, and lost since
        capture = Capture(config, time.monotonic_ns)
    try:
        quiet_since = time.monotonic()
        while not stop.is_set():
            block = capture.read(READ_S)
            if block is not None:
                quiet_since = time.monotonic()
                yield AudioChunk(block.samples, config.sample_rate, block.first_ns)
            elif time.monotonic() - quiet_since > config.silent_s:
                raise MediaError(f"--mic: no sound from {capture.name} for {config.silent_s:g} s, it may be unplugged")
    finally:
        capture.close()


def _played(pieces: Callable[[], Iterable[Piece]], start_ns: int, period_s: float, stop: threading.Event) -> Iterator[Piece]:
    """Pieces of a file when they are due, with the stamps of that time; again from the start after each period."""
    period_ns = round(period_s * NS)
    behind_ns = max(0, time.monotonic_ns() - start_ns)
    for turn in itertools.count(math.ceil(behind_ns / period_ns) if period_ns and behind_ns > period_ns else 0):
        for piece in pieces():
            stamp_ns = start_ns + turn * period_ns + piece.stamp_ns
            made = (
                VideoFrame(piece.rgb, stamp_ns)
                if isinstance(piece, VideoFrame)
                else AudioChunk(piece.samples, piece.sample_rate, stamp_ns)
            )
            due_ns = made.end_ns if isinstance(made, AudioChunk) else stamp_ns
            if piece.stamp_ns >= period_ns or stop.wait(max(0, due_ns - time.monotonic_ns()) / NS):
                break
            yield made
        if stop.is_set():
            return
