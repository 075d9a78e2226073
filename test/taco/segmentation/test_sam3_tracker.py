"""SAM 3's tracker: numbers that stay over images, bounded memory, and ids of objects that follow them."""

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from taco.config import TacoConfig
from taco.errors import ConfigError, WeightsError
from taco.pipeline import TacoPipeline
from taco.segmentation.activation import ActivationSegmenter
from taco.segmentation.sam3 import Sam3Segmenter
from taco.segmentation.sam3_network import Sam3Network
from taco.segmentation.sam3_tracker import KEPT_FRAMES, MOST, Tracks
from taco.tracking import Tracker
from taco.types import VideoFrame
from test.taco import synthetic_weights as synthetic
from test.taco import tiny_saved
from test.taco.segmentation.test_sam3 import LEFT, RIGHT, SIZE, MadeNetwork, disc, picture, tone


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_saved.save_sam3(tmp_path_factory.mktemp("models"), model=tiny_saved.sam3_video_model())


@pytest.fixture(scope="module")
def network(folder):
    return Sam3Network.from_folder(folder, device="cpu", track=True)


def square(low=4, high=20):
    mask = np.zeros((32, 32), bool)
    mask[low:high, low:high] = True
    return mask


def test_what_is_added_is_followed_with_its_number(network):
    image, tracker = network.encode(synthetic.picture()), network.tracker
    tracks, found = tracker.follow(None, image)
    assert found == {} and tracks.frame == 0
    (first,) = tracker.add(tracks, "dog", [square()])
    tracks, found = tracker.follow(tracks, image)
    assert list(found) == [first] and found[first].shape == (32, 32) and 0 <= found[first].min() <= found[first].max() <= 1
    second, third = tracker.add(tracks, "cat", [square(0, 8), square(20, 30)])
    tracks, found = tracker.follow(tracks, image)
    assert list(found) == [first, second, third] and tracks.words == {first: "dog", second: "cat", third: "cat"}
    other, _ = tracker.follow(None, image)
    assert not set(tracker.add(other, "dog", [square()])) & set(found)  # another stream has numbers of its own


def test_a_stream_needs_bounded_memory(network):
    image, tracker = network.encode(synthetic.picture()), network.tracker
    tracks, _ = tracker.follow(None, image)
    (number,) = tracker.add(tracks, "dog", [square()])
    sizes = []
    for _ in range(3 * KEPT_FRAMES // 2):
        tracks, found = tracker.follow(tracks, image)
        if number in found:
            tracks.seen[number] = tracks.frame
        outputs = tracks.session.output_dict_per_obj[0]
        sizes.append((len(outputs["non_cond_frame_outputs"]), len(tracks.session.frames_tracked_per_obj[0])))
    assert sizes[-1] == sizes[10] and max(sizes) <= (6, 6) and len(tracks.session.cache._vision_features) == 1
    for _ in range(KEPT_FRAMES + 1):  # never confirmed again
        tracks, found = tracker.follow(tracks, image)
    assert found == {} and tracks.words == {} and tracks.session.obj_ids == []
    assert tracker.add(tracks, "dog", [square()])[0] in tracker.follow(tracks, image)[1]


@pytest.mark.parametrize("count", [MOST, 2 * MOST + 1])
def test_all_make_room_for_as_many_new_ones_in_the_same_image(network, count):
    image, tracker = network.encode(synthetic.picture()), network.tracker
    masks = [square(n % 20, n % 20 + 9) for n in range(count)]
    tracks, _ = tracker.follow(None, image)
    tracker.add(tracks, "dog", masks)
    new = tracker.add(tracks, "cat", masks)
    assert len(new) == count
    for _ in range(2):
        tracks, found = tracker.follow(tracks, image)
        assert list(found) == new[:MOST]


def test_after_an_image_that_failed_the_stream_begins_anew(network, monkeypatch):
    image, tracker = network.encode(synthetic.picture()), network.tracker
    tracks, _ = tracker.follow(None, image)
    with monkeypatch.context() as patch:
        patch.setattr(type(tracker.model), "forward", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tracker.add(tracks, "dog", [square()])
    again, found = tracker.follow(tracks, image)
    assert found == {} and again is not tracks
    assert tracker.add(again, "dog", [square()])[0] in tracker.follow(again, image)[1]


def test_the_oldest_make_room_for_new_ones(network):
    image, tracker = network.encode(synthetic.picture()), network.tracker
    tracks, _ = tracker.follow(None, image)
    first = tracker.add(tracks, "dog", [square(n, n + 9) for n in range(MOST - 1)])
    tracks, _ = tracker.follow(tracks, image)
    tracks.seen[first[0]] = tracks.frame  # confirmed: stays
    new = tracker.add(tracks, "cat", [square(1, 30), square(2, 30)])
    assert set(tracks.words) == {first[0], *first[2:], *new} and len(tracks.words) == MOST


class MadeTracker:
    """Follows the discs as they were told, and moves them with the picture."""

    def __init__(self):
        self.masks, self.next = {}, 1

    def follow(self, tracks, image):
        tracks = tracks or Tracks(None)
        tracks.frame += 1
        return tracks, {n: mask for n, mask in self.masks.items() if n in tracks.words}

    def add(self, tracks, word, masks):
        numbers = list(range(self.next, self.next + len(masks)))
        self.next += len(masks)
        for number, mask in zip(numbers, masks):
            self.masks[number] = mask.astype(np.float32)
            tracks.words[number], tracks.seen[number] = word, tracks.frame
        return numbers


def tracked_line(found):
    network = MadeNetwork({"red": found})
    network.tracker = MadeTracker()
    config = TacoConfig().updated({"models.image": "standin", "segmentation.refine": "edges"})
    return TacoPipeline(config, segmenter=Sam3Segmenter(network, ActivationSegmenter()))


def test_instances_keep_their_numbers_and_objects_their_ids():
    pipeline, ids = tracked_line([disc(LEFT), disc(RIGHT)]), Tracker()
    pipeline.set_config(pipeline.config.updated({"segmentation.instances": "apart"}))
    frame, seen = picture(left=(220, 30, 30), right=(220, 30, 30)), []
    for stamp in range(3):
        pipeline.segmenter.network.found["red"].reverse()
        objects = ids.update(pipeline.process(VideoFrame(frame, stamp * 100_000_000), tone(300))).objects
        seen.append({"left" if item.mask[LEFT[::-1]] else "right": (item.followed, item.id) for item in objects})
    assert seen[0] == seen[1] == seen[2] and set(seen[0]) == {"left", "right"}
    assert {number for number, _ in seen[0].values()} == {1, 2} == {id for _, id in seen[0].values()}


def test_what_sam_loses_is_followed_on():
    pipeline = tracked_line([disc(LEFT)])
    frame = picture(left=(220, 30, 30))
    first = pipeline.process(VideoFrame(frame, 0), tone(300)).objects[0]
    pipeline.segmenter.network.found = {"red": []}
    second = pipeline.process(VideoFrame(frame, 1), tone(300)).objects[0]
    assert second.followed == first.followed > 0 and (second.mask == first.mask).mean() > 0.99
    assert pipeline.segmenter.outcomes == {"instances": 2}
    pipeline.reset()
    assert pipeline.process(VideoFrame(frame, 2), tone(300)).objects[0].followed == 0  # outlined by the map


def test_an_object_that_moved_far_has_its_id_by_its_number():
    pipeline = tracked_line([disc(LEFT)])
    scene = pipeline.process(VideoFrame(picture(left=(220, 30, 30)), 0), tone(300))
    far = np.zeros(SIZE, np.uint8)
    cv2.circle(far, (300, 20), 10, 1, -1)
    moved = replace(scene, stamp_ns=50_000_000, objects=(replace(scene.objects[0], mask=far > 0, box=(290, 10, 20, 21)),))
    ids = Tracker()
    assert ids.update(scene).objects[0].id == ids.update(moved).objects[0].id
    ids = Tracker()
    unfollowed = [replace(one, objects=(replace(one.objects[0], followed=0),)) for one in (scene, moved)]
    assert len({ids.update(one).objects[0].id for one in unfollowed}) == 2


def test_frames_go_down_the_whole_line_with_the_tracker(folder):
    chosen = {"models.image": "standin", "models.segmenter": "sam3", "models.model_dir": str(folder.parent)}
    pipeline = TacoPipeline(TacoConfig().updated({**chosen, "models.device": "cpu", "segmentation.track": True}))
    for stamp in range(3):
        scene = pipeline.process(VideoFrame(picture(left=(220, 30, 30)), stamp), tone(300))
        assert scene.verdict == "sounding" and np.isfinite(scene.confidence).all()
    if pipeline.segmenter.outcomes["instances"]:
        assert scene.objects[0].followed > 0


def test_weights_without_a_tracker_are_said(folder, tmp_path):
    alone = tiny_saved.save_sam3(tmp_path)
    with pytest.raises(ConfigError, match="segmentation.track: wanted weights with SAM 3's tracker"):
        Sam3Network.from_folder(alone, device="cpu", track=True)
    assert Sam3Network.from_folder(alone, device="cpu").tracker is None
    config = json.loads((folder / "config.json").read_text())
    (alone / "config.json").write_text(json.dumps(config))  # says there is one, but the file has none
    with pytest.raises(WeightsError, match="tracker_model.*missing"):
        Sam3Network.from_folder(alone, device="cpu", track=True)


def test_the_tracker_is_the_saved_one(folder, network):
    state = load_file(folder / "model.safetensors")
    for part, module in (("tracker_model.", network.tracker.model), ("tracker_neck.", network.tracker.neck)):
        assert all(torch.equal(state[part + key], value) for key, value in module.state_dict().items())
