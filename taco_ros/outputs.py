"""Publishers, one set per camera; every message carries its image's header."""

from __future__ import annotations

from rclpy.event_handler import PublisherEventCallbacks
from rclpy.qos import QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Float64

from taco_ros import conversions
from taco_ros.directions import DirectionInput
from taco_ros.live import Result
from taco_ros.msg import SoundingObjectArray, SoundingTrackArray
from taco_ros.runtime import LATCHED, InputGroup, output_qos
from taco_ros.targets import Targets, speaker_in


class Outputs:
    """``~/objects`` and its companions for one camera (``~/NAME/objects`` where there are several).

    Pictures are made only while somebody subscribes to them. Call ``publish`` from one thread.
    """

    def __init__(self, node, camera: str = ""):
        prefix = f"~/{camera}/" if camera else "~/"
        self._node = node
        self._publishers = []
        self.objects = self._create(SoundingObjectArray, prefix + "objects", 5)
        self.tracks = self._create(SoundingTrackArray, prefix + "tracks", 5)
        self.mask = self._create(Image, prefix + "mask", 2)
        self.mask_color = self._create(Image, prefix + "mask_color", 2)
        self.confidence = self._create(Image, prefix + "confidence", 2)
        self.overlay = self._create(Image, prefix + "overlay", 2)
        self.overlay_compressed = self._create(CompressedImage, prefix + "overlay/compressed", 2)
        self.sound_map = self._create(Image, prefix + "sound_map", 2)
        self._vision = _VisionPublishers(self, prefix) if _import_vision_msgs() else None
        self._people = _PeoplePublishers(self, prefix) if _import_hri_msgs() else None
        self._sound_map_shape = (1, 1)
        self._viewer = None
        if node.config.node.viewer:
            from taco.view.rerun_view import Viewer

            self._viewer = Viewer(camera or "camera", node.config.node.viewer)
        group = InputGroup()
        directions = DirectionInput(node, node.config.direction, group, node.warn)
        self.targets = Targets(
            node, self._create, prefix, camera, lambda: node.config.targets, group, node.warn, directions=directions
        )

    def _create(self, kind, topic: str, depth: int | QoSProfile):
        publisher = self._node.create_lifecycle_publisher(
            kind,
            topic,
            output_qos(depth) if isinstance(depth, int) else depth,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
            # every event handler makes waiting slower, and an incompatible subscriber logs it on its own side
            event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        )
        self._publishers.append(publisher)
        return publisher

    @property
    def listeners(self) -> int:
        """Subscriptions to any of the topics."""
        return sum(publisher.get_subscription_count() for publisher in self._publishers)

    def publish(self, result: Result) -> None:
        """Publish what was found in one image."""
        result = self.targets.directed(result, self._node.config)
        scene, header = result.scene, result.header
        places = self.targets.publish(result)
        self.objects.publish(conversions.scene_message(scene, header, places))
        if self.tracks.get_subscription_count():
            self.tracks.publish(conversions.tracks_message(result.tracks, header))
        if self.mask.get_subscription_count():
            self.mask.publish(conversions.mask_message(scene, header))
        if self.mask_color.get_subscription_count():
            self.mask_color.publish(conversions.mask_color_message(scene, header))
        if self.confidence.get_subscription_count():
            self.confidence.publish(conversions.map_message(scene.confidence, scene.size, header))
        if scene.sound_map is not None:
            self._sound_map_shape = scene.sound_map.shape
        if self.sound_map.get_subscription_count():
            self.sound_map.publish(conversions.map_message(scene.sound_map, self._sound_map_shape, header))
        if self._vision:
            self._vision.publish(scene, header)
        if self._people:
            self._people.publish(scene, header, self._node.config.targets)
        self._publish_overlay(result.rgb, scene, header)
        if self._viewer:
            self._viewer.log(result.rgb, scene)

    def _publish_overlay(self, rgb, scene, header) -> None:
        raw, small = (publisher.get_subscription_count() for publisher in (self.overlay, self.overlay_compressed))
        if not raw and not small:
            return
        from taco.view.draw import overlay

        picture = overlay(rgb, scene)
        if raw:
            self.overlay.publish(conversions.image_message(picture, "rgb8", header))
        if small:
            self.overlay_compressed.publish(conversions.compressed_message(picture, "jpeg", header))

    def destroy(self) -> None:
        """Remove the publishers."""
        self.targets.stop()
        if self._viewer:
            self._viewer.close()
        for publisher in self._publishers:
            self._node.destroy_lifecycle_publisher(publisher)
        self._publishers.clear()


class DebugTimes:
    """``~/debug/...``: how long each image took, and how old its answer is."""

    def __init__(self, node):
        names = ("processing_time_ms", "pipeline_latency_ms", "cyclic_time_ms")
        self._publishers = [node.create_publisher(Float64, f"~/debug/{name}", 10) for name in names]
        self._last_done: float | None = None

    def publish(self, started: float, done: float, age_s: float) -> None:
        """started, done: of the image's processing, s of ``time.perf_counter``. age_s: from its stamp to now."""
        cycle_s = done - self._last_done if self._last_done is not None else 0.0
        for publisher, seconds in zip(self._publishers, (done - started, age_s, cycle_s)):
            publisher.publish(Float64(data=1000.0 * seconds))
        self._last_done = done


def _import_vision_msgs():
    """The message module of vision_msgs, or None where that package is not installed."""
    try:
        import vision_msgs.msg as messages
    except ImportError:
        return None
    return messages if hasattr(messages, "LabelInfo") else None


class _VisionPublishers:
    """``~/detections`` and ``~/label_info`` (what the pixels of ``~/mask`` mean, latched, sent when it changes)."""

    def __init__(self, outputs: Outputs, prefix: str):
        self._messages = _import_vision_msgs()
        self._detections = outputs._create(self._messages.Detection2DArray, prefix + "detections", 5)
        self._label_info = outputs._create(self._messages.LabelInfo, prefix + "label_info", LATCHED)
        self._known: list[tuple[int, str]] | None = None

    def publish(self, scene, header) -> None:
        labels = sorted((conversions.pixel_of(found.id), found.label) for found in scene.objects)
        if labels != self._known:
            self._known = labels
            self._label_info.publish(label_info_message(self._messages, labels, header))
        if self._detections.get_subscription_count():
            self._detections.publish(detections_message(self._messages, scene, header))


def _import_hri_msgs():
    """The message module of hri_msgs (REP-155), or None where that package is not installed."""
    try:
        import hri_msgs.msg as messages
    except ImportError:
        return None
    return messages


class _PeoplePublishers:
    """``~/speakers`` (ids of the persons that are heard) and ``~/speaker_region`` (where the best one is in the image)."""

    def __init__(self, outputs: Outputs, prefix: str):
        self._messages = _import_hri_msgs()
        self._ids = outputs._create(self._messages.IdsList, prefix + "speakers", 1)
        self._region = outputs._create(self._messages.NormalizedRegionOfInterest2D, prefix + "speaker_region", 1)

    def publish(self, scene, header, config) -> None:
        heard = [item for item in scene.objects if item.label in config.speaker_words and item.score >= config.min_score]
        self._ids.publish(self._messages.IdsList(header=header, ids=[str(item.id) for item in heard]))
        speaker = speaker_in(scene, config)
        if speaker is not None:
            self._region.publish(region_message(self._messages, speaker, scene.size, header))


def region_message(messages, found, size: tuple[int, int], header):
    """hri_msgs/NormalizedRegionOfInterest2D of an object's box in an image of ``size`` (height, width); c is its score."""
    (x, y, width, height), (rows, columns) = found.box, size
    ends = {"xmin": x / columns, "ymin": y / rows, "xmax": (x + width) / columns, "ymax": (y + height) / rows}
    return messages.NormalizedRegionOfInterest2D(header=header, c=float(found.score), **ends)


def label_info_message(messages, labels: list[tuple[int, str]], header):
    """vision_msgs/LabelInfo of (pixel value, word) pairs."""
    classes = [messages.VisionClass(class_id=value, class_name=word) for value, word in labels]
    return messages.LabelInfo(header=header, class_map=classes, threshold=0.0)


def detections_message(messages, scene, header):
    """vision_msgs/Detection2DArray: tight boxes; id is the object's id, class_id its word."""
    array = messages.Detection2DArray(header=header)
    for found in scene.objects:
        x, y, width, height = found.box
        detection = messages.Detection2D(header=header, id=str(found.id))
        detection.bbox.center.position.x, detection.bbox.center.position.y = x + width / 2, y + height / 2
        detection.bbox.size_x, detection.bbox.size_y = float(width), float(height)
        for word, score in found.labels:
            guess = messages.ObjectHypothesisWithPose()
            guess.hypothesis.class_id, guess.hypothesis.score = word, float(score)
            detection.results.append(guess)
        array.detections.append(detection)
    return array
