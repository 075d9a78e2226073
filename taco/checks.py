"""Checks of arguments: errors that name the argument, what was wanted and what was got."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from taco.errors import ShapeError, ValueRangeError


def format_shape(value: object) -> str:
    """The shape of an array or tensor, else the type's name: what error messages say was got."""
    return str(tuple(value.shape)) if hasattr(value, "shape") else type(value).__name__


def check_array(name: str, value: Any, ndim: int, dtype: type | None = None, last: int | None = None) -> None:
    """Raise ShapeError unless ``value`` is a numpy array of this rank, dtype and last dimension."""
    good = isinstance(value, np.ndarray) and value.ndim == ndim
    good = good and (dtype is None or value.dtype == dtype) and (last is None or value.shape[-1] == last)
    if not good:
        wanted = f"a {ndim}-d array" + (f" of {np.dtype(dtype)}" if dtype else "")
        wanted += f" with last dimension {last}" if last else ""
        raise ShapeError(f"{name}: wanted {wanted}, got {format_shape(value)} {getattr(value, 'dtype', '')}".rstrip())


def check_tensor(name: str, value: Any, ndim: int) -> None:
    """Raise ShapeError unless ``value`` is a floating point tensor of this rank."""
    if not (isinstance(value, Tensor) and value.ndim == ndim and value.is_floating_point()):
        raise ShapeError(
            f"{name}: wanted a {ndim}-d float tensor, got {format_shape(value)} {getattr(value, 'dtype', '')}".rstrip()
        )


def check_stamp(name: str, value: object) -> None:
    """Raise ShapeError unless ``value`` is a plain integer of nanoseconds."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise ShapeError(f"{name}: wanted integer nanoseconds, got {type(value).__name__} {value!r}")


def check_sample_rate(value: object) -> None:
    """Raise ValueRangeError unless ``value`` is a positive integer sample rate in Hz."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 1000 <= value <= 768_000:
        raise ValueRangeError(f"sample_rate: wanted an integer of 1000 to 768000 Hz, got {value!r}")


def as_float32(samples: np.ndarray) -> np.ndarray:
    """Sound in float64, as soundfile and scipy give it, as float32; anything else as it is."""
    return samples.astype(np.float32) if isinstance(samples, np.ndarray) and samples.dtype == np.float64 else samples
