"""From objects to targets: ``~/bearing``, ``~/target_pose``, ``~/speaker``, ``~/markers``.

A bearing is a direction and is sent as one; a pose is sent only where a range was measured. Both are sent only while
the object is heard and seen, under the image's own stamp: what was true once is never sent again.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, PointStamped, PoseStamped, Quaternion, Vector3, Vector3Stamped
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from taco import geometry, sound_direction
from taco.clock import NS
from taco.config import TacoConfig, TargetsConfig
from taco.errors import TacoError, shown
from taco.io.pixels import packed_rows
from taco.palette import colour_of
from taco.tracking import TargetSelector
from taco_ros.conversions import MessageError, stamp_to_ns
from taco_ros.directions import DirectionInput, in_camera
from taco_ros.inputs import Subscription
from taco_ros.live import Result
from taco_ros.transforms import Transforms

KEPT = 20  # ours: depth images and scans that wait for the image they belong to
NO_TURN = (0.0, 0.0, 0.0, 1.0)
UP = np.array([0.0, -1.0, 0.0])  # in an optical frame (REP-103)


class Targets:
    """Bearings, positions and markers of one camera. ``publish`` from one thread; inputs may come on another.

    node: for subscriptions. create(kind, topic, depth): makes a publisher. prefix: of the topics. camera: its name,
    "" for a single one; inputs are ``camera_info``, ``depth`` and ``scan`` (``NAME/camera_info``, ``NAME/depth``).
    config: gives the settings of this moment. warn(reason, line): called with what could not be used.
    transforms: for tests; otherwise tf2 is opened when it is first needed. directions: of the sound, where they are heeded.
    """

    def __init__(
        self,
        node,
        create,
        prefix: str,
        camera: str,
        config: Callable[[], TargetsConfig],
        group,
        warn,
        transforms=None,
        directions: DirectionInput | None = None,
    ):
        self._node, self._config, self._warn, self._transforms = node, config, warn, transforms
        self.selector = TargetSelector(config())
        self.bearing = create(Vector3Stamped, prefix + "bearing", 1)
        self.pose = create(PoseStamped, prefix + "target_pose", 1)
        self.speaker = create(Vector3Stamped, prefix + "speaker", 1)
        self.markers = create(MarkerArray, prefix + "markers", 1)
        self._own = own = f"{camera}/" if camera else ""
        inputs = ((CameraInfo, own + "camera_info", self._on_info), (Image, own + "depth", self._on_depth))
        inputs += ((LaserScan, "scan", self._on_scan),)
        self._inputs = [Subscription(node, kind, topic, 5, callback, group, warn) for kind, topic, callback in inputs]
        self._directions = directions
        self._inputs += [directions] if directions is not None else []
        self._depths: deque = deque(maxlen=KEPT)
        self._scans: deque = deque(maxlen=KEPT)
        self._info = None
        self._known: tuple[object, object] = (None, None)  # calibration arrays and the Camera made of them
        self._shown: set[tuple[str, int]] = set()
        self._uncalibrated_told = False

    def start(self) -> None:
        """Subscribe to calibration, depth, scan and the sound's direction."""
        for source in self._inputs:
            source.start()

    def stop(self) -> None:
        """Unsubscribe and forget measurements and target."""
        for source in self._inputs:
            source.stop()
        self._uncalibrated_told = False
        self.reset()

    def reset(self) -> None:
        """Forget measurements and target, for a new time line."""
        self._depths.clear()
        self._scans.clear()
        self.selector.reset()
        if self._directions is not None:
            self._directions.reset()

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_depth(self, message: Image) -> None:
        self._depths.append(message)

    def _on_scan(self, message: LaserScan) -> None:
        self._scans.append(message)

    @property
    def wanted(self) -> bool:
        """Whether somebody subscribes, or there may be a range for ``~/objects``."""
        publishers = (self.bearing, self.pose, self.speaker, self.markers)
        return any(publisher.get_subscription_count() for publisher in publishers) or bool(self._depths or self._scans)

    def directed(self, result: Result, config: TacoConfig) -> Result:
        """The result with the scores of what the sound comes from, and without the rest; as it is while no direction comes."""
        scene = result.scene
        if self._directions is None or not scene.objects:
            return result
        found = self._directions.within(scene.window_start_ns, scene.window_end_ns)
        camera = self._camera() if found else None
        if camera is None:
            return result
        least = config.concepts.min_score * config.concepts.hysteresis
        try:
            azimuths = in_camera(found, config.direction, result.header, self._lookup)
            scene = sound_direction.directed(scene, camera, azimuths, config.direction, least, config.targets.rectified)
        except TacoError as error:
            self._warn(getattr(error, "reason", "camera_info"), f"sound_direction: {error}")
            return result
        gone = {item.id for item in result.scene.objects} - {item.id for item in scene.objects}
        return dataclasses.replace(result, scene=scene, tracks=tuple(track for track in result.tracks if track.id not in gone))

    def publish(self, result) -> dict[int, PointStamped]:
        """Publish the targets of one processed image; the places that were measured, by object id, in the camera's frame."""
        config = self._config()
        self.selector.config = config
        scene, header = result.scene, result.header
        target = self.selector.update(scene)
        rays: dict[int, np.ndarray] = {}
        ranges: dict[int, geometry.Range] = {}
        if scene.objects and self.wanted:
            camera = self._camera()
            if camera is not None:
                self._locate(scene, header, camera, config, rays, ranges)
        if target is not None and target.id in rays:
            self._publish_target(rays[target.id], ranges.get(target.id), header, config)
        speaker = speaker_in(scene, config)
        if speaker is not None and speaker.id in rays and self.speaker.get_subscription_count():
            self._publish_speaker(rays[speaker.id], header, config)
        if self.markers.get_subscription_count():
            chosen = target.id if target is not None else 0
            self.markers.publish(self._marker_array(scene, header, rays, ranges, chosen, config))
        return {id: PointStamped(header=header, point=_point(found.point)) for id, found in ranges.items()}

    def _camera(self) -> geometry.Camera | None:
        info = self._info
        if info is None:
            if not self._uncalibrated_told:  # a camera without one may be meant so: say it once
                self._uncalibrated_told = True
                topic = f"{self._own}camera_info"
                line = f"wanted a CameraInfo, got none: no bearings, poses or markers; remap `{topic}` to the camera's"
                self._warn("no_camera_info", f"targets: {line}")
            return None
        arrays = (info.height, info.width, info.distortion_model, bytes(info.k), bytes(info.r), bytes(info.p), bytes(info.d))
        arrays += (info.binning_x, info.binning_y, info.roi.x_offset, info.roi.y_offset)
        if self._known[0] != arrays:
            try:
                self._known = (arrays, camera_of(info))
            except TacoError as error:
                self._known = (arrays, error)
        camera = self._known[1]
        if isinstance(camera, TacoError):
            self._warn("camera_info", str(camera))
            return None
        return camera

    def _locate(self, scene, header, camera, config, rays, ranges) -> None:
        """Fill in the direction of every object, and its place where a range is measured."""
        depth, beams = None, None
        try:
            depth = self._depth_at(header, config)
        except MessageError as error:
            self._warn(error.reason, str(error))
        try:
            beams = self._beams_at(header, config)
        except MessageError as error:
            self._warn(error.reason, str(error))
        for item in scene.objects:
            outlined = item.mask.any()
            try:
                rays[item.id] = geometry.centre_ray(camera, item.mask if outlined else _box_mask(item), config.rectified)
            except TacoError as error:
                self._warn("camera_info", str(error))
                continue
            if not outlined:  # the box of a map tells the direction; it holds too much else to measure a range in it
                continue
            try:
                if depth is not None:
                    ranges[item.id] = geometry.range_in_depth(
                        depth, item.mask, rays[item.id], config, camera.centre(config.rectified)
                    )
                    continue
            except TacoError as error:
                self._warn("depth", str(error))
            try:
                if beams is not None:
                    ranges[item.id] = geometry.range_in_scan(beams, camera, item.mask, config, config.rectified)
            except TacoError as error:
                self._warn("scan", str(error))

    def _depth_at(self, header, config) -> np.ndarray | None:
        message = _nearest(self._depths, header, config, "depth")
        return None if message is None else depth_metres(message)

    def _beams_at(self, header, config) -> np.ndarray | None:
        """Laser points (n, 3) in the camera's optical frame."""
        scan = _nearest(self._scans, header, config, "scan")
        if scan is None:
            return None
        points = geometry.scan_points(scan.ranges, scan.angle_min, scan.angle_increment, scan.range_min, scan.range_max)
        if scan.header.frame_id == header.frame_id:
            return points
        offset, turn = self._lookup(header.frame_id, scan.header.frame_id, scan.header.stamp)
        return geometry.rotate(points, turn) + offset

    def _lookup(self, target: str, source: str, stamp):
        if self._transforms is None:
            self._transforms = Transforms(self._node)
        return self._transforms.lookup(target, source, stamp)

    def _to_target_frame(self, header, config):
        """The header, translation and quaternion of ``target_frame`` for this image; None where they are not known."""
        if not config.target_frame or config.target_frame == header.frame_id:
            return header, np.zeros(3), NO_TURN
        try:
            offset, turn = self._lookup(config.target_frame, header.frame_id, header.stamp)
        except MessageError as error:
            self._warn(error.reason, f"targets: {error}")
            return None
        return Header(stamp=header.stamp, frame_id=config.target_frame), offset, turn

    def _publish_speaker(self, ray, header, config) -> None:
        frame = self._to_target_frame(header, config)
        if frame is not None:
            self.speaker.publish(Vector3Stamped(header=frame[0], vector=_vector(geometry.rotate(ray, frame[2]))))

    def _publish_target(self, ray, found, header, config) -> None:
        frame = self._to_target_frame(header, config)
        if frame is None:
            return
        header, offset, turn = frame
        up, ray = geometry.rotate(UP, turn), geometry.rotate(ray, turn)
        self.bearing.publish(Vector3Stamped(header=header, vector=_vector(ray)))
        if found is not None:
            point = geometry.rotate(np.array(found.point), turn) + offset
            pose = PoseStamped(header=header)
            pose.pose.position = _point(point)
            x, y, z, w = geometry.quaternion_facing(ray, up)
            pose.pose.orientation = Quaternion(x=x, y=y, z=z, w=w)
            self.pose.publish(pose)

    def _marker_array(self, scene, header, rays, ranges, chosen: int, config) -> MarkerArray:
        """An arrow and a text for every object with a direction, a sphere where its place is known; the others' end."""
        markers, shown = [], set()
        for item in scene.objects:
            if item.id not in rays:
                continue
            found = ranges.get(item.id)
            end = np.array(found.point) if found else rays[item.id] * config.marker_length_m
            colour = _colour(item.label, 1.0 if item.id == chosen else 0.5)
            arrow = _marker("bearing", item.id, Marker.ARROW, header, colour, config)
            arrow.points = [_point(np.zeros(3)), _point(end)]
            arrow.scale = Vector3(x=0.02, y=0.05, z=0.08)
            text = _marker("label", item.id, Marker.TEXT_VIEW_FACING, header, colour, config)
            text.text = f"{item.label} {item.score:.2f}" + (f"  {found.distance_m:.1f} m" if found else "")
            text.pose.position = _point(end + UP * 0.15)
            text.scale.z = 0.12
            markers += [arrow, text]
            if found:
                sphere = _marker("target", item.id, Marker.SPHERE, header, colour, config)
                sphere.pose.position = _point(end)
                sphere.scale = Vector3(x=0.15, y=0.15, z=0.15)
                markers.append(sphere)
        shown = {(marker.ns, marker.id) for marker in markers}
        gone = [Marker(header=header, ns=name, id=id, action=Marker.DELETE) for name, id in sorted(self._shown - shown)]
        self._shown = shown
        return MarkerArray(markers=gone + markers)


def speaker_in(scene, config: TargetsConfig):
    """The best-scoring person that is heard, at least ``min_score``; None where there is none."""
    heard = [item for item in scene.objects if item.label in config.speaker_words and item.score >= config.min_score]
    return max(heard, key=lambda item: item.score, default=None)


def _box_mask(item) -> np.ndarray:
    """(H, W) bool: the box of an object without an outline."""
    mask = np.zeros(item.mask.shape, bool)
    x, y, w, h = item.box
    mask[y : y + h, x : x + w] = True
    return mask


def camera_of(info: CameraInfo) -> geometry.Camera:
    """CameraInfo -> Camera; ValueRangeError where it is not calibrated or its lens model is unknown."""
    return geometry.Camera(
        (info.height, info.width),
        np.array(info.k),
        np.array(info.d),
        info.distortion_model,
        np.array(info.r),
        np.array(info.p),
        (info.binning_x, info.binning_y),
        (info.roi.x_offset, info.roi.y_offset),
    )


def depth_metres(message: Image) -> np.ndarray:
    """Depth image (REP-118: 32FC1 m or 16UC1 mm) -> (H, W) float32 m, 0 and NaN for none. MessageError ``depth_encoding``."""
    kinds = {"32FC1": ("f4", 1.0), "16UC1": ("u2", 0.001), "mono16": ("u2", 0.001)}
    if message.encoding not in kinds:
        raise MessageError("depth_encoding", f"depth: wanted 32FC1 (m) or 16UC1 (mm), got {shown(message.encoding)}")
    name, unit = kinds[message.encoding]
    kind = np.dtype((">" if message.is_bigendian else "<") + name)
    size, data = (message.height, message.width), np.frombuffer(message.data, np.uint8)
    pixels = packed_rows(data, size, kind.itemsize, message.step, "depth").view(kind)
    return pixels.astype(np.float32) * np.float32(unit)


def _nearest(waiting, header, config, what: str):
    """The message whose stamp is nearest to the image's; MessageError ``depth_stamp`` or ``scan_stamp`` where all are too far."""
    waiting = list(waiting)
    if not waiting:
        return None
    stamp_ns = stamp_to_ns(header.stamp)
    best = min(waiting, key=lambda message: abs(stamp_to_ns(message.header.stamp) - stamp_ns))
    away_s = (stamp_to_ns(best.header.stamp) - stamp_ns) / NS
    if abs(away_s) > config.range_tolerance_s:
        raise MessageError(
            f"{what}_stamp",
            f"{what}: wanted a stamp within {config.range_tolerance_s:g} s of the image's, got one {away_s:+.2f} s from it",
        )
    return best


def _marker(namespace: str, id: int, kind: int, header, colour: ColorRGBA, config) -> Marker:
    marker = Marker(header=header, ns=namespace, id=int(id) % 2**31, type=kind, action=Marker.ADD, color=colour)
    seconds = config.marker_lifetime_s
    marker.lifetime = Duration(sec=int(seconds), nanosec=round((seconds - int(seconds)) * NS))
    marker.pose.orientation.w = 1.0
    return marker


def _colour(word: str, alpha: float) -> ColorRGBA:
    red, green, blue = (part / 255 for part in colour_of(word))
    return ColorRGBA(r=red, g=green, b=blue, a=alpha)


def _vector(values) -> Vector3:
    x, y, z = map(float, values)
    return Vector3(x=x, y=y, z=z)


def _point(values) -> Point:
    x, y, z = map(float, values)
    return Point(x=x, y=y, z=z)
