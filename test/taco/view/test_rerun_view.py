"""The page that any browser shows, and the Rerun recording where rerun-sdk is installed."""

import base64
import dataclasses
import json
import re
import sys
import types
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from taco.clock import NS
from taco.errors import MediaError, MissingPackageError
from taco.io.results import scene_record, skipped_record
from taco.io.video_writer import VideoWriter
from taco.palette import colour_of
from taco.types import SoundingObject, SoundingScene, VideoFrame
from taco.view.html import write_page
from taco.view.rerun_view import Viewer


def scene(t, word=None, id=1, start_ns=0):
    mask = np.zeros((48, 64), bool)
    mask[10:20, 10:30] = True
    things = (SoundingObject.from_mask(mask, [(word, 0.9)], 0.8, id),) if word else ()
    sound_map = np.zeros((2, 5), np.float32)
    stamp = start_ns + round(t * NS)
    heard = (("Bark", 0.9),) if word else ()
    verdict = "sounding" if word else "silent"
    return SoundingScene(stamp, (48, 64), 0, NS, -20.0, 0.7, verdict, things, sound_map=sound_map, heard=heard)


def read(page):
    text = page.read_text()
    data = re.search(r"const frames = (\[.*?\]), colours = (\{.*?\}), verdicts", text)
    return text, json.loads(data[1]), json.loads(data[2])


def test_page_holds_everything_and_asks_the_network_for_nothing(tmp_path):
    with VideoWriter(tmp_path / "overlay.mp4", fps=10) as writer:
        for value in (200, 0, 200, 200):
            writer.write(np.full((48, 64, 3), value, np.uint8))
    records = [scene_record(scene(5 + i / 10, ("dog", "cat", None)[i], i + 1), i) for i in range(3)] + [
        skipped_record(VideoFrame(np.zeros((48, 64, 3), np.uint8), 6 * NS), 3, "hole")
    ]
    records[1]["sounding_score"] = 0.95
    text, frames, colours = read(write_page(tmp_path / "view.html", "a <b> & c", records, tmp_path / "overlay.mp4"))
    assert [f["t"] for f in frames] == [0.0, 0.1, 0.2, 1.0] and [f["v"] for f in frames] == ["sounding"] * 2 + [
        "silent",
        "skipped",
    ]
    assert frames[0]["o"] == [{"i": 1, "w": "dog", "p": 0.8}] and set(colours) == {"dog", "cat"}
    assert [f["h"] for f in frames] == [[["Bark", 0.9]]] * 2 + [[], []] and '"not_in_view":"nothing in view fits"' in text
    assert base64.b64encode((tmp_path / "overlay.mp4").read_bytes()).decode() in text and "a &lt;b&gt; &amp; c" in text
    poster = base64.b64decode(re.search(r'poster="data:image/jpeg;base64,([^"]+)"', text)[1])
    assert cv2.imdecode(np.frombuffer(poster, np.uint8), 0).mean() < 20, "the poster is the surest frame, not the first or last"
    for told in ("not outlined", "nothing in view fits</dt><dd>a word of the list", "score</dt><dd>0 to 1", "level</dt>"):
        assert told in text
    assert "http" not in text.replace("video/mp4", "") and "@" not in text.split("<script>")[0].split("</style>")[1]


def test_words_cannot_break_the_page(tmp_path):
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "overlay.png")
    page = write_page(tmp_path / "view.html", "x", [scene_record(scene(0, "</script><b>"), 0)], tmp_path / "overlay.png")
    text, frames, _ = read(page)
    assert text.count("</script>") == 1 and frames[0]["o"][0]["w"] == "</script><b>" and "data:image/png" in text


class MadeRerun(types.ModuleType):
    """Keeps what is logged; every archetype becomes its name and arguments."""

    def __init__(self):
        super().__init__("rerun")
        self.logged, self.ended = [], []
        self.Box2DFormat = SimpleNamespace(XYWH="xywh")

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)

        def make(*args, **more):
            item = SimpleNamespace(args=args, **more)
            item.compress = lambda **_: item
            return item

        return make

    def RecordingStream(self, *_, **__):
        module = self

        class Stream:
            def __getattr__(self, name):
                return lambda *args, **more: module.ended.append((name, args, more))

            def save(self, path):
                path.write_text("rrd")

            def log(self, path, item, **more):
                module.logged.append((path, item))

        return Stream()


@pytest.fixture
def rerun(monkeypatch):
    module = MadeRerun()
    monkeypatch.setitem(sys.modules, "rerun", module)
    blueprint = types.ModuleType("rerun.blueprint")
    for name in ("Vertical", "Horizontal", "Blueprint", "Spatial2DView", "TimeSeriesView", "TextLogView"):
        setattr(blueprint, name, lambda *args, **more: None)
    module.blueprint = blueprint
    monkeypatch.setitem(sys.modules, "rerun.blueprint", blueprint)
    return module


def test_frames_masks_scores_and_changed_words_are_logged(rerun, tmp_path):
    viewer = Viewer("clip", str(tmp_path / "a.rrd"))
    rgb = np.zeros((48, 64, 3), np.uint8)
    for t, word in ((0.0, "dog"), (0.1, "dog"), (0.2, None)):
        viewer.log(rgb, scene(t, word, id=300))
    assert not (tmp_path / "a.rrd").exists(), "the name comes with the end"
    viewer.close()
    assert (tmp_path / "a.rrd").exists() and len(list(tmp_path.iterdir())) == 1
    by_path = {path: [item for p, item in rerun.logged if p == path] for path, _ in rerun.logged}
    assert len(by_path["camera/image"]) == len(by_path["camera/mask"]) == len(by_path["score/sounding"]) == 3
    assert [item.args[0] for item in by_path["words"]] == ["dog (heard: Bark)", "silence"]
    masks = [cv2.imdecode(np.frombuffer(item.contents, np.uint8), cv2.IMREAD_UNCHANGED) for item in by_path["camera/mask"]]
    assert masks[0][15, 15].tolist() == [*colour_of("dog")[::-1], 128] and masks[0][..., 3].astype(bool).sum() == 200
    assert masks[0].shape == (48, 64, 4) and not masks[2].any()
    assert by_path["camera/boxes"][0].labels == ["dog 0.80"] and by_path["camera/boxes"][2].labels == []


def test_what_is_heard_is_logged_where_nothing_is_outlined(rerun, tmp_path):
    viewer = Viewer("clip", str(tmp_path / "a.rrd"))
    nothing = scene(0.0)
    for t, verdict, heard in ((0.0, "unknown", (("Rain", 0.8),)), (0.1, "unknown", (("Rain", 0.7),)), (0.2, "not_in_view", ())):
        viewer.log(
            np.zeros((48, 64, 3), np.uint8), dataclasses.replace(nothing, stamp_ns=int(t * NS), verdict=verdict, heard=heard)
        )
    viewer.close()
    said = [item.args[0] for path, item in rerun.logged if path == "words"]
    assert said == ["heard: Rain - none of the words listened for", "heard: something - nothing in view fits"]


def test_time_of_files_and_of_clocks(rerun):
    viewer = Viewer("clip", "rerun+http://127.0.0.1:9876/proxy")
    viewer.log(np.zeros((48, 64, 3), np.uint8), scene(1.0))
    viewer.log(np.zeros((48, 64, 3), np.uint8), scene(1.0, start_ns=1_700_000_000 * NS))
    times = [more for name, _, more in rerun.ended if name == "set_time"]
    assert list(times[0]) == ["duration"] and list(times[1]) == ["timestamp"]
    viewer.close()


def test_a_recording_that_failed_leaves_no_file(rerun, tmp_path):
    viewer = Viewer("clip", str(tmp_path / "a.rrd"))
    viewer.close(keep=False)
    viewer.close()  # as the end of the process does
    assert list(tmp_path.iterdir()) == []


def test_bad_targets_and_a_missing_package_are_one_line(rerun, monkeypatch):
    with pytest.raises(MediaError, match="wanted rerun, an address"):
        Viewer("clip", "window")
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(MissingPackageError, match="pip install rerun-sdk"):
        Viewer("clip")
