"""The moving picture of the README: two photographs that may be shared, each outlined while it is heard.

The cat is Chelsea (Stefan van der Walt, CC0), the astronaut Eileen Collins (NASA, public domain), both from scikit-image. The
sounds are only heard by the models, and are no part of the picture.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from taco.audio import AudioBuffer
from taco.clock import NS
from taco.config import AudioConfig
from taco.demo.show import RATE, voice
from taco.errors import MediaError
from taco.evaluation.composed.sources import SceneSources
from taco.io.files import atomic
from taco.package_files import fetch_debian
from taco.pipeline import TacoPipeline
from taco.types import AudioChunk, AudioWindow, VideoFrame
from taco.view.draw import overlay

PHOTOGRAPHS = "usr/lib/python3/dist-packages/skimage/data"  # in Debian's python3-skimage
HEIGHT, WIDTH, FPS = 360, 640, 10
PAN = (110, 250)  # px, first and last left edge of what the camera sees
SOUNDS = (
    ("scratch:Sounds/Animal/Meow.wav", 3.0),
    ("pocketsphinx:cards/001.wav", 3.0),
    ("", 2.0),
)  # and their seconds; "": silence
QUALITY = 70  # of the WebP file, which has to be small


def photographs() -> np.ndarray:
    """(HEIGHT, W, 3) uint8: both, side by side."""
    folder = fetch_debian("python3-skimage") / PHOTOGRAPHS
    parts = []
    for name, rows in (("chelsea.png", 300), ("astronaut.png", 400)):
        picture = cv2.imread(str(folder / name))
        if picture is None:
            raise MediaError(f"demo: wanted the photograph {name} in python3-skimage, found none in {folder}")
        picture = picture[:rows, :, ::-1]
        size = (round(picture.shape[1] * HEIGHT / picture.shape[0]), HEIGHT)
        parts.append(cv2.resize(picture, size, interpolation=cv2.INTER_AREA))
    return np.concatenate(parts, 1)


def stream() -> Iterator[tuple[VideoFrame, AudioWindow]]:
    """The images of the picture in order, each with its second of sound."""
    wide, sources = photographs(), SceneSources()
    sound = np.concatenate(
        [voice(sources, name, round(s * RATE)) if name else np.zeros(round(s * RATE), np.float32) for name, s in SOUNDS]
    )
    ring = AudioBuffer(AudioConfig(ring_s=len(sound) / RATE + 2))
    start_ns = 10 * NS  # a second of silence before the first image
    before = np.zeros(RATE, np.float32)
    ring.push(AudioChunk(np.concatenate([before, sound])[:, None], RATE, start_ns - NS))
    count = round(len(sound) / RATE * FPS)
    for n in range(count):
        left = round(PAN[0] + (PAN[1] - PAN[0]) * n / (count - 1))
        stamp_ns = start_ns + round((n + 1) * NS / FPS)
        yield VideoFrame(np.ascontiguousarray(wide[:, left : left + WIDTH]), stamp_ns), ring.window(stamp_ns)


def make(path: Path) -> None:
    """Write the picture as an animated WebP file."""
    pipeline = TacoPipeline()
    frames = [Image.fromarray(overlay(frame.rgb, pipeline.process(frame, window))) for frame, window in stream()]
    with atomic(path) as scratch:
        frames[0].save(
            scratch, "WEBP", save_all=True, append_images=frames[1:], duration=1000 // FPS, loop=0, quality=QUALITY, method=6
        )


if __name__ == "__main__":
    make(Path(sys.argv[1]))
