"""Kills ``taco segment``, ``evaluate`` and ``weights fetch`` at random moments, and compares what the same command makes of it.

``python -m test.taco.cli.kills 25`` kills each 25 times and prints the table of docs/reliability.md.
"""

from __future__ import annotations

import http.server
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from taco import cli, segment
from taco.clock import NS
from taco.io.video_writer import VideoWriter
from taco.pipeline import TacoPipeline
from taco.types import AudioChunk
from taco.weights import parts
from test.taco.evaluation import made_datasets

# Starts each command from a fork of a process that has the imports done, so that a kill strikes the work.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["taco.pipeline", "taco.segment", "taco.evaluation.tables"])
WEIGHTS = bytes(range(256)) * 8192  # 2 MiB
LIMIT_S = 120.0


MODELS = ("--set", "models.image=standin:20", "--set", "models.threads=1")


class ColdPipeline(TacoPipeline):
    """Starts every frame cold, so that a resumed run's first frame is like any other."""

    def process(self, frame, window, encodings=None):
        self.reset()
        return super().process(frame, window, encodings)


def _run(words: list[str], output: str, cold: bool) -> None:
    """In the process that is killed: the command, what it prints into a file."""
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    parts.PINNED = {}  # made files stand for the paper's
    if cold:
        segment.make_pipeline = ColdPipeline
    sys.exit(cli.main(words))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass
class Command:
    """One command.

    out: folder that it writes to.
    words: of the command line.
    cold: every frame starts cold.
    """

    folder: Path
    words: list[str] = field(default_factory=list)
    cold: bool = True

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def start(self) -> multiprocessing.process.BaseProcess:
        process = PROCESSES.Process(target=_run, args=(self.words, str(self.folder / "told"), self.cold))
        process.start()
        return process

    def told(self) -> str:
        return (self.folder / "told").read_text()

    def begun(self) -> bool:
        """Whether there is something of it on the disk."""
        return self.out.exists() and any(self.out.iterdir())

    def whole_files(self) -> dict[str, bytes]:
        """What has a final name, as it is; stopped or not, it must be as at the end."""
        return {name: data for name, data in files(self.out).items() if not any(p.startswith(".") for p in Path(name).parts)}

    def result(self) -> object:
        """What is compared: everything but measured times."""
        return self.whole_files()


class Segment(Command):
    """A clip of a red and a blue thing that sound in turn, with every kind of output."""

    def __init__(self, folder: Path, frames: int = 12, cold: bool = True):
        super().__init__(folder, cold=cold)
        clip = folder / "clip.mp4"
        rate, t = 16000, np.arange(round(16000 * frames / 10)) / 16000
        tone = 0.3 * np.sin(2 * np.pi * np.where((t // 0.4) % 2, 5000.0, 300.0) * t)
        with VideoWriter(clip, fps=10, sample_rate=rate, origin_ns=0) as writer:
            for i in range(frames):
                rgb = np.full((96, 128, 3), 90, np.uint8)
                rgb[20:60, 10 + i % 8 : 45 + i % 8] = (220, 20, 20)
                rgb[30:80, 80:120] = (20, 20, 220)
                writer.write(rgb, i * NS // 10)
            writer.write_audio(AudioChunk(tone.astype(np.float32)[:, None], rate, 0))
        self.words = ["segment", str(clip), "-o", str(self.out), "--coco", "--html", *MODELS]

    def result(self) -> object:
        found = self.whole_files()
        lines = [json.loads(line) for line in found.pop("objects.jsonl").splitlines()]
        summary = json.loads(found.pop("run.json"))["summary"]
        for name in ("frames_per_s", "resumed_after"):
            summary.pop(name)
        return [{k: v for k, v in line.items() if k != "stage_ms"} for line in lines], summary, found

    def whole_files(self) -> dict[str, bytes]:
        found = super().whole_files()
        return found if "objects.jsonl" in found else {k: v for k, v in found.items() if k != "run.json"}


class Evaluate(Command):
    """Two clips, two methods, two seeds."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        data = made_datasets.s4(folder / "s4")
        asked = ["--data", str(data), "--method", "taco", "u", "--seeds", "2", "--json", "--out", str(self.out)]
        self.words = ["evaluate", "s4", *asked, *MODELS]

    def result(self) -> object:
        told = self.told()
        found = json.loads(told[told.index("{\n") :])
        for row in found["rows"].values():
            row.pop("ms")
        return found, sorted(files(self.out))

    def whole_files(self) -> dict[str, bytes]:
        """The records hold times."""
        return {}


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Connections that a kill breaks off."""


class _Slow(http.server.BaseHTTPRequestHandler):
    """Gives WEIGHTS in a second, or what is missing of them."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(WEIGHTS) - start))
        self.send_header("ETag", '"made"')
        self.end_headers()
        for at in range(start, len(WEIGHTS), 1 << 15):
            self.wfile.write(WEIGHTS[at : at + (1 << 15)])
            self.wfile.flush()
            time.sleep(1.0 / 64)


class Fetch(Command):
    """The part of one file, from a slow server on this machine."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.server = _Server(("127.0.0.1", 0), _Slow)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{self.server.server_address[1]}/fcclip.pth"
        self.words = ["weights", "fetch", "fcclip", "--url", url, "--dir", str(self.out)]

    def begun(self) -> bool:
        return any(path.is_file() for path in self.out.rglob("*"))

    def whole_files(self) -> dict[str, bytes]:
        """The kept part and its tag are for the next call."""
        found = super().whole_files()
        found = {name: data for name, data in found.items() if not name.endswith((".part", ".part.tag"))}
        record = {name: json.loads(data) for name, data in found.items() if name.endswith(".json")}
        for values in (file for files in record.values() for file in files.values()):
            values.pop("mtime_ns")
        return found | {name: json.dumps(value).encode() for name, value in record.items()}


COMMANDS = {"segment": Segment, "evaluate": Evaluate, "weights fetch": Fetch}


class Killer:
    """A command in an empty folder: run once without interruption, then killed and given again as often as wanted."""

    def __init__(self, kind: type[Command], folder: Path, chance: random.Random):
        self.command, self.chance = kind(folder), chance
        process = self._begun()
        start = time.monotonic()
        process.join(LIMIT_S)
        self.lasts_s = time.monotonic() - start
        assert process.exitcode == 0, self.command.told()
        self.whole, self.files = self.command.result(), self.command.whole_files()
        self.names = sorted(str(path.relative_to(self.command.out)) for path in self.command.out.rglob("*"))

    def _begun(self, anew: bool = True) -> multiprocessing.process.BaseProcess:
        if anew:
            shutil.rmtree(self.command.out, ignore_errors=True)
        process = self.command.start()
        end = time.monotonic() + LIMIT_S
        while not self.command.begun() and process.is_alive() and time.monotonic() < end:
            time.sleep(0.002)
        return process

    def kill(self, anew: bool = True) -> bool:
        """Once, at a random moment, whether it had not ended; AssertionError where something half-written has a final name.

        anew: in an empty folder.
        """
        process = self._begun(anew)
        time.sleep(self.chance.uniform(0.0, 1.0) * self.lasts_s)
        process.kill()
        process.join(LIMIT_S)
        for name, data in self.command.whole_files().items():
            assert self._same(name, data), f"{name} is not whole"
        return process.exitcode != 0

    def _same(self, name: str, data: bytes) -> bool:
        if name in ("objects.jsonl", "run.json"):  # hold times; ``result`` compares them
            return data.count(b"\n") == self.files[name].count(b"\n")
        return data == self.files[name]

    def resume(self) -> object:
        """The result of the same command once more; AssertionError where it fails or leaves another name."""
        process = self.command.start()
        process.join(LIMIT_S)
        assert process.exitcode == 0, self.command.told()
        names = sorted(str(path.relative_to(self.command.out)) for path in self.command.out.rglob("*"))
        assert names == self.names, set(names) ^ set(self.names)
        return self.command.result()


def main(count: int) -> None:
    """Print the table."""
    seed = random.randrange(10**6)
    columns = ("command", "kills", "in the midst of the work", "other result afterwards", "half-written or left over")
    print(f"seed {seed}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    chance = random.Random(seed)
    for name, kind in {**COMMANDS, "segment, warm": lambda folder: Segment(folder, cold=False)}.items():
        with tempfile.TemporaryDirectory() as folder:
            killer = Killer(kind, Path(folder), chance)
            struck, other, half = 0, 0, 0
            for _ in range(count):
                try:
                    struck += killer.kill()
                    result = killer.resume()
                except AssertionError as error:
                    half += 1
                    print(f"{name}: {error}", file=sys.stderr)
                    continue
                if result != killer.whole:
                    other += 1
                    if isinstance(killer.command, Segment):
                        print(f"{name}: {differences(result, killer.whole)}", file=sys.stderr)
        print(f"| {name} | {count} | {struck} | {other} | {half} |", flush=True)


def differences(one, other) -> str:
    """Of two results of ``segment``: in how many frames any number, the words or ids, or the outlines differ."""
    frames = [(a, b) for a, b in zip(one[0], other[0], strict=True) if a != b]
    words = sum([(o["id"], o["label"]) for o in a["objects"]] != [(o["id"], o["label"]) for o in b["objects"]] for a, b in frames)
    outlines = sum([o["rle"] for o in a["objects"]] != [o["rle"] for o in b["objects"]] for a, b in frames)
    first = frames[0][0]["frame"] if frames else "-"
    return (
        f"from frame {first} on, of {len(one[0])}: {len(frames)} in any number, {words} in words or ids, {outlines} in outlines"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
