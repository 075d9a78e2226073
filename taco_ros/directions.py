"""The sound's direction from a microphone array, as Vector3Stamped or ODAS's tracked sources: the topic ``sound_direction``."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from geometry_msgs.msg import Vector3Stamped

from taco import geometry, sound_direction
from taco.errors import MessageError
from taco_ros.conversions import stamp_to_ns
from taco_ros.inputs import Subscription

KEPT = 500  # ours: messages, 4 s at the 125 Hz of ODAS; a window of sound is shorter


@dataclass(frozen=True, slots=True)
class Directions:
    """Directions of one moment.

    stamp_ns, frame_id: of the message. vectors: (n, 3) in that frame. weights: (n,) in [0, 1].
    """

    stamp_ns: int
    frame_id: str
    vectors: np.ndarray
    weights: np.ndarray


class DirectionInput(Subscription):
    """Keeps the newest directions. warn(reason, line) is called with what could not be used; MessageError without the package."""

    def __init__(self, node, config, group, warn):
        kind = Vector3Stamped if config.type == "vector" else _odas_message()
        super().__init__(node, kind, "sound_direction", 50, self._on_message, group, warn)
        self._read = directions_of_vector if config.type == "vector" else directions_of_sources
        self._kept: deque[Directions] = deque(maxlen=KEPT)

    def reset(self) -> None:
        """Forget what came, for a new time line."""
        self._kept.clear()

    def _on_message(self, message) -> None:
        try:
            found = self._read(message)
        except MessageError as error:
            self._warn(error.reason, str(error))
            return
        if len(found.weights):
            self._kept.append(found)

    def within(self, start_ns: int, end_ns: int) -> list[Directions]:
        """What was heard between two moments."""
        return [item for item in list(self._kept) if start_ns <= item.stamp_ns <= end_ns]


def in_camera(found: list[Directions], config, header, lookup) -> tuple[np.ndarray, np.ndarray]:
    """Azimuths (n,) and weights (n,) of directions for a camera, as ``taco.sound_direction`` takes them.

    header: of the camera's image. lookup(target, source, stamp): the transform (translation, quaternion); it is asked once for
    every frame, and only with ``mount`` tf.
    """
    turns: dict[str, object] = {header.frame_id: None}
    vectors = []
    for item in found:
        if config.mount == "fixed":
            vectors.append(sound_direction.from_fixed_mount(item.vectors, config.yaw_deg))
            continue
        if item.frame_id not in turns:
            turns[item.frame_id] = lookup(header.frame_id, item.frame_id, header.stamp)[1]
        turn = turns[item.frame_id]
        vectors.append(item.vectors if turn is None else geometry.rotate(item.vectors, turn))
    return sound_direction.azimuths(np.concatenate(vectors), np.concatenate([item.weights for item in found]))


def directions_of_vector(message: Vector3Stamped) -> Directions:
    """A vector towards the sound; a length below 1 is its weight. MessageError ``direction`` or ``direction_stamp``."""
    vector = np.array([[message.vector.x, message.vector.y, message.vector.z]])
    length = math.hypot(*vector[0])
    if not np.isfinite(length) or length == 0.0:
        raise MessageError("direction", f"sound_direction: wanted a vector towards the sound, got {vector[0].tolist()}")
    return Directions(_stamp_ns(message), message.header.frame_id, vector, np.array([min(1.0, length)]))


def directions_of_sources(message) -> Directions:
    """odas_ros_msgs/OdasSstArrayStamped; a source's activity is its weight, and empty places are skipped."""
    vectors = np.array([[one.x, one.y, one.z] for one in message.sources], float).reshape(-1, 3)
    weights = np.clip([one.activity for one in message.sources], 0.0, 1.0)
    heard = np.isfinite(vectors).all(1) & vectors.any(1) & (weights > 0)
    return Directions(_stamp_ns(message), message.header.frame_id, vectors[heard], weights[heard])


def _stamp_ns(message) -> int:
    stamp_ns = stamp_to_ns(message.header.stamp)
    if stamp_ns <= 0:
        raise MessageError(
            "direction_stamp", "sound_direction: wanted a stamp, got 0; the array's driver must stamp its messages"
        )
    return stamp_ns


def _odas_message():
    try:
        from odas_ros_msgs.msg import OdasSstArrayStamped
    except ImportError:
        raise MessageError("direction_type", "direction.type odas: wanted the package odas_ros_msgs, got none") from None
    return OdasSstArrayStamped
