"""For the tests of ``taco segment``: a made pipeline, made clips, and what a run left."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import soundfile
from PIL import Image

from taco.clock import NS
from taco.io.video_writer import VideoWriter
from taco.types import AudioChunk, SoundingObject, SoundingScene


class MadePipeline:
    """Outlines a box that walks to the right while there is sound; keeps what it was given."""

    seen: list = []
    clips: list = []
    anchors = SimpleNamespace(words=("dog", "cat", "bell"))
    heard = (("Bark", 0.9), ("Rain", 0.2))

    def __init__(self, config):
        self.config = config

    def reset(self):
        pass

    def process(self, frame, window):
        MadePipeline.seen.append((frame.stamp_ns, window))
        rows, columns = frame.size
        head = (frame.stamp_ns, frame.size, window.start_ns, window.end_ns, window.level_dbfs)
        if window.level_dbfs < self.config.concepts.silence_dbfs:
            return SoundingScene(*head, 0.0, "silent")
        mask = np.zeros(frame.size, bool)
        left = int(len(MadePipeline.seen) % (columns // 2))
        mask[rows // 4 : rows // 2, left : left + columns // 4] = True
        outlined = SoundingObject.from_mask(mask, [("dog", 0.8), ("cat", 0.1)], 0.75)
        return SoundingScene(*head, 0.7, "sounding", (outlined,), stage_ms={"image": 1.0}, heard=self.heard)

    def process_clip(self, frames, windows):
        self.clips.append(len(frames))
        return [self.process(*pair) for pair in zip(frames, windows)]


def tone(rate=16000, seconds=2.0):
    return (0.3 * np.sin(2 * np.pi * 440 * np.arange(round(rate * seconds)) / rate)).astype(np.float32)[:, None]


def make_clip(path, seconds=2.0, rate=16000, size=(48, 64)):
    with VideoWriter(path, fps=10, sample_rate=rate, origin_ns=0) as writer:
        for i in range(round(seconds * 10)):
            writer.write(np.full((*size, 3), 4 * i, np.uint8), i * NS // 10)
        if rate:
            writer.write_audio(AudioChunk(tone(rate, seconds), rate, 0))
    return path


def make_still(folder, seconds=1.0, rate=16000):
    Image.fromarray(np.full((48, 64, 3), 120, np.uint8)).save(folder / "image.png")
    soundfile.write(folder / "sound.wav", tone(rate, seconds), rate)


def lines(folder):
    return [json.loads(line) for line in (Path(folder) / "objects.jsonl").open()]


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob("*") if p.is_file())
