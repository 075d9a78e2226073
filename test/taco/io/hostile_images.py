"""Image messages made to cost memory or time, and a child process that measures what one of them costs.

As a program: hostile_images.py NAME MAX_PIXELS decodes that message and prints a line of JSON.
"""

import json
import resource
import struct
import sys
import time
import zlib
from types import SimpleNamespace as Fields

import numpy as np

PNG = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width, height, depth=8, colour=2, interlaced=0, rows=None, extra=b"") -> bytes:
    """A black PNG picture; rows: those that its data hold."""
    row = 1 + (width * depth * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8
    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(bytes(row)) for _ in range(height if rows is None else rows)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return PNG + head + extra + chunk(b"IDAT", data) + chunk(b"IEND")


def jpeg(width=16, height=16, **options) -> bytes:
    """A JPEG picture of noise."""
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "jpeg", **options)
    return stream.getvalue()


def resized_jpeg(width: int, height: int, **options) -> bytes:
    """A small JPEG picture whose header says another size."""
    data = bytearray(jpeg(**options))
    at = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data)
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def flipped_length() -> bytes:
    """A small PNG picture, one bit of its data's length changed."""
    data = bytearray(png(32, 32))
    data[data.index(b"IDAT") - 4] ^= 0x40
    return bytes(data)


def many_scans() -> bytes:
    """A progressive JPEG picture with its last scan again and again."""
    data = resized_jpeg(4000, 4000, progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * 2000 + data[-2:]


def text_bomb() -> bytes:
    """A PNG picture with compressed texts of 60 MB."""
    return png(32, 32, extra=chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000))) * 60)


def raw(width, height, step, data, encoding="rgb8"):
    """A sensor_msgs/Image."""
    return Fields(height=height, width=width, encoding=encoding, step=step, is_bigendian=0, data=data)


def compressed(data: bytes, form="jpeg"):
    """A sensor_msgs/CompressedImage."""
    return Fields(format=form, data=data)


# Name -> (message, the counter that it must end in; "" where it is a picture).
ATTACKS = {
    "row of 4 GB": (lambda: raw(11, 1, 2**32 - 1, bytes(33)), "image_size"),
    "rows of 4 GB": (lambda: raw(11, 2, 2**32 - 1, bytes(66)), "image_size"),
    "many empty rows": (lambda: raw(0, 2**32 - 1, 1, b""), "image_size"),
    "rows of one byte": (lambda: raw(1, 2**32 - 1, 1, bytes(1000), "mono8"), "image_size"),
    "more pixels than allowed": (lambda: raw(3000, 2000, 3000, bytes(6_000_000), "mono8"), "image_size"),
    "PNG length": (lambda: compressed(flipped_length()), "image_data"),
    "PNG header of 2 GB": (lambda: compressed(png(32, 32).replace(b"\0\0\0\x0dIHDR", b"\x7f\xff\xff\xffIHDR")), "image_data"),
    "PNG of one bit": (lambda: compressed(png(30_000, 30_000, 1, 0)), "image_size"),
    "PNG without pixels": (lambda: compressed(png(1000, 2000, 16, 6, rows=0)), "image_data"),
    "PNG as large as allowed": (lambda: compressed(png(1000, 2000, 16, 6, 1, rows=2001)), ""),
    "PNG texts": (lambda: compressed(text_bomb()), ""),
    "PNG of two sizes": (lambda: compressed(png(30, 30, extra=chunk(b"IHDR", png(9000, 9000, rows=0)[16:29]))), "image_data"),
    "JPEG size": (lambda: compressed(resized_jpeg(65_500, 65_500)), "image_size"),
    "JPEG as large as allowed": (lambda: compressed(resized_jpeg(1000, 2000, progressive=True, subsampling=0)), ""),
    "JPEG scans": (lambda: compressed(many_scans()), "image_data"),
    "JPEG colours for print": (lambda: compressed(cmyk()), "image_encoding"),
    "GIF": (lambda: compressed(b"GIF89a" + bytes(100)), "image_data"),
    "BMP": (lambda: compressed(b"BM" + bytes(100)), "image_data"),
    "TIFF": (lambda: compressed(b"II*\0" + bytes(100)), "image_data"),
    "WebP": (lambda: compressed(b"RIFF" + bytes(4) + b"WEBPVP8 " + bytes(100)), "image_data"),
    "EXR": (lambda: compressed(b"v/1\x01" + bytes(100)), "image_data"),
    "long names": (lambda: raw(1, 1, 3, bytes(3), "x" * 3_000_000), "image_encoding"),
    "long format": (lambda: compressed(bytes(10), "x" * 3_000_000), "image_data"),
}


def cmyk() -> bytes:
    """A JPEG picture of four colours."""
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.new("CMYK", (16, 16)).save(stream, "jpeg")
    return stream.getvalue()


def main():
    name, max_pixels = sys.argv[1], int(sys.argv[2])
    from PIL import JpegImagePlugin, PngImagePlugin  # noqa: F401

    from taco.errors import MessageError
    from taco.io.pixels import rgb_of

    message = ATTACKS[name][0]()
    rgb_of(raw(2, 2, 6, bytes(12)), max_pixels)
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reason, line = "", ""
    try:
        rgb_of(message, max_pixels)
    except MessageError as error:
        reason, line = error.reason, str(error)
    used = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    told = {"reason": reason, "line": line, "used": used, "bytes": len(message.data), "s": time.perf_counter() - start}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
