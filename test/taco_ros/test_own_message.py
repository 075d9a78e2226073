"""The example of a sound message of one's own, as a process: 16-bit samples in, chunks that the node understands out."""

import array
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import qos_profile_sensor_data
from std_msgs.msg import Int16MultiArray

from taco.config import AudioConfig
from taco.io.pcm import chunk_of
from taco_ros.msg import AudioChunk
from test import ROOT


def test_own_messages_become_chunks(domain):
    values = np.round(8192 * np.sin(np.arange(1600) / 8)).astype(np.int16)
    env = {**os.environ, "ROS_DOMAIN_ID": str(domain), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(ROOT / "examples/own_message.py"), "--ros-args", "-r", "pcm:=mine"], env=env)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    peer, got = rclpy.create_node("driver", context=context), []
    try:
        pcm = peer.create_publisher(Int16MultiArray, "mine", qos_profile_sensor_data)
        peer.create_subscription(AudioChunk, "audio", got.append, qos_profile_sensor_data)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(peer)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not got:
            pcm.publish(Int16MultiArray(data=array.array("h", values.tobytes())))
            executor.spin_once(timeout_sec=0.1)
        now_ns = peer.get_clock().now().nanoseconds
        executor.shutdown()
    finally:
        process.kill()
        process.wait()
        peer.destroy_node()
        rclpy.shutdown(context=context)
    chunk = chunk_of(got[0], AudioConfig())
    assert chunk.sample_rate == 16000 and chunk.samples[:, 0] == pytest.approx(values / 32768, abs=1e-6)
    assert 0.1e9 <= now_ns - chunk.stamp_ns < 60e9, "the time of the first sample: 0.1 s before the arrival"
