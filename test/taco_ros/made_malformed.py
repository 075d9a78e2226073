"""Malformed messages for fuzzing: what fields, bytes and stamps a broken or hostile driver may send."""

import array
import io
import random

import numpy as np
from builtin_interfaces.msg import Time
from PIL import Image as Picture
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from taco.clock import NS
from taco.io.pixels import ENCODINGS
from taco_ros.msg import AudioChunk
from taco_ros.ros_time import ns_to_stamp

SIZES = (0, 1, 2, 3, 7, 16, 33, 255, 4096, 65_535, 2**31, 2**32 - 1)


def _pictures() -> tuple[bytes, ...]:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    out = []
    for kind, options in (("png", {}), ("jpeg", {}), ("jpeg", {"progressive": True})):
        stream = io.BytesIO()
        Picture.fromarray(pixels).save(stream, kind, **options)
        out.append(stream.getvalue())
    return tuple(out)


PICTURES = _pictures()


def header(rng: random.Random, now_ns: int) -> Header:
    """A stamp around now, of another age, or 0."""
    off_ns = rng.choice((0, 0, 0, -NS // 50, NS // 50, -NS // 2, NS // 2, -5 * NS, 5 * NS, -3600 * NS, 3600 * NS))
    stamp = rng.choice((ns_to_stamp(now_ns + off_ns), ns_to_stamp(now_ns + off_ns), Time(), Time(sec=-5), Time(sec=2**31 - 1)))
    return Header(stamp=stamp, frame_id=rng.choice(("", "camera", "x" * 3000)))


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Some bits changed, cut short, or lengthened."""
    out = bytearray(data)
    for _ in range(rng.choice((0, 1, 3, 20))):
        if out:
            out[rng.randrange(min(len(out), rng.choice((60, len(out)))))] ^= 1 << rng.randrange(8)
    return bytes(out[: rng.randrange(len(out) + 1)]) if rng.random() < 0.3 else bytes(out) + rng.randbytes(rng.choice((0, 0, 9)))


def image(rng: random.Random, now_ns: int) -> Image:
    """Sizes, step and bytes that do, or do not, go together."""
    small = rng.random() < 0.6
    height, width = (rng.randrange(1, 20), rng.randrange(1, 20)) if small else (rng.choice(SIZES), rng.choice(SIZES))
    encoding = rng.choice((*ENCODINGS, "32FC1", "", "x" * 5000))
    _, channels, _ = ENCODINGS.get(encoding, (1, 1, ""))
    step = rng.choice((0, width * channels, 2 * width * channels, rng.choice(SIZES))) % 2**32
    wanted = min(20_000, height * (step or width * channels))
    count = rng.choice((wanted, wanted, max(0, wanted - 1), rng.randrange(20_000)))
    return Image(
        header=header(rng, now_ns),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=rng.choice((0, 1, 255)),
        step=step,
        data=array.array("B", rng.randbytes(count)),
    )


def compressed(rng: random.Random, now_ns: int) -> CompressedImage:
    """Damaged pictures, and bytes that are none."""
    data = damaged(rng, rng.choice(PICTURES)) if rng.random() < 0.9 else rng.randbytes(rng.randrange(200))
    form = rng.choice(("jpeg", "rgb8; png compressed", "16UC1; compressedDepth png", "", "x" * 5000))
    return CompressedImage(header=header(rng, now_ns), format=form, data=array.array("B", data))


def sound(rng: random.Random, now_ns: int) -> AudioChunk:
    """Rates, channels and samples, finite or not."""
    kind = rng.choice(("good", "loud", "bits", "nan"))
    count = rng.choice((0, 1, 2, 161, 320, 3000))
    value = {"loud": 3.0, "nan": np.nan}.get(kind, 0.0)
    samples = rng.randbytes(4 * count) if kind == "bits" else np.full(count, value, np.float32).tobytes()
    return AudioChunk(
        header=header(rng, now_ns),
        sample_rate=rng.choice((0, 999, 1000, 8000, 16000, 16000, 768_000, 2**32 - 1)),
        channels=rng.choice((0, 1, 1, 2, 3, 64, 65, 255)),
        samples=array.array("f", samples),
    )
