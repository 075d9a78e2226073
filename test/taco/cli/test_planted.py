"""What somebody may have planted where ``taco segment`` reads and writes: links, pipes, playlists, odd names."""

import os
import stat
from pathlib import Path

import pytest

from taco import cli, segment
from taco.errors import MediaError
from taco.io import files, scratch
from test.taco.cli.made_inputs import MadePipeline, lines, make_clip


@pytest.fixture(autouse=True)
def made(monkeypatch, tmp_path):
    monkeypatch.setattr(segment, "make_pipeline", MadePipeline)
    monkeypatch.chdir(tmp_path)
    MadePipeline.seen = []
    make_clip(tmp_path / "clip.mp4", 0.5)
    (tmp_path / "theirs").mkdir()
    for name in ("letter.txt", "000000.png", "objects.jsonl"):
        (tmp_path / "theirs" / name).write_text("precious")
    Path("out").mkdir()


def refused(capsys):
    """The one line that the command ends with."""
    assert cli.main(["segment", "clip.mp4", "-o", "out"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("taco: out/")
    return error


def untouched():
    return {path.name: path.read_text() for path in Path("theirs").iterdir()} == dict.fromkeys(
        ("letter.txt", "000000.png", "objects.jsonl"), "precious"
    )


@pytest.mark.parametrize("name", [".taco-part", "masks", ".taco-part/masks"])
def test_a_planted_link_to_a_folder_is_refused(name, capsys):
    Path("out", name).parent.mkdir(exist_ok=True)
    Path("out/run.json").write_text('{"fingerprint": {}}')
    Path("out", name).symlink_to(Path("theirs").resolve())
    assert "wanted a folder that taco made, got a link" in refused(capsys)
    assert untouched() and Path("out", name).is_symlink()


@pytest.mark.parametrize(
    "name",
    [".overlay.part.mp4", ".taco-part/objects.jsonl", ".taco-part/lock", ".taco-part/run.json", ".taco-part/masks/000000.png"],
)
@pytest.mark.parametrize("how", ["symlink_to", "hardlink_to"])
def test_a_planted_link_to_a_file_is_refused(name, how, capsys):
    Path("out", name).parent.mkdir(exist_ok=True, parents=True)
    getattr(Path("out", name), how)(Path("theirs/letter.txt").resolve())
    assert "wanted a file that taco made, got a" in refused(capsys)
    assert untouched() and Path("out", name).exists()


def test_only_names_of_ours_are_deleted(capsys):
    Path("out/.taco-part").mkdir()
    Path("out/.taco-part/letter.txt").write_text("precious")
    assert "got 'letter.txt'" in refused(capsys)
    assert Path("out/.taco-part/letter.txt").read_text() == "precious"


def test_a_folder_masks_that_no_run_made_is_left_alone(capsys):
    Path("out/masks").mkdir()
    Path("out/masks/000000.png").write_text("somebody's truth")
    assert "got a folder without its run.json" in refused(capsys)
    assert Path("out/masks/000000.png").read_text() == "somebody's truth"
    Path("out/masks/000000.png").unlink()
    Path("out/masks").rmdir()
    for _ in range(2):  # a run's own masks are replaced
        assert cli.main(["segment", "clip.mp4", "-o", "out", "--overwrite"]) == 0
    assert sorted(f"masks/{p.name}" for p in Path("out/masks").iterdir()) == [r["mask"] for r in lines("out") if r["mask"]]


def test_what_another_user_made_is_refused(monkeypatch, capsys):
    Path("out/.taco-part").mkdir()
    monkeypatch.setattr(scratch.os, "geteuid", lambda: os.getuid() + 1)
    assert "got one of another user" in refused(capsys)


def test_a_pipe_in_place_of_results_does_not_hang(capsys):
    os.mkfifo("out/run.json")
    assert cli.main(["segment", "clip.mp4", "-o", "out"]) == 0
    assert stat.S_ISREG(Path("out/run.json").lstat().st_mode)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:2.0,\nclip.mp4\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "ffconcat version 1.0\nfile clip.mp4\n"),
        ("list.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 5004 RTP/AVP 0\n"),
    ],
)
def test_a_playlist_opens_no_other_file(name, text, capsys):
    Path(name).write_text(text)
    assert cli.main(["segment", name, "-o", "out"]) == 1
    assert capsys.readouterr().err.count("\n") == 1 and not MadePipeline.seen


@pytest.mark.parametrize("name", ["-x.mp4", "a:b.mp4", "http:clip.mp4", "p%03d.mp4", "-o.mp4"])
def test_any_name_is_the_name_of_a_file(name, capsys):
    Path("clip.mp4").rename(name)
    assert cli.main(["segment", name]) == 0
    assert len(lines(f"{name.removesuffix('.mp4')}_taco")) == 5


def test_a_pipe_or_a_device_is_no_input(capsys):
    os.mkfifo("pipe.mp4")
    for name in ("pipe.mp4", "/dev/zero"):
        assert cli.main(["segment", name, "-o", "out"]) == 1
        assert "wanted a file, got a device or a pipe" in capsys.readouterr().err


def test_a_scratch_file_of_a_stopped_run_is_replaced(tmp_path):
    (tmp_path / ".page.part.html").write_text("half")
    with files.atomic(tmp_path / "page.html") as part:
        assert part.read_text() == "" and part.name == ".page.part.html"
        part.write_text("whole")
    assert (tmp_path / "page.html").read_text() == "whole" and not part.exists()
    (tmp_path / ".page.part.html").symlink_to("theirs/letter.txt")
    with pytest.raises(MediaError, match="got a link"), files.atomic(tmp_path / "page.html"):
        pass
    assert untouched() and (tmp_path / ".page.part.html").is_symlink()
