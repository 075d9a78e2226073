"""usage: OMP_NUM_THREADS=1 python tools/time_cameras.py    images of 1, 2 and 4 cameras: one after another against together.

Milliseconds of the embedded image model for all cameras, medians of runs that take turns, so that whatever else the machine does
falls on both.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from taco.backbones import load_backbones
from taco.config import ModelsConfig
from taco.types import VideoFrame

RUNS = 15


def milliseconds(job) -> float:
    """How long ``job()`` takes."""
    start = time.perf_counter()
    job()
    return 1000.0 * (time.perf_counter() - start)


def main() -> None:
    """Print the table."""
    encoder = load_backbones(ModelsConfig()).image
    noise = np.random.default_rng(0)
    frames = [VideoFrame(noise.integers(0, 255, (480, 640, 3), np.uint8), 0) for _ in range(4)]
    print(f"{encoder.name}, 640 x 480, {torch.get_num_threads()} thread(s), medians of {RUNS}")
    print("cameras  one after another  together  ratio")
    for count in (1, 2, 4):
        few = frames[:count]

        def alone(few=few):
            return [encoder.encode(frame) for frame in few]

        def together(few=few):
            return encoder.encode_batch(few)

        for job in (alone, together):
            job()
        pairs = [(milliseconds(alone), milliseconds(together)) for _ in range(RUNS)]
        one_by_one, at_once = (statistics.median(column) for column in zip(*pairs))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{count:7d}  {one_by_one:14.0f} ms  {at_once:5.0f} ms  {ratio:5.2f}")


if __name__ == "__main__":
    main()
