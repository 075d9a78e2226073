"""What a sound window is made of: is it more than steady noise, and which parts of it are struck, which are held?"""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch

from taco.audio import resample
from taco.types import AudioWindow

RATE = 16000  # Hz at which noise is judged
FRAME_S = 0.032  # of the spectra that noise is judged by
PART_FRAME_S = 0.064  # of the spectra that are taken apart
STRETCH, BAND = 17, 17  # spectra, and frequencies, over which a part is smoothed: 0.27 s and 250 Hz
LEAST_DB = -16.0  # a part this much weaker than the whole is a trace, not a sound of its own
FLOOR = 1e-12
EXPONENTIAL = -0.5772  # mean of the logarithm of an exponential variable of mean 1: minus Euler's constant


def structure(window: AudioWindow) -> float:
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
    """The held (harmonic) and the struck (percussive) part, which add up to the window; None where it has but one of them.

    A held sound is smooth along time, a struck one along frequency (Ono et al. 2008; Fitzgerald 2010): each bin is
    shared out by the squares of its running geometric means in the two directions. A part counts down to 16 dB below the whole.
    """
    size = round(PART_FRAME_S * window.sample_rate / 4) * 4
    if len(window.samples) < 2 * size:
        return None
    spectra = _spectra(window.samples, size)
    logs = np.log(spectra.abs().numpy() + 1e-5)
    held = cv2.blur(logs, (STRETCH, 1), borderType=cv2.BORDER_REPLICATE)
    struck = cv2.blur(logs, (1, BAND), borderType=cv2.BORDER_REPLICATE)
    share = torch.sigmoid(2.0 * torch.from_numpy(held - struck))
    hann = torch.hann_window(size)
    harmonic = torch.istft(spectra * share, size, size // 4, window=hann, length=len(window.samples)).numpy()
    parts = tuple(
        AudioWindow(np.clip(part, -1, 1).astype(np.float32), window.sample_rate, window.start_ns)
        for part in (harmonic, window.samples - harmonic)
    )
    return parts if all(part.level_dbfs - window.level_dbfs >= LEAST_DB for part in parts) else None


def _spectra(samples: np.ndarray, size: int, centered: bool = True) -> torch.Tensor:
    """(size // 2 + 1, frames) complex: half overlapping frames, or, centered, frames that overlap by three quarters."""
    hop = size // 4 if centered else size // 2
    sound = torch.from_numpy(np.ascontiguousarray(samples))
    return torch.stft(sound, size, hop, window=torch.hann_window(size), center=centered, return_complex=True)


def _running_median(values: np.ndarray, count: int) -> np.ndarray:
    padded = np.pad(values, count // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, count), -1)
