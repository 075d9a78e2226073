"""``taco models``: the sets of models, what each needs, and how fast it is on this machine."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from taco.progress import progress

# For, and settings, of the rows that are measured.
ROWS = (
    ("a closed list of words, at once", {"models.name": "embedded"}),
    ("any word, small; for research only", {"models.name": "open", "models.image": "MobileCLIP2-S0"}),
    ("any word", {"models.name": "open"}),
    ("the paper's figures; a GPU", {"models.name": "paper"}),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``taco models``."""
    parser.add_argument("--dir", default="", metavar="DIR", help="folder of the weights (default: $TACO_MODEL_DIR or the cache)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads of the models (default: torch's choice)")
    parser.add_argument("--no-run", action="store_true", help="print what each set needs, and measure nothing")


def run(args: argparse.Namespace) -> int:
    """Measure each set in a process of its own and print the table."""
    from taco.cli import print_json

    found: list[dict[str, Any]] = []
    with progress("models", len(ROWS), unit="set") as bar:
        for purpose, settings in ROWS:
            chosen = {**settings, "models.model_dir": args.dir, "models.threads": args.threads}
            row = {"for": purpose, "settings": settings, **needs(chosen)}
            found.append(row | ({} if args.no_run else measured(chosen, row["missing"])))
            bar.update(1)
    if args.json:
        print_json(found)
    else:
        print("\n".join(table(found)))
        print(
            "open, weights missing: timed on networks with random weights, in torch. docs/models.md has other machines.",
            file=sys.stderr,
        )
    return 0


def needs(settings: dict[str, Any]) -> dict[str, Any]:
    """licences, download_mb of all files, and the parts that are missing."""
    from taco.cli.doctor import weights_state
    from taco.config import TacoConfig

    files = weights_state(TacoConfig().updated(settings).models)["files"]
    missing = sorted({row["part"] for row in files if row["state"] == "missing"})
    licences = sorted({row["licence"].partition(" (")[0] for row in files})
    return {"download_mb": round(sum(row["size_mb"] for row in files)), "licences": licences, "missing": missing}


def measured(settings: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    """weights ("own" or "random"), frame_ms, stage_ms and peak_memory_mb; "why" where the set was not run."""
    random = bool(missing)
    if random and settings["models.name"] != "open":
        return {"why": f"not run: {', '.join(missing)} missing"}
    # A process of its own, so that its peak memory is its own.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        ran = pool.submit(_trial, settings, random).result()
    if ran["problems"]:
        return {"why": ran["problems"][0]}
    kept = {key: ran[key] for key in ("frame_ms", "stage_ms", "peak_memory_mb", "engine")}
    return {"weights": "random" if random else "own", **kept}


def _trial(settings: dict[str, Any], random: bool) -> dict[str, Any]:
    from taco.cli.doctor import trial
    from taco.config import TacoConfig
    from taco.errors import TacoError

    config = TacoConfig().updated(settings)
    try:
        if random:
            from taco.backbones import untrained

            return trial(config, (480, 640), untrained.load(config.models))
        return trial(config, (480, 640))
    except (TacoError, ImportError) as error:
        return {"problems": [str(error)]}


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Lines for people."""
    lines = [f"{'set':26} {'for':36} {'download':>9} {'memory':>8} {'a frame':>9}  weights, licences"]
    for row in rows:
        name = " ".join(str(value) for value in row["settings"].values())
        memory = f"{row['peak_memory_mb']} MB" if "peak_memory_mb" in row else "-"
        frame = f"{row['frame_ms']:.0f} ms" if "frame_ms" in row else "-"
        state = row.get("why") or (f"{row['weights']}; " if "weights" in row else "") + ", ".join(row["licences"])
        lines.append(f"{name:26} {row['for']:36} {row['download_mb']:>6} MB {memory:>8} {frame:>9}  {state}")
    return lines
