"""Small made problems for the tests of the factorization."""

import torch

from taco.factorization.anchors import prepared_anchors
from taco.factorization.objective import Problem
from taco.factorization.temporal import recency_weights
from taco.types import Anchors, Factorization


class Gelu(torch.nn.Module):
    """A projection that is not linear."""

    def __init__(self, c, d, dtype):
        super().__init__()
        self.first, self.second = torch.nn.Linear(c, d, dtype=dtype), torch.nn.Linear(d, d, dtype=dtype)
        self.norm = torch.nn.LayerNorm(d, dtype=dtype)

    def forward(self, x):
        x = self.first(x)
        return self.norm(x + self.second(torch.nn.functional.gelu(x)))


def random_problem(seed=0, n=36, t=12, c=10, ca=9, d=11, m=7, k=3, dtype=torch.float64, projection="linear", scale=5.0):
    """x_v, x_a, anchors and a start (u_v, v_v, u_a, v_a)."""
    torch.manual_seed(seed)
    x_v, x_a = torch.randn(n, c, dtype=dtype).clamp(min=0), torch.randn(t, ca, dtype=dtype).clamp(min=0)
    maps = {"none": None, "linear": torch.nn.Linear(ca, d, bias=False, dtype=dtype), "gelu": Gelu(ca, d, dtype)}
    width = ca if projection == "none" else d
    anchors = Anchors(
        [f"w{i}" for i in range(m)], torch.randn(m, c, dtype=dtype), torch.randn(m, width, dtype=dtype), maps[projection], scale
    )
    start = (
        torch.rand(n, k, dtype=dtype),
        torch.rand(k, c, dtype=dtype),
        torch.rand(t, k, dtype=dtype),
        torch.rand(k, ca, dtype=dtype),
    )
    return x_v, x_a, anchors, start


def as_init(start, sounding=0):
    return Factorization(*start, sounding=sounding)


def as_problem(x_v, x_a, anchors, config, grid=None):
    """What the solvers work on: one frame."""
    x_v, x_a = x_v[None], x_a[None]
    bank = prepared_anchors(anchors, x_a.shape[-1], x_v.dtype, x_v.device)
    recent = (recency_weights(x_a.shape[1], None, x_a.dtype, x_a.device) @ x_a[0])[None]
    heard = bank.audio_logits(recent[:, None], grad=False)[0]
    return Problem(x_v, x_a, x_v.square().sum((-1, -2)), x_a.square().sum((-1, -2)), bank, config, recent, heard, grid)


def planted_scene(seed=0, side=12, t=16, c=48, m=20, sources=3, scale=20.0, noise=0.05, dtype=torch.float32):
    """An image of ``sources`` rectangles on a background, each made of its word's vector; source 0 sounds.

    Returns x_v (side^2, c), x_a (t, c), anchors, truth (side, side) bool.
    """
    g = torch.Generator().manual_seed(seed)
    words_v, words_a = torch.randn(m, c, generator=g), torch.randn(m, c, generator=g)
    picks = torch.randperm(m, generator=g)[: sources + 1]
    label = torch.full((side, side), sources)
    half = side // 2
    corners = torch.randperm(4, generator=g)[:sources]
    for s, corner in enumerate(corners.tolist()):
        y, x = (corner // 2) * half, (corner % 2) * half
        label[y + 1 : y + half - 1, x + 1 : x + half - 1] = s
    x_v = (words_v[picks[label.flatten()]] + noise * torch.randn(side * side, c, generator=g)).clamp(min=0)
    active = (torch.rand(t, 1, generator=g) > 0.3).float()
    active[-4:] = 1.0
    x_a = (active * words_a[picks[0]] + noise * torch.randn(t, c, generator=g)).clamp(min=0)
    anchors = Anchors([f"w{i}" for i in range(m)], words_v, words_a, None, scale)
    anchors = Anchors(anchors.words, words_v.clamp(min=0), words_a.clamp(min=0), None, scale)
    return x_v.to(dtype), x_a.to(dtype), anchors, label == 0


def quarters(seed=0, side=16, c=64, m=20, t=16, noise=0.3, scale=20.0):
    """An image of four objects, a quarter each, of which the first sounds: fewer objects than factors.

    Returns x_v (side^2, c), x_a (t, c), anchors, label (side, side) 0 to 3, 0 the sounding object.
    """
    g = torch.Generator().manual_seed(seed)
    words_v = torch.randn(m, c, generator=g).clamp(min=0) + 0.3 * torch.rand(c, generator=g)
    words_a = torch.randn(m, c, generator=g).clamp(min=0)
    picks = torch.randperm(m, generator=g)[:4]
    half = torch.arange(side) >= side // 2
    label = torch.randperm(4, generator=g)[half[:, None].long() * 2 + half[None].long()]
    clean = torch.nn.functional.normalize(words_v[picks[label.flatten()]], dim=-1)
    light = 0.7 + 0.6 * torch.rand(side * side, 1, generator=g)
    x_v = (10 * (light * clean + noise * torch.randn(side * side, c, generator=g) / c**0.5)).clamp(min=0)
    x_a = (torch.rand(t, 1, generator=g) * words_a[picks[0]] + 0.1 * torch.randn(t, c, generator=g)).clamp(min=0)
    return x_v, x_a, Anchors([f"w{i}" for i in range(m)], words_v, words_a, None, scale), label


def column_iou(f, k, truth):
    """IoU of factor k's activations above half their maximum with truth (rows, columns) bool."""
    column = f.visual_activations[:, k].reshape(truth.shape)
    mask = column > 0.5 * column.max()
    return float((mask & truth).sum() / (mask | truth).sum())
