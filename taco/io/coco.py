"""Results as COCO JSON, the format of many annotation tools and trainers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from taco.io.files import atomic
from taco.io.results import Record


def coco_dataset(file_name: str, records: Iterable[Record]) -> dict[str, Any]:
    """Lines of ``objects.jsonl`` as a COCO data set: an image a frame, an annotation an object, a category a word.

    Masks are COCO's uncompressed RLE. An image has the file's name, and beside COCO's fields ``frame`` and ``time_s``; an
    annotation ``score`` and ``track_id``.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    categories: dict[str, int] = {}
    for record in records:
        rows, columns = record["size"]
        number = len(images) + 1
        place = {"frame": record["frame"], "time_s": record["time_s"]}
        images.append({"id": number, "file_name": file_name, "width": columns, "height": rows, **place})
        for item in record["objects"]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": categories.setdefault(item["label"], len(categories) + 1),
                    "segmentation": {"counts": item["rle"], "size": [rows, columns]},
                    "bbox": item["box"],
                    "area": item["area"],
                    "iscrowd": 0,
                    "score": item["score"],
                    "track_id": item["id"],
                }
            )
    return {
        "info": {"description": f"{file_name}, outlined by taco segment"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": word, "supercategory": ""} for word, number in categories.items()],
    }


def write_coco(path: Path, file_name: str, records: Iterable[Record]) -> None:
    """Write the data set whole or not at all."""
    with atomic(path) as part:
        part.write_text(json.dumps(coco_dataset(file_name, records)) + "\n", encoding="utf-8")
