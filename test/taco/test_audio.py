"""AudioBuffer: windows by stamps, holes, jitter, drift, rates and channels."""

import numpy as np
import pytest

from taco.audio import AudioBuffer, mel_bank, resample, to_mono
from taco.clock import NS
from taco.config import AudioConfig
from taco.errors import AudioGapError, ShapeError
from taco.types import AudioChunk

RATE = 16000


def ramp(first: int, count: int, rate: int = RATE, channels: int = 1, stamp_ns: int | None = None) -> AudioChunk:
    """A chunk whose sample values tell their own index (mod 1000), so that a window shows what it holds."""
    values = ((np.arange(first, first + count) % 1000) / 1000).astype(np.float32)
    stamp = round(first * NS / rate) if stamp_ns is None else stamp_ns
    return AudioChunk(np.repeat(values[:, None], channels, 1), rate, stamp)


def fill(buffer: AudioBuffer, seconds: float, rate: int = RATE, size: int = 800, start: int = 0, jitter=lambda i: 0) -> int:
    total = round(seconds * rate)
    for i, first in enumerate(range(start, start + total, size)):
        stamp = round(first * NS / rate) + jitter(i)
        buffer.push(ramp(first, min(size, start + total - first), rate, stamp_ns=stamp))
    return start + total


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("alignment", ["trailing", "centered"])
def test_window_holds_the_samples_of_its_time(rate, channels, alignment):
    buffer = AudioBuffer(AudioConfig(alignment=alignment))
    for first in range(0, 4 * rate, 1024):
        buffer.push(ramp(first, 1024, rate, channels))
    window = buffer.window(2 * NS)
    first = rate if alignment == "trailing" else rate + rate // 2
    assert window.sample_rate == rate
    assert window.start_ns == round(first * NS / rate)
    expected = ((np.arange(first, first + rate) % 1000) / 1000).astype(np.float32)
    np.testing.assert_array_equal(window.samples, expected)


def test_downmix_is_the_mean_of_the_channels():
    left, right = np.full(10, 0.5, np.float32), np.full(10, -0.1, np.float32)
    np.testing.assert_allclose(to_mono(np.stack([left, right], 1)), np.full(10, 0.2), rtol=1e-6)


@pytest.mark.parametrize(
    ("stamp_s", "reason"),
    [(0.5, "no_audio"), (3.5, "audio_not_yet")],
)
def test_window_outside_the_stream_is_refused_by_name(stamp_s, reason):
    buffer = AudioBuffer()
    fill(buffer, 3.0)
    with pytest.raises(AudioGapError) as caught:
        buffer.window(round(stamp_s * NS))
    assert caught.value.reason == reason


def test_no_sound_at_all_is_no_audio():
    with pytest.raises(AudioGapError, match="microphone") as caught:
        AudioBuffer().window(0)
    assert caught.value.reason == "no_audio"


def test_old_image_is_too_old_and_the_ring_stays_bounded():
    buffer = AudioBuffer(AudioConfig(ring_s=3.0))
    fill(buffer, 60.0)
    with pytest.raises(AudioGapError) as caught:
        buffer.window(10 * NS)
    assert caught.value.reason == "audio_too_old"
    assert buffer._samples.nbytes == 2 * 3 * RATE * 4
    window = buffer.window(58 * NS)
    assert window.samples[0] == np.float32((57 * RATE % 1000) / 1000)


def test_hole_is_refused_and_only_where_it_is():
    buffer = AudioBuffer()
    end = fill(buffer, 2.0)
    fill(buffer, 2.5, start=end + 1600)  # 100 ms are missing
    assert buffer.counts["gaps"] == 1
    with pytest.raises(AudioGapError) as caught:
        buffer.window(round(2.5 * NS))
    assert caught.value.reason == "audio_gap"
    late = buffer.window(round(4.0 * NS))
    np.testing.assert_array_equal(late.samples[:3], ((np.arange(3 * RATE, 3 * RATE + 3) % 1000) / 1000).astype(np.float32))
    buffer.window(round(1.9 * NS))


def test_sound_up_to_a_hole_and_from_its_end_on_is_whole():
    buffer = AudioBuffer()
    fill(buffer, 2.5, start=fill(buffer, 2.0) + 1600)  # the hole is from 2.0 to 2.1 s
    for end_s in (2.0, 3.1):
        assert buffer.window(round(end_s * NS)).start_ns == round((end_s - 1) * NS)
    for end_s in (2.0 + 1 / RATE, 3.1 - 1 / RATE):
        with pytest.raises(AudioGapError, match="a hole of 100 ms"):
            buffer.window(round(end_s * NS))


def test_the_ring_always_holds_as_many_seconds_as_it_says():
    buffer = AudioBuffer(AudioConfig(ring_s=3.0))
    for first in range(0, 20 * RATE, 1000):
        buffer.push(ramp(first, 1000))
        if buffer.newest_ns >= 3 * NS:
            assert 3 * NS <= buffer.newest_ns - buffer.oldest_ns <= 6 * NS
    oldest = buffer.window(buffer.newest_ns - 2 * NS)
    assert oldest.samples[0] == np.float32(17 * RATE % 1000 / 1000)


def test_one_missing_chunk_of_ten_milliseconds_is_seen():
    buffer = AudioBuffer()
    end = fill(buffer, 2.0, size=160)
    fill(buffer, 1.0, size=160, start=end + 160)
    assert buffer.counts["gaps"] == 1


def test_jittering_stamps_make_no_hole_and_no_shift():
    noise = np.random.default_rng(1).integers(-15_000_000, 15_000_000, 400)
    buffer = AudioBuffer()
    fill(buffer, 10.0, jitter=lambda i: int(noise[i]))
    assert not buffer.counts["gaps"] and not buffer.counts["overlaps"]
    start = buffer.window(8 * NS).samples[0] * 1000
    shift = (start - 7 * RATE % 1000 + 500) % 1000 - 500
    assert abs(shift) / RATE < 0.006


def test_drifting_clock_is_followed():
    buffer = AudioBuffer(AudioConfig(ring_s=4.0))
    real_rate = RATE * (1 + 300e-6)  # 300 ppm fast: 36 ms in 2 minutes
    for i in range(120 * 20):
        buffer.push(ramp(i * 800, 800, stamp_ns=round(i * 800 * NS / real_rate)))
    true_end = round(120 * 20 * 800 * NS / real_rate)
    assert not buffer.counts["gaps"] and not buffer.counts["jumps"]
    assert abs(buffer.newest_ns - true_end) < 2_000_000


def test_repeated_chunks_are_cut():
    buffer = AudioBuffer()
    fill(buffer, 2.0)
    buffer.push(ramp(2 * RATE - 800, 800))
    buffer.push(ramp(2 * RATE - 800, 1600))
    assert buffer.counts["overlaps"] == 2
    np.testing.assert_allclose(buffer.newest_ns, round(2.05 * NS), atol=10)
    assert buffer.window(round(2.05 * NS)).samples[-1] == np.float32((2 * RATE + 799) % 1000 / 1000)


def test_time_jumping_back_starts_a_new_line():
    buffer = AudioBuffer()
    fill(buffer, 5.0)
    fill(buffer, 1.5)  # a bag that loops
    assert buffer.counts["jumps"] == 1
    assert buffer.oldest_ns == 0
    assert buffer.window(round(1.2 * NS)).start_ns == round(0.2 * NS)


def test_change_of_rate_starts_afresh():
    buffer = AudioBuffer()
    fill(buffer, 2.0)
    for first in range(2 * 48000, 4 * 48000, 4800):
        buffer.push(ramp(first, 4800, 48000))
    assert buffer.counts["rate_changes"] == 1
    assert buffer.window(round(3.5 * NS)).sample_rate == 48000


def test_bad_samples_are_left_out_and_counted():
    buffer = AudioBuffer()
    end = fill(buffer, 1.5)
    bad = ramp(end, 800)
    bad.samples[3] = np.nan
    buffer.push(bad)
    fill(buffer, 1.5, start=end + 800)
    assert buffer.counts["nonfinite"] == 1 and buffer.counts["gaps"] == 1
    buffer.push(AudioChunk(np.full((800, 1), 3.0, np.float32), RATE, buffer.newest_ns))
    assert buffer.counts["clipped"] == 1
    assert buffer.window(buffer.newest_ns).samples.max() == 1.0


def test_live_window_may_end_a_little_before_the_image_but_never_after():
    buffer = AudioBuffer()
    fill(buffer, 2.0)
    window = buffer.window(round(2.1 * NS))
    assert window.end_ns == 2 * NS


def test_padding_for_clips_fills_the_ends_with_zeros():
    buffer = AudioBuffer(AudioConfig(alignment="centered"))
    fill(buffer, 2.0)
    window = buffer.window(0, pad=True)
    assert len(window.samples) == RATE and not window.samples[: RATE // 2].any() and window.samples[RATE // 2 :].any()
    assert not buffer.window(100 * NS, pad=True).samples.any()


def test_empty_chunk_and_foreign_object():
    buffer = AudioBuffer()
    buffer.push(AudioChunk(np.zeros((0, 1), np.float32), RATE, 0))
    assert buffer.newest_ns is None
    with pytest.raises(ShapeError, match="AudioChunk"):
        buffer.push(np.zeros(3))


@pytest.mark.parametrize(("rate", "wanted"), [(48000, 16000), (44100, 16000), (8000, 44100), (16000, 16000)])
def test_resample_keeps_a_tone(rate, wanted):
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    out = resample(tone, rate, wanted)
    expected = np.sin(2 * np.pi * 440 * np.arange(wanted) / wanted)
    assert len(out) == wanted
    assert np.abs(out - expected)[wanted // 10 : -wanted // 10].max() < 2e-3


@pytest.mark.parametrize(("count", "rate", "wanted"), [(1, 48000, 1000), (2, 48000, 16000), (3, 8000, 48000), (99, 44100, 16000)])
def test_resample_of_a_handful_gives_the_count_it_says(count, rate, wanted):
    out = resample(np.full(count, 0.5, np.float32), rate, wanted)
    assert len(out) == max(1, round(count * wanted / rate)) and out.dtype == np.float32 and np.abs(out).max() > 0.2
    assert not len(resample(np.zeros(0, np.float32), rate, wanted))


def test_resample_holds_the_last_sample_where_the_library_gives_fewer(monkeypatch):
    import soxr

    monkeypatch.setattr(soxr, "resample", lambda samples, *_, **__: np.zeros(0, np.float32))
    assert resample(np.array([0.1, 0.4], np.float32), 16000, 32000).tolist() == [np.float32(0.4)] * 4


@pytest.mark.parametrize(("low", "high"), [(0, None), (40, 7000), (1500, 8000), (40, 900)])
def test_the_mel_bank_is_slaneys(low, high):
    """Against transformers, whose triangles are of unit area too; half the rate where no end is given."""
    banks = pytest.importorskip("transformers.audio_utils")
    expected = banks.mel_filter_bank(257, 24, low, high or 8000, 16000, norm="slaney", mel_scale="slaney").T
    assert np.allclose(mel_bank(16000, 512, 24, low, high), expected, atol=1e-6)
