"""The live graph for a long time: `python -m test.taco_ros.soak MINUTES [MODELS]` (`make soak MINUTES=60`).

Pictures, sounds, words, settings and listeners change at random. Afterwards memory, threads, open files and ages of the
node's answers in the last third are compared with those of the first third after the warm-up.
"""

import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger

from taco_ros.srv import SetWords
from test.taco_ros.graph import TONES, Process, Robot, middleware, parameters, reserved_domain, scene_image

WARM_UP = 0.25  # share of the time, at most WARM_UP_S: caches fill, memory is as large as it gets
WARM_UP_S = 300.0
CHANGE_S = (1.0, 4.0)  # between two changes
ERROR_WORDS = ("[ERROR]", "[FATAL]", "Traceback", "context is invalid", "Failed to publish")
MEMORY_GROWTH = 0.01
AGE_GROWTH, AGE_SLACK_MS = 0.25, 20.0  # what other programs on the machine may do to ages


@dataclass(frozen=True, slots=True)
class Sample:
    """The node's process at one moment, and the ages of its answers since the sample before, in ms."""

    memory_mb: float
    threads: int
    files: int
    ages_ms: tuple[float, ...]


def sample(pid: int, ages_s) -> Sample:
    """Of a process, from /proc."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    threads, files = len(os.listdir(f"/proc/{pid}/task")), len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threads, files, tuple(1000 * age for age in ages_s))


class Scenes:
    """Changes what the robot sees, hears and wants, at random."""

    def __init__(self, robot: Robot, seed: int):
        self._robot, self._random, self._noise = robot, random.Random(seed), np.random.default_rng(seed)
        self._pictures = [np.roll(scene_image(), shift, axis=1) for shift in range(0, 640, 80)]
        self._pictures += [picture[::2, ::2].copy() for picture in self._pictures[:2]]
        self._listener = None
        self.changes = 0

    def change(self) -> None:
        """One change; most are of picture and sound."""
        robot, chance = self._robot, self._random
        robot.rgb = chance.choice(self._pictures)
        robot.tone = chance.choice([0, *TONES.values()])
        self.changes += 1
        extra = chance.randrange(12)
        if extra == 0:
            robot.call(Trigger, "taco_node/reset", Trigger.Request(), 60)
        elif extra == 1:
            words = chance.choice(([], ["red", "blue"], ["green"]))
            robot.call(SetWords, "taco_node/set_words", SetWords.Request(words=words), 60)
        elif extra == 2:
            value = Parameter("concepts.min_score", value=chance.choice((0.3, 0.4, 0.5))).to_parameter_msg()
            robot.call(SetParameters, "taco_node/set_parameters", SetParameters.Request(parameters=[value]), 60)
        elif extra == 3 and self._listener is None:
            self._listener = robot.node.create_subscription(Image, "taco_node/overlay", lambda message: None, 1)
        elif extra == 3:
            robot.node.destroy_subscription(self._listener)
            self._listener = None


def soak(minutes: float, models: dict, domain: int, folder: Path, seed: int = 0) -> dict:
    """Run it; the figures, with ``missed`` naming what got worse."""
    robot = Robot(domain)
    node = Process("taco_node", *parameters(**models), domain=domain, folder=folder)
    try:
        node.wait_log("active", 120)
        robot.wait_matched(60)
        robot.play()
        robot.wait_objects(timeout_s=60)
        scenes, samples, seen = Scenes(robot, seed), [], len(robot.ages_s)
        end, change_at = time.monotonic() + 60 * minutes, 0.0
        while time.monotonic() < end:
            if time.monotonic() >= change_at:
                scenes.change()
                change_at = time.monotonic() + scenes._random.uniform(*CHANGE_S)
            time.sleep(1.0)
            ages, seen = robot.ages_s[seen:], len(robot.ages_s)
            samples.append(sample(node.process.pid, ages))
            del robot.received[:-50], robot.sent[:-50]
        robot.stop_playing()
        status = node.stop(30)
        errors = [line for line in node.log.splitlines() if any(word in line for word in ERROR_WORDS)]
        return {"minutes": minutes, "changes": scenes.changes, **judged(samples), "status": status, "error_lines": errors}
    finally:
        robot.close()
        if node.process.poll() is None:
            node.process.kill()


def judged(samples: list[Sample]) -> dict:
    """Figures of the first and the last third after the warm-up, and what is worse in the last."""
    samples = samples[min(int(WARM_UP * len(samples)), int(WARM_UP_S)) :]
    third = len(samples) // 3
    rows = {name: _figures(part) for name, part in (("first_third", samples[:third]), ("last_third", samples[-third:]))}
    first, last = rows["first_third"], rows["last_third"]
    checks = {
        "memory": last["memory_mb"] <= (1 + MEMORY_GROWTH) * first["memory_mb"],
        "threads": last["threads"] <= first["threads"],
        "files": last["files"] <= first["files"],
        "age": last["age_p95_ms"] <= (1 + AGE_GROWTH) * first["age_p95_ms"] + AGE_SLACK_MS,
        "answers": last["answers"] > 0,
    }
    return {**rows, "missed": [name for name, good in checks.items() if not good]}


def _figures(part: list[Sample]) -> dict:
    ages = [age for one in part for age in one.ages_ms]
    return {
        "memory_mb": round(float(np.median([one.memory_mb for one in part])), 1),
        "threads": max(one.threads for one in part),
        "files": max(one.files for one in part),
        "answers": sum(len(one.ages_ms) for one in part),
        "age_p50_ms": round(float(np.percentile(ages, 50)), 1) if ages else float("inf"),
        "age_p95_ms": round(float(np.percentile(ages, 95)), 1) if ages else float("inf"),
    }


def main(minutes: float, models: str) -> int:
    """Print the figures; exit status 1 where something got worse."""
    with reserved_domain() as domain, tempfile.TemporaryDirectory() as folder:
        os.environ |= middleware(folder)
        given = {} if models == "embedded" else {"models__image": models}
        result = soak(minutes, {**given, "models__threads": 1, "node__max_age_s": 0.0}, domain, Path(folder))
    print(json.dumps({"models": models, **result}, indent=1))
    return 1 if result["missed"] or result["error_lines"] or result["status"] else 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), *(sys.argv[2:] or ["standin:30"])))
