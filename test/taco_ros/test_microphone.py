"""The microphone node on a real sound server with a virtual microphone: what is played comes back as messages."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
from diagnostic_msgs.msg import DiagnosticArray

from taco.clock import NS
from taco.io.sound_device import StreamClock
from taco_ros.conversions import stamp_to_ns
from taco_ros.msg import AudioChunk
from test.taco_ros.graph import BIN, RATE, Process, diagnostic, parameters, wait_until

pytestmark = pytest.mark.ros


class VirtualMicrophone:
    """PulseAudio with a null sink whose monitor is the default source. Started and ended by its process id."""

    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "home").mkdir(mode=0o700)
        (folder / "run").mkdir(mode=0o700)
        (folder / "home" / ".asoundrc").write_text("pcm.!default { type pulse }\nctl.!default { type pulse }\n")
        self.environment = {
            "HOME": str(folder / "home"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "PULSE_SERVER": f"unix:{folder}/run/pulse.sock",
        }
        self.start()

    def start(self):
        """The daemon, on the same socket as before."""
        command = ["pulseaudio", "-n", "--daemonize=no", "--exit-idle-time=-1", "--disallow-exit=yes", "--use-pid-file=no"]
        command += ["-L", f"module-native-protocol-unix auth-anonymous=1 socket={self.folder}/run/pulse.sock"]
        command += ["-L", "module-null-sink sink_name=virtmic rate=48000 channels=1 format=s16le"]
        command += ["-L", "module-remap-source source_name=mic master=virtmic.monitor"]
        log = open(self.folder / "pulse.log", "ab")  # noqa: SIM115
        self.daemon = subprocess.Popen(command, env={**os.environ, **self.environment}, stdout=log, stderr=log)
        log.close()
        wait_until(
            lambda: self.control("set-default-source", "mic") and self.control("set-default-sink", "virtmic"), 15, "pulseaudio"
        )

    def control(self, *words) -> bool:
        done = subprocess.run(["pactl", *words], env={**os.environ, **self.environment}, capture_output=True)
        return done.returncode == 0

    def play(self, samples: np.ndarray, rate: int):
        """Play and wait for the end."""
        path = self.folder / "sound.wav"
        soundfile.write(path, samples, rate)
        subprocess.run(["paplay", "--device=virtmic", path], env={**os.environ, **self.environment}, check=True, timeout=30)

    def stop(self):
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()


@pytest.fixture(scope="module")
def virtual(tmp_path_factory):
    missing = [tool for tool in ("pulseaudio", "pactl", "paplay") if not shutil.which(tool)]
    if missing:
        packages = "pulseaudio pulseaudio-utils libasound2-plugins libportaudio2"
        reason = f"microphone NOT tested: no {', '.join(missing)}; apt-get install {packages}"
        warnings.warn(reason, stacklevel=1)
        pytest.skip(reason)
    microphone = VirtualMicrophone(tmp_path_factory.mktemp("pulse"))
    yield microphone
    microphone.stop()


def chirp(seconds=1.5):
    # up to 700 Hz: a fraction of a sample of delay in the resampler then hardly turns the phase
    time_s = np.arange(round(seconds * 48000)) / 48000
    return (0.5 * np.sin(2 * np.pi * (100 * time_s + 200 * time_s**2))).astype(np.float32)


def test_what_is_played_comes_back(virtual, start, robot):
    chunks = robot.listen(AudioChunk, "audio", 100)
    messages = robot.listen(DiagnosticArray, "/diagnostics")
    node = start("microphone", *parameters(block_s=0.05), environment=virtual.environment)
    node.wait_log("recording")
    wait_until(lambda: len(chunks) > 3, 20, "the first chunks")
    virtual.play(chirp(), 48000)
    wait_until(lambda: diagnostic(messages, "microphone: device"), 5, "diagnostics")
    time.sleep(0.3)

    heard = np.concatenate([np.asarray(chunk.samples, np.float32) for chunk in chunks])
    import soxr

    played = soxr.resample(chirp(), 48000, RATE)
    size = 1 << (len(heard) + len(played)).bit_length()
    score = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(played, size)), size)
    at = int(np.argmax(score[: len(heard) - len(played)]))
    found = heard[at : at + len(played)]
    assert np.corrcoef(found, played)[0, 1] > 0.99

    stamps = np.array([stamp_to_ns(chunk.header.stamp) for chunk in chunks])
    assert {(chunk.sample_rate, chunk.channels, len(chunk.samples)) for chunk in chunks} == {(RATE, 1, 800)}
    later = stamps[len(stamps) // 2 :]  # while it starts the server delivers in bursts, and on a busy machine later too
    assert abs(np.median(np.diff(later)) / NS - 0.05) < 0.005 and (np.diff(later) > 0).all()
    assert abs((later[-1] - later[0]) / NS - 0.05 * (len(later) - 1)) < 0.3
    assert 0 <= time.time_ns() - stamps[-1] < 2 * NS
    level, line, values = diagnostic(messages, "microphone: device")
    assert level == b"\x00" and line == "recording" and int(values["chunks"]) > 10 and values["overflows"] == "0"


def test_unplugged_and_replugged(virtual, start, robot):
    chunks = robot.listen(AudioChunk, "audio", robot.best_effort)
    messages = robot.listen(DiagnosticArray, "/diagnostics")
    node = start("microphone", *parameters(silent_s=1.0, reopen_s=0.5), environment=virtual.environment)
    node.wait_log("recording")
    wait_until(lambda: chunks, 20, "the first chunk")
    virtual.stop()
    node.wait_log("trying again", 20)
    wait_until(
        lambda: (entry := diagnostic(messages, "microphone: device")) and entry[0] == b"\x02", 10, "an error in diagnostics"
    )
    virtual.start()
    count = len(chunks)
    wait_until(lambda: len(chunks) > count + 5, 30, "sound after replugging")
    wait_until(lambda: diagnostic(messages, "microphone: device")[0] == b"\x00", 10, "a good diagnostic again")


def test_list(virtual):
    done = subprocess.run(
        [sys.executable, BIN / "microphone", "--list", "--json"],
        env={**os.environ, **virtual.environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert any(item["name"] in ("default", "pulse") and item["channels"] > 0 for item in json.loads(done.stdout.splitlines()[-1]))


def test_unknown_device_is_named_and_waited_for(virtual, start):
    node = start("microphone", *parameters(device="theremin", reopen_s=0.2), environment=virtual.environment)
    node.wait_log("wanted an input device 'theremin', got these: ")


def test_it_starts_without_the_models_libraries():
    code = "import sys, taco_ros.microphone; assert not {'torch', 'cv2'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_settings_end_it(tmp_path, domain):
    node = Process("microphone", *parameters(sampel_rate=8000), domain=domain, folder=tmp_path)
    assert node.wait(20) == 1 and "unknown setting sampel_rate" in node.log
    node = Process("microphone", "--lst", domain=domain, folder=tmp_path)
    assert node.wait(20) == 2


@pytest.mark.parametrize("tells", (True, False))
def test_stream_clock_is_smooth_and_true(tells):
    clock, rng, out = StreamClock(), np.random.default_rng(0), []
    for block in range(400):
        first_s = 100.0 + 0.05 * block  # stream time of the first sample; the callback comes late by a few ms
        now_s = first_s + 0.05 + rng.uniform(0.002, 0.010)
        out.append(clock.first_ns(round((now_s + 7.0) * NS), now_s, first_s if tells else 0.0, 800, RATE) / NS - 7.0)
    error = np.array(out) - (100.0 + 0.05 * np.arange(400))
    assert np.abs(error[50:]).max() < 0.012 and np.abs(np.diff(error[50:])).max() < 0.001
    jumped = clock.first_ns(round(200.0 * NS), 0.0, 0.0, 800, RATE)  # samples were lost: the time line follows
    assert abs(jumped / NS - (200.0 - 0.05)) < 1e-6
