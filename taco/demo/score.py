"""Scores of the demo: where the middle of each mask lay, beside rivals on the same frames, and what was heard."""

from __future__ import annotations

import cv2
import numpy as np


def middle(mask: np.ndarray) -> tuple[int, int]:
    """(row, column) of the mask's most inner pixel, the one farthest from its edge: inside even for a ring."""
    inner = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    return np.unravel_index(int(inner.argmax()), inner.shape)


def hits(mask: np.ndarray | None, moment) -> str:
    """Where the middle of a mask lies: "sounding", "silent" (another thing), "background" or "none" (no mask)."""
    if mask is None or not mask.any():
        return "none"
    row, column = middle(mask)
    for index, truth in enumerate(moment.masks):
        if truth[row, column]:
            return "sounding" if index == moment.sounding else "silent"
    return "background"


def iou(mask: np.ndarray | None, truth: np.ndarray) -> float:
    """Intersection over union of two masks, in [0, 1]."""
    if mask is None:
        return 0.0
    return float((mask & truth).sum() / max(1, (mask | truth).sum()))


def seen_enough(moment) -> bool:
    """Is the sounding thing at least half in view? A sliver at the edge has no fair answer."""
    return moment.sounding >= 0 and moment.masks[moment.sounding].sum() >= 0.5 * moment.full_areas[moment.sounding]


def summary(answers: list[tuple[object, np.ndarray | None]]) -> dict:
    """Shares over (moment, mask) pairs, in [0, 1]; None where there was no such frame.

    on_sounding, on_silent, iou: frames with one settled source at least half in view.
    silence_empty: frames of settled silence without a mask. offscreen_empty: the same where the source is out of view.
    """
    placed = [(moment, mask) for moment, mask in answers if moment.settled and seen_enough(moment)]
    where = [hits(mask, moment) for moment, mask in placed]
    silent = [mask is None for moment, mask in answers if moment.settled and moment.sounding == -1]
    absent = [mask is None for moment, mask in answers if moment.settled and moment.sounding == -2]

    return {
        "frames": len(placed),
        "on_sounding": share([place == "sounding" for place in where]),
        "on_silent": share([place == "silent" for place in where]),
        "iou": share([iou(mask, moment.masks[moment.sounding]) for moment, mask in placed]),
        "silence_empty": share(silent),
        "offscreen_empty": share(absent),
    }


def also_silent(answers: list[tuple[object, list[np.ndarray]]]) -> dict:
    """also_silent: share of (moment, all masks) in which one thing in view sounds and any mask's middle lies on a silent one."""
    placed = [(moment, masks) for moment, masks in answers if moment.settled and seen_enough(moment)]
    return {"also_silent": share([any(hits(mask, moment) == "silent" for mask in masks) for moment, masks in placed])}


def heard(answers: list[tuple[object, list[str]]]) -> dict:
    """Shares over (moment, words heard, best first) pairs in which one source sounds, settled; None without such a frame.

    heard_first: its word is the first. heard_of_three: it is one of the first three. Upper and lower case are the same.
    """
    told = [
        (moment.heard.lower(), [word.lower() for word in words]) for moment, words in answers if moment.settled and moment.heard
    ]
    return {
        "heard_first": share([words[:1] == [word] for word, words in told]),
        "heard_of_three": share([word in words[:3] for word, words in told]),
    }


def share(values: list[bool]) -> float | None:
    """Of what is true (or of numbers, their mean); None for nothing."""
    return round(float(np.mean(values)), 4) if values else None
