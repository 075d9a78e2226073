"""`make demo`: the real graph as separate processes over the real middleware, on scenes of real photographs and sounds.

A player publishes camera images at 10 Hz and sound at 20 Hz, `taco_node` answers, a recorder listens. Afterwards
the answers are held against the truth and against simpler methods on the same frames. Results: build/demo.
Exit status 1 where the graph failed or nothing was found. BIRDNET=1 adds animals (its weights are non-commercial).
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import demo_score  # noqa: E402
import demo_show  # noqa: E402

from taco import draw  # noqa: E402
from taco.config import TacoConfig  # noqa: E402
from taco.errors import TacoError  # noqa: E402
from taco.evaluation.baselines import Bench  # noqa: E402
from taco.evaluation.datasets import Sample  # noqa: E402
from taco.evaluation.stamp_sources import StampSources, fetch  # noqa: E402
from taco.media.reading import AudioFeed, chunks, frames  # noqa: E402
from taco.media.writing import VideoWriter, atomic  # noqa: E402
from taco.pipeline import TacoPipeline  # noqa: E402
from taco.types import AudioChunk, SoundingObject, SoundingScene  # noqa: E402

OUT = ROOT / "build/demo"
BIRDNET = os.environ.get("BIRDNET", "") not in ("", "0")
SETTINGS = {"models.audio": "musicnn+birdnet" if BIRDNET else "musicnn", "models.threads": 1}
RIVALS = {
    "TACO, forced": "taco",  # each frame by itself and never "nothing", as the rivals
    "late fusion": "late-fusion",
    "A-prompt": "a-fcclip",
    "true word (ceiling)": "true-word",
}
NS = 1_000_000_000


def progress(label: str, done: int, total: int) -> None:
    """A bar on a terminal, a line at a quarter each elsewhere."""
    if sys.stdout.isatty():
        print(f"\r      {label} {'#' * (30 * done // total):<30} {done}/{total}", end="\n" if done == total else "", flush=True)
    elif done % max(1, total // 4) == 0:
        print(f"      {label} {done}/{total}", flush=True)


def prepare() -> tuple[Path, list]:
    """The show as a video file and its truth; made once."""
    made_of = [ROOT / "tools/demo_show.py", ROOT / "taco/media/writing.py", ROOT / "taco/evaluation/stamp_sources.py"]
    key = f"{hash_of(made_of)}-{int(BIRDNET)}"
    video, truth = OUT / f"show-{key}.mp4", OUT / f"show-{key}.pkl"
    if not (video.exists() and truth.exists()):
        print("[1/4] scenes of real photographs and sounds, made once", flush=True)
        fetch()
        moments = demo_show.make(StampSources(), video, demo_show.scenes(BIRDNET), lambda n, m: progress("frames", n, m))
        with atomic(truth) as scratch:
            scratch.write_bytes(pickle.dumps(moments))
    return video, pickle.loads(truth.read_bytes())


def hash_of(files: list[Path]) -> str:
    """Short name of the files' contents."""
    import hashlib

    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:10]


class Graph:
    """The processes of the demo, in an own ROS domain on this machine only. Leaves none behind."""

    def __init__(self):
        profile = str(ROOT / "config/fastdds_loopback.xml")
        self.env = {
            **os.environ,
            "ROS_DOMAIN_ID": str(100 + os.getpid() % 100),
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",
            "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
            "FASTDDS_DEFAULT_PROFILES_FILE": profile,
            "ROS_LOG_DIR": str(OUT / "log"),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "AMENT_PREFIX_PATH": str(ROOT / ".venv"),
        }
        self.processes: dict[str, subprocess.Popen] = {}

    def start(self, name: str, *command: str, show: bool = False) -> subprocess.Popen:
        """Start a process of the graph; what it prints goes to its log, or to the terminal with ``show``."""
        log = None if show else (OUT / f"{name}.log").open("w")
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
        log = OUT / f"{name}.log"
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


def run_graph(video: Path) -> dict:
    """Play the show to the node, in real time; what the recorder heard and saw."""
    recording = OUT / "recording.pkl"
    recording.unlink(missing_ok=True)
    executables = ROOT / ".venv/lib/taco_ros"
    parameters = [part for name, value in SETTINGS.items() for part in ("-p", f"{name}:={value}")]
    graph = Graph()
    try:
        graph.start("recorder", "tools/demo_recorder.py", str(recording), show=True)
        node = ["--ros-args", *parameters]
        graph.start("taco_node", str(executables / "taco_node"), *node)
        play = [str(video), "--image-rate", "10", "--chunk-s", "0.05", "--best-effort", "--wait", "40", "--subscribers", "2"]
        player = graph.start("player", str(executables / "player"), *play)
        deadline = time.monotonic() + 300
        while player.poll() is None:
            graph.check("taco_node")
            graph.check("recorder")
            if time.monotonic() > deadline:
                raise TacoError(
                    "demo: wanted the show to end within 300 s, it did not; see build/demo/player.log and taco_node.log"
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
        raise TacoError("demo: wanted a recording, got none; see build/demo/taco_node.log")
    return pickle.loads(recording.read_bytes())


def answers_of(recorded: dict, moments: list) -> list[tuple]:
    """(moment, result, image) of each published frame, matched by stamps: the show's frames are evenly spaced."""
    first = min(recorded["images"], default=None)
    if first is None:
        raise TacoError("demo: wanted camera images, the recorder got none; see build/demo/player.log")
    results = {result["stamp_ns"]: result for result in recorded["results"]}
    out = []
    for stamp, jpeg in sorted(recorded["images"].items()):
        index = round((stamp - first) * demo_show.FPS / NS)
        if index < len(moments):
            result = results.get(stamp)
            moment = moments[index].heard_late(result["sound_lag_ns"] / NS) if result else moments[index]
            out.append((moment, result, jpeg))
    return out


def mask_of(result: dict | None) -> np.ndarray | None:
    """(H, W) bool of the best object, None where there is none."""
    if not result or not result["objects"]:
        return None
    return whole_mask(result["objects"][0])


def whole_mask(thing: dict) -> np.ndarray:
    """(H, W) bool of a recorded object."""
    x, y, w, h = thing["box"]
    mask = np.zeros(demo_show.SIZE, bool)
    mask[y : y + h, x : x + w] = np.unpackbits(thing["mask"], count=w * h).reshape(h, w).astype(bool)
    return mask


def scene_of(result: dict) -> SoundingScene:
    """A recorded result as the type that the drawing takes."""
    objects = [
        SoundingObject(t["id"], tuple(t["labels"]), min(1.0, t["score"]), whole_mask(t), t["box"]) for t in result["objects"]
    ]
    silent = result["level_dbfs"] < TacoConfig().concepts.silence_dbfs
    verdict = "sounding" if objects else "silent" if silent else "rejected"
    stamp = result["stamp_ns"]
    return SoundingScene(
        stamp, demo_show.SIZE, stamp, stamp, result["level_dbfs"], result["sounding_score"], verdict, tuple(objects)
    )


def rivals(video: Path, moments: list, answered: set[int]) -> dict[str, dict]:
    """Simpler methods on the frames that the node answered, with rejection off: they never say "nothing"."""
    bench = Bench(TacoConfig().updated(SETTINGS), pipeline=TacoPipeline(TacoConfig().updated(SETTINGS)))
    feed = AudioFeed(chunks(video), bench.config.audio)
    words = set(bench.anchors.words)
    picked = []
    for moment, frame in zip(moments, frames(video)):
        window = feed.window(frame.stamp_ns)
        right = moment.words[moment.sounding] if moment.sounding >= 0 else ""
        if moment.settled and right in words and moment.stamp_ns in answered:
            picked.append((moment, Sample(str(frame.stamp_ns), frame, window, None, word=right)))
    out = {}
    for n, (label, method) in enumerate(RIVALS.items(), 1):
        found = bench.run(method, [sample for _, sample in picked])
        masks = [outcome.objects[0].mask if outcome.objects else None for outcome in found]
        out[label] = demo_score.summary(list(zip([moment for moment, _ in picked], masks)))
        progress("rivals", n, len(RIVALS))
    return out


def pictures(answers: list[tuple], recorded: dict, names: list[str]) -> None:
    """overlay.mp4 with the sound, and a sheet of three frames a scene."""
    shown = None
    sheet: dict[int, list] = {}
    origin = min(recorded["images"])
    rate = recorded["audio"][0][1] if recorded["audio"] else 0
    with VideoWriter(OUT / "overlay.mp4", fps=demo_show.FPS, sample_rate=rate, origin_ns=origin) as writer:
        for moment, result, jpeg in answers:
            rgb = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            shown = scene_of(result) if result else shown
            picture = draw.overlay(np.ascontiguousarray(rgb), shown) if shown else np.ascontiguousarray(rgb)
            writer.write(picture, origin + moment.stamp_ns)
            if result:
                sheet.setdefault(moment.scene, []).append((moment, picture, shown))
        for stamp, sample_rate, samples in recorded["audio"]:
            writer.write_audio(AudioChunk(np.ascontiguousarray(samples[:, None], np.float32), sample_rate, stamp))
    images, captions = [], []
    for index, seen in sorted(sheet.items()):
        for share in (0.25, 0.6, 0.95):
            moment, picture, scene = seen[int(share * (len(seen) - 1))]
            heard = {-1: "silence", -2: "a sound out of view"}.get(moment.sounding) or f"{moment.words[moment.sounding]} sounds"
            images.append(picture)
            captions.append(
                f"{names[index]}\ntruth: {heard}; found: {', '.join(t.label for t in scene.objects) or scene.verdict}"
            )
    sheet_rgb = draw.contact_sheet(images, captions, columns=3, title="TACO demo: what was heard, outlined")
    with atomic(OUT / "contact_sheet.png") as scratch:
        scratch.write_bytes(cv2.imencode(".png", sheet_rgb[..., ::-1])[1].tobytes())


def main() -> int:
    """Run the demo; the exit status."""
    OUT.mkdir(parents=True, exist_ok=True)
    video, moments = prepare()
    show = demo_show.scenes(BIRDNET)
    print(
        f"[2/4] player -> taco_node -> recorder, {len(moments) / demo_show.FPS:.0f} s of camera and sound in real time",
        flush=True,
    )
    recorded = run_graph(video)
    answers = answers_of(recorded, moments)
    done = [(moment, result) for moment, result, _ in answers if result]
    print("[3/4] simpler methods on the same frames", flush=True)
    others = rivals(video, moments, {moment.stamp_ns for moment, _ in done})
    print("[4/4] overlay.mp4, contact_sheet.png, report.json", flush=True)
    pictures(answers, recorded, [scene.name for scene in show])
    ours = demo_score.summary([(moment, mask_of(result)) for moment, result in done])
    ages = [result["age_ms"] for result in recorded["results"]]
    span = (max(recorded["images"]) - min(recorded["images"])) / NS
    report = {
        "scenes": [scene.name for scene in show],
        "models": "embedded (" + SETTINGS["models.audio"] + "): small stand-ins for the paper's models, closed vocabulary",
        "images_published": len(moments),
        "images_received": len(recorded["images"]),
        "images_answered": len(recorded["results"]),
        "frames_per_second": round(len(recorded["results"]) / max(span, 1e-9), 2),
        "age_ms": {"p50": round(float(np.percentile(ages, 50)), 1), "p95": round(float(np.percentile(ages, 95)), 1)}
        if ages
        else None,
        "taco": ours,
        **others,
    }
    with atomic(OUT / "report.json") as scratch:
        scratch.write_text(json.dumps(report, indent=1) + "\n")
    if not ages or not any(result["objects"] for result in recorded["results"]):
        raise TacoError("demo: wanted sounding things, the node found none; see build/demo/taco_node.log")
    print(table({"TACO, live": ours, **others}))
    print(
        f"{len(show)} scenes: mask centre on the sounding thing {percent(ours['on_sounding'])}, on a silent one "
        f"{percent(ours['on_silent'])}, empty in silence {percent(ours['silence_empty'])}, "
        f"{report['frames_per_second']:.1f} frames/s, age p50 {report['age_ms']['p50']:.0f} ms, "
        f"p95 {report['age_ms']['p95']:.0f} ms"
    )
    return 0


def percent(share: float | None) -> str:
    """A share for people."""
    return "-" if share is None else f"{100 * share:.0f} %"


def table(rows: dict[str, dict]) -> str:
    """The methods side by side."""
    columns = {
        "on_sounding": "on sounding",
        "on_silent": "on silent",
        "iou": "IoU",
        "offscreen_empty": "empty, source out of view",
    }
    lines = [f"{'':<20}" + "".join(f"{head:>{len(head) + 3}}" for head in columns.values())]
    for name, row in rows.items():
        lines.append(f"{name:<20}" + "".join(f"{percent(row[key]):>{len(head) + 3}}" for key, head in columns.items()))
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TacoError as error:
        print(f"taco: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
