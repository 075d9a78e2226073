"""The demo's show: scenes of real photographs (cut-outs of the stamps package) with their real sounds, and the truth.

Nothing here knows what the method answers: the truth is where each thing was put and which one was given a voice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from taco.audio import resample
from taco.evaluation.stamp_sources import StampSources
from taco.media.writing import VideoWriter
from taco.types import AudioChunk

SIZE = (480, 640)
FPS = 10
RATE = 16000
NS = 1_000_000_000
LEVEL_DBFS = -20.0
FLOOR_DBFS = -75.0  # the noise of a quiet room and a microphone


@dataclass(frozen=True)
class Thing:
    """A cut-out at a place: stamp below the stamps' folder, word, middle (x, y) in the panorama and height in px."""

    stamp: str
    word: str
    x: int
    y: int
    height: int


@dataclass(frozen=True)
class Scene:
    """Things in one place. pan: camera x from, to.

    sounds: (from_s, index of the thing that sounds from then on, or a stamp's name for one out of view, or None).
    """

    name: str
    seconds: float
    things: tuple[Thing, ...]
    sounds: tuple[tuple[float, int | str | None], ...]
    pan: tuple[int, int] = (0, 0)


# Pictures of the stamps package; a sound of the same name lies beside each that sounds here.
VIOLIN = "hobbies/music/string/violin"
CELLO = "hobbies/music/string/cello"
DRUMS = "hobbies/music/percussion/drumkit"
DOG = "animals/mammals/dogs/dog"
DUCK = "animals/birds/duck"
FIRE_ENGINE = "vehicles/emergency/firetruck"


def scenes(birdnet: bool = False) -> tuple[Scene, ...]:
    """What is shown; ``birdnet`` adds animals, which only the optional sound model knows."""
    show = (
        Scene(
            "a violin plays beside a silent dog",
            6.0,
            (Thing(VIOLIN, "violin", 190, 240, 230), Thing(DOG, "dog", 480, 300, 240)),
            ((0.0, 0),),
        ),
        Scene(
            "the camera pans, the sound moves from the drums to the violin",
            12.0,
            (Thing(DRUMS, "drums", 250, 280, 240), Thing(VIOLIN, "violin", 640, 230, 230), Thing(DOG, "dog", 930, 310, 220)),
            ((0.0, 0), (6.0, 1)),
            (0, 400),
        ),
        Scene(
            "silence",
            4.0,
            (Thing(DRUMS, "drums", 180, 280, 240), Thing(CELLO, "cello", 470, 240, 330)),
            ((0.0, None),),
        ),
        Scene(
            "the cello plays, then the drums",
            10.0,
            (Thing(DRUMS, "drums", 180, 280, 240), Thing(CELLO, "cello", 470, 240, 330)),
            ((0.0, 1), (5.0, 0)),
        ),
        Scene(
            "drums are heard, but not in view",
            6.0,
            (Thing(DOG, "dog", 130, 300, 240), Thing(FIRE_ENGINE, "fire engine", 455, 330, 140)),
            ((0.0, DRUMS),),
        ),
    )
    if not birdnet:
        return show
    return (
        *show,
        Scene(
            "a dog barks, then a duck quacks",
            10.0,
            (Thing(DOG, "dog", 180, 300, 240), Thing(DUCK, "duck", 470, 310, 200)),
            ((0.0, 0), (5.0, 1)),
        ),
    )


@dataclass(frozen=True)
class Moment:
    """The truth about one frame. masks: (H, W) bool of each thing, as visible; full_areas: px of each when wholly in view.
    sounding: index of the sounding thing, -1 silence, -2 out of view.

    settled: the last second of sound has one source (or silence) only, so that one answer is right. steady_s: for how
    long it has been so; an answer whose sound lagged behind its image may have heard what was before.
    """

    scene: int
    stamp_ns: int
    masks: tuple[np.ndarray, ...]
    full_areas: tuple[int, ...]
    words: tuple[str, ...]
    sounding: int
    settled: bool
    steady_s: float = math.inf

    def heard_late(self, lag_s: float) -> Moment:
        """The truth about an answer whose sound ended this long before the image."""
        return replace(self, settled=self.settled and self.steady_s - lag_s >= 1.0)


def voice(sources: StampSources, name: str, count: int) -> np.ndarray:
    """(count,) float32: the stamp's sound, repeated, at the show's rate and level."""
    samples, rate = sources.sound(f"{name}.ogg")
    samples = resample(np.ascontiguousarray(samples, np.float32), rate, RATE)
    samples = samples * (10 ** (LEVEL_DBFS / 20) / np.sqrt(np.mean(samples**2)))
    return np.resize(samples, count).clip(-1, 1).astype(np.float32)


def panorama(sources: StampSources, scene: Scene, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """The wide picture that the camera pans over, and the mask of each thing in it."""
    height, width = SIZE[0], SIZE[1] + max(scene.pan)
    noise = np.random.default_rng(seed)
    wall = noise.uniform(120, 190, 3)
    floor = wall * noise.uniform(0.6, 0.8, 3)
    edge = round(0.72 * height)
    rows = np.arange(height)[:, None, None]
    picture = np.where(rows < edge, wall * (1 - 0.15 * rows / edge), floor * (0.85 + 0.3 * (rows - edge) / (height - edge)))
    grain = cv2.GaussianBlur(noise.normal(0, 1, (height, width, 1)).astype(np.float32), (0, 0), 6)[..., None]
    picture = np.broadcast_to(picture, (height, width, 3)) + 60 * grain
    masks = []
    for thing in scene.things:
        stamp = sources.cutout(f"{thing.stamp}.png")
        scale = thing.height / stamp.shape[0]
        stamp = cv2.resize(stamp, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        h, w = stamp.shape[:2]
        top, left = thing.y - h // 2, thing.x - w // 2
        if top < 0 or left < 0 or top + h > height or left + w > width:
            raise ValueError(f"{scene.name}: {thing.word} of {w} x {h} px does not fit at {thing.x}, {thing.y}")
        alpha = stamp[..., 3:].astype(np.float64) / 255
        patch = picture[top : top + h, left : left + w]
        picture[top : top + h, left : left + w] = patch * (1 - alpha) + stamp[..., :3] * alpha
        mask = np.zeros((height, width), bool)
        mask[top : top + h, left : left + w] = alpha[..., 0] > 0.5
        masks = [other & ~mask for other in masks] + [mask]
    return (picture + noise.normal(0, 2, picture.shape)).clip(0, 255).astype(np.uint8), masks


def make(sources: StampSources, video: Path, show: tuple[Scene, ...], progress=lambda done, total: None) -> list[Moment]:
    """Write the show as an MP4 with sound and return the truth of every frame, in order."""
    moments: list[Moment] = []
    total = sum(round(scene.seconds * FPS) for scene in show)
    start = 0.0
    with VideoWriter(video, fps=FPS, sample_rate=RATE) as writer:
        for index, scene in enumerate(show):
            wide, masks = panorama(sources, scene, seed=index)
            count = round(scene.seconds * FPS)
            for i in range(count):
                x = round(scene.pan[0] + (scene.pan[1] - scene.pan[0]) * i / max(1, count - 1))
                seconds = i / FPS
                turn = max(k for k, (since, _) in enumerate(scene.sounds) if since <= seconds)
                source = scene.sounds[turn][1]
                moments.append(
                    Moment(
                        index,
                        round((start + seconds) * NS),
                        tuple(mask[:, x : x + SIZE[1]] for mask in masks),
                        tuple(int(mask.sum()) for mask in masks),
                        tuple(thing.word for thing in scene.things),
                        source if isinstance(source, int) else -1 if source is None else -2,
                        seconds - scene.sounds[turn][0] >= 1.0,
                        seconds - scene.sounds[turn][0],
                    )
                )
                writer.write(np.ascontiguousarray(wide[:, x : x + SIZE[1]]), moments[-1].stamp_ns)
                progress(len(moments), total)
            writer.write_audio(AudioChunk(sound_of(sources, scene, seed=index)[:, None], RATE, round(start * NS)))
            start += scene.seconds
    return moments


def sound_of(sources: StampSources, scene: Scene, seed: int) -> np.ndarray:
    """(n,) float32: the scene's sound, over the noise of a quiet room."""
    count = round(scene.seconds * RATE)
    sound = np.random.default_rng(1000 + seed).normal(0, 10 ** (FLOOR_DBFS / 20), count)
    ends = [since for since, _ in scene.sounds[1:]] + [scene.seconds]
    for (since, source), until in zip(scene.sounds, ends):
        if source is None:
            continue
        name = scene.things[source].stamp if isinstance(source, int) else source
        first, last = round(since * RATE), round(until * RATE)
        fade = np.minimum(1.0, np.minimum(np.arange(last - first), np.arange(last - first)[::-1]) / (0.02 * RATE))
        sound[first:last] += voice(sources, name, last - first) * fade
    return sound.clip(-1, 1).astype(np.float32)
