"""Videos written as MP4 with sound; they appear whole or not at all."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path

import numpy as np

from taco.audio import NS
from taco.errors import MediaError
from taco.io.files import atomic, reason
from taco.types import AudioChunk

TICK = Fraction(1, 90_000)  # time base of written videos
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)


class VideoWriter:
    """An MP4 (H.264, AAC; plays in browsers) that appears under its name only when it is whole.

    Use as a context manager: leaving it by an exception removes what was written.
    path: ends in a suffix that FFmpeg knows. fps: rate for frames written without a stamp.
    sample_rate, channels: of the sound, Hz; sample_rate 0 writes no sound track.
    origin_ns: stamp that becomes time 0; None takes the first frame's or chunk's.
    """

    def __init__(self, path, *, fps: float = 25.0, sample_rate: int = 0, channels: int = 1, origin_ns: int | None = None):
        self.path = Path(path)
        self._fps, self._origin_ns = fps, origin_ns
        self._rate, self._channels = sample_rate, min(2, channels)
        self._box = self._video = self._audio = None
        self._last_tick, self._samples, self._before_video = -1, 0, []
        self.frames = 0

    def __enter__(self) -> VideoWriter:
        self._atomic = atomic(self.path)
        self._part = self._atomic.__enter__()
        return self

    def write(self, rgb: np.ndarray, stamp_ns: int | None = None) -> None:
        """Append an image, (H, W, 3) uint8; later ones are scaled to the size of the first. Stamps must rise."""
        import av

        with self._errors():
            if self._box is None:
                self._open(rgb.shape)
            if stamp_ns is None:
                tick = round(self.frames / self._fps / TICK)
            else:
                tick = round((stamp_ns - self._start(stamp_ns)) / NS / TICK)
            tick = max(tick, self._last_tick + 1)
            self._last_tick = tick
            frame = av.VideoFrame.from_ndarray(_sized(rgb, self._video.height, self._video.width), "rgb24")
            frame.pts, frame.time_base = tick, TICK
            self._box.mux(self._video.encode(frame))
            self.frames += 1
            held, self._before_video = self._before_video, []
            for chunk in held:
                self.write_audio(chunk)

    def write_audio(self, chunk: AudioChunk) -> None:
        """Append sound; its stamp says where it belongs, holes become silence, overlaps are cut."""
        if self._box is None:
            self._before_video.append(chunk)
            return
        if self._audio is None:
            return
        with self._errors():
            samples = chunk.samples if chunk.samples.shape[1] <= 2 else chunk.samples.mean(1, keepdims=True, dtype=np.float32)
            if samples.shape[1] != self._channels:
                samples = np.repeat(samples.mean(1, keepdims=True, dtype=np.float32), self._channels, 1)
            start_ns = chunk.stamp_ns - self._start(chunk.stamp_ns)
            ahead = round(start_ns * self._rate / NS) - self._samples
            tolerance = self._rate // 50 if self._samples else 0
            if ahead > tolerance:
                self._encode(np.zeros((ahead, self._channels), np.float32))
            elif ahead < -tolerance:
                samples = samples[-ahead:]
            self._encode(samples)

    def __exit__(self, kind, value, trace) -> bool:
        error = value
        if error is None:
            try:
                self._finish()
            except MediaError as failed:
                error = failed
        if error is not None and self._box is not None:
            with contextlib.suppress(Exception):
                self._box.close()
        self._atomic.__exit__(type(error) if error else None, error, getattr(error, "__traceback__", None))
        if error is not value:
            raise error
        return False

    def _finish(self) -> None:
        with self._errors():
            if self._box is None:
                raise MediaError(f"cannot write {self.path}: wanted at least one image, got none")
            for stream in filter(None, (self._video, self._audio)):
                self._box.mux(stream.encode(None))
            self._box.close()

    def _open(self, shape) -> None:
        import av

        self._box = av.open(str(self._part), "w", options={"movflags": "+faststart"} if self.path.suffix == ".mp4" else {})
        name = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        options = {"preset": "veryfast", "crf": "20"} if name == "libx264" else {}
        self._video = self._box.add_stream(name, rate=Fraction(self._fps).limit_denominator(1000), options=options)
        self._video.height, self._video.width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2  # 4:2:0 wants even sizes
        self._video.pix_fmt = "yuv420p"
        self._video.codec_context.time_base = TICK
        if self._rate:
            rate = self._rate if self._rate in AAC_RATES else 48000
            layout = "stereo" if self._channels == 2 else "mono"
            self._audio = self._box.add_stream("aac", rate=rate, layout=layout)
            self._resampler = av.AudioResampler("fltp", layout, rate)

    def _start(self, stamp_ns: int) -> int:
        if self._origin_ns is None:
            self._origin_ns = stamp_ns
        return self._origin_ns

    def _encode(self, samples: np.ndarray) -> None:
        import av

        if not len(samples):
            return
        layout = "stereo" if self._channels == 2 else "mono"
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T, np.float32), "fltp", layout)
        frame.sample_rate, frame.pts, frame.time_base = self._rate, self._samples, Fraction(1, self._rate)
        self._samples += len(samples)
        for part in self._resampler.resample(frame):
            self._box.mux(self._audio.encode(part))

    @contextlib.contextmanager
    def _errors(self):
        import av

        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            raise MediaError(f"cannot write {self.path}: {reason(error)}") from None


def _sized(rgb: np.ndarray, height: int, width: int) -> np.ndarray:
    if rgb.shape[:2] == (height, width):
        return np.ascontiguousarray(rgb)
    if 0 <= height - rgb.shape[0] <= 1 and 0 <= width - rgb.shape[1] <= 1:
        return np.pad(rgb, ((0, height - rgb.shape[0]), (0, width - rgb.shape[1]), (0, 0)), mode="edge")
    import cv2

    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
