"""ROS 2 bags (sqlite3 and mcap) read and written without ROS, through ``rosbags``."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np

from taco.clock import NS
from taco.config import AudioConfig
from taco.errors import MediaError, MessageError, MissingPackageError
from taco.io.pcm import AUDIO_TYPES, chunk_of
from taco.io.pixels import rgb_of
from taco.types import VERDICTS, AudioChunk, SoundingObject, SoundingScene, VideoFrame

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
# Of the two packages named audio_common_msgs, for bags that carry no definitions (rosbag2 before Iron in SQLite).
AUDIO_COMMON = {
    "audio_common_msgs/msg/AudioData": "uint8[] data\n",
    "audio_common_msgs/msg/AudioDataStamped": "std_msgs/Header header\naudio_common_msgs/AudioData audio\n",
    "audio_common_msgs/msg/AudioInfo": (
        "uint8 channels\nuint32 sample_rate\nstring sample_format\nuint32 bitrate\nstring coding_format\n"
    ),
}
AUDIO_COMMON_MGONZS13 = {
    "audio_common_msgs/msg/AudioData": (
        "float32[] float32_data\nint32[] int32_data\nint16[] int16_data\nint8[] int8_data\nuint8[] uint8_data\n"
    ),
    "audio_common_msgs/msg/AudioInfo": "int32 format\nint32 channels\nint32 rate\nint32 chunk\n",
    "audio_common_msgs/msg/Audio": "audio_common_msgs/AudioData audio_data\naudio_common_msgs/AudioInfo info\n",
    "audio_common_msgs/msg/AudioStamped": "std_msgs/Header header\naudio_common_msgs/Audio audio\n",
}
IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
MGONZS13 = "audio_common_msgs/msg/AudioStamped"  # only the package of mgonzs13 has it
INFO_TYPE = "audio_common_msgs/msg/AudioInfo"
FILE_START_NS = NS  # a stamp of 0 means none in ROS, so files, which have no clock, start at second 1


def is_bag(path: str | Path) -> bool:
    """Whether this is a bag's folder, or one file of it."""
    path = Path(path)
    return (path / "metadata.yaml").exists() or path.suffix in (".mcap", ".db3")


class BagReader:
    """Camera images and sound of a bag, by their own stamps; seconds count from the first image.

    image_topic, audio_topic: empty ones are found by type; several candidates are an error that names them.
    MediaError: not a bag, damaged, or neither topic in it.
    """

    def __init__(self, path: str | Path, *, image_topic: str = "", audio_topic: str = "", audio: AudioConfig | None = None):
        self.path, self.audio = Path(path), audio or AudioConfig()
        with open_bag(self.path) as reader:
            if not reader.connections:
                raise MediaError(f"{self.path}: wanted a bag with images and sound, got an empty one")
            self.image_topic = self._choose(reader, IMAGE_TYPES, image_topic, "images", "--image-topic")
            self.audio_topic = self._choose(reader, tuple(AUDIO_TYPES), audio_topic, "sound", "--audio-topic")
            infos = {c.topic for c in reader.connections if c.msgtype == INFO_TYPE and c.msgcount}
            alike = lambda topic: len(os.path.commonprefix([topic, self.audio_topic]))  # noqa: E731
            self._info_topic = max(sorted(infos), key=alike, default="")  # of the same namespace, as the node's is
            self.duration_s = reader.duration / NS
            count = sum(c.msgcount for c in reader.connections if c.topic == self.image_topic)
            self.fps = max(0.1, count / self.duration_s) if self.duration_s > 0 else 10.0
        self.frame_ids: dict[int, str] = {}  # of the frames read, by stamp
        stamps = (_stamp_ns(message) for _, message, _ in self._messages(self.image_topic))
        self.origin_ns = next((stamp_ns for stamp_ns in stamps if stamp_ns > 0), 0)
        if not self.origin_ns:
            raise MediaError(
                f"{self.path}: wanted stamped images on {self.image_topic}, got none; the camera driver must stamp its images"
            )

    def frames(
        self, start_s: float = 0.0, end_s: float = math.inf, wanted: Callable[[int], bool] = lambda stamp_ns: True
    ) -> Iterator[VideoFrame]:
        """Images in [start_s, end_s) after the first one; stamps that do not rise, and 0, are left out."""
        previous_ns = 0
        for _, message, _ in self._messages(self.image_topic):
            stamp_ns = _stamp_ns(message)
            self.frame_ids[stamp_ns] = message.header.frame_id
            after_s = (stamp_ns - self.origin_ns) / NS
            if stamp_ns <= previous_ns or after_s < start_s or after_s >= end_s or not wanted(stamp_ns):
                continue
            previous_ns = stamp_ns
            with self._errors(self.image_topic):
                rgb = rgb_of(message)
            yield VideoFrame(rgb, stamp_ns)

    def chunks(self, start_s: float = -math.inf) -> Iterator[AudioChunk]:
        """The sound from about ``start_s`` after the first image on, as ``taco.io.pcm.chunk_of`` decodes it live."""
        info = next((message for _, message, _ in self._messages(self._info_topic)), None)
        for topic, message, arrival_ns in self._messages(self.audio_topic, self._info_topic):
            if topic == self._info_topic:
                info = message
                continue
            with self._errors(topic):
                chunk = chunk_of(message, self.audio, info, arrival_ns)
            if chunk.end_ns - self.origin_ns >= start_s * NS:
                yield chunk

    def _choose(self, reader: Any, types: tuple[str, ...], wanted: str, what: str, option: str) -> str:
        topics: dict[str, str] = {c.topic: c.msgtype for c in reader.connections if c.msgtype in types and c.msgcount}
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

    def _messages(self, *topics: str) -> Iterator[tuple[str, Any, int]]:
        """(topic, message, time of recording in ns) in the order of recording."""
        with open_bag(self.path) as reader:
            chosen = [connection for connection in reader.connections if connection.topic in topics]
            for connection, arrival_ns, raw in reader.messages(chosen) if chosen else ():
                yield connection.topic, reader.deserialize(raw, connection.msgtype), arrival_ns

    @contextlib.contextmanager
    def _errors(self, topic: str) -> Iterator[None]:
        """Name the bag and topic of a message that cannot be used."""
        try:
            yield
        except MessageError as error:
            raise MediaError(f"{self.path}: {topic}: {error}") from None


class BagWriter:
    """The node's messages, ``objects`` and ``mask``, in a new bag that gets its name only when it is complete.

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
        array = types["taco_ros/msg/SoundingObjectArray"](
            header=header,
            audio_window_start=self._time(scene.window_start_ns),
            audio_window_end=self._time(scene.window_end_ns),
            level=float(scene.level_dbfs),
            sounding_score=float(scene.sounding_score),
            verdict=scene.verdict,
            heard=[word for word, _ in scene.heard],
            heard_scores=np.array([score for _, score in scene.heard], np.float32),
            objects=[self._object(found, header) for found in scene.objects],
        )
        values = np.zeros(256, np.uint8)
        for index, found in enumerate(scene.objects[:255]):
            values[index + 1] = (found.id - 1) % 255 + 1
        mask = self._image(values[scene.instance_mask()], header)
        with self._errors():
            for name, message in (("objects", array), ("mask", mask)):
                topic = self._topics[name]
                self._writer.write(topic, scene.stamp_ns, store.serialize_cdr(message, topic.msgtype))

    def _object(self, found: SoundingObject, header: Any) -> Any:
        types = self._store.types
        x, y, w, h = found.box
        crop = found.mask[y : y + h, x : x + w].astype(np.uint8) * np.uint8(255)
        box = types["sensor_msgs/msg/RegionOfInterest"](x_offset=x, y_offset=y, height=h, width=w, do_rectify=False)
        return types["taco_ros/msg/SoundingObject"](
            id=found.id,
            label=found.labels[0][0],
            label_score=float(found.labels[0][1]),
            other_labels=[word for word, _ in found.labels[1:]],
            other_label_scores=np.array([score for _, score in found.labels[1:]], np.float32),
            score=float(found.score),
            bounding_box=box,
            mask=self._image(crop, header),
            place=[],
        )

    def _time(self, ns: int) -> Any:
        sec, nanosec = divmod(max(0, int(ns)), NS)
        return self._store.types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)

    def _header(self, ns: int, frame_id: str) -> Any:
        return self._store.types["std_msgs/msg/Header"](stamp=self._time(ns), frame_id=frame_id)

    def _image(self, pixels: np.ndarray, header: Any) -> Any:
        rows, columns = pixels.shape
        kind = self._store.types["sensor_msgs/msg/Image"]
        data = np.ascontiguousarray(pixels).ravel()
        return kind(header=header, height=rows, width=columns, encoding="mono8", is_bigendian=0, step=columns, data=data)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            with self._errors():
                self._writer.close()
                if kind is None:
                    self._part.rename(self.path)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise MediaError(f"cannot write {self.path}: {error.strerror or error}") from None


@contextlib.contextmanager
def open_bag(path: Path) -> Iterator[Any]:
    """A bag as rosbags' AnyReader with audio_common_msgs known; MediaError where it cannot be read."""
    rosbags = _rosbags()
    import sqlite3

    try:
        with rosbags.AnyReader([path], default_typestore=typestore()) as reader:
            kinds = {connection.msgtype for connection in reader.connections}
            if kinds - set(reader.typestore.types):
                _register(reader.typestore, AUDIO_COMMON_MGONZS13 if MGONZS13 in kinds else AUDIO_COMMON)
            yield reader
    except MediaError:
        raise
    except (rosbags.AnyReaderError, OSError, ValueError, KeyError, AssertionError, sqlite3.Error) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise MediaError(f"{path}: wanted a whole ROS 2 bag, cannot read this one: {text}") from None


def typestore() -> Any:
    """rosbags' types of ROS 2 Jazzy and this package's messages."""
    rosbags = _rosbags()
    store = rosbags.get_typestore(rosbags.Stores.ROS2_JAZZY)
    _register(store, DEFINITIONS)
    return store


def _register(store: Any, definitions: dict[str, str]) -> None:
    rosbags = _rosbags()
    kinds = {}
    for name, text in definitions.items():
        kinds.update(rosbags.get_types_from_msg(text, name))
    store.register({name: fields for name, fields in kinds.items() if name not in store.types})


def _rosbags() -> SimpleNamespace:
    try:
        from rosbags.highlevel import AnyReader, AnyReaderError
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_types_from_msg, get_typestore
    except ImportError:
        raise MissingPackageError("reading and writing bags needs rosbags; `pip install rosbags`") from None
    return SimpleNamespace(
        AnyReader=AnyReader, AnyReaderError=AnyReaderError, StoragePlugin=StoragePlugin, Writer=Writer,
        Stores=Stores, get_typestore=get_typestore, get_types_from_msg=get_types_from_msg,
    )  # fmt: skip


def _stamp_ns(message: Any) -> int:
    return int(message.header.stamp.sec * NS + message.header.stamp.nanosec)
