"""Pixels of camera messages, whatever their encoding, as (H, W, 3) uint8 with red first.

Encodings are ROS's (sensor_msgs/image_encodings.hpp); OpenCV does the colours.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from taco.errors import MessageError

# Encoding -> bytes of a channel, channels, OpenCV's name of the conversion to RGB ("" where it is RGB already).
ENCODINGS = {
    "rgb8": (1, 3, ""),
    "bgr8": (1, 3, "BGR2RGB"),
    "rgba8": (1, 4, "RGBA2RGB"),
    "bgra8": (1, 4, "BGRA2RGB"),
    "mono8": (1, 1, "GRAY2RGB"),
    "rgb16": (2, 3, ""),
    "bgr16": (2, 3, "BGR2RGB"),
    "rgba16": (2, 4, "RGBA2RGB"),
    "bgra16": (2, 4, "BGRA2RGB"),
    "mono16": (2, 1, "GRAY2RGB"),
    "yuv422": (1, 2, "YUV2RGB_UYVY"),
    "yuv422_yuy2": (1, 2, "YUV2RGB_YUY2"),
}
# OpenCV names a Bayer pattern by its second row's second and third pixel, ROS by the corner.
for _order, _name in (("rggb", "BG"), ("bggr", "RG"), ("gbrg", "GR"), ("grbg", "GB")):
    ENCODINGS |= {f"bayer_{_order}{8 * size}": (size, 1, f"Bayer{_name}2RGB") for size in (1, 2)}
for _name, _same in (("8UC1", "mono8"), ("8UC3", "bgr8"), ("16UC1", "mono16"), ("uyvy", "yuv422"), ("yuyv", "yuv422_yuy2")):
    ENCODINGS[_name] = ENCODINGS[_same]


def rgb_of(message: Any) -> np.ndarray:
    """A message with the fields of sensor_msgs/Image or CompressedImage -> (H, W, 3) uint8.

    MessageError with reason ``image_encoding``, ``image_size`` or ``image_data``.
    """
    data = np.frombuffer(message.data, np.uint8)
    if hasattr(message, "format"):
        return decompress(data, message.format)
    size = (message.height, message.width)
    return unpack(data, size, message.encoding, step=message.step, big_endian=bool(message.is_bigendian))


def unpack(data: np.ndarray, size: tuple[int, int], encoding: str, *, step: int = 0, big_endian: bool = False) -> np.ndarray:
    """Raw pixels -> (H, W, 3) uint8, contiguous; a view of ``data`` where nothing has to be converted.

    data: (bytes,) uint8. size: (height, width) px. step: bytes from row to row, 0 without padding; the last row may come
    without it. 16-bit values are scaled from the full range. MessageError with reason ``image_encoding`` or ``image_size``.
    """
    if encoding not in ENCODINGS:
        known = ", ".join(sorted(ENCODINGS))
        raise MessageError(
            "image_encoding", f"image: wanted one of {known}, got encoding {encoding!r}; set another in its driver"
        )
    depth, channels, conversion = ENCODINGS[encoding]
    packed = packed_rows(data, size, channels * depth, step)
    values = packed if depth == 1 else packed.view(">u2" if big_endian else "<u2").astype(np.uint16)
    return _to_rgb(values.reshape((*size, channels) if channels > 1 else size), conversion, encoding)


def packed_rows(data: np.ndarray, size: tuple[int, int], pixel_bytes: int, step: int, what: str = "image") -> np.ndarray:
    """(bytes,) uint8 -> (height, width * pixel_bytes) without the padding of rows; arguments as of ``unpack``.

    MessageError with reason ``<what>_size`` where they do not fit together.
    """
    rows, width = size[0], size[1] * pixel_bytes
    if not rows or not width:
        raise MessageError(f"{what}_size", f"{what}: wanted at least one pixel, got {size[1]} x {rows}; see its driver")
    pitch = step or width
    if pitch < width or len(data) < (rows - 1) * pitch + width:
        wanted = f"{rows} rows of at least {width} bytes"
        got = f"step {step} and {len(data)} bytes; does its driver say another width or encoding?"
        raise MessageError(f"{what}_size", f"{what}: wanted {wanted}, got {got}")
    if len(data) < rows * pitch:
        data = np.pad(data, (0, rows * pitch - len(data)))
    return np.ascontiguousarray(data[: rows * pitch].reshape(rows, pitch)[:, :width])


def _to_rgb(values: np.ndarray, conversion: str, encoding: str) -> np.ndarray:
    if not conversion and values.dtype == np.uint8:
        return values
    import cv2

    try:
        rgb = cv2.cvtColor(values, getattr(cv2, f"COLOR_{conversion}")) if conversion else values
    except cv2.error:
        got = f"{values.shape[1]} x {values.shape[0]} px"
        raise MessageError("image_size", f"image: wanted a size that {encoding} can have, got {got}; is it even?") from None
    return rgb if rgb.dtype == np.uint8 else cv2.convertScaleAbs(rgb, alpha=255 / 65535)


def decompress(data: np.ndarray, format: str) -> np.ndarray:
    """JPEG, PNG or another format that OpenCV reads, as (bytes,) uint8 -> (H, W, 3) uint8.

    format: as in sensor_msgs/CompressedImage, for messages only. MessageError with reason ``image_encoding`` or ``image_data``.
    """
    import cv2

    if "compressedDepth" in format:
        raise MessageError("image_encoding", f"image: wanted jpeg or png colour, got {format!r}; choose the colour topic")
    # The orientation tag of a file is not a property of a camera: node.rotation is the setting for that.
    pixels = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION) if len(data) else None
    if pixels is None:
        got = f"{len(data)} bytes of {format!r}"
        raise MessageError("image_data", f"image: wanted jpeg or png data, got {got}; see its driver")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
