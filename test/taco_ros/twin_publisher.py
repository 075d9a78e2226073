"""Run as a process: publishes a 300 Hz tone with the messages of one of the two packages called audio_common_msgs.

usage: twin_publisher.py drivers|drivers-mp3|drivers-unstamped|drivers-s24|mgonzs13
"""

import array
import sys
import time

import numpy as np
import rclpy
from audio_common_msgs import msg as messages
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile

RATE, COUNT = 16000, 512


def main():
    kind = sys.argv[1]
    rclpy.init()
    node = Node("other_microphone")
    names = {"mgonzs13": "AudioStamped", "drivers-unstamped": "AudioData"}
    own = getattr(messages, names.get(kind, "AudioDataStamped"))
    publisher = node.create_publisher(own, "audio", 10)
    if kind != "mgonzs13":
        info = messages.AudioInfo(
            channels=1,
            sample_rate=RATE,
            sample_format="S24LE" if "s24" in kind else "S16LE",
            coding_format="mp3" if "mp3" in kind else "wave",
        )
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        infos = node.create_publisher(messages.AudioInfo, "audio_info", latched)
    first, start_ns = 0, time.time_ns()
    while rclpy.ok():
        values = np.round(0.3 * 32767 * np.sin(2 * np.pi * 300 * np.arange(first, first + COUNT) / RATE)).astype("<i2")
        message = own()
        stamp_ns = start_ns + first * 1_000_000_000 // RATE
        if hasattr(message, "header"):
            message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        if kind == "mgonzs13":
            message.audio.audio_data.int16_data = array.array("h", values.tobytes())
            message.audio.info = messages.AudioInfo(format=8, channels=1, rate=RATE, chunk=COUNT)
        else:
            data = values.tobytes()
            if "s24" in kind:  # the same in three bytes: the lowest is 0
                data = b"".join(b"\0" + data[at : at + 2] for at in range(0, len(data), 2))
            audio = message.audio if hasattr(message, "audio") else message
            audio.data = array.array("B", data)
            if first % (RATE // 2) < COUNT:
                infos.publish(info)
        publisher.publish(message)
        first += COUNT
        time.sleep(max(0.0, (start_ns + first * 1_000_000_000 // RATE - time.time_ns()) / 1e9))


if __name__ == "__main__":
    main()
