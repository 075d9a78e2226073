"""Safe reading of other projects' checkpoints: no code is run, and errors say what is wrong."""

from __future__ import annotations

import contextlib
import logging
import pickle
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from taco.errors import WeightsError

log = logging.getLogger(__name__)
M = TypeVar("M", bound=nn.Module)

UNTRAINED = ".untrained"  # suffix of the file that marks another one's weights as random
FETCH = "run `taco weights fetch paper`"
# Training states around the weights may hold plain numpy numbers, which carry no code.
_SCALAR = np.float32(0).__reduce__()[0]
_PLAIN_NUMBERS: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    _SCALAR,
    np.dtype,
    *(type(np.dtype(name)) for name in ("float32", "float64", "int32", "int64", "bool")),
]


def read_state_dict(path: str | Path, what: str, wrappers: tuple[str, ...] = ("state_dict", "model")) -> dict[str, Tensor]:
    """Named tensors of a PyTorch or safetensors file; WeightsError says what was found instead.

    what: the model's name for messages.
    wrappers: keys under which the weights may lie.
    Where the format allows, tensors are mapped from the file, not copied.
    """
    path = Path(path).expanduser()
    _check_is_weights(path, what)
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        found: object
        try:
            found = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise _damaged(path, what, error) from None
    else:
        found = _unpickle(path, what)
    for name in wrappers:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    tensors = {key: value for key, value in found.items() if isinstance(value, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise WeightsError(f"{what}: wanted named tensors in {path}, got {_summary(found)}; {FETCH}")
    if all(key.startswith("module.") for key in tensors):
        tensors = {key.removeprefix("module."): value for key, value in tensors.items()}
    return tensors


def mark_untrained(path: str | Path) -> None:
    """Say beside a file of weights, whatever its format, that they are random: for tests and measurements of time."""
    path = Path(path)
    path.with_name(path.name + UNTRAINED).write_text("random weights: as fast as trained ones, and of no other use\n")


def is_untrained(path: str | Path | None) -> bool:
    """Whether a file of weights is marked as random; None: no file."""
    return path is not None and Path(path).with_name(Path(path).name + UNTRAINED).exists()


def _check_is_weights(path: Path, what: str) -> None:
    if not path.is_file():
        raise WeightsError(f"{what}: wanted weights at {path}, got {'a folder' if path.is_dir() else 'no such file'}; {FETCH}")
    with open(path, "rb") as stream:
        head = stream.read(512)
    if not head:
        raise WeightsError(f"{what}: wanted weights in {path}, got an empty file; delete it and {FETCH}")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise WeightsError(f"{what}: wanted weights in {path}, got a web page (HTML); delete it and {FETCH}")
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{what}: wanted weights in {path}, got a Git LFS pointer; delete it and {FETCH}")


def _unpickle(path: Path, what: str) -> object:
    try:
        zipped = zipfile.is_zipfile(path)
        with torch.serialization.safe_globals(_PLAIN_NUMBERS):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)
    except pickle.UnpicklingError as error:
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if foreign:
            raise WeightsError(
                f"{what}: refused {path}: it asks for {foreign[1]}, code that weights do not need; {FETCH}"
            ) from None
        raise _damaged(path, what, error) from None
    except Exception as error:  # of damaged bytes the unpickler makes what it likes
        raise _damaged(path, what, error) from None


def _damaged(path: Path, what: str, error: Exception | str) -> WeightsError:
    lines = str(error).strip().splitlines()
    size = path.stat().st_size / 1e6
    detail = f" ({lines[0][:120]})" if lines else ""
    return WeightsError(
        f"{what}: wanted a whole checkpoint, got {path} of {size:.1f} MB that is truncated or of another kind{detail}; "
        f"delete it and {FETCH}"
    )


def _summary(found: object) -> str:
    if isinstance(found, Mapping):
        keys = [str(key) for key in found]
        return f"a mapping of {', '.join(keys[:4]) or 'nothing'}{' ...' if len(keys) > 4 else ''}"
    return type(found).__name__


def under_prefix(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def load_strictly(module: nn.Module, state: Mapping[str, Tensor], what: str, path: str | Path) -> None:
    """Load every parameter and buffer of ``module``; WeightsError names missing, unexpected and misshapen tensors."""
    check_fits(module, state, what, path)
    module.load_state_dict(dict(state), strict=True)


def check_fits(module: nn.Module, state: Mapping[str, Tensor], what: str, path: str | Path) -> None:
    """WeightsError where names or shapes differ from the module's parameters and buffers; loads nothing."""
    own = module.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own.keys() & state.keys()
        if own[key].shape != state[key].shape
    ]
    problems = [
        f"{len(names)} {kind} ({', '.join(sorted(names)[:3])}{' ...' if len(names) > 3 else ''})"
        for names, kind in ((missing, "missing"), (extra, "unexpected"), (shapes, "of another shape"))
        if names
    ]
    if problems:
        raise WeightsError(
            f"{what}: wanted its {len(own)} tensors in {path}, got {', '.join(problems)}; is it another model? {FETCH}"
        )


def report_unused(names: Iterable[str], what: str) -> None:
    """Warn of tensors in a checkpoint that this project does not use."""
    names = sorted(names)
    if names:
        log.warning("%s: %d tensors of the checkpoint are not used: %s", what, len(names), ", ".join(names[:5]))


class SkipInitialisation(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch: no annotations
    """Modules built within this context get zeros for random weights: drawing them takes seconds, and they are overwritten.

    Zeros, for ``trunc_normal_`` draws again until all values are small: in memory that was used before it would never end.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    _RANDOM = frozenset((torch.ops.aten.normal_.default, torch.ops.aten.uniform_.default, torch.ops.aten.erfinv_.default))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0].zero_() if func in self._RANDOM else func(*args, **(kwargs or {}))


@contextlib.contextmanager
def fetched_by(part: str) -> Iterator[None]:
    """Errors of the functions above name the command that fetches this part instead of the paper's set."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(str(error).replace(FETCH, f"run `taco weights fetch {part}`")) from None


def freeze(module: M, device: torch.device, dtype: torch.dtype = torch.float32) -> M:
    """The module in evaluation mode, without gradients, on the device, in the number type."""
    return module.eval().requires_grad_(False).to(device=device, dtype=dtype)
