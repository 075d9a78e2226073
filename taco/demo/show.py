"""The demo's show: scenes of real photographs, cut-outs and recordings, with the truth.

Nothing here depends on the method's answers: the truth is where each object was placed and which one was given a recording.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np

from taco.audio import resample
from taco.clock import NS
from taco.evaluation.composed.sources import SceneSources
from taco.io.video_writer import VideoWriter
from taco.types import AudioChunk

SIZE = (480, 640)
FPS = 10
RATE = 16000
LEVEL_DBFS = -20.0
FLOOR_DBFS = -75.0  # the noise of a quiet room and a microphone
LOUDEST = 0.95  # of a sample; a sound of few loud peaks stays below LEVEL_DBFS
JOIN_S = 0.05  # over which a recording that begins again is faded into itself
OPAQUE = 1.4  # opacities are multiplied by it: the bodies of some cut-outs let a little of the ground through
SHADOW = 0.35  # how much darker the ground is under an object

Numbers = TypeVar("Numbers", float, np.ndarray)


@dataclass(frozen=True)
class Recording:
    """A recording: what it is called, and its source as in the catalogue of everyday objects."""

    word: str
    source: str


@dataclass(frozen=True)
class ShowObject:
    """A cut-out that stands somewhere; places in px of the panorama.

    picture: its source.
    word: its name.
    x: of its middle.
    feet: y of its lower end.
    height: of the cut-out.
    voice: source of its recording, "" for an object that never sounds.
    to_x: where its middle is at the scene's end, None where it does not move.
    """

    picture: str
    word: str
    x: int
    feet: int
    height: int
    voice: str = ""
    to_x: int | None = None


@dataclass(frozen=True)
class ShowScene:
    """Objects in one place.

    place: source of a photograph.
    part: what is shown of it, (left, top, width) in shares of its sides.
    sounds: (from_s, index of the object that sounds from then on, or a recording out of view, or None).
    pan: x of the camera's left edge at the beginning and at the end, px.
    """

    name: str
    seconds: float
    place: str
    part: tuple[float, float, float]
    objects: tuple[ShowObject, ...]
    sounds: tuple[tuple[float, int | Recording | None], ...]
    pan: tuple[int, int] = (0, 0)

    def source_at(self, seconds: float) -> tuple[float, int | Recording | None]:
        """(since when, what) sounds at a time from the scene's beginning."""
        return max((turn for turn in self.sounds if turn[0] <= seconds), key=lambda turn: turn[0])


DOG = "animals/mammals/dogs/dog"
PEOPLE = "scratch:Costumes/People"


def scenes() -> tuple[ShowScene, ...]:
    """What is shown."""
    return (
        ShowScene(
            "a dog barks beside a hen",
            6.0,
            "scratch:Backgrounds/Outdoors/brick-wall2.jpg",
            (0.0, 0.0, 1.0),
            (
                ShowObject(f"{DOG}.png", "dog", 210, 455, 210, f"{DOG}.ogg"),
                ShowObject("animals/birds/hen.png", "chicken", 470, 450, 120),
            ),
            ((0.0, 0),),
        ),
        ShowScene(
            "a train passes behind a foal",
            7.0,
            "scratch:Backgrounds/Outdoors/hay_field.jpg",
            (0.0, 0.0, 1.0),
            (
                ShowObject("qabcs:toys/steam_locomotive.png", "train", -120, 330, 180, "simutrans:steam.wav", to_x=760),
                ShowObject("qabcs:animals/foal.png", "horse", 500, 440, 140),
            ),
            ((0.0, 0),),
        ),
        ShowScene(
            "a vacuum cleaner runs in the next room",
            4.0,
            "rooms:pexels-2416933.jpg",
            (0.0, 0.0, 0.9167),
            (
                ShowObject("qabcs:misc/schooler.png", "person", 110, 474, 390),
                ShowObject("hobbies/music/string/guitar_classical.png", "guitar", 590, 470, 230),
            ),
            ((0.0, Recording("vacuum cleaner", "household/vacuum_cleaner.ogg")),),
        ),
        ShowScene(
            "a fire engine with its siren beside a bus",
            6.0,
            "scratch:Backgrounds/Outdoors/building-fireproof.jpg",
            (0.0, 0.0, 1.0),
            (
                ShowObject("vehicles/masstransit/green_korean_bus.png", "bus", 478, 446, 112),
                ShowObject("vehicles/emergency/firetruck.png", "fire engine", 175, 466, 128, "vehicles/emergency/firetruck.ogg"),
            ),
            ((0.0, 1),),
        ),
        ShowScene(
            "somebody speaks, then a piano plays",
            9.0,
            "scratch:Backgrounds/Indoors/chalkboard.jpg",
            (0.0, 0.0, 1.0),
            (
                ShowObject("qabcs:instrument/piano.png", "piano", 465, 452, 205, "qabcs:piano.ogg"),
                ShowObject(f"{PEOPLE}/mako-stop.gif", "person", 195, 458, 295, "pocketsphinx:numbers.raw"),
            ),
            ((0.0, 1), (4.5, 0)),
        ),
        ShowScene(
            "silence, then a rooster and rain out of view",
            10.0,
            "scratch:Backgrounds/Indoors/hall.jpg",
            (0.0, 0.0, 1.0),
            (
                ShowObject(f"{PEOPLE}/jay.gif", "person", 210, 452, 290),
                ShowObject("qabcs:instrument/bass_drum.png", "drums", 470, 448, 120),
            ),
            ((0.0, None), (3.0, Recording("chicken", "qabcs:rooster.ogg")), (6.5, Recording("rain", "qabcs:umbrella.ogg"))),
        ),
        ShowScene(
            "the camera pans: a cow moos, then a ram bleats",
            8.0,
            "scratch:Backgrounds/Outdoors/wooden-house.jpg",
            (0.0, 0.24, 1.0),
            (
                ShowObject(
                    "animals/mammals/bovines/cow_white.png", "cow", 150, 420, 260, "animals/mammals/bovines/cow_white.ogg"
                ),
                ShowObject("qabcs:animals/goose.png", "goose", 430, 450, 110),
                ShowObject("animals/mammals/bovines/ram.png", "sheep", 690, 440, 180, "animals/mammals/bovines/ram.ogg"),
            ),
            ((0.0, 0), (4.0, 2)),
            (0, 240),
        ),
    )


@dataclass(frozen=True)
class FrameTruth:
    """The truth about one frame.

    masks: (H, W) bool of each object, as visible.
    full_areas: px of each when wholly in view.
    sounding: index of the sounding object, -1 silence, -2 out of view.
    settled: the last second of sound has one source (or silence) only, so that one answer is right.
    steady_s: for how long it has been so; an answer whose sound lagged behind its image may be about the earlier sound.
    heard: the word of what sounds, "" in silence.
    """

    scene: int
    stamp_ns: int
    masks: tuple[np.ndarray, ...]
    full_areas: tuple[int, ...]
    words: tuple[str, ...]
    sounding: int
    settled: bool
    steady_s: float = math.inf
    heard: str = ""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> FrameTruth:
        """Of the fields by name, lists in place of tuples."""
        fields: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return cls(**fields)

    def heard_late(self, lag_s: float) -> FrameTruth:
        """The truth about an answer whose sound ended this long before the image."""
        return replace(self, settled=self.settled and self.steady_s - lag_s >= 1.0)


def voice(sources: SceneSources, source: str, count: int) -> np.ndarray:
    """(count,) float32: the recording at the show's rate and level, faded into itself where it begins again."""
    samples, rate = sources.sound(source)
    one = resample(np.ascontiguousarray(samples, np.float32), rate, RATE)
    join = min(round(JOIN_S * RATE), len(one) // 4)
    up = np.sin(np.linspace(0, np.pi / 2, join)) ** 2
    out = np.zeros(count + len(one), np.float32)
    for start in range(0, count, len(one) - join):
        piece = one.copy()
        if start:
            piece[:join] *= up
        piece[-join:] *= up[::-1]
        out[start : start + len(one)] += piece
    out = out[:count]
    gain = 10 ** (LEVEL_DBFS / 20) / max(float(np.sqrt(np.mean(out**2))), 1e-9)
    return out * min(gain, LOUDEST / max(float(np.abs(out).max()), 1e-9))


def place_of(item: ShowObject, share: Numbers) -> Numbers:
    """Middle x of an object at a share (or several) of the scene's time in [0, 1]."""
    end = item.x if item.to_x is None else item.to_x
    return item.x + (end - item.x) * share


def backdrop(sources: SceneSources, scene: ShowScene) -> np.ndarray:
    """(H, W + pan, 3) float32: the part of the photograph that the scene plays in."""
    photo = sources.photo(scene.place)
    height, width = SIZE[0], SIZE[1] + max(scene.pan)
    left, top, across = scene.part
    w = round(across * photo.shape[1])
    h = min(round(w * height / width), photo.shape[0])
    y, x = min(round(top * photo.shape[0]), photo.shape[0] - h), min(round(left * photo.shape[1]), photo.shape[1] - w)
    way = cv2.INTER_AREA if w > width else cv2.INTER_CUBIC
    part = np.ascontiguousarray(photo[y : y + h, x : x + w])
    return cv2.resize(part, (width, height), interpolation=way).astype(np.float32).clip(0, 255)


def cutout(sources: SceneSources, item: ShowObject) -> np.ndarray:
    """(h, w, 4) float32: the object's cut-out at its height with a soft edge, colours multiplied by the opacity (0 to 1)."""
    rgba = sources.cutout(item.picture).astype(np.float32)
    rgba[..., 3] = np.minimum(1, rgba[..., 3] * (OPAQUE / 255))
    rgba[..., :3] *= rgba[..., 3:]
    scale = item.height / rgba.shape[0]
    size = (max(1, round(rgba.shape[1] * scale)), item.height)
    small = cv2.resize(rgba, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return cv2.GaussianBlur(small, (0, 0), 0.7 * max(1.0, scale))  # as soft as the photograph behind it


def panorama(sources: SceneSources, scene: ShowScene, seed: int, share: float = 0.0) -> tuple[np.ndarray, list[np.ndarray]]:
    """The wide picture that the camera pans over at a share of the scene's time, and the mask of each object in it.

    Later objects stand in front. ValueError where an object that does not move is not wholly inside.
    """
    picture = backdrop(sources, scene)
    height, width = picture.shape[:2]
    masks: list[np.ndarray] = []
    for item in scene.objects:
        stamp = cutout(sources, item)
        h, w = stamp.shape[:2]
        top, left = item.feet - h, round(place_of(item, share) - w / 2)
        inside = top >= 0 and item.feet <= height and left >= 0 and left + w <= width
        if not inside and item.to_x is None:
            raise ValueError(f"{scene.name}: {item.word} of {w} x {h} px does not fit at {item.x}, {item.feet}")
        _shade(picture, item.feet, left, w)
        x, end = max(left, 0), min(left + w, width)
        mask = np.zeros((height, width), bool)
        if x < end:
            part = stamp[:, x - left : end - left]
            patch = picture[top : item.feet, x:end]
            patch[:] = patch * (1 - part[..., 3:]) + part[..., :3]
            mask[top : item.feet, x:end] = part[..., 3] > 0.5
        masks = [other & ~mask for other in masks] + [mask]
    noise = np.random.default_rng(seed).normal(0, 2, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8), masks


def _shade(picture: np.ndarray, feet: int, left: int, width: int) -> None:
    """Darken the ground where an object stands."""
    shadow = np.zeros(picture.shape[:2], np.float32)
    middle, axes = (left + width // 2, feet - 4), (max(1, round(0.42 * width)), int(np.clip(0.05 * width, 2, 8)))
    cv2.ellipse(shadow, middle, axes, 0, 0, 360, SHADOW, -1)
    picture *= 1 - cv2.GaussianBlur(shadow, (0, 0), 5)[..., None]


def make(
    sources: SceneSources,
    video: Path,
    show: tuple[ShowScene, ...],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[FrameTruth]:
    """Write the show as an MP4 with sound and return the truth of every frame, in order."""
    moments: list[FrameTruth] = []
    total = sum(round(scene.seconds * FPS) for scene in show)
    start = 0.0
    progress(0, total)
    with VideoWriter(video, fps=FPS, sample_rate=RATE) as writer:
        for index, scene in enumerate(show):
            count = round(scene.seconds * FPS)
            moving = any(item.to_x is not None for item in scene.objects)
            areas = tuple(int((cutout(sources, item)[..., 3] > 0.5).sum()) for item in scene.objects)
            for i in range(count):
                if moving or i == 0:
                    wide, masks = panorama(sources, scene, index, i / max(1, count - 1))
                x = round(scene.pan[0] + (scene.pan[1] - scene.pan[0]) * i / max(1, count - 1))
                shown = tuple(mask[:, x : x + SIZE[1]] for mask in masks)
                moments.append(truth(scene, index, i / FPS, start, shown, areas))
                writer.write(np.ascontiguousarray(wide[:, x : x + SIZE[1]]), moments[-1].stamp_ns)
                progress(len(moments), total)
            writer.write_audio(AudioChunk(sound_of(sources, scene, seed=index)[:, None], RATE, round(start * NS)))
            start += scene.seconds
    return moments


def truth(
    scene: ShowScene, index: int, seconds: float, start: float, masks: tuple[np.ndarray, ...], areas: tuple[int, ...]
) -> FrameTruth:
    """What is so at a time from the scene's beginning; start: of the scene in the show, s."""
    since, source = scene.source_at(seconds)
    words = tuple(item.word for item in scene.objects)
    sounding = source if isinstance(source, int) else -1 if source is None else -2
    heard = words[source] if isinstance(source, int) else source.word if source else ""
    stamp = round((start + seconds) * NS)
    return FrameTruth(index, stamp, masks, areas, words, sounding, seconds - since >= 1.0, seconds - since, heard)


def sound_of(sources: SceneSources, scene: ShowScene, seed: int) -> np.ndarray:
    """(n,) float32: the scene's sound, over the noise of a quiet room. A passing object is loudest in the picture's middle."""
    count = round(scene.seconds * RATE)
    sound = np.random.default_rng(1000 + seed).normal(0, 10 ** (FLOOR_DBFS / 20), count)
    ends = [since for since, _ in scene.sounds[1:]] + [scene.seconds]
    for (since, source), until in zip(scene.sounds, ends):
        if source is None:
            continue
        item = scene.objects[source] if isinstance(source, int) else None
        recording = source.source if isinstance(source, Recording) else scene.objects[source].voice
        first, last = round(since * RATE), round(until * RATE)
        fade = np.minimum(1.0, np.minimum(np.arange(last - first), np.arange(last - first)[::-1]) / (0.02 * RATE))
        if item and item.to_x is not None:
            away = (place_of(item, np.arange(first, last) / count) - SIZE[1] / 2) / SIZE[1]
            fade = fade / (1 + (2 * away) ** 2)  # the half of it at the edges: as if passing at half a picture's width
        sound[first:last] += voice(sources, recording, last - first) * fade
    return sound.clip(-1, 1).astype(np.float32)
