"""``taco_node``: the lifecycle node, wiring inputs, models' thread and outputs."""

from __future__ import annotations

import sys
import threading
import time

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin
from rclpy.node import Node
from rclpy.parameter import Parameter

from taco.audio import AudioBuffer
from taco.backbones.device import release_memory
from taco.clock import NS
from taco.config import TacoConfig, unused_settings
from taco.errors import ConfigError, TacoError
from taco.mailbox import PendingImage
from taco_ros import audio_messages, diagnostics, faults
from taco_ros.answers import Answers, all_counts
from taco_ros.conversions import MessageError, stamp_to_ns
from taco_ros.diagnostics import DiagnosticsPublisher, Statistics
from taco_ros.inputs import AudioInput, ImageInput
from taco_ros.live import LivePipeline
from taco_ros.outputs import DebugTimes, Outputs
from taco_ros.parameters import Parameters
from taco_ros.runtime import InputGroup, refuse_impossible_transitions
from taco_ros.services import WORDS_LIMIT_S, Services
from taco_ros.watchdog import run_watched
from taco_ros.worker import Worker

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
CENTERED_CAPACITY = 90  # ours: images that may wait for the second half of a centered window, 3 s at 30 Hz
CLOCK_JITTER_NS = 100_000_000  # ours: simulated time that steps back by less is jitter, not another time line
LOAD_LIMIT_S = 1800.0  # ours: loading may fetch weights over a slow line and build an engine
SLOW_FRAME = 5.0  # ours: a frame that takes less than this many times the warm-up's is slow, not hung
RELEASE_S = 30.0  # ours: images of changing content leave holes in the heap, up to 60 MB; giving them back takes 5 to 20 ms
SHORT_SWITCH_S = 0.001  # ours: the models' thread yields the interpreter to a callback within this time


class TacoNode(LifecycleNode):
    """Feeds ``LivePipeline`` on the models' thread and publishes its results; no arithmetic on images or sound here.

    config: the settings in use.
    audio: the sound of the last seconds.
    live: the models, None while unconfigured.
    images, sound: the inputs, none while unconfigured.
    paused: whether new images are dropped.
    """

    def __init__(self, name: str = "taco_node", **options):
        Node.__init__(self, name, **options)
        # Transitions load models for seconds; in a group of their own they block no other service.
        self._life_group = MutuallyExclusiveCallbackGroup()
        LifecycleNodeMixin.__init__(self, enable_communication_interface=True, callback_group=self._life_group)
        refuse_impossible_transitions(self)
        self._watch_group, self._input_group = MutuallyExclusiveCallbackGroup(), InputGroup()
        self.statistics, self.answers = Statistics(), Answers()
        self.audio = AudioBuffer()
        self.paused = self.stopping = False
        self._faults = faults.asked_for()
        self.live = None
        self._warm_up_s = 0.0
        self.worker = Worker(self._process, self._ready, self._worker_failed)
        self.worker.start()
        self.images: list[ImageInput] = []
        self.sound: AudioInput | None = None
        self._outputs: dict[str, Outputs] = {}
        self._subscribing = threading.Lock()
        self._active_since: float | None = None
        self.parameters = Parameters(self, TacoConfig())
        self.config = TacoConfig()
        self.add_on_set_parameters_callback(self._on_parameters)
        Services(self)
        self._diagnostics, self._debug_times = DiagnosticsPublisher(self), DebugTimes(self)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # also while simulated time stands still
        self.create_timer(1.0, self._diagnostics.publish, self._watch_group, clock=steady)
        self.create_timer(0.1, self._on_watch, self._watch_group, clock=steady)
        self.create_timer(RELEASE_S, release_memory, self._watch_group, clock=steady)
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-CLOCK_JITTER_NS), on_clock_change=False)
        self._jump = self.get_clock().create_jump_callback(threshold, post_callback=self._on_time_jump)
        self._autostart = None
        if self.get_parameter("node.autostart").value:
            self._autostart = self.create_timer(0.01, self._on_autostart, self._life_group, clock=steady)

    # Life -------------------------------------------------------------------------------------------------

    def _on_autostart(self) -> None:
        self._autostart.cancel()
        if self.state == "unconfigured" and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def _run_transition(self, what: str, steps) -> TransitionCallbackReturn:
        """Run the steps of a transition; a failure is one log line, and the node stays usable."""
        try:
            steps()
        except Exception as error:
            if self.stopping:
                return FAILURE  # it was told to give up
            known = isinstance(error, (TacoError, OSError))
            line = " ".join(str(error).split()) or type(error).__name__
            self.get_logger().error(f"{what} failed: {line if known else f'{type(error).__name__}: {line}'}")
            return FAILURE
        return SUCCESS

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Settings, models, a warm-up run, publishers."""
        result = self._run_transition("configure", self._configure)
        if result != SUCCESS:
            self._release()
        return result

    def _configure(self) -> None:
        start = time.monotonic()
        self.config, self._warm_up_s = self.parameters.config(), 0.0
        for line in unused_settings(self.config):
            self.get_logger().warning(line)
        self.audio = AudioBuffer(self.config.audio)
        self.worker.mailbox.capacity = CENTERED_CAPACITY if self.config.audio.alignment == "centered" else 1
        self._set_limits()
        warm_ms = self.worker.wait_for(self._load, limit_s=LOAD_LIMIT_S)
        names = self.config.node.cameras or ("",)
        self._warm_up_s = len(names) * warm_ms / 1000.0
        self._set_limits()
        if self.worker.limit_s > self.config.node.stuck_s:
            slow = f"a frame takes {warm_ms / 1000.0:.0f} s: it counts as hung after {self.worker.limit_s:.0f} s"
            self.get_logger().warning(f"{slow}, not after node.stuck_s, {self.config.node.stuck_s:g} s")
        self._outputs = {name: Outputs(self, name) for name in names}
        transport, group = self.config.node.image_transport, self._input_group
        self.images = [ImageInput(self, name, transport, self._on_image, group, self.warn) for name in names]
        self.sound = AudioInput(self, self.config.audio, self._on_audio, group, self.warn)
        images = ", ".join(image.topic for image in self.images)
        self.get_logger().info(
            f"configured in {time.monotonic() - start:.1f} s: {self.live.models}; {len(self.live.words)} words; "
            f"warm-up {warm_ms:.0f} ms; images from {images}, sound from {self.sound.topic}"
        )

    def _set_limits(self) -> None:
        rate_hz = self.config.node.max_rate_hz
        self.worker.interval_s = 1.0 / rate_hz if rate_hz else 0.0
        self.worker.limit_s = max(self.config.node.stuck_s, SLOW_FRAME * self._warm_up_s)

    def _load(self) -> float:
        try:
            self.live = LivePipeline(self.config, self.audio, self.statistics, self.now_ns, self.warn)
        except ConfigError as error:
            file = self.parameters.word_file
            if file is None or not any(word in str(error) for word in self.config.models.word_bank):
                raise
            # The error quotes the file: not for whoever set the parameter.
            what = f"models.word_bank: wanted words that the models know, got others in {file}"
            raise ConfigError(f"{what}; `taco words --set models.word_bank={file}` names them") from None
        if self._faults:
            self._faults.install(self.live, self.worker)
        return self.live.warm_up()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe; with node.lazy only once somebody listens."""
        super().on_activate(state)
        return self._run_transition("activate", self._activate)

    def _activate(self) -> None:
        self._active_since = time.monotonic()
        self.answers.start()
        if not self.config.node.lazy:
            self._subscribe()
        self.get_logger().info("active" + (", lazy: waiting for a listener" if self.config.node.lazy else ""))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the models stay."""
        self._active_since = None
        result = self._run_transition("deactivate", self._unsubscribe)
        super().on_deactivate(state)
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the models' memory."""
        return self._run_transition("cleanup", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and free everything."""
        self._active_since = None
        return self._run_transition("shutdown", self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured."""
        return self._run_transition("error handling", self._release)

    def _release(self) -> None:
        before = diagnostics.memory_mb()
        self._unsubscribe()
        self.images, self.sound = [], None
        for outputs in self._outputs.values():
            outputs.destroy()
        self._outputs = {}
        if self.live is not None:
            self.worker.wait_for(self._unload)
            self.get_logger().info(f"models freed: memory {before:.0f} -> {diagnostics.memory_mb():.0f} MB")

    def _unload(self) -> None:
        live, self.live = self.live, None
        live.close()

    def _subscribe(self) -> None:
        with self._subscribing:  # the timer and a transition may both come here
            if self._active_since is not None:
                for source in (*self.images, self.sound, *(outputs.targets for outputs in self._outputs.values())):
                    source.start()

    def _unsubscribe(self) -> None:
        with self._subscribing:
            for source in (*self.images, *([self.sound] if self.sound else [])):
                source.stop()
            for outputs in self._outputs.values():
                outputs.targets.stop()
        self.worker.mailbox.clear()
        self.reset_streams()

    def close(self) -> bool:
        """End the models' thread, and let no transition wait for it any more; whether it ended in time."""
        again, self.stopping = self.stopping, True
        ended = self.worker.stop()
        if (work := self.worker.work) and not (ended or again):
            self.get_logger().info(f"{work.what} since {work.lasted_s:.0f} s: given up, as the node ends")
        return ended

    # Inputs -----------------------------------------------------------------------------------------------

    @property
    def state(self) -> str:
        """Name of the lifecycle state."""
        return self._state_machine.current_state[1]

    def active_s(self) -> float:
        """Seconds since the node became active or was last subscribed to; 0 while it is not active."""
        return time.monotonic() - self._active_since if self._active_since is not None else 0.0

    def now_ns(self) -> int:
        """The node's clock: simulated time with use_sim_time."""
        return self.get_clock().now().nanoseconds

    def _on_image(self, camera: str, message) -> None:
        now_ns, stamp_ns = self.now_ns(), stamp_to_ns(message.header.stamp)
        self.statistics.sample(f"image.{camera}" if camera else "image")
        if self.paused:
            self.statistics.count("paused")
            self.answers.start()
            return
        self.answers.image(camera)
        if stamp_ns > 0:
            self.statistics.sample("image_delay_s", (now_ns - stamp_ns) / NS)
        self.worker.mailbox.put(PendingImage(camera, message, stamp_ns, now_ns))

    def _on_audio(self, message, kind: str, info) -> None:
        now_ns = self.now_ns()
        self.statistics.sample("sound")
        try:
            chunk = audio_messages.to_chunk(message, kind, self.config.audio, info, now_ns)
            self.statistics.sample("audio_delay_s", (now_ns - chunk.end_ns) / NS)
            self.audio.push(chunk)
        except MessageError as error:
            self.warn(error.reason, str(error))
        except TacoError as error:
            self.warn("audio_size", str(error))

    def warn(self, reason: str, line: str) -> None:
        """Count an input that could not be used, and log it, the same reason at most every few seconds."""
        self.statistics.count(reason)
        self.answers.tell(reason, line)
        if self.statistics.may_log(reason):
            self.get_logger().warning(f"{line} [{reason}: {self.statistics.counts()[reason]}]")

    def _on_time_jump(self, jump) -> None:
        self.get_logger().info("time jumped back: starting over")
        self.statistics.count("time_jumps")
        self.reset_streams()

    def reset_streams(self) -> None:
        """Forget the sound, waiting images and the last frames; models and settings stay."""
        self.worker.mailbox.clear()
        self.audio.reset()
        self.statistics.forget()
        if self.live is not None:
            self._hand_over(self._reset_processor)

    def _hand_over(self, job, *arguments) -> None:
        """Have the models' thread do something, unless the node is ending."""
        try:
            self.worker.call(job, *arguments)
        except RuntimeError:
            if not self.stopping:
                raise

    def _reset_processor(self) -> None:
        if self.live is not None:
            self.live.reset()
        for outputs in list(self._outputs.values()):
            outputs.targets.reset()

    # Processing, on the models' thread ----------------------------------------------------------------------

    def _ready(self, item: PendingImage) -> bool:
        return self.live is None or self.live.ready(item)

    def _process(self, batch: list[PendingImage]) -> None:
        if self.live is None or self._active_since is None:
            return
        start = time.perf_counter()
        for result in self.live.process(batch):
            outputs = self._outputs.get(result.camera)
            if outputs is None:
                continue
            before = time.perf_counter()
            try:
                if self._faults:
                    self._faults.strike("publish")
                outputs.publish(result)
            except Exception as error:  # the other cameras' results come after this one
                self._worker_failed(error)
                continue
            done = time.perf_counter()
            age_s = (self.now_ns() - result.scene.stamp_ns) / NS
            self.statistics.sample("stage.publish", 1000.0 * (done - before))
            self.statistics.sample("age_s", age_s)
            self.statistics.sample("processed")
            self.answers.answered(result.camera, all_counts(self.statistics, self.audio))
            self._debug_times.publish(start, done, age_s)
            start = done

    def _worker_failed(self, error: BaseException) -> None:
        self.warn("failed", f"processing failed: {type(error).__name__}: {' '.join(str(error).split())}")

    # Settings -----------------------------------------------------------------------------------------------

    def _on_parameters(self, parameters: list[Parameter]):
        running = self.state != "unconfigured"
        result, config = self.parameters.check_change(self.config, parameters, running)
        if not result.successful or not running:
            return result
        words = config.models.word_bank
        if self.live is not None and words != self.live.config.models.word_bank:
            try:
                self.worker.wait_for(self.live.set_words, words, limit_s=WORDS_LIMIT_S)
            except (TacoError, RuntimeError) as error:
                return SetParametersResult(successful=False, reason=" ".join(str(error).split()))
        self.config = config
        self._set_limits()
        self._hand_over(self._apply, config)
        return result

    def _apply(self, config: TacoConfig) -> None:
        """Give live settings to the models, whose word bank is there already."""
        if self.live is not None:
            self.live.set_config(config)

    def show_words(self, words) -> None:
        """Set the parameter to the words that are in use."""
        self.config = self.config.updated({"models.word_bank": tuple(words)})
        self.set_parameters([Parameter("models.word_bank", Parameter.Type.STRING_ARRAY, list(words))])

    # Watch --------------------------------------------------------------------------------------------------

    def _on_watch(self) -> None:
        if self._active_since is None:
            return
        try:
            wanted = not self.config.node.lazy or any(outputs.listeners for outputs in self._outputs.values())
            subscribed = any(image.active for image in self.images)
            if wanted and not subscribed:
                self._active_since = time.monotonic()
                self._subscribe()
            elif subscribed and not wanted:
                self._unsubscribe()
            elif wanted:
                self._subscribe()  # the type of the sound topic may have become known
        except (MessageError, ConfigError) as error:
            self.warn("audio_type", str(error))


def main(args=None) -> int:
    """Run the node until it is stopped; the exit status is 1 where its models' thread died or hung."""
    sys.setswitchinterval(SHORT_SWITCH_S)
    return run_watched(TacoNode, args)
