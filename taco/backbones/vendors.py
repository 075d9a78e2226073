"""Imports of optional model packages, with errors that say how to install them."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from types import ModuleType

import torch

from taco.errors import MissingPackageError

_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_libraries: list[torch.library.Library] = []  # declarations live as long as these objects


def ensure_torchvision() -> bool:
    """Import torchvision, declaring the operators that its build lacks; False where it is not installed.

    A CPU-only torch beside a CUDA torchvision is common on robots. torchvision then fails with "operator torchvision::nms
    does not exist", and open_clip, timm and transformers with it. None of them needs these operators here.
    """
    for _ in range(16):
        try:
            importlib.import_module("torchvision")
            return True
        except ModuleNotFoundError as error:
            if (error.name or "").split(".")[0] != "torchvision":
                raise
            return False
        except RuntimeError as error:
            missing = _MISSING.search(str(error))
            if not missing:
                raise
            for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
                del sys.modules[name]
            library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch: no annotations
            signature = f"{missing[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            library.define(signature)  # type: ignore[no-untyped-call]
            _libraries.append(library)
    raise ImportError("torchvision: wanted a build that fits this torch, got one with many missing operators; reinstall it")


PAPER_PACKAGES = {"torchvision": "torchvision", "open_clip": "open_clip_torch", "transformers": "transformers"}


def missing_paper_packages() -> list[str]:
    """The packages of the extra [paper] that are not installed, as pip calls them."""
    return [package for module, package in PAPER_PACKAGES.items() if importlib.util.find_spec(module) is None]


def import_transformers() -> ModuleType:
    """The package transformers."""
    ensure_torchvision()
    try:
        return importlib.import_module("transformers")
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{error.name}: not installed; run `pip install transformers`") from None


def import_open_clip() -> ModuleType:
    """The package open_clip."""
    if not ensure_torchvision():
        raise MissingPackageError(
            "torchvision: wanted by open_clip, not installed; run `pip install torchvision open_clip_torch`"
        )
    try:
        return importlib.import_module("open_clip")
    except ModuleNotFoundError as error:
        raise MissingPackageError(f"{error.name}: not installed; run `pip install open_clip_torch`") from None
