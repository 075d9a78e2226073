"""One captured CUDA graph per shape, replayed without host synchronisation.

Capture and replay belong to one thread (the pipeline's worker): the static buffers are overwritten by the next call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

ENABLED = True  # False solves on the GPU kernel by kernel
_CACHE: OrderedDict[tuple[object, ...], _Captured] = OrderedDict()
_CACHE_SIZE = 16  # graphs; ours: solvers x warm and cold x a few cameras
_WARM_UPS = 2  # ours: libraries choose their kernels in the first call

Call = Callable[..., tuple[Tensor | None, ...]]


def run(key: tuple[object, ...], call: Call, inputs: tuple[Tensor | None, ...], force: bool = False) -> tuple[Tensor | None, ...]:
    """``call(*inputs)``, from a captured graph on a GPU.

    key: all that the call depends on beside the inputs' values and shapes (settings, word bank).
    call must be a pure function of its tensors that never waits for the host. force: keep static
    buffers on the CPU too, without a graph (for tests of the copying).
    """
    device = next(x.device for x in inputs if x is not None)
    if not (force or (ENABLED and device.type == "cuda")):
        return call(*inputs)
    shapes = tuple(None if x is None else (tuple(x.shape), x.dtype) for x in inputs)
    key = (key, shapes, device)
    captured = _CACHE.get(key)
    if captured is None:
        captured = _CACHE[key] = _Captured(call, inputs, device)
        while len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
    _CACHE.move_to_end(key)
    return captured(inputs)


class _Captured:
    def __init__(self, call: Call, inputs: tuple[Tensor | None, ...], device: torch.device):
        self.call = call
        self.static = tuple(None if x is None else x.clone() for x in inputs)
        self.graph: torch.cuda.CUDAGraph | None = None
        if device.type != "cuda":
            return
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # lets libraries allocate their workspaces before the capture
            for _ in range(_WARM_UPS):
                call(*self.static)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.outputs = call(*self.static)

    def __call__(self, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        for static, value in zip(self.static, inputs):
            if static is not None and value is not None:
                static.copy_(value, non_blocking=True)
        if self.graph is None:
            self.outputs = self.call(*self.static)
        else:
            self.graph.replay()
        return tuple(None if out is None else out.clone() for out in self.outputs)
