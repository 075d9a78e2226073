"""Several cameras in one node, without a node: together as one by one, and no camera pays for another's fault."""

import numpy as np
import pytest
from std_msgs.msg import Header

from taco.audio import AudioBuffer
from taco.backbones.stand_in import StandInImageEncoder
from taco.clock import NS
from taco.config import TacoConfig
from taco.errors import ShapeError
from taco.mailbox import PendingImage
from taco.types import AudioChunk
from taco_ros.conversions import image_message, ns_to_stamp
from taco_ros.diagnostics import Statistics
from taco_ros.live import LivePipeline
from test.taco_ros.graph import RATE, scene_image

START_NS = 100 * NS


class Rig:
    """A Processor with stand-in models, sound from START_NS - 2 s on, and what it complained of."""

    def __init__(self, *cameras, **settings):
        self.audio, self.statistics, self.said = AudioBuffer(), Statistics(clock=lambda: 0.0), []
        time_s = np.arange(6 * RATE) / RATE
        tone = 0.3 * np.where(time_s < 3.5, np.sin(2 * np.pi * 300 * time_s), np.sin(2 * np.pi * 5000 * time_s))
        self.audio.push(AudioChunk(tone.astype(np.float32)[:, None], RATE, START_NS - 2 * NS))
        ours = {"models.image": "standin", "node.cameras": cameras, "node.max_age_s": 0.0}
        config = TacoConfig().updated(ours | settings)
        self.live = LivePipeline(config, self.audio, self.statistics, lambda: START_NS, self.warn)
        self.seen, self.heard = [], []
        backbones = next(iter(self.live.pipelines.values())).backbones
        self.backbones = backbones
        self.count(backbones.image, "encode_batch", self.seen)
        self.count(backbones.audio, "encode", self.heard)

    def warn(self, reason, line):
        self.said.append((reason, line))

    @staticmethod
    def count(owner, name, calls):
        inner = getattr(owner, name)

        def counted(value):
            calls.append(len(value) if isinstance(value, list) else 1)
            return inner(value)

        setattr(owner, name, counted)

    def process(self, *items):
        return list(self.live.process(items))


def picture(name):
    """Of the front camera; the rear one sees it mirrored and in another shape."""
    rgb = scene_image()
    return rgb if name == "front" else np.ascontiguousarray(rgb[20:460, ::-1])


def item(name, stamp_ns, rgb=None, encoding="rgb8"):
    message = image_message(picture(name) if rgb is None else rgb, encoding, Header(stamp=ns_to_stamp(stamp_ns), frame_id=name))
    return PendingImage(name, message, stamp_ns, stamp_ns)


def told(result):
    """What users get of it, without times."""
    scene = result.scene
    objects = [(thing.id, thing.label, thing.score, thing.box, thing.mask.sum()) for thing in scene.objects]
    return (
        result.camera,
        result.header.frame_id,
        scene.stamp_ns,
        scene.window_start_ns,
        scene.verdict,
        scene.sounding_score,
        objects,
    )


@pytest.mark.parametrize("apart_ns", (0, NS // 100), ids=("same-stamps", "other-stamps"))
def test_together_as_one_by_one(apart_ns):
    both, front, rear = Rig("front", "rear"), Rig("front"), Rig("rear")
    for step in range(12):  # warm starts, tracks and a change of sound on the way
        stamp_ns = START_NS + step * NS // 5
        pair = item("front", stamp_ns), item("rear", stamp_ns + apart_ns)
        found, alone = both.process(*pair), [*front.process(pair[0]), *rear.process(pair[1])]
        assert [told(result) for result in found] == [told(result) for result in alone]
        assert [result.scene.factorization.restart for result in found] == [r.scene.factorization.restart for r in alone]
        assert all(result.scene.objects for result in found)
    assert both.seen[-12:] == [2] * 12 and front.seen[-12:] == [1] * 12
    assert len(front.heard) == len(rear.heard) >= 12 and both.said == []
    assert len(both.heard) == len(front.heard) * (1 if apart_ns == 0 else 2)  # the sound and its parts
    assert {told(result)[-1][0][1] for result in found} == {"blue"}
    assert len(both.statistics.values("stage.image")) == 12  # of the pass, once


def test_of_several_cameras_only_those_that_see_a_change_are_encoded(monkeypatch):
    monkeypatch.setattr(StandInImageEncoder, "every_image", False)
    rig = Rig("front", "rear")
    rear = picture("rear")
    for step, (shift, wanted) in enumerate(((0, [2]), (40, [2, 1]), (40, [2, 1]), (0, [2, 1, 1]))):
        stamp_ns = START_NS + step * NS // 5
        found = rig.process(item("front", stamp_ns), item("rear", stamp_ns, np.roll(rear, shift, 1)))
        assert all(result.scene.objects for result in found) and rig.seen[-len(wanted) :] == wanted
        assert len(rig.seen) - len(wanted) in (0, 1)  # the first is that of the warm-up


@pytest.mark.parametrize("bad", ("front", "rear"))
@pytest.mark.parametrize(
    "reason, changes",
    (
        ("image_encoding", {"encoding": "32SC4"}),
        ("out_of_order", {"stamp_ns": START_NS - NS // 2}),
        ("image_stamp", {"stamp_ns": 0}),
    ),
)
def test_an_image_that_cannot_be_used_loses_no_other(bad, reason, changes):
    rig = Rig("front", "rear")
    good = "rear" if bad == "front" else "front"
    assert len(rig.process(item("front", START_NS), item("rear", START_NS))) == 2
    now_ns = START_NS + NS // 5
    items = {good: item(good, now_ns), bad: item(bad, **{"stamp_ns": now_ns, **changes})}
    (result,) = rig.process(items["front"], items["rear"])
    assert result.camera == good and result.scene.objects and [told_reason for told_reason, _ in rig.said] == [reason]


def test_a_model_that_fails_for_one_camera_loses_no_other():
    rig = Rig("front", "rear")
    inner = rig.backbones.image.encode_batch

    def fails(frames):
        if any(frame.size == (440, 640) for frame in frames):
            raise RuntimeError("no kernel for this shape")
        return inner(frames)

    rig.backbones.image.encode_batch = fails
    (result,) = rig.process(item("rear", START_NS), item("front", START_NS))
    assert result.camera == "front" and result.scene.objects
    assert [reason for reason, _ in rig.said] == ["failed", "not_together"] and "no kernel" in rig.said[0][1]


def test_a_pipeline_that_fails_for_one_camera_loses_no_other():
    rig = Rig("front", "rear")

    def fails(*_, **__):
        raise ShapeError("segment: wanted something else")

    rig.live.pipelines["front"].process = fails
    (result,) = rig.process(item("front", START_NS), item("rear", START_NS))
    assert result.camera == "rear" and rig.said == [("failed", "segment: wanted something else")]


def test_silence_asks_no_model():
    rig = Rig("front", "rear")
    rig.audio.reset()
    rig.audio.push(AudioChunk(np.zeros((3 * RATE, 1), np.float32), RATE, START_NS - 2 * NS))
    found = rig.process(item("front", START_NS), item("rear", START_NS))
    assert [result.scene.verdict for result in found] == ["silent", "silent"] and rig.seen == [] and rig.heard == []
    assert rig.live.newest.verdict == "silent"
    rig.live.reset()
    assert rig.live.newest is None


def test_times_and_losses_of_warm_and_cold_starts_are_noted():
    rig = Rig("front")
    for step in range(4):
        assert rig.process(item("front", START_NS + step * NS // 10))
    counts, statistics = rig.statistics.counts(), rig.statistics
    assert counts["start.cold"] == 1 and counts["start.warm"] == 3
    assert len(statistics.values("warm.factorize")) == len(statistics.values("warm.loss")) == 3
    assert statistics.newest("cold.factorize") > 0 and statistics.newest("cold.loss") > 0


def test_warm_up_takes_all_cameras_at_once_too():
    rig = Rig("front", "rear", "left")
    assert rig.live.warm_up() > 0 and 3 in rig.seen
