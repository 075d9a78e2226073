"""``taco segment`` of folders and of several inputs: what is done, what is told, and what is not replaced."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image

from taco import cli
from test.taco.cli.made_inputs import lines, make_clip, make_still, tone

pytestmark = pytest.mark.usefixtures("made_pipeline")


def test_folders(tmp_path):
    (tmp_path / "things").mkdir()
    make_clip(tmp_path / "things/clip.mp4", 0.5)
    make_still(tmp_path / "things")
    os.rename("things/sound.wav", "things/image.wav")
    (tmp_path / "things/notes.txt").write_text("not media")
    assert cli.main(["segment", "things", "-o", "out", "--json"]) == 0
    assert sorted(p.name for p in Path("out").iterdir()) == ["clip", "image"]
    assert len(lines("out/clip")) == 5 and len(lines("out/image")) == 1


def test_one_bad_file_of_a_folder_does_not_stop_the_others(tmp_path, capsys):
    (tmp_path / "things").mkdir()
    make_clip(tmp_path / "things/a.mp4", 0.5)
    make_clip(tmp_path / "things/mute.mp4", 0.5, rate=0)
    make_clip(tmp_path / "things/z.mp4", 0.5)
    assert cli.main(["segment", "things", "-o", "out"]) == 1
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        "taco: things/mute.mp4: wanted sound, got none in it; give a sound file as second argument",
        "taco: 1 of 3 inputs failed; the same command tries them again",
    ]
    assert sorted(p.name for p in Path("out").iterdir()) == ["a", "z"] and told.out.count("with sounding objects") == 2


def test_a_broken_clip_or_picture_of_a_folder_is_told_and_other_files_are_passed_over(tmp_path, capsys):
    (tmp_path / "things").mkdir()
    make_clip(tmp_path / "things/a.mp4", 0.3)
    shutil.copy(make_clip(tmp_path / "a.mov", 0.3), "things/a.mov")
    (tmp_path / "things/cut.mp4").write_text("hello")
    (tmp_path / "things/notes.txt").write_text("not media")
    make_still(tmp_path)
    shutil.copy("sound.wav", "things/pic.wav")
    for suffix in ("png", "jpg"):
        Image.open("image.png").save(f"things/pic.{suffix}")
    (tmp_path / "things/bad.png").write_text("hello")
    shutil.copy("sound.wav", "things/bad.wav")
    assert cli.main(["segment", "things", "-o", "out"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 3 and "things/bad.png" in told[0] and "things/cut.mp4" in told[1] and "2 of 6 inputs failed" in told[2]
    assert sorted(p.name for p in Path("out").iterdir()) == ["a", "a_", "pic", "pic_"], "same names, both kept"


def test_one_bad_input_does_not_stop_the_others(tmp_path, capsys):
    make_clip(tmp_path / "good.mp4", 0.3)
    make_still(tmp_path)
    (tmp_path / "text.mp4").write_text("hello")
    assert cli.main(["segment", "text.mp4", "none.mp4", "good.mp4", "image.png", "none.wav", "-o", "out"]) == 1
    told = capsys.readouterr()
    first, second, third, last = told.err.splitlines()
    assert "text.mp4: wanted a video" in first and "no such file or folder: none.mp4" in second and "none.wav" in third
    assert last == "taco: 3 of 4 inputs failed; the same command tries them again"
    assert [p.name for p in Path("out").iterdir()] == ["good"]


def test_finished_results_of_other_inputs_or_settings_are_not_replaced_unasked(tmp_path, capsys):
    make_still(tmp_path)
    Image.open("image.png").save("image.jpg")
    assert cli.main(["segment", "image.png", "sound.wav"]) == 0
    before = Path("image_taco/run.json").read_text()
    assert cli.main(["segment", "image.jpg", "sound.wav"]) == 1
    assert "image_taco: holds finished results with other inputs; choose another -o, or --overwrite" in capsys.readouterr().err
    assert cli.main(["segment", "image.png", "sound.wav", "--end", "2"]) == 1
    assert "with other end;" in capsys.readouterr().err and Path("image_taco/run.json").read_text() == before
    assert cli.main(["segment", "image.jpg", "sound.wav", "--overwrite"]) == 0
    assert "image.jpg" in Path("image_taco/run.json").read_text()


def test_folder_of_pictures_with_a_sound(tmp_path):
    (tmp_path / "frames").mkdir()
    for i in range(8):
        Image.fromarray(np.full((20, 30, 3), i, np.uint8)).save(tmp_path / f"frames/{i:03d}.png")
    soundfile.write("sound.wav", tone(), 16000)
    assert cli.main(["segment", "frames", "sound.wav", "-o", "out", "--fps", "4"]) == 0
    assert [r["time_s"] for r in lines("out")] == [i / 4 for i in range(8)]
