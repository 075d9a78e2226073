"""Pixels of camera messages, whatever their encoding, as (H, W, 3) uint8 with red first.

Encodings are ROS's (sensor_msgs/image_encodings.hpp); OpenCV does the colours, Pillow decodes JPEG and PNG: unlike OpenCV it
prints nothing on damaged data. A message is not trusted: whatever it says, memory stays within four times its own bytes and the
pixels allowed.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from taco.config_node import NodeConfig
from taco.errors import MessageError, shown

MAX_PIXELS = NodeConfig().max_pixels
MAX_ROW_PADDING = 4096  # ours: bytes, a page; what the only row of an image may lack of its padding
MAX_SCANS = 100  # ours: progressive JPEG has about 10; each scan costs a pass over all pixels, however short it is
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # the first bytes of such files
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # those that make the picture; texts and profiles are left out

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


def rgb_of(message: Any, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A message with the fields of sensor_msgs/Image or CompressedImage -> (H, W, 3) uint8.

    max_pixels: most pixels of an image. MessageError with reason ``image_encoding``, ``image_size`` or ``image_data``.
    """
    data = np.frombuffer(message.data, np.uint8)
    if hasattr(message, "format"):
        return decompress(data, message.format, max_pixels)
    size = (message.height, message.width)
    _check_pixels(size, max_pixels)
    return unpack(data, size, message.encoding, step=message.step, big_endian=bool(message.is_bigendian))


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    if size[0] * size[1] > max_pixels:
        wanted = f"at most {max_pixels} pixels (node.max_pixels)"
        raise MessageError("image_size", f"image: wanted {wanted}, got {size[1]} x {size[0]} px; lower it in its driver")


def unpack(data: np.ndarray, size: tuple[int, int], encoding: str, *, step: int = 0, big_endian: bool = False) -> np.ndarray:
    """Raw pixels -> (H, W, 3) uint8, contiguous; a view of ``data`` where nothing has to be converted.

    data: (bytes,) uint8. size: (height, width) px. step: bytes from row to row, 0 without padding; the last row may come
    without it. 16-bit values are scaled from the full range. MessageError with reason ``image_encoding`` or ``image_size``.
    """
    if encoding not in ENCODINGS:
        known = ", ".join(sorted(ENCODINGS))
        raise MessageError(
            "image_encoding", f"image: wanted one of {known}, got encoding {shown(encoding)}; set another in its driver"
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
    pitch, ahead = step or width, (rows - 1) * (step or width)  # ahead: bytes before the last row
    if pitch < width or len(data) < ahead + width or pitch > len(data) + MAX_ROW_PADDING:
        wanted = f"{rows} rows of at least {width} bytes"
        got = f"step {step} and {len(data)} bytes; does its driver say another width or encoding?"
        raise MessageError(f"{what}_size", f"{what}: wanted {wanted}, got {got}")
    if len(data) >= rows * pitch:
        return np.ascontiguousarray(data[: rows * pitch].reshape(rows, pitch)[:, :width])
    packed = np.empty((rows, width), np.uint8)
    packed[:-1], packed[-1] = data[:ahead].reshape(rows - 1, pitch)[:, :width], data[ahead : ahead + width]
    return packed


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


def decompress(data: np.ndarray, format: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """JPEG or PNG, told by its first bytes, as (bytes,) uint8 -> (H, W, 3) uint8; of 16 bits the upper 8.

    format: as in sensor_msgs/CompressedImage, for messages only. max_pixels: by the file's header, read before anything is
    decoded. MessageError with reason ``image_encoding``, ``image_size`` or ``image_data``.
    """
    if "compressedDepth" in format:
        raise MessageError("image_encoding", f"image: wanted jpeg or png colour, got {shown(format)}; choose the colour topic")
    file = data.tobytes()
    if not file.startswith((JPEG, PNG)):
        got = f"{len(file)} bytes of {shown(format)}"
        raise MessageError("image_data", f"image: wanted jpeg or png data, got {got}; see its driver")
    try:
        return _decoded(file, max_pixels)
    except MessageError:
        raise
    except Exception as error:  # of the many ways to be damaged; Pillow raises what its parsers raise
        got = f"{len(file)} bytes of {shown(format)} ({type(error).__name__}: {shown(str(error))})"
        raise MessageError("image_data", f"image: wanted whole jpeg or png data, got {got}; see its driver") from None


def _decoded(file: bytes, max_pixels: int) -> np.ndarray:
    from PIL import JpegImagePlugin, PngImagePlugin

    if file.startswith(PNG):
        image: Any = PngImagePlugin.PngImageFile(io.BytesIO(b"".join([PNG, *_png_chunks(file)])))
    else:
        if file.count(b"\xff\xda") > MAX_SCANS:
            raise MessageError("image_data", f"image: wanted at most {MAX_SCANS} scans in a jpeg, got more; see its driver")
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(file))
        if image.mode not in ("L", "RGB"):
            raise MessageError("image_encoding", f"image: wanted grey or colour jpeg, got {image.mode}; see its driver")
    _check_pixels(image.size[::-1], max_pixels)
    # The orientation tag of a file is not a property of a camera: node.rotation is the setting for that.
    if image.mode.startswith("I"):
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _png_chunks(file: bytes) -> Iterator[memoryview]:
    """The chunks of a PNG file that make its picture; ValueError where one is longer than the file, or misplaced."""
    at, kind = len(PNG), b""
    while kind != b"IEND":
        first = not kind
        length, kind = struct.unpack_from(">I4s", file, at)
        end = at + 12 + length  # length, name, content, check sum
        if end > len(file) or first != (kind == b"IHDR"):
            raise ValueError(f"chunk of {length} bytes at {at} does not fit")
        if kind in PNG_CHUNKS:
            yield memoryview(file)[at:end]
        at = end
