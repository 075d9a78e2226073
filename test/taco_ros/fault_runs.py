"""Faults on purpose against the live node, and the table of them in docs/reliability.md: `python -m test.taco_ros.fault_runs`."""

import os
import random
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray

from taco.clock import NS
from taco_ros.audio_messages import chunk_message
from taco_ros.conversions import stamp_to_ns
from test.taco_ros.graph import RATE, Process, Robot, diagnostic, middleware, parameters, reserved_domain, scene_image, wait_until

LASTS_S = 2.5
LIMIT_S = 20.0  # for a busy machine
TABLE = "| fault | seen in `/diagnostics` within | as | answers again within | what was lost meanwhile |"


class FaultyRobot(Robot):
    """A robot whose messages can go wrong. ``sound_fault`` and ``image_fault``: called with the arguments of a message and
    the function that sends it."""

    sound_fault = image_fault = None

    def send_sound(self, stamp_ns, count, first=0):
        def send(stamp_ns, count, first, rate=RATE):
            samples = np.repeat(self.samples(first, count), rate // RATE, axis=0)
            self.audio.publish(chunk_message(samples, rate, stamp_ns))

        (self.sound_fault or (lambda send, *arguments: send(*arguments)))(send, stamp_ns, count, first)

    def send_image(self, stamp_ns, rgb=None, encoding="rgb8"):
        send = super().send_image
        if self.image_fault:
            self.image_fault(send, stamp_ns)
        else:
            send(stamp_ns, rgb, encoding)


class Reordered:
    """Sends a share of the messages after the one that follows them."""

    def __init__(self, share, seed=0):
        self._share, self._random, self._held = share, random.Random(seed), None

    def __call__(self, send, *arguments):
        if self._held is None and self._random.random() < self._share:
            self._held = arguments
            return
        send(*arguments)
        if self._held is not None:
            send(*self._held)
            self._held = None


def lossy(share, seed=0):
    """Leaves out a share of the messages."""
    chance = random.Random(seed)
    return lambda send, *arguments: None if chance.random() < share else send(*arguments)


def shifted(seconds):
    """Stamps that lie so far off."""
    return lambda send, stamp_ns, *rest: send(stamp_ns + round(seconds * NS), *rest)


def twice(send, *arguments):
    send(*arguments)
    send(*arguments)


def missing(send, *arguments):
    pass


@dataclass(frozen=True, slots=True)
class Fault:
    """file: a line for TACO_FAULTS. sound, image: faults of the robot's messages. reason: as /diagnostics names it, one of
    several with " or "; "": nothing need be told, as answers go on."""

    reason: str = ""
    file: str = ""
    sound: Callable | None = None
    image: Callable | None = None


small, other = scene_image()[::2, ::2].copy(), np.ascontiguousarray(scene_image()[..., ::-1])
FAULTS = {
    "image model fails": Fault("failed", "image fail"),
    "image model calls exit": Fault("failed", "image exit"),
    "image model out of memory": Fault("failed", "image memory"),
    "image model gives NaN": Fault("failed", "image nan"),
    "image model takes 2 s": Fault("one image for or too_old", "image slow 2"),
    "image model stuck": Fault("one image for", "image stuck"),
    "sound model fails": Fault("failed", "sound fail"),
    "sound model gives NaN": Fault("failed", "sound nan"),
    "segmenter fails": Fault("failed", "segment fail"),
    "publishing fails": Fault("failed", "publish fail"),
    "1 % of the sound lost": Fault(sound=lossy(0.01)),
    "20 % of the sound lost": Fault("audio_gap or gaps or bridged", sound=lossy(0.2)),
    "every chunk twice": Fault("overlaps", sound=twice),
    "20 % of the chunks out of order": Fault("audio_gap or gaps or overlaps or late or filled", sound=Reordered(0.2)),
    "sound's clock 5 s ahead": Fault("skew or offset_s", sound=shifted(5.0)),
    "sound's clock 5 s behind": Fault("offset_s or audio_not_yet", sound=shifted(-5.0)),
    "microphone stopped": Fault("audio_not_yet", sound=missing),
    "sound at 48 kHz at once": Fault(
        "rate_changes or no_audio or rate", sound=lambda send, *arguments: send(*arguments, rate=3 * RATE)
    ),
    "camera stopped": Fault("no image on", image=missing),
    "half of the images lost": Fault(image=lossy(0.5)),
    "every image twice": Fault("out_of_order or replaced", image=twice),
    "30 % of the images out of order": Fault("out_of_order or replaced", image=Reordered(0.3)),
    "camera's clock 5 s behind": Fault("too_old", image=shifted(-5.0)),
    "camera's clock 5 s ahead": Fault("audio_not_yet", image=shifted(5.0)),
    "half the resolution at once": Fault(image=lambda send, stamp_ns: send(stamp_ns, small)),
    "bgr8 in place of rgb8 at once": Fault(image=lambda send, stamp_ns: send(stamp_ns, other, "bgr8")),
    "unknown encoding at once": Fault("image_encoding", image=lambda send, stamp_ns: send(stamp_ns, other, "32SC4")),
}


@dataclass(frozen=True, slots=True)
class Row:
    """Seconds until the fault was told, until answers came again after it; images sent and answered meanwhile."""

    seen_s: float | None
    told: str
    recovered_s: float
    sent: int
    answered: int

    def text(self, name: str) -> str:
        """A line of the table."""
        lost = f"{self.sent - self.answered} of {self.sent} answers" if self.answered < self.sent else "nothing"
        seen = f"{self.seen_s:.1f} s" if self.seen_s is not None else "-"
        return f"| {name} | {seen} | {self.told or '-'} | {self.recovered_s:.1f} s | {lost} |"


class Rig:
    """A node with the fault injector on, and a robot before it."""

    def __init__(self, domain: int, folder: Path):
        self.file = folder / "faults"
        self.robot = FaultyRobot(domain)
        self.messages = self.robot.listen(DiagnosticArray, "/diagnostics")
        given = parameters(models__image="standin:5", node__no_image_warning_s=2.0)
        self.node = Process("taco_node", *given, domain=domain, folder=folder, environment={"TACO_FAULTS": str(self.file)})
        self.node.wait_log("active", 60)
        self.robot.wait_matched()
        self.robot.play()
        self.robot.wait_objects("red")

    def counts(self) -> dict[str, int]:
        """The counters of the newest diagnostics, by the last part of their names."""
        out = {}
        for part in ("stream", "sound"):
            values = (diagnostic(self.messages, f"taco_node: {part}") or (0, "", {}))[2]
            out |= {key.rpartition(".")[2]: int(value) for key, value in values.items() if value.isdigit()}
        return out

    def told(self, reason: str, before: dict[str, int]) -> str:
        """How the newest diagnostics show one of the reasons, "" where they do not."""
        counts, names = self.counts(), reason.split(" or ")
        for status in self.messages[-1].status if self.messages else ():
            if status.level > b"\x00" and any(name in status.message for name in names):
                return "ERROR" if status.level == b"\x02" else "WARN"
        return next((f"`{name}`" for name in names if counts.get(name, 0) > before.get(name, 0)), "")

    def run(self, fault: Fault) -> Row:
        """Switch it on, wait, switch it off, wait for answers."""
        robot = self.robot
        wait_until(lambda: diagnostic(self.messages, "taco_node: stream")[0] == b"\x00", LIMIT_S, "a quiet node")
        before, first, begin = self.counts(), len(robot.sent), time.monotonic()
        robot.image_fault = fault.image
        robot.sound_fault = fault.sound
        self.file.write_text(fault.file)
        seen_s, told = None, ""
        if fault.reason:
            told = wait_until(lambda: self.told(fault.reason, before), LIMIT_S, f"{fault.reason} in the diagnostics")
            seen_s = time.monotonic() - begin
        time.sleep(max(0.0, begin + LASTS_S - time.monotonic()))
        robot.image_fault = robot.sound_fault = None
        self.file.write_text("")
        last, end, end_ns = len(robot.sent), time.monotonic(), time.time_ns()
        wait_until(lambda: any(end_ns < at < time.time_ns() for at in map(_stamp, robot.received[-50:])), LIMIT_S, "answers")
        recovered_s = time.monotonic() - end
        sent = set(robot.sent[first:last])
        answered = {_stamp(message) for message in robot.received} & sent
        return Row(seen_s, told, recovered_s, len(sent), len(answered))

    def close(self) -> None:
        """Stop the node; it has lived through all of them."""
        try:
            self.robot.stop_playing()
            assert self.node.stop() == 0, self.node.log
            assert "Traceback" not in self.node.log, self.node.log
        finally:
            self.robot.close()


def _stamp(message) -> int:
    return stamp_to_ns(message.header.stamp)


@contextmanager
def rig():
    """A Rig in a folder and a domain of its own."""
    with reserved_domain() as domain, tempfile.TemporaryDirectory() as folder:
        os.environ |= middleware(folder)
        one = Rig(domain, Path(folder))
        try:
            yield one
        finally:
            one.close()


def main() -> None:
    """Run all of them and write the table."""
    from tools.tables import put

    lines = [TABLE, "|---|---|---|---|---|"]
    with rig() as one:
        for name, fault in FAULTS.items():
            lines.append(one.run(fault).text(name))
            print(lines[-1], flush=True)
    put("docs/reliability.md", "\n".join(lines))


if __name__ == "__main__":
    main()
