"""The node's life as a state machine: any order of transitions, inputs and settings, in this process with stand-in models."""

import numpy as np
import pytest
import rclpy
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header

from taco.clock import NS
from taco_ros.audio_messages import chunk_message
from taco_ros.conversions import image_message, ns_to_stamp
from taco_ros.node import TacoNode
from test.taco_ros.graph import RATE, TONES, reserved_domain, scene_image, wait_until

pytestmark = pytest.mark.ros
SUCCESS = TransitionCallbackReturn.SUCCESS
RGB = scene_image()
SOUND = (0.3 * np.sin(2 * np.pi * TONES["red"] * np.arange(2 * RATE) / RATE)).astype(np.float32)[:, None]
LEAVES = {"configure": "unconfigured", "activate": "inactive", "deactivate": "active", "cleanup": "inactive"}
BECOMES = {"configure": "inactive", "activate": "active", "deactivate": "inactive", "cleanup": "unconfigured"}


class Life(RuleBasedStateMachine):
    """Beside the node goes a model of it: the state, and whether it is paused."""

    def __init__(self):
        super().__init__()
        self.node = TacoNode(parameter_overrides=[Parameter("models.image", value="standin"), *OFF])
        self.state, self.paused = "unconfigured", False

    @rule(what=st.sampled_from(sorted(LEAVES)))
    def transition(self, what):
        if self.state != LEAVES[what]:
            with pytest.raises(Exception, match="Transition|transition"):
                getattr(self.node, f"trigger_{what}")()
            return
        assert getattr(self.node, f"trigger_{what}")() == SUCCESS
        self.state = BECOMES[what]

    @rule(words=st.sampled_from([["red"], ["red", "blue"], [""], ["purple"]]))
    def words(self, words):
        done = self.node.set_parameters([Parameter("models.word_bank", value=words)])[0]
        known = "purple" not in words
        if self.state != "unconfigured":
            assert done.successful == known
        if done.successful and not known:  # no models yet to ask; put it right, configure would refuse it
            assert self.node.set_parameters([Parameter("models.word_bank", value=["red"])])[0].successful

    @rule(rate_hz=st.sampled_from([0.0, 1000.0, 1e-10, -1.0]))
    def rate(self, rate_hz):
        good = rate_hz in (0.0, 1000.0)
        assert self.node.set_parameters([Parameter("node.max_rate_hz", value=rate_hz)])[0].successful == good

    @rule()
    def reset(self):
        self.node.reset_streams()

    @rule(pause=st.booleans())
    def pause(self, pause):
        self.node.paused = self.paused = pause

    @precondition(lambda self: self.state != "unconfigured")
    @rule()
    def image(self):
        """It is answered where the node is active, and only there."""
        self.node.reset_streams()
        now_ns, before = self.node.now_ns(), self.answers()
        sound = chunk_message(SOUND, RATE, now_ns - 2 * NS)
        self.node._on_audio(sound, "taco_ros", None)
        header = Header(stamp=ns_to_stamp(now_ns - NS // 100), frame_id="camera")
        self.node._on_image("", image_message(RGB, "rgb8", header))
        if self.state == "active" and not self.paused:
            wait_until(lambda: self.answers() == before + 1, 30, "the answer")
        else:
            self.node.worker.call(lambda: None).result(30)  # after whatever may have been taken
            assert self.answers() == before

    def answers(self):
        counts = self.node.statistics.counts()
        return counts.get("sounding", 0) + counts.get("no_mask", 0) + counts.get("not_in_view", 0) + counts.get("unknown", 0)

    @invariant()
    def is_as_the_model_says(self):
        node = self.node
        assert node.state == self.state
        assert (node.live is None) == (self.state == "unconfigured")
        assert all(source.active == (self.state == "active") for source in node.images)
        assert bool(node.images) == (self.state != "unconfigured")
        assert node.worker.is_alive() and node.worker.problem() == ""

    def teardown(self):
        assert self.node.close()
        self.node.destroy_node()


OFF = [Parameter("node.autostart", value=False), Parameter("node.max_age_s", value=0.0)]


@pytest.mark.timeout(300)
def test_every_order_of_transitions_inputs_and_settings():
    with reserved_domain() as domain:
        rclpy.init(domain_id=domain, args=[])
        try:
            test = Life.TestCase
            test.settings = settings(
                max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
            )
            test().runTest()
        finally:
            rclpy.shutdown()
