"""The pixel decoder against other implementations, where they are installed, and by hand."""

import importlib.util
import io
from types import SimpleNamespace as Fields

import numpy as np
import pytest
from PIL import Image

from taco.errors import MessageError
from taco.io import pixels

RNG = np.random.default_rng(3)
PUBLIC = {"8UC1": "mono8", "8UC3": "bgr8", "16UC1": "mono16"}  # ours reads these as a camera means them


def message(encoding, big=False):
    depth, channels, _ = pixels.ENCODINGS[encoding]
    data = RNG.integers(0, 256, 16 * 24 * channels * depth, np.uint8)
    encoding = PUBLIC.get(encoding, encoding)
    return Fields(height=16, width=24, encoding=encoding, step=24 * channels * depth, is_bigendian=big, data=data)


@pytest.mark.parametrize("big", (False, True))
@pytest.mark.parametrize("encoding", pixels.ENCODINGS)
def test_as_rosbags_image_decodes_it(encoding, big):
    theirs = pytest.importorskip("rosbags.image").message_to_cvimage
    given = message(encoding, big and "16" in encoding)
    difference = pixels.rgb_of(given).astype(int) - theirs(given, "rgb8")
    assert difference.min() >= 0 and difference.max() <= ("16" in encoding), "ours rounds 16 bit, theirs cuts"


@pytest.mark.skipif(importlib.util.find_spec("cv_bridge") is None, reason="cv_bridge comes with ROS from apt, not from wheels")
@pytest.mark.parametrize("encoding", pixels.ENCODINGS)
def test_as_cv_bridge_decodes_it(encoding):
    from cv_bridge import CvBridge
    from sensor_msgs.msg import Image as ImageMessage

    given = message(encoding)
    told = {**vars(given), "is_bigendian": 0, "data": given.data.tobytes()}
    assert np.abs(pixels.rgb_of(given).astype(int) - CvBridge().imgmsg_to_cv2(ImageMessage(**told), "rgb8")).max() <= 1


def test_16_bit_values_are_rounded_over_the_full_range():
    values = np.array([[0, 128, 129, 257, 385, 386, 65535]], ">u2")
    out = pixels.unpack(values.view(np.uint8).ravel(), (1, 7), "mono16", big_endian=True)
    assert out[0, :, 1].tolist() == [0, 0, 1, 1, 1, 2, 255]


def test_a_size_that_an_encoding_cannot_have_is_one_line():
    with pytest.raises(MessageError, match="wanted a size that uyvy can have, got 3 x 2 px") as caught:
        pixels.unpack(np.zeros(12, np.uint8), (2, 3), "uyvy")
    assert caught.value.reason == "image_size"


def test_the_last_row_may_come_without_its_padding():
    data = np.arange(13, dtype=np.uint8)
    assert pixels.unpack(data, (2, 3), "mono8", step=10)[..., 0].tolist() == [[0, 1, 2], [10, 11, 12]]
    with pytest.raises(MessageError, match="got step 10 and 12 bytes"):
        pixels.unpack(data[:12], (2, 3), "mono8", step=10)
    with pytest.raises(MessageError, match="got step 2 and 13 bytes"):
        pixels.unpack(data, (2, 3), "mono8", step=2)


def test_a_cameras_jpeg_is_not_turned_by_its_orientation_tag():
    """node.rotation is the setting for that; a raw image of the same camera has no tag either."""
    picture = np.zeros((16, 32, 3), np.uint8)
    picture[:, :16] = 255
    stream, tags = io.BytesIO(), Image.Exif()
    tags[0x0112] = 6  # a quarter turn
    Image.fromarray(picture).save(stream, "jpeg", exif=tags, quality=95)
    out = pixels.decompress(np.frombuffer(stream.getvalue(), np.uint8), "jpeg")
    assert out.shape == (16, 32, 3) and out[:, :8].min() > 240 and out[:, 24:].max() < 15
