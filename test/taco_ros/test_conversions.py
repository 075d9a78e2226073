"""Messages to taco types and back."""

import array
import dataclasses
import tracemalloc

import cv2
import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from taco.errors import ValueRangeError
from taco.palette import colour_of
from taco.tracking import Track
from taco.types import VERDICTS, SoundingObject, SoundingScene
from taco_ros.conversions import (
    MessageError,
    compressed_message,
    image_message,
    image_to_frame,
    map_message,
    mask_color_message,
    mask_message,
    ns_to_stamp,
    orient,
    restore,
    restore_scene,
    scene_from_message,
    scene_message,
    stamp_to_ns,
    tracks_message,
)
from taco_ros.msg import SoundingObjectArray

RNG = np.random.default_rng(0)
HEADER = Header(stamp=ns_to_stamp(12_345_678_901), frame_id="cam")


def smooth_picture(height=48, width=64):
    """A picture without hard edges, so that Bayer and YUV come near it."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    return np.stack([40 + 2.5 * x, 60 + 3 * y, 200 - 1.5 * x - y], -1).clip(0, 255).astype(np.uint8)


def bayer(rgb, order):
    rows = {"rggb": ((0, 1), (1, 2)), "bggr": ((2, 1), (1, 0)), "gbrg": ((1, 2), (0, 1)), "grbg": ((1, 0), (2, 1))}[order]
    out = np.zeros(rgb.shape[:2], np.uint8)
    for i in (0, 1):
        for j in (0, 1):
            out[i::2, j::2] = rgb[i::2, j::2, rows[i][j]]
    return out


def yuv(rgb, order):
    y, u, v = np.moveaxis(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV), -1, 0)
    # OpenCV reads packed YUV as BT.601 in the studio range
    y = (16 + y.astype(np.float32) * 219 / 255).round().astype(np.uint8)
    full = rgb.astype(np.float32)
    cb = 128 - 0.148 * full[..., 0] - 0.291 * full[..., 1] + 0.439 * full[..., 2]
    cr = 128 + 0.439 * full[..., 0] - 0.368 * full[..., 1] - 0.071 * full[..., 2]
    y = 16 + 0.257 * full[..., 0] + 0.504 * full[..., 1] + 0.098 * full[..., 2]
    chroma = np.where(np.arange(rgb.shape[1]) % 2 == 0, cb, cr)
    pair = (chroma, y) if order == "uyvy" else (y, chroma)
    return np.stack(pair, -1).round().clip(0, 255).astype(np.uint8)


def encode(rgb, encoding):
    """Pixels of ``rgb`` in an encoding, and how far they may come back from it."""
    grey = np.repeat(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    alpha = np.full((*rgb.shape[:2], 1), 77, np.uint8)
    if encoding.startswith("bayer"):
        mosaic = bayer(rgb, encoding[6:10])
        return (mosaic.astype(np.uint16) * 257 if encoding.endswith("16") else mosaic), rgb, 12
    return {
        "rgb8": lambda: (rgb, rgb, 0),
        "bgr8": lambda: (rgb[..., ::-1], rgb, 0),
        "8UC3": lambda: (rgb[..., ::-1], rgb, 0),
        "rgba8": lambda: (np.concatenate([rgb, alpha], 2), rgb, 0),
        "bgra8": lambda: (np.concatenate([rgb[..., ::-1], alpha], 2), rgb, 0),
        "mono8": lambda: (grey[..., 0], grey, 0),
        "8UC1": lambda: (grey[..., 0], grey, 0),
        "mono16": lambda: (grey[..., 0].astype(np.uint16) * 257, grey, 1),
        "16UC1": lambda: (grey[..., 0].astype(np.uint16) * 257, grey, 1),
        "rgb16": lambda: (rgb.astype(np.uint16) * 257, rgb, 1),
        "yuv422": lambda: (yuv(rgb, "uyvy"), rgb, 6),
        "uyvy": lambda: (yuv(rgb, "uyvy"), rgb, 6),
        "yuv422_yuy2": lambda: (yuv(rgb, "yuyv"), rgb, 6),
        "yuyv": lambda: (yuv(rgb, "yuyv"), rgb, 6),
    }[encoding]()


ENCODINGS = ["rgb8", "bgr8", "8UC3", "rgba8", "bgra8", "mono8", "8UC1", "mono16", "16UC1", "rgb16"]
ENCODINGS += ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"] + [
    f"bayer_{o}{d}" for o in ("rggb", "bggr", "gbrg", "grbg") for d in (8, 16)
]


def message_of(pixels, encoding, padding=0, big=False):
    rows = pixels.astype(pixels.dtype.newbyteorder(">")) if big else pixels
    data = np.ascontiguousarray(rows).view(np.uint8).reshape(pixels.shape[0], -1)
    step = data.shape[1] + padding
    data = np.concatenate([data, RNG.integers(0, 255, (len(data), padding), np.uint8)], 1)
    height, width = pixels.shape[:2]
    return Image(
        header=HEADER,
        height=height,
        width=width,
        encoding=encoding,
        step=step,
        is_bigendian=int(big),
        data=array.array("B", data.tobytes()),
    )


@pytest.mark.parametrize("padding", (0, 7))
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_with_and_without_row_padding(encoding, padding):
    rgb = smooth_picture()
    pixels, wanted, tolerance = encode(rgb, encoding)
    frame = image_to_frame(message_of(pixels, encoding, padding))
    assert frame.stamp_ns == 12_345_678_901 and frame.rgb.flags.c_contiguous
    inner = (slice(2, -2), slice(2, -2))  # Bayer borders are guesses
    assert np.abs(frame.rgb[inner].astype(int) - wanted[inner].astype(int)).max() <= tolerance


@pytest.mark.parametrize("encoding", ("mono16", "rgb16", "bayer_rggb16"))
def test_big_endian(encoding):
    """Of values whose two bytes differ: read the wrong way round they would be other pictures."""
    pixels, _, _ = encode(smooth_picture(), encoding)
    pixels = (pixels & 0xFF00) | np.random.default_rng(2).integers(0, 256, pixels.shape, np.uint16)
    little, big = (image_to_frame(message_of(pixels, encoding, big=big)).rgb for big in (False, True))
    assert np.array_equal(little, big)
    assert not np.array_equal(little, image_to_frame(message_of(pixels.byteswap(), encoding)).rgb)


@pytest.mark.parametrize("kind, tolerance", (("png", 0), ("jpeg", 12)))
@pytest.mark.parametrize("grey", (False, True))
def test_compressed_images(kind, tolerance, grey):
    rgb = smooth_picture()
    if grey:
        rgb = np.repeat(rgb[..., :1], 3, 2)
    data = cv2.imencode(f".{kind}", rgb[..., 0] if grey else rgb[..., ::-1])[1]
    message = CompressedImage(header=HEADER, format=f"bgr8; {kind} compressed bgr8", data=array.array("B", data.tobytes()))
    assert np.abs(image_to_frame(message).rgb.astype(int) - rgb).max() <= tolerance


def test_bad_images_name_their_fault():
    good = message_of(smooth_picture(), "rgb8")
    cases = {
        "image_stamp": {"header": Header()},
        "image_encoding": {"encoding": "32FC1"},
        "image_size": {"width": 65},
    }
    for reason, changes in cases.items():
        message = message_of(smooth_picture(), "rgb8")
        for name, value in changes.items():
            setattr(message, name, value)
        with pytest.raises(MessageError) as caught:
            image_to_frame(message)
        assert caught.value.reason == reason
    for changes, reason in (({"height": 0}, "image_size"), ({"data": good.data[:-1]}, "image_size")):
        message = message_of(smooth_picture(), "rgb8")
        for name, value in changes.items():
            setattr(message, name, value)
        with pytest.raises(MessageError, match="wanted") as caught:
            image_to_frame(message)
        assert caught.value.reason == reason
    for data, form, reason in (
        (b"", "jpeg", "image_data"),
        (b"junk", "png", "image_data"),
        (b"x", "16UC1; compressedDepth", "image_encoding"),
    ):
        with pytest.raises(MessageError) as caught:
            image_to_frame(CompressedImage(header=HEADER, format=form, data=array.array("B", data)))
        assert caught.value.reason == reason


@pytest.mark.parametrize("mirror", (False, True))
@pytest.mark.parametrize("rotation", (0, 90, 180, 270))
def test_orientation_is_undone_in_the_outputs(rotation, mirror):
    rgb = smooth_picture(30, 50)
    turned = orient(rgb, rotation, mirror)
    assert np.array_equal(restore(turned, rotation, mirror), rgb)
    wanted = cv2.rotate(rgb, {90: 0, 180: 1, 270: 2}[rotation]) if rotation else rgb
    assert np.array_equal(turned, wanted[:, ::-1] if mirror else wanted)
    mask = np.zeros((30, 50), bool)
    mask[3:9, 20:45] = True
    thing = SoundingObject.from_mask(orient(mask, rotation, mirror), (("bell", 0.5),), 0.7, 4)
    size = orient(mask, rotation, mirror).shape
    scene = SoundingScene(
        1, size, 0, 1, -20.0, 0.7, "sounding", (thing,), confidence=orient(mask, rotation, mirror).astype(np.float32)
    )
    back = restore_scene(scene, rotation, mirror)
    assert back.size == (30, 50) and back.objects[0].box == (20, 3, 25, 6) and back.objects[0].id == 4
    assert np.array_equal(back.objects[0].mask, mask) and np.array_equal(back.confidence, mask)
    for x, y, w, h in ((20, 3, 25, 6), (0, 0, 1, 1), (49, 29, 1, 1), (0, 10, 50, 3)):  # of things without an outline too
        mask = np.zeros((30, 50), bool)
        mask[y : y + h, x : x + w] = True
        turned_box = SoundingObject.from_mask(orient(mask, rotation, mirror), (("bell", 0.5),), 0.7).box
        bare = SoundingObject.from_box(turned_box, size, (("bell", 0.5),), 0.7, 4)
        (back,) = restore_scene(dataclasses.replace(scene, objects=(bare,)), rotation, mirror).objects
        assert back.box == (x, y, w, h) and back.mask.shape == (30, 50) and not back.mask.any() and back.id == 4


def two_things():
    first, second = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    first[2:10, 3:12], second[8:18, 10:29] = True, True
    second[12, 12] = False
    things = (
        SoundingObject.from_mask(first, (("bell", 0.75), ("clock", 0.25)), 0.5, 300),
        SoundingObject.from_mask(second, (("dog", 0.875),), 0.75, 2),
    )
    head = (12_345_678_901, (20, 30), 11_000_000_000, 12_000_000_000, -31.5, 0.75, "sounding")
    return SoundingScene(*head, things, heard=(("Bark", 0.875), ("Church bell", 0.5)))


def test_scene_there_and_back():
    scene = two_things()
    message = scene_message(scene, HEADER)
    assert message.header == HEADER and not message.objects[0].place
    assert [found.mask.header for found in message.objects] == [HEADER, HEADER]  # a crop is a picture of its own
    assert (message.objects[0].label, message.objects[0].other_labels) == ("bell", ["clock"])
    assert (message.verdict, message.heard) == (message.SOUNDING, ["Bark", "Church bell"])
    back = scene_from_message(message, scene.size)
    assert (back.verdict, back.heard) == (scene.verdict, scene.heard)
    assert (back.stamp_ns, back.window_start_ns, back.window_end_ns, back.level_dbfs) == (
        12_345_678_901,
        11 * 10**9,
        12 * 10**9,
        -31.5,
    )
    for old, new in zip(scene.objects, back.objects):
        assert (old.id, old.labels, old.score, old.box) == (new.id, new.labels, new.score, new.box)
        assert np.array_equal(old.mask, new.mask)


def test_the_verdicts_are_the_constants_of_the_message():
    told = [getattr(SoundingObjectArray, verdict.upper()) for verdict in VERDICTS]
    assert told == list(VERDICTS)
    for verdict in VERDICTS:
        scene = SoundingScene(5, (20, 30), 0, 1, -40.0, 0.1, verdict, heard=(("Rain", 0.75),))
        back = scene_from_message(scene_message(scene, HEADER), scene.size)
        assert (back.verdict, back.heard, back.objects) == (verdict, (("Rain", 0.75),), ())


def test_a_thing_without_an_outline_is_published_with_its_box():
    thing = SoundingObject.from_box((3, 2, 6, 4), (20, 30), (("dog", 0.875),), 0.75, 2)
    scene = SoundingScene(5, (20, 30), 0, 1, -40.0, 0.75, "no_mask", (thing,))
    message = scene_message(scene, HEADER)
    mask = message.objects[0].mask
    assert (mask.width, mask.height, len(mask.data)) == (6, 4, 24) and not any(mask.data)
    assert not any(mask_message(scene, HEADER).data)
    (back,) = scene_from_message(message, scene.size).objects
    assert (back.id, back.labels, back.box) == (2, thing.labels, thing.box) and not back.mask.any()


def test_a_foreign_message_that_does_not_fit_together_is_said():
    message = scene_message(two_things(), HEADER)
    message.heard_scores = array.array("f", [0.5])
    with pytest.raises(MessageError, match="wanted as many heard_scores as heard, got 2 and 1") as error:
        scene_from_message(message, (20, 30))
    assert error.value.reason == "objects"
    message = scene_message(two_things(), HEADER)
    message.verdict = "loud"
    with pytest.raises(ValueRangeError, match="wanted sounding, silent.*got 'loud'"):
        scene_from_message(message, (20, 30))


def test_empty_scene():
    message = scene_message(SoundingScene(5, (20, 30), 0, 1, -200.0, 0.0, "silent"), HEADER)
    assert message.objects == [] and message.level == -200.0
    assert not np.frombuffer(mask_message(SoundingScene(5, (20, 30), 0, 1, -200.0, 0.0, "silent"), HEADER).data, np.uint8).any()
    empty = map_message(None, (2, 3), HEADER)
    assert (empty.height, empty.width, empty.step, len(empty.data)) == (2, 3, 12, 24) and not any(empty.data)


def test_mask_pixels_are_ids():
    pixels = np.frombuffer(mask_message(two_things(), HEADER).data, np.uint8).reshape(20, 30)
    assert set(np.unique(pixels)) == {0, 2, 45}  # 300 starts over after 255
    assert pixels[3, 4] == 45 and pixels[9, 11] == 2  # the better score lies on top


def test_the_coloured_mask_has_the_colours_of_the_words():
    message = mask_color_message(two_things(), HEADER)
    pixels = np.frombuffer(message.data, np.uint8).reshape(20, 30, 3)
    assert (message.encoding, message.step, message.header) == ("rgb8", 90, HEADER)
    assert tuple(pixels[3, 4]) == colour_of("bell") and tuple(pixels[9, 11]) == colour_of("dog"), "the better one on top"
    assert {tuple(pixel) for pixel in pixels.reshape(-1, 3)} == {(0, 0, 0), colour_of("bell"), colour_of("dog")}


@pytest.mark.parametrize("kind, error", (("jpeg", 3), ("png", 0)))
def test_compressed_pictures_come_back(kind, error):
    rgb = smooth_picture()
    message = compressed_message(rgb, kind, HEADER)
    assert (message.format, message.header) == (f"rgb8; {kind} compressed bgr8", HEADER)
    assert np.abs(image_to_frame(message).rgb.astype(int) - rgb).mean() <= error


@pytest.mark.parametrize("ns", (0, 1, 999_999_999, 1_000_000_000, 1_795_380_133_866_593_078))
def test_stamps(ns):
    assert stamp_to_ns(ns_to_stamp(ns)) == ns


def test_image_message_takes_any_array():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)[:, ::-1]
    message = image_message(pixels, "rgb8", HEADER)
    assert message.step == 9 and np.array_equal(np.frombuffer(message.data, np.uint8).reshape(2, 3, 3), pixels)


@pytest.mark.parametrize("kind", ("image", "mask", "colours", "map"))
def test_a_message_holds_the_only_copy_of_its_pixels(kind):
    """A message's constructor and its setters copy array fields once more each."""
    scene = SoundingScene(5, (1000, 1000), 0, 1, -40.0, 0.1, "silent", confidence=np.zeros((1000, 1000), np.float32))
    rgb = np.zeros((1000, 1000, 3), np.uint8)
    make = {
        "image": lambda: image_message(rgb, "rgb8", HEADER),
        "mask": lambda: mask_message(scene, HEADER),
        "colours": lambda: mask_color_message(scene, HEADER),
        "map": lambda: map_message(scene.confidence, scene.size, HEADER),
    }[kind]
    make()
    tracemalloc.start()
    message = make()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    made = {"image": 0, "mask": 1_000_000, "colours": 1_500_000, "map": 0}[kind]  # ids, colours on the way
    assert len(message.data) <= peak < 1.2 * len(message.data) + 2 * made


def test_tracks_under_the_header_of_their_image():
    """Seen from 1 s to 3 s, told at 3.5 s."""
    thing = SoundingObject.from_mask(np.ones((2, 2), bool), (("drum", 0.9),), 0.5, 7)
    track = Track(7, "fading", 1_000_000_000, 3_000_000_000, 3_500_000_000, thing, np.zeros((1, 1)), None)
    header = Header(stamp=ns_to_stamp(3_500_000_000), frame_id="camera")
    message = tracks_message([track], header)
    (told,) = message.tracks
    assert message.header == header and (told.id, told.label, told.state) == (7, "drum", "fading")
    assert (told.age, told.silent_for) == (2.5, 0.5)
    assert not tracks_message((), header).tracks
