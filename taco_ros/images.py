"""Pixels of camera messages, whatever their encoding, as (H, W, 3) uint8 with red first."""

from __future__ import annotations

import functools
import re

import numpy as np

from taco_ros.stamps import MessageError

# Bytes of a pixel in a row, for the encodings that a colour camera sends.
PIXEL_BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "8UC3": 3, "mono16": 2, "16UC1": 2}
PIXEL_BYTES |= {"rgb16": 6, "bgr16": 6, "rgba16": 8, "bgra16": 8}
PIXEL_BYTES |= dict.fromkeys(("uyvy", "yuv422", "yuyv", "yuv422_yuy2"), 2)
PIXEL_BYTES |= {f"bayer_{order}8": 1 for order in ("rggb", "bggr", "gbrg", "grbg")}
PIXEL_BYTES |= {f"bayer_{order}16": 2 for order in ("rggb", "bggr", "gbrg", "grbg")}
SAME_AS = {"8UC1": "mono8", "8UC3": "bgr8", "16UC1": "mono16", "uyvy": "yuv422", "yuyv": "yuv422_yuy2"}


def to_rgb(message) -> np.ndarray:
    """sensor_msgs/Image or CompressedImage -> (H, W, 3) uint8; MessageError tells what was wrong."""
    return _decompress(message) if hasattr(message, "format") else _unpack(message)


def _decompress(message) -> np.ndarray:
    import cv2

    if "compressedDepth" in message.format:
        raise MessageError("image_encoding", f"image: wanted jpeg or png colour, got {message.format!r}; choose the colour topic")
    # The orientation tag of a file is not a property of a camera: node.rotation is the setting for that.
    how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    data = np.frombuffer(message.data, np.uint8)
    pixels = cv2.imdecode(data, how) if len(data) else None
    if pixels is None:
        raise MessageError("image_data", f"image: wanted jpeg or png data, got {len(data)} bytes of {message.format!r}")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _unpack(message) -> np.ndarray:
    rows, columns, encoding = message.height, message.width, message.encoding
    size = PIXEL_BYTES.get(encoding)
    if size is None:
        known = ", ".join(sorted(PIXEL_BYTES))
        raise MessageError("image_encoding", f"image: wanted one of {known}, got encoding {encoding!r}")
    if not rows or not columns:
        raise MessageError("image_size", f"image: wanted at least one pixel, got {columns} x {rows}")
    step = message.step or columns * size
    data = np.frombuffer(message.data, np.uint8)
    if step < columns * size or len(data) < rows * step - (step - columns * size):
        wanted = f"{rows} rows of at least {columns * size} bytes"
        raise MessageError("image_size", f"image: wanted {wanted}, got step {message.step} and {len(data)} bytes")
    if len(data) < rows * step:  # the last row may come without its padding
        data = np.concatenate([data, np.zeros(rows * step - len(data), np.uint8)])
    row_bytes = data[: rows * step].reshape(rows, step)[:, : columns * size]
    if encoding in ("rgb8", "bgr8", "8UC3"):
        pixels = row_bytes.reshape(rows, columns, 3)
        return np.ascontiguousarray(pixels if encoding == "rgb8" else pixels[..., ::-1])
    return _converter()(np.ascontiguousarray(row_bytes), message)


@functools.cache
def _converter():
    """(row bytes, message) -> rgb, by cv_bridge where it imports, else by rosbags-image."""
    return _by_cv_bridge() or _by_rosbags()


def _by_cv_bridge():
    try:
        from cv_bridge import CvBridge
    except Exception:  # also where it was built against another numpy
        return None
    bridge = CvBridge()

    def convert(row_bytes: np.ndarray, message) -> np.ndarray:
        return np.ascontiguousarray(bridge.imgmsg_to_cv2(_packed_copy(row_bytes, message), "rgb8"))

    return convert


def _by_rosbags():
    try:
        from rosbags.image import message_to_cvimage
    except ImportError:

        def refuse(row_bytes, message):
            raise MessageError(
                "image_encoding",
                f"image: wanted cv_bridge or rosbags-image for {message.encoding}, got none; "
                "apt-get install ros-$ROS_DISTRO-cv-bridge or pip install rosbags-image",
            )

        return refuse

    def convert(row_bytes: np.ndarray, message) -> np.ndarray:
        pixels = message_to_cvimage(_packed_copy(row_bytes, message), "rgb8")
        return np.ascontiguousarray(pixels)

    return convert


def _packed_copy(row_bytes: np.ndarray, message):
    """The same image without row padding: rosbags-image and older cv_bridge ignore ``step``."""
    from sensor_msgs.msg import Image

    encoding = SAME_AS.get(message.encoding, message.encoding)
    copy = Image(height=message.height, width=message.width, encoding=encoding, step=row_bytes.shape[1])
    copy.is_bigendian = int(bool(message.is_bigendian)) if re.search("16$", encoding) else 0
    copy.data.frombytes(memoryview(row_bytes).cast("B"))
    return copy
