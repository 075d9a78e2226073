"""Bring the sound of a driver with a message type of its own to TACO: a small ROS node that translates.

usage: python examples/own_message.py [--ros-args -r pcm:=/my_driver/pcm]

The driver here publishes 16-bit samples as std_msgs/Int16MultiArray: 16 kHz, one channel, no stamp. Put yours in their place.
"""

import array

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import Int16MultiArray

from taco_ros.msg import AudioChunk

RATE = 16000


def translated(message: Int16MultiArray, arrival_ns: int) -> AudioChunk:
    """The chunk with samples in [-1, 1], stamped with the time of its first sample."""
    samples = np.asarray(message.data, np.float32) / 32768
    first_ns = arrival_ns - round(len(samples) / RATE * 1e9)
    chunk = AudioChunk(sample_rate=RATE, channels=1, samples=array.array("f", samples.tobytes()))
    chunk.header.stamp.sec, chunk.header.stamp.nanosec = divmod(first_ns, 10**9)
    chunk.header.frame_id = "microphone"
    return chunk


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("own_message")
    chunks = node.create_publisher(AudioChunk, "audio", qos_profile_sensor_data)

    def arrived(message: Int16MultiArray) -> None:
        chunks.publish(translated(message, node.get_clock().now().nanoseconds))

    node.create_subscription(Int16MultiArray, "pcm", arrived, qos_profile_sensor_data)
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass


if __name__ == "__main__":
    main()
