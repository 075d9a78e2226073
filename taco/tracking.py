"""The same id for the same sounding object from frame to frame, also through short pauses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from taco.clock import JUMP_BACK_NS, NS
from taco.config import TargetsConfig, TrackingConfig
from taco.types import SoundingObject, SoundingScene

# All numbers here are ours.
CELLS = 64  # masks are compared on a grid this fine on their longer side
WEIGHTS = (0.5, 0.25, 0.25)  # place, word, factor; without a factor the other two share its part
PLACE_UNKNOWN = 0.3  # nearness after a cut
OTHER_WORD = 0.3  # likeness of two sightings whose best words are among each other's further words
FACTOR_MEMORY = 0.7  # share of the old direction in the running factor of a track


@dataclass(frozen=True, slots=True)
class Track:
    """One sounding object over time.

    id: its number, 1 and up, never given twice.
    state: "sounding" in the newest frame, "fading" after it for up to hold_s, "lost" in the one update that gives it up.
    first_ns, last_ns: when it was first and last seen.
    now_ns: stamp of the newest update.
    newest: the object as it was last seen.
    cells: its mask on a coarse grid, share of set pixels in [0, 1].
    factor: unit vector of its look, or None.
    elsewhere: the image changed all over since, so that its old place says nothing any more.
    """

    id: int
    state: str
    first_ns: int
    last_ns: int
    now_ns: int
    newest: SoundingObject
    cells: np.ndarray
    factor: np.ndarray | None
    elsewhere: bool = False

    @property
    def label(self) -> str:
        """The newest word."""
        return self.newest.label

    @property
    def age_s(self) -> float:
        """Seconds since it was first seen."""
        return (self.now_ns - self.first_ns) / NS

    @property
    def silent_s(self) -> float:
        """Seconds since it was last seen."""
        return (self.now_ns - self.last_ns) / NS


class Tracker:
    """Gives the objects of successive scenes stable ids. Not for several threads.

    tracks: every Track after the newest update; lost ones are in it once.
    """

    def __init__(self, config: TrackingConfig | None = None, next_id: int = 1):
        self.config = config or TrackingConfig()
        self._next = next_id
        self.reset()

    def reset(self) -> None:
        """Forget all tracks; ids go on."""
        self.tracks: tuple[Track, ...] = ()
        self._newest_ns: int | None = None

    def adopt(self, scene: SoundingScene, ages_s: Mapping[int, float]) -> None:
        """Take over a scene that an earlier run numbered: its objects keep their ids. ages_s: of the tracks by id."""
        now_ns = self._newest_ns = scene.stamp_ns
        found = {track.id: dataclasses.replace(track, state="fading", now_ns=now_ns) for track in self.tracks}
        for item in scene.objects:
            first_ns = now_ns - round(ages_s.get(item.id, 0.0) * NS)
            found[item.id] = Track(item.id, "sounding", first_ns, now_ns, now_ns, item, _cells(item.mask), None)
        self.tracks = tuple(found[id] for id in sorted(found))
        self._next = max([self._next, *(id + 1 for id in found)])

    def update(self, scene: SoundingScene) -> SoundingScene:
        """The scene with the ids of its tracks; its order stays."""
        if self._newest_ns is not None and scene.stamp_ns < self._newest_ns - JUMP_BACK_NS:
            self.reset()
        self._newest_ns = now_ns = max(scene.stamp_ns, self._newest_ns or scene.stamp_ns)
        known = [track for track in self.tracks if track.state != "lost"]
        factor = _factor(scene)
        if scene.factorization is not None and scene.factorization.restart == "cut":
            known = [dataclasses.replace(track, elsewhere=True) for track in known]
        seen = [(item, _cells(item.mask)) for item in scene.objects]
        matches = self._match(known, seen, factor, now_ns)
        tracks, objects = [], []
        for index, (item, cells) in enumerate(seen):
            old = matches.get(index)
            if old is None:
                item = dataclasses.replace(item, id=self._next)
                self._next += 1
                tracks.append(Track(item.id, "sounding", now_ns, now_ns, now_ns, item, cells, factor))
            else:
                item = dataclasses.replace(item, id=old.id)
                blend = _blend(old.factor, factor)
                tracks.append(Track(old.id, "sounding", old.first_ns, now_ns, now_ns, item, cells, blend))
            objects.append(item)
        continued = {track.id for track in tracks}
        for old in known:
            if old.id not in continued:
                state = "fading" if now_ns - old.last_ns < self.config.hold_s * NS else "lost"
                tracks.append(dataclasses.replace(old, state=state, now_ns=now_ns))
        self.tracks = tuple(sorted(tracks, key=lambda track: track.id))
        return dataclasses.replace(scene, objects=tuple(objects))

    def _match(
        self,
        known: list[Track],
        seen: list[tuple[SoundingObject, np.ndarray]],
        factor: np.ndarray | None,
        now_ns: int,
    ) -> dict[int, Track]:
        """Pairs of alike ones, the most alike first; each at most once."""
        pairs = []
        for index, (item, cells) in enumerate(seen):
            for track in known:
                alike = similarity(track, item, cells, factor, (now_ns - track.last_ns) / NS)
                if alike >= self.config.min_similarity:
                    pairs.append((alike, -track.id, index, track))
        matches: dict[int, Track] = {}
        taken: set[int] = set()
        for _, _, index, track in sorted(pairs, key=lambda pair: pair[:3], reverse=True):
            if index not in matches and track.id not in taken:
                matches[index] = track
                taken.add(track.id)
        return matches


class TargetSelector:
    """Chooses the sounding object to follow, without flickering between two that are alike.

    A target stays until it has been silent for hold_s, or until another scored higher by switch_margin for
    switch_after_s without a break. While it is kept but silent there is no target: no old place is given again.
    """

    def __init__(self, config: TargetsConfig | None = None):
        self.config = config or TargetsConfig()
        self.reset()

    def reset(self) -> None:
        """Forget the target."""
        self.id: int | None = None
        self._seen_ns = self._newest_ns = 0
        self._rival: tuple[int, int] | None = None  # id, since when

    def update(self, scene: SoundingScene) -> SoundingObject | None:
        """The object to follow in this scene; None while there is none."""
        now_ns = scene.stamp_ns
        if now_ns < self._newest_ns - JUMP_BACK_NS:
            self.reset()
        self._newest_ns = max(now_ns, self._newest_ns)
        candidates = {item.id: item for item in scene.objects if item.score >= self.config.min_score}
        best = max(candidates.values(), key=lambda item: (item.score, -item.id), default=None)
        if best is not None and self.id in candidates:
            self._seen_ns = now_ns
            own = candidates[self.id]
            if best.id == own.id or best.score < own.score + self.config.switch_margin:
                self._rival = None
                return own
            if self._rival is None or self._rival[0] != best.id:
                self._rival = (best.id, now_ns)
            if now_ns - self._rival[1] < self.config.switch_after_s * NS:
                return own
        elif self.id is not None and now_ns - self._seen_ns < self.config.hold_s * NS:
            return None
        self._rival = None
        self.id = None if best is None else best.id
        self._seen_ns = now_ns
        return best


def similarity(track: Track, item: SoundingObject, cells: np.ndarray, factor: np.ndarray | None, gap_s: float) -> float:
    """How alike a track and an object are, in [0, 1]: place, word and factor; 0 where it cannot have moved that far.

    gap_s: seconds between the two; the longer, the further an object or the camera may have moved.
    Where the segmenter followed it from the one to the other, they are the same.
    """
    if item.followed and item.followed == track.newest.followed:
        return 1.0
    place = PLACE_UNKNOWN if track.elsewhere else _place(track, item, cells, gap_s)
    if place < 0.05:
        return 0.0
    word = _word(track.newest, item)
    if factor is None or track.factor is None or factor.shape != track.factor.shape:
        return (WEIGHTS[0] * place + WEIGHTS[1] * word) / (WEIGHTS[0] + WEIGHTS[1])
    return WEIGHTS[0] * place + WEIGHTS[1] * word + WEIGHTS[2] * max(0.0, float(track.factor @ factor))


def _place(track: Track, item: SoundingObject, cells: np.ndarray, gap_s: float) -> float:
    """Overlap of the masks, or nearness of the boxes' centres in units of their size, whichever says more."""
    overlap = 0.0
    if cells.shape == track.cells.shape:
        both = np.minimum(cells, track.cells).sum()
        overlap = float(both / max(1e-9, np.maximum(cells, track.cells).sum()))
    (ax, ay, aw, ah), (bx, by, bw, bh) = track.newest.box, item.box
    distance = math.hypot(ax + aw / 2 - bx - bw / 2, ay + ah / 2 - by - bh / 2)
    size = 0.5 * (math.sqrt(aw * ah) + math.sqrt(bw * bh)) * (1 + min(gap_s, 1.0)) / 2
    return max(overlap, 0.9 * math.exp(-0.5 * (distance / size) ** 2))


def _word(one: SoundingObject, other: SoundingObject) -> float:
    if one.label == other.label:
        return 1.0
    return OTHER_WORD if other.label in dict(one.labels) or one.label in dict(other.labels) else 0.0


def _cells(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> share of set pixels in the cells of a coarse grid, float32."""
    step = max(1, -(-max(mask.shape) // CELLS))
    high, wide = -(-mask.shape[0] // step) * step, -(-mask.shape[1] // step) * step
    padded = np.zeros((high, wide), np.float32)
    padded[: mask.shape[0], : mask.shape[1]] = mask
    return np.asarray(padded.reshape(high // step, step, wide // step, step).mean((1, 3)))


def _factor(scene: SoundingScene) -> np.ndarray | None:
    """Unit vector of the sounding visual factor less the mean of all: non-negative factors are alike otherwise."""
    found = scene.factorization
    if found is None or found.sounding < 0 or not scene.objects:
        return None
    factors = found.visual_factors.detach().float().cpu().numpy()
    direction = factors[found.sounding] - factors.mean(0)
    length = float(np.linalg.norm(direction))
    return direction / length if length > 1e-9 else None


def _blend(old: np.ndarray | None, new: np.ndarray | None) -> np.ndarray | None:
    if old is None or new is None or old.shape != new.shape:
        return old if new is None else new
    mixed = FACTOR_MEMORY * old + (1 - FACTOR_MEMORY) * new
    length = float(np.linalg.norm(mixed))
    return mixed / length if length > 1e-9 else new
