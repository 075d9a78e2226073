"""ROS 2 bags (sqlite3 and mcap) read and written without ROS, through ``rosbags``."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from taco.audio import NS
from taco.config import AudioConfig
from taco.errors import MediaError, MissingPackageError
from taco.types import VERDICTS, AudioChunk, SoundingScene, VideoFrame

# The package's messages, as in msg/ (a test compares them).
DEFINITIONS = {
    "taco_ros/msg/AudioChunk": "std_msgs/Header header\nuint32 sample_rate\nuint8 channels\nfloat32[] samples\n",
    "taco_ros/msg/SoundingObject": (
        "uint32 id\nstring label\nfloat32 label_score\nstring[] other_labels\nfloat32[] other_label_scores\nfloat32 score\n"
        "sensor_msgs/RegionOfInterest bounding_box\nsensor_msgs/Image mask\ngeometry_msgs/PointStamped[<=1] place\n"
    ),
    "taco_ros/msg/SoundingObjectArray": (
        "".join(f'string {name.upper()} = "{name}"\n' for name in VERDICTS)
        + "std_msgs/Header header\nbuiltin_interfaces/Time audio_window_start\nbuiltin_interfaces/Time audio_window_end\n"
        "float32 level\nfloat32 sounding_score\nstring verdict\nstring[] heard\nfloat32[] heard_scores\n"
        "taco_ros/SoundingObject[] objects\n"
    ),
}
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
AUDIO_TYPES = (
    "taco_ros/msg/AudioChunk",
    "audio_common_msgs/msg/AudioDataStamped",
    "audio_common_msgs/msg/AudioStamped",
    "audio_common_msgs/msg/AudioData",
)
INFO_TYPE = "audio_common_msgs/msg/AudioInfo"
# Raw PCM by GStreamer's name (ros-drivers) and PortAudio's number (mgonzs13): numpy type, zero level.
PCM = {"S8": ("i1", 0), "U8": ("u1", 128), "S16LE": ("<i2", 0), "S16BE": (">i2", 0), "S32LE": ("<i4", 0), "F32LE": ("<f4", 0)}
PORTAUDIO = {1: ("float32_data", "<f4", 0), 2: ("int32_data", "<i4", 0), 8: ("int16_data", "<i2", 0)}
PORTAUDIO |= {16: ("int8_data", "i1", 0), 32: ("uint8_data", "u1", 128)}
CHANNELS = {"bgr8": 3, "rgb8": 3, "8UC3": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "8UC1": 1, "mono16": 2, "16UC1": 2}
FILE_START_NS = NS  # a stamp of 0 means none in ROS, so files, which have no clock, start at second 1


def is_bag(path: str | Path) -> bool:
    """A bag's folder, or one file of it."""
    path = Path(path)
    return (path / "metadata.yaml").exists() or path.suffix in (".mcap", ".db3")


class BagReader:
    """Camera images and sound of a bag, in the time of their own stamps, 0 s at the first image.

    image_topic, audio_topic: empty ones are found by type; several candidates are an error that names them.
    MediaError: not a bag, damaged, or neither topic in it.
    """

    def __init__(self, path: str | Path, *, image_topic: str = "", audio_topic: str = "", audio: AudioConfig | None = None):
        self.path, self.audio = Path(path), audio or AudioConfig()
        with self._open() as reader:
            self.image_topic = self._choose(reader, IMAGE_TYPES, image_topic, "images", "--image-topic")
            self.audio_topic = self._choose(reader, AUDIO_TYPES, audio_topic, "sound", "--audio-topic")
            self.duration_s = reader.duration / NS
            count = sum(c.msgcount for c in reader.connections if c.topic == self.image_topic)
            self.fps = max(0.1, count / self.duration_s) if self.duration_s > 0 else 10.0
        self.frame_ids: dict[int, str] = {}  # of the frames read, by stamp
        first = next(self._messages(self.image_topic), None)
        if first is None:
            raise MediaError(f"{self.path}: wanted images on {self.image_topic}, got no message")
        self.origin_ns = _stamp_ns(first[0])

    def frames(
        self, start_s: float = 0.0, end_s: float = math.inf, wanted: Callable[[int], bool] = lambda stamp_ns: True
    ) -> Iterator[VideoFrame]:
        """Images in [start_s, end_s) after the first one; stamps that do not rise are left out."""
        previous_ns = -1
        for message, _ in self._messages(self.image_topic):
            stamp_ns = _stamp_ns(message)
            self.frame_ids[stamp_ns] = message.header.frame_id
            after_s = (stamp_ns - self.origin_ns) / NS
            if stamp_ns <= previous_ns or after_s < start_s or after_s >= end_s or not wanted(stamp_ns):
                continue
            previous_ns = stamp_ns
            yield VideoFrame(self._pixels(message), stamp_ns)

    def chunks(self, start_s: float = -math.inf) -> Iterator[AudioChunk]:
        """The sound from about ``start_s`` after the first image on."""
        info = next((m for m, _ in self._messages(self._info_topic)), None) if self._info_topic else None
        for message, arrival_ns in self._messages(self.audio_topic):
            chunk = self._chunk(message, info, arrival_ns)
            if chunk.end_ns - self.origin_ns >= start_s * NS:
                yield chunk

    def _choose(self, reader, types, wanted: str, what: str, option: str) -> str:
        topics = {c.topic: c.msgtype for c in reader.connections if c.msgtype in types and c.msgcount}
        self._info_topic = next((c.topic for c in reader.connections if c.msgtype == INFO_TYPE and c.msgcount), "")
        if wanted:
            if wanted not in topics:
                raise MediaError(f"{self.path}: wanted {what} on {wanted}, got {', '.join(topics) or 'no such topic'}")
            return wanted
        if not topics:
            seen = ", ".join(sorted({f"{c.topic} ({c.msgtype})" for c in reader.connections})) or "nothing"
            raise MediaError(f"{self.path}: wanted a topic with {what} ({' or '.join(types[:2])}), got {seen}")
        plain = [topic for topic in topics if topics[topic] != IMAGE_TYPES[1]]  # raw beside its compressed copy
        choice = list(topics) if len(topics) == 1 else plain
        if len(choice) != 1:
            raise MediaError(f"{self.path}: several topics with {what}: {', '.join(sorted(topics))}; choose one with {option}")
        return choice[0]

    @contextlib.contextmanager
    def _open(self):
        rosbags = _rosbags()
        import sqlite3

        try:
            with rosbags.AnyReader([self.path], default_typestore=typestore()) as reader:
                if not reader.connections:
                    raise MediaError(f"{self.path}: wanted a bag with images and sound, got an empty one")
                yield reader
        except MediaError:
            raise
        except (rosbags.AnyReaderError, OSError, ValueError, KeyError, AssertionError, sqlite3.Error) as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise MediaError(f"{self.path}: wanted a whole ROS 2 bag, cannot read this one: {text}") from None

    def _messages(self, topic: str) -> Iterator[tuple[object, int]]:
        with self._open() as reader:
            for connection, arrival_ns, raw in reader.messages([c for c in reader.connections if c.topic == topic]):
                yield reader.deserialize(raw, connection.msgtype), arrival_ns

    def _pixels(self, message) -> np.ndarray:
        if hasattr(message, "format"):
            import cv2

            pixels = cv2.imdecode(np.asarray(message.data), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
            if pixels is None:
                raise MediaError(f"{self.path}: an image on {self.image_topic} of format {message.format!r} cannot be decoded")
            return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        width = message.width * CHANNELS.get(message.encoding, 0)
        if width and message.step > width:  # rosbags-image ignores the padding of rows
            message.data = np.ascontiguousarray(message.data.reshape(message.height, message.step)[:, :width]).ravel()
            message.step = width
        try:
            from rosbags.image import message_to_cvimage

            return np.ascontiguousarray(message_to_cvimage(message, "rgb8"))
        except ImportError:
            raise MissingPackageError("reading images of a bag needs rosbags-image; `pip install rosbags-image`") from None
        except Exception as error:
            raise MediaError(f"{self.path}: an image on {self.image_topic} ({message.encoding}) is unreadable: {error}") from None

    def _chunk(self, message, info, arrival_ns: int) -> AudioChunk:
        where = f"{self.path}: sound on {self.audio_topic}"
        if hasattr(message, "samples"):
            values, rate, channels = message.samples.astype(np.float32), message.sample_rate, message.channels
        elif hasattr(message, "audio") and hasattr(message.audio, "info"):
            inner = message.audio.info
            if inner.format not in PORTAUDIO:
                raise MediaError(f"{where}: wanted a PortAudio format of {', '.join(map(str, PORTAUDIO))}, got {inner.format}")
            field, dtype, zero = PORTAUDIO[inner.format]
            values, rate, channels = (
                _full_scale(getattr(message.audio.audio_data, field), dtype, zero),
                inner.rate,
                inner.channels,
            )
        else:
            data = message.audio.data if hasattr(message, "audio") else message.data
            rate = (info.sample_rate if info else 0) or self.audio.sample_rate
            channels = (info.channels if info else 0) or self.audio.channels
            name = (info.sample_format if info else "") or "S16LE"
            if (info and info.coding_format not in ("wave", "raw", "pcm", "")) or name.upper() not in PCM:
                raise MediaError(
                    f"{where}: wanted raw PCM, got {info.coding_format} {name}; record with audio_capture format:=wave"
                )
            values = _full_scale(data, *PCM[name.upper()])
        if not channels or not 1000 <= rate <= 768_000 or not len(values) or len(values) % channels:
            raise MediaError(f"{where}: got a message of {len(values)} samples, {channels} channels, {rate} Hz")
        samples = np.ascontiguousarray(values.reshape(-1, channels), np.float32)
        stamped = hasattr(message, "header") and self.audio.stamp_reference != "arrival"
        stamp_ns = _stamp_ns(message) if stamped else arrival_ns
        if not stamped or self.audio.stamp_reference == "end":
            stamp_ns -= round(len(samples) * NS / rate)
        return AudioChunk(samples, int(rate), stamp_ns)


class BagWriter:
    """The node's messages, ``objects`` and ``mask``, in a new bag that gets its name only when it is whole.

    storage: "mcap" or "sqlite3". prefix: of the topics, the name of the node.
    """

    def __init__(self, path: str | Path, storage: str = "mcap", prefix: str = "/taco_node"):
        self.path, self.storage, self.prefix = Path(path), storage, prefix
        if self.path.exists():
            raise MediaError(f"cannot write {self.path}: it exists; remove it or choose another name")

    def __enter__(self) -> BagWriter:
        rosbags = _rosbags()
        self._part = self.path.with_name(f".{self.path.name}.part")
        shutil.rmtree(self._part, ignore_errors=True)
        self._store = typestore()
        with self._errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = rosbags.Writer(self._part, version=9, storage_plugin=rosbags.StoragePlugin[self.storage.upper()])
            self._writer.open()
            names = (("objects", "taco_ros/msg/SoundingObjectArray"), ("mask", "sensor_msgs/msg/Image"))
            self._topics = {
                name: self._writer.add_connection(f"{self.prefix}/{name}", kind, typestore=self._store) for name, kind in names
            }
        return self

    def write(self, scene: SoundingScene, frame_id: str = "camera") -> None:
        """Append the messages of a scene, under its image's stamp and ``frame_id``."""
        types, store = self._store.types, self._store
        header = self._header(scene.stamp_ns, frame_id)
        things = [self._object(thing, header) for thing in scene.objects]
        array = types["taco_ros/msg/SoundingObjectArray"](
            header=header,
            audio_window_start=self._time(scene.window_start_ns),
            audio_window_end=self._time(scene.window_end_ns),
            level=float(scene.level_dbfs),
            sounding_score=float(scene.sounding_score),
            verdict=scene.verdict,
            heard=[word for word, _ in scene.heard],
            heard_scores=np.array([score for _, score in scene.heard], np.float32),
            objects=things,
        )
        values = np.zeros(256, np.uint8)
        for index, thing in enumerate(scene.objects[:255]):
            values[index + 1] = (thing.id - 1) % 255 + 1
        mask = self._image(values[scene.instance_mask()], header)
        with self._errors():
            for name, message in (("objects", array), ("mask", mask)):
                topic = self._topics[name]
                self._writer.write(topic, scene.stamp_ns, store.serialize_cdr(message, topic.msgtype))

    def _object(self, thing, header):
        types = self._store.types
        x, y, w, h = thing.box
        crop = thing.mask[y : y + h, x : x + w].astype(np.uint8) * np.uint8(255)
        box = types["sensor_msgs/msg/RegionOfInterest"](x_offset=x, y_offset=y, height=h, width=w, do_rectify=False)
        return types["taco_ros/msg/SoundingObject"](
            id=thing.id,
            label=thing.labels[0][0],
            label_score=float(thing.labels[0][1]),
            other_labels=[word for word, _ in thing.labels[1:]],
            other_label_scores=np.array([score for _, score in thing.labels[1:]], np.float32),
            score=float(thing.score),
            bounding_box=box,
            mask=self._image(crop, header),
            place=[],
        )

    def _time(self, ns: int):
        sec, nanosec = divmod(max(0, int(ns)), NS)
        return self._store.types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)

    def _header(self, ns: int, frame_id: str):
        return self._store.types["std_msgs/msg/Header"](stamp=self._time(ns), frame_id=frame_id)

    def _image(self, pixels: np.ndarray, header):
        rows, columns = pixels.shape
        kind = self._store.types["sensor_msgs/msg/Image"]
        data = np.ascontiguousarray(pixels).ravel()
        return kind(header=header, height=rows, width=columns, encoding="mono8", is_bigendian=0, step=columns, data=data)

    def __exit__(self, kind, value, trace) -> None:
        try:
            with self._errors():
                self._writer.close()
                if kind is None:
                    self._part.rename(self.path)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    @contextlib.contextmanager
    def _errors(self):
        try:
            yield
        except OSError as error:
            raise MediaError(f"cannot write {self.path}: {error.strerror or error}") from None


def typestore():
    """rosbags' types of ROS 2 Jazzy and this package's messages."""
    rosbags = _rosbags()
    store = rosbags.get_typestore(rosbags.Stores.ROS2_JAZZY)
    kinds = {}
    for name, text in DEFINITIONS.items():
        kinds.update(rosbags.get_types_from_msg(text, name))
    store.register(kinds)
    return store


def _rosbags():
    from types import SimpleNamespace

    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError:
        raise MissingPackageError("reading and writing bags needs rosbags; `pip install rosbags rosbags-image`") from None
    return SimpleNamespace(
        AnyReader=AnyReader, AnyReaderError=AnyReaderError, StoragePlugin=StoragePlugin, Writer=Writer,
        Stores=Stores, get_typestore=get_typestore, get_types_from_msg=get_types_from_msg,
    )  # fmt: skip


def _stamp_ns(message) -> int:
    return message.header.stamp.sec * NS + message.header.stamp.nanosec


def _full_scale(data, dtype: str, zero: int) -> np.ndarray:
    """Raw samples as float32 in [-1, 1]."""
    kind = np.dtype(dtype)
    values = np.asarray(data)
    if kind.kind == "f" or values.dtype != np.uint8 or kind.itemsize == 1:
        values = values.view(kind) if values.dtype == np.uint8 else values
    else:
        values = values[: len(values) // kind.itemsize * kind.itemsize].view(kind)
    scale = 1.0 if kind.kind == "f" else 2.0 ** (8 * kind.itemsize - 1)
    return ((values.astype(np.float32) - zero) / scale).astype(np.float32)
