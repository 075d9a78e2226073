"""What the columns are called, the paper's figures, and tables of ours beside them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

# Percent: (paper, the paper's public reference runs). Rows of Tables 1 to 5, and of Figure 4's U_I.
PUBLISHED: dict[str, dict[str, dict[str, tuple[float | None, float | None]]]] = {
    "s4": {
        "taco": {"iou": (64.04, 64.04), "f": (71.50, 71.50)},
        "u": {"iou": (27.78, 29.68), "f": (None, 41.91)},
        "a-fcclip": {"iou": (51.52, 51.52), "f": (57.25, 57.25)},
        "a+-fcclip": {"iou": (51.63, None)},
    },
    "ms3": {
        "taco": {"iou": (50.46, 43.15), "f": (58.11, 47.50)},
        "u": {"iou": (28.20, 25.88), "f": (None, 30.72)},
        "a-fcclip": {"iou": (33.67, 33.67), "f": (35.87, 35.87)},
        "a+-fcclip": {"iou": (31.67, None)},
    },
    "ade-sp": {
        "taco": {"iou": (51.57, 51.57), "map": (60.01, 60.01)},
        "u": {"iou": (27.74, 27.74), "map": (35.75, 35.75)},
        "a-fcclip": {"iou": (45.31, 45.31), "map": (50.36, 50.36)},
        "a+-fcclip": {"iou": (41.89, None)},
        "no-min": {"iou": (29.93, None), "map": (34.59, None)},
        "no-component": {"iou": (22.70, None), "map": (23.68, None)},
        "no-penalty": {"iou": (26.75, None), "map": (30.17, None)},
    },
    "avss": {
        "taco": {"miou": (20.50, 20.50), "f": (23.02, 23.02)},
        "a-fcclip": {"miou": (11.95, 11.95), "f": (13.56, 13.56)},
    },
    "ade-sp-semantic": {
        "taco": {"miou": (37.70, 37.70), "f": (44.39, 44.39)},
        "a-fcclip": {"miou": (20.91, 20.91), "f": (24.95, 24.95)},
    },
}
# Table 4, word bank of the data set itself (its U_I for ADE SP contradicts its text and is left out).
PUBLISHED_SPECIFIC: dict[str, dict[str, dict[str, tuple[float | None, float | None]]]] = {
    "s4": {"taco": {"iou": (64.73, None)}, "u": {"iou": (28.76, None)}},
    "ms3": {"taco": {"iou": (47.23, None)}, "u": {"iou": (24.94, None)}},
    "ade-sp": {"taco": {"iou": (54.05, None)}, "u": {}},
}
for _rows in (*PUBLISHED.values(), *PUBLISHED_SPECIFIC.values()):
    _rows["gradient"] = _rows["taco"]  # the paper's own solver

SOURCES = ("paper", "reference")
ALWAYS_SPECIFIC = ("a-fcclip", "a+-fcclip")  # published with the data set's own words only

HEADINGS = {
    "iou": ("IoU", "mask IoU at the best threshold of the set (an oracle), %"),
    "miou": ("mIoU", "mean IoU over classes, background included, %"),
    "f": ("F", "F with beta^2 = 0.3, %"),
    "map": ("mAP", "average precision, mean over classes, %"),
    "fixed_iou": ("IoU@.5", "mask IoU at the fixed threshold 0.5, %"),
    "fixed_f": ("F@.5", "F at the fixed threshold 0.5, %"),
    "tuned_iou": ("IoU@val", "mask IoU at the threshold that was best on val, %"),
    "live_iou": ("live", "mask IoU of the live line's masks, rejection and all, %"),
    "mean_iou": ("meanIoU", "mean of the IoU of the masked and of the other pixels, threshold 0.5, %"),
    "hit": ("point", "frames in which the map's maximum lies on the sounding thing, %"),
    "hit_silent": ("silent", "frames in which it lies on a silent thing, %"),
    "right_word": ("word", "frames with the right word, %"),
    "all_found": ("found", "frames in which every sounding thing has its mask (IoU >= 0.25) and its word, %"),
    "accepted": ("accept", "frames reported at the configured threshold, %"),
    "stability": ("stable", "IoU of consecutive masks, %"),
    "flips": ("flips", "changes of the word in 100 frames"),
    "delay_s": ("delay s", "from a change of sound until the mask follows, s"),
    "followed": ("follow", "changes of sound that the mask follows, %"),
    "u_iou": ("U IoU", "mask IoU of the activations of the sounding factor at half their range, no segmenter, %"),
    "u_stability": ("U stable", "IoU of consecutive ones, %"),
    "ms": ("ms", "model time a frame, ms (shared encodings counted in full)"),
}
HIDDEN = {"threshold", "mean_iou"}
Table = Mapping[str, Mapping[str, tuple[float, float]]]


def text_table(name: str, rows: Table, bank: str = "auto") -> str:
    """One line a row: mean and deviation of each figure; under it, where there are any, the published ones."""
    columns = columns_of(rows)
    width = max([14, *(len(row) + 2 for row in rows)])
    lines = [" " * width + "".join(f"{HEADINGS[key][0]:>13}" for key in columns)]
    for row, figures in rows.items():
        lines.append(f"{row:<{width}}" + "".join(f"{figure(key, figures):>13}" for key in columns))
        for what, told in published(name, row, bank).items():
            cells = "".join(f"{told[key]:>13.2f}" if key in told else " " * 13 for key in columns)
            lines.append(f"{'  ' + what:<{width}}" + cells)
    return "\n".join(line.rstrip() for line in lines)


def columns_of(rows: Table) -> list[str]:
    """The figures that are told of these rows, in the order of HEADINGS."""
    return [key for key in HEADINGS if key not in HIDDEN and any(key in figures for figures in rows.values())]


def published(name: str, row: str, bank: str = "auto") -> dict[str, dict[str, float]]:
    """{"paper" and "reference": {figure: %}} of a row, without what was not published for this word bank.

    Without a specific one for the row, that of ALWAYS_SPECIFIC rows is told for any bank, with a note by the caller.
    """
    table = PUBLISHED_SPECIFIC if bank == "specific" and name in PUBLISHED_SPECIFIC else PUBLISHED
    pairs = table.get(name, {}).get(row) or (PUBLISHED.get(name, {}).get(row, {}) if row in ALWAYS_SPECIFIC else {})
    if bank not in ("auto", "general", "specific"):
        pairs = {}
    told = {what: {key: pair[i] for key, pair in pairs.items() if pair[i] is not None} for i, what in enumerate(SOURCES)}
    return {what: figures for what, figures in told.items() if figures}


def figure(key: str, figures: Mapping[str, tuple[float, float]]) -> str:
    """Mean, and deviation where it would show; a dash where there is none."""
    if key not in figures:
        return "-"
    mean, deviation = figures[key]
    if np.isnan(mean):
        return "-"
    digits = 0 if key == "ms" else 2
    return f"{mean:.{digits}f}" + (f" ±{deviation:.{digits}f}" if deviation >= 0.5 * 10**-digits else "")
