"""AudioBuffer where chunks are lost, late, repeated or of somebody else; and against a list that remembers everything."""

import numpy as np
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from taco.audio import PERSISTENT, AudioBuffer, bridge
from taco.clock import NS
from taco.config import AudioConfig
from taco.errors import AudioGapError
from taco.types import AudioChunk
from test.taco.test_audio import RATE, fill, ramp

TICK = NS // 100  # 10 ms: a chunk of these tests
SIZE = RATE // 100


def tick(index: int, rate: int = RATE) -> AudioChunk:
    """A chunk of 10 ms, which begins at ``index`` times 10 ms."""
    return ramp(index * rate // 100, rate // 100, rate, stamp_ns=index * TICK)


def answered(lost: float, late: float = 0.0, images: int = 300) -> float:
    """Share of the images of 20 s that get their sound, with a share of the chunks lost and a share up to 50 ms late."""
    rng, buffer, arrivals = np.random.default_rng(5), AudioBuffer(), []
    for index in range(2000):
        if rng.random() >= lost:
            arrivals.append((index + (rng.integers(1, 6) if rng.random() < late else 0), index))
    given, good = sorted(arrivals), 0
    for image in np.linspace(200, 1990, images):
        while given and given[0][0] < image:
            buffer.push(tick(given.pop(0)[1]))
        try:
            good += len(buffer.window(round(image * TICK)).samples) == RATE
        except AudioGapError:
            pass
    return good / images


@pytest.mark.parametrize(
    "lost, late, at_least, at_most", ((0.0, 0.0, 1.0, 1.0), (0.01, 0.0, 0.97, 1.0), (0.0, 0.2, 0.97, 1.0), (0.2, 0.0, 0.0, 0.05))
)
def test_losses_cost_images_only_where_much_is_lost(lost, late, at_least, at_most):
    """1 % of the chunks was two thirds of the images, and so were chunks that came late."""
    assert at_least <= answered(lost, late) <= at_most


def test_a_late_chunk_fills_its_hole_exactly():
    buffer = AudioBuffer()
    for index in (*range(100), 103, 101, 102, 100, *range(104, 150)):
        buffer.push(tick(index))
    window = buffer.window(150 * TICK)
    assert window.bridged == 0 and (buffer.counts["late"], buffer.counts["gaps"], buffer.counts["overlaps"]) == (3, 1, 0)
    assert np.array_equal(window.samples, ramp(50 * SIZE, RATE).samples[:, 0]) and buffer.counts["samples"] == 150 * SIZE


@pytest.mark.parametrize("off_ns", (-4_000_000, 4_000_000))
def test_a_late_chunk_with_a_jittering_stamp_follows_its_neighbour(off_ns):
    buffer = AudioBuffer()
    for index in (*range(100), 101, 102):
        buffer.push(tick(index))
    buffer.push(ramp(100 * SIZE, SIZE, stamp_ns=100 * TICK + off_ns))
    assert buffer.window(103 * TICK).bridged == 0
    assert np.array_equal(buffer.window(103 * TICK).samples, ramp(3 * SIZE, RATE).samples[:, 0])


def test_a_chunk_that_is_half_new_fills_and_goes_on():
    buffer = AudioBuffer()
    for index in (*range(100), 101):
        buffer.push(tick(index))
    buffer.push(ramp(100 * SIZE, 3 * SIZE, stamp_ns=100 * TICK))
    assert buffer.newest_ns == 103 * TICK and buffer.window(103 * TICK).bridged == 0
    assert np.array_equal(buffer.window(103 * TICK).samples, ramp(3 * SIZE, RATE).samples[:, 0])


@pytest.mark.parametrize("missing, bridged", ((4, True), (5, False)))
def test_holes_up_to_the_setting_are_bridged_and_told(missing, bridged):
    buffer = AudioBuffer(AudioConfig(bridge_share=1.0))
    for index in (*range(100), *range(100 + missing, 200)):
        buffer.push(tick(index))
    if not bridged:
        with pytest.raises(AudioGapError, match="a hole of 50 ms"):
            buffer.window(150 * TICK)
        return
    window = buffer.window(150 * TICK)
    assert window.bridged == missing * SIZE and buffer.counts["bridged"] == 1
    inside = slice(50 * SIZE, (50 + missing) * SIZE)
    exact = ramp(50 * SIZE, RATE).samples[:, 0]
    assert np.array_equal(np.delete(window.samples, np.r_[inside]), np.delete(exact, np.r_[inside]))
    assert window.samples[inside].std() > 0.1 and np.abs(window.samples).max() <= 1
    assert buffer.window(200 * TICK).bridged == missing * SIZE == buffer.window(round(100.5 * TICK)).bridged * 8
    assert buffer.window(100 * TICK).bridged == 0


def test_at_most_a_share_of_the_window_is_bridged():
    buffer = AudioBuffer()
    for index in set(range(250)) - set(range(100, 112, 2)):  # six of them
        buffer.push(tick(index))
    assert buffer.window(109 * TICK).bridged == 5 * SIZE
    with pytest.raises(AudioGapError, match="at most audio.bridge_share of it, got 60 ms") as caught:
        buffer.window(111 * TICK)
    assert caught.value.reason == "audio_gap"


def test_nothing_is_bridged_where_that_is_switched_off():
    buffer = AudioBuffer(AudioConfig(bridge_s=0.0))
    for index in (*range(100), *range(101, 150)):
        buffer.push(tick(index))
    with pytest.raises(AudioGapError, match="a hole of 10 ms"):
        buffer.window(150 * TICK)


@pytest.mark.parametrize("tolerance_s, gaps", ((0.005, 1), (0.015, 0)))
def test_the_tolerated_gap_is_a_setting(tolerance_s, gaps):
    """Ten milliseconds that are missing are jitter or a hole."""
    buffer = AudioBuffer(AudioConfig(gap_tolerance_s=tolerance_s))
    for index in (*range(100), 101):
        buffer.push(tick(index))
    assert buffer.counts["gaps"] == gaps


def test_a_bridge_keeps_level_and_edges():
    tone = (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)).astype(np.float32)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, RATE).astype(np.float32)
    for sound, limit_db in ((noise, 1), (tone, 4)):  # the two sides of a tone may meet out of phase
        broken = sound.copy()
        broken[8000:8320] = 0
        bridge(broken, 8000, 8320)
        assert abs(20 * np.log10(broken[8000:8320].std() / sound.std())) < limit_db
    steps = np.abs(np.diff(broken[7990:8330])).max()
    assert steps < 2 * np.abs(np.diff(tone)).max()
    loud = np.ones(100, np.float32)
    bridge(loud, 40, 60)
    assert loud.max() == 1.0
    for first, last in ((0, 20), (80, 100), (0, 100)):  # at the edges there is one side, or none
        ends = np.full(100, 0.5, np.float32)
        bridge(ends, first, last)
        assert np.isfinite(ends).all() and ends.max() <= 0.5


@pytest.mark.parametrize("stranger", (tick(900), tick(140, 8000), tick(10)), ids=("later", "rate", "earlier"))
def test_one_chunk_of_another_line_does_not_move_the_ring(stranger):
    buffer = AudioBuffer()
    for index in range(300):
        buffer.push(tick(index))
        if index % 7 == 5 and index > 150:
            buffer.push(stranger)
    assert buffer.sample_rate == RATE and buffer.newest_ns == 300 * TICK and buffer.counts["strays"] == 21
    assert np.array_equal(buffer.window(300 * TICK).samples, ramp(200 * SIZE, RATE).samples[:, 0])
    assert not (buffer.counts["jumps"] or buffer.counts["rate_changes"] or buffer.counts["gaps"])


@pytest.mark.parametrize("start, rate, count", ((10_000, RATE, "jumps"), (20, RATE, "jumps"), (500, 8000, "rate_changes")))
def test_another_line_that_persists_is_taken_whole(start, rate, count):
    buffer = AudioBuffer()
    for index in range(300):
        buffer.push(tick(index))
    for index in range(start, start + 120):
        buffer.push(tick(index, rate))
        moved = buffer.newest_ns != 300 * TICK
        assert moved == (index >= start + PERSISTENT - 1)
    assert (buffer.oldest_ns, buffer.sample_rate, buffer.counts[count]) == (start * TICK, rate, 1)
    assert buffer.window((start + 100) * TICK).bridged == 0 and buffer.counts["strays"] == 0


def test_strays_of_different_lines_do_not_add_up():
    buffer = AudioBuffer()
    for index in range(200):
        buffer.push(tick(index))
    for stranger in (tick(1000), tick(3000), tick(5000), tick(100, 8000), tick(7000)):
        buffer.push(stranger)
    assert buffer.newest_ns == 200 * TICK and buffer.counts["strays"] == 4  # the last may go on yet
    buffer.push(tick(200))
    assert buffer.newest_ns == 201 * TICK and buffer.counts["strays"] == 5


def test_a_pause_of_seconds_is_a_hole_and_what_was_before_is_kept():
    buffer = AudioBuffer()
    for index in (*range(200), *range(500, 700)):
        buffer.push(tick(index))
    assert (buffer.counts["gaps"], buffer.counts["jumps"], buffer.oldest_ns) == (1, 0, 0)
    assert buffer.window(150 * TICK).bridged == 0 == buffer.window(650 * TICK).bridged


def test_a_reset_forgets_other_lines_too():
    buffer = AudioBuffer()
    fill(buffer, 2.0)
    for index in (1000, 1001):
        buffer.push(tick(index))
    buffer.reset()
    fill(buffer, 2.0)
    buffer.push(tick(1002))
    assert buffer.newest_ns == 2 * NS


class Remembered(RuleBasedStateMachine):
    """Every sample of the line in a list, None where it never came; chunks of 10 ms with exact stamps."""

    CONFIG = AudioConfig(window_s=0.4, ring_s=2.0, bridge_share=0.125)

    @initialize(rate=st.sampled_from((8000, 16000)), start=st.integers(0, 50))
    def begin(self, rate, start):
        self.buffer, self.other = AudioBuffer(self.CONFIG), []
        self.restart(rate, start)
        for index in range(start, start + 60):
            self.give(index, rate)

    def restart(self, rate, start):
        self.rate, self.start, self.samples = rate, start, []

    @property
    def end(self):
        """The tick after the newest chunk."""
        return self.start + len(self.samples) * 100 // self.rate

    def give(self, index, rate=None):
        rate = rate or self.rate
        chunk = tick(index, rate)
        self.buffer.push(chunk)
        if rate == self.rate and abs(index - self.end) <= 100:
            self.other = []
            self.place(index, chunk)
            return
        if self.other and (rate != self.other[-1][1] or abs(index - self.other[-1][0] - 1) > 100):
            self.other = []
        self.other.append((index, rate, chunk))
        if len(self.other) == PERSISTENT:
            others, self.other = self.other, []
            if rate != self.rate or not 0 < others[0][0] - self.end <= 100 * self.CONFIG.ring_s:
                self.restart(rate, others[0][0])
            for its_index, _, its_chunk in others:
                self.place(its_index, its_chunk)

    def place(self, index, chunk):
        first = (index - self.start) * self.rate // 100
        self.samples += [None] * (first + len(chunk.samples) - len(self.samples))
        oldest = self.rate * (self.buffer.oldest_ns - self.start * TICK) / NS  # what left the ring stays as it was
        for at, value in enumerate(chunk.samples[:, 0].tolist(), first):
            if at >= oldest and self.samples[at] is None:
                self.samples[at] = value

    @rule(count=st.integers(1, 40))
    def next(self, count):
        for _ in range(count):
            self.give(self.end)

    @rule(missing=st.integers(1, 12))
    def lose(self, missing):
        self.give(self.end + missing)

    @rule(back=st.integers(1, 100))
    def late_or_repeated(self, back):
        assume(self.end - back >= self.start)
        self.give(self.end - back)

    @rule(far=st.sampled_from((-400, -101, 101, 150, 300, 1000)), again=st.booleans())
    def another_time(self, far, again):
        assume(self.end + far >= 0)
        target = self.end + far
        for index in range(PERSISTENT if again else 1):
            self.give(target + index)

    @rule(rate=st.sampled_from((8000, 16000)), count=st.integers(1, PERSISTENT))
    def another_rate(self, rate, count):
        target = self.end
        for index in range(count):
            self.give(target + index, rate)

    @rule(back=st.integers(-40, 260), part=st.sampled_from((0, 1, 3_333_333)))
    def window(self, back, part):
        stamp_ns = (self.end - back) * TICK + part
        lag_ns = stamp_ns - self.end * TICK
        if 0 < lag_ns <= 300_000_000:
            stamp_ns = self.end * TICK
        last = round((stamp_ns - self.start * TICK) * self.rate / NS)
        first = last - round(self.CONFIG.window_s * self.rate)
        try:
            window, reason = self.buffer.window((self.end - back) * TICK + part), ""
        except AudioGapError as error:
            window, reason = None, error.reason
        if last > len(self.samples):
            assert reason == "audio_not_yet"
        elif first < 0:
            assert reason in ("no_audio", "audio_too_old")
        elif first < len(self.samples) - round(self.CONFIG.ring_s * self.rate) and reason == "audio_too_old":
            pass  # the ring keeps this long, and up to twice as long
        else:
            wanted = self.samples[first:last]
            holes, run = [], 0
            for at, value in enumerate((*self.samples, 0.0)):
                run, before = (run + 1 if value is None else 0), run
                if before and not run and at > first and at - before < last:
                    holes.append(before)
            missing = sum(value is None for value in wanted)
            if max(holes, default=0) > 0.04 * self.rate or missing > 0.125 * len(wanted):
                assert reason == "audio_gap"
            else:
                assert reason == "" and window.bridged == missing and window.sample_rate == self.rate
                assert abs(window.end_ns - stamp_ns) <= NS / self.rate
                kept = [(got, value) for got, value in zip(window.samples.tolist(), wanted) if value is not None]
                assert all(got == value for got, value in kept)

    @invariant()
    def the_line_is_the_same(self):
        if hasattr(self, "rate"):
            assert (self.buffer.sample_rate, self.buffer.newest_ns) == (self.rate, self.end * TICK)
            assert self.buffer._samples.nbytes == 4 * 2 * round(self.CONFIG.ring_s * self.rate)


Remembered.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_as_a_list_that_remembers_everything = Remembered.TestCase
