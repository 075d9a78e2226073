"""Age and losses of the live node's answers: real processes, models of a known duration."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from taco.errors import MediaError, MissingPackageError

STAGES_MS = (5.0, 30.0, 300.0)
IMAGE_HZ, CHUNK_S, RATE = 30.0, 0.01, 16000
OVERHEAD_MS = 60.0  # what may come on top of the models' time
# How much older the last third's answers may be than the first third's (median: a queue moves it, a hiccup does not).
GROWTH_MS = 30.0
MEMORY_MB = 10.0  # how much more memory the node may have in the last third
ACTIVATE_S = 1.0


def measure(stage_ms: float, seconds: float, domain: int) -> dict[str, Any]:
    """One stream through one node whose models take ``stage_ms``; the row of the table."""
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
    with tempfile.TemporaryDirectory() as folder:
        environment.setdefault("ROS_LOG_DIR", folder)
        picture, sound = Path(folder, "picture.png"), Path(folder, "sound.wav")
        cv2.imwrite(str(picture), _picture()[..., ::-1])
        time_s = np.arange(round(seconds * RATE)) / RATE
        soundfile.write(sound, (0.3 * np.sin(2 * np.pi * 300 * time_s)).astype(np.float32), RATE, subtype="FLOAT")
        node = ["--ros-args", "-p", f"models.image:=standin:{stage_ms:g}", "-p", "models.threads:=1", "-p", "node.max_age_s:=0.0"]
        player = [picture, "--sound", sound, "--image-rate", f"{IMAGE_HZ:g}", "--chunk-s", f"{CHUNK_S:g}", "--wait", "60"]
        running: list[subprocess.Popen[bytes] | subprocess.Popen[str]] = []
        try:
            log = open(Path(folder, "node.log"), "w+b")  # noqa: SIM115
            running.append(subprocess.Popen([bin_ / "taco_node", *node], env=environment, stdout=log, stderr=log))
            listen = [sys.executable, "-m", "taco_ros.latency_listener", "--limit-s", f"{seconds + 90:g}"]
            listener = subprocess.Popen(listen, env=environment, stdout=subprocess.PIPE, text=True)
            running.append(listener)
            playing = subprocess.run([bin_ / "player", *map(str, player)], env=environment, capture_output=True, text=True)
            if playing.returncode:
                log.seek(0)
                said = playing.stderr.strip() or log.read().decode(errors="replace")[-300:]
                raise MediaError(f"bench node: the player failed: {said}")
            printed = listener.communicate(timeout=60)[0]
            if listener.returncode:
                raise MediaError("bench node: no answer came from the node; run it by hand to see why")
        finally:
            for process in running:
                process.terminate()
                process.wait(20)
            log.close()
    return verdict(json.loads(printed.splitlines()[-1]), stage_ms, len(time_s))


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
