"""Steady noise is told from sound that has structure; two sounds at once are taken apart."""

import math

import numpy as np
import pytest

from taco.evaluation.composed.scenes import coloured_noise
from taco.sound_separation import LEAST_DB, departure_from_noise, sound_parts
from taco.types import AudioWindow

LEAST = 0.4  # of concepts.min_structure, where it is used


def window(samples, rate) -> AudioWindow:
    return AudioWindow(np.clip(samples, -1, 1).astype(np.float32), rate, 0)


def times(rate, seconds=1.0):
    return np.arange(round(seconds * rate)) / rate


def hum(rate, pitch=220.0):
    """Eight harmonics: as steady as a sound can be, and no noise."""
    return 0.1 * sum(np.sin(2 * np.pi * pitch * n * times(rate)) / n for n in range(1, 9))


def clicks(rate, every_s=0.125):
    rng = np.random.default_rng(1)
    since = times(rate) % every_s
    return 0.15 * rng.normal(size=rate) * np.exp(-since / 0.004)


def db(samples):
    return 10 * math.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-20)


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_noise_of_any_colour_has_no_structure(rate, slope):
    rng = np.random.default_rng(int(10 * slope))
    for level in (0.3, 0.003):
        assert departure_from_noise(window(level * coloured_noise(rate, slope, rng), rate)) < 0.9 * LEAST


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("sound", [hum, clicks])
def test_tones_and_clicks_have_structure_also_over_some_noise(rate, sound):
    rng = np.random.default_rng(0)
    clean = sound(rate)
    assert departure_from_noise(window(clean, rate)) > 2 * LEAST
    noise = coloured_noise(rate, 0.5, rng) * np.sqrt(np.mean(clean**2)) * 10 ** (-15 / 20)
    assert departure_from_noise(window(clean + noise, rate)) > 1.5 * LEAST


def test_noise_that_comes_and_goes_is_no_steady_noise():
    rng = np.random.default_rng(0)
    surf = coloured_noise(16000, 0.5, rng) * 0.1 * (0.02 + np.sin(2 * np.pi * 1.5 * times(16000)) ** 4)
    assert departure_from_noise(window(surf, 16000)) > 1.5 * LEAST


def test_silence_and_windows_too_short_to_judge_are_not_called_noise():
    assert departure_from_noise(window(np.zeros(16000), 16000)) > LEAST
    assert departure_from_noise(window(np.zeros(100), 16000)) == math.inf


def likeness(part, source, other):
    """How much more of ``source`` than of ``other`` is in a part, in dB, by projection on both."""
    basis = np.stack([source / np.linalg.norm(source), other / np.linalg.norm(other)])
    return db(basis[0] @ part.samples) - db(basis[1] @ part.samples)


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_two_sounds_at_once_are_taken_apart(rate):
    harmonic, percussive = hum(rate), clicks(rate)
    harmonic *= np.sqrt(np.mean(percussive**2) / np.mean(harmonic**2))
    both = window(harmonic + percussive, rate)
    parts = sound_parts(both)
    assert np.allclose(parts[0].samples + parts[1].samples, both.samples, atol=1e-5)
    assert {(part.sample_rate, part.start_ns, len(part.samples)) for part in parts} == {(rate, 0, rate)}
    found = sorted(likeness(part, harmonic, percussive) for part in parts)
    assert found[0] < -10 and found[1] > 10  # one part is the one sound, the other the other


def test_parts_add_up_at_full_scale_too():
    both = window(10 * hum(16000) + 20 * clicks(16000), 16000)
    assert np.abs(both.samples).max() == 1
    one, other = sound_parts(both)
    assert np.allclose(one.samples + other.samples, both.samples, atol=1e-5)


def test_a_high_and_a_low_voice_are_taken_apart():
    t = times(16000)
    low = 0.1 * np.sin(2 * np.pi * 200 * t) * (1 + np.sin(2 * np.pi * 3 * t))
    high = 0.1 * np.sin(2 * np.pi * 3000 * t) * (1 + np.sin(2 * np.pi * 5 * t + 1))
    found = sorted(likeness(part, low, high) for part in sound_parts(window(low + high, 16000)))
    assert found[0] < -10 and found[1] > 10


def test_a_steady_sound_gives_parts_that_are_alike_or_none():
    parts = sound_parts(window(hum(16000), 16000))
    if parts is not None:
        spectra = [np.abs(np.fft.rfft(part.samples))[:8000].reshape(100, 80).mean(1) for part in parts]
        assert np.corrcoef(*spectra)[0, 1] > 0.9


def test_the_same_sound_is_taken_apart_the_same_way():
    both = window(hum(16000) + clicks(16000), 16000)
    for one, other in zip(sound_parts(both), sound_parts(both)):
        assert np.array_equal(one.samples, other.samples)


def test_a_trace_is_no_part():
    harmonic, percussive = hum(16000), clicks(16000)
    percussive *= np.sqrt(np.mean(harmonic**2) / np.mean(percussive**2))
    both = window(harmonic + percussive * 10 ** (-10 / 20), 16000)
    assert all(part.level_dbfs - both.level_dbfs >= LEAST_DB for part in sound_parts(both))
    assert sound_parts(window(harmonic + percussive * 10 ** (-40 / 20), 16000)) is None


def test_a_window_shorter_than_two_spectra_has_no_parts():
    assert sound_parts(window(hum(16000)[:1000], 16000)) is None
