"""The demo's report: what was heard and found in words, and the tables that it ends with."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from taco.demo import score, show
from taco.types import SoundingScene
from taco.view import draw

NS = show.NS
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


def mask_of(result: dict | None) -> np.ndarray | None:
    """(H, W) bool of the best object, None where there is none."""
    if not result or not result["objects"]:
        return None
    return whole_mask(result["objects"][0])


def whole_mask(thing: dict) -> np.ndarray:
    """(H, W) bool of a recorded object."""
    x, y, w, h = thing["box"]
    mask = np.zeros(show.SIZE, bool)
    mask[y : y + h, x : x + w] = np.unpackbits(thing["mask"], count=w * h).reshape(h, w).astype(bool)
    return mask


def truth_of(moment) -> str:
    """What sounds, for people."""
    where = {-1: "silence", -2: f"{moment.heard} out of view"}
    return where.get(moment.sounding, f"{moment.heard} sounds")


def caption(moment, scene: SoundingScene) -> tuple[str, str, str]:
    """Three lines below a frame: the truth, what is heard, what is outlined."""
    return f"truth: {truth_of(moment)}", f"heard: {heard_of(scene)}", found_in(scene)


def heard_of(scene: SoundingScene) -> str:
    """The three words heard best, for people."""
    return ", ".join(f"{word} {probability:.2f}" for word, probability in scene.heard[:3]) or "nothing"


def found_in(scene: SoundingScene) -> str:
    """What is outlined, for people, or why nothing is."""
    told = []
    for head, outlined in (("outlined", True), ("without an outline", False)):
        found = [f"{thing.label} {thing.score:.2f}" for thing in scene.objects if bool(thing.mask.any()) is outlined]
        told += [f"{head}: {', '.join(found)}"] if found else []
    return "; ".join(told) or draw.VERDICT_WORDS[scene.verdict]


def frames_told(done: list[tuple], names: list[str]) -> list[dict]:
    """Each answer for the report: when, the truth, the verdict, what is heard and what is outlined."""
    return [
        {
            "seconds": round(moment.stamp_ns / NS, 2),
            "scene": names[moment.scene],
            "truth": truth_of(moment),
            "verdict": result["verdict"],
            "heard": {word: round(probability, 3) for word, probability in result["heard"]},
            "found": [(thing["labels"][0][0], round(thing["score"], 3)) for thing in result["objects"]],
        }
        for moment, result in done
    ]


def scores_of(done: list[tuple]) -> dict:
    """Where the masks lay and what was heard, over (moment, result) pairs."""
    every = [(moment, [whole_mask(thing) for thing in result["objects"]]) for moment, result in done]
    words = [(moment, [word for word, _ in result["heard"]]) for moment, result in done]
    best = score.summary([(moment, mask_of(result)) for moment, result in done])
    return best | score.also_silent(every) | score.heard(words)


def by_scene(done: list[tuple], names: list[str]) -> dict[str, dict]:
    """The scores of each scene."""
    return {name: scores_of([pair for pair in done if pair[0].scene == index]) for index, name in enumerate(names)}


def report(recorded: dict, published: int, done: list[tuple], names: list[str], ear: str, others: dict[str, dict]) -> dict:
    """All of the demo's results. done: (moment, result) of the answered frames; others: scores of the rivals."""
    ages = [result["age_ms"] for result in recorded["results"]]
    span = (max(recorded["images"]) - min(recorded["images"])) / NS
    return {
        "models": f"embedded ({ear}): small stand-ins for the paper's models, closed vocabulary",
        "images_published": published,
        "images_received": len(recorded["images"]),
        "images_answered": len(recorded["results"]),
        "frames_per_second": round(len(recorded["results"]) / max(span, 1e-9), 2),
        "age_ms": {f"p{share}": round(float(np.percentile(ages, share)), 1) for share in (50, 95)} if ages else None,
        "taco": scores_of(done),
        **others,
        "scenes": by_scene(done, names),
        "frames": frames_told(done, names),
    }


def summary(report: dict, rivals: Iterable[str]) -> str:
    """The report for people: a table of the scenes, one of the methods, and the last line."""
    ours, age = report["taco"], report["age_ms"]
    methods = {"TACO, live": ours} | {name: report[name] for name in rivals}
    last = (
        f"{len(report['scenes'])} scenes: mask centre on the sounding thing {percent(ours['on_sounding'])}, on a silent one "
        f"{percent(ours['on_silent'])}, nothing outlined in silence {percent(ours['silence_empty'])} and for sounds out of view "
        f"{percent(ours['offscreen_empty'])}, the right word heard first {percent(ours['heard_first'])}, "
        f"{report['frames_per_second']:.1f} frames/s, age p50 {age['p50']:.0f} ms, p95 {age['p95']:.0f} ms"
    )
    return "\n".join((table(report["scenes"], SCENE_COLUMNS), table(methods, METHOD_COLUMNS), last))


def percent(share: float | None) -> str:
    """A share for people."""
    return "-" if share is None else f"{100 * share:.0f} %"


def table(rows: dict[str, dict], columns: dict[str, str]) -> str:
    """Scores side by side, a line a row; columns: heads by key."""
    width = max(map(len, rows)) + 2
    lines = [f"{'':<{width}}" + "".join(f"{head:>{len(head) + 2}}" for head in columns.values())]
    for name, row in rows.items():
        lines.append(f"{name:<{width}}" + "".join(f"{percent(row[key]):>{len(head) + 2}}" for key, head in columns.items()))
    return "\n".join(lines)
