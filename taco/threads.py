"""CPU threads of the models: how many, and that they sleep while they wait. Torch is imported only where it is needed."""

from __future__ import annotations

import os

# For OpenMP, by which torch spreads its work: threads without work sleep. By default they wait busily, and beside another busy
# program a frame takes several times as long.
PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}

_before = 0  # torch's threads before they were left to an engine; 0: they were not


def wait_passively() -> None:
    """Let threads without work sleep; takes effect only before torch is imported. Variables that are set already stay."""
    for name, value in PASSIVE.items():
        os.environ.setdefault(name, value)


def model_threads(setting: int = 0) -> int:
    """How many threads the models may use: ``models.threads``, else torch's choice as it was before engines came."""
    import torch

    now = torch.get_num_threads()
    return setting or (_before if _before and now == 1 else now)


def use_threads(count: int) -> None:
    """Let torch compute with ``count`` threads."""
    import torch

    if count != torch.get_num_threads():
        torch.set_num_threads(count)


def leave_threads_to_engine() -> None:
    """One thread for torch where an engine computes the networks: what torch still does is small, and more would only wait."""
    global _before
    _before = model_threads()
    use_threads(1)
