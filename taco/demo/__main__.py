"""The demo: the real node as a process among others, on scenes of a robot's day.

A player publishes camera images at 10 Hz and sound at 20 Hz, `taco_node` answers, a recorder records. Afterwards
the answers are compared with the truth and with simpler methods on the same frames. Results: build/demo.
Exit status 1 where the graph failed or nothing was found.
BIRDNET=1 adds a second sound model for animals (non-commercial weights).
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from taco.clock import NS
from taco.config import TacoConfig
from taco.demo import picture, score, show, stored
from taco.demo.page import write_demo_page
from taco.errors import TacoError
from taco.evaluation.composed.sources import SceneSources, fetch
from taco.evaluation.datasets import EvaluationFrame
from taco.evaluation.methods import MethodRunner
from taco.evaluation.runner import ProgressBar
from taco.io.files import AudioFeed, atomic, chunks, frames
from taco.io.video_writer import VideoWriter
from taco.pipeline import TacoPipeline
from taco.types import AudioChunk, SoundingObject, SoundingScene, WordScore
from taco.view import draw

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build/demo"  # results; `make clean` keeps them
CACHE = ROOT / "build/cache/demo"  # the composed show, what was recorded, logs
BIRDNET = os.environ.get("BIRDNET", "") not in ("", "0")
SETTINGS: dict[str, int | str] = {"models.threads": 1} | ({"models.audio": "yamnet+birdnet"} if BIRDNET else {})
RIVALS = {
    "TACO, forced": "taco",  # each frame by itself and never "nothing", as the rivals
    "late fusion": "late-fusion",
    "A-prompt": "a-fcclip",
    "true word (ceiling)": "true-word",
}
RIVAL_FRAMES = 40  # that the rivals are run on, evenly out of those that the node answered: the demo has to end soon
SHEET_SHARES = (0.25, 0.6, 0.95)  # of a scene's answers that are judged: the frames on the contact sheet

Answer = tuple[show.FrameTruth, stored.RecordedAnswer | None, bytes | np.ndarray]  # truth, result, image as JPEG


def prepare() -> tuple[Path, list[show.FrameTruth]]:
    """The show as a video file and its truth; composed once."""
    key = hash_of([ROOT / "taco/demo/show.py", ROOT / "taco/io/video_writer.py", ROOT / "taco/evaluation/composed/sources.py"])
    video, truth = CACHE / f"show-{key}.mp4", CACHE / f"show-{key}.npz"
    if not (video.exists() and truth.exists()):
        print("[1/4] scenes of real photographs and sounds, composed once", flush=True)
        fetch()
        moments = show.make(SceneSources(), video, show.scenes(), ProgressBar("frames", "frame"))
        stored.save(truth, [dataclasses.asdict(moment) for moment in moments])
    return video, [show.FrameTruth.from_dict(values) for values in stored.load(truth)]


def hash_of(files: list[Path]) -> str:
    """Short name of the files' contents."""
    import hashlib

    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:10]


class Graph:
    """The processes of the demo, in a ROS domain of their own on this machine only. Leaves none behind."""

    def __init__(self) -> None:
        profile = str(ROOT / "config/fastdds_loopback.xml")
        self.env = {
            **os.environ,
            "ROS_DOMAIN_ID": str(100 + os.getpid() % 100),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",
            "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
            "FASTDDS_DEFAULT_PROFILES_FILE": profile,
            "ROS_LOG_DIR": str(CACHE / "log"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "AMENT_PREFIX_PATH": str(ROOT / ".venv"),
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *command: str, show: bool = False) -> subprocess.Popen[bytes]:
        """Start a process of the graph; what it prints goes to its log, or to the terminal with ``show``."""
        log = None if show else (CACHE / f"{name}.log").open("w")
        self.processes[name] = subprocess.Popen(
            [sys.executable, *command], env=self.env, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT if log else None
        )
        return self.processes[name]

    def stop(self, name: str, wait_s: float = 20.0) -> int:
        """Ask a process to end and wait; its exit status."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            return process.wait(wait_s)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def check(self, name: str) -> None:
        """TacoError where a process has ended or logged an error though it should run."""
        log = CACHE / f"{name}.log"
        lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
        status = self.processes[name].poll()
        errors = [line for line in lines if line.startswith(("[ERROR]", "[FATAL]"))]
        if status is not None or errors:
            ended = "" if status is None else f", it ended with status {status}"
            raise TacoError(f"demo: wanted {name} to run{ended}: {(errors or lines or ['no word'])[-1]}")

    def close(self) -> None:
        """End whatever still runs."""
        for name in list(self.processes):
            self.stop(name, 5.0)


def run_graph(video: Path) -> stored.Recorded:
    """Play the show to the node, in real time; what the recorder received."""
    CACHE.mkdir(parents=True, exist_ok=True)
    recording = CACHE / "recording.npz"
    recording.unlink(missing_ok=True)
    executables = ROOT / ".venv/lib/taco_ros"
    parameters = [part for name, value in SETTINGS.items() for part in ("-p", f"{name}:={value}")]
    graph = Graph()
    try:
        graph.start("recorder", "-m", "taco.demo.recorder", str(recording), show=True)
        node = ["--ros-args", *parameters]
        graph.start("taco_node", str(executables / "taco_node"), *node)
        play = [str(video), "--image-rate", "10", "--chunk-s", "0.05", "--best-effort", "--wait", "120", "--subscribers", "2"]
        player = graph.start("player", str(executables / "player"), *play)
        deadline = time.monotonic() + 300
        while player.poll() is None:
            graph.check("taco_node")
            graph.check("recorder")
            if time.monotonic() > deadline:
                raise TacoError(
                    "demo: wanted the show to end within 300 s, it did not; see build/cache/demo/player.log and taco_node.log"
                )
            time.sleep(0.2)
        if player.returncode:
            graph.check("player")
        graph.processes.pop("player")
        time.sleep(1.0)  # the last frames are still on their way
        graph.stop("recorder")
        graph.stop("taco_node")
    finally:
        graph.close()
    if not recording.exists():
        raise TacoError("demo: wanted a recording, got none; see build/cache/demo/taco_node.log")
    found: dict[str, Any] = stored.load(recording)
    images = {int(stamp): jpeg for stamp, jpeg in found["images"].items()}
    return {"images": images, "audio": found["audio"], "results": found["results"]}


def answers_of(recorded: stored.Recorded, moments: Sequence[show.FrameTruth]) -> list[Answer]:
    """(moment, result, image) of each published frame, matched by stamps: the show's frames are evenly spaced."""
    first = min(recorded["images"], default=None)
    if first is None:
        raise TacoError("demo: wanted camera images, the recorder got none; see build/cache/demo/player.log")
    results = {result["stamp_ns"]: result for result in recorded["results"]}
    out: list[Answer] = []
    for stamp, jpeg in sorted(recorded["images"].items()):
        index = round((stamp - first) * show.FPS / NS)
        if index < len(moments):
            result = results.get(stamp)
            moment = moments[index].heard_late(result["sound_lag_ns"] / NS) if result else moments[index]
            out.append((moment, result, jpeg))
    return out


def scene_of(result: stored.RecordedAnswer) -> SoundingScene:
    """A recorded result as the type that the drawing takes."""
    objects = []
    for item in result["objects"]:
        x, y, width, height = item["box"]
        mask = score.whole_mask(item)
        objects.append(SoundingObject(item["id"], pairs(item["labels"]), min(1.0, item["score"]), mask, (x, y, width, height)))
    stamp = result["stamp_ns"]
    head = (stamp, show.SIZE, stamp, stamp, result["level_dbfs"], result["sounding_score"], result["verdict"])
    return SoundingScene(*head, tuple(objects), heard=pairs(result["heard"]))


def pairs(words: Sequence[WordScore]) -> tuple[WordScore, ...]:
    """Words with scores as tuples; a file has them as lists."""
    return tuple((word, value) for word, value in words)


def rivals(video: Path, moments: Sequence[show.FrameTruth], answered: set[int]) -> dict[str, score.Scores]:
    """Simpler methods on frames that the node answered, with rejection off: they never say "nothing"."""
    method_runner = MethodRunner(TacoConfig().updated(SETTINGS), pipeline=TacoPipeline(TacoConfig().updated(SETTINGS)))
    feed = AudioFeed(chunks(video), method_runner.config.audio)
    words, picked = set(method_runner.anchors.words), []
    for moment, frame in zip(moments, frames(video)):
        window = feed.window(frame.stamp_ns)
        right = moment.words[moment.sounding] if moment.sounding >= 0 else ""
        if moment.settled and right in words and moment.stamp_ns in answered:
            picked.append((moment, EvaluationFrame(str(frame.stamp_ns), frame, window, None, word=right)))
    picked = [picked[n * len(picked) // RIVAL_FRAMES] for n in range(RIVAL_FRAMES)] if len(picked) > RIVAL_FRAMES else picked
    out, progress = {}, ProgressBar("rivals", "method")
    progress(0, len(RIVALS))
    for n, (label, method) in enumerate(RIVALS.items(), 1):
        found = method_runner.run(method, [sample for _, sample in picked])
        masks = [outcome.objects[0].mask if outcome.objects else None for outcome in found]
        out[label] = score.summary_of_masks(list(zip([moment for moment, _ in picked], masks)))
        progress(n, len(RIVALS))
    return out


def pictures(answers: Sequence[Answer], recorded: stored.Recorded, names: Sequence[str]) -> None:
    """overlay.mp4 with the sound, and a sheet of three frames a scene."""
    shown: SoundingScene | None = None
    sheet: dict[int, list[tuple[show.FrameTruth, np.ndarray, SoundingScene]]] = {}
    origin = min(recorded["images"])
    rate = recorded["audio"][0][1] if recorded["audio"] else 0
    with VideoWriter(OUT / "overlay.mp4", fps=show.FPS, sample_rate=rate, origin_ns=origin) as writer:
        for moment, result, jpeg in answers:
            bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert bgr is not None, "a JPEG of the recorder"
            rgb = np.ascontiguousarray(bgr[..., ::-1])
            shown = scene_of(result) if result else shown
            picture = draw.overlay(rgb, shown) if shown else rgb
            writer.write(picture, origin + moment.stamp_ns)
            if result and shown:
                sheet.setdefault(moment.scene, []).append((moment, picture, shown))
        for stamp, sample_rate, samples in recorded["audio"]:
            writer.write_audio(AudioChunk(np.ascontiguousarray(samples[:, None], np.float32), sample_rate, stamp))
    images, captions = [], []
    for index, seen in sorted(sheet.items()):
        judged = [answer for answer in seen if answer[0].settled] or seen
        for share in SHEET_SHARES:
            moment, picture, scene = judged[int(share * (len(judged) - 1))]
            images.append(picture)
            captions.append("\n".join((names[index], *score.caption(moment, scene))))
    sheet_rgb = draw.contact_sheet(images, captions, columns=3, tile_width=400, title="TACO demo: what was heard, outlined")
    with atomic(OUT / "contact_sheet.png") as scratch:
        scratch.write_bytes(cv2.imencode(".png", sheet_rgb[..., ::-1])[1].tobytes())
    with atomic(OUT / "poster.jpg") as scratch:
        scratch.write_bytes(cv2.imencode(".jpg", images[0][..., ::-1])[1].tobytes())


def main() -> int:
    """Run the demo; the exit status."""
    for folder in (OUT, CACHE):
        folder.mkdir(parents=True, exist_ok=True)
    video, moments = prepare()
    names = [scene.name for scene in show.scenes()]
    print(
        f"[2/4] player -> taco_node -> recorder, {len(moments) / show.FPS:.0f} s of camera and sound in real time",
        flush=True,
    )
    recorded = run_graph(video)
    answers = answers_of(recorded, moments)
    done = [(moment, result) for moment, result, _ in answers if result]
    print("[3/4] simpler methods on the same frames", flush=True)
    others = rivals(video, moments, {moment.stamp_ns for moment, _ in done})
    print("[4/4] overlay.mp4, contact_sheet.png, report.json, picture.webp, index.html", flush=True)
    pictures(answers, recorded, names)
    result = score.report(recorded, len(moments), done, names, str(SETTINGS.get("models.audio", "yamnet")), others)
    with atomic(OUT / "report.json") as scratch:
        scratch.write_text(json.dumps(result, indent=1) + "\n")
    if not any(result["objects"] for result in recorded["results"]):
        raise TacoError("demo: wanted sounding objects, the node found none; see build/cache/demo/taco_node.log")
    print(score.summary_text(result, RIVALS))
    picture.make(OUT / "picture.webp")  # the README's, docs/pictures/taco.webp
    page = write_demo_page(OUT / "index.html", result, RIVALS)
    print(f"open {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TacoError as error:
        print(f"taco: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
