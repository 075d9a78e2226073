"""Stamp scenes of instruments on painted walls: same seed, same scene; splits share nothing; truths fit what is seen and heard.

Most tests compose from made sources; those marked ``data`` use the real packages, fetched by name where missing.
"""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from taco.errors import MediaError, ValueRangeError
from taco.evaluation.composed.scenes import KINDS, SOUND_RATE, SceneComposer, coloured_noise, excerpt
from taco.evaluation.composed.soundfont import RATE, SoundFont
from taco.evaluation.composed.sources import SceneSources, catalogue

WORDS = ("guitar", "drums", "cello", "violin", "piano", "harp", "flute")
FIRST = {"bank": "instruments", "background": "painted"}  # everyday scenes: test_everyday_scenes.py
COLOURS: dict[str, tuple[int, int, int]] = {}


class MadeSources:
    """Every thing a disc of its own colour, every sound a tone of its own pitch."""

    distractors = {"val": tuple(f"val{n}.png" for n in range(4)), "test": tuple(f"test{n}.png" for n in range(4))}

    def cutout(self, name):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        y, x = np.mgrid[:80, :60]
        disc = ((y - 40) / 40) ** 2 + ((x - 30) / 30) ** 2 < 1
        colour = COLOURS.setdefault(name, tuple(int(c) for c in rng.integers(0, 255, 3)))
        return np.dstack([np.full((80, 60), c, np.uint8) for c in colour] + [np.where(disc, 255, 0).astype(np.uint8)])

    def sound(self, source, seed=0):
        pitch = 200 + 37 * [entry.source for entry in catalogue("instruments")].index(source)
        return np.sin(2 * np.pi * pitch * np.arange(22050 * 2) / 22050).astype(np.float32), 22050


@pytest.fixture(scope="module")
def stamps():
    return SceneComposer(WORDS, sources=MadeSources(), size=(120, 160), **FIRST)


def same(one, two):
    frames = zip(one.frames, two.frames)
    return np.array_equal(one.samples, two.samples) and all(np.array_equal(a.frame.rgb, b.frame.rgb) for a, b in frames)


@pytest.mark.parametrize("kind", KINDS[:8])
def test_a_scene_is_a_function_of_its_seed(stamps, kind):
    first = stamps.compose(kind, "val", 3)
    assert same(first, stamps.compose(kind, "val", 3))
    assert not same(first, stamps.compose(kind, "val", 4)) and not same(first, stamps.compose(kind, "test", 3))


@pytest.mark.parametrize(("kind", "shown", "sounding"), [
    ("one", 1, 1), ("two", 2, 1), ("both", 2, 2), ("distractors", 4, 1), ("motion", 2, 1),
    ("silence", 2, 0), ("noise", 2, 0), ("offscreen", 2, 0), ("succession", 2, 2),
])  # fmt: skip
def test_what_is_in_view_and_what_sounds(stamps, kind, shown, sounding):
    for scene in stamps.scenes(kind, "test", 4):
        first = scene.frames[0]
        assert len(first.objects) == shown and sum(item.sounding for item in first.objects) == sounding
        assert sorted(item.word for item in first.objects if item.sounding) == sorted(scene.sounding_words if sounding else ())
        union = np.any([item.mask for item in first.objects if item.sounding], 0) if sounding else np.zeros((120, 160), bool)
        assert np.array_equal(first.truth, union)
        total = sum(item.mask.astype(int) for item in first.objects)
        assert total.max() == 1  # things do not cover each other
        if kind == "offscreen":
            assert len(scene.sounding_words) == 1 and scene.sounding_words[0] not in {item.word for item in first.objects}
        words = [item.word for item in first.objects if item.word]
        assert len(set(words)) == len(words)


def test_one_sound_follows_the_other_within_the_window(stamps, monkeypatch):
    calls = []

    def level(samples, rate, count, rng):
        calls.append(count)
        return np.full(count, 0.2 if len(calls) % 2 else -0.2, np.float32)

    monkeypatch.setattr("taco.evaluation.composed.scenes.excerpt", level)
    changes, in_view_first = [], set()
    for scene in stamps.scenes("succession", "test", 12):
        first, second = scene.sounding_words
        in_view_first.add(scene.frames[0].objects[0].word == first)
        change = calls[-2]
        assert first != second and calls[-2] + calls[-1] == len(scene.samples) == SOUND_RATE
        assert scene.samples[: change - 500].min() > 0.1 and scene.samples[change:].max() < -0.1, "never both at once"
        assert np.abs(scene.samples[change - 20 : change]).max() < 0.05, "the first one fades out"
        changes.append(change / SOUND_RATE)
    assert in_view_first == {True, False}, "either may be heard first"
    assert 0.3 <= min(changes) < 0.4 and 0.6 < max(changes) <= 0.7


def test_of_a_succession_with_one_in_view_the_other_sounds_elsewhere(stamps):
    turns = set()
    for scene in stamps.scenes("succession-one", "test", 12):
        (sounding,) = [item.word for item in scene.frames[0].objects if item.sounding]
        (other,) = set(scene.sounding_words) - {sounding}
        assert (
            other not in {item.word for item in scene.frames[0].objects} and len(scene.sounding_words) == len(scene.sources) == 2
        )
        turns.add(scene.sounding_words.index(sounding))
    assert turns == {0, 1}


def test_masks_are_where_the_thing_was_painted(stamps):
    for scene in stamps.scenes("one", "val", 5):
        (item,) = scene.frames[0].objects
        inside = scene.frames[0].frame.rgb[item.mask].astype(float)
        outside = scene.frames[0].frame.rgb[~item.mask].astype(float)
        assert 0.01 < item.mask.mean() < 0.6
        assert inside.std(0).max() < 12 < outside.std(0).max() + 12  # one colour inside


def test_splits_share_no_thing_and_no_recording():
    for role in ("object", "sound"):
        split = {
            name: {e.source for e in catalogue("instruments") if e.role == role and e.split == name} for name in ("val", "test")
        }
        assert split["val"] and split["test"] and not split["val"] & split["test"]
    voiced = {(entry.word, entry.split) for entry in catalogue("instruments") if entry.role == "sound"}
    assert all((entry.word, entry.split) in voiced for entry in catalogue("instruments") if entry.role == "object")


def test_a_scene_stays_in_its_split_and_its_words(stamps):
    table = {entry.source: entry for entry in catalogue("instruments")}
    for kind in ("two", "offscreen"):
        for scene in stamps.scenes(kind, "test", 8):
            used = [*scene.sources, *(item.source for item in scene.frames[0].objects)]
            assert {table[source].split for source in used} == {"test"}
            assert {table[source].word for source in used} <= set(WORDS)


def test_few_scenes_cover_every_word(stamps):
    heard = {scene.sounding_words[0] for scene in stamps.scenes("one", "test", 3)}
    assert heard == {"guitar", "drums", "violin"}


def test_levels_of_sounds_noise_and_silence(stamps):
    level = {kind: stamps.compose(kind, "val", 1).frames[0].window.level_dbfs for kind in ("one", "both", "noise", "silence")}
    assert level["one"] == pytest.approx(-20, abs=1) and level["noise"] == pytest.approx(-20, abs=1)
    assert level["both"] == pytest.approx(-17, abs=1.5) and level["silence"] < -60


def test_a_moving_camera(stamps):
    scene = stamps.compose("motion", "val", 2)
    assert len(scene.frames) == 30 and len(scene.samples) == 4 * SOUND_RATE
    places = []
    for frame in scene.frames:
        assert frame.window.end_ns == frame.frame.stamp_ns and len(frame.window.samples) == SOUND_RATE
        ys, xs = np.nonzero(frame.truth)
        places.append((xs.mean(), ys.mean()))
    moved = np.linalg.norm(np.diff(places, axis=0), axis=1)
    assert np.linalg.norm(np.subtract(places[-1], places[0])) > 1 and moved.max() < 8  # it pans, it does not jump
    steps = np.diff([frame.frame.stamp_ns for frame in scene.frames])
    assert (steps == 100_000_000).all()


def test_bad_requests_are_said(stamps):
    with pytest.raises(ValueRangeError, match="wanted one of one, two"):
        stamps.compose("four", "val", 0)
    with pytest.raises(ValueRangeError, match="wanted val or test"):
        stamps.compose("one", "train", 0)
    with pytest.raises(ValueRangeError, match="at least two objects"):
        SceneComposer(("dog",), sources=MadeSources(), **FIRST)


@pytest.mark.parametrize("slope", [0.0, 0.5, 1.0])
def test_noise_has_the_colour_asked_for(slope):
    noise = coloured_noise(96000, slope, np.random.default_rng(0))
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(1, abs=1e-3)
    power = np.abs(np.fft.rfft(noise)) ** 2
    low, high = power[400:800].mean(), power[6400:12800].mean()  # four octaves apart
    assert np.log2(low / high) / 4 == pytest.approx(2 * slope, abs=0.15)


def test_an_excerpt_avoids_the_pauses_of_a_recording():
    clip = np.zeros(SOUND_RATE * 4, np.float32)
    clip[: SOUND_RATE // 2] = np.sin(np.arange(SOUND_RATE // 2) * 0.1)
    for seed in range(10):
        part = excerpt(clip, SOUND_RATE, SOUND_RATE, np.random.default_rng(seed))
        assert np.sqrt(np.mean(part**2)) > 0.05 and len(part) == SOUND_RATE


# --- notes


def soundfont(path: Path, rate=22050, pitch=441.0):
    """A SoundFont of one looped sine, its root at key 69."""
    wave = (20000 * np.sin(2 * np.pi * pitch * np.arange(2205) / rate)).astype("<i2")

    def chunk(name, data):
        return name.encode() + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)

    def records(form, *rows):
        return b"".join(struct.pack("<" + form, *row) for row in rows)

    name = b"x".ljust(20, b"\0")
    pdta = b"".join([
        chunk("phdr", records("20sHHHIII", (name, 5, 0, 0, 0, 0, 0), (name, 0, 0, 1, 0, 0, 0))),
        chunk("pbag", records("HH", (0, 0), (1, 0))), chunk("pmod", b""),
        chunk("pgen", records("HH", (41, 0), (0, 0))),
        chunk("inst", records("20sH", (name, 0), (name, 1))),
        chunk("ibag", records("HH", (0, 0), (2, 0))), chunk("imod", b""),
        chunk("igen", records("HH", (54, 1), (53, 0), (0, 0))),
        chunk("shdr", records("20sIIIIIBbHH", (name, 0, 2205, 0, 2150, rate, 69, 0, 0, 1), (name, 0, 0, 0, 0, 0, 0, 0, 0, 0))),
    ])  # fmt: skip
    body = b"sfbk" + chunk("LIST", b"sdta" + chunk("smpl", wave.tobytes())) + chunk("LIST", b"pdta" + pdta)
    path.write_bytes(chunk("RIFF", body))
    return SoundFont(path)


@pytest.mark.parametrize(("key", "hertz"), [(69, 441.0), (81, 882.0), (57, 220.5)])
def test_a_note_has_its_pitch_its_length_and_its_level(tmp_path, key, hertz):
    out = soundfont(tmp_path / "one.sf2").play([(0.5, 1.0, key, 0.8)], 5, length_s=3.0)
    assert len(out) == 3 * RATE and out.max() == pytest.approx(0.9, abs=0.01)
    part = out[RATE * 6 // 10 : RATE * 14 // 10]
    spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part))))
    assert spectrum.argmax() * RATE / len(part) == pytest.approx(hertz, rel=0.02)
    assert not out[: RATE // 2].any() and not out[int(1.6 * RATE) :].any()


def test_soundfont_errors(tmp_path):
    with pytest.raises(MediaError, match="wanted program 6 of bank 0"):
        soundfont(tmp_path / "one.sf2").play([], 6)
    (tmp_path / "bad.sf2").write_bytes(b"nothing")
    with pytest.raises(MediaError, match="wanted a SoundFont 2 file"):
        SoundFont(tmp_path / "bad.sf2")


# --- the real packages


@pytest.fixture(scope="module")
def real():
    return SceneSources()


@pytest.mark.data
def test_every_line_of_the_catalogue_can_be_read(real):
    for entry in catalogue("instruments"):
        if entry.role == "object":
            rgba = real.cutout(entry.source)
            assert rgba.shape[2] == 4 and 0.05 < (rgba[..., 3] > 127).mean() < 0.95
        elif not entry.source.startswith("gm"):
            samples, rate = real.sound(entry.source)
            assert 0.3 < len(samples) / rate < 30 and np.abs(samples).max() == pytest.approx(0.9, abs=0.01)


@pytest.mark.data
def test_a_real_scene_and_a_made_melody(real):
    scene = SceneComposer(WORDS, sources=real, **FIRST).compose("distractors", "test", 0)
    assert scene.frames[0].frame.size == (480, 640) and 0.005 < scene.frames[0].truth.mean() < 0.3
    first, second = real.sound("gm:24", 1)[0], real.sound("gm:24", 2)[0]
    assert np.abs(first).max() == pytest.approx(0.9, abs=0.01) and not np.array_equal(first, second)
    assert not set(real.distractors["val"]) & set(real.distractors["test"]) and len(real.distractors["val"]) > 50
