"""What the ROS tests share: a robot that publishes camera and microphone, and installed executables run as processes."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from taco.clock import NS
from taco_ros.audio_messages import chunk_message
from taco_ros.conversions import image_message, ns_to_stamp, stamp_to_ns
from taco_ros.msg import AudioChunk, SoundingObjectArray
from test import ROOT

# The install space that was sourced (`colcon test`: the one that was just built) comes before this environment's own.
PREFIXES = [*filter(None, os.environ.get("AMENT_PREFIX_PATH", "").split(":")), sys.prefix]
BIN = next(
    (path for prefix in PREFIXES if (path := Path(prefix, "lib", "taco_ros")).is_dir()), Path(sys.prefix, "lib", "taco_ros")
)
RATE = 16000
RED_BOX, BLUE_BOX = (50, 100, 200, 200), (400, 200, 200, 200)  # x, y, width, height
TONES = {"red": 300.0, "green": 1000.0, "blue": 5000.0}
_numbers = itertools.count(os.getpid() % 80)


def middleware(log_dir) -> dict[str, str]:
    """The environment of everything that these tests start: loopback profile and log folder."""
    profile = str(ROOT / "config" / "fastdds_loopback.xml")
    return {
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
        "ROS_LOG_DIR": str(log_dir),
    }


def wait_until(condition, timeout_s=20.0, what=""):
    """Poll until ``condition()`` is true; returns its value."""
    end = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"waited {timeout_s:g} s for {what or condition}")
        time.sleep(0.02)


@contextmanager
def reserved_domain():
    """A ROS domain that no other test on this machine uses now: a bound port is the reservation."""
    for _ in range(200):
        domain = 10 + next(_numbers) % 90
        with socket.socket() as lock:
            try:
                lock.bind(("127.0.0.1", 21000 + domain))
            except OSError:
                continue
            yield domain
            return
    raise AssertionError("no free ROS domain")


def scene_image(height=480, width=640):
    """Grey, with a red and a blue square."""
    rgb = np.full((height, width, 3), 90, np.uint8)
    for (x, y, w, h), colour in ((RED_BOX, (220, 20, 20)), (BLUE_BOX, (20, 20, 230))):
        rgb[y : y + h, x : x + w] = colour
    return rgb


class Robot:
    """A node in this process that publishes images and sound like a robot and keeps what the node under test answers.

    tone: Hz of the sound; 0 is silence. Attributes may be changed while it plays.
    """

    def __init__(self, domain: int, namespace: str = "", objects: str = "taco_node/objects", image_reliability=None):
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = Node("robot", context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        best_effort = QoSProfile(depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
        self.best_effort = best_effort
        image_qos = QoSProfile(depth=5, reliability=image_reliability) if image_reliability else best_effort
        self.image = self.node.create_publisher(Image, "image", image_qos)
        self.audio = self.node.create_publisher(
            AudioChunk, "audio", QoSProfile(depth=100, reliability=ReliabilityPolicy.BEST_EFFORT)
        )
        self.received: list[SoundingObjectArray] = []
        self.ages_s: list[float] = []
        self.node.create_subscription(SoundingObjectArray, objects, self._on_objects, 50)
        self.tone, self.rgb, self.frame_id = TONES["red"], scene_image(), "camera_optical"
        self.sound_offset_ns = 0  # added to the stamps of the sound
        self.sent: list[int] = []
        self._playing = threading.Event()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._spin, daemon=True)]
        self._threads[0].start()

    def _spin(self):
        while not self._stop.is_set():
            self.executor.spin_once(timeout_sec=0.05)

    def _on_objects(self, message):
        self.received.append(message)
        self.ages_s.append((time.time_ns() - stamp_to_ns(message.header.stamp)) / NS)

    def listen(self, kind, topic, qos=10) -> list:
        """Messages of a topic, as they come."""
        out = []
        self.node.create_subscription(kind, topic, out.append, qos)
        return out

    def call(self, kind, name, request, timeout_s=15.0):
        """Call a service of the node under test."""
        client = self.node.create_client(kind, name)
        try:
            assert client.wait_for_service(timeout_s), f"no service {name}"
            future = client.call_async(request)
            wait_until(future.done, timeout_s, f"answer of {name}")
            return future.result()
        finally:
            self.node.destroy_client(client)

    def play(self, image_hz=15.0, chunk_s=0.02):
        """Publish from now on, until ``stop_playing``. Stamps are wall time."""
        assert not self._playing.is_set()
        self._playing.set()
        self._threads += [threading.Thread(target=self._play_sound, args=(chunk_s,), daemon=True)]
        self._threads += [threading.Thread(target=self._play_images, args=(1 / image_hz,), daemon=True)]
        for thread in self._threads[-2:]:
            thread.start()

    def stop_playing(self):
        self._playing.clear()
        for thread in self._threads[1:]:
            thread.join()
        del self._threads[1:]

    def samples(self, first: int, count: int) -> np.ndarray:
        phase = 2 * np.pi * self.tone * np.arange(first, first + count) / RATE
        return (0.3 * np.sin(phase) if self.tone else np.zeros(count)).astype(np.float32)[:, None]

    def send_sound(self, stamp_ns: int, count: int, first: int = 0):
        self.audio.publish(chunk_message(self.samples(first, count), RATE, stamp_ns))

    def send_image(self, stamp_ns: int, rgb=None, encoding="rgb8"):
        from std_msgs.msg import Header

        header = Header(stamp=ns_to_stamp(stamp_ns), frame_id=self.frame_id)
        message = image_message(self.rgb if rgb is None else rgb, encoding, header)
        self.sent.append(stamp_ns)
        self.image.publish(message)
        return message

    def _play_sound(self, chunk_s):
        count, first, start_ns = round(chunk_s * RATE), 0, time.time_ns()
        while self._playing.is_set():
            due_ns = start_ns + round((first + count) * NS / RATE)
            time.sleep(max(0.0, (due_ns - time.time_ns()) / NS))
            self.send_sound(start_ns + self.sound_offset_ns + round(first * NS / RATE), count, first)
            first += count

    def _play_images(self, period_s):
        due = time.monotonic()
        while self._playing.is_set():
            self.send_image(time.time_ns())
            due = max(due + period_s, time.monotonic() - period_s)
            time.sleep(max(0.0, due - time.monotonic()))

    def wait_matched(self, timeout_s=30.0):
        """Until the node under test has subscribed to image and sound."""
        wait_until(
            lambda: self.image.get_subscription_count() and self.audio.get_subscription_count(),
            timeout_s,
            "the node to subscribe",
        )

    def wait_objects(self, label=None, timeout_s=20.0, empty=False):
        """Until a new answer with this best label (or with no object) comes; returns it."""
        start = len(self.received)

        def found():
            for message in self.received[start:]:
                labels = [thing.label for thing in message.objects]
                if (empty and not labels) or (label and labels[:1] == [label]) or (not empty and label is None):
                    return message
            return None

        return wait_until(found, timeout_s, f"objects {label or ('empty' if empty else 'of any kind')}")

    def close(self):
        self._playing.clear()
        self._stop.set()
        for thread in self._threads:
            thread.join(5)
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


class Process:
    """An executable of the installed package as a process; its log is kept in a file."""

    def __init__(self, executable, *arguments, domain: int, folder: Path, environment=None, interpreter=None):
        path = BIN / executable if isinstance(executable, str) else executable
        self.log_file = folder / f"{path.name}-{time.monotonic_ns()}.log"
        env = {**os.environ, "ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1", **(environment or {})}
        env["PATH"] = f"{Path(sys.prefix) / 'bin'}:{env['PATH']}"
        command = [*([interpreter] if interpreter else []), str(path), *map(str, arguments)]
        with open(self.log_file, "wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=env, start_new_session=True)

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def wait_log(self, text, timeout_s=30.0):
        """Until the log says this."""

        def said():
            if text in self.log:
                return True
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.log}"
            return False

        try:
            wait_until(said, timeout_s, f"{text!r} in the log")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log}") from None

    def wait(self, timeout_s=60.0) -> int:
        """Exit status of a process that ends by itself."""
        return self.process.wait(timeout_s)

    def stop(self, timeout_s=20.0) -> int:
        """SIGINT, as ctrl-C does; exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise AssertionError(f"did not end on SIGINT:\n{self.log}") from None
        return self.process.returncode


def parameters(**values) -> list[str]:
    """--ros-args of settings; _ _ stands for a dot: models__image="standin"."""
    out = ["--ros-args"]
    for name, value in values.items():
        value = str(value).lower() if isinstance(value, bool) else value
        out += ["-p", f"{name.replace('__', '.')}:={value}"]
    return out


def diagnostic(messages, name):
    """The newest status whose name ends so, as (level, message, values); None before one came."""
    for message in reversed(messages):
        for status in message.status:
            if status.name.endswith(name):
                return status.level, status.message, {pair.key: pair.value for pair in status.values}
    return None


CMAKE = """cmake_minimum_required(VERSION 3.16)
project({package})
find_package(ament_cmake REQUIRED)
find_package(rosidl_default_generators REQUIRED)
{finds}
rosidl_generate_interfaces({package} {files} DEPENDENCIES {depends})
ament_package()
"""
PACKAGE = """<package format="3"><name>{package}</name><version>0.0.0</version><description>twin</description>
<maintainer email="twin@example.com">a</maintainer><license>Apache-2.0</license><buildtool_depend>ament_cmake</buildtool_depend>
{depends}<depend>rosidl_default_generators</depend>
<member_of_group>rosidl_interface_packages</member_of_group></package>
"""


def built(package: str, name: str, messages: dict[str, str], depends=("std_msgs",)) -> dict[str, str]:
    """Build a package of messages under build/ (once) and return the environment in which it imports.

    name: of the variant; messages: text by message name.
    """
    home = ROOT / "build" / f"twins-{Path(sys.prefix).name}" / name
    source, install = home / "src", home / "install"
    (source / "msg").mkdir(parents=True, exist_ok=True)
    texts = {f"msg/{kind}.msg": fields + "\n" for kind, fields in messages.items()}
    files, finds = " ".join(f'"{file}"' for file in texts), "\n".join(f"find_package({one} REQUIRED)" for one in depends)
    texts["CMakeLists.txt"] = CMAKE.format(package=package, files=files, finds=finds, depends=" ".join(depends))
    texts["package.xml"] = PACKAGE.format(package=package, depends="".join(f"<depend>{one}</depend>" for one in depends))
    if not (home / "done").is_file() or any((source / file).read_text() != text for file, text in texts.items()):
        for file, text in texts.items():
            (source / file).write_text(text)
        prefix = ":".join(PREFIXES)
        path = f"{sys.prefix}/bin:{os.environ['PATH']}"
        env = {**os.environ, "PATH": path, "AMENT_PREFIX_PATH": prefix, "CMAKE_PREFIX_PATH": prefix}
        configure = ["cmake", "-S", source, "-B", home / "build", "-GNinja", f"-DCMAKE_INSTALL_PREFIX={install}"]
        configure += [f"-DPython3_EXECUTABLE={sys.executable}", "-DBUILD_TESTING=OFF"]
        for command in (configure, ["cmake", "--build", home / "build"], ["cmake", "--install", home / "build"]):
            done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True)
            assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        (home / "done").touch()
    (site,) = install.glob("lib/python*/site-packages")
    libraries = [str(install / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return {"PYTHONPATH": str(site), "LD_LIBRARY_PATH": ":".join(filter(None, libraries))}
