"""The demo's recorder: prints each change of what is recognised, and keeps everything.

usage: python -m taco.demo.recorder OUT.npz      stop it with SIGINT or SIGTERM; it writes OUT.npz and ends
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import rclpy
from rclpy.node import Node
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from taco.demo import stored
from taco.view.draw import VERDICT_WORDS
from taco_ros.msg import AudioChunk, SoundingObjectArray
from taco_ros.ros_time import stamp_to_ns


class Recorder:
    """Keeps images as JPEG, sound as arrays and results as plain values, in the order of arrival."""

    def __init__(self, node: Node) -> None:
        self.images: dict[int, bytes] = {}
        self.audio: list[tuple[int, int, np.ndarray]] = []
        self.results: list[stored.RecordedAnswer] = []
        self._said: tuple[str, ...] | None = None
        node.create_subscription(Image, "image", self.on_image, qos_profile_sensor_data)
        reliability = qos_profile_sensor_data.reliability
        quality = QoSProfile(depth=200, reliability=reliability)  # type: ignore[no-untyped-call]  # rclpy's, unannotated
        node.create_subscription(AudioChunk, "audio", self.on_audio, quality)
        node.create_subscription(SoundingObjectArray, "taco_node/objects", self.on_objects, 50)

    def on_image(self, msg: Image) -> None:
        rows = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step)
        rgb = rows[:, : msg.width * 3].reshape(msg.height, msg.width, 3)
        jpeg = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
        self.images[stamp_to_ns(msg.header.stamp)] = jpeg.tobytes()

    def on_audio(self, msg: AudioChunk) -> None:
        samples = np.frombuffer(msg.samples, np.float32).reshape(-1, msg.channels).mean(1)
        self.audio.append((stamp_to_ns(msg.header.stamp), msg.sample_rate, samples))

    def on_objects(self, msg: SoundingObjectArray) -> None:
        age_ms = (time.time_ns() - stamp_to_ns(msg.header.stamp)) / 1e6
        objects: list[stored.RecordedObject] = []
        for item in msg.objects:
            box = item.bounding_box
            mask = np.frombuffer(item.mask.data, np.uint8).reshape(item.mask.height, item.mask.step)[:, : item.mask.width] > 0
            words = [(item.label, item.label_score), *zip(item.other_labels, item.other_label_scores)]
            objects.append(
                {
                    "id": item.id,
                    "labels": [(word, float(score)) for word, score in words],
                    "score": item.score,
                    "box": (box.x_offset, box.y_offset, box.width, box.height),
                    "mask": np.packbits(mask, axis=None),
                }
            )
        self.results.append(
            {
                "stamp_ns": stamp_to_ns(msg.header.stamp),
                "sound_lag_ns": stamp_to_ns(msg.header.stamp) - stamp_to_ns(msg.audio_window_end),
                "age_ms": age_ms,
                "level_dbfs": msg.level,
                "sounding_score": msg.sounding_score,
                "verdict": msg.verdict,
                "heard": tuple(zip(msg.heard, map(float, msg.heard_scores))),
                "objects": objects,
            }
        )
        self.say(self.results[-1])

    def say(self, result: stored.RecordedAnswer) -> None:
        words = tuple(sorted(item["labels"][0][0] for item in result["objects"]))
        said = words or (result["verdict"], *(word for word, _ in result["heard"][:1]))
        if said == self._said or not self.images:
            return
        self._said = said
        seconds = (result["stamp_ns"] - next(iter(self.images))) / 1e9
        if not words:
            heard = ", ".join(f"{word} {score:.2f}" for word, score in result["heard"][:2]) or "nothing"
            print(
                f"{seconds:6.1f} s  {VERDICT_WORDS[result['verdict']]}; heard: {heard} ({result['level_dbfs']:.0f} dBFS)",
                flush=True,
            )
        for item in result["objects"]:
            word, (x, y, w, h) = item["labels"][0][0], item["box"]
            print(f"{seconds:6.1f} s  {word}  score {item['score']:.2f}  at x {x + w // 2} y {y + h // 2} px", flush=True)


def main() -> None:
    """Record until the first signal, then write the file whole."""
    out = Path(sys.argv[1])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("demo_recorder")
    recorder = Recorder(node)

    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    while not stopped.is_set():
        rclpy.spin_once(node, timeout_sec=0.1)  # returns regularly, so that a signal is handled without messages
    values: stored.Recorded = {"images": recorder.images, "audio": recorder.audio, "results": recorder.results}
    stored.save(out, values)
    node.destroy_node()  # type: ignore[no-untyped-call]  # rclpy's, unannotated
    rclpy.shutdown()


if __name__ == "__main__":
    main()
