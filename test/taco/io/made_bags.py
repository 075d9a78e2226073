"""Writes small bags for the tests."""

import numpy as np
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from taco.clock import NS
from taco.io import bags

BASE_NS = 1_700_000_000 * NS
AUDIO_COMMON = {
    "audio_common_msgs/msg/AudioData": "uint8[] data\n",
    "audio_common_msgs/msg/AudioDataStamped": "std_msgs/Header header\naudio_common_msgs/AudioData audio\n",
    "audio_common_msgs/msg/AudioInfo": (
        "uint8 channels\nuint32 sample_rate\nstring sample_format\nuint32 bitrate\nstring coding_format\n"
    ),
}
MGONZS13 = {
    "audio_common_msgs/msg/AudioData": (
        "float32[] float32_data\nint32[] int32_data\nint16[] int16_data\nint8[] int8_data\nuint8[] uint8_data\n"
    ),
    "audio_common_msgs/msg/AudioInfo": "int32 format\nint32 channels\nint32 rate\nint32 chunk\n",
    "audio_common_msgs/msg/Audio": "audio_common_msgs/AudioData audio_data\naudio_common_msgs/AudioInfo info\n",
    "audio_common_msgs/msg/AudioStamped": "std_msgs/Header header\naudio_common_msgs/Audio audio\n",
}


class MakeBag:
    """Writes a bag of a camera and a microphone: 2 s, grey level 10 times the frame number, a 440 Hz tone."""

    def __init__(self, path, storage="sqlite3", definitions=bags.DEFINITIONS):
        self.store = get_typestore(Stores.ROS2_JAZZY)
        for name, text in definitions.items():
            self.store.register(get_types_from_msg(text, name))
        self.writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage.upper()])
        self.topics, self.path = {}, path

    def __enter__(self):
        self.writer.open()
        return self

    def __exit__(self, *_):
        self.writer.close()

    def kind(self, name):
        return self.store.types[name]

    def header(self, ns, frame="cam_optical"):
        sec, nanosec = divmod(ns, NS)
        return self.kind("std_msgs/msg/Header")(
            stamp=self.kind("builtin_interfaces/msg/Time")(sec=sec, nanosec=nanosec), frame_id=frame
        )

    def write(self, topic, name, ns, **fields):
        if topic not in self.topics:
            self.topics[topic] = self.writer.add_connection(topic, name, typestore=self.store)
        message = self.kind(name)(**fields)
        self.writer.write(self.topics[topic], ns, self.store.serialize_cdr(message, name))

    def image(self, ns, rgb, topic="/camera/image_raw", encoding="rgb8", pad=0, recorded_ns=None):
        rows, columns = rgb.shape[:2]
        width = columns * (rgb.shape[2] if rgb.ndim == 3 else 1)
        data = np.pad(rgb.reshape(rows, width), ((0, 0), (0, pad))).ravel()
        fields = {"height": rows, "width": columns, "encoding": encoding, "is_bigendian": 0, "step": width + pad, "data": data}
        self.write(topic, "sensor_msgs/msg/Image", recorded_ns or ns, header=self.header(ns), **fields)

    def images(self, **options):
        for i in range(20):
            self.image(BASE_NS + i * NS // 10, np.full((24, 32, 3), 10 * i, np.uint8), **options)

    def sound(self, rate=16000, channels=1):
        for i in range(40):
            self.chunk(BASE_NS + i * NS // 20, tone(rate, channels, i), rate)

    def chunk(self, ns, samples, rate=16000):
        fields = {"sample_rate": rate, "channels": samples.shape[1], "samples": samples.ravel()}
        self.write("/audio", "taco_ros/msg/AudioChunk", ns, header=self.header(ns, "mic"), **fields)


def tone(rate, channels, i, scale=0.3):
    count = rate // 20
    wave = scale * np.sin(2 * np.pi * 440 * (np.arange(count) + i * count) / rate)
    return np.repeat(wave.astype(np.float32)[:, None], channels, 1)
