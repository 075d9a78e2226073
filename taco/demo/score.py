"""The demo's scores and report: mask centres, rivals, words, tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from taco.clock import NS
from taco.demo import show
from taco.demo.show import FrameTruth
from taco.demo.stored import Recorded, RecordedAnswer, RecordedObject
from taco.types import SoundingScene
from taco.view import draw

Scores = dict[str, float | None]  # None where there was no such frame
Answers = Sequence[tuple[FrameTruth, RecordedAnswer]]

SCENE_COLUMNS = {
    "on_sounding": "on sounding",
    "on_silent": "on silent",
    "also_silent": "a silent one too",
    "silence_empty": "empty, silence",
    "offscreen_empty": "empty, out of view",
    "heard_first": "heard first",
    "heard_of_three": "of three",
}
METHOD_COLUMNS = {"on_sounding": "on sounding", "on_silent": "on silent", "iou": "IoU"}


def middle(mask: np.ndarray) -> tuple[int, int]:
    """(row, column) of the mask's most inner pixel, the one farthest from its edge: inside even for a ring."""
    inner = cv2.distanceTransform(np.pad(mask.astype(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    row, column = np.unravel_index(int(inner.argmax()), inner.shape)
    return int(row), int(column)


def hits(mask: np.ndarray | None, moment: FrameTruth) -> str:
    """Where the middle of a mask lies: "sounding", "silent" (another object), "background" or "none" (no mask)."""
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


def seen_enough(moment: FrameTruth) -> bool:
    """Is the sounding object at least half in view? A sliver at the edge has no fair answer."""
    which = moment.sounding
    return which >= 0 and bool(moment.masks[which].sum() >= 0.5 * moment.full_areas[which])


def summary_of_masks(answers: Sequence[tuple[FrameTruth, np.ndarray | None]]) -> Scores:
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


def also_silent(answers: Sequence[tuple[FrameTruth, Sequence[np.ndarray]]]) -> Scores:
    """also_silent: share of (moment, all masks) in which one object in view sounds and any mask's middle lies on a silent one."""
    placed = [(moment, masks) for moment, masks in answers if moment.settled and seen_enough(moment)]
    return {"also_silent": share([any(hits(mask, moment) == "silent" for mask in masks) for moment, masks in placed])}


def naming_shares(answers: Sequence[tuple[FrameTruth, Sequence[str]]]) -> Scores:
    """Shares over (moment, recognised words, best first) pairs in which one source sounds, settled; None without such a frame.

    heard_first: its word is the first. heard_of_three: it is one of the first three. Upper and lower case are the same.
    """
    named = [
        (moment.heard.lower(), [word.lower() for word in words]) for moment, words in answers if moment.settled and moment.heard
    ]
    return {
        "heard_first": share([words[:1] == [word] for word, words in named]),
        "heard_of_three": share([word in words[:3] for word, words in named]),
    }


def share(values: Sequence[float]) -> float | None:
    """Share of true values, or the mean of numbers; None for an empty list."""
    return round(float(np.mean(values)), 4) if values else None


# --- report


def mask_of(result: RecordedAnswer | None) -> np.ndarray | None:
    """(H, W) bool of the best object, None where there is none."""
    if not result or not result["objects"]:
        return None
    return whole_mask(result["objects"][0])


def whole_mask(item: RecordedObject) -> np.ndarray:
    """(H, W) bool of a recorded object."""
    x, y, w, h = item["box"]
    mask = np.zeros(show.SIZE, bool)
    mask[y : y + h, x : x + w] = np.unpackbits(item["mask"], count=w * h).reshape(h, w).astype(bool)
    return mask


def truth_of(moment: FrameTruth) -> str:
    """What sounds, as text; it is said where the window of sound also holds what was before."""
    where = {-1: "silence", -2: f"{moment.heard} out of view"}
    now = where.get(moment.sounding, f"{moment.heard} sounds")
    return now if moment.settled else f"{now}, and in the window what was before"


def caption(moment: FrameTruth, scene: SoundingScene) -> tuple[str, str, str]:
    """Three lines below a frame: the truth, what is recognised, what is outlined."""
    return f"truth: {truth_of(moment)}", f"heard: {heard_of(scene)}", found_in(scene)


def heard_of(scene: SoundingScene) -> str:
    """The three likeliest words of the sound, as text."""
    return ", ".join(f"{word} {probability:.2f}" for word, probability in scene.heard[:3]) or "nothing"


def found_in(scene: SoundingScene) -> str:
    """What is outlined, or why nothing is, as text."""
    parts = []
    for head, outlined in (("outlined", True), ("without an outline", False)):
        found = [f"{item.label} {item.score:.2f}" for item in scene.objects if bool(item.mask.any()) is outlined]
        parts += [f"{head}: {', '.join(found)}"] if found else []
    return "; ".join(parts) or draw.VERDICT_WORDS[scene.verdict]


def frame_rows(done: Answers, names: Sequence[str]) -> list[dict[str, Any]]:
    """Each answer for the report: when, the truth, the verdict, what is recognised and what is outlined."""
    return [
        {
            "seconds": round(moment.stamp_ns / NS, 2),
            "scene": names[moment.scene],
            "truth": truth_of(moment),
            "verdict": result["verdict"],
            "heard": {word: round(probability, 3) for word, probability in result["heard"]},
            "found": [(item["labels"][0][0], round(item["score"], 3)) for item in result["objects"]],
        }
        for moment, result in done
    ]


def scores_of(done: Answers) -> Scores:
    """Where the masks lay and what was recognised, over (moment, result) pairs."""
    every = [(moment, [whole_mask(item) for item in result["objects"]]) for moment, result in done]
    words = [(moment, [word for word, _ in result["heard"]]) for moment, result in done]
    best = summary_of_masks([(moment, mask_of(result)) for moment, result in done])
    return best | also_silent(every) | naming_shares(words)


def by_scene(done: Answers, names: Sequence[str]) -> dict[str, Scores]:
    """The scores of each scene."""
    return {name: scores_of([pair for pair in done if pair[0].scene == index]) for index, name in enumerate(names)}


def report(
    recorded: Recorded,
    published: int,
    done: Answers,
    names: Sequence[str],
    sound_model: str,
    others: Mapping[str, Scores],
) -> dict[str, Any]:
    """All of the demo's results. done: (moment, result) of the answered frames; others: scores of the rivals."""
    ages = [result["age_ms"] for result in recorded["results"]]
    span = (max(recorded["images"]) - min(recorded["images"])) / NS
    return {
        "models": f"embedded ({sound_model}): small stand-ins for the paper's models, closed vocabulary",
        "images_published": published,
        "images_received": len(recorded["images"]),
        "images_answered": len(recorded["results"]),
        "frames_per_second": round(len(recorded["results"]) / max(span, 1e-9), 2),
        "age_ms": {f"p{share}": round(float(np.percentile(ages, share)), 1) for share in (50, 95)} if ages else None,
        "taco": scores_of(done),
        **others,
        "scenes": by_scene(done, names),
        "frames": frame_rows(done, names),
    }


def summary_text(report: Mapping[str, Any], rivals: Iterable[str]) -> str:
    """The report as text: a table of the scenes, one of the methods, and the last line."""
    methods = methods_of(report, rivals)
    return "\n".join((table(report["scenes"], SCENE_COLUMNS), table(methods, METHOD_COLUMNS), last_line(report)))


def methods_of(report: Mapping[str, Any], rivals: Iterable[str]) -> dict[str, Scores]:
    """The scores of the live node and of its rivals, by name."""
    return {"TACO, live": report["taco"]} | {name: report[name] for name in rivals}


def last_line(report: Mapping[str, Any]) -> str:
    """The report in a sentence."""
    ours, age = report["taco"], report["age_ms"]
    return (
        f"{len(report['scenes'])} scenes: mask centre on the sounding object {percent(ours['on_sounding'])}, on a silent one "
        f"{percent(ours['on_silent'])}, nothing outlined in silence {percent(ours['silence_empty'])} and for sounds out of view "
        f"{percent(ours['offscreen_empty'])}, the right word heard first {percent(ours['heard_first'])}, "
        f"{report['frames_per_second']:.1f} frames/s, age p50 {age['p50']:.0f} ms, p95 {age['p95']:.0f} ms"
    )


def percent(share: float | None) -> str:
    """A share as text."""
    return "-" if share is None else f"{100 * share:.0f} %"


def table(rows: Mapping[str, Scores], columns: Mapping[str, str]) -> str:
    """Scores side by side, a line a row; columns: heads by key."""
    width = max(map(len, rows)) + 2
    lines = [f"{'':<{width}}" + "".join(f"{head:>{len(head) + 2}}" for head in columns.values())]
    for name, row in rows.items():
        lines.append(f"{name:<{width}}" + "".join(f"{percent(row[key]):>{len(head) + 2}}" for key, head in columns.items()))
    return "\n".join(lines)
