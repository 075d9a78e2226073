"""``taco_node``: camera and microphone topics in, outlined sounding objects out. A managed (lifecycle) node."""

from __future__ import annotations

import sys
import threading
import time

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType, JumpThreshold
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.lifecycle.node import LifecycleNodeMixin
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import Float64

from taco.audio import AudioBuffer
from taco.config import TacoConfig, unused
from taco.errors import ConfigError, TacoError
from taco_ros import audio_messages, diagnostics
from taco_ros.conversions import NS, MessageError, stamp_to_ns
from taco_ros.diagnostics import Statistics
from taco_ros.inputs import AudioInput, ImageInput
from taco_ros.mailbox import Pending, Worker
from taco_ros.outputs import Outputs
from taco_ros.parameters import Parameters
from taco_ros.runtime import InputGroup, ros_session, spin
from taco_ros.services import Services

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
HOLD = 90  # images that may wait for the second half of a centered window


class TacoNode(LifecycleNode):
    """Feeds ``Processor`` on its own thread and publishes what it finds; no arithmetic on images or sound here."""

    def __init__(self, name: str = "taco_node", **options):
        Node.__init__(self, name, **options)
        # Transitions load models for seconds: in a group of their own they hold up no other service.
        self._life_group = MutuallyExclusiveCallbackGroup()
        LifecycleNodeMixin.__init__(self, enable_communication_interface=True, callback_group=self._life_group)
        self._answer_impossible_transitions()
        self._watch_group, self._input_group = MutuallyExclusiveCallbackGroup(), InputGroup()
        self.statistics = Statistics()
        self.audio = AudioBuffer()
        self.paused = False
        self.processor = None
        self.worker = Worker(self._process, self._ready, self._worker_failed)
        self.worker.start()
        self._images: list[ImageInput] = []
        self._sound: AudioInput | None = None
        self._outputs: dict[str, Outputs] = {}
        self._subscribing = threading.Lock()
        self._active_since: float | None = None
        self._last_done = 0.0
        self.parameters = Parameters(self, TacoConfig())
        self.config = TacoConfig()
        self.add_on_set_parameters_callback(self._on_parameters)
        Services(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        names = ("processing_time_ms", "pipeline_latency_ms", "cyclic_time_ms")
        self._debug = {name: self.create_publisher(Float64, f"~/debug/{name}", 10) for name in names}
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # also while simulated time stands still
        self.create_timer(1.0, self._on_diagnostics, self._watch_group, clock=steady)
        self.create_timer(0.1, self._on_watch, self._watch_group, clock=steady)
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        self._jump = self.get_clock().create_jump_callback(threshold, post_callback=self._on_time_jump)
        self._autostart = None
        if self.get_parameter("node.autostart").value:
            self._autostart = self.create_timer(0.01, self._on_autostart, self._life_group, clock=steady)

    def _answer_impossible_transitions(self) -> None:
        """rclpy raises out of the executor when a transition is asked for that the state does not have; answer False."""
        original = self._service_change_state.callback

        def answer(request, response):
            try:
                return original(request, response)
            except Exception as error:
                self.get_logger().warning(f"transition refused: {str(error).splitlines()[0]}")
                response.success = False
                return response

        self._service_change_state.callback = answer

    # Life -------------------------------------------------------------------------------------------------

    def _on_autostart(self) -> None:
        self._autostart.cancel()
        if self._state_machine.current_state[1] == "unconfigured" and self.trigger_configure() == SUCCESS:
            self.trigger_activate()

    def _transition(self, what: str, steps) -> TransitionCallbackReturn:
        """Run the steps of a transition; a failure is one log line, and the node stays usable."""
        try:
            steps()
        except Exception as error:
            known = isinstance(error, (TacoError, OSError))
            line = " ".join(str(error).split()) or type(error).__name__
            self.get_logger().error(f"{what} failed: {line if known else f'{type(error).__name__}: {line}'}")
            return FAILURE
        return SUCCESS

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Settings, models, a warm-up run, publishers."""
        result = self._transition("configure", self._configure)
        if result != SUCCESS:
            self._release()
        return result

    def _configure(self) -> None:
        start = time.monotonic()
        self.config = self.parameters.config()
        for line in unused(self.config):
            self.get_logger().warning(line)
        self.audio = AudioBuffer(self.config.audio)
        self.worker.mailbox.hold = HOLD if self.config.audio.alignment == "centered" else 1
        self.worker.interval_s = 1.0 / self.config.node.max_rate_hz if self.config.node.max_rate_hz else 0.0
        warm_ms = self.worker.call(self._load).result()
        names = self.config.node.cameras or ("",)
        self._outputs = {name: Outputs(self, name) for name in names}
        transport, group = self.config.node.image_transport, self._input_group
        self._images = [ImageInput(self, name, transport, self._on_image, group, self.warn) for name in names]
        self._sound = AudioInput(self, self.config.audio, self._on_audio, group, self.warn)
        images = ", ".join(image.topic for image in self._images)
        self.get_logger().info(
            f"configured in {time.monotonic() - start:.1f} s: {self.processor.models}; {len(self.processor.words)} words; "
            f"warm-up {warm_ms:.0f} ms; images from {images}, sound from {self._sound.topic}"
        )

    def _load(self) -> float:
        from taco_ros.live import Processor

        self.processor = Processor(self.config, self.audio, self.statistics, self.now_ns, self.warn)
        return self.processor.warm_up()

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe; with node.lazy only once somebody listens."""
        super().on_activate(state)
        return self._transition("activate", self._activate)

    def _activate(self) -> None:
        self._active_since = time.monotonic()
        if not self.config.node.lazy:
            self._subscribe()
        self.get_logger().info("active" + (", lazy: waiting for a listener" if self.config.node.lazy else ""))

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe; the models stay."""
        self._active_since = None
        result = self._transition("deactivate", self._unsubscribe)
        super().on_deactivate(state)
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the models' memory."""
        return self._transition("cleanup", self._release)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and free everything."""
        self._active_since = None
        return self._transition("shutdown", self._release)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured."""
        return self._transition("error handling", self._release)

    def _release(self) -> None:
        before = diagnostics.memory_mb()
        self._unsubscribe()
        self._images, self._sound = [], None
        for outputs in self._outputs.values():
            outputs.destroy()
        self._outputs = {}
        if self.processor is not None:
            self.worker.call(self._unload).result()
            self.get_logger().info(f"models freed: memory {before:.0f} -> {diagnostics.memory_mb():.0f} MB")

    def _unload(self) -> None:
        processor, self.processor = self.processor, None
        processor.close()

    def _subscribe(self) -> None:
        with self._subscribing:  # the watch and a transition may both want to
            if self._active_since is not None:
                for source in (*self._images, self._sound, *(outputs.targets for outputs in self._outputs.values())):
                    source.start()

    def _unsubscribe(self) -> None:
        with self._subscribing:
            for source in (*self._images, *([self._sound] if self._sound else [])):
                source.stop()
            for outputs in self._outputs.values():
                outputs.targets.stop()
        self.worker.mailbox.clear()
        self.reset_streams()

    def close(self) -> None:
        """End the models' thread."""
        self.worker.stop()

    # Inputs -----------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """The node's clock: simulated time with use_sim_time."""
        return self.get_clock().now().nanoseconds

    def _on_image(self, camera: str, message) -> None:
        now_ns, stamp_ns = self.now_ns(), stamp_to_ns(message.header.stamp)
        self.statistics.sample(f"image.{camera}" if camera else "image")
        if self.paused:
            self.statistics.count("paused")
            return
        if stamp_ns > 0:
            self.statistics.sample("image_delay_s", (now_ns - stamp_ns) / NS)
        self.worker.mailbox.put(Pending(camera, message, stamp_ns, now_ns))

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
        """Count what could not be used and say so, the same reason at most every few seconds."""
        self.statistics.count(reason)
        if self.statistics.may_log(reason):
            self.get_logger().warning(f"{line} [{reason}: {self.statistics.counts()[reason]}]")

    def _on_time_jump(self, jump) -> None:
        self.get_logger().info("time jumped back: starting afresh")
        self.statistics.count("time_jumps")
        self.reset_streams()

    def reset_streams(self) -> None:
        """Forget the sound, waiting images and the last frames; models and settings stay."""
        self.worker.mailbox.clear()
        self.audio.reset()
        self.statistics.forget()
        if self.processor is not None:
            self.worker.call(self._reset_processor)

    def _reset_processor(self) -> None:
        if self.processor is not None:
            self.processor.reset()
        for outputs in list(self._outputs.values()):
            outputs.targets.reset()

    # Processing, on the models' thread ----------------------------------------------------------------------

    def _ready(self, item: Pending) -> bool:
        return self.processor is None or self.processor.ready(item)

    def _process(self, batch: list[Pending]) -> None:
        if self.processor is None or self._active_since is None:
            return
        start = time.perf_counter()
        for result in self.processor.process(batch):
            outputs = self._outputs.get(result.camera)
            if outputs is None:
                continue
            before = time.perf_counter()
            try:
                outputs.publish(result)
            except Exception as error:  # the other cameras' answers wait behind this one
                self._worker_failed(error)
                continue
            done = time.perf_counter()
            age_s = (self.now_ns() - result.scene.stamp_ns) / NS
            self.statistics.sample("stage.publish", 1000.0 * (done - before))
            self.statistics.sample("age_s", age_s)
            self.statistics.sample("processed")
            self._debug["processing_time_ms"].publish(Float64(data=1000.0 * (done - start)))
            self._debug["pipeline_latency_ms"].publish(Float64(data=1000.0 * age_s))
            self._debug["cyclic_time_ms"].publish(Float64(data=1000.0 * (done - self._last_done) if self._last_done else 0.0))
            self._last_done = start = done

    def _worker_failed(self, error: Exception) -> None:
        self.warn("failed", f"processing failed: {type(error).__name__}: {' '.join(str(error).split())}")

    # Settings -----------------------------------------------------------------------------------------------

    def _on_parameters(self, parameters: list[Parameter]):
        running = self._state_machine.current_state[1] != "unconfigured"
        result, config = self.parameters.check_change(self.config, parameters, running)
        if not result.successful or not running:
            return result
        self.config = config
        self.worker.interval_s = 1.0 / config.node.max_rate_hz if config.node.max_rate_hz else 0.0
        self.worker.call(self._apply, config)
        return result

    def _apply(self, config: TacoConfig) -> None:
        """Give live settings to the models; a word bank that they refuse is put back."""
        if self.processor is None:
            return
        try:
            self.processor.set_config(config)
        except TacoError as error:
            self.get_logger().error(f"word bank not changed: {error}")
            words = self.processor.config.models.word_bank
            self.processor.set_config(config.updated({"models.word_bank": words}))
            self.show_words(words)

    def show_words(self, words) -> None:
        """Make the parameter tell the words that are in use."""
        self.config = self.config.updated({"models.word_bank": tuple(words)})
        self.set_parameters([Parameter("models.word_bank", Parameter.Type.STRING_ARRAY, list(words))])

    # Watch --------------------------------------------------------------------------------------------------

    def _on_watch(self) -> None:
        if self._active_since is None:
            return
        try:
            wanted = not self.config.node.lazy or any(outputs.listeners for outputs in self._outputs.values())
            subscribed = any(image.active for image in self._images)
            if wanted and not subscribed:
                self._active_since = time.monotonic()
                self._subscribe()
            elif subscribed and not wanted:
                self._unsubscribe()
            elif wanted:
                self._subscribe()  # the type of the sound may only be known by now
        except (MessageError, ConfigError) as error:
            self.warn("audio_type", str(error))

    def _on_diagnostics(self) -> None:
        stamp, name = self.get_clock().now().to_msg(), self.get_fully_qualified_name()
        self._diagnostics.publish(diagnostics.diagnostic_array(stamp, self._statuses(name)))

    def _statuses(self, name: str):
        limit_s = self.config.node.no_image_warning_s
        state = "paused" if self.paused else self._state_machine.current_state[1]
        waited_s = time.monotonic() - self._active_since if self._active_since is not None else 0.0
        for image in list(self._images):
            what = f"image.{image.camera}" if image.camera else "image"
            hint = image.hint() if image.active and waited_s > limit_s else ""
            yield self._say(
                diagnostics.input_status(f"{name}: {what}", what, image, self.statistics, image.active, limit_s, waited_s, hint)
            )
        sound = self._sound
        if sound is not None:
            listening = any(image.active for image in self._images)
            entry = diagnostics.input_status(
                f"{name}: sound", "sound", sound, self.statistics, listening, limit_s, waited_s, "is the microphone running?"
            )
            entry.values += diagnostics.status(
                "", diagnostics.OK, "", diagnostics.sound_values(self.audio, self.statistics)
            ).values
            yield self._say(entry)
        self.statistics.set("replaced", self.worker.mailbox.replaced)
        processor = self.processor
        newest = processor.newest if processor is not None else None
        yield self._say(diagnostics.stream_status(f"{name}: stream", self.statistics, state, newest))
        values = {"memory_mb": diagnostics.memory_mb(), "device": self.config.models.device}
        if processor is not None and processor.pipelines:
            values |= {"models": processor.models, "words": len(processor.words), "device": processor.device}
            values |= {"gpu_memory_mb": diagnostics.gpu_memory_mb()}
        yield diagnostics.status(f"{name}: models", diagnostics.OK, "loaded" if processor else "not loaded", values)

    def _say(self, entry):
        if entry.level != diagnostics.OK and self.statistics.may_log(entry.name, 30.0):
            self.get_logger().warning(entry.message)
        return entry


def main(args=None) -> int:
    """Run the node until it is stopped."""
    sys.setswitchinterval(0.001)  # a callback waits this long at most for the models' thread to let go of the interpreter
    with ros_session(args):
        node = TacoNode()
        try:
            spin(node, lambda error: node.warn("callback", f"callback failed: {type(error).__name__}: {error}"))
        finally:
            node.close()
            node.destroy_node()
    return 0
