"""What becomes of one image, without a node: which are taken, when, and what a new time line or setting changes."""

import numpy as np
import pytest

from taco.clock import NS
from taco.types import AudioChunk
from test.taco_ros.graph import RATE
from test.taco_ros.test_live import START_NS, Rig, item, picture


def one(config=None, **settings):
    """A rig with one camera and these settings; __ stands for a dot."""
    rig = Rig("front")
    rig.live.set_config(rig.live.config.updated({name.replace("__", "."): value for name, value in settings.items()}))
    return rig


def quiet(rig):
    rig.audio.reset()
    rig.audio.push(AudioChunk(np.zeros((6 * RATE, 1), np.float32), RATE, START_NS - 2 * NS))


def test_a_centered_window_waits_for_its_second_half_but_not_for_ever():
    rig = one(audio__alignment="centered", audio__window_s=1.0)
    end_ns = rig.audio.newest_ns
    soon, late = item("front", end_ns - NS // 2), item("front", end_ns - NS // 2 + 1)
    rig.live._now_ns = lambda: late.arrival_ns + 2 * NS
    assert rig.live.ready(soon) and not rig.live.ready(late)
    rig.live._now_ns = lambda: late.arrival_ns + 2 * NS + NS // 2 + 1
    assert rig.live.ready(late), "the sound has stopped: it is told as missing, and nothing waits behind it"
    rig.live.set_config(rig.live.config.updated({"audio.alignment": "trailing"}))
    rig.live._now_ns = lambda: late.arrival_ns
    assert rig.live.ready(late)


@pytest.mark.parametrize("alignment, limit_s", (("trailing", 0.5), ("centered", 1.0)))
def test_images_grow_too_old_a_centered_one_half_a_window_later(alignment, limit_s):
    rig = one(audio__alignment=alignment, audio__window_s=1.0, node__max_age_s=0.5)
    for number, (age_s, taken) in enumerate(((limit_s - 0.01, 1), (limit_s + 0.01, 0))):
        stamp_ns = START_NS + number * NS // 10
        rig.live._now_ns = lambda stamp_ns=stamp_ns, age_s=age_s: stamp_ns + round(age_s * NS)
        assert len(rig.process(item("front", stamp_ns))) == taken
    ((reason, line),) = rig.said
    assert reason == "too_old" and f"is {limit_s + 0.01:.2f} s old" in line


def test_the_same_stamp_twice_is_taken_once():
    rig = one()
    assert len(rig.process(item("front", START_NS))) == 1 and rig.process(item("front", START_NS)) == []
    assert [reason for reason, _ in rig.said] == ["out_of_order"] and "0.0 ms before it" in rig.said[0][1]


def test_stamps_that_jump_back_start_their_camera_anew_once_they_persist():
    rig = Rig("front", "rear")
    moment = START_NS + 12 * NS // 10
    first, other = rig.process(item("front", moment), item("rear", moment))
    for number in range(1, 4):
        later, back = moment + number * NS // 10, START_NS + number * NS // 10
        *again, on = rig.process(item("front", back), item("rear", later))  # more than a second back: another time line
        assert bool(again) == (number == 3) and on.scene.factorization.restart == "" and on.scene.objects[0].id == 1
    assert first.scene.factorization.restart == again[0].scene.factorization.restart == "cold"
    assert (first.scene.objects[0].id, again[0].scene.objects[0].id) == (1, 2) and len(again[0].tracks) == 1
    assert rig.statistics.counts()["time_jumps"] == 1 and [reason for reason, _ in rig.said] == ["out_of_order"] * 2
    (go_on,) = rig.process(item("front", START_NS + 4 * NS // 10))
    assert go_on.scene.factorization.restart == "" and go_on.scene.objects[0].id == 2


@pytest.mark.parametrize(
    "wild_ns",
    (
        (-NS, -2 * NS, -NS, -3 * NS // 2),
        (3600 * NS, 7200 * NS, NS * 10_000, NS * 20_000),
        (-11 * NS, -NS // 2, -11 * NS, NS * 7200),
        (-90 * NS, -70 * NS, -50 * NS, -30 * NS),
    ),
    ids=("back", "ahead", "mixed", "far apart"),
)
def test_single_wild_stamps_lose_one_image_each_and_no_memory(wild_ns):
    """One camera's bad stamps used to renumber the objects of all of them."""
    rig, ids, starts = Rig("front", "rear"), set(), []
    for number, off_ns in enumerate((0, *wild_ns, 0)):
        stamp_ns = START_NS + NS + number * NS // 10
        found = rig.process(item("front", stamp_ns), item("rear", stamp_ns + off_ns))
        assert [result.camera for result in found] == (["front", "rear"] if off_ns == 0 else ["front"])
        ids |= {(result.camera, thing.id) for result in found for thing in result.scene.objects}
        starts += [result.scene.factorization.restart for result in found]
    assert ids == {("front", 1), ("rear", 1)} and starts == ["cold", "cold"] + [""] * (len(starts) - 2)
    assert "time_jumps" not in rig.statistics.counts()


@pytest.mark.parametrize("hold_s, state", ((0.05, "lost"), (5.0, "fading")))
def test_tracks_follow_live_settings(hold_s, state):
    rig = one()
    assert rig.process(item("front", START_NS))[0].tracks[0].state == "sounding"
    rig.live.set_config(rig.live.config.updated({"tracking.hold_s": hold_s}))
    quiet(rig)
    assert [track.state for track in rig.process(item("front", START_NS + NS // 10))[0].tracks] == [state]


@pytest.mark.parametrize("settings", ({"node__mirror": True}, {"node__rotation": 180}, {"node__rotation": 90}))
def test_results_are_in_the_cameras_own_pixels(settings):
    """A camera that hangs askew sees the scene turned; what comes out fits its own picture all the same."""
    (plain,) = one().process(item("front", START_NS))
    turn = {"node__mirror": lambda v: v[:, ::-1], "node__rotation": lambda v: np.rot90(v, settings["node__rotation"] // 90)}
    seen = np.ascontiguousarray(turn[next(iter(settings))](picture("front")))
    (result,) = one(**settings).process(item("front", START_NS, seen))
    assert np.array_equal(result.rgb, seen) and result.scene.size == seen.shape[:2]
    wanted = turn[next(iter(settings))](plain.scene.objects[0].mask)
    assert np.array_equal(result.scene.objects[0].mask, wanted)


def test_verdicts_are_counted():
    rig = one()
    rig.process(item("front", START_NS))
    quiet(rig)
    rig.process(item("front", START_NS + NS // 10))
    counts = rig.statistics.counts()
    assert counts["sounding"] == counts["silent"] == 1


def test_every_camera_has_a_memory_of_its_own():
    rig = Rig("front", "rear")
    first = [result.scene.factorization.restart for result in rig.process(item("front", START_NS), item("rear", START_NS))]
    assert first == ["cold", "cold"] and len({id(pipeline) for pipeline in rig.live.pipelines.values()}) == 2


def test_a_reset_forgets_tracks_factors_and_stamps_of_every_camera():
    rig = Rig("front", "rear")
    before = {result.camera: result for result in rig.process(item("front", START_NS), item("rear", START_NS))}
    rig.live.reset()
    after = {result.camera: result for result in rig.process(item("front", START_NS), item("rear", START_NS))}  # the same stamps
    for name in ("front", "rear"):
        assert after[name].scene.factorization.restart == "cold" and len(after[name].tracks) == 1
        assert after[name].scene.objects[0].id != before[name].scene.objects[0].id, "the old track went on"
    assert not rig.said
