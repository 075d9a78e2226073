"""Whatever a message holds, it becomes a picture, a chunk or a counted reason: in the decoders, and in the node over real topics.

TACO_FUZZ_MESSAGES=100000 sends as many to the node; some hundreds otherwise.
"""

import os
import random
import re
import time
from pathlib import Path
from types import SimpleNamespace as Fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage

from taco.audio import AudioBuffer
from taco.config import AudioConfig
from taco.errors import AudioGapError, MessageError
from taco.io import pcm
from taco_ros.audio_messages import to_chunk
from taco_ros.conversions import image_to_frame
from test.taco_ros import made_malformed
from test.taco_ros.graph import parameters, wait_until

NOW_NS = 1_800_000_000_000_000_000
IMAGE_FAULTS = {"image_stamp", "image_size", "image_encoding", "image_data"}
SOUND_FAULTS = {"audio_stamp", "audio_size", "audio_format"}
MESSAGES = int(os.environ.get("TACO_FUZZ_MESSAGES", "600"))
GROWTH_MB = 80  # each message decodes to well under a megabyte; what the first ones load is more


@given(st.integers(0, 2**32), st.sampled_from((made_malformed.image, made_malformed.compressed)))
@settings(max_examples=400, deadline=None)
def test_any_image_is_a_picture_or_a_counted_reason(seed, make):
    message = make(random.Random(seed), NOW_NS)
    try:
        frame = image_to_frame(message, max_pixels=100_000)
    except MessageError as error:
        assert error.reason in IMAGE_FAULTS and len(str(error)) < 700 and "\n" not in str(error)
    else:
        assert frame.rgb.dtype == np.uint8 and frame.rgb.size <= 300_000 and frame.rgb.flags.c_contiguous


@given(st.lists(st.integers(0, 2**32), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_any_sound_is_a_chunk_or_a_counted_reason_and_the_ring_stays_sound(seeds):
    buffer, config = AudioBuffer(AudioConfig(ring_s=2.0)), AudioConfig()
    for seed in seeds:
        try:
            buffer.push(to_chunk(made_malformed.sound(random.Random(seed), NOW_NS), "taco", config))
        except MessageError as error:
            assert error.reason in SOUND_FAULTS and len(str(error)) < 700
        for off_ns in (0, -1_000_000_000, 5_000_000_000):
            try:
                window = buffer.window(NOW_NS + off_ns)
            except AudioGapError:
                continue
            assert np.isfinite(window.samples).all() and np.abs(window.samples).max() <= 1
            assert len(window.samples) == buffer.sample_rate
        assert buffer._samples.nbytes <= 4 * 2 * 2 * 768_000


@given(
    st.binary(max_size=200),
    st.sampled_from((*pcm.PCM, *map(str.lower, pcm.PCM), "mp3", "", "ß", "x" * 5000)),
    st.integers(0, 70),
    st.sampled_from(("wave", "raw", "PCM", "mp3", "", "x" * 5000)),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=300, deadline=None)
def test_any_raw_sound_of_others_is_a_chunk_or_a_counted_reason(data, form, channels, coding, rate):
    header = Fields(stamp=Fields(sec=5, nanosec=0))
    info = Fields(sample_rate=rate, channels=channels, sample_format=form, coding_format=coding)
    try:
        chunk = pcm.chunk_of(Fields(header=header, audio=Fields(data=data)), AudioConfig(), info)
    except MessageError as error:
        assert error.reason in SOUND_FAULTS and len(str(error)) < 700
    else:
        size = int(pcm.PCM[(form or "S16LE").upper()][-1])
        assert chunk.samples.shape == (len(data) // size // (channels or 1), channels or 1)
        assert form.upper().startswith("F32") or np.abs(chunk.samples).max() <= 1


@given(st.sampled_from((1, 2, 8, 16, 32, 4, -1)), st.integers(-(2**31), 2**31 - 1), st.lists(st.integers(-128, 127), max_size=9))
@settings(max_examples=200, deadline=None)
def test_any_portaudio_sound_is_a_chunk_or_a_counted_reason(code, number, values):
    kinds = dict(pcm.PORTAUDIO.values())
    data = {field: np.array(values, np.int64).astype(kind) for field, kind in kinds.items()}
    info = Fields(format=code, channels=number % 5, rate=abs(number))
    message = Fields(header=Fields(stamp=Fields(sec=5, nanosec=0)), audio=Fields(audio_data=Fields(**data), info=info))
    try:
        chunk = pcm.chunk_of(message, AudioConfig())
    except MessageError as error:
        assert error.reason in SOUND_FAULTS
    else:
        assert chunk.samples.size == len(values) and chunk.sample_rate == abs(number)


def peak_mb(pid: int) -> float:
    """Most memory that a process ever had, in MB."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1000


@pytest.mark.ros
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("transport", ("raw", "compressed"))
def test_malformed_messages_over_real_topics(transport, start, robot):
    """Nothing escapes a callback, memory stays, and the node works on afterwards."""
    node = start("taco_node", *parameters(models__image="standin:5", node__image_transport=transport))
    node.wait_log("active")
    make, images = made_malformed.image, robot.image
    if transport == "compressed":
        make = made_malformed.compressed
        images = robot.node.create_publisher(
            CompressedImage, "image/compressed", QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        )
    wait_until(lambda: images.get_subscription_count() and robot.audio.get_subscription_count(), 30, "the node to subscribe")
    rng, before = random.Random(7), 0.0
    for number in range(MESSAGES):
        publisher, message = (images, make) if number % 2 else (robot.audio, made_malformed.sound)
        publisher.publish(message(rng, time.time_ns()))
        time.sleep(0.001)
        if number == min(500, MESSAGES // 2):
            before = peak_mb(node.process.pid)
    assert peak_mb(node.process.pid) < before + GROWTH_MB
    if transport == "raw":
        robot.play()
        robot.wait_objects("red", 40)
    assert node.process.poll() is None
    for word in ("Traceback", "callback failed", "processing failed", "libpng", "Corrupt JPEG"):
        assert word not in node.log
    assert max(map(len, node.log.splitlines())) < 1500
    assert node.stop() == 0
