"""The benchmark of the live node: short, and its own judgement."""

import json
import subprocess
import sys

import pytest

from taco.bench.node import verdict
from taco_ros.latency_listener import percentile, summary
from test.taco_ros.graph import reserved_domain


@pytest.mark.ros
@pytest.mark.timeout(200)
def test_a_short_run_tells_everything():
    with reserved_domain() as domain:
        command = [
            sys.executable,
            "-m",
            "taco.cli",
            "bench",
            "node",
            "--stages",
            "20",
            "--seconds",
            "4",
            "--domain",
            str(domain),
            "--json",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode in (0, 1), done.stderr  # how fast this machine is today is not tested
    (row,) = json.loads(done.stdout)
    assert row["lost_samples"] == 0 and row["gaps"] == 0 and row["found"] > 0
    assert 20 <= row["age_p50_ms"] <= row["age_p95_ms"] and row["limit_ms"] == 80
    assert 0 < row["deactivate_to_activate_s"] < 5 and row["stages_ms"]["image_ms"] >= 20


def seen(**changes):
    diagnostics = {
        "sound": {"samples": "1600", "gaps": "0"},
        "stream": {"dropped.replaced": "3", "dropped.failed": "0", "image_ms": "30"},
    }
    row = summary([(index * 0.1, 0.05) for index in range(30)], 30, [300.0, 305.0, 301.0])
    return {**row, "deactivate_to_activate_s": 0.1, "diagnostics": diagnostics, **changes}


def test_a_good_run():
    row = verdict(seen(), 30.0, 1600)
    assert row["ok"] and row["missed"] == [] and row["dropped"] == {"replaced": 3} and row["rate_hz"] == pytest.approx(10)


@pytest.mark.parametrize(
    "changes, samples, missed",
    (
        ({"age_p95_ms": 91.0}, 1600, "age"),
        ({"age_p50_last_third_ms": 90.0}, 1600, "growth"),
        ({"memory_last_third_mb": 320.0}, 1600, "memory"),
        ({"memory_last_third_mb": float("nan")}, 1600, "memory"),
        ({}, 1601, "samples"),
        ({"deactivate_to_activate_s": 1.1}, 1600, "reactivate"),
        ({"deactivate_to_activate_s": float("nan")}, 1600, "reactivate"),
        ({"found": 0}, 1600, "objects"),
    ),
)
def test_every_target_can_be_missed(changes, samples, missed):
    assert verdict(seen(**changes), 30.0, samples)["missed"] == [missed]


def test_ages_of_a_growing_queue():
    row = summary([(index * 0.1, 0.05 + 0.01 * index) for index in range(90)], 0, [100.0 + index for index in range(9)])
    assert row["age_p50_last_third_ms"] - row["age_p50_first_third_ms"] == pytest.approx(600, abs=20)
    assert row["age_p95_last_third_ms"] - row["age_p95_first_third_ms"] == pytest.approx(600, abs=20)
    assert (row["memory_first_mb"], row["memory_last_mb"]) == (100, 108)
    assert row["memory_last_third_mb"] - row["memory_first_third_mb"] == pytest.approx(6)
    assert percentile([], 0.5) != percentile([], 0.5)  # nan


def test_the_newest_answers_age_is_a_mean_over_time():
    """Answers 50 ms old that come every 100 ms: 50 when one comes, 150 just before the next; a break counts by its length."""
    steady = summary([(index * 0.1, 0.05) for index in range(11)], 0, [])
    assert steady["information_age_ms"] == pytest.approx(100)
    broken = summary([(0.0, 0.05), (0.1, 0.05), (1.0, 0.05)], 0, [])
    assert broken["information_age_ms"] == pytest.approx(1000 * (0.05 + (0.005 + 0.405) / 1.0))
