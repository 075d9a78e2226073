"""Fetching, resuming, recording and finding weights, against a server on this machine."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock

from taco import cli, weights
from taco.backbones import load_backbones
from taco.config import ModelsConfig
from taco.errors import WeightsError
from taco.weights import checksums, parts
from taco.weights.fetch import ATTEMPTS, download
from test import ROOT

DATA = bytes(range(256)) * 4000  # a megabyte


class Server(http.server.ThreadingHTTPServer):
    """Serves ``files``. ``cut``, ``busy``: how many answers break off half-way, are status 503. ``ranges``: parts may be had."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cut, self.ranges, self.kind, self.asked = {}, 0, True, "application/octet-stream", []
        self.busy = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """Connections that break off are what some tests are about."""


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET(body=False)

    def do_GET(self, body=True):
        server = self.server
        wanted = self.headers.get("Range")
        if body:
            server.asked.append(wanted)
        data = server.files.get(self.path.partition("?")[0])
        if data is None:
            return self.send_error(404)
        if server.busy > 0:
            server.busy -= 1
            return self.send_error(503)
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        start = 0
        if wanted and server.ranges and self.headers.get("If-Range", tag) == tag:
            start = int(wanted.removeprefix("bytes=").partition("-")[0])
            if start >= len(data):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.kind)
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", tag)
        self.send_header("X-Repo-Commit", "0" * 40)  # as the model hub does
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if not body:
            return None
        part = data[start:]
        if server.cut > 0:
            server.cut -= 1
            self.wfile.write(part[: len(part) // 2])
            self.wfile.flush()
            return self.connection.close()
        return self.wfile.write(part)


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def clean(tmp_path, monkeypatch):
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TACO_MODEL_DIR", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


def put(folder: Path, *names: str) -> Path:
    """Stand-ins for the weights files of some parts."""
    for part in weights.PARTS:
        if part.name in names:
            for file in part.files:
                path = folder / file.path
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"weights of " + file.name.encode())
    return folder


def test_a_file_is_fetched_whole(server, tmp_path):
    server.files["/a.pth"] = DATA
    download(f"{server.url}/a.pth", tmp_path / "deep" / "a.pth")
    assert (tmp_path / "deep" / "a.pth").read_bytes() == DATA
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.pth"]


def test_a_broken_transfer_goes_on_where_it_stopped(server, tmp_path):
    server.files["/a.pth"], server.cut = DATA, 2
    download(f"{server.url}/a.pth", tmp_path / "a.pth", pause_s=0)
    assert (tmp_path / "a.pth").read_bytes() == DATA
    assert server.asked == [None, f"bytes={len(DATA) // 2}-", f"bytes={len(DATA) * 3 // 4}-"]


def test_a_later_call_goes_on_too(server, tmp_path):
    server.files["/a.pth"], server.cut = DATA, 99
    with pytest.raises(WeightsError, match="MB are kept, run the same command again to resume"):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", pause_s=0)
    assert not (tmp_path / "a.pth").exists()
    kept = (tmp_path / "a.pth.part").stat().st_size
    server.cut, server.asked = 0, []
    download(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == DATA and server.asked == [f"bytes={kept}-"]


@pytest.mark.parametrize("why", ["the file changed", "no ranges", "the part is too long"])
def test_a_part_that_does_not_fit_is_not_used(server, tmp_path, why):
    server.files["/a.pth"], server.cut = DATA, 99
    with pytest.raises(WeightsError):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", pause_s=0)
    server.cut = 0
    other = DATA[::-1] if why == "the file changed" else DATA
    server.files["/a.pth"], server.ranges = other, why != "no ranges"
    if why == "the part is too long":
        (tmp_path / "a.pth.part").write_bytes(DATA * 2)
    download(f"{server.url}/a.pth", tmp_path / "a.pth", pause_s=0)
    assert (tmp_path / "a.pth").read_bytes() == other


def test_web_pages_and_missing_files_are_errors(server, tmp_path):
    server.files["/a.pth"], server.kind = b"<html>Sign in</html>", "text/html; charset=utf-8"
    with pytest.raises(WeightsError, match="a web page"):
        download(f"{server.url}/a.pth", tmp_path / "a.pth", pause_s=0)
    with pytest.raises(WeightsError, match="HTTP 404"):
        download(f"{server.url}/b.pth", tmp_path / "b.pth", pause_s=0)
    assert not list(tmp_path.glob("*.pth"))


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(server, tmp_path):
    server.files["/a.pth"], server.busy = DATA, 2
    download(f"{server.url}/a.pth", tmp_path / "a.pth", pause_s=0)
    assert (tmp_path / "a.pth").read_bytes() == DATA and len(server.asked) == 3
    server.busy, server.asked = 99, []
    with pytest.raises(WeightsError, match="HTTP 503"):
        download(f"{server.url}/a.pth", tmp_path / "b.pth", pause_s=0)
    assert len(server.asked) == ATTEMPTS
    server.asked = []
    with pytest.raises(WeightsError, match="HTTP 404"):
        download(f"{server.url}/none.pth", tmp_path / "b.pth", pause_s=0)
    assert len(server.asked) == 1


def test_a_missing_server_is_an_error(tmp_path):
    with pytest.raises(WeightsError, match="refused"):
        download("http://127.0.0.1:9/a.pth", tmp_path / "a.pth", pause_s=0)


def test_progress_is_shown_on_a_terminal_and_nowhere_else(server, tmp_path, capsys, monkeypatch):
    server.files["/a.pth"] = DATA
    download(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    download(f"{server.url}/a.pth", tmp_path / "b.pth")
    assert "b.pth:   0%" in capsys.readouterr().err


@pytest.mark.parametrize("url", ["http://example.org/a.pth", "ftp://example.org/a.pth", "file:///etc/passwd", "a.pth"])
def test_only_https_addresses_are_fetched(tmp_path, url):
    with pytest.raises(WeightsError, match=f"a.pth: wanted an https address, got {url}$"):
        download(url, tmp_path / "a.pth")


def test_two_processes_do_not_fetch_the_same_file(server, tmp_path):
    server.files["/a.pth"] = DATA
    with FileLock(tmp_path / ".a.pth.lock"), pytest.raises(WeightsError, match="another process is fetching it"):
        download(f"{server.url}/a.pth", tmp_path / "a.pth")
    assert server.asked == []


def test_google_drive_part_comes_by_url_or_tells_how_by_hand(server, tmp_path, capsys):
    server.files["/mirror/fcclip.pth"] = DATA
    assert cli.main(["weights", "fetch", "fcclip", "--dir", str(tmp_path), "--url", f"{server.url}/mirror/fcclip.pth"]) == 0
    path = tmp_path / "paper" / "fcclip_cocopan.pth"
    assert path.read_bytes() == DATA
    digest = hashlib.sha256(DATA).hexdigest()
    assert json.loads((path.parent / "sha256.json").read_text())["fcclip_cocopan.pth"]["sha256"] == digest
    assert digest in capsys.readouterr().err
    path.unlink()
    server.kind = "text/html"
    assert cli.main(["weights", "fetch", "fcclip", "--dir", str(tmp_path), "--url", f"{server.url}/mirror/fcclip.pth"]) == 1
    said = capsys.readouterr().err
    assert "in a browser" in said and "taco weights fetch fcclip --from DIR" in said


def test_hub_parts_come_through_huggingface_hub(server, tmp_path):
    """In a process of its own: the hub's address is read when its package is imported."""
    for name in ("vocab.json", "merges.txt"):
        server.files[f"/openai-community/gpt2/resolve/607a30d783dfa663caf39e06633721c8d4cfcd7e/{name}"] = DATA + name.encode()
    environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
    unpinned = "import sys; from taco import cli; from taco.weights import parts; parts.PINNED = {}; sys.exit(cli.main())"
    command = [sys.executable, "-c", unpinned, "weights", "fetch", "gpt2", "--dir", str(tmp_path)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("vocab.json", "merges.txt"):
        assert (tmp_path / "paper" / "gpt2" / name).read_bytes() == DATA + name.encode()
    assert sorted(path.name for path in (tmp_path / "paper" / "gpt2").iterdir()) == ["merges.txt", "sha256.json", "vocab.json"]
    server.files.clear()
    again = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and "there already" in again.stderr
    (tmp_path / "paper" / "gpt2" / "vocab.json").unlink()
    gone = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert gone.returncode == 1 and "taco weights fetch gpt2 --from DIR" in gone.stderr
    assert gone.stderr.strip().splitlines()[-1].startswith("taco: vocab.json: wanted it from openai-community/gpt2")


def test_offline_is_honoured(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for part in ("gpt2", "fcclip"):
        assert (
            cli.main(["weights", "fetch", part, "--dir", str(tmp_path), *(["--url", server.url] if part == "fcclip" else [])])
            == 1
        )
        assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err
    assert server.asked == []


def test_air_gapped_copy_from_a_folder(tmp_path, capsys):
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "open_clip_pytorch_model.bin").write_bytes(b"same weights, another form")
    put(stick, "msclap")  # in the folders of a weights folder
    for name in ("vocab.json", "merges.txt", "fcclip_cocopan.pth"):
        (stick / name).write_bytes(name.encode())
    robot = tmp_path / "robot"
    assert cli.main(["weights", "fetch", "paper", "--from", str(stick), "--dir", str(robot)]) == 0
    assert sorted(str(path.relative_to(robot / "paper")) for path in (robot / "paper").rglob("*") if path.is_file()) == [
        "CLAP_weights_2023.pth",
        "fcclip_cocopan.pth",
        "gpt2/merges.txt",
        "gpt2/sha256.json",
        "gpt2/vocab.json",
        "open_clip_pytorch_model.bin",
        "sha256.json",
    ]
    assert weights.missing_files("paper", str(robot)) == []
    found = weights.locate("openclip", ModelsConfig(model_dir=str(robot)))
    assert found.name == "open_clip_pytorch_model.bin"
    (stick / "vocab.json").unlink()
    assert cli.main(["weights", "fetch", "gpt2", "--from", str(stick), "--dir", str(robot)]) == 1
    assert "vocab.json: wanted it in" in capsys.readouterr().err
    (stick / "fcclip_cocopan.pth").write_text("<!DOCTYPE html>")
    assert cli.main(["weights", "fetch", "fcclip", "--from", str(stick), "--dir", str(robot)]) == 1
    assert "web page" in capsys.readouterr().err and weights.missing_files("fcclip", str(robot))


def test_hashes_are_recorded_at_first_use_and_checked_after(tmp_path, capsys):
    models = ModelsConfig(model_dir=str(put(tmp_path, "fcclip")))
    path = weights.locate("fcclip", models)
    assert checksums.recorded(path)["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert weights.locate("fcclip", models) == path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"X")
    with pytest.raises(WeightsError, match="recorded at first use"):
        weights.locate("fcclip", models)
    assert cli.main(["weights", "verify", "fcclip", "--dir", str(tmp_path)]) == 1
    assert "damaged" in capsys.readouterr().out
    path.write_bytes(content)
    assert weights.locate("fcclip", models) == path


def test_verify_reads_the_file_even_where_its_dates_are_the_same(tmp_path):
    path = put(tmp_path, "fcclip") / "paper" / "fcclip_cocopan.pth"
    checksums.check(path)
    stat = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    checksums.check(path)  # quick: size and time are the recorded ones
    with pytest.raises(WeightsError, match="recorded at first use"):
        checksums.check(path, thorough=True)


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    path = put(tmp_path, "fcclip") / "paper" / "fcclip_cocopan.pth"
    monkeypatch.setattr(Path, "write_text", lambda *a, **k: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert checksums.check(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert checksums.recorded(path) == {}


def test_a_start_without_weights_names_the_command_and_never_asks_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("touched the network"))
    models = ModelsConfig(name="paper", model_dir=str(tmp_path))
    with pytest.raises(WeightsError, match=f"taco weights fetch paper --dir {tmp_path}`") as error:
        load_backbones(models)
    assert "\n" not in str(error.value)


def test_allow_download_fetches_at_the_start(server, tmp_path, monkeypatch):
    server.files["/fc.pth"] = DATA
    part = weights.parts_named("fcclip")[0]
    local = weights.WeightsFile(part.files[0].path, 1.0, f"{server.url}/fc.pth")
    monkeypatch.setattr(parts, "PARTS", (weights.Part("fcclip", part.what, part.licence, (local,)),))
    with pytest.raises(WeightsError, match="allow_download"):
        weights.locate("fcclip", ModelsConfig(model_dir=str(tmp_path)))
    assert weights.locate("fcclip", ModelsConfig(model_dir=str(tmp_path), allow_download=True)).read_bytes() == DATA


def test_list_verify_and_path_speak_json_and_tell_by_exit_status(tmp_path, capsys):
    put(tmp_path, "msclap")
    folder = ["--dir", str(tmp_path), "--json"]
    assert cli.main(["weights", "list", *folder]) == 0
    rows = {row["file"]: row for row in json.loads(capsys.readouterr().out)["files"]}
    assert rows["CLAP_weights_2023.pth"]["state"] == "here" and rows["CLAP_weights_2023.pth"]["licence"] == "MS-PL"
    assert rows["open_clip_pytorch_model.safetensors"]["state"] == "missing"
    assert rows["open_clip_pytorch_model.safetensors"]["size_mb"] == 1407
    assert rows["efficientnet-lite0.pth"]["set"] == "embedded"
    assert cli.main(["weights", "verify", "msclap", *folder]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["state"] == "sound"
    assert cli.main(["weights", "verify", "paper", *folder]) == 1
    capsys.readouterr()
    assert cli.main(["weights", "path", "msclap", "--dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "paper" / "CLAP_weights_2023.pth")
    assert cli.main(["weights", "path", "openclip", "--dir", str(tmp_path)]) == 1
    assert cli.main(["weights", "fetch", "--dir", str(tmp_path)]) == 1
    assert cli.main(["weights", "fetch", "clap", "--dir", str(tmp_path)]) == 1
    assert "wanted all, birdnet" in capsys.readouterr().err
