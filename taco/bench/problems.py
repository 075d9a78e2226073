"""Synthetic scenes with known masks: tokens as CLIP and CLAP would give them.

They are easier than real pictures (noise is white, words are exact), so they compare solvers, not systems.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from taco.types import Anchors

TOKEN_NORM = 10.0
BANDS = 2


@dataclass(frozen=True, slots=True)
class World:
    """Words in both spaces.

    visual: (M, C_v) directions of image tokens.
    audio: (M, C_a) directions of sound tokens.
    anchors: the word bank.
    """

    visual: Tensor
    audio: Tensor
    anchors: Anchors


@dataclass(frozen=True, slots=True)
class MadeScene:
    """One frame.

    visual: (N, C_v) tokens.
    audio: (T, C_a) tokens.
    truth: (rows, columns) bool, the sounding object.
    word: its index in the word bank, -1 in silence.
    """

    visual: Tensor
    audio: Tensor
    truth: Tensor
    word: int

    @property
    def visual_grid(self) -> tuple[int, int]:
        """(rows, columns) of the image tokens."""
        rows, columns = self.truth.shape
        return rows, columns

    @property
    def audio_grid(self) -> tuple[int, int]:
        """(frequency bands, time steps) of the sound tokens."""
        return BANDS, len(self.audio) // BANDS


def make_world(seed: int = 0, words: int = 527, visual_dim: int = 768, audio_dim: int = 768, gap: float = 0.0) -> World:
    """A word bank. Words share a common direction, as text embeddings do; gap: noise between tokens and words."""
    g = torch.Generator().manual_seed(1_000_000 + seed)

    def directions(dim: int, common: float) -> Tensor:
        own, shared = torch.randn(words, dim, generator=g), torch.randn(dim, generator=g)
        return torch.nn.functional.normalize(own + common * shared, dim=-1)

    visual, audio = directions(visual_dim, 0.7), directions(audio_dim, 0.5)
    project = torch.nn.Linear(audio_dim, 1024, bias=False)
    with torch.no_grad():
        project.weight.copy_(torch.randn(1024, audio_dim, generator=g) / audio_dim**0.5)
        project.requires_grad_(False)
        heard = project(audio.clamp(min=0))
    text_v = visual + gap * torch.randn(visual.shape, generator=g) / visual_dim**0.5
    text_a = heard + gap * heard.norm(dim=-1, keepdim=True) * torch.randn(heard.shape, generator=g) / 32
    anchors = Anchors(tuple(f"word {i}" for i in range(words)), text_v, text_a, project, 30.0)
    return World(visual, audio, anchors)


class Stage:
    """Objects that move in front of a background, one of them sounding; a pure function of its seed."""

    def __init__(self, world: World, seed: int, side: int = 24, steps: int = 32, objects: int = 4, noise: float = 1.0):
        self.world, self.side, self.steps, self.noise = world, side, steps, noise
        self.g = torch.Generator().manual_seed(seed)
        words = torch.randperm(len(world.visual), generator=self.g)[: objects + 2].tolist()
        self.words, self.ground = words[:objects], words[objects:]
        self.centre = 0.15 + 0.7 * torch.rand(objects, 2, generator=self.g)
        self.radius = 0.12 + 0.12 * torch.rand(objects, 2, generator=self.g)
        self.speed = 0.015 * torch.randn(objects, 2, generator=self.g)
        self.horizon = 0.35 + 0.3 * float(torch.rand((), generator=self.g))
        self.texture = torch.randn(side * side, world.visual.shape[1], generator=self.g)
        self.hum = torch.randn(world.audio.shape[1], generator=self.g)

    def cover(self, time: float) -> Tensor:
        """(objects, N) soft coverage of the token cells; later objects hide earlier ones."""
        axis = (torch.arange(self.side) + 0.5) / self.side
        # Bounce at the walls.
        place = (self.centre + time * self.speed) % 2.0
        place = torch.where(place > 1, 2 - place, place)
        dy, dx = axis[:, None] - place[:, 0, None, None], axis[None, :] - place[:, 1, None, None]
        inside = 1 - (dy / self.radius[:, 0, None, None]) ** 2 - (dx / self.radius[:, 1, None, None]) ** 2
        soft = (inside * 3 + 0.5).clamp(0, 1).flatten(1)
        clear = torch.ones(soft.shape[1])
        for i in range(len(soft) - 1, -1, -1):
            soft[i] *= clear
            clear = clear - soft[i]
        return soft

    def image(self, time: float) -> tuple[Tensor, Tensor]:
        """Visual tokens (N, C_v) and coverage (objects, N)."""
        cover = self.cover(time)
        rest = 1 - cover.sum(0)
        sky = (torch.arange(self.side * self.side) // self.side < self.horizon * self.side).float()
        directions = self.world.visual
        clean = cover.T @ directions[self.words]
        clean = (
            clean + (rest * sky)[:, None] * directions[self.ground[0]] + (rest * (1 - sky))[:, None] * directions[self.ground[1]]
        )
        fresh = torch.randn(self.texture.shape, generator=self.g)
        # Half of the noise is the picture's own and stays from frame to frame.
        noise = (0.7 * self.texture + 0.7 * fresh) * self.noise / directions.shape[1] ** 0.5
        return (TOKEN_NORM * (clean + noise)).clamp(min=0), cover

    def sound(self, heard: list[int]) -> Tensor:
        """Audio tokens (BANDS * steps, C_a); heard: for each step the index of the object that sounds, -1 for none."""
        directions = self.world.audio
        words = torch.tensor([self.words[i] if i >= 0 else 0 for i in heard])
        loud = torch.tensor([float(i >= 0) for i in heard])
        envelope = loud * (0.5 + 0.5 * torch.rand(self.steps, generator=self.g))
        clean = envelope[:, None] * directions[words] + 0.2 * torch.nn.functional.normalize(self.hum, dim=0)
        noise = self.noise * torch.randn(BANDS, *clean.shape, generator=self.g) / directions.shape[1] ** 0.5
        tokens: Tensor = TOKEN_NORM * (clean + noise)
        return tokens.clamp(min=0).flatten(0, 1)

    def scene(self, time: float, heard: list[int]) -> MadeScene:
        """Tokens and truth; the truth is the object that sounds in the newest step."""
        visual, cover = self.image(time)
        now = heard[-1]
        truth = torch.zeros(self.side, self.side, dtype=torch.bool)
        if now >= 0:
            truth = (cover[now] > 0.5).view(self.side, self.side)
        return MadeScene(visual, self.sound(heard), truth, self.words[now] if now >= 0 else -1)


def still(world: World, seed: int, **options: Any) -> MadeScene:
    """One frame whose sounding object covers 3 to 40 percent of the picture. options: arguments of ``Stage``."""
    for attempt in range(100):
        stage = Stage(world, seed * 101 + attempt, **options)
        cover = (stage.cover(0.0) > 0.5).float().mean(1)
        fit = [i for i in range(len(cover)) if 0.03 <= cover[i] <= 0.4]
        if fit:
            return stage.scene(0.0, [fit[0]] * stage.steps)
    raise AssertionError("no scene in 100 seeds")


def stream(world: World, seed: int, frames: int = 80, rate: float = 10.0, **options: Any) -> list[tuple[MadeScene, str]]:
    """A video: each frame with its event, "" or "start", "sound" (another object sounds) or "cut" (another place).

    The sound window is the last second: after a change of sound it holds both for a while. options: arguments of ``Stage``.
    """
    out: list[tuple[MadeScene, str]] = []
    stage: Stage | None = None
    index = 0
    g = torch.Generator().manual_seed(seed)
    events = {0: "start", frames // 4: "sound", frames // 2: "cut", 3 * frames // 4: "sound"}
    heard: list[int] = []
    for frame in range(frames):
        event = events.get(frame, "")
        if event in ("start", "cut"):
            for attempt in range(100):
                stage = Stage(world, seed * 7919 + frame * 101 + attempt, **options)
                if ((stage.cover(0.0) > 0.5).float().mean(1) > 0.03).sum() >= 2:
                    break
            start, heard = frame, []
        assert stage is not None, "the first frame starts a stage"
        cover = (stage.cover((frame - start) * 10.0 / rate) > 0.5).float().mean(1)
        if event:
            others = [i for i in range(len(cover)) if cover[i] > 0.03 and (event != "sound" or i != index)]
            index = others[int(torch.randint(len(others), (), generator=g))] if others else index
        per_frame = max(1, round(stage.steps / rate))
        heard = (heard or [index] * stage.steps) + [index] * per_frame
        heard = heard[-stage.steps :]
        out.append((stage.scene((frame - start) * 10.0 / rate, heard), event))
    return out
