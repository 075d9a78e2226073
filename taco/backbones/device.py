"""Device and precision of the models; a requested GPU that is missing is an error."""

from __future__ import annotations

import contextlib
import ctypes

import torch

from taco.errors import DeviceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_device(name: str = "auto") -> torch.device:
    """auto (the first GPU, else the CPU), cpu, cuda or cuda:N; DeviceError where that one is not there."""
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):
        raise DeviceError(f"models.device: wanted auto, cpu or cuda:N, got {name!r}") from None
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise DeviceError(f"models.device: wanted auto, cpu or cuda:N, got {name!r}")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        built = "this torch has no CUDA" if torch.version.cuda is None else "no usable NVIDIA GPU was found"
        raise DeviceError(f"models.device: wanted {name}, but {built}; use models.device=cpu or install a CUDA torch and driver")
    if (device.index or 0) >= count:
        raise DeviceError(f"models.device: wanted {name}, got {count} GPU(s): cuda:0 to cuda:{count - 1}")
    return torch.device("cuda", device.index or 0)


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """The number type of the image trunk, nearly all of the cost.

    auto: float32 on a CPU; on a GPU bfloat16 where it has it (the range of float32, so that no
    activation overflows), else float32. Everything else stays in float32.
    """
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" and torch.cuda.is_bf16_supported() else torch.float32
    if name not in DTYPES:
        raise DeviceError(f"models.precision: wanted auto, {', '.join(DTYPES)}, got {name!r}")
    return DTYPES[name]


def peak_memory_mb(device: torch.device | None = None) -> float:
    """Peak memory so far in MB: of the GPU's allocations, or of this whole process on a CPU."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    import resource
    import sys

    # Linux counts kilobytes, macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def release_memory() -> None:
    """Give what was freed back to the system; glibc keeps it otherwise (40 MB after the embedded models' load)."""
    with contextlib.suppress(OSError, AttributeError):  # other systems, other C libraries
        ctypes.CDLL("libc.so.6").malloc_trim(0)
