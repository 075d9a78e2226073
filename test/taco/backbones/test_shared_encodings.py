"""Several images in one pass: the same as one by one, whatever their shapes; one that fails loses no other."""

import threading

import numpy as np
import pytest
import torch

from taco.backbones import stand_in
from taco.backbones.base import Backbones, ImageEncoder, encode_images
from taco.backbones.efficientnet import EfficientNetEncoder, EfficientNetLite0
from taco.backbones.openclip import OpenCLIPImageEncoder
from taco.backbones.shared_encodings import SharedEncodings
from taco.threads import SideThread
from taco.types import AudioWindow, Tokens, VideoFrame
from test.taco import synthetic_weights as synthetic

RATE = 16000
SIZES = ((96, 128), (128, 96), (96, 128), (60, 200))


def pictures(sizes=SIZES):
    """Stripes and blocks, a different lot for every frame; stamped with their number."""
    rng = np.random.default_rng(0)
    blocks = [rng.integers(0, 256, (4, 4, 3), np.uint8).repeat(50, 0).repeat(50, 1) for _ in sizes]
    return [VideoFrame(np.resize(rgb, (*size, 3)), number) for number, (rgb, size) in enumerate(zip(blocks, sizes))]


def efficientnet():
    torch.manual_seed(0)
    network = EfficientNetLite0()
    for module in network.modules():  # so that the features tell pictures apart
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data.normal_(0, 2.0 / module.weight[0].numel() ** 0.5)
    return EfficientNetEncoder(network, {"object": [1]}, image_size=96)


ENCODERS = {
    "efficientnet": efficientnet,
    "openclip": lambda: OpenCLIPImageEncoder(*synthetic.tiny_clip(), name=synthetic.TINY_NAME, image_size=synthetic.TINY_SIDE),
    "standin": stand_in.StandInImageEncoder,
}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_batch_is_one_by_one(name):
    encoder, frames = ENCODERS[name](), pictures()
    assert isinstance(encoder, ImageEncoder)
    together = encoder.encode_batch(frames)
    assert len(together) == len(frames)
    for frame, found in zip(frames, together):
        alone = encoder.encode(frame)
        assert (found.tokens.grid, found.size, found.padded_size) == (alone.tokens.grid, alone.size, alone.padded_size)
        scale = float(alone.tokens.values.abs().max())
        assert scale > 0.01 and alone.tokens.values.std() > 0.001
        torch.testing.assert_close(
            found.tokens.values, alone.tokens.values, rtol=1e-3, atol=1e-3 * scale
        )  # sums differ by threads
        assert set(found.pyramid) == set(alone.pyramid)
        for level, values in alone.pyramid.items():
            torch.testing.assert_close(found.pyramid[level], values, rtol=1e-3, atol=1e-3 * float(values.abs().max()))
    differ = (together[0].tokens.values - together[2].tokens.values).abs().max()
    assert differ > 0.01 * together[0].tokens.values.abs().max()  # rows are not mixed up: the two pictures of one shape differ


def test_one_pass_takes_the_time_of_one():
    encoder, frames = stand_in.StandInImageEncoder(50.0), pictures()
    window = silence()
    shared = SharedEncodings(Backbones(encoder, stand_in.StandInAudioEncoder(), stand_in.WORDS), frames)
    for frame in frames:
        shared.image(frame)
        shared.sound(window)
    assert 50 <= shared.total_ms["image"] < 4 * 50 and "sound" in shared.total_ms


class Plain:
    """An encoder without ``encode_batch``; fails on frames stamped 1."""

    name = "plain"

    def __init__(self):
        self.calls = []

    def encode(self, frame):
        self.calls.append(frame.stamp_ns)
        if frame.stamp_ns == 1:
            raise ValueError("broken")
        return f"features {frame.stamp_ns}"

    def encode_text(self, words):
        raise NotImplementedError


class Batching(Plain):
    """Another that fails as a whole where one frame is bad."""

    def encode_batch(self, frames):
        self.calls.append([frame.stamp_ns for frame in frames])
        if any(frame.stamp_ns == 1 for frame in frames):
            raise RuntimeError("out of memory")
        return [f"features {frame.stamp_ns}" for frame in frames]


def test_an_encoder_without_a_batch_takes_them_one_by_one():
    encoder = Plain()
    assert encode_images(encoder, pictures()[2:]) == ["features 2", "features 3"] and encoder.calls == [2, 3]
    assert encode_images(Batching(), pictures()[2:3]) == ["features 2"]


@pytest.mark.parametrize("kind", (Plain, Batching))
def test_one_image_that_fails_loses_no_other(kind):
    frames, encoder = pictures(), kind()
    shared = SharedEncodings(Backbones(encoder, None, ()), frames)
    assert shared.image(frames[0]) == "features 0"
    with pytest.raises(ValueError, match="broken"):
        shared.image(frames[1])
    assert [shared.image(frame) for frame in frames[2:]] == ["features 2", "features 3"]
    assert isinstance(shared.problem, (ValueError, RuntimeError))
    assert encoder.calls[-3:] == [1, 2, 3]  # the pass for all is not tried again


def test_all_go_in_one_pass_and_only_when_asked():
    frames, encoder = [frame for frame in pictures() if frame.stamp_ns != 1], Batching()
    shared = SharedEncodings(Backbones(encoder, None, ()), frames)
    assert encoder.calls == []
    assert [shared.image(frame) for frame in frames] == ["features 0", "features 2", "features 3"]
    assert encoder.calls == [[0, 2, 3]] and shared.problem is None


def silence(start_ns=0, level=0.0):
    return AudioWindow(np.full(1600, level, np.float32), 16000, start_ns)


def test_equal_windows_are_encoded_once():
    class CountingEncoder:
        calls = 0

        def encode(self, window):
            self.calls += 1
            return self.calls

    encoder = CountingEncoder()
    shared = SharedEncodings(Backbones(None, encoder, ()), [])
    assert [shared.sound(silence()), shared.sound(silence()), shared.sound(silence(level=0.1))] == [1, 1, 2]
    assert shared.sound(silence()) == 1 and encoder.calls == 2


def test_nothing_is_encoded_twice_and_its_time_is_known():
    frames, encoder = pictures(), Plain()
    shared = SharedEncodings(Backbones(encoder, None, ()))
    assert shared.image_ms(frames[0]) == 0 and shared.total_ms == {}
    assert [shared.image(frames[0]) for _ in range(3)] == ["features 0"] * 3 and encoder.calls == [0]
    again = VideoFrame(frames[0].rgb, 0)  # another object, whose id may be any: encoded for itself
    shared.image(again)
    assert encoder.calls == [0, 0] and 0 < shared.image_ms(frames[0]) < shared.total_ms["image"]


class Slow:
    """A sound encoder that waits until the image has begun, and notes its threads."""

    def __init__(self):
        self.image_has_begun, self.threads, self.alone = threading.Event(), [], 0

    def encode(self, window):
        self.threads.append(threading.current_thread())
        if not self.image_has_begun.wait(10):
            self.alone += 1
        if window.samples[0] < 0:
            raise ValueError("broken")
        return Tokens(torch.from_numpy(window.samples[:4, None].copy()), (1, 4))


def sided(encoder):
    return SharedEncodings(Backbones(None, encoder, (), side=SideThread()))


def test_a_sound_that_was_begun_is_encoded_beside_this_thread_and_once():
    encoder = Slow()
    shared, window = sided(encoder), silence(level=0.1)
    shared.begin(window)
    encoder.image_has_begun.set()
    assert float(shared.sound(window).values.sum()) == pytest.approx(0.4) and shared.sound_ms(window) > 0
    assert shared.sound(window) is shared.sound(window)
    shared.begin(window)  # known already
    assert len(encoder.threads) == 1 and encoder.threads[0] is not threading.current_thread() and not encoder.alone


def test_what_fails_beside_fails_where_it_is_asked_for_and_may_be_tried_again():
    encoder = Slow()
    encoder.image_has_begun.set()
    shared, window = sided(encoder), silence(level=-0.1)
    shared.begin(window)
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            shared.sound(window)
    assert len(encoder.threads) == 2


def test_one_thread_only_uses_the_sound_encoder():
    encoder = Slow()
    encoder.image_has_begun.set()
    shared = sided(encoder)
    shared.begin(silence(level=0.1))
    shared.begin(silence(level=0.1))  # another camera's frame
    for level in (0.1, 0.2):  # the second was not begun
        shared.sound(silence(level=level))
    assert len(encoder.threads) == 2 and len(set(encoder.threads)) == 1
    assert encoder.threads[0] is not threading.current_thread()


def hum_and_clicks():
    time_s = np.arange(RATE) / RATE
    hum = sum(np.sin(2 * np.pi * 220 * n * time_s) / n for n in range(1, 9))
    clicks = np.random.default_rng(1).normal(size=RATE) * np.exp(-(time_s % 0.125) / 0.004)
    return AudioWindow((0.05 * hum + 0.15 * clicks).astype(np.float32), RATE, 0)


def test_parts_are_the_same_begun_early_or_not():
    window = hum_and_clicks()
    early = SharedEncodings(Backbones(None, stand_in.StandInAudioEncoder(), (), side=SideThread()))
    early.begin(window, parts=True)
    late = SharedEncodings(Backbones(None, stand_in.StandInAudioEncoder(), ()))
    late.begin(window, parts=True)
    assert len(late.parts(window)) == 2
    assert all(torch.equal(a.values, b.values) for a, b in zip(early.parts(window), late.parts(window), strict=True))
    assert early.parts(window) is early.parts(window)


def test_a_window_that_cannot_be_taken_apart_has_no_parts():
    shared, short = sided(stand_in.StandInAudioEncoder()), AudioWindow(hum_and_clicks().samples[:900], RATE, 0)
    shared.begin(short, parts=True)
    assert shared.parts(short) == []
