"""What /diagnostics tells of the stream: verdicts, and the words that are heard."""

import pytest

from taco.types import VERDICTS, SoundingScene
from taco_ros import diagnostics
from taco_ros.diagnostics import Statistics


def values(statistics, newest=None) -> dict:
    return {pair.key: pair.value for pair in diagnostics.stream_status("node: stream", statistics, "active", newest).values}


def test_every_verdict_is_counted():
    statistics = Statistics()
    for times, verdict in enumerate(VERDICTS):
        statistics.count(verdict, times)
    told = values(statistics)
    assert [told[f"verdict.{verdict}"] for verdict in VERDICTS] == ["0", "1", "2", "3", "4"]
    assert told["verdict"] == told["heard"] == "unknown", "before the first image"


@pytest.mark.parametrize(
    ("heard", "wanted"),
    [((("Rain", 0.831), ("Wind", 0.4), ("Hum", 0.1), ("Fan", 0.05)), "Rain 0.83, Wind 0.40, Hum 0.10"), ((), "nothing")],
)
def test_the_newest_words_are_told(heard, wanted):
    scene = SoundingScene(0, (4, 6), 0, 1, -20.0, 0.5, "not_in_view", heard=heard)
    told = values(Statistics(), scene)
    assert (told["verdict"], told["heard"]) == ("not_in_view", wanted)


def test_what_the_warm_start_saves_is_told_and_the_last_cold_one_is_not_forgotten():
    now = [100.0]
    statistics = Statistics(lambda: now[0])
    told = values(statistics)
    assert told["warm.factorize_ms"] == told["cold.factorize_ms"] == "unknown" and told["start.warm"] == "0"
    statistics.note("cold.factorize", 20.0)
    statistics.note("cold.loss", 300.0)
    now[0] += 60
    for ms, loss in ((5.0, 301.0), (7.0, 299.0), (6.0, 300.5)):
        statistics.sample("warm.factorize", ms)
        statistics.sample("warm.loss", loss)
        statistics.count("start.warm")
    told = values(statistics)
    assert (told["warm.factorize_ms"], told["cold.factorize_ms"], told["start.warm"]) == ("6", "20", "3")
    assert (told["warm.loss"], told["cold.loss"]) == ("300.5", "300")


@pytest.mark.parametrize(
    ("camera_s", "sound_s", "warns"), [(0.05, 0.1, ""), (0.5, 0.1, "offset_s to -0.40"), (0.1, 0.5, "offset_s to 0.40")]
)
def test_stamps_that_lie_apart_are_told_with_the_setting_that_brings_them_together(camera_s, sound_s, warns):
    """The later a camera's stamps reach us against the sound's, the earlier the sound must count."""
    statistics = Statistics()
    for jitter in (-0.01, 0.0, 0.02):
        statistics.sample("image_delay_s", camera_s + jitter)
        statistics.sample("audio_delay_s", sound_s + jitter)
    found = diagnostics.stream_status("node: stream", statistics, "active")
    assert found.name == "node: stream" and found.level == (diagnostics.WARN if warns else diagnostics.OK)
    assert warns in found.message and (warns or found.message == "active")


def test_the_memory_of_samples_is_that_of_one_window():
    now = [0.0]
    statistics = Statistics(lambda: now[0])
    for _ in range(3000):
        now[0] += 0.1
        statistics.sample("image")
    assert len(statistics._samples["image"]) <= 1 + round(diagnostics.WINDOW_S / 0.1)
