"""``taco segment`` on files, with a made pipeline; the real one is used where the weights are."""

import itertools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from PIL import Image

from taco import cli, segment
from taco.cli.segment import format_bank, format_speed
from taco.clock import NS
from taco.errors import AudioGapError, ConfigError
from taco.io import files as media
from taco.io.results import mask_from_runs
from taco.io.sources import open_sources
from taco.io.video_writer import VideoWriter
from taco.types import VERDICTS, AudioChunk, SoundingObject, SoundingScene
from test.taco.cli.made_inputs import MadePipeline, files, lines, make_clip, make_still, tone

real_pipeline = segment.make_pipeline


pytestmark = pytest.mark.usefixtures("made_pipeline")


def test_image_and_sound(tmp_path, capsys):
    make_still(tmp_path)
    assert cli.main(["segment", "image.png", "sound.wav", "-o", "out"]) == 0
    assert files("out") == ["masks/000000.png", "objects.jsonl", "overlay.png", "run.json"]
    (record,) = lines("out")
    assert record["verdict"] == "sounding" and record["objects"][0]["label"] == "dog" and record["mask"] == "masks/000000.png"
    mask = np.asarray(Image.open("out/masks/000000.png"))
    x, y, w, h = record["objects"][0]["box"]
    assert mask.shape == (48, 64) and (mask == 1).sum() == record["objects"][0]["area"] == w * h
    assert (mask[y : y + h, x : x + w] == 1).all()
    assert np.asarray(Image.open("out/overlay.png")).shape == (48, 64, 3)
    (stamp, window) = MadePipeline.seen[0]
    assert stamp == NS and np.abs(window.samples - tone(seconds=1.0)[:, 0]).max() < 1e-4
    assert record["heard"] == [["Bark", 0.9], ["Rain", 0.2]]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("image: 1 frames, 1 with sounding objects")
    assert (
        second == "  heard: Bark 100%; listened for 3 words of the embedded models (`taco words`; --models open takes any word)"
    )


def test_a_longer_sound_gives_a_line_a_window_and_a_video(tmp_path):
    make_still(tmp_path, 2.6, 44100)
    assert cli.main(["segment", "image.png", "sound.wav", "-o", "out"]) == 0
    assert [record["time_s"] for record in lines("out")] == [1.0, 2.0, 2.6]
    assert [w.start_ns for _, w in MadePipeline.seen] == [pytest.approx(t * NS, abs=50_000) for t in (0, 1, 1.6)]
    info = media.probe("out/overlay.mp4")
    assert abs(info.duration_s - 2.6) < 0.11 and info.sample_rate == 44100


def test_a_sound_shorter_than_the_window_is_used_as_it_is(tmp_path):
    make_still(tmp_path, 0.4)
    assert cli.main(["segment", "image.png", "sound.wav", "-o", "out"]) == 0
    assert [len(w.samples) for _, w in MadePipeline.seen] == [6400]


def test_joint_solves_clip_by_clip_and_frames_stay_in_order(tmp_path, monkeypatch):
    monkeypatch.setattr(segment, "CLIP_FRAMES", 8)
    make_clip(tmp_path / "clip.mp4")
    assert cli.main(["segment", "clip.mp4", "-o", "alone"]) == 0 and MadePipeline.clips == []
    assert cli.main(["segment", "clip.mp4", "--temporal", "joint", "-o", "out"]) == 0
    assert MadePipeline.clips == [8, 8, 4]
    assert [r["stamp_ns"] for r in lines("out")] == [r["stamp_ns"] for r in lines("alone")]


def test_joint_keeps_the_place_of_frames_without_sound(tmp_path, monkeypatch):
    inner, gaps = media.AudioFeed.window, (3, 4, 9)

    def window(feed, stamp_ns):
        if round(stamp_ns * 10 / NS) in gaps:
            raise AudioGapError("made", "a gap")
        return inner(feed, stamp_ns)

    monkeypatch.setattr(media.AudioFeed, "window", window)
    make_clip(tmp_path / "clip.mp4")
    assert cli.main(["segment", "clip.mp4", "--temporal", "joint", "-o", "out"]) == 0
    assert MadePipeline.clips == [3, 4, 10]
    assert [n for n, record in enumerate(lines("out")) if record["verdict"] == "skipped"] == list(gaps)


def test_clip_keeps_its_sound_and_its_times(tmp_path):
    make_clip(tmp_path / "clip.mp4")
    assert cli.main(["segment", "clip.mp4", "-o", "out"]) == 0
    records = lines("out")
    assert [r["time_s"] for r in records] == [pytest.approx(i / 10, abs=1e-4) for i in range(20)]
    assert records[0]["verdict"] == "silent" and {r["verdict"] for r in records[1:]} == {"sounding"}
    assert {outlined["id"] for r in records for outlined in r["objects"]} == {1}, "one thing, one id"
    assert records[-1]["tracks"] == [{"id": 1, "label": "dog", "state": "sounding", "age_s": pytest.approx(1.8)}]
    info = media.probe("out/overlay.mp4")
    assert info.size == (48, 64) and info.sample_rate == 16000 and abs(info.duration_s - 2.0) < 0.11
    sound, drawn = media.read_audio("out/overlay.mp4").samples[:, 0], list(media.frames("out/overlay.mp4"))
    assert abs(np.sqrt((sound[3000:28000] ** 2).mean()) - 0.3 / 2**0.5) < 0.02
    assert len(drawn) == 20
    box = records[10]["objects"][0]["box"]
    middle = drawn[10].rgb[box[1] + 8, box[0] + 8].astype(int)
    assert np.abs(middle - 40).max() > 25, "the grey frame is tinted inside the mask"
    assert np.ptp(drawn[10].rgb[30, 60].astype(int)) < 12, "and stays grey outside"
    assert not list(tmp_path.glob("**/.*"))


def test_every_start_and_end(tmp_path):
    make_clip(tmp_path / "clip.mp4")
    assert cli.main(["segment", "clip.mp4", "-o", "a", "--every", "5"]) == 0
    assert [r["time_s"] for r in lines("a")] == [pytest.approx(t, abs=1e-4) for t in (0, 0.5, 1, 1.5)]
    assert len(list(media.frames("a/overlay.mp4"))) == 20, "frames in between are shown too"
    assert cli.main(["segment", "clip.mp4", "-o", "b", "--every", "0.3s", "--start", "0.5", "--end", "1.5"]) == 0
    assert [r["time_s"] for r in lines("b")] == [pytest.approx(t, abs=1e-4) for t in (0.5, 0.8, 1.1, 1.4)]
    assert abs(media.probe("b/overlay.mp4").duration_s - 1.0) < 0.11
    starts = [w.start_ns / NS for t, w in MadePipeline.seen if abs(t / NS - 1.4) < 0.01]
    assert starts == [pytest.approx(0.4, abs=1e-3)], "the window of a later start still reaches back"


class HeardOnly(MadePipeline):
    """Hears rain, a dog that is not in view, and one that is and has no outline, in turn."""

    def process(self, frame, window):
        MadePipeline.seen.append((frame.stamp_ns, window))
        head = (frame.stamp_ns, frame.size, window.start_ns, window.end_ns, window.level_dbfs)
        turn = len(MadePipeline.seen) % 3
        if turn:
            return SoundingScene(*head, 0.1, ("unknown", "not_in_view")[turn - 1], heard=((("Rain", "Bark")[turn - 1], 0.8),))
        outlined = SoundingObject.from_box((10, 8, 30, 20), frame.size, [("dog", 0.7)], 0.6)
        return SoundingScene(*head, 0.6, "no_mask", (outlined,), heard=(("Bark", 0.8),))


def test_what_is_heard_is_told_where_nothing_can_be_outlined(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(segment, "make_pipeline", HeardOnly)
    make_clip(tmp_path / "clip.mp4", 0.9)
    assert cli.main(["segment", "clip.mp4", "-o", "out", "--html", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["verdicts"] == {"unknown": 3, "not_in_view": 3, "no_mask": 3} and summary["words"] == {"dog": 0.3333}
    assert summary["heard"] == {"Bark": 0.6667, "Rain": 0.3333}
    assert summary["bank"] == {"models": "embedded", "words": 3, "chosen": False}
    records = lines("out")
    assert [r["verdict"] for r in records[:3]] == ["unknown", "not_in_view", "no_mask"]
    (outlined,) = records[2]["objects"]
    assert outlined["box"] == [10, 8, 30, 20] and outlined["area"] == 0 and outlined["centre"] == [24.5, 17.5]
    assert not np.asarray(Image.open(f"out/{records[2]['mask']}")).any() and records[0]["mask"] is None
    assert list(media.frames("out/overlay.mp4")) and "none of the words listened for" in (tmp_path / "out/view.html").read_text()
    assert cli.main(["segment", "clip.mp4", "-o", "out", "--html"]) == 0
    told = capsys.readouterr().out
    assert (
        "3 seen and heard without an outline, 3 heard but not in view, 3 with other sounds" in told
        and "Bark 67%, Rain 33%" in told
    )


def test_the_summary_names_a_chosen_bank_and_says_how_to_listen_for_more():
    assert (
        format_bank("embedded", 1, True)
        == "listened for 1 word of the embedded models (models.word_bank; `taco words` lists what there is)"
    )
    assert "models.word_bank takes any others" in format_bank("paper", 527, False)


def test_slow_runs_tell_seconds_a_frame():
    assert format_speed(8.04) == "8.0 frames/s" and format_speed(0.25) == "4.0 s/frame"


@pytest.mark.parametrize(("text", "wanted"), [("1", (1, 0)), ("5", (5, 0)), ("0.5s", (0, NS // 2)), ("2s", (0, 2 * NS))])
def test_every_is_understood(text, wanted):
    assert segment.parse_step(text) == wanted


@pytest.mark.parametrize("text", ["0", "-1", "x", "0s", "-1s", "s", "", "nans", "infs", "1.5"])
def test_bad_every_is_refused(text):
    with pytest.raises(ConfigError, match="--every: wanted"):
        segment.parse_step(text)


def test_page_for_browsers_and_the_viewers_missing_package(tmp_path, capsys, monkeypatch):
    make_clip(tmp_path / "clip.mp4", 0.5)
    assert cli.main(["segment", "clip.mp4", "-o", "out", "--html"]) == 0
    assert "data:video/mp4;base64," in (tmp_path / "out/view.html").read_text()
    monkeypatch.setitem(sys.modules, "rerun", None)
    cases = (
        (["--view"], "pip install rerun-sdk`; or use --html"),
        (["--rrd", "a.txt"], "ends in .rrd"),
        (["--html", "--no-overlay"], "--html"),
    )
    capsys.readouterr()
    for options, says in cases:
        assert cli.main(["segment", "clip.mp4", "-o", "none", *options]) != 0
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1 and not (tmp_path / "none").exists()


def test_a_viewer_without_a_display_is_told_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    make_clip(tmp_path / "clip.mp4", 0.5)
    monkeypatch.setitem(sys.modules, "rerun", SimpleNamespace())
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    assert cli.main(["segment", "clip.mp4", "-o", "none", "--view"]) == 1
    assert "wanted a display, got none" in capsys.readouterr().err and not (tmp_path / "none").exists()


def test_coco_holds_the_masks_boxes_and_words_of_the_lines(tmp_path):
    make_clip(tmp_path / "clip.mp4", 0.6)
    assert cli.main(["segment", "clip.mp4", "-o", "out", "--coco", "--no-overlay"]) == 0
    data, records = json.loads(Path("out/coco.json").read_text()), lines("out")
    assert [image["frame"] for image in data["images"]] == list(range(6)) and data["images"][0]["file_name"] == "clip.mp4"
    assert data["categories"] == [{"id": 1, "name": "dog", "supercategory": ""}]
    found = [(record, item) for record in records for item in record["objects"]]
    assert len(data["annotations"]) == len(found) == 5 and len({a["id"] for a in data["annotations"]}) == 5
    for annotation, (record, item) in zip(data["annotations"], found):
        assert annotation["image_id"] == record["frame"] + 1 and annotation["category_id"] == 1
        mask = mask_from_runs(annotation["segmentation"]["counts"], tuple(annotation["segmentation"]["size"]))
        assert (mask == (np.asarray(Image.open(f"out/{record['mask']}")) == 1)).all()
        assert annotation["area"] == mask.sum() and annotation["bbox"] == item["box"]


def test_a_clip_without_sound_takes_that_of_a_file(tmp_path):
    make_clip(tmp_path / "mute.mp4", rate=0)
    soundfile.write("sound.wav", tone(48000), 48000)
    assert cli.main(["segment", "mute.mp4", "sound.wav", "-o", "out"]) == 0
    assert media.probe("out/overlay.mp4").sample_rate == 48000


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys):
    make_still(tmp_path)
    clip = make_clip(tmp_path / "clip.mp4").read_bytes()
    make_clip(tmp_path / "mute.mp4", rate=0)
    (tmp_path / "cut.mp4").write_bytes(clip[:500])
    (tmp_path / "text.mp4").write_text("hello")
    (tmp_path / "empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    cases = [
        (["mute.mp4"], 1, "wanted sound, got none"),
        (["sound.wav"], 1, "got only sound"),
        (["image.png"], 1, "wanted a sound to go with the picture"),
        (["image.png", "mute.mp4"], 1, "wanted sound, got none"),
        (["none.mp4"], 1, "no such file or folder: none.mp4"),
        (["image.png", "none.wav"], 1, "no such file or folder: none.wav"),
        (["cut.mp4"], 1, "cut off or of another kind"),
        (["text.mp4"], 1, "cut off or of another kind"),
        (["empty"], 1, "got neither"),
        (["empty", "sound.wav"], 1, "wanted pictures in the folder"),
        (["clip.mp4", "--start", "5"], 1, "no frame between"),
        (["clip.mp4", "--start", "2", "--end", "1"], 2, "wanted 0 <= start < end"),
        (["clip.mp4", "--every", "0"], 2, "--every: wanted"),
        (["clip.mp4", "--set", "audio.windw_s=1"], 2, "did you mean audio.window_s"),
    ]
    for arguments, status, says in cases:
        assert cli.main(["segment", *arguments]) == status, arguments
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, (arguments, error)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_clip_cut_off_in_the_middle(tmp_path, capsys):
    noise = np.random.default_rng(0)
    with VideoWriter("clip.mp4", fps=10, sample_rate=16000, origin_ns=0) as writer:
        for i in range(60):
            writer.write(noise.integers(0, 255, (48, 64, 3), np.uint8), i * NS // 10)
            writer.write_audio(AudioChunk(tone(16000, 0.1), 16000, i * NS // 10))
    whole = Path("clip.mp4").read_bytes()
    Path("clip.mp4").write_bytes(whole[: len(whole) // 2])
    assert cli.main(["segment", "clip.mp4", "-o", "out"]) == 1
    assert "cut off at" in capsys.readouterr().err
    assert not (tmp_path / "out/objects.jsonl").exists() and not (tmp_path / "out/overlay.mp4").exists()
    assert cli.main(["segment", "clip.mp4", "-o", "out", "--end", "2"]) == 0
    assert len(lines("out")) == 20


def test_a_hole_in_the_sound_skips_frames_and_says_why(tmp_path, monkeypatch):
    make_clip(tmp_path / "clip.mp4")
    chunks = media.chunks

    def with_hole(path, start_s=-float("inf")):
        return (c for c in chunks(path, start_s) if not 0.5 * NS < c.stamp_ns < 0.9 * NS)

    monkeypatch.setattr("taco.io.sources.files.chunks", with_hole)
    assert cli.main(["segment", "clip.mp4", "-o", "out"]) == 0
    skipped = [r for r in lines("out") if r["verdict"] == "skipped"]
    assert len(skipped) >= 8 and all("hole" in r["reason"] for r in skipped)


def test_names_of_sources_are_unique(tmp_path):
    (tmp_path / "a").mkdir()
    make_clip(tmp_path / "clip.mp4", 0.3)
    make_clip(tmp_path / "a/clip.mp4", 0.3)
    names = [source.name for source in open_sources(["clip.mp4", "a/clip.mp4"], window_s=1.0)]
    assert len(set(names)) == 2


@pytest.mark.data
def test_real_models_outline_the_piano_of_a_picture_and_tell_why(tmp_path, monkeypatch, capsys):
    """The embedded models through both commands, on a composed scene of two real things of which one sounds."""
    from taco.evaluation.composed.scenes import SceneComposer

    monkeypatch.setattr(segment, "make_pipeline", real_pipeline)
    words = ("guitar", "drums", "cello", "violin", "piano", "harp", "flute")
    scenes = (SceneComposer(words).compose("two", "val", seed) for seed in itertools.count())
    scene = next(scene for scene in scenes if scene.sounding_words == ("piano",))
    (frame,) = scene.frames
    Image.fromarray(frame.frame.rgb).save("image.png")
    soundfile.write("sound.wav", frame.window.samples, frame.window.sample_rate)
    settings = ["--set", "models.threads=1", "--set", f"models.word_bank=[{', '.join(words)}]"]
    assert cli.main(["segment", "image.png", "sound.wav", "-o", "out", *settings]) == 0
    (record,) = lines("out")
    assert record["objects"][0]["label"] == "piano"
    mask = np.asarray(Image.open("out/masks/000000.png")) == 1
    assert (mask & frame.truth).sum() > 0.5 * (mask | frame.truth).sum()
    capsys.readouterr()
    assert cli.main(["explain", "image.png", "sound.wav", "-o", "why.png", "--json", *settings]) == 0
    told = json.loads(capsys.readouterr().out)
    named = told["factors"][told["named_factor"]]
    assert (
        told["labels"][0] == "piano" and "piano" in [word for word, _ in named["seen"][:3]] and len(named["heard"]) == len(words)
    )
    assert told["verdict"] == record["verdict"] == "sounding" and told["heard"][0][1] > 0.5


@pytest.mark.data
@pytest.mark.parametrize(
    ("mode", "rate", "seconds", "bank"),
    [("L", 16000, 0.2, "[bird]"), ("LA", 8000, 2.0, "[bird]"), ("RGB", 8000, 0.2, ""), ("P", 96000, 1.3, "[bird, dog]")],
)
def test_odd_pictures_sounds_and_banks_go_through_the_real_models(tmp_path, monkeypatch, mode, rate, seconds, bank):
    """Grey pictures, 8 kHz, a sound shorter than a patch of the ear, a bank of one word."""
    monkeypatch.setattr(segment, "make_pipeline", real_pipeline)
    noise = np.random.default_rng(0)
    Image.fromarray(noise.integers(0, 255, (96, 128, 3), np.uint8)).convert(mode).save("image.png")
    soundfile.write("sound.wav", noise.normal(0, 0.1, round(rate * seconds)), rate)
    settings = ["--set", "models.threads=1", *(["--set", f"models.word_bank={bank}"] if bank else [])]
    assert cli.main(["segment", "image.png", "sound.wav", "-o", "out", *settings]) == 0
    for record in lines("out"):
        assert record["verdict"] in VERDICTS and record["heard"], "noise is heard as something"
        assert all(word and 0 <= chance <= 1 for word, chance in record["heard"])
