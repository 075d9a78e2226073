"""The records that travel along the line; each checks its own shapes.

Time is integer nanoseconds (``_ns``) on the clock of whoever stamped the data. Image
coordinates are pixels, x to the right, y down, origin at the top left corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from taco.checks import as_float32, check_array, check_sample_rate, check_stamp, check_tensor, format_shape
from taco.clock import NS
from taco.errors import ShapeError, ValueRangeError, shown


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One camera image.

    rgb: (H, W, 3) uint8, red first.
    stamp_ns: time of exposure.
    """

    rgb: np.ndarray
    stamp_ns: int

    def __post_init__(self) -> None:
        check_array("VideoFrame.rgb", self.rgb, 3, np.uint8, 3)
        if 0 in self.rgb.shape:
            raise ShapeError(f"VideoFrame.rgb: wanted at least one pixel, got {self.rgb.shape}")
        check_stamp("VideoFrame.stamp_ns", self.stamp_ns)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        height, width, _ = self.rgb.shape
        return height, width


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """A piece of sound as a microphone delivers it.

    samples: (n, channels) float32 in [-1, 1]; float64 is converted.
    sample_rate: Hz.
    stamp_ns: time of the first sample.
    """

    samples: np.ndarray
    sample_rate: int
    stamp_ns: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", as_float32(self.samples))
        check_array("AudioChunk.samples", self.samples, 2, np.float32)
        if self.samples.shape[1] < 1:
            raise ShapeError(f"AudioChunk.samples: wanted at least one channel, got {self.samples.shape}")
        check_sample_rate(self.sample_rate)
        check_stamp("AudioChunk.stamp_ns", self.stamp_ns)

    @property
    def end_ns(self) -> int:
        """Time just after the last sample."""
        return self.stamp_ns + round(len(self.samples) * NS / self.sample_rate)


@dataclass(frozen=True, slots=True)
class AudioWindow:
    """The sound that goes with one image: mono, without holes.

    samples: (T,) float32 in [-1, 1]; float64 is converted.
    sample_rate: Hz.
    start_ns: time of the first sample.
    bridged: samples that never came; short holes are bridged by the sound around them.
    """

    samples: np.ndarray
    sample_rate: int
    start_ns: int
    bridged: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "samples", as_float32(self.samples))
        check_array("AudioWindow.samples", self.samples, 1, np.float32)
        check_sample_rate(self.sample_rate)
        check_stamp("AudioWindow.start_ns", self.start_ns)

    @property
    def end_ns(self) -> int:
        """Time just after the last sample."""
        return self.start_ns + round(len(self.samples) * NS / self.sample_rate)

    @property
    def level_dbfs(self) -> float:
        """Root mean square level in dB of full scale, in [-200, 0]; -200 for digital silence."""
        power = float(np.mean(np.square(self.samples, dtype=np.float64))) if len(self.samples) else 0.0
        return min(0.0, max(-200.0, 10.0 * math.log10(power + 1e-20)))


@dataclass(frozen=True, slots=True)
class Tokens:
    """Features of one image or one sound.

    values: (n, dim) float.
    grid: their layout, (rows, columns) of the image or (frequency bands, time steps) of the sound, row-major, product n.
    times: (columns,) where in the window the steps of a sound lie, 0 its start and 1 its end; None: evenly one after the other.
    """

    values: Tensor
    grid: tuple[int, int]
    times: Tensor | None = None

    def __post_init__(self) -> None:
        check_tensor("Tokens.values", self.values, 2)
        if len(self.grid) != 2 or math.prod(self.grid) != self.values.shape[0]:
            raise ShapeError(f"Tokens.grid: wanted two sizes with product {self.values.shape[0]}, got {self.grid}")
        if self.times is not None and tuple(self.times.shape) != self.grid[1:]:
            raise ShapeError(f"Tokens.times: wanted {self.grid[1]} numbers, got {format_shape(self.times)}")

    def on_grid(self, per_token: Tensor) -> Tensor:
        """(n, ...) values of the tokens as (rows, columns, ...)."""
        return per_token.reshape(*self.grid, *per_token.shape[1:])


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What one pass of the image encoder gives.

    tokens: visual tokens.
    pyramid: named feature maps, each (1, C, h, w), finest first.
    padded_size: (height, width) of the network input.
    size: the same without padding.
    """

    tokens: Tokens
    pyramid: Mapping[str, Tensor]
    padded_size: tuple[int, int]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Kinds:
    """Kinds by which an encoder knows the words ("dog" by its breeds).

    vectors: (L, C), one a kind.
    words: (L,) long, the word of each kind.
    """

    vectors: Tensor
    words: Tensor

    def __post_init__(self) -> None:
        check_tensor("Kinds.vectors", self.vectors, 2)
        if self.words.shape != self.vectors.shape[:1] or self.words.is_floating_point():
            raise ShapeError(
                f"Kinds.words: wanted {len(self.vectors)} whole numbers, got {format_shape(self.words)} {self.words.dtype}"
            )


@dataclass(frozen=True, slots=True)
class Anchors:
    """The word bank in both spaces (paper section 3.3, semantic anchors).

    words: M words.
    visual: (M, C_v).
    audio: (M, D_a).
    audio_projection: maps audio components (..., C_a) to (..., D_a) before they are compared; None: the identity.
    audio_logit_scale: factor on the audio cosines (exp of CLAP's logit scale).
    visual_logit_scale: the same for the image (exp of CLIP's); None where products with the visual rows are logits themselves.
    visual_others: (L, C_v) vectors of objects that are not in the bank, which a factor may show instead.
    audio_others: (L', D_a) the same for the sound; the last one is "nothing that has a name", but with ``sounds_compete``.
    visual_kinds: where a word has several vectors of its own; ``visual`` is then their mean.
    sounds_compete: one softmax over all rows says what sounds (CLAP); else each row's log-odds against the last of the others.
    """

    words: tuple[str, ...]
    visual: Tensor
    audio: Tensor
    audio_projection: Callable[[Tensor], Tensor] | None = None
    audio_logit_scale: float = 1.0
    visual_logit_scale: float | None = None
    visual_others: Tensor | None = None
    audio_others: Tensor | None = None
    visual_kinds: Kinds | None = None
    sounds_compete: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", tuple(self.words))
        check_tensor("Anchors.visual", self.visual, 2)
        check_tensor("Anchors.audio", self.audio, 2)
        sizes = (len(self.words), self.visual.shape[0], self.audio.shape[0])
        if len(set(sizes)) != 1:
            raise ShapeError(f"Anchors: wanted as many words as visual and audio rows, got {sizes}")
        for name in ("visual_others", "audio_others"):
            if getattr(self, name) is not None:
                check_tensor(f"Anchors.{name}", getattr(self, name), 2)
        if not self.words:
            raise ValueRangeError("Anchors.words: wanted at least one word, got an empty word bank")
        if not (math.isfinite(self.audio_logit_scale) and self.audio_logit_scale > 0):
            raise ValueRangeError(f"Anchors.audio_logit_scale: wanted a positive number, got {self.audio_logit_scale}")


@dataclass(frozen=True, slots=True)
class Factorization:
    """Result of one co-factorization (paper Eq. 6).

    visual_activations: U_v (N, K) in [0, 1].
    visual_factors: V_v (K, C_v) >= 0.
    audio_activations: U_a (T, K) in [0, 1].
    audio_factors: V_a (K, C_a) >= 0.
    sounding: index k* of the sounding factor, -1 where there is none.
    losses: the terms at the end.
    iterations: steps or sweeps done.
    restart: why the warm start was dropped ("" warm; "cold", "cut", "sound", "silence", "blank", "shape").
    clamped: how many negative token values were set to 0.
    memory: what a stream's next solve needs beside U and V; opaque to callers.
    """

    visual_activations: Tensor
    visual_factors: Tensor
    audio_activations: Tensor
    audio_factors: Tensor
    sounding: int
    losses: Mapping[str, float] = field(default_factory=dict)
    iterations: int = 0
    restart: str = "cold"
    clamped: int = 0
    memory: object = None

    def __post_init__(self) -> None:
        for name in ("visual_activations", "visual_factors", "audio_activations", "audio_factors"):
            check_tensor(f"Factorization.{name}", getattr(self, name), 2)
        k = self.visual_factors.shape[0]
        counts = (self.visual_activations.shape[1], k, self.audio_activations.shape[1], self.audio_factors.shape[0])
        if len(set(counts)) != 1:
            raise ShapeError(f"Factorization: wanted one factor count, got U_v, V_v, U_a, V_a with {counts}")
        if not -1 <= self.sounding < k:
            raise ValueRangeError(f"Factorization.sounding: wanted -1 to {k - 1}, got {self.sounding}")


WordScore = tuple[str, float]


@dataclass(frozen=True, slots=True)
class Concept:
    """What a factor means in words.

    factor: its index.
    labels: words with scores in [0, 1], best first, never empty.
    score: in [0, 1], how likely it both sounds and is in view.
    prompt: (C_v,) vector in the visual token space that a segmenter looks for.
    heard: (M,) in [0, 1], probability of each word of the bank in the sound.
    """

    factor: int
    labels: tuple[WordScore, ...]
    score: float
    prompt: Tensor
    heard: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.labels:
            raise ValueRangeError("Concept.labels: wanted at least one word, got none")
        if not 0.0 <= self.score <= 1.0:
            raise ValueRangeError(f"Concept.score: wanted 0 to 1, got {self.score}")
        check_tensor("Concept.prompt", self.prompt, 1)

    @property
    def label(self) -> str:
        """The best word."""
        return self.labels[0][0]


@dataclass(frozen=True, slots=True)
class SoundingObject:
    """One outlined, named sound source.

    id: stable over frames where a tracker ran, else the 1-based index in its scene. followed: by a segmenter's tracker, else 0.
    labels: words with scores in [0, 1], best first.
    score: in [0, 1].
    mask: (H, W) bool at image size; empty where the object is known to be there but no outline was found.
    box: (x, y, width, height) px of the mask or, without one, of the place.
    sound_map: (bands, time steps) float32 in [0, 1], where in the window's sound its factor is; None where it is not known.
    """

    id: int
    labels: tuple[WordScore, ...]
    score: float
    mask: np.ndarray
    box: tuple[int, int, int, int]
    sound_map: np.ndarray | None = None
    followed: int = 0

    def __post_init__(self) -> None:
        check_array("SoundingObject.mask", self.mask, 2, np.bool_)
        if not self.labels:
            raise ValueRangeError("SoundingObject.labels: wanted at least one word, got none")
        if not 0.0 <= self.score <= 1.0:
            raise ValueRangeError(f"SoundingObject.score: wanted 0 to 1, got {self.score}")
        x, y, w, h = self.box
        rows, columns = self.mask.shape
        if not (x >= 0 and y >= 0 and w >= 1 and h >= 1 and x + w <= columns and y + h <= rows):
            raise ShapeError(f"SoundingObject.box: wanted a box inside {columns} x {rows} px, got {self.box}")

    @classmethod
    def from_mask(cls, mask: np.ndarray, labels: Iterable[WordScore], score: float, id: int = 1) -> SoundingObject | None:
        """An object with the tight box of ``mask``; None where the mask is empty."""
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(ys):
            return None
        box = (int(xs[0]), int(ys[0]), int(xs[-1] - xs[0] + 1), int(ys[-1] - ys[0] + 1))
        return cls(id, tuple(labels), float(score), mask, box)

    @classmethod
    def from_box(
        cls, box: tuple[int, int, int, int], size: tuple[int, int], labels: Iterable[WordScore], score: float, id: int = 1
    ) -> SoundingObject:
        """An object without an outline: an empty mask of ``size`` (height, width), and the box (x, y, width, height)."""
        x, y, width, height = map(int, box)
        return cls(id, tuple(labels), float(score), np.zeros(size, bool), (x, y, width, height))

    @property
    def label(self) -> str:
        """The best word."""
        return self.labels[0][0]

    @property
    def centre(self) -> tuple[float, float]:
        """(x, y) px: centroid of the mask, or the middle of the box where the mask is empty."""
        (ys, xs), (x, y, w, h) = np.nonzero(self.mask), self.box
        return (float(xs.mean()), float(ys.mean())) if len(ys) else (x + (w - 1) / 2, y + (h - 1) / 2)


# sounding; silent: below the level gate; unknown: heard, but no word of the bank fits it; not_in_view: a word of the
# bank is heard, nothing in view fits; no_mask: heard and seen, but no outline was found (an object has an empty mask).
VERDICTS = ("sounding", "silent", "unknown", "not_in_view", "no_mask")


@dataclass(frozen=True, slots=True)
class SoundingScene:
    """Everything found in one frame. No objects means nothing visible is heard.

    stamp_ns: the image's stamp.
    size: (height, width) px.
    window_start_ns, window_end_ns: the sound used.
    level_dbfs: its level in [-200, 0].
    sounding_score: in [0, 1], how likely something in view sounds.
    verdict: one of ``VERDICTS``.
    objects: what sounds and is in view.
    confidence: (H, W) float32 in [0, 1].
    sound_map: (frequency, time) float32 in [0, 1], activation of the sounding factor on the sound.
    stage_ms: milliseconds by stage; of a sound that is encoded beside the image, what the frame still waited for it.
    factorization: for explanations; None when silent.
    heard: words with probabilities in [0, 1] of what sounds in the window, best first, in view or not, in the bank or not.
    concepts: for explanations; () when silent. A concept is named by ``min_score`` and gives one object or, with
        ``segmentation.instances`` apart, several.
    """

    stamp_ns: int
    size: tuple[int, int]
    window_start_ns: int
    window_end_ns: int
    level_dbfs: float
    sounding_score: float
    verdict: str
    objects: tuple[SoundingObject, ...] = ()
    confidence: np.ndarray | None = None
    sound_map: np.ndarray | None = None
    stage_ms: Mapping[str, float] = field(default_factory=dict)
    factorization: Factorization | None = None
    heard: tuple[WordScore, ...] = ()
    concepts: tuple[Concept, ...] = ()

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueRangeError(f"SoundingScene.verdict: wanted {', '.join(VERDICTS)}, got {shown(self.verdict)}")
        object.__setattr__(self, "heard", tuple((word, float(p)) for word, p in self.heard))
        chances = [p if word and 0.0 <= p <= 1.0 else math.nan for word, p in self.heard]
        if any(map(math.isnan, chances)) or chances != sorted(chances, reverse=True):
            raise ValueRangeError(f"SoundingScene.heard: wanted words with probabilities of 0 to 1, best first, got {self.heard}")
        if not 0.0 <= self.sounding_score <= 1.0:
            raise ValueRangeError(f"SoundingScene.sounding_score: wanted 0 to 1, got {self.sounding_score}")
        for found in self.objects:
            if found.mask.shape != tuple(self.size):
                raise ShapeError(f"SoundingScene.objects: wanted masks of {self.size}, got {found.mask.shape}")

    def instance_mask(self) -> np.ndarray:
        """(H, W) uint8: 0 background, i + 1 for the i-th object; the better score wins where two overlap."""
        out = np.zeros(self.size, np.uint8)
        for index in sorted(range(len(self.objects)), key=lambda i: self.objects[i].score):
            out[self.objects[index].mask] = min(index + 1, 255)
        return out
