"""More than the machine can take: `python -m test.taco_ros.overload [SECONDS]` prints what becomes of ages, images and sound."""

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from taco.clock import NS
from taco_ros.conversions import image_message, ns_to_stamp, stamp_to_ns
from taco_ros.msg import SoundingObjectArray
from test.taco_ros.graph import Process, Robot, diagnostic, middleware, parameters, reserved_domain, scene_image, wait_until

CASES = {  # cameras, height, width, Hz of each
    "one camera, 1920 x 1080 at 120 Hz": ((), 1080, 1920, 120.0),
    "three cameras, 1920 x 1080 at 120 Hz": (("front", "left", "right"), 1080, 1920, 120.0),
    "three cameras, 640 x 480 at 30 Hz": (("front", "left", "right"), 480, 640, 30.0),
}


def overload(
    cameras: tuple[str, ...], height: int, width: int, image_hz: float, seconds: float, domain: int, folder: Path
) -> dict:
    """Images as fast as this machine sends them, sound 100 times a second; the figures after ``seconds``."""
    robot = Robot(domain, objects="unused")
    given = {"models__image": "standin:30", **({"node__cameras": f"[{', '.join(cameras)}]"} if cameras else {})}
    node = Process("taco_node", *parameters(**given), domain=domain, folder=folder)
    ages_s, names = [], cameras or ("",)

    def note(message):
        ages_s.append((time.time_ns() - stamp_to_ns(message.header.stamp)) / NS)

    publishers = []
    for name in names:
        robot.node.create_subscription(SoundingObjectArray, f"taco_node/{name}/objects".replace("//", "/"), note, 50)
        publishers.append(robot.node.create_publisher(Image, f"{name}/image" if name else "image", robot.best_effort))
    messages = robot.listen(DiagnosticArray, "/diagnostics")
    picture = image_message(np.kron(scene_image(height // 4, width // 4), np.ones((4, 4, 1), np.uint8)), "rgb8", Header())
    playing, sent = threading.Event(), dict.fromkeys(range(len(names)), 0)

    def images(index):
        due = time.monotonic()
        while playing.is_set():
            picture.header.stamp = ns_to_stamp(time.time_ns())
            publishers[index].publish(picture)
            sent[index] += 1
            due = max(due + 1 / image_hz, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    try:
        node.wait_log("active", 120)
        wait_until(lambda: all(one.get_subscription_count() for one in publishers), 60, "the node to subscribe")
        robot._playing.set()
        playing.set()
        samples = []
        robot.send_sound, send = (lambda at, count, first: (samples.append(count), send(at, count, first))), robot.send_sound
        threads = [threading.Thread(target=robot._play_sound, args=(0.01,), daemon=True)]
        threads += [threading.Thread(target=images, args=(index,), daemon=True) for index in range(len(names))]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        playing.clear()
        robot._playing.clear()
        for thread in threads:
            thread.join(10)
        taken = lambda: int((diagnostic(messages, "taco_node: sound") or (0, "", {"samples": 0}))[2]["samples"])  # noqa: E731
        until = time.monotonic() + 10
        while taken() < sum(samples) and time.monotonic() < until:
            time.sleep(0.2)
        values = diagnostic(messages, "taco_node: stream")[2]
        ages_ms = 1000 * np.array(ages_s or [-0.001])  # -1: no answer at all
        return {
            "sent_hz": [round(count / seconds, 1) for count in sent.values()],
            "answers_hz": round(len(ages_s) / seconds, 1),
            "age_p50_ms": round(float(np.percentile(ages_ms, 50)), 1),
            "age_p95_ms": round(float(np.percentile(ages_ms, 95)), 1),
            "age_max_ms": round(float(ages_ms.max()), 1),
            "lost_samples": sum(samples) - taken(),
            "dropped": {key: int(value) for key, value in values.items() if key.startswith("dropped.") and value != "0"},
            "status": node.stop(30),
        }
    finally:
        robot.close()
        if node.process.poll() is None:
            node.process.kill()


if __name__ == "__main__":
    for case, arguments in CASES.items():
        with reserved_domain() as number, tempfile.TemporaryDirectory() as logs:
            os.environ |= middleware(logs)
            print(case, json.dumps(overload(*arguments, float((sys.argv[1:] or ["20"])[0]), number, Path(logs))), flush=True)
