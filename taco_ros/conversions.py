"""Messages to taco types and back: no node, no clock, no topic."""

from __future__ import annotations

import array
import dataclasses
from collections.abc import Iterable, Mapping

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image, RegionOfInterest

from taco.errors import MessageError
from taco.io.pixels import MAX_PIXELS, rgb_of
from taco.palette import palette
from taco.tracking import Track
from taco.types import SoundingObject, SoundingScene, VideoFrame
from taco_ros.msg import SoundingObject as SoundingObjectMsg
from taco_ros.msg import SoundingObjectArray, SoundingTrack, SoundingTrackArray
from taco_ros.ros_time import ns_to_stamp, stamp_to_ns

JPEG_QUALITY = 80  # as image_transport's; of 95, OpenCV's own, pictures are twice as large


def put_bytes(field: array.array, values: np.ndarray) -> None:
    """Append the bytes of an array to an array field of a message: one copy.

    To name the field in the message's constructor would make two more, to assign it one; both check every element where the
    values are no ``array.array``.
    """
    field.frombytes(memoryview(np.ascontiguousarray(values)).cast("B") if values.size else b"")


def image_to_frame(message, rotation: int = 0, mirror: bool = False, max_pixels: int = MAX_PIXELS) -> VideoFrame:
    """sensor_msgs/Image or CompressedImage -> VideoFrame, turned clockwise by ``rotation`` degrees, then mirrored.

    max_pixels: most pixels of an image. MessageError with reason ``image_stamp``, ``image_size``, ``image_encoding`` or
    ``image_data``.
    """
    stamp_ns = stamp_to_ns(message.header.stamp)
    if stamp_ns <= 0:
        raise MessageError("image_stamp", "image: wanted a stamp, got 0; the camera driver must stamp its images")
    return VideoFrame(orient(rgb_of(message, max_pixels), rotation, mirror), stamp_ns)


def orient(rgb: np.ndarray, rotation: int, mirror: bool) -> np.ndarray:
    """(H, W, ...) turned clockwise by 0, 90, 180 or 270 degrees, then mirrored left to right; a contiguous array."""
    if rotation:
        rgb = np.rot90(rgb, -(rotation // 90))
    if mirror:
        rgb = rgb[:, ::-1]
    return np.ascontiguousarray(rgb)


def restore(values: np.ndarray, rotation: int, mirror: bool) -> np.ndarray:
    """Undo ``orient``."""
    if mirror:
        values = values[:, ::-1]
    if rotation:
        values = np.rot90(values, rotation // 90)
    return np.ascontiguousarray(values)


def restore_scene(scene: SoundingScene, rotation: int, mirror: bool) -> SoundingScene:
    """A scene of an ``orient`` image in the pixels of the camera's own image, so that it fits its header and CameraInfo."""
    if not rotation and not mirror:
        return scene
    objects = tuple(
        dataclasses.replace(
            found, mask=restore(found.mask, rotation, mirror), box=_restored_box(found.box, scene.size, rotation, mirror)
        )
        for found in scene.objects
    )
    confidence = scene.confidence if scene.confidence is None else restore(scene.confidence, rotation, mirror)
    size = scene.size[::-1] if rotation in (90, 270) else scene.size
    return dataclasses.replace(scene, size=tuple(size), objects=objects, confidence=confidence)


def _restored_box(box, size: tuple[int, int], rotation: int, mirror: bool) -> tuple[int, int, int, int]:
    """Undo ``orient`` for a box (x, y, width, height) in an oriented image of ``size`` (height, width)."""
    (x, y, w, h), (high, wide) = box, size
    x = wide - x - w if mirror else x
    for _ in range(rotation // 90):  # a quarter turn back: what was on the right comes to the top
        x, y, w, h, high, wide = y, wide - x - w, h, w, wide, high
    return x, y, w, h


def image_message(pixels: np.ndarray, encoding: str, header) -> Image:
    """(H, W) or (H, W, C) pixels -> sensor_msgs/Image with rows packed and a copy of ``header``."""
    rows, columns = pixels.shape[:2]
    step = columns * pixels.itemsize * (pixels.shape[2] if pixels.ndim == 3 else 1)
    message = Image(header=header, height=rows, width=columns, encoding=encoding, is_bigendian=0, step=step)
    put_bytes(message.data, pixels)
    return message


def compressed_message(rgb: np.ndarray, kind: str, header) -> CompressedImage:
    """(H, W, 3) uint8, red first -> sensor_msgs/CompressedImage of ``kind`` jpeg or png, as image_transport names it."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY] if kind == "jpeg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    data = cv2.imencode(f".{kind}", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), quality)[1]
    message = CompressedImage(header=header, format=f"rgb8; {kind} compressed bgr8")
    put_bytes(message.data, data)
    return message


def pixel_of(id: int) -> int:
    """Value of an object's pixels in ``~/mask``: its id, and from 256 on 1 again; 0 is background."""
    return (int(id) - 1) % 255 + 1


def mask_message(scene: SoundingScene, header) -> Image:
    """mono8: 0 background, elsewhere the id of the object (``pixel_of``)."""
    values = np.zeros(256, np.uint8)
    for index, found in enumerate(scene.objects[:255]):
        values[index + 1] = pixel_of(found.id)
    return image_message(cv2.LUT(scene.instance_mask(), values), "mono8", header)


def mask_color_message(scene: SoundingScene, header) -> Image:
    """rgb8: every object in the colour of its word (``taco.palette``), black elsewhere."""
    colours = np.array(palette([found.label for found in scene.objects]), np.uint8).reshape(256, 1, 3)
    return image_message(cv2.applyColorMap(scene.instance_mask(), colours), "rgb8", header)


def map_message(values: np.ndarray | None, shape: tuple[int, int], header) -> Image:
    """32FC1 image of a map in [0, 1]; all zero, of the given (rows, columns), where there is none."""
    values = np.zeros(shape, np.float32) if values is None else values.astype(np.float32, copy=False)
    return image_message(values, "32FC1", header)


def object_message(found: SoundingObject, header, place=None) -> SoundingObjectMsg:
    """One object; its mask is cut to the box. place: geometry_msgs/PointStamped where a range was measured."""
    x, y, width, height = found.box
    crop = found.mask[y : y + height, x : x + width].astype(np.uint8) * np.uint8(255)
    (label, label_score), *others = found.labels
    return SoundingObjectMsg(
        id=int(found.id),
        label=label,
        label_score=float(label_score),
        other_labels=[word for word, _ in others],
        other_label_scores=array.array("f", [score for _, score in others]),
        score=float(found.score),
        bounding_box=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height),
        mask=image_message(crop, "mono8", header),
        place=[] if place is None else [place],
    )


def scene_message(scene: SoundingScene, header, places: Mapping[int, object] | None = None) -> SoundingObjectArray:
    """The scene under the image's own header. places: geometry_msgs/PointStamped by object id."""
    places = places or {}
    return SoundingObjectArray(
        header=header,
        audio_window_start=ns_to_stamp(scene.window_start_ns),
        audio_window_end=ns_to_stamp(scene.window_end_ns),
        level=float(scene.level_dbfs),
        sounding_score=float(scene.sounding_score),
        verdict=scene.verdict,
        heard=[word for word, _ in scene.heard],
        heard_scores=array.array("f", [score for _, score in scene.heard]),
        objects=[object_message(found, header, places.get(found.id)) for found in scene.objects],
    )


def tracks_message(tracks: Iterable[Track], header) -> SoundingTrackArray:
    """The tracks after an image, under its header."""
    messages = [
        SoundingTrack(id=track.id, label=track.label, state=track.state, age=track.age_s, silent_for=track.silent_s)
        for track in tracks
    ]
    return SoundingTrackArray(header=header, tracks=messages)


def scene_from_message(message: SoundingObjectArray, size: tuple[int, int]) -> SoundingScene:
    """A scene from its message, for viewers and tests: masks at image ``size`` (height, width).

    MessageError with reason ``objects`` where ``heard`` and its scores do not fit together; ValueRangeError and ShapeError as
    SoundingScene and SoundingObject raise them.
    """
    if len(message.heard) != len(message.heard_scores):
        got = f"{len(message.heard)} and {len(message.heard_scores)}"
        raise MessageError("objects", f"objects: wanted as many heard_scores as heard, got {got}")
    objects = []
    for found in message.objects:
        box, crop = found.bounding_box, found.mask
        mask = np.zeros(size, bool)
        pixels = np.frombuffer(crop.data, np.uint8).reshape(crop.height, crop.step)[:, : crop.width]
        mask[box.y_offset : box.y_offset + box.height, box.x_offset : box.x_offset + box.width] = pixels > 0
        words = [(found.label, found.label_score), *zip(found.other_labels, found.other_label_scores)]
        corner = (box.x_offset, box.y_offset, box.width, box.height)
        objects.append(SoundingObject(found.id, tuple((word, float(score)) for word, score in words), found.score, mask, corner))
    return SoundingScene(
        stamp_to_ns(message.header.stamp),
        tuple(size),
        stamp_to_ns(message.audio_window_start),
        stamp_to_ns(message.audio_window_end),
        message.level,
        message.sounding_score,
        message.verdict,
        tuple(objects),
        heard=tuple(zip(message.heard, map(float, message.heard_scores))),
    )
