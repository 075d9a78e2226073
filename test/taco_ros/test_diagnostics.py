"""What /diagnostics tells of the stream: verdicts, and the words that are heard."""

import pytest

from taco.types import VERDICTS, SoundingScene
from taco_ros import diagnostics
from taco_ros.statistics import Statistics


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
