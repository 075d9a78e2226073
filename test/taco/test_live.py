"""`taco live`: files as camera and microphone in real time, and its page over HTTP and WebSocket."""

import asyncio
import contextlib
import json
import threading
import time
from types import SimpleNamespace

import aiohttp
import cv2
import numpy as np
import pytest
import soundfile

from taco import cli
from taco.clock import NS
from taco.config import TacoConfig
from taco.errors import ConfigError, MediaError
from taco.io import files
from taco.io.live_inputs import LiveInput, open_camera, open_microphone
from taco.live import LiveSession
from taco.types import AudioChunk, VideoFrame
from taco.web import LivePage
from test.taco.cli.made_inputs import MadePipeline, make_clip, tone


class Made(MadePipeline):
    """Can be slow, and be told other words."""

    delay_s = 0.0

    def process(self, frame, window):
        time.sleep(self.delay_s)
        return super().process(frame, window)

    def set_words(self, words):
        if "xyzzy" in words:
            raise ConfigError("models.word_bank: no such word: xyzzy")
        self.anchors = SimpleNamespace(words=tuple(words) or ("dog", "cat", "bell"))


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", 1.5)


class Answers:
    """What a session told."""

    def __init__(self):
        self.found, self.changed = [], threading.Condition()

    def __call__(self, answer, jpeg):
        with self.changed:
            self.found.append((answer, jpeg))
            self.changed.notify_all()

    def until(self, count, wanted=lambda answer: True):
        with self.changed:
            assert self.changed.wait_for(lambda: sum(wanted(a) for a, _ in self.found) >= count, 30), self.found[-1:]


@contextlib.contextmanager
def session_on(clip, on_answer, folder=None, delay_s=0.0):
    start_ns = time.monotonic_ns()
    period_s = files.probe(clip).duration_s
    pipeline = Made(TacoConfig())
    pipeline.delay_s = delay_s
    inputs = open_camera(str(clip), start_ns, period_s), open_microphone(str(clip), start_ns, period_s)
    session = LiveSession(TacoConfig(), *inputs, folder or clip.parent, on_answer, pipeline)
    session.start()
    try:
        yield session
    finally:
        session.close()


@pytest.mark.live
def test_a_file_plays_again_and_again_and_each_image_is_answered_with_its_sound(clip):
    answers = Answers()
    with session_on(clip, answers) as session:
        answers.until(25, lambda a: a["verdict"] == "sounding")
        assert session.counts.total() == sum(a["verdict"] == "skipped" for a, _ in answers.found) > 0
        assert session.set_words(["a/c unit", "dog"]).result(20) is None, "a word of several may have a slash"
    told = [answer for answer, _ in answers.found]
    stamps = [answer["time_s"] for answer in told]
    assert stamps == sorted(stamps) and stamps[-1] - stamps[0] > 1.5, "it went on after the end of the file"
    last = [answer for answer in told if answer["verdict"] == "sounding"][-1]
    assert (
        last["objects"][0]["word"] == "dog" and last["objects"][0]["colour"].startswith("#") and last["heard"][0] == ["Bark", 0.9]
    )
    assert last["level_dbfs"] == pytest.approx(-13.5, abs=1.5) and last["size"] == [48, 64] and last["age_ms"] >= 0
    assert told[0]["verdict"] == "skipped" and told[0]["told"], "at first there is not enough sound, and it says so"
    picture = cv2.imdecode(np.frombuffer(answers.found[-1][1], np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (48, 64, 3)


@pytest.mark.live
def test_slow_models_get_the_newest_image_and_nothing_piles_up(clip):
    answers = Answers()
    with session_on(clip, answers, delay_s=0.45) as session:
        answers.until(6, lambda a: a["verdict"] == "sounding")
        replaced = session.mailbox.replaced
    ages = [answer["age_ms"] for answer, _ in answers.found if answer["verdict"] == "sounding"]
    assert replaced >= 8 and np.median(ages) < 800, ages


@pytest.mark.live
def test_a_lost_camera_is_told_and_opened_again(clip, monkeypatch):
    monkeypatch.setattr("taco.live.REOPEN_S", 0.05)
    turns = []

    def pieces(stop):
        turns.append(1)
        if len(turns) % 2:
            raise MediaError("--camera 0: no more images, it may be unplugged")
        yield VideoFrame(np.zeros((48, 64, 3), np.uint8), time.monotonic_ns())
        while len(turns) >= 6 and not stop.wait(0.05):  # from then on it stays
            yield VideoFrame(np.zeros((48, 64, 3), np.uint8), time.monotonic_ns())

    sound = LiveInput("made", lambda stop: iter([AudioChunk(tone(), 16000, time.monotonic_ns() - 2 * NS)]))
    answers = Answers()
    session = LiveSession(TacoConfig(), LiveInput("made", pieces), sound, clip.parent, answers, Made(TacoConfig()))
    session.start()
    try:
        answers.until(3)
        while len(turns) < 6:
            time.sleep(0.01)
        before = len(answers.found)
        answers.until(before + 3)
        assert "camera" not in answers.found[-1][0]["problems"], "it is well again"
    finally:
        session.close()


def test_stamps_that_jump_back_start_a_new_stream(clip):
    """As of a camera that was opened again on another clock: the old frame's factors and outlines say nothing of the new one."""
    answers, resets = Answers(), []
    now_ns = time.monotonic_ns()
    stamps = [now_ns - 2 * NS // 10, now_ns - NS // 10, now_ns - 4 * NS // 10]

    def images(stop):
        for count, stamp_ns in enumerate(stamps, 1):
            yield VideoFrame(np.zeros((48, 64, 3), np.uint8), stamp_ns)
            answers.until(count)
        stop.wait()

    def sound(stop):
        yield AudioChunk(tone(seconds=3.0), 16000, now_ns - 3 * NS)
        stop.wait()

    pipeline = Made(TacoConfig())
    pipeline.reset = lambda: resets.append(len(answers.found))
    session = LiveSession(TacoConfig(), LiveInput("made", images), LiveInput("made", sound), clip.parent, answers, pipeline)
    session._threads[1].start()  # the sound is there before the first image
    while session.audio.newest_ns is None:
        time.sleep(0.01)
    for thread in (session._threads[0], session._threads[2]):
        thread.start()
    try:
        answers.until(3)
    finally:
        session.close()
    assert resets == [2]
    assert [answer["objects"][0]["id"] for answer, _ in answers.found] == [1, 1, 2], "tracks start anew, their numbers do not"


@pytest.mark.live
def test_the_page_shows_answers_and_takes_words_pause_and_clips(clip, tmp_path):
    page = LivePage("127.0.0.1")

    async def visit():
        async with page.serve(0) as port, aiohttp.ClientSession() as client:
            url = f"http://127.0.0.1:{port}"
            async with client.get(url) as answer:
                text = await answer.text()
                assert answer.status == 200 and '"/live"' in text and "http://" not in text and 'const known = ["dog"' in text
            async with client.get(f"{url}/video") as answer:
                assert answer.content_type == "multipart/x-mixed-replace"
                assert (await answer.content.readuntil(b"\r\n\r\n")).startswith(b"--picture\r\nContent-Type: image/jpeg")
                assert (await answer.content.readexactly(2)) == b"\xff\xd8"
                shown = []
                for _ in range(4):
                    head = await answer.content.readuntil(b"\r\n\r\n")
                    shown.append(await answer.content.readexactly(int(head.split(b"Content-Length: ")[1])))
                assert any(one == other for one, other in zip(shown, shown[1:])), "each picture twice, for browsers"
            async with client.get(url, headers={"Host": f"[::1]:{port}"}) as answer:
                assert answer.status == 200
            async with client.ws_connect(f"{url}/live") as socket:

                async def ask(**command):
                    await socket.send_str(json.dumps(command))
                    while "time_s" in (said := json.loads((await socket.receive(20)).data)):
                        pass
                    return said

                said = json.loads((await socket.receive(20)).data)
                assert {"time_s", "verdict", "heard", "objects", "age_ms", "level_dbfs", "paused"} <= said.keys()
                assert await ask(do="words", words="cat, bell ,") == {"bank": ["cat", "bell"]}
                assert "no such word" in (await ask(do="words", words="xyzzy"))["error"]
                assert "looks like a file" in (await ask(do="words", words="/etc/passwd"))["error"]
                assert (await ask(do="record", on=True))["recording"].endswith(".mp4")
                await asyncio.sleep(1.2)
                saved = await ask(do="record", on=False)
                assert saved["recording"] == "" and files.probe(saved["clip"]).size == (48, 64)
                assert files.probe(saved["clip"]).sample_rate == 16000 and 0.5 < files.probe(saved["clip"]).duration_s < 3
                assert (await ask(do="record", on=False))["clip"] == ""
                assert await ask(do="pause", on=True) == {"paused": True}
                await asyncio.sleep(0.5)
                before = page._number
                await asyncio.sleep(0.6)
                assert page._number == before, "nothing is processed in a pause"
                assert await ask(do="pause", on=False) == {"paused": False}
                for bad in ("not json", "[]", '{"do": "format"}', "{}"):
                    await socket.send_str(bad)
                    while "time_s" in (said := json.loads((await socket.receive(20)).data)):
                        pass
                    assert said == {"error": "wanted a command of this page"}
            foreign = ({"Host": f"evil.example:{port}"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"})
            for headers in foreign:
                for path in ("/", "/video", "/live"):
                    async with client.get(url + path, headers=headers) as answer:
                        assert answer.status == 403, (headers, path)

    with session_on(clip, page.show) as page.session:
        asyncio.run(asyncio.wait_for(visit(), 90))


def test_inputs_that_are_not_there_are_one_line(tmp_path, capsys):
    soundfile.write(tmp_path / "sound.wav", tone()[:, 0], 16000)
    mute = make_clip(tmp_path / "mute.mp4", 0.5, rate=0)
    for options, says in (
        (["--camera", "none.mp4"], "no such file"),
        (["--camera", str(tmp_path / "sound.wav")], "got only sound"),
        (["--camera", str(mute)], "wanted sound, got none"),
        (["--camera", str(mute), "--mic", "none.wav"], "no such file"),
        (["--port", "70000"], "--port: wanted"),
    ):
        assert cli.main(["live", *options]) in (1, 2)
        error = capsys.readouterr().err
        assert says in error and error.count("\n") == 1, error
    with pytest.raises(ConfigError, match="alignment trailing"):
        config = TacoConfig().updated({"audio.alignment": "centered"})
        LiveSession(config, LiveInput("", iter), LiveInput("", iter), tmp_path, print, Made(config))
