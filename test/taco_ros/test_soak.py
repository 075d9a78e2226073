"""The soak in short, and its judgement: what grows is found."""

import pytest

from test.taco_ros.graph import reserved_domain
from test.taco_ros.soak import Sample, judged, soak


@pytest.mark.ros
@pytest.mark.live
@pytest.mark.timeout(180)
def test_nothing_piles_up_in_a_short_soak(tmp_path):
    """Half a minute says nothing of slow growth, and others use the machine: threads, files and error lines are judged here."""
    with reserved_domain() as domain:
        result = soak(0.5, {"models__image": "standin:30", "node__max_age_s": 0.0}, domain, tmp_path)
    assert result["changes"] > 4 and result["error_lines"] == [] and result["status"] == 0, result
    assert not {"threads", "files", "answers"} & set(result["missed"]), result
    assert result["last_third"]["memory_mb"] < 1.1 * result["first_third"]["memory_mb"], result


STEADY = [Sample(100.0, 20, 30, (50.0, 60.0)) for _ in range(120)]


@pytest.mark.parametrize(
    ("what", "later"),
    [
        ("memory", lambda step: Sample(100.0 + step * 0.03, 20, 30, (50.0, 60.0))),
        ("threads", lambda step: Sample(100.0, 20 + step // 50, 30, (50.0, 60.0))),
        ("files", lambda step: Sample(100.0, 20, 30 + step // 50, (50.0, 60.0))),
        ("age", lambda step: Sample(100.0, 20, 30, (50.0 + step, 60.0 + step))),
        ("answers", lambda step: Sample(100.0, 20, 30, (50.0,) if step < 60 else ())),
    ],
)
def test_what_grows_is_found(what, later):
    assert judged(STEADY)["missed"] == []
    assert what in judged([later(step) for step in range(120)])["missed"]


def test_what_happens_during_the_warm_up_does_not_count():
    assert judged([Sample(50.0, 5, 5, (900.0,))] * 30 + STEADY[:90])["missed"] == []
