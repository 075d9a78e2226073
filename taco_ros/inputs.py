"""Subscriptions to cameras and sound, as sensor data, with QoS overrides."""

from __future__ import annotations

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image

from taco.errors import MessageError
from taco_ros import audio_messages
from taco_ros.publisher_lock import TIMEOUT_S, PublisherLock
from taco_ros.runtime import sensor_qos

INFO_TIMEOUT_S = 15.0  # ours: of AudioInfo, which audio_capture repeats every 5 s
AUDIO_DEPTH = 400  # ours: chunks, 4 s of them at 100 Hz, so that none is lost while the node is busy


class Subscription:
    """A subscription of a lifecycle node that can be started and stopped, and listens to one publisher at a time.

    warn(reason, line) is called on an incompatible publisher; callback(message) on every message of the publisher listened to,
    which another one replaces when it has been silent for ``timeout_s``.
    """

    def __init__(self, node, kind, topic: str, depth: int, callback, group, warn, timeout_s: float = TIMEOUT_S):
        self._node, self._kind, self._callback, self._group, self._warn = node, kind, callback, group, warn
        self.topic = node.resolve_topic_name(topic)
        self._depth = depth
        self._subscription = None
        self._lock = PublisherLock(timeout_s)

    @property
    def active(self) -> bool:
        """Whether it is subscribed now."""
        return self._subscription is not None

    @property
    def publishers(self) -> int:
        """Publishers of the topic, of whatever type."""
        return self._node.count_publishers(self.topic)

    @property
    def strangers(self) -> int:
        """Messages of other publishers, dropped."""
        return self._lock.strangers

    @property
    def rivals(self) -> str:
        """A line about the publishers, where several of them are sending; else ""."""
        if not self._lock.contested:
            return ""
        found = self._node.get_publishers_info_by_topic(self.topic)
        names = sorted({f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in found})
        which = f"{len(found)} publishers ({', '.join(names[:5])})"
        return f"{self.topic} has {which}, one of them is listened to; next: stop or remap the others"

    def start(self) -> None:
        """Subscribe; nothing happens when it already is."""
        if self._subscription is None:
            self._subscription = self._node.create_subscription(
                self._kind,
                self.topic,
                self._receive,
                sensor_qos(self._depth),
                callback_group=self._group,
                event_callbacks=SubscriptionEventCallbacks(incompatible_qos=self._incompatible, use_default_callbacks=False),
                qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            )

    def stop(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
            self._lock.release()

    def _receive(self, message, info) -> None:
        frame_id = message.header.frame_id if hasattr(message, "header") else ""
        if self._lock.admits(info.get("publication_sequence_number"), frame_id):
            self._callback(message)

    def _incompatible(self, event) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind).lower()
        setting = f"qos_overrides.{self.topic}.subscription.{policy}"
        self._warn(
            "incompatible_qos",
            f"a publisher of {self.topic} cannot reach this node: its {policy} QoS offers less than asked for here; "
            f"next: give the parameter {setting} what the publisher offers (as best_effort for reliability)",
        )


class ImageInput(Subscription):
    """A camera's topic: ``image``, or with node.image_transport=compressed the same name with /compressed."""

    def __init__(self, node, camera: str, transport: str, callback, group, warn):
        self._name = f"{camera}/image" if camera else "image"
        topic = node.resolve_topic_name(self._name)
        compressed = transport == "compressed"
        if compressed and not topic.endswith("/compressed"):
            topic += "/compressed"
        kind = CompressedImage if compressed else Image
        super().__init__(node, kind, topic, 1, lambda message: callback(camera, message), group, warn)
        self.camera = camera

    def hint(self) -> str:
        """What may be wrong when nothing arrives: the topic's type, or other image topics that exist."""
        wanted = "sensor_msgs/msg/CompressedImage" if self._kind is CompressedImage else "sensor_msgs/msg/Image"
        types = dict(self._node.get_topic_names_and_types())
        if wanted not in types.get(self.topic, [wanted]):
            return f"it carries {', '.join(types[self.topic])}; next: node.image_transport raw or compressed"
        own = self._node.get_fully_qualified_name() + "/"
        others = [name for name, kinds in types.items() if wanted in kinds and name != self.topic and not name.startswith(own)]
        others = [name for name in others if self._node.count_publishers(name)]
        found = f"image topics found: {', '.join(sorted(others)[:5])}; remap `{self._name}`"
        return found if others else "is the camera running?"


class AudioInput:
    """The sound topic ``audio``, of one of four types, named by audio.type or found from the topic when it appears.

    callback(message, kind, info) for every message; info is the newest AudioInfo of ros-drivers or None. A type that
    cannot be used with these settings raises MessageError where audio.type names it; one found later is logged.
    """

    def __init__(self, node, config, callback, group, warn):
        kind = config.type
        self._node, self._config, self._callback, self._group, self._warn = node, config, callback, group, warn
        self.topic = node.resolve_topic_name("audio")
        self._wanted = kind
        self.kind = "" if kind == "auto" else kind
        self._info = None
        self._subscriptions: list[Subscription] = []
        self._refused: set[str] = set()
        self._problem = ""
        if self.kind:
            audio_messages.message_class(self.kind)  # a missing package fails configure
            audio_messages.check_stamps(self.kind, config)

    @property
    def active(self) -> bool:
        """Whether it is subscribed now."""
        return bool(self._subscriptions)

    @property
    def publishers(self) -> int:
        """Publishers of the topic, of whatever type."""
        return self._node.count_publishers(self.topic)

    @property
    def strangers(self) -> int:
        """Messages of other publishers, dropped."""
        return sum(subscription.strangers for subscription in self._subscriptions)

    @property
    def rivals(self) -> str:
        """A line about the publishers, where several of them are sending; else ""."""
        return next((line for subscription in list(self._subscriptions) if (line := subscription.rivals)), "")

    def hint(self) -> str:
        """What may be wrong when nothing arrives: why what the topic carries cannot be used, where it carries something."""
        return self._problem if self._problem and self.publishers else "is the microphone running?"

    def start(self) -> None:
        """Subscribe, once the topic's type is known; call again until ``active``."""
        if self.active:
            return
        if not self.kind:
            self.kind = self._find()
        if not self.kind:
            return
        self._subscribe(audio_messages.message_class(self.kind), self.topic, AUDIO_DEPTH, self._on_audio)
        if self.kind in ("audio_common", "audio_common_unstamped"):
            from audio_common_msgs.msg import AudioInfo

            self._subscribe(AudioInfo, self._node.resolve_topic_name("audio_info"), 1, self._on_info, INFO_TIMEOUT_S)

    def stop(self) -> None:
        """Unsubscribe; the type is found anew next time."""
        for subscription in self._subscriptions:
            subscription.stop()
        self._subscriptions.clear()
        if self._wanted == "auto":
            self.kind = ""

    def _subscribe(self, message_class, topic: str, depth: int, callback, timeout_s: float = TIMEOUT_S) -> None:
        subscription = Subscription(self._node, message_class, topic, depth, callback, self._group, self._warn, timeout_s)
        subscription.start()
        self._subscriptions.append(subscription)

    def _on_audio(self, message) -> None:
        self._callback(message, self.kind, self._info)

    def _on_info(self, message) -> None:
        self._info = message

    def _find(self) -> str:
        types = {info.topic_type for info in self._node.get_publishers_info_by_topic(self.topic)}
        for name, kind in audio_messages.AUDIO_TYPES.items():
            if name in types:
                try:
                    audio_messages.message_class(kind)
                    audio_messages.check_stamps(kind, self._config)
                except MessageError as error:
                    self._problem = str(error)
                    self._warn(error.reason, self._problem)
                    continue
                self._problem = ""
                return kind
        for name in types - self._refused - set(audio_messages.AUDIO_TYPES):
            self._refused.add(name)
            self._problem = f"sound: wanted one of {', '.join(audio_messages.AUDIO_TYPES)} on {self.topic}, got {name}"
            self._warn("audio_type", self._problem)
        return ""
