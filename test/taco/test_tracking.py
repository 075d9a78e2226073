"""Stable ids, short silences, and a target that does not dither."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from taco.clock import NS
from taco.config import TargetsConfig, TrackingConfig
from taco.tracking import TargetSelector, Tracker, _cells, similarity
from taco.types import Factorization, SoundingObject, SoundingScene

SIZE = (120, 160)


def thing(x=40, y=40, size=30, word="dog", score=0.8, id=1, others=()):
    mask = np.zeros(SIZE, bool)
    mask[max(0, y) : y + size, max(0, x) : x + size] = True
    return SoundingObject.from_mask(mask, [(word, 0.6), *((o, 0.2) for o in others)], score, id)


def factors(direction, base=0.2, peak=3.0):
    values = torch.full((4, 6), base)
    values[0, direction] = peak
    return Factorization(torch.rand(9, 4), values, torch.rand(5, 4), torch.rand(4, 3), 0)


def scene(t, *things, factorization=None):
    verdict = "sounding" if things else "silent"
    return SoundingScene(round(t * NS), SIZE, 0, NS, -20.0, 0.8, verdict, tuple(things), factorization=factorization)


def ids(tracker, t, *things, **more):
    return [found.id for found in tracker.update(scene(t, *things, **more)).objects]


def test_one_id_while_the_camera_pans():
    tracker = Tracker()
    assert {ids(tracker, i / 10, thing(10 + 5 * i))[0] for i in range(20)} == {1}
    (track,) = tracker.tracks
    assert (track.state, track.label, track.silent_s) == ("sounding", "dog", 0.0) and track.age_s == pytest.approx(1.9)


def test_a_flickering_word_keeps_the_id():
    tracker = Tracker()
    assert {ids(tracker, i / 10, thing(word="dog" if i % 3 else "cat"))[0] for i in range(20)} == {1}


def test_a_short_silence_keeps_the_id_and_a_long_one_does_not():
    tracker = Tracker()
    ids(tracker, 0.0, thing())
    states = []
    for t in (0.3, 0.6, 0.9):
        ids(tracker, t)
        states.append(tracker.tracks[0].state)
    assert states == ["fading"] * 3 and tracker.tracks[0].silent_s == pytest.approx(0.9)
    assert ids(tracker, 0.95, thing()) == [1] and tracker.tracks[0].state == "sounding"
    ids(tracker, 1.9)
    ids(tracker, 2.0)
    assert [track.state for track in tracker.tracks] == ["lost"]
    ids(tracker, 2.1)
    assert tracker.tracks == ()
    assert ids(tracker, 2.2, thing()) == [2]


def test_the_sound_moving_to_another_object_is_another_id():
    tracker = Tracker()
    assert ids(tracker, 0.0, thing(5, 40), factorization=factors(0)) == [1]
    assert ids(tracker, 0.1, thing(110, 40, word="cat"), factorization=factors(1)) == [2]
    assert ids(tracker, 0.2, thing(5, 40), factorization=factors(0)) == [1], "and back within the hold time"


def test_two_of_the_same_kind_far_apart_stay_two():
    tracker = Tracker()
    assert ids(tracker, 0.0, thing(5, 40), factorization=factors(0)) == [1]
    assert ids(tracker, 0.1, thing(110, 40), factorization=factors(0)) == [2]


def test_the_look_decides_between_two_candidates_at_a_place():
    tracker = Tracker(TrackingConfig(min_similarity=0.6))
    assert ids(tracker, 0.0, thing(40, word="dog"), factorization=factors(0)) == [1]
    assert ids(tracker, 0.1, thing(48, word="cat"), factorization=factors(0)) == [1], "same look, another word"
    assert ids(tracker, 0.2, thing(56, word="horn"), factorization=factors(3)) == [2], "another look and another word"


def test_what_all_factors_have_in_common_is_no_look():
    """Non-negative factors are nearly parallel: what tells them apart is what one has more of than the others."""
    tracker = Tracker(TrackingConfig(min_similarity=0.6))
    assert ids(tracker, 0.0, thing(40, word="dog"), factorization=factors(0, base=1.0, peak=2.0)) == [1]
    assert ids(tracker, 0.1, thing(40, word="horn"), factorization=factors(3, base=1.0, peak=2.0)) == [2]


def test_a_look_of_one_frame_hardly_changes_that_of_the_track():
    tracker = Tracker()
    for t, direction in ((0.0, 0), (0.1, 0), (0.2, 3)):
        ids(tracker, t, thing(), factorization=factors(direction))
    (track,) = tracker.tracks
    assert np.linalg.norm(track.factor) == pytest.approx(1) and track.factor[0] > 0.8 > 0.5 > track.factor[3] > 0.2


def test_the_longer_unseen_the_further_a_object_may_be():
    tracker = Tracker()
    ids(tracker, 0.0, thing(20))
    (track,), moved = tracker.tracks, thing(50)
    alike = [similarity(track, moved, _cells(moved.mask), None, gap_s) for gap_s in (0.0, 0.5, 1.0, 5.0)]
    assert alike[0] + 0.1 < alike[1] < alike[2] - 0.05 and alike[2] == alike[3]


def test_a_word_that_was_thought_of_before_counts_a_little():
    tracker = Tracker()
    ids(tracker, 0.0, thing(word="dog", others=("wolf",)))
    (track,) = tracker.tracks
    seen = [thing(word="dog"), thing(word="wolf"), thing(word="cat", others=("dog",)), thing(word="cat")]
    same, further, back, other = (similarity(track, one, _cells(one.mask), None, 0.1) for one in seen)
    assert same == pytest.approx(1) and same > further + 0.1 and further == back > other + 0.05


def test_the_most_alike_are_matched_first():
    tracker = Tracker()
    assert ids(tracker, 0.0, thing(40), thing(64)) == [1, 2]
    assert ids(tracker, 0.1, thing(64), thing(44)) == [2, 1]


def test_after_a_cut_the_old_place_says_nothing():
    """In the middle of a silence the scene changes: another object where the first one was is another object."""
    for restart, wanted in (("", 1), ("cut", 2)):
        tracker = Tracker()
        ids(tracker, 0.0, thing(40, word="dog"), factorization=factors(0))
        cut = dataclasses.replace(factors(0), restart=restart)
        ids(tracker, 0.1, factorization=cut)
        mixed = dataclasses.replace(factors(0), visual_factors=factors(0).visual_factors + 0.8 * factors(3).visual_factors)
        assert ids(tracker, 0.2, thing(40, word="horn", others=("dog",)), factorization=mixed) == [wanted]
    tracker = Tracker()
    ids(tracker, 0.0, thing(40, word="dog"), factorization=factors(0))
    assert ids(tracker, 0.1, thing(110, 60, word="dog"), factorization=dataclasses.replace(factors(0), restart="cut")) == [1]


def test_a_later_run_goes_on_with_the_ids_of_an_earlier_one():
    tracker = Tracker(next_id=8)
    tracker.adopt(scene(1.0, thing(5, 5, id=7)), {7: 0.5})
    tracker.adopt(scene(1.1, thing(100, 70, id=3)), {7: 0.6, 3: 0.0})
    assert ids(tracker, 1.2, thing(100, 70), thing(5, 5), thing(60, 5, word="cat")) == [3, 7, 8]
    assert next(track for track in tracker.tracks if track.id == 7).age_s == pytest.approx(0.7)


def test_several_objects_in_any_order():
    tracker = Tracker()
    a, b = thing(5, 5), thing(100, 70, word="cat")
    assert ids(tracker, 0.0, a, b) == [1, 2]
    assert ids(tracker, 0.1, b, a) == [2, 1]
    assert ids(tracker, 0.2, a) == [1] and ids(tracker, 0.3, b, a) == [2, 1]


def test_a_loop_of_the_recording_starts_new_tracks():
    tracker = Tracker()
    ids(tracker, 100.0, thing())
    assert ids(tracker, 0.0, thing()) == [2]
    tracker.reset()
    assert tracker.tracks == () and ids(tracker, 0.1, thing()) == [3]


def test_another_image_size_and_token_size_does_not_fail():
    tracker = Tracker()
    ids(tracker, 0.0, thing(), factorization=factors(0))
    mask = np.zeros((60, 80), bool)
    mask[20:35, 20:35] = True
    other = dataclasses.replace(scene(0.1), size=(60, 80), objects=(SoundingObject.from_mask(mask, [("dog", 1.0)], 0.5),))
    wider = dataclasses.replace(factors(0), visual_factors=torch.rand(4, 9))
    tracker.update(dataclasses.replace(other, verdict="sounding", factorization=wider))
    assert tracker.tracks


@given(
    st.lists(st.lists(st.tuples(st.integers(-10, 150), st.integers(-10, 110), st.sampled_from("abc")), max_size=3), max_size=12)
)
@settings(max_examples=60, deadline=None)
def test_ids_are_unique_in_a_frame_and_never_reused(frames):
    tracker, retired = Tracker(TrackingConfig(hold_s=0.2)), set()
    for i, boxes in enumerate(frames):
        now = ids(tracker, i / 10, *(thing(x, y, word=word) for x, y, word in boxes))
        assert len(set(now)) == len(now) and not retired & set(now)
        assert [t.id for t in tracker.tracks if t.state == "sounding"] == sorted(now)
        retired |= {t.id for t in tracker.tracks if t.state == "lost"}


def test_target_is_the_best_and_stays_when_two_are_alike():
    selector = TargetSelector()
    chosen = [
        selector.update(scene(i / 10, thing(5, score=0.7, id=1), thing(90, score=0.7 + 0.1 * (-1) ** i, id=2))).id
        for i in range(30)
    ]
    assert chosen == [2] * 30, "the other is better in every second frame, never for long"


def test_target_changes_after_a_clear_lead_that_lasts():
    selector = TargetSelector(TargetsConfig(switch_margin=0.1, switch_after_s=0.5))
    assert selector.update(scene(0.0, thing(id=1, score=0.8))).id == 1
    chosen = [selector.update(scene(0.1 * i, thing(5, id=1, score=0.6), thing(90, id=2, score=0.9))).id for i in range(1, 9)]
    assert chosen == [1] * 5 + [2] * 3


def test_a_lead_within_the_margin_changes_nothing_however_long():
    selector = TargetSelector(TargetsConfig(switch_margin=0.1, switch_after_s=0.5))
    scenes = (scene(0.1 * i, thing(5, id=1, score=0.8), thing(90, id=2, score=0.89 if i else 0.5)) for i in range(40))
    assert {selector.update(one).id for one in scenes} == {1}


def test_two_rivals_one_after_the_other_have_not_led_long():
    selector = TargetSelector(TargetsConfig(switch_margin=0.1, switch_after_s=0.5))
    selector.update(scene(0.0, thing(id=1, score=0.5)))
    own = thing(5, id=1, score=0.5)
    chosen = [
        selector.update(scene(0.1 * i, own, thing(60, id=2, score=0.9 - 0.2 * (i > 3)), thing(110, id=3, score=0.8))).id
        for i in range(1, 11)
    ]
    assert chosen == [1] * 8 + [3] * 2, "the third leads from 0.4 s on"


def test_nothing_is_given_while_the_target_is_silent_and_another_only_after_the_hold():
    selector = TargetSelector(TargetsConfig(hold_s=1.0))
    assert selector.update(scene(0.0, thing(id=1))).id == 1
    assert selector.update(scene(0.1)) is None
    assert selector.update(scene(0.5, thing(id=2))) is None
    assert selector.update(scene(0.8, thing(id=1), thing(90, id=2))).id == 1
    assert selector.update(scene(1.7, thing(id=2))) is None
    assert selector.update(scene(1.8, thing(id=2))).id == 2
    assert selector.update(scene(9.0)) is None and selector.id is None


def test_target_needs_the_minimum_score_and_forgets_on_a_time_jump():
    selector = TargetSelector(TargetsConfig(min_score=0.5))
    assert selector.update(scene(10.0, thing(score=0.4))) is None
    assert selector.update(scene(10.1, thing(score=0.5, id=4))).id == 4
    assert selector.update(scene(0.0, thing(score=0.6, id=9))).id == 9


def test_a_lead_that_breaks_starts_anew():
    selector = TargetSelector(TargetsConfig(switch_margin=0.1, switch_after_s=0.5))
    selector.update(scene(0.0, thing(id=1, score=0.8)))
    own = thing(5, id=1, score=0.6)
    chosen = [selector.update(scene(0.1 * i, own, thing(90, id=2, score=0.6 if i == 4 else 0.9))).id for i in range(1, 12)]
    assert chosen == [1] * 9 + [2] * 2, "it leads without a break from 0.5 s on"


def test_of_two_equal_scores_the_older_object_is_the_target():
    assert TargetSelector().update(scene(0.0, thing(90, id=2, score=0.7), thing(id=1, score=0.7))).id == 1
