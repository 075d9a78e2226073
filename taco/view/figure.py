"""One figure of a frame's factors in image and sound (paper Figures 3 to 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor

from taco.audio import mel_bank
from taco.concepts import word_probabilities
from taco.factorization.temporal import mean_of_rounds
from taco.palette import COLOURS
from taco.pipeline import TacoPipeline
from taco.types import AudioWindow, SoundingScene, VideoFrame, WordScore
from taco.view import draw

WORDS = 10
TILE = 400  # px, width of a panel
GAP = 12
MEL_BANDS = 96


@dataclass(frozen=True, slots=True)
class FactorView:
    """One factor.

    visual: (rows, columns) float32 activations in [0, 1].
    audio: (bands, time) float32 activations in [0, 1].
    seen_words: nearest words by the cosine of V_v and A_v.
    heard_words: most probable words of its sound component (softmax, section 3.3).
    penalty: cross-entropy of the two descriptors; the sounding factor has the least under the paper's rule.
    """

    visual: np.ndarray
    audio: np.ndarray
    seen_words: tuple[WordScore, ...]
    heard_words: tuple[WordScore, ...]
    penalty: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything the figure shows.

    factors: empty in silence.
    named: index of the factor that gave the word, -1 for none.
    """

    frame: VideoFrame
    window: AudioWindow
    scene: SoundingScene
    factors: tuple[FactorView, ...]
    sounding: int
    named: int


@torch.inference_mode()
def explain(pipeline: TacoPipeline, frame: VideoFrame, window: AudioWindow) -> Explanation:
    """Run the pipeline on a frame and take its factors apart."""
    encodings = pipeline.encodings()
    scene = pipeline.process(frame, window, encodings)
    found = scene.factorization
    if found is None:
        return Explanation(frame, window, scene, (), -1, -1)
    visual, audio, anchors = encodings.image(frame).tokens, encodings.sound(window), pipeline.anchors
    components_v = found.visual_activations.T @ visual.values.clamp_min(0) / len(visual.values)
    components_a = found.audio_activations.T @ audio.values.clamp_min(0) / len(audio.values)
    cosines = F.normalize(found.visual_factors, dim=-1) @ F.normalize(anchors.visual, dim=-1).T
    probable = word_probabilities(components_a, anchors)
    descriptors = F.normalize(components_v, dim=-1) @ F.normalize(anchors.visual, dim=-1).T
    penalties = F.cross_entropy(descriptors, probable, reduction="none")
    maps_v = visual.on_grid(found.visual_activations)
    factors = tuple(
        FactorView(
            maps_v[..., k].float().cpu().numpy(),
            mean_of_rounds(audio.on_grid(found.audio_activations[:, k]), audio.times).float().cpu().numpy(),
            _best(anchors.words, cosines[k]),
            _best(anchors.words, probable[k]),
            float(penalties[k]),
        )
        for k in range(len(cosines))
    )
    named = scene.concepts[0].factor if scene.concepts else -1
    return Explanation(frame, window, scene, factors, found.sounding, named)


def figure(explanation: Explanation, title: str = "") -> np.ndarray:
    """The figure as (H, W, 3) uint8."""
    scene, rgb = explanation.scene, explanation.frame.rgb
    tall = max(120, min(TILE * 2, round(TILE * rgb.shape[0] / rgb.shape[1])))
    spectrogram_tall = 240
    summary = f"{draw.sentence(scene)}, score {scene.sounding_score:.2f}, {scene.level_dbfs:.0f} dBFS"
    if scene.objects:
        summary = f"{', '.join(item.label for item in scene.objects)}: " + summary
    chosen = explanation.named if explanation.named >= 0 else explanation.sounding
    view = explanation.factors[chosen] if chosen >= 0 else None
    first = [("image", rgb, "")]
    if view is not None:
        note = f"factor {chosen}" + ("" if chosen == explanation.sounding else f" (k* is {explanation.sounding})")
        first.append((f"U, image: {note}", draw.heat(rgb, view.visual), ""))
    else:
        first.append(("U, image", rgb // 2, "nothing to factorize" if not explanation.factors else "no sounding factor"))
    first.append(("outlined", draw.overlay(rgb, scene, strip=False), "" if scene.objects else draw.VERDICT_WORDS[scene.verdict]))
    second = [("sound, and U on it" if view is not None else "sound", sound_picture(explanation.window, view), "")]
    if view is not None:
        second.append(("nearest words, image (cosine of V)", bars(view.seen_words, TILE, spectrogram_tall), ""))
        second.append(("nearest words, sound (probability)", bars(view.heard_words, TILE, spectrogram_tall), ""))
    rows = [_row(first, tall), _row(second, spectrogram_tall)]
    if explanation.factors:
        rows.append(_factor_row(explanation, rgb, chosen))
    width = 3 * TILE + 4 * GAP
    head = 64
    sheet = Image.new("RGB", (width, head + sum(row.shape[0] for row in rows)), draw.DARK)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, 8), title or "why", font=draw.font(20), fill=draw.LIGHT)
    pen.text((GAP, 36), summary, font=draw.font(16), fill=draw.VERDICT_COLOURS[scene.verdict])
    y = head
    for row in rows:
        sheet.paste(Image.fromarray(row), (0, y))
        y += row.shape[0]
    return np.asarray(sheet)


def spectrogram(window: AudioWindow) -> np.ndarray:
    """(MEL_BANDS, time) float32 in [0, 1]: mel power over 70 dB below its loudest, high bands first; 0 for silence."""
    samples, rate = window.samples, window.sample_rate
    size, hop = max(64, rate // 40), max(16, rate // 200)
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    slices = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]
    fine = 4 * size  # so that the narrow low bands hold bins too
    power = np.abs(np.fft.rfft(slices * np.hanning(size), fine, axis=1)) ** 2
    mel = mel_bank(rate, fine, MEL_BANDS, 40, min(rate / 2, 16_000)) @ power.T
    decibel = 10 * np.log10(mel + 1e-10)
    top = max(decibel.max(), -60.0)
    scaled: np.ndarray = np.clip((decibel - top + 70) / 70, 0, 1)
    return scaled[::-1].astype(np.float32)


def sound_picture(window: AudioWindow, view: FactorView | None, size: tuple[int, int] = (TILE, 240)) -> np.ndarray:
    """(H, W, 3) uint8: the spectrogram in grey, tinted where the factor is active, and its course in time below."""
    width, height = size
    strip = 26
    grey = (spectrogram(window) * 255).astype(np.uint8)
    picture = cv2.cvtColor(cv2.resize(grey, (width, height - strip), interpolation=cv2.INTER_AREA), cv2.COLOR_GRAY2RGB)
    if view is None:
        return cv2.resize(picture, size, interpolation=cv2.INTER_LINEAR)
    active = cv2.resize(view.audio[::-1].astype(np.float32), (width, height - strip), interpolation=cv2.INTER_LINEAR)
    tint = np.array(COLOURS[0]) / 255
    weight = np.clip(active, 0, 1)[..., None]
    picture = (picture * (1 - weight) * 0.75 + picture * tint * weight).round().astype(np.uint8)
    out = np.full((height, width, 3), draw.DARK, np.uint8)
    out[: height - strip] = picture
    course = cv2.resize(view.audio.mean(0, keepdims=True).astype(np.float32), (width, 1), interpolation=cv2.INTER_LINEAR)[0]
    rows = np.arange(strip)[::-1, None] < np.clip(course, 0, 1)[None] * (strip - 2)
    out[height - strip :][rows] = COLOURS[0]
    return out


def bars(words: tuple[WordScore, ...], width: int, height: int) -> np.ndarray:
    """(height, width, 3) uint8: a bar a word, the longest the best."""
    picture = Image.new("RGB", (width, height), (32, 35, 42))
    pen = ImageDraw.Draw(picture)
    step = height / max(1, len(words))
    scores = [score for _, score in words]
    low, high = min(0.0, min(scores, default=0.0)), max(1e-9, max(scores, default=1.0))
    letters = draw.font(max(9, min(15, int(step * 0.7))))
    for index, (word, score) in enumerate(words):
        y, length = index * step, (score - low) / (high - low) * (width - 8)
        pen.rectangle((4, y + 1, 4 + length, y + step - 2), fill=(58, 92, 130) if index else (72, 150, 96))
        pen.text((10, y + step / 2), word, font=letters, fill=draw.LIGHT, anchor="lm")
        pen.text((width - 8, y + step / 2), f"{score:.3f}", font=letters, fill=draw.LIGHT, anchor="rm")
    return np.asarray(picture)


def _row(panels: Sequence[tuple[str, np.ndarray, str]], tall: int) -> np.ndarray:
    """Panels of one row with a heading each; a note is written over the picture."""
    row = Image.new("RGB", (3 * TILE + 4 * GAP, tall + 36), draw.DARK)
    pen = ImageDraw.Draw(row)
    for index, (heading, picture, note) in enumerate(panels):
        x = GAP + index * (TILE + GAP)
        pen.text((x, 4), heading, font=draw.font(14), fill=draw.LIGHT)
        tile = draw.fitted(picture, TILE, tall)
        row.paste(Image.fromarray(tile), (x + (TILE - tile.shape[1]) // 2, 24))
        if note:
            pen.text(
                (x + TILE / 2, 24 + tall / 2),
                note,
                font=draw.font(16),
                fill=draw.LIGHT,
                anchor="mm",
                stroke_width=2,
                stroke_fill=0,
            )
    return np.asarray(row)


def _factor_row(explanation: Explanation, rgb: np.ndarray, chosen: int) -> np.ndarray:
    """All factors in small, in order; the one that is shown above carries a frame."""
    width, count = 3 * TILE + 4 * GAP, len(explanation.factors)
    columns = min(8, count)
    tile = (width - GAP) // columns - GAP
    tall = max(40, round(tile * min(1.2, rgb.shape[0] / rgb.shape[1])))
    cell, lines = tall + 58, -(-count // columns)
    row = Image.new("RGB", (width, 24 + lines * cell), draw.DARK)
    pen = ImageDraw.Draw(row)
    heading = "all factors: activation, nearest word of the image, of the sound, penalty"
    pen.text((GAP, 4), heading, font=draw.font(14), fill=draw.LIGHT)
    small = draw.fitted(rgb, tile, tall)
    for k, view in enumerate(explanation.factors):
        x, y = GAP + (k % columns) * (tile + GAP), 24 + (k // columns) * cell
        row.paste(Image.fromarray(draw.heat(small, view.visual, 0.75)), (x, y))
        if k == chosen:
            pen.rectangle((x - 3, y - 3, x + small.shape[1] + 2, y + small.shape[0] + 2), outline=COLOURS[0], width=3)
        for line, text in enumerate((view.seen_words[0][0], view.heard_words[0][0], f"{view.penalty:.3f}")):
            pen.text((x, y + tall + 4 + 17 * line), text[: tile // 7], font=draw.font(13), fill=draw.LIGHT)
    return np.asarray(row)


def _best(words: Sequence[str], scores: Tensor) -> tuple[WordScore, ...]:
    best = scores.topk(min(WORDS, len(scores)))
    return tuple((words[int(index)], float(value)) for value, index in zip(*best))
