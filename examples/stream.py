"""Follow a stream as a robot does: chunks of sound into a ring, one window for each image, a warm start from frame to frame.

usage: python examples/stream.py CLIP

The loop is the one of the live node, without ROS: replace the two readers by your camera and microphone.
"""

import sys

from taco import TacoConfig, TacoPipeline
from taco.audio import AudioBuffer
from taco.errors import AudioGapError
from taco.io.files import chunks, frames
from taco.tracking import Tracker


def main(clip: str) -> None:
    config = TacoConfig()
    pipeline, ring, tracker = TacoPipeline(config), AudioBuffer(config.audio), Tracker(config.tracking)
    sound = chunks(clip)
    for frame in frames(clip):
        while (ring.newest_ns or -1) < frame.stamp_ns and (chunk := next(sound, None)):
            ring.push(chunk)
        try:
            window = ring.window(frame.stamp_ns)
        except AudioGapError as error:  # the first second, or a hole in the sound
            print(f"{frame.stamp_ns / 1e9:6.2f} s  skipped: {error}")
            continue
        scene = tracker.update(pipeline.process(frame, window))
        found = ", ".join(f"#{item.id} {item.label} {item.score:.2f}" for item in scene.objects)
        print(f"{frame.stamp_ns / 1e9:6.2f} s  {scene.verdict:12s} {found}")


if __name__ == "__main__":
    main(*sys.argv[1:])
