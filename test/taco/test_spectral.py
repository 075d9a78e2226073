"""Steady noise is told from sound that has structure; a sound of two natures is taken apart into them."""

import math

import numpy as np
import pytest

from taco.config import ConceptsConfig
from taco.evaluation.stamps import coloured_noise
from taco.spectral import LEAST_DB, sound_parts, structure
from taco.types import AudioWindow

LEAST = ConceptsConfig().min_structure


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
        assert structure(window(level * coloured_noise(rate, slope, rng), rate)) < 0.9 * LEAST


@pytest.mark.parametrize("rate", [16000, 48000])
@pytest.mark.parametrize("sound", [hum, clicks])
def test_tones_and_clicks_have_structure_also_over_some_noise(rate, sound):
    rng = np.random.default_rng(0)
    clean = sound(rate)
    assert structure(window(clean, rate)) > 2 * LEAST
    noise = coloured_noise(rate, 0.5, rng) * np.sqrt(np.mean(clean**2)) * 10 ** (-15 / 20)
    assert structure(window(clean + noise, rate)) > 1.5 * LEAST


def test_noise_that_comes_and_goes_is_no_steady_noise():
    rng = np.random.default_rng(0)
    surf = coloured_noise(16000, 0.5, rng) * 0.1 * (0.02 + np.sin(2 * np.pi * 1.5 * times(16000)) ** 4)
    assert structure(window(surf, 16000)) > 1.5 * LEAST


def test_silence_and_windows_too_short_to_judge_are_not_called_noise():
    assert structure(window(np.zeros(16000), 16000)) > LEAST
    assert structure(window(np.zeros(100), 16000)) == math.inf


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_held_and_struck_sounds_are_taken_apart(rate):
    held, struck = hum(rate), clicks(rate)
    held *= np.sqrt(np.mean(struck**2) / np.mean(held**2))
    both = window(held + struck, rate)
    harmonic, percussive = sound_parts(both)
    assert np.allclose(harmonic.samples + percussive.samples, both.samples, atol=1e-5)
    assert {(part.sample_rate, part.start_ns, len(part.samples)) for part in (harmonic, percussive)} == {(rate, 0, rate)}
    # Each part is its source with at most a tenth of the other's power in it.
    assert db(harmonic.samples - held) < db(held) - 10
    assert db(percussive.samples - struck) < db(struck) - 10


@pytest.mark.parametrize("sound", [hum, clicks])
def test_one_sound_alone_has_no_two_parts(sound):
    assert sound_parts(window(sound(16000), 16000)) is None


def test_a_trace_is_no_part():
    held, struck = hum(16000), clicks(16000)
    struck *= np.sqrt(np.mean(held**2) / np.mean(struck**2))
    assert sound_parts(window(held + struck * 10 ** ((LEAST_DB + 3) / 20), 16000)) is not None
    assert sound_parts(window(held + struck * 10 ** ((LEAST_DB - 4) / 20), 16000)) is None


def test_a_window_shorter_than_two_spectra_has_no_parts():
    assert sound_parts(window(hum(16000)[:1500], 16000)) is None
