"""Everyday scenes on natural backgrounds: splits that share nothing, recorded attributes, sizes, and the first scenes unchanged.

Those marked ``data`` read the real packages, fetched by name where missing.
"""

import csv
import dataclasses
import hashlib
import struct
import zlib

import numpy as np
import pytest

from taco.errors import MediaError, ValueRangeError
from taco.evaluation.composed.canvas import LIGHTS, backgrounds, cropped
from taco.evaluation.composed.scenes import INSTRUMENTS, SceneComposer, composed_set
from taco.evaluation.composed.sources import PACKAGES, SceneSources, catalogue, numbered_wave

WORDS = ("person", "dog", "bird", "cow", "car", "guitar", "drums", "sheep", "boat")
SPLITS = ("val", "test")


class MadeSources:
    """Every thing an ellipse of its own shape and colour, every photograph smooth noise, every sound a tone."""

    silent_objects = {split: tuple(f"{split}{n}.png" for n in range(4)) for split in SPLITS}
    distractors = silent_objects

    def cutout(self, name):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        height, width = rng.integers(60, 140, 2)
        y, x = np.mgrid[:height, :width]
        disc = ((y - height / 2) / (height / 2)) ** 2 + ((x - width / 2) / (width / 2)) ** 2 < 1
        colour = rng.integers(0, 255, 3)
        return np.dstack([np.full((height, width), c, np.uint8) for c in colour] + [np.where(disc, 255, 0).astype(np.uint8)])

    def photo(self, source):
        rng = np.random.default_rng(zlib.crc32(source.encode()))
        return np.broadcast_to(rng.integers(60, 200, (1, 1, 3)), (360, 480, 3)).astype(np.uint8)

    def sound(self, source, seed=0):
        return np.sin(0.1 * (1 + zlib.crc32(source.encode()) % 7) * np.arange(44100)).astype(np.float32), 22050


@pytest.fixture(scope="module")
def stamps():
    return SceneComposer(WORDS, sources=MadeSources(), size=(240, 320))


def test_no_thing_recording_person_or_background_is_in_both_splits():
    entries = catalogue()
    for pick in (lambda e: e.source, lambda e: e.person):
        val, test = ({pick(e) for e in entries if e.split == split} - {""} for split in SPLITS)
        assert val and test and not val & test
    assert len([e.source for e in entries]) == len({e.source for e in entries})
    assert not set(backgrounds()["val"]) & set(backgrounds()["test"])


def test_people_are_told_apart_by_name_not_by_picture():
    people = {split: {e.person for e in catalogue() if e.split == split} - {""} for split in SPLITS}
    assert "cassy" in people["val"] and "dan" in people["test"] and min(map(len, people.values())) >= 8


def test_forty_words_or_more_have_a_picture_and_a_sound():
    both = set()
    for split in SPLITS:
        seen = {e.word for e in catalogue() if (e.role, e.split) == ("object", split)}
        both |= seen & {e.word for e in catalogue() if e.role in ("sound", "speech") and e.split == split}
    assert len(both) >= 40


def test_every_word_of_the_catalogue_is_one_of_the_bank_of_the_embedded_models():
    from importlib.resources import files

    lines = files("taco.backbones").joinpath("embedded_words.csv").read_text().splitlines()
    bank = {row["word"] for row in csv.DictReader(line for line in lines if not line.startswith("#"))}
    unknown = {e.word for e in catalogue() if e.role in ("object", "sound")} - bank
    assert not unknown


def test_sources_name_known_packages():
    prefixes = {e.source.rpartition(":")[0] for e in catalogue()}
    assert prefixes <= {"", "gm", "kit", "animals", "desc", *PACKAGES}


@pytest.mark.parametrize("kind", ["one", "two", "both", "three", "several", "motion", "speech", "weather", "music"])
def test_a_natural_scene_is_a_function_of_its_seed(stamps, kind):
    first, again, other = stamps.compose(kind, "val", 3), stamps.compose(kind, "val", 3), stamps.compose(kind, "val", 5)
    assert np.array_equal(first.frames[0].frame.rgb, again.frames[0].frame.rgb) and np.array_equal(first.samples, again.samples)
    assert not np.array_equal(first.frames[0].frame.rgb, other.frames[0].frame.rgb)
    assert first.light in LIGHTS and first.background in backgrounds()["val"]


@pytest.mark.parametrize("kind", ["one", "two", "three", "several", "distractors"])
def test_what_is_in_view_of_a_thing_takes_three_to_sixty_percent(stamps, kind):
    for scene in stamps.scenes(kind, "test", 12):
        for item in scene.frames[0].objects:
            assert 0.029 <= item.mask.mean() <= 0.605, (scene.name, item.source)
            assert -0.05 <= item.hidden <= 0.75


def test_some_things_are_hidden_and_masks_never_overlap(stamps):
    hidden = []
    for scene in stamps.scenes("two", "val", 40):
        masks = [item.mask for item in scene.frames[0].objects]
        assert not (masks[0] & masks[1]).any()
        hidden += [item.hidden for item in scene.frames[0].objects]
    assert 0.05 < np.mean(np.array(hidden) > 0.1) < 0.8


def test_lights_differ_in_brightness(stamps):
    brightness = {light: [] for light in LIGHTS}
    for scene in stamps.scenes("one", "test", 40):
        brightness[scene.light].append(scene.frames[0].frame.rgb.mean())
    assert all(brightness.values()) and max(brightness["night"]) < min(brightness["backlit"])


def test_several_of_a_kind_are_one_answer(stamps):
    for scene in stamps.scenes("several", "test", 5):
        objects = scene.frames[0].objects
        assert 2 <= len(objects) <= 4 and len({item.word for item in objects}) == 1 and all(item.sounding for item in objects)
        assert len(scene.sounding_words) == 1
    dataset = composed_set(WORDS, "test", 3, ("several",))
    assert [clip.kind for clip in dataset.clips] == ["several"] * 3


@pytest.mark.parametrize(("kind", "heard"), [("speech", ("person",)), ("weather", ()), ("music", ())])
def test_negative_scenes_show_nothing_that_makes_their_sound(stamps, kind, heard):
    for scene in stamps.scenes(kind, "val", 8):
        assert scene.sounding_words == heard and not scene.frames[0].truth.any()
        words = {item.word for item in scene.frames[0].objects}
        assert kind != "speech" or "person" not in words
        assert kind != "music" or not words & {"guitar", "drums"}
        assert {e.role for e in catalogue() if e.source in scene.sources} == {kind}
        assert -26 < scene.frames[0].window.level_dbfs < -14


def test_everyday_scenes_show_a_person_every_fifth_turn(stamps):
    words = [scene.sounding_words[0] for scene in stamps.scenes("one", "test", 10)]
    assert [n for n, word in enumerate(words) if word == "person"] == [4, 9] and len(set(words)) >= 7


def test_unknown_banks_and_backgrounds_are_said():
    with pytest.raises(ValueRangeError, match="natural or painted"):
        SceneComposer(WORDS, sources=MadeSources(), background="made")
    with pytest.raises(ValueRangeError, match="all or instruments"):
        SceneComposer(WORDS, sources=MadeSources(), bank="some")


def test_a_photograph_is_cropped_without_stretching():
    wide = np.zeros((100, 400, 3), np.uint8)
    wide[:, ::20] = 255  # a stripe every 20 px
    out = cropped(wide, (100, 100), np.random.default_rng(1))
    gaps = np.diff(np.flatnonzero(out[50, :, 0] > 60))
    assert out.shape == (100, 100, 3) and 19 <= gaps[gaps > 5].mean() <= 28


def archive(*waves: bytes, flag: int = 0) -> bytes:
    """OpenTTD's .cat: a table of places, then names and RIFF files."""
    head, body, at = b"", b"", 8 * len(waves)
    for number, wave in enumerate(waves):
        item = bytes([5]) + b"name" + bytes([number]) + wave
        head += struct.pack("<II", (at + len(body)) | flag, len(item))
        body += item
    return head + body


@pytest.mark.parametrize("flag", [0, 0x80000000])
def test_numbered_sounds_are_read_from_their_archive(flag):
    waves = [b"RIFF" + struct.pack("<I", len(text)) + text for text in (b"WAVEone", b"WAVEother")]
    data = archive(*waves, flag=flag)
    assert [numbered_wave(data, n) for n in range(2)] == waves
    with pytest.raises(MediaError, match="from 0 to 1"):
        numbered_wave(data, 2)


def test_broken_archives_are_said():
    with pytest.raises(MediaError, match="table of sounds"):
        numbered_wave(b"abc", 0)
    with pytest.raises(MediaError, match="wanted a RIFF file"):
        numbered_wave(archive(b"junkjunkjunk"), 0)


# --- the real packages

# SHA-256 over images, windows, words, masks and sound of the first scenes, taken before everyday scenes were there.
FIRST_SCENES = {
    "one-val-0": "8ecbcb4240eb309b",
    "one-test-0": "7a2f7e0cd8032df9",
    "two-val-0": "4e1552cf837ad7fe",
    "two-test-0": "a31a776e9f3930b7",
    "both-val-0": "540748b9c5fa9bd2",
    "both-test-0": "de7a8827b2b78505",
    "distractors-val-0": "55f9ce92d3cf11de",
    "distractors-test-0": "de4af96d9ebf6092",
    "motion-val-0": "4aee50a9ac55a887",
    "motion-test-0": "79a545e80c897cb9",
    "silence-val-0": "1253d3f2ba8dea46",
    "silence-test-0": "801c2382b42fdc74",
    "noise-val-0": "cdcb8865a1bfd28e",
    "noise-test-0": "ae1b21d4d86547a2",
    "offscreen-val-0": "7a34990cc5f9f2b9",
    "offscreen-test-0": "afafc0dfc7566232",
}


def digest(scene) -> str:
    total = hashlib.sha256()
    for frame in scene.frames:
        total.update(frame.frame.rgb.tobytes())
        total.update(frame.window.samples.tobytes())
        for item in frame.objects:
            total.update(item.word.encode())
            total.update(item.mask.tobytes())
    total.update(scene.samples.tobytes())
    return total.hexdigest()[:16]


@pytest.fixture(scope="module")
def real():
    return SceneSources()


@pytest.mark.data
@pytest.mark.parametrize("name", FIRST_SCENES)
def test_painted_scenes_of_instruments_are_the_first_scenes(real, name):
    kind, split, seed = name.split("-")
    stamps = SceneComposer(INSTRUMENTS, sources=real, bank="instruments", background="painted")
    assert digest(stamps.compose(kind, split, int(seed))) == FIRST_SCENES[name]


@pytest.mark.data
def test_every_line_of_the_everyday_catalogue_can_be_read(real):
    for entry in catalogue():
        if entry.role == "object":
            rgba = real.cutout(entry.source)
            assert rgba.shape[2] == 4 and 0.04 < (rgba[..., 3] > 127).mean() < 0.98, entry
        else:
            samples, rate = real.sound(entry.source)
            assert 0.14 < len(samples) / rate < 60 and np.abs(samples).max() == pytest.approx(0.9, abs=0.01), entry


@pytest.mark.data
def test_every_background_is_a_photograph_of_its_own(real):
    small = [hashlib.sha256(real.photo(s).tobytes()).hexdigest() for split in SPLITS for s in backgrounds()[split]]
    assert len(set(small)) == len(small) >= 50


@pytest.mark.data
def test_a_real_everyday_scene_stays_in_its_split(real):
    table = {entry.source: entry for entry in catalogue()}
    stamps = SceneComposer([entry.word for entry in catalogue()], sources=real)
    for kind in ("two", "several", "three"):
        scene = stamps.compose(kind, "test", 4)
        used = [*scene.sources, *(item.source for item in scene.frames[0].objects)]
        assert {table[source].split for source in used} == {"test"} and scene.background in backgrounds()["test"]
        assert dataclasses.replace(scene).name == f"{kind}-test-0004"
