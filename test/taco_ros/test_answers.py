"""Images without answers never pass unnoticed: a warning after a second, an error later, with the leading reason."""

import numpy as np
import pytest

from taco.clock import NS
from taco.types import AudioChunk
from taco_ros import diagnostics
from taco_ros.answers import Answers, all_counts
from taco_ros.diagnostics import Statistics, stream_status
from test.taco_ros.graph import RATE
from test.taco_ros.test_live import START_NS, Rig, item

STEP_S, ERROR_S = 0.2, 3.0


class Watched:
    """A rig with the node's watch over its answers, on a made clock."""

    def __init__(self):
        self.now, self.rig = 0.0, Rig("front")
        self.statistics, self.answers = Statistics(lambda: self.now), Answers(lambda: self.now)
        self.rig.live._warn = self.warn
        self.rig.live._now_ns = lambda: START_NS + round(self.now * NS)
        self.work_s = 0.0  # how long the models have been at work, where they do not come back

    def warn(self, reason, line):
        self.statistics.count(reason)
        self.answers.tell(reason, line)

    def image(self, **changes):
        """One image comes and is worked on."""
        self.now += STEP_S
        self.answers.image("front")
        if self.work_s:
            self.work_s += STEP_S
            return
        one = item("front", **{"stamp_ns": START_NS + round(self.now * NS), **changes})
        for result in self.rig.process(one):
            self.answers.answered(result.camera, self.counts())

    def counts(self):
        return all_counts(self.statistics, self.rig.audio)

    def status(self, grace_s=0.0):
        found = self.answers.unanswered(self.counts(), self.work_s, grace_s)
        return stream_status("stream", self.statistics, "active", None, None, found, ERROR_S)


def other_clock(watched, offset_s):
    """The sound's stamps lie so far off."""
    watched.rig.audio.reset()
    sound = np.full((6 * RATE, 1), 0.1, np.float32)
    watched.rig.audio.push(AudioChunk(sound, RATE, START_NS - 2 * NS + round(offset_s * NS)))


def failing(watched, error):
    def fails(*_):
        raise error

    watched.rig.backbones.image.encode = watched.rig.backbones.image.encode_batch = fails


def holes(watched):
    """A piece of every half second is lost."""
    watched.rig.audio.reset()
    for part in range(24):
        sound = np.full((RATE // 8, 1), 0.1, np.float32)
        watched.rig.audio.push(AudioChunk(sound, RATE, START_NS - 2 * NS + part * NS // 4))


def blocked(watched):
    watched.work_s = STEP_S


NOTHING = dict
SITUATIONS = {
    "sound an hour behind": (lambda w: other_clock(w, -3600), NOTHING, "audio_not_yet"),
    "sound an hour ahead": (lambda w: other_clock(w, 3600), NOTHING, "no_audio"),
    "no sound": (lambda w: w.rig.audio.reset(), NOTHING, "no_audio"),
    "holes in the sound": (holes, NOTHING, "audio_gap"),
    "encoder fails": (lambda w: failing(w, RuntimeError("no kernel")), NOTHING, "failed"),
    "out of memory": (lambda w: failing(w, MemoryError("no room")), NOTHING, "failed"),
    "models' thread blocked": (blocked, NOTHING, "the models have worked on one image for"),
    "camera without stamps": (lambda w: None, lambda: {"stamp_ns": 0}, "image_stamp"),
    "stamps stand still": (lambda w: w.rig.process(item("front", START_NS)), lambda: {"stamp_ns": START_NS}, "out_of_order"),
    "unknown encoding": (lambda w: None, lambda: {"encoding": "32SC4"}, "image_encoding"),
}


@pytest.mark.parametrize("name", SITUATIONS)
def test_every_situation_without_answers_is_told_with_its_reason(name):
    prepare, changes, reason = SITUATIONS[name]
    watched = Watched()
    prepare(watched)
    levels = {}
    for _ in range(17):
        watched.image(**changes())
        levels[round(watched.now - STEP_S, 1)] = watched.status()  # since the first image
    assert all(levels[at].level == diagnostics.OK for at in (0.0, 0.8, 1.0))
    for at, level in ((1.2, diagnostics.WARN), (2.8, diagnostics.WARN), (3.2, diagnostics.ERROR)):
        assert levels[at].level == level and levels[at].message.startswith(f"camera front: no answer for {at:.1f} s while images")
        assert reason in levels[at].message and "\n" not in levels[at].message


def test_a_camera_clock_that_lags_is_told():
    watched = Watched()
    watched.rig.live.set_config(watched.rig.live.config.updated({"node.max_age_s": 0.5}))
    for step in range(10):
        watched.image(stamp_ns=START_NS - 60 * NS + step)
    assert watched.status().level == diagnostics.WARN and "too_old" in watched.status().message


def test_answers_end_the_warning_and_reasons_before_them_do_not_count():
    watched = Watched()
    for _ in range(8):
        watched.image(encoding="32SC4")
    assert "image_encoding, 8 times" in watched.status().message
    watched.image()
    assert watched.status().level == diagnostics.OK
    for _ in range(7):
        watched.image(stamp_ns=0)
    assert "image_stamp, 7 times" in watched.status().message and "encoding" not in watched.status().message


def test_what_lies_behind_missing_sound_is_told():
    watched = Watched()
    watched.rig.audio.reset()
    for _ in range(8):
        watched.image()
        watched.rig.audio.counts["rate_changes"] += 3
    assert "(24 rate_changes in the sound)" in watched.status().message


def test_nobody_is_owed_an_answer_while_no_image_comes_or_at_a_chosen_rate():
    watched = Watched()
    for _ in range(7):
        watched.image(encoding="32SC4")
    assert watched.status().level == diagnostics.WARN and watched.status(grace_s=1.0).level == diagnostics.OK
    watched.now += 5.1  # the camera has stopped: that is another warning
    assert watched.status().level == diagnostics.OK
    watched.answers.start()
    watched.answers.image("front")
    assert watched.status().level == diagnostics.OK


def test_a_slow_camera_without_answers_is_told_too():
    watched = Watched()
    for _ in range(3):
        watched.now += 1.8
        watched.image(encoding="32SC4")
    assert watched.status().level == diagnostics.ERROR


def test_the_camera_that_waits_longest_is_named():
    watched = Watched()
    for step in range(10):
        watched.now += STEP_S
        watched.answers.image("rear")
        watched.answers.image("front")
        if step < 2:
            watched.answers.answered("front", {})
    found = watched.answers.unanswered({}, 0.0)
    assert found.camera == "rear" and found.reason == "10 images came, none was taken"
    assert stream_status("s", watched.statistics, "active", unanswered=found).message.startswith("camera rear: no answer")


def test_models_at_work_for_a_moment_are_not_the_reason():
    now = [0.0]
    answers = Answers(lambda: now[0])
    answers.image("front")
    answers.tell("audio_gap", "a hole of 50 ms in the sound")
    now[0] = 1.5
    answers.image("front")
    assert answers.unanswered({"audio_gap": 3}, 0.4).reason == "audio_gap, 3 times: a hole of 50 ms in the sound"
    assert answers.unanswered({"audio_gap": 3}, 1.4).reason == "the models have worked on one image for 1.4 s"
