"""What the tests of bearings and poses share: made cameras, things and depths, and targets without middleware."""

from array import array
from types import SimpleNamespace

import numpy as np
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from taco.clock import NS
from taco.config import TargetsConfig
from taco.types import SoundingObject, SoundingScene
from taco_ros import targets as module
from taco_ros.conversions import ns_to_stamp
from taco_ros.targets import Targets

SIZE = (48, 64)


class Recorder:
    """Stands for a publisher that somebody listens to."""

    def __init__(self):
        self.sent, self.listeners = [], 1

    def publish(self, message):
        self.sent.append(message)

    def get_subscription_count(self):
        return self.listeners


class Bench:
    """A ``Targets`` without middleware: measurements go in by hand, what is published is kept."""

    def __init__(self, monkeypatch, transforms=None, directions=None, **settings):
        monkeypatch.setattr(module, "Subscription", lambda *args: SimpleNamespace(start=lambda: None, stop=lambda: None))
        self.settings, self.warnings, self.topics = settings, [], {}
        self.targets = Targets(None, self._create, "~/", "", self._config, None, self._warn, transforms, directions)
        self.targets._on_info(camera_info())

    def _create(self, kind, topic, depth):
        self.topics[topic] = (kind, depth, Recorder())
        return self.topics[topic][2]

    def _config(self):
        return TargetsConfig(**self.settings)

    def _warn(self, reason, line):
        assert "\n" not in line
        self.warnings.append((reason, line))

    def sent(self, name):
        return self.topics[f"~/{name}"][2].sent

    def see(self, t, *things):
        """Process an image at second ``t``; returns the places."""
        return self.targets.publish(result(t, *things))

    @property
    def reasons(self):
        return [reason for reason, _ in self.warnings]


def camera_info(k=(50.0, 0, 32, 0, 50, 24, 0, 0, 1)):
    return CameraInfo(height=SIZE[0], width=SIZE[1], k=[float(x) for x in k], distortion_model="plumb_bob", d=[0.0] * 5)


def thing(x=40, y=20, id=1, score=0.8, size=8):
    mask = np.zeros(SIZE, bool)
    mask[y : y + size, x : x + size] = True
    return SoundingObject.from_mask(mask, [("dog", 0.6)], score, id)


def header(t, frame="camera_optical_frame"):
    return Header(stamp=ns_to_stamp(round(t * NS)), frame_id=frame)


def result(t, *things):
    stamp_ns = round(t * NS)
    scene = SoundingScene(stamp_ns, SIZE, stamp_ns - NS, stamp_ns, -20.0, 0.7, "sounding" if things else "silent", tuple(things))
    return SimpleNamespace(camera="", header=header(t), rgb=None, scene=scene)


def depth_image(t, metres, size=SIZE, encoding="32FC1"):
    values = np.full(size, metres, np.float32) if encoding == "32FC1" else np.full(size, round(metres * 1000), np.uint16)
    data = array("B", values.tobytes())
    return Image(header=header(t), height=size[0], width=size[1], encoding=encoding, step=size[1] * values.itemsize, data=data)


def vector(v):
    return np.array([v.x, v.y, v.z])
