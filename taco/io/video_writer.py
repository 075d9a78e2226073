"""Videos written as MP4 with sound; they appear whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from taco.clock import NS
from taco.errors import MediaError
from taco.io.files import atomic, error_line
from taco.types import AudioChunk

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import OutputContainer
    from av.video.stream import VideoStream

TICK = Fraction(1, 90_000)  # s; MPEG's clock of 90 kHz, the time base of written videos
# Hz; of MPEG-4 AAC (ISO/IEC 14496-3, sampling frequency index), those that MP4 players know.
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class VideoWriter:
    """An MP4 (H.264, AAC; plays in browsers) that appears under its name only when it is whole.

    Use as a context manager: leaving it by an exception removes what was written.
    path: ends in a suffix that FFmpeg knows. fps: rate for frames written without a stamp.
    sample_rate, channels: of the sound, Hz; sample_rate 0 writes no sound track.
    origin_ns: stamp that becomes time 0; None takes the first frame's or chunk's.
    """

    def __init__(
        self, path: str | Path, *, fps: float = 25.0, sample_rate: int = 0, channels: int = 1, origin_ns: int | None = None
    ):
        self.path = Path(path)
        self._fps, self._origin_ns = fps, origin_ns
        self._rate, self._channels = sample_rate, min(2, channels)
        self._container: OutputContainer | None = None
        self._video: VideoStream
        self._audio: AudioStream | None = None
        self._last_tick, self._samples = -1, 0
        self._early_sound: list[AudioChunk] = []  # that came before the first image
        self.frames = 0

    def __enter__(self) -> VideoWriter:
        self._atomic = atomic(self.path)
        self._part = self._atomic.__enter__()
        return self

    def write(self, rgb: np.ndarray, stamp_ns: int | None = None) -> None:
        """Append an image, (H, W, 3) uint8; later ones are scaled to the size of the first. Stamps must rise."""
        import av

        with self._errors():
            container = self._container or self._open(rgb.shape)
            if stamp_ns is None:
                tick = round(self.frames / self._fps / TICK)
            else:
                tick = round((stamp_ns - self._start(stamp_ns)) / NS / TICK)
            tick = max(tick, self._last_tick + 1)
            self._last_tick = tick
            frame = av.VideoFrame.from_ndarray(_fit(rgb, self._video.height, self._video.width), "rgb24")
            frame.pts, frame.time_base = tick, TICK
            container.mux(self._video.encode(frame))
            self.frames += 1
            early, self._early_sound = self._early_sound, []
            for chunk in early:
                self.write_audio(chunk)

    def write_audio(self, chunk: AudioChunk) -> None:
        """Append sound; its stamp says where it belongs, holes become silence, overlaps are cut."""
        container, stream = self._container, self._audio
        if container is None:
            self._early_sound.append(chunk)
            return
        if stream is None:
            return
        with self._errors():
            samples = chunk.samples if chunk.samples.shape[1] <= 2 else chunk.samples.mean(1, keepdims=True, dtype=np.float32)
            if samples.shape[1] != self._channels:
                samples = np.repeat(samples.mean(1, keepdims=True, dtype=np.float32), self._channels, 1)
            start_ns = chunk.stamp_ns - self._start(chunk.stamp_ns)
            ahead = round(start_ns * self._rate / NS) - self._samples
            tolerance = self._rate // 50 if self._samples else 0  # ours: 20 ms of jitter are no hole
            if ahead > tolerance:
                self._encode(container, stream, np.zeros((ahead, self._channels), np.float32))
            elif ahead < -tolerance:
                samples = samples[-ahead:]
            self._encode(container, stream, samples)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        error = value
        if error is None:
            try:
                self._finish()
            except MediaError as failed:
                error = failed
        if error is not None and self._container is not None:
            with contextlib.suppress(Exception):
                self._container.close()
        self._atomic.__exit__(type(error) if error else None, error, getattr(error, "__traceback__", None))
        if error is not None and error is not value:
            raise error

    def _finish(self) -> None:
        with self._errors():
            if self._container is None:
                raise MediaError(f"cannot write {self.path}: wanted at least one image, got none")
            self._container.mux(self._video.encode(None))
            if self._audio is not None:
                self._container.mux(self._audio.encode(None))
            self._container.close()

    def _open(self, shape: tuple[int, ...]) -> OutputContainer:
        import av

        options = {"movflags": "+faststart"} if self.path.suffix == ".mp4" else {}
        # "file:": else a colon in the name would end the name of a protocol.
        container = self._container = av.open(f"file:{self._part}", "w", options=options)
        name = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"preset": "veryfast", "crf": "20"} if name == "libx264" else {}  # ours: quick, hardly visible loss
        video = container.add_stream(name, rate=Fraction(self._fps).limit_denominator(1000), options=options)
        assert isinstance(video, av.VideoStream)
        self._video = video
        self._video.height, self._video.width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2  # 4:2:0 wants even sizes
        self._video.pix_fmt = "yuv420p"
        self._video.codec_context.time_base = TICK
        if self._rate:
            rate = self._rate if self._rate in AAC_RATES else 48000
            layout = "stereo" if self._channels == 2 else "mono"
            self._audio = container.add_stream("aac", rate=rate, layout=layout)
            self._resampler = av.AudioResampler("fltp", layout, rate)
        return container

    def _start(self, stamp_ns: int) -> int:
        if self._origin_ns is None:
            self._origin_ns = stamp_ns
        return self._origin_ns

    def _encode(self, container: OutputContainer, stream: AudioStream, samples: np.ndarray) -> None:
        import av

        if not len(samples):
            return
        layout = "stereo" if self._channels == 2 else "mono"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, np.float32), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._samples, Fraction(1, self._rate)
        self._samples += len(samples)
        for part in self._resampler.resample(frame):
            container.mux(stream.encode(part))

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        import av

        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"cannot write {self.path}: {error_line(error)}") from None


def _fit(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    if rgb.shape[:2] == (height, width):
        return np.ascontiguousarray(rgb)
    if 0 <= height - rgb.shape[0] <= 1 and 0 <= width - rgb.shape[1] <= 1:
        return np.pad(rgb, ((0, height - rgb.shape[0]), (0, width - rgb.shape[1]), (0, 0)), mode="edge")
    import cv2

    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
