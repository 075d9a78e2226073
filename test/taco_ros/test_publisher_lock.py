"""One publisher at a time, told by the numbers of its messages and its frame."""

import pytest

from taco_ros.publisher_lock import CONTESTED_S, MAX_STEP, TIMEOUT_S, PublisherLock


class Listener:
    """A lock with a clock that is set by hand; tells whom it listens to."""

    def __init__(self):
        self.now = 100.0
        self.lock = PublisherLock(clock=lambda: self.now)

    def heard(self, *messages, every_s=0.01):
        """Names of the senders whose messages are admitted. messages: (name, number), the name's first letter is the frame."""
        out = []
        for name, number in messages:
            self.now += every_s
            if self.lock.admits(number, name[0]):
                out.append(name)
        return out


def in_turn(ahead, first="a1", second="a2", count=50):
    return [pair for number in range(10, 10 + count) for pair in ((first, number), (second, number + ahead))]


@pytest.mark.parametrize("ahead", (-9, -1, MAX_STEP + 1, 5000))
@pytest.mark.parametrize("second", ("a2", "b"), ids=("same-frame", "other-frame"))
def test_the_first_publisher_is_listened_to(ahead, second):
    listener = Listener()
    assert set(listener.heard(*in_turn(ahead, second=second))) == {"a1"}
    assert listener.lock.strangers == 50 and listener.lock.contested
    listener.now += CONTESTED_S
    assert not listener.lock.contested


@pytest.mark.parametrize("ahead", (0, 1, 2, MAX_STEP))
def test_publishers_that_count_in_step_do_not_mix(ahead):
    heard = Listener().heard(*in_turn(ahead))
    changes = sum(a != b for a, b in zip(heard, heard[1:]))
    assert changes <= 1 and len(heard) >= 50


def test_a_faster_publisher_may_overtake_once():
    messages = sorted([(number * 0.02, "a1", number + 100) for number in range(400)])
    messages = sorted(messages + [(number * 0.01, "a2", number) for number in range(800)])
    heard = Listener().heard(*((name, number) for _, name, number in messages))
    assert sum(a != b for a, b in zip(heard, heard[1:])) <= 1


def test_lost_messages_do_not_lose_the_publisher():
    listener = Listener()
    assert listener.heard(("a", 1), ("a", 3), ("a", 3 + MAX_STEP), ("a", 5 + 2 * MAX_STEP)) == ["a"] * 3
    assert listener.lock.strangers == 1


def test_one_publisher_may_change_its_frame():
    assert len(Listener().heard(("a", 1), ("b", 2), ("a", 3), ("c", 4))) == 4


def test_a_silent_publisher_is_replaced_after_a_while():
    listener = Listener()
    assert listener.heard(("a", 700), ("b", 3)) == ["a"]
    listener.now += TIMEOUT_S - 0.1
    assert listener.heard(("b", 4)) == []
    listener.now += 0.1
    assert listener.heard(("b", 5), ("a", 701), ("b", 6)) == ["b", "b"]


def test_after_a_release_anybody_is_listened_to():
    listener = Listener()
    listener.heard(("a", 7))
    listener.lock.release()
    assert listener.heard(("b", 1), ("a", 8)) == ["b"]


def test_without_numbers_the_frame_decides():
    assert set(Listener().heard(*[(name, None) for name in ("a", "b", "a", "b")])) == {"a"}
