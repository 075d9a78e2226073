"""Make ``import torchvision`` work where its compiled operators do not fit the torch that is installed.

A CPU-only torch next to a CUDA torchvision is common on robots. torchvision then fails with
"operator torchvision::nms does not exist", and open_clip, timm and transformers with it. None of
them needs these operators here, so the missing names are declared without a body and the import is
tried again. Where torchvision is healthy, or not installed, nothing is done.
"""

from __future__ import annotations

import importlib
import re
import sys

import torch

_MISSING = re.compile(r"operator torchvision::(\w+) does not exist")
_libraries: list[torch.library.Library] = []  # declarations live as long as these objects


def ensure_torchvision() -> bool:
    """Import torchvision, declaring operators that it lacks; False where it is not installed."""
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
            library = torch.library.Library("torchvision", "FRAGMENT")
            library.define(f"{missing[1]}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _libraries.append(library)
    raise ImportError("torchvision: wanted a build that fits this torch, got one with many missing operators; reinstall it")
