"""The ring of recent sound on a nanosecond time line, and the windows cut from it by stamp."""

from __future__ import annotations

import threading
from collections import Counter, deque

import numpy as np

from taco.checks import check_array, check_sample_rate
from taco.clock import JUMP_BACK_NS, NS
from taco.config import AudioConfig
from taco.errors import AudioGapError, ShapeError
from taco.types import AudioChunk, AudioWindow

# These four are ours.
MAX_JITTER_NS = 30_000_000  # stamps wander at most this much around the sample clock
NEWEST_LAG_NS = 300_000_000  # a live trailing window may end this much before its image
DRIFT_GAIN = 1 / 16  # share of a chunk's stamp error that moves the time line
PERSISTENT = 3  # chunks in succession of another rate or time line that move the ring there


def to_mono(samples: np.ndarray) -> np.ndarray:
    """(n, channels) float32 -> (n,) float32, the mean of the channels."""
    check_array("samples", samples, 2, np.float32)
    with np.errstate(invalid="ignore", over="ignore"):  # of infinite samples; ``push`` leaves them out
        return samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """(n,) float32 at ``rate`` Hz -> round(n * wanted / rate) but at least one float32 at ``wanted`` Hz, band-limited."""
    check_array("samples", samples, 1, np.float32)
    check_sample_rate(rate)
    check_sample_rate(wanted)
    if rate == wanted or not len(samples):
        return samples
    import soxr

    out = soxr.resample(samples, rate, wanted, quality="HQ").astype(np.float32, copy=False)
    length = max(1, round(len(samples) * wanted / rate))
    missing = np.full(max(0, length - len(out)), samples[-1])  # of a handful of samples soxr may give fewer, or none
    return np.concatenate([out, missing]) if len(missing) else out[:length]


def mel_bank(sample_rate: int, fft_size: int, n_mels: int, low_hz: float = 0.0, high_hz: float | None = None) -> np.ndarray:
    """(n_mels, fft_size // 2 + 1) triangles of unit area, equally far apart on Slaney's mel scale.

    low_hz, high_hz: where the first begins and the last ends; half the rate where ``high_hz`` is None.
    """

    def to_mel(hz: float) -> float:
        return float(15 + 27 * np.log(hz / 1000) / np.log(6.4) if hz >= 1000 else hz * 3 / 200)

    def to_hz(mel: np.ndarray) -> np.ndarray:
        return np.where(mel < 15, mel * 200 / 3, 1000 * np.exp((mel - 15) * np.log(6.4) / 27))

    top = sample_rate / 2
    edges = to_hz(np.linspace(to_mel(low_hz), to_mel(top if high_hz is None else high_hz), n_mels + 2))
    slopes = edges[:, None] - np.linspace(0, top, fft_size // 2 + 1)[None]
    widths = np.diff(edges)
    rising, falling = -slopes[:-2] / widths[:-1, None], slopes[2:] / widths[1:, None]
    bank = np.maximum(0, np.minimum(rising, falling))
    return np.asarray(bank * (2 / (edges[2:] - edges[:-2]))[:, None], np.float32)


def bridge(samples: np.ndarray, first: int, last: int) -> None:
    """Fill samples[first:last], in place, by what is before and after it, mirrored at the edges and faded into each other.

    samples: (n,) float32 in [-1, 1]. Level and spectrum of steady sound stay, and there is no click at the edges: of 40 ms,
    silence or a straight line move the sound model's scores twice as far (docs/reliability.md).
    """
    count = last - first
    fade = np.cos(np.arange(0.5, count) / count * np.pi / 2, dtype=np.float32)  # the sum of both powers is constant
    before, after = samples[max(0, first - count) : first][::-1], samples[last : last + count][::-1]
    out = np.zeros(count, np.float32)
    out[: len(before)] = before * fade[: len(before)]
    out[count - len(after) :] += after * fade[: len(after)][::-1]
    samples[first:last] = out.clip(-1.0, 1.0)


class AudioBuffer:
    """The last seconds of sound; ``push`` and ``window`` may be called from different threads.

    Samples follow each other at the sample rate; the stamps of the chunks only steer the time line,
    so jitter makes no holes and a drifting clock is followed. A missing chunk leaves a hole. A late one
    fills it; a window over short holes is bridged (``bridge_s``, ``bridge_share``), over others refused.
    Chunks of another rate, or more than a second off, move the ring only when ``PERSISTENT`` come in succession.
    ``counts`` tells what happened: chunks, samples, gaps, late (chunks that filled a hole), bridged (windows), overlaps,
    strays (chunks that did not persist), jumps (to another time line), rate_changes, nonfinite, clipped.
    """

    def __init__(self, config: AudioConfig | None = None):
        self.config = config or AudioConfig()
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self._clear()

    def reset(self) -> None:
        """Forget all sound; counters stay."""
        with self._lock:
            self._clear()

    def _clear(self) -> None:
        self.sample_rate = 0
        self._samples = np.zeros(0, np.float32)
        self._used = 0  # valid samples at the front of _samples
        self._dropped = 0  # samples that left the ring, so that _dropped + _used counts all
        self._end_ns = 0  # time just after the last sample
        self._holes: deque[tuple[int, int]] = deque()  # (first, last + 1) in absolute samples
        self._other: list[tuple[np.ndarray, int, int]] = []  # samples, rate, stamp: chunks in succession of another line

    @property
    def newest_ns(self) -> int | None:
        """Time just after the newest sample; None before the first."""
        return self._end_ns if self.sample_rate else None

    @property
    def oldest_ns(self) -> int | None:
        """Time of the oldest sample kept; None before the first."""
        return self._end_ns - self._duration_ns(self._used) if self.sample_rate else None

    def push(self, chunk: AudioChunk) -> None:
        """Take a chunk. Overlaps are cut, holes remembered and filled by late chunks; a new rate or time line starts afresh."""
        if not isinstance(chunk, AudioChunk):
            raise ShapeError(f"AudioBuffer.push: wanted an AudioChunk, got {type(chunk).__name__}")
        samples = to_mono(chunk.samples)
        with self._lock:
            self.counts["chunks"] += 1
            if not len(samples):
                return
            if not np.isfinite(samples).all():
                self.counts["nonfinite"] += 1  # left out, so that a hole marks the place
                return
            if np.abs(samples).max() > 1.0:
                self.counts["clipped"] += 1
                samples = np.clip(samples, -1.0, 1.0)
            self._place(samples, chunk.sample_rate, int(chunk.stamp_ns))

    def _place(self, samples: np.ndarray, rate: int, stamp_ns: int) -> None:
        if not self.sample_rate:
            self._start(rate, stamp_ns)
        elif rate != self.sample_rate or abs(stamp_ns - self._end_ns) > JUMP_BACK_NS:
            self._note_other(samples, rate, stamp_ns)
            return
        self._forget_other()
        self._insert(samples, stamp_ns)

    def _note_other(self, samples: np.ndarray, rate: int, stamp_ns: int) -> None:
        """Keep a chunk that does not belong here; move to its line where that persists."""
        if self._other:
            before, its_rate, its_stamp_ns = self._other[-1]
            if rate != its_rate or abs(stamp_ns - its_stamp_ns - round(len(before) * NS / rate)) > JUMP_BACK_NS:
                self._forget_other()
        self._other.append((samples, rate, stamp_ns))
        if len(self._other) < PERSISTENT:
            return
        chunks, self._other = self._other, []
        ahead_ns = chunks[0][2] - self._end_ns
        if rate != self.sample_rate or not 0 < ahead_ns <= round(self.config.ring_s * NS):
            self.counts["jumps" if rate == self.sample_rate else "rate_changes"] += 1
            self._clear()
            self._start(rate, chunks[0][2])
        for piece, _, its_stamp_ns in chunks:
            self._insert(piece, its_stamp_ns)

    def _forget_other(self) -> None:
        self.counts["strays"] += len(self._other)
        self._other.clear()

    def _insert(self, samples: np.ndarray, stamp_ns: int) -> None:
        error_ns = stamp_ns - self._end_ns
        half_chunk_ns = self._duration_ns(len(samples)) // 2
        jitter_ns = max(round(self.config.gap_tolerance_s * NS), min(half_chunk_ns, MAX_JITTER_NS))
        if error_ns > jitter_ns:
            self.counts["gaps"] += 1
            missing = self._count(error_ns)
            first = self._dropped + self._used
            self._holes.append((first, first + missing))
            self._append(np.zeros(missing, np.float32))
            self._end_ns = stamp_ns
        elif error_ns < -jitter_ns:
            old = self._count(-error_ns)  # samples before the newest one
            late = self._fill(samples[:old], self._dropped + self._used - old, self._count(jitter_ns))
            self.counts["late" if late else "overlaps"] += 1
            samples = samples[old:]
        else:
            self._end_ns += round(error_ns * DRIFT_GAIN)
        self._append(samples)
        self._end_ns += self._duration_ns(len(samples))
        self.counts["samples"] += len(samples)

    def _fill(self, samples: np.ndarray, first: int, jitter: int) -> bool:
        """Put late samples into the holes from ``first`` on; False where there is none. jitter: how far ``first`` may be off."""
        last = first + len(samples)
        for start, stop in self._holes:  # as chunks in time, they follow the samples before or are followed by those after
            shift = min(start - first, stop - last, key=abs)
            if abs(shift) <= jitter:
                first, last = first + shift, last + shift
                break
        holes, self._holes = self._holes, deque()
        filled = 0
        for start, stop in holes:
            low, high = max(start, first, self._dropped), min(stop, last)
            if low >= high:
                self._holes.append((start, stop))
                continue
            self._samples[low - self._dropped : high - self._dropped] = samples[low - first : high - first]
            filled += high - low
            self._holes.extend(piece for piece in ((start, low), (high, stop)) if piece[0] < piece[1])
        self.counts["samples"] += filled
        return filled > 0

    def _start(self, rate: int, stamp_ns: int) -> None:
        self.sample_rate = rate
        self._samples = np.zeros(2 * round(self.config.ring_s * rate), np.float32)
        self._end_ns = stamp_ns

    def _append(self, samples: np.ndarray) -> None:
        keep = len(self._samples) // 2  # one ring length; the other half makes room without moving each time
        if len(samples) > keep:
            self._dropped += self._used + len(samples) - keep
            self._used = 0
            samples = samples[-keep:]
        elif self._used + len(samples) > len(self._samples):
            shift = self._used + len(samples) - keep
            self._samples[: self._used - shift] = self._samples[shift : self._used].copy()
            self._used -= shift
            self._dropped += shift
        self._samples[self._used : self._used + len(samples)] = samples
        self._used += len(samples)
        while self._holes and self._holes[0][1] <= self._dropped:
            self._holes.popleft()

    def _duration_ns(self, samples: int) -> int:
        return round(samples * NS / self.sample_rate)

    def _count(self, duration_ns: int) -> int:
        return round(duration_ns * self.sample_rate / NS)

    def window(self, stamp_ns: int, *, pad: bool = False) -> AudioWindow:
        """The sound of the image stamped ``stamp_ns``: ``window_s`` long, mono, at the stream's own rate.

        trailing: ends at the stamp, or up to 0.3 s earlier at the newest sample where the sound lags
        behind the image. centered: half before, half after. ``pad`` fills what lies outside the
        stream's ends with zeros (offline). Short holes are bridged and told in ``AudioWindow.bridged``.
        Raises AudioGapError with reason no_audio, audio_gap,
        audio_too_old or audio_not_yet.
        """
        with self._lock:
            if not self.sample_rate:
                raise AudioGapError("no_audio", "no sound yet: wanted a window, got no chunk; is the microphone running?")
            count = round(self.config.window_s * self.sample_rate)
            end_ns = int(stamp_ns)
            if self.config.alignment == "centered":
                end_ns += round(self.config.window_s * NS / 2)
            elif not pad and 0 < end_ns - self._end_ns <= NEWEST_LAG_NS:
                end_ns = self._end_ns
            end = self._dropped + self._used + round((end_ns - self._end_ns) * self.sample_rate / NS)
            samples, bridged = self._cut(end - count, end, pad)
            return AudioWindow(samples, self.sample_rate, end_ns - self._duration_ns(count), bridged)

    def _cut(self, first: int, last: int, pad: bool) -> tuple[np.ndarray, int]:
        """Samples first to last - 1, and how many of them are bridged."""
        newest = self._dropped + self._used
        if last > newest and not pad:
            late_ms = 1000 * (last - newest) / self.sample_rate
            raise AudioGapError("audio_not_yet", f"sound of this image is not there yet: {late_ms:.0f} ms are missing")
        if first < self._dropped and not pad:
            early_ms = 1000 * (self._dropped - first) / self.sample_rate
            if self._dropped:
                raise AudioGapError(
                    "audio_too_old", f"image is older than the sound kept, by {early_ms:.0f} ms; raise audio.ring_s"
                )
            raise AudioGapError("no_audio", f"not enough sound yet: {early_ms:.0f} ms are missing before the first sample")
        holes = [(start, stop) for start, stop in self._holes if start < last and first < stop]
        missing = sum(min(stop, last) - max(start, first) for start, stop in holes)
        longest_s = max((stop - start for start, stop in holes), default=0) / self.sample_rate
        if longest_s > self.config.bridge_s:
            raise AudioGapError("audio_gap", f"a hole of {1000 * longest_s:.0f} ms in the sound")
        if missing > self.config.bridge_share * (last - first):
            got = f"{1000 * missing / self.sample_rate:.0f} ms of a window"
            raise AudioGapError("audio_gap", f"holes in the sound: wanted at most audio.bridge_share of it, got {got}")
        low, high = max(first, self._dropped), min(last, newest)
        out = np.zeros(last - first, np.float32)
        if low < high:
            out[low - first : high - first] = self._samples[low - self._dropped : high - self._dropped]
        for start, stop in holes:
            bridge(out, max(start - first, 0), min(stop - first, len(out)))
        self.counts["bridged"] += bool(holes)
        return out, missing
