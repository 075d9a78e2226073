"""Passes of bounded least squares, row by row: the inner loop of the block solver."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def solve_rows(
    rows: Tensor, cross: Tensor, gram: Tensor, upper: float | None = None, frozen: Tensor | None = None, passes: int = 1
) -> None:
    """Exact least squares over rows (B, K, n), one row at a time, ``passes`` times over, in place.

    Minimises |X - U V|^2 over each row in turn, the others fixed, and clips it to [0, upper]:
    row_k = (cross_k - sum_j!=k gram_kj row_j) / gram_kk. For V: cross = U^T X, gram = U^T U; for U^T:
    cross = V X^T, gram = V V^T. Rows that are frozen (B, K), or whose counterpart is zero, stay.
    """
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    still = diagonal <= 1e-12 * diagonal.amax(-1, keepdim=True).clamp_min(1e-30)
    if frozen is not None:
        still = still | frozen
    inverse = torch.where(still, 0.0, 1 / diagonal.clamp_min(1e-30))[..., None]
    target = torch.where(still[..., None], rows, cross * inverse)
    others = gram * inverse
    others.diagonal(dim1=-2, dim2=-1).zero_()
    (_by_torch if rows.is_cuda else _by_numpy)(rows, target, others, upper, passes)


def _by_torch(rows: Tensor, target: Tensor, others: Tensor, upper: float | None, passes: int) -> None:
    for k in [*range(rows.shape[1])] * passes:
        row = torch.baddbmm(target[:, k : k + 1], others[:, k : k + 1], rows, alpha=-1)
        torch.clamp(row, 0.0, upper, out=rows[:, k : k + 1])


def _by_numpy(rows: Tensor, target: Tensor, others: Tensor, upper: float | None, passes: int) -> None:
    """The same on the tensors' own memory: a third of the time for rows this small."""
    for r, t, o in zip(rows.numpy(), target.numpy(), others.numpy()):
        row = np.empty_like(r[0])
        for r_k, t_k, o_k in list(zip(r, t, o)) * passes:
            np.dot(o_k, r, out=row)
            np.subtract(t_k, row, out=row)
            if upper is not None:
                np.minimum(row, upper, out=row)
            np.maximum(row, 0.0, out=r_k)
