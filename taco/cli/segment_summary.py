"""What ``taco segment`` tells of a finished input: counts of verdicts, words outlined and heard, and the bank of words."""

from __future__ import annotations

import collections
from pathlib import Path

WORDS = {
    "sounding": "with sounding objects",
    "no_mask": "seen and heard without an outline",
    "not_in_view": "heard but not in view",
    "unknown": "with other sounds",
    "silent": "silent",
    "skipped": "without usable sound",
}


def told(summary: dict) -> str:
    """The lines that are printed for an input: what was outlined, and what was heard with which bank of words."""
    counts = summary["verdicts"]
    parts = [f"{counts[name]} {words}" for name, words in WORDS.items() if counts.get(name)]
    outlined, heard = (_shares(summary.get(name, {})) for name in ("words", "heard"))
    speed = f", {summary['frames_per_s']:.1f} frames/s" if summary.get("frames_per_s") else ""
    done = " (was done already; --overwrite does it again)" if summary.get("done_already") else ""
    found = f"{summary['frames']} frames, {', '.join(parts)}{speed}; {outlined or 'nothing outlined'}"
    line = f"{summary['name']}: {found} -> {summary['out']}{done}"
    return f"{line}\n  heard: {heard or 'nothing'}; {told_bank(**summary['bank'])}" if "bank" in summary else line


def told_bank(models: str, words: int, chosen: bool) -> str:
    """Which words were listened for, and how to listen for more. chosen: by the setting models.word_bank."""
    what = f"listened for {words} word{'' if words == 1 else 's'} of the {models} models"
    if chosen:
        return f"{what} (models.word_bank; `taco words` lists what there is)"
    more = "models.word_bank takes any others" if models == "paper" else "`taco words`; models.name=paper takes any word"
    return f"{what} ({more})"


def bank_of(models: str, words: int, chosen: bool) -> dict:
    """The bank as it is kept in a summary: name of the model set, number of words, chosen by models.word_bank or not."""
    return {"models": models, "words": words, "chosen": chosen}


def _shares(words: dict) -> str:
    return ", ".join(f"{word} {share:.0%}" for word, share in list(words.items())[:4])


def summarise(name: str, records: list[dict], folder: Path) -> dict:
    """Counts of verdicts; shares of the frames in which each word was outlined, and in which it was heard best, falling."""
    verdicts = collections.Counter(record["verdict"] for record in records)
    outlined, heard = collections.Counter(), collections.Counter()
    for record in records:
        outlined.update({thing["label"] for thing in record.get("objects", [])})
        heard.update(word for word, _ in record["heard"][:1] if record["verdict"] != "silent")

    def shares(counts) -> dict[str, float]:
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        return {word: round(count / len(records), 4) for word, count in ranked}

    found = {"name": name, "out": str(folder), "frames": len(records), "verdicts": dict(verdicts)}
    return {**found, "words": shares(outlined), "heard": shares(heard)}
