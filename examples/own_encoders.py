"""Put your own frozen models under the pipeline: two small classes are all it asks for.

usage: python examples/own_encoders.py

The image encoder sees colours, the audio encoder hears pitch, and three words join the two. Replace them by networks.
"""

import numpy as np
import torch
from torch import Tensor

from taco import AudioWindow, TacoPipeline, VideoFrame
from taco.backbones.base import Backbones
from taco.types import ImageFeatures, Tokens

WORDS = ("red, a low tone", "green, a middle tone", "blue, a high tone")
GRID = (12, 16)


class ColourEncoder:
    """Tokens (192, 3): red, green and blue of each cell of a 12 x 16 grid, less what is grey."""

    name = "colours"

    def encode(self, frame: VideoFrame) -> ImageFeatures:
        height, width = frame.size
        cells = frame.rgb[: height // 12 * 12, : width // 16 * 16].reshape(12, height // 12, 16, width // 16, 3)
        colours = cells.mean((1, 3), dtype=np.float32) / 255.0
        colours = np.clip(colours - colours.mean(-1, keepdims=True), 0, None).reshape(-1, 3)
        return ImageFeatures(Tokens(torch.from_numpy(8 * colours), GRID), {}, GRID, frame.size)

    def encode_text(self, words: list[str]) -> Tensor:
        return torch.eye(3)[[WORDS.index(word) for word in words]]


class PitchEncoder:
    """Tokens (8, 3): the shares of low, middle and high frequencies in each eighth of the window."""

    name, logit_scale = "pitch", 20.0

    def encode(self, window: AudioWindow) -> Tokens:
        parts = np.array_split(window.samples, 8)
        power = [np.abs(np.fft.rfft(part, 2048)) ** 2 for part in parts]
        band = np.digitize(np.fft.rfftfreq(2048, 1 / window.sample_rate), (500, 2000))
        shares = np.array([[p[band == index].sum() for index in range(3)] for p in power])
        return Tokens(torch.from_numpy((shares / shares.sum(1, keepdims=True).clip(1e-12)).astype(np.float32)), (1, 8))

    def project(self, values: Tensor) -> Tensor:
        return values

    def encode_text(self, words: list[str]) -> Tensor:
        return torch.eye(3)[[WORDS.index(word) for word in words]]


def main() -> None:
    pipeline = TacoPipeline(backbones=Backbones(ColourEncoder(), PitchEncoder(), WORDS))
    rgb = np.full((480, 640, 3), 128, np.uint8)
    rgb[100:300, 50:250], rgb[150:400, 380:600] = (220, 30, 30), (30, 30, 220)
    time_s = np.arange(16000) / 16000
    for name, hz in (("low", 200), ("high", 3000)):
        tone = (0.3 * np.sin(2 * np.pi * hz * time_s) * (time_s % 0.25 < 0.15)).astype(np.float32)
        scene = pipeline.process(VideoFrame(rgb, 0), AudioWindow(tone, 16000, 0))
        print(f"a {name} tone: {scene.verdict}", *(f"{item.label!r} in box {item.box}" for item in scene.objects))
        pipeline.reset()


if __name__ == "__main__":
    main()
