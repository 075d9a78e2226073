"""Optional access to tf2."""

from __future__ import annotations

import numpy as np

from taco.errors import MessageError

WAIT_NS = 50_000_000  # ours: a transform is often published a little after the image that needs it


class Transforms:
    """Looks transforms up at a stamp. Raises MessageError ``tf_package`` when made without tf2_ros installed."""

    def __init__(self, node):
        try:
            import tf2_ros
        except ImportError:
            raise MessageError(
                "tf_package", "wanted tf2_ros for transforms, got none; apt install ros-$ROS_DISTRO-tf2-ros-py"
            ) from None
        self._tf2 = tf2_ros
        self._buffer = tf2_ros.Buffer()
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def lookup(self, target: str, source: str, stamp) -> tuple[np.ndarray, np.ndarray]:
        """Translation (3,) m and quaternion (x, y, z, w) that carry ``source`` into ``target`` at ``stamp``.

        MessageError ``tf_missing`` (no such frame or no connection) or ``tf_old`` (not known at that time).
        """
        from rclpy.duration import Duration
        from rclpy.time import Time

        try:
            found = self._buffer.lookup_transform(target, source, Time.from_msg(stamp), Duration(nanoseconds=WAIT_NS))
        except self._tf2.ExtrapolationException as error:
            raise MessageError("tf_old", f"wanted {source} in {target} at the image's stamp, got: {_line(error)}") from None
        except self._tf2.TransformException as error:
            raise MessageError("tf_missing", f"wanted {source} in {target}, got: {_line(error)}") from None
        t, r = found.transform.translation, found.transform.rotation
        return np.array([t.x, t.y, t.z]), np.array([r.x, r.y, r.z, r.w])


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
