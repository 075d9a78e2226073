"""A sound device through PortAudio: blocks of samples and the time of their first one."""

from __future__ import annotations

import contextlib
import importlib
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from taco.clock import NS
from taco.config import MicrophoneConfig
from taco.errors import MediaError, MissingPackageError

JUMP_NS = 100_000_000  # ours: where measured and counted time differ by more, samples were lost
GAIN = 1 / 32  # ours: share of their difference that corrects the counted time with every block; more for the first ones
LONGEST_DELAY_S = 2.0  # ours: a longer delay from the sound card is taken for an error of its driver


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of sound from the device.

    samples: (n, channels) float32 in [-1, 1].
    first_ns: node's clock at the first sample.
    overflow: whether samples were lost before it.
    """

    samples: np.ndarray
    first_ns: int
    overflow: bool


def sounddevice() -> ModuleType:
    """The module; MissingPackageError says what to install."""
    try:
        module = importlib.import_module("sounddevice")
    except ImportError:
        raise MissingPackageError("microphone: wanted the package sounddevice, got none; pip install sounddevice") from None
    except OSError:
        raise MissingPackageError("microphone: wanted the PortAudio library, got none; apt-get install libportaudio2") from None
    return module


def device_list() -> list[dict[str, Any]]:
    """Input devices: number, name, host_api, channels, sample_rate (Hz, the device's own), default."""
    devices = sounddevice()
    apis = devices.query_hostapis()
    default = devices.default.device[0]
    return [
        {
            "number": item["index"],
            "name": item["name"],
            "host_api": apis[item["hostapi"]]["name"],
            "channels": item["max_input_channels"],
            "sample_rate": int(item["default_samplerate"]),
            "default": item["index"] == default,
        }
        for item in devices.query_devices()
        if item["max_input_channels"] > 0
    ]


def find_device(wanted: str) -> int | None:
    """Number of the input device with this number or this part of its name; None for the system's default.

    A name that is exactly right wins over names that contain it. MediaError names the devices there are.
    """
    if not wanted:
        return None
    found = device_list()
    if wanted.isdigit():
        numbers: list[int] = [item["number"] for item in found if item["number"] == int(wanted)]
    else:
        numbers = [item["number"] for item in found if item["name"].lower() == wanted.lower()]
        numbers = numbers or [item["number"] for item in found if wanted.lower() in item["name"].lower()]
    if not numbers:
        names = ", ".join(f"{item['number']} {item['name']}" for item in found) or "none"
        raise MediaError(f"microphone: wanted an input device {wanted!r}, got these: {names}")
    return numbers[0]


class StreamClock:
    """Times of first samples on the node's clock, from the stream's clock: evenly spaced, without drift."""

    def __init__(self) -> None:
        self._next_ns: int | None = None
        self._blocks = 0  # since the last jump

    def first_ns(self, now_ns: int, current_s: float, adc_s: float, count: int, rate: int) -> int:
        """Time of the first sample of a block.

        now_ns: node's clock in the callback. current_s, adc_s: the stream's clock then and at the first sample;
        where a driver does not know it (0, or implausible) the block is taken to end now.
        """
        delay_s = current_s - adc_s
        duration_ns = round(count * NS / rate)
        known = adc_s > 0 and 0 <= delay_s < LONGEST_DELAY_S
        measured_ns = now_ns - (round(delay_s * NS) if known else duration_ns)
        first_ns = measured_ns if self._next_ns is None else self._next_ns
        error_ns = measured_ns - first_ns
        self._blocks = 1 if abs(error_ns) > JUMP_NS else self._blocks + 1
        first_ns += round(error_ns * max(GAIN, 1 / self._blocks))
        self._next_ns = first_ns + duration_ns
        return first_ns

    def restart(self) -> None:
        """Samples were lost: take the next block's time as measured."""
        self._next_ns, self._blocks = None, 0


class Capture:
    """An open input stream. now_ns: the node's clock. Blocks are read with ``read``; closed by ``close``.

    MediaError where the device cannot be opened at this rate and with these channels.
    """

    def __init__(self, config: MicrophoneConfig, now_ns: Callable[[], int]):
        devices = sounddevice()
        self._config, self._now_ns = config, now_ns
        self._blocks: queue.SimpleQueue[tuple[np.ndarray, int, float, float, bool]] = queue.SimpleQueue()
        self._clock = StreamClock()
        number = find_device(config.device)
        try:
            self._stream = devices.InputStream(
                device=number,
                samplerate=config.sample_rate,
                channels=config.channels,
                blocksize=round(config.block_s * config.sample_rate),
                dtype="float32",
                callback=self._on_block,
            )
            self._stream.start()
            self.name = devices.query_devices(self._stream.device)["name"]
        except (devices.PortAudioError, ValueError) as error:
            what = f"{config.device or 'the default device'} at {config.sample_rate} Hz with {config.channels} channel(s)"
            line = " ".join(str(error).split())
            raise MediaError(f"microphone: wanted to open {what}, got: {line}; see microphone --list") from None

    def _on_block(self, samples: np.ndarray, frames: int, times: Any, status: Any) -> None:
        """Called on PortAudio's own thread: copy and return."""
        stamps = (self._now_ns(), times.currentTime, times.inputBufferAdcTime)
        self._blocks.put((samples.copy(), *stamps, bool(status.input_overflow)))

    def read(self, timeout_s: float) -> Block | None:
        """The next block; None where none came in time."""
        try:
            samples, now_ns, current_s, adc_s, overflow = self._blocks.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if overflow:
            self._clock.restart()
        first_ns = self._clock.first_ns(now_ns, current_s, adc_s, len(samples), self._config.sample_rate)
        return Block(np.clip(samples, -1.0, 1.0), first_ns, overflow)

    @property
    def alive(self) -> bool:
        """Whether the driver reports a running stream. Some never notice that a device is gone: watch ``read`` as well."""
        return bool(self._stream.active)

    def close(self) -> None:
        """Close the stream; never raises, the device may be gone."""
        with contextlib.suppress(Exception):
            self._stream.abort(ignore_errors=True)
            self._stream.close(ignore_errors=True)


def refresh_devices() -> None:
    """Make PortAudio look for devices again: it only does when it starts. All streams must be closed."""
    devices = sounddevice()
    try:
        devices._terminate()
        devices._initialize()
    except devices.PortAudioError:
        time.sleep(0.1)
