"""TACO: outline in a camera image what a microphone hears (sound-prompted segmentation without training).

The public names are imported when they are first used, so that ``import taco`` needs neither torch nor a second.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from taco.config import TacoConfig
    from taco.factorization import factorize
    from taco.pipeline import TacoPipeline
    from taco.types import AudioWindow, VideoFrame

__version__ = "0.1.0"
__all__ = ["AudioWindow", "TacoConfig", "TacoPipeline", "VideoFrame", "factorize"]

_MODULES = {
    "AudioWindow": "taco.types",
    "TacoConfig": "taco.config",
    "TacoPipeline": "taco.pipeline",
    "VideoFrame": "taco.types",
    "factorize": "taco.factorization",
}


def __getattr__(name: str) -> object:
    """One of the public names (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
