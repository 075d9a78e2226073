"""Age and losses of the live node's answers: real processes, models of a known duration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from taco.errors import MediaError, MissingPackageError
from taco.evaluation.datasets import EvaluationFrame

STAGES_MS = (5.0, 30.0, 300.0)
IMAGE_HZ, CHUNK_S, RATE = 30.0, 0.01, 16000
OVERHEAD_MS = 60.0  # what may come on top of the models' time
# How much older the last third's answers may be than the first third's (median: a queue moves it, a hiccup does not).
GROWTH_MS = 30.0
MEMORY_MB = 10.0  # how much more memory the node may have in the last third
ACTIVATE_S = 1.0
SETTLE_S = 3.0  # in which player and listener start, before the node does


def measure(stage_ms: float, seconds: float, domain: int) -> dict[str, Any]:
    """One stream through one node whose models take ``stage_ms``; the row of the table."""
    time_s = np.arange(round(seconds * RATE)) / RATE
    tone = (0.3 * np.sin(2 * np.pi * 300 * time_s)).astype(np.float32)
    node = [f"models.image:=standin:{stage_ms:g}", "models.threads:=1", "node.max_age_s:=0.0"]
    row = _run([_picture()], (tone, RATE), seconds, domain, node, ["--wait", "60"])
    return verdict(row, stage_ms, len(tone))


def measure_models(clip: Sequence[EvaluationFrame], seconds: float, domain: int, busy: int = 0) -> dict[str, Any]:
    """The node as installed, with its own models and settings, on a stream that is there before it starts.

    clip: its images go forth and back; its sounds are those of its first frame, again and again. busy: how many other
    programs compute without a pause. Returns the listener's figures and "start_s", from launch to the first answer.
    """
    window = clip[0].window
    sound = np.resize(window.samples, round(seconds * window.sample_rate))
    ring = [frame.frame.rgb for frame in (*clip, *reversed(clip))]
    eaters = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        row = _run([ring[n % len(ring)] for n in range(round(seconds * IMAGE_HZ))], (sound, window.sample_rate), seconds, domain)
    finally:
        for eater in eaters:
            eater.kill()
            eater.wait(20)
    stream = row.pop("diagnostics")["stream"]
    row["stages_ms"] = {key: float(value) for key, value in stream.items() if key.endswith("_ms") and value != "unknown"}
    return row


def _run(
    pictures: Sequence[np.ndarray],
    sound: tuple[np.ndarray, int],
    seconds: float,
    domain: int,
    settings: Sequence[str] = (),
    player_options: Sequence[str] = (),
) -> dict[str, Any]:
    """What the listener printed, and "start_s". Without "--wait" the player is there first."""
    import cv2
    import soundfile

    share = _share()
    profile = str(share / "share" / "taco_ros" / "config" / "fastdds_loopback.xml")
    environment = {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SYSTEM_DEFAULT",
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
    }
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    bin_ = share / "lib" / "taco_ros"
    waits = "--wait" in player_options
    with tempfile.TemporaryDirectory() as folder:
        environment.setdefault("ROS_LOG_DIR", folder)
        images, wave = Path(folder, "images"), Path(folder, "sound.wav")
        images.mkdir()
        for number, rgb in enumerate(pictures):  # quality: JPEG is read in a third of the time of PNG
            cv2.imwrite(str(images / f"{number:05d}.jpg"), rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])
        soundfile.write(wave, *sound, subtype="FLOAT")
        node = [argument for item in settings for argument in ("-p", item)]
        node = ["--ros-args", *node] if node else []
        path = images if len(pictures) > 1 else images / "00000.jpg"
        player: list[object] = [
            bin_ / "player",
            path,
            "--sound",
            wave,
            "--image-rate",
            f"{IMAGE_HZ:g}",
            "--chunk-s",
            f"{CHUNK_S:g}",
            *player_options,
        ]
        running: list[subprocess.Popen[bytes] | subprocess.Popen[str]] = []
        with open(Path(folder, "log"), "w+b") as log:

            def start(command: Sequence[object], **options: Any) -> subprocess.Popen[Any]:
                process = subprocess.Popen(list(map(str, command)), env=environment, **options)
                running.append(process)
                return process

            try:
                listen = [sys.executable, "-m", "taco_ros.latency_listener", "--limit-s", f"{seconds + 90:g}"]
                listener = start(listen, stdout=subprocess.PIPE, text=True)
                playing = None if waits else start(player, stdout=log, stderr=log)
                time.sleep(0.0 if waits else SETTLE_S)
                launched = time.monotonic()
                start([bin_ / "taco_node", *node], stdout=log, stderr=log)
                playing = playing or start(player, stdout=log, stderr=log)
                if playing.wait():
                    log.seek(0)
                    raise MediaError(f"bench node: the player failed: {log.read().decode(errors='replace')[-300:].strip()}")
                printed = listener.communicate(timeout=60)[0]
                if listener.returncode:
                    raise MediaError("bench node: no answer came from the node; run it by hand to see why")
            finally:
                for process in running:
                    process.terminate()
                    process.wait(20)
    row: dict[str, Any] = json.loads(printed.splitlines()[-1])
    row["start_s"] = row.pop("first_at_s") - launched
    return row


def verdict(row: dict[str, Any], stage_ms: float, samples: int) -> dict[str, Any]:
    """Add the limits and what was missed. row: what ``taco_ros.latency_listener`` printed. samples: published."""
    diagnostics = row.pop("diagnostics")
    row["stage_ms"], row["limit_ms"] = stage_ms, stage_ms + OVERHEAD_MS
    row["lost_samples"] = samples - int(diagnostics["sound"]["samples"])
    row["gaps"] = int(diagnostics["sound"]["gaps"])
    row["dropped"] = {
        key.partition(".")[2]: int(v) for key, v in diagnostics["stream"].items() if key.startswith("dropped.") and v != "0"
    }
    row["stages_ms"] = {key: float(v) for key, v in diagnostics["stream"].items() if key.endswith("_ms") and v != "unknown"}
    checks = {
        "age": row["age_p95_ms"] <= row["limit_ms"],
        "growth": row["age_p50_last_third_ms"] <= row["age_p50_first_third_ms"] + GROWTH_MS,
        "memory": row["memory_last_third_mb"] <= row["memory_first_third_mb"] + MEMORY_MB,
        "samples": row["lost_samples"] == 0,
        "reactivate": row["deactivate_to_activate_s"] <= ACTIVATE_S,
        "objects": row["found"] > 0,
    }
    row["missed"] = [name for name, good in checks.items() if not good]
    row["ok"] = not row["missed"]
    return row


def _picture() -> np.ndarray:
    rgb = np.full((480, 640, 3), 90, np.uint8)
    rgb[100:300, 50:250], rgb[200:400, 400:600] = (220, 20, 20), (20, 20, 230)
    return rgb


def _share() -> Path:
    """The prefix that the ROS package is installed in; MissingPackageError says how to install it."""
    prefixes = [sys.prefix, *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)]
    for prefix in filter(None, prefixes):
        if Path(prefix, "lib", "taco_ros", "taco_node").exists():
            return Path(prefix)
    raise MissingPackageError("bench node: wanted the ROS package taco_ros, got none; make setup, or source install/setup.bash")
