"""When the outline network runs, and when the outline of a frame before is carried on."""

import cv2
import numpy as np
import pytest

from taco.segmentation.silhouette import LONGEST, SIDE, FrameOutlines, SilhouetteNetwork

BOX = (100, 80, 120, 100)


class Counting:
    engine, precision, size = "made", "float32", (SIDE, SIDE)

    def __init__(self):
        self.seen = []

    def __call__(self, values):
        self.seen.append(values)
        return {"out": np.full((1, 1, SIDE, SIDE), len(self.seen), np.float32)}


class Stream:
    """Frames one after another, each with the outlines of the one before."""

    def __init__(self):
        self.network, self.now = Counting(), {}

    def frame(self, rgb, *wanted):
        outlines = FrameOutlines(SilhouetteNetwork(self.network, "out"), rgb, self.now)
        found = [outlines.outline(box, name) for box, name in wanted]
        self.now = outlines.now
        return found

    def follow(self, rgb, box, name):
        return self.frame(rgb, (box, name))[0]

    @property
    def runs(self):
        return len(self.network.seen)


def picture(seed=0, size=(360, 480)):
    coarse = np.random.default_rng(seed).integers(0, 255, (12, 16, 3)).astype(np.uint8)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)


def window(large, x, y):
    return np.ascontiguousarray(large[y : y + 240, x : x + 320])


def test_the_network_sees_the_region_only_scaled_as_in_its_training():
    network = Counting()
    rgb = picture()
    rgb[80:180, 100:220] = (255, 0, 0)
    assert SilhouetteNetwork(network, "out").find(rgb, BOX).shape == (SIDE, SIDE)
    (values,) = network.seen
    assert values.shape == (1, 3, SIDE, SIDE) and values.dtype == np.float32
    wanted = (np.array([1.0, 0, 0]) - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    np.testing.assert_allclose(values[0, :, 10, 10], wanted, rtol=1e-5)


def test_a_still_picture_with_noise_keeps_its_outline_for_a_while():
    stream = Stream()
    rng = np.random.default_rng(1)
    for _ in range(LONGEST + 1):
        noisy = np.clip(picture() + rng.normal(0, 4, picture().shape), 0, 255).astype(np.uint8)
        outline, box = stream.follow(noisy, BOX, "dog")
        assert outline[0, 0] == 1 and box == BOX
    assert stream.follow(picture(), BOX, "dog")[0][0, 0] == 2  # and is looked for anew after that


def test_an_outline_moves_with_the_picture():
    large, stream = picture(size=(480, 640)), Stream()
    stream.follow(window(large, 100, 100), BOX, "dog")
    for step in range(1, 5):
        outline, box = stream.follow(window(large, 100 + 4 * step, 100 - 2 * step), BOX, "dog")
        assert outline[0, 0] == 1
        assert abs(box[0] - (BOX[0] - 4 * step)) <= 2 and abs(box[1] - (BOX[1] + 2 * step)) <= 2 and box[2:] == BOX[2:]


def test_an_outline_comes_nearer_with_the_picture():
    large, stream = picture(size=(480, 640)), Stream()
    stream.follow(large, (220, 140, 200, 200), "dog")
    for zoom in (1.03, 1.06, 1.09):
        matrix = np.float32([[zoom, 0, 320 * (1 - zoom)], [0, zoom, 240 * (1 - zoom)]])
        outline, box = stream.follow(cv2.warpAffine(large, matrix, (640, 480)), (220, 140, 200, 200), "dog")
        wanted = (320 - 100 * zoom, 240 - 100 * zoom, 200 * zoom, 200 * zoom)
        assert outline[0, 0] == 1 and np.abs(np.subtract(box, wanted)).max() <= 3, (zoom, box)


def test_two_old_outlines_are_not_looked_for_again_in_the_same_frame():
    stream = Stream()
    runs = []
    for _ in range(LONGEST + 3):
        stream.frame(picture(), (BOX, "dog"), (BOX, "cat"))
        runs.append(stream.runs)
    assert runs[0] == 2 and np.diff(runs).tolist() == [0] * LONGEST + [1, 1]


@pytest.mark.parametrize("change", ["picture", "region", "object", "size", "start", "forgotten"])
def test_whatever_changes_much_makes_the_network_look_again(change):
    stream = Stream()
    rgb = picture()
    stream.follow(rgb, BOX, "dog")
    box, name = BOX, "dog"
    if change == "picture":
        rgb = picture(5)
    elif change == "region":
        box = (250, 200, 100, 100)
    elif change == "object":
        name = "cat"
    elif change == "size":
        rgb = picture(size=(300, 480))
    elif change == "start":
        stream.now = {}
    else:
        stream.frame(rgb, (box, "cat"))
    assert stream.follow(rgb, box, name)[0][0, 0] == stream.runs and stream.runs == (3 if change == "forgotten" else 2)


def test_an_object_that_moves_before_a_still_background_is_looked_for_again():
    stream = Stream()
    for x, wanted in ((130, 1), (131, 1), (170, 2)):
        rgb = picture()
        rgb[100:150, x : x + 40] = (250, 250, 250)
        assert stream.follow(rgb, BOX, "dog")[0][0, 0] == wanted


class Clear(Counting):
    """What it finds is clear, but for the numbers given."""

    def __init__(self, *unclear):
        super().__init__()
        self.unclear = unclear

    def __call__(self, values):
        found = super().__call__(values)
        found["out"][...] = 0.5 if len(self.seen) in self.unclear else 0
        found["out"][0, 0, 50:150, 50:150] = 1
        return found


WIDER, WIDEST = (90, 70, 140, 120), (80, 60, 160, 140)


def test_a_first_frame_looks_at_wider_regions_at_once_but_not_for_ever():
    outlines = FrameOutlines(SilhouetteNetwork(Clear(), "out"), picture())
    outlines.outline(BOX, "dog")
    assert outlines.wider(WIDER, "dog")[1] == WIDER and outlines.wider(WIDEST, "dog")[1] == WIDEST
    assert outlines.wider((0, 0, 480, 360), "dog") is None and len(outlines.silhouette_network.network.seen) == 3


def test_a_later_frame_looks_at_the_wider_region_next_time_and_stays_with_it():
    stream, network = Stream(), Clear()
    stream.network = network
    stream.follow(picture(), BOX, "dog")
    outlines = FrameOutlines(SilhouetteNetwork(network, "out"), picture(), stream.now)
    assert outlines.outline(BOX, "dog")[1] == BOX and outlines.wider(WIDER, "dog") is None and len(network.seen) == 1
    stream.now = outlines.now
    assert stream.follow(picture(), BOX, "dog")[1] == WIDER and len(network.seen) == 2
    for _ in range(LONGEST + 1):
        assert stream.follow(picture(), BOX, "dog")[1] == WIDER
    assert len(network.seen) == 3  # looked for again, in the same region


def test_a_wider_region_that_shows_nothing_clear_is_given_up():
    network = Clear(2)
    first = FrameOutlines(SilhouetteNetwork(network, "out"), picture())
    first.outline(BOX, "dog")
    assert first.wider(WIDER, "dog") is None and first.now["dog"].box == BOX
    network = Clear(2)
    stream = Stream()
    stream.network = network
    stream.follow(picture(), BOX, "dog")
    for _ in range(3):
        outlines = FrameOutlines(SilhouetteNetwork(network, "out"), picture(), stream.now)
        assert outlines.outline(BOX, "dog")[1] == BOX and outlines.wider(WIDER, "dog") is None
        stream.now = outlines.now
    assert len(network.seen) == 2


def test_over_the_regions_before_an_outline_is_the_mean_of_all():
    class Fading(Clear):
        def __call__(self, values):
            found = super().__call__(values)
            item, ground = [(1.0, 0.12), (0.8, 0.0), (0.6, 0.0)][len(self.seen) - 1]
            found["out"][...] = np.where(found["out"] == 1, item, ground)
            return found

    outlines = FrameOutlines(SilhouetteNetwork(Fading(), "out"), picture())
    outlines.outline(BOX, "dog")
    middle, inside, outside = (SIDE // 2, SIDE // 2), (SIDE // 7, SIDE // 7), (4, 4)  # of the wider region, about BOX
    values, _ = outlines.wider(WIDER, "dog")
    assert [round(float(values[place]), 2) for place in (middle, inside, outside)] == [0.9, 0.06, 0.0]
    values, _ = outlines.wider(WIDEST, "dog")
    assert round(float(values[middle]), 2) == 0.8 and values[outside] == 0.0


def test_a_region_that_shrinks_keeps_the_outline_and_one_that_grows_does_not():
    """A map that answers in a part of the object for a while must not make the part the object."""
    stream = Stream()
    stream.follow(picture(), BOX, "dog")
    assert stream.follow(picture(), (140, 100, 40, 40), "dog")[1] == BOX and stream.runs == 1
    larger = (60, 40, 240, 200)
    assert stream.follow(picture(), larger, "dog")[1] == larger and stream.runs == 2
