"""Is a window more than steady noise, and can it be separated into two sounds?"""

from __future__ import annotations

import functools
import math

import numpy as np
import torch

from taco.audio import mel_bank, resample
from taco.types import AudioWindow

# These are ours.
RATE = 16000  # Hz at which noise is judged
FRAME_S = 0.032  # of the spectra that noise is judged by
PART_FRAME_S = 0.032  # of the spectra that are taken apart
BANDS, ROUNDS = 64, 80  # of the spectrogram that is taken apart, and how often its two components are improved
LEAST_DB = -16.0  # a part this much weaker than the whole is a trace, not a sound of its own
FLOOR = 1e-12  # least power or amplitude that is divided by
EXPONENTIAL = -0.5772  # mean of the logarithm of an exponential variable of mean 1: minus Euler's constant


def departure_from_noise(window: AudioWindow) -> float:
    """How far the sound departs from steady noise, >= 0: below 0.35 for noise of any colour, above 0.85 for instruments.

    The power of stationary noise at a frequency is exponentially distributed over time, and its mean is smooth over
    frequency. Added are how far the power's mean logarithm lies from the exponential's, and how far the mean spectrum
    lies from its own running median, both in nepers, weighted by the spectrum's magnitude. *Ours.* Needs windows of
    half a second: in shorter ones noise has had no time to look steady. Digital silence gives 0.58.
    """
    samples = resample(window.samples, window.sample_rate, RATE)
    size = round(FRAME_S * RATE)
    if len(samples) < 2 * size:
        return math.inf
    power = _spectra(samples, size, centered=False).abs().square().double().numpy() + FLOOR
    mean = power.mean(1)
    weights = np.sqrt(mean) / np.sqrt(mean).sum()
    level = np.log(mean)
    over_time = np.abs(np.log(power).mean(1) - level - EXPONENTIAL)
    over_frequency = np.abs(level - _running_median(level, 9))
    return float(weights @ (over_time + over_frequency))


def sound_parts(window: AudioWindow) -> tuple[AudioWindow, AudioWindow] | None:
    """The window taken apart into the two sounds that explain it best, which add up to it; None where one of them is but a trace.

    Non-negative factorization of the spectrogram into two components (Kullback-Leibler, multiplicative updates: Lee and Seung
    2001), each of which keeps its share of every bin. What sounds together and alike stays together: a voice and a bell
    come apart, two violins do not. Deterministic. Takes about 5 ms; a part counts down to 16 dB below the whole. Of a
    window at full scale a part may go beyond [-1, 1], where the other takes away from it.
    """
    size = round(PART_FRAME_S * window.sample_rate / 4) * 4
    if len(window.samples) < 2 * size:
        return None
    spectra = _spectra(window.samples, size)
    bands = _bands(size, window.sample_rate)
    power = bands @ spectra.abs().square()
    rough = _first_component((power + 1e-9).sqrt().numpy())
    share = bands.T @ torch.from_numpy(rough) / bands.sum(0)[:, None].clamp_min(FLOOR)
    hann = torch.hann_window(size)
    first = torch.istft(spectra * share, size, size // 4, window=hann, length=len(window.samples)).numpy()
    one, other = (AudioWindow(part, window.sample_rate, window.start_ns) for part in (first, window.samples - first))
    return (one, other) if min(one.level_dbfs, other.level_dbfs) - window.level_dbfs >= LEAST_DB else None


def _first_component(values: np.ndarray) -> np.ndarray:
    """(bands, frames) > 0 -> the share of the first of two components in each, in [0, 1]."""
    random = torch.Generator().manual_seed(0)
    shapes = (torch.rand(len(values), 2, generator=random) + 0.1).numpy()
    courses = (torch.rand(2, values.shape[1], generator=random) + 0.1).numpy()
    ratio = np.empty_like(values)

    def compare() -> None:  # in place, and in NumPy: half of torch's time for arrays this small
        np.dot(shapes, courses, out=ratio)
        np.add(ratio, FLOOR, out=ratio)
        np.divide(values, ratio, out=ratio)

    for _ in range(ROUNDS):
        compare()
        courses *= (shapes.T @ ratio) / shapes.sum(0)[:, None]
        compare()
        shapes *= (ratio @ courses.T) / courses.sum(1)
    found: np.ndarray = shapes[:, :1] * courses[:1] / (shapes @ courses + FLOOR)
    return found


@functools.lru_cache(4)
def _bands(size: int, rate: int) -> torch.Tensor:
    """(BANDS, size // 2 + 1) overlapping triangles, as wide as critical bands are."""
    return torch.from_numpy(mel_bank(rate, size, BANDS))


def _spectra(samples: np.ndarray, size: int, centered: bool = True) -> torch.Tensor:
    """(size // 2 + 1, frames) complex: half overlapping frames, or, centered, frames that overlap by three quarters."""
    hop = size // 4 if centered else size // 2
    sound = torch.from_numpy(np.ascontiguousarray(samples))
    return torch.stft(sound, size, hop, window=torch.hann_window(size), center=centered, return_complex=True)


def _running_median(values: np.ndarray, count: int) -> np.ndarray:
    padded = np.pad(values, count // 2, mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, count), -1))
