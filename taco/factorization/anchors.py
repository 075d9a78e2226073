"""The word bank prepared for the solvers, cached per bank, dtype and device.

Gradients here are closed form (paper Eq. 5 differentiated); only an opaque ``audio_projection``
is differentiated by torch, and only on the few pooled components.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from taco.errors import ShapeError, ValueRangeError
from taco.types import Anchors

TINY = 1e-12  # least norm that is divided by
# The three below are ours.
OTHERS = -3.0  # log-odds of objects outside the word bank against those in it, before looking
SURENESS = 0.7  # of closed-vocabulary image models: what their logits are multiplied by, for they are surer than they are right
CROWD = 0.5  # a word that the image model knows many kinds of is that much less likely by each, as a power of their number
PullBack = Callable[[Tensor], Tensor]
_CACHE: OrderedDict[tuple[object, ...], tuple[Anchors, Any]] = OrderedDict()
_CACHE_SIZE = 16


class PreparedAnchors:
    """Normalised anchors: what components are compared with.

    visual: (M, C_v) unit rows.
    audio: (M, D_a) unit rows.
    scale: factor on the audio cosines.

    A linear projection without bias (``torch.nn.Linear``, a callable with a ``linear_weight``
    tensor (D_a, C_a), or None) is folded into the anchors: d_a = s c (W^T A_a^T) / |W c|, so that
    neither D_a nor the projection costs anything in a solve.
    """

    def __init__(self, anchors: Anchors, audio_dim: int, dtype: torch.dtype, device: torch.device):
        self.anchors = anchors
        self.scale = float(anchors.audio_logit_scale)
        self.visual = _unit_rows("anchors.visual", anchors.visual, dtype, device)
        self.audio = _unit_rows("anchors.audio", anchors.audio, dtype, device)
        self._every_sound: Tensor | None = None
        self.visual_mean = self.visual.mean(0)
        self.project: Callable[[Tensor], Tensor] | None = None  # None where it is folded into the two below
        weight = linear_weight(anchors.audio_projection)
        self.folded = self.audio  # (M, C_a): A_a W
        self.gram: Tensor | None = None  # W^T W (C_a, C_a); None: the identity
        if weight is not None and tuple(weight.shape) == (self.audio.shape[1], audio_dim):
            weight = weight.detach().to(device=device, dtype=dtype)
            self.folded = self.audio @ weight
            self.gram = weight.T @ weight
        else:
            self.project = anchors.audio_projection
        self._check(audio_dim, dtype, device)

    def _check(self, audio_dim: int, dtype: torch.dtype, device: torch.device) -> None:
        wanted = self.audio.shape[1]
        if self.project is None:
            if self.folded.shape[1] != audio_dim:
                raise ShapeError(f"audio: wanted tokens of dimension {wanted} as anchors.audio has, got {audio_dim}")
            return
        try:
            got = tuple(self.project(torch.ones(1, audio_dim, dtype=dtype, device=device)).shape)
        except (RuntimeError, ValueError, TypeError) as error:
            raise ShapeError(
                f"audio: wanted tokens that anchors.audio_projection takes, got {audio_dim} ({str(error).splitlines()[0]})"
            ) from None
        if got != (1, wanted):
            raise ShapeError(
                f"anchors.audio_projection: wanted (1, {audio_dim}) -> (1, {wanted}) as anchors.audio has, got {got}"
            )

    def __len__(self) -> int:
        return self.visual.shape[0]

    def visual_logits(self, components: Tensor, known: Tensor | None = None) -> tuple[Tensor, PullBack]:
        """cos(components (..., C_v), A_v) (..., M) and the pull-back of a gradient on it; known: the cosines, where at hand."""
        return _cosine(components, self.visual, None, 1.0, known)

    def audio_logits(self, components: Tensor, grad: bool = True) -> tuple[Tensor, PullBack]:
        """s cos(P(components (..., C_a)), A_a) (..., M) and the pull-back of a gradient on it."""
        if self.project is None:
            return _cosine(components, self.folded, self.gram, self.scale)
        if not grad:
            return _cosine(self.project(components), self.audio, None, self.scale)[0], no_pull
        with torch.inference_mode(False), torch.enable_grad():
            leaf = components.detach().clone().requires_grad_()
            try:
                projected = self.project(leaf)
            except RuntimeError as error:
                if "nference tensor" not in str(error):
                    raise
                raise ValueRangeError(
                    "anchors.audio_projection: wanted a differentiable function, got weights made in torch.inference_mode"
                ) from None
        logits, pull_back = _cosine(projected.detach(), self.audio, None, self.scale)

        def pull(gradient: Tensor) -> Tensor:
            if not projected.requires_grad:
                raise ValueRangeError(
                    "anchors.audio_projection: wanted a differentiable function, got one without gradient (torch.no_grad inside?)"
                )
            with torch.enable_grad():
                slopes: tuple[Tensor, ...] = torch.autograd.grad(projected, leaf, pull_back(gradient))
            return slopes[0]

        return logits, pull

    def all_sound_logits(self, components: Tensor) -> Tensor:
        """(n, C_a) -> (n, M + L') as ``audio_logits``, of the sounds without a word too."""
        projection, others = self.anchors.audio_projection, self.anchors.audio_others
        if self._every_sound is None:
            rows = [] if others is None else [_unit_rows("anchors.audio_others", others, self.audio.dtype, self.audio.device)]
            self._every_sound = torch.cat([self.audio, *rows])
        return _cosine(projection(components) if projection else components, self._every_sound, None, self.scale)[0]


def prepared_anchors(anchors: Anchors, audio_dim: int, dtype: torch.dtype, device: torch.device) -> PreparedAnchors:
    """The prepared bank of ``anchors``, from a small cache that notices tensors changed in place."""
    projection = anchors.audio_projection
    tensors = anchors.visual, anchors.audio, anchors.audio_others, linear_weight(projection)
    key = id(projection), anchors.audio_logit_scale, audio_dim, dtype, device
    bank: PreparedAnchors = _remembered(tensors, key, anchors, lambda: PreparedAnchors(anchors, audio_dim, dtype, device))
    return bank


def _remembered(tensors: Sequence[Tensor | None], key: tuple[object, ...], anchors: Anchors, make: Callable[[], Any]) -> Any:
    """What ``make`` made of these tensors and settings; made anew where a tensor was changed in place."""
    # id(): the cache keeps the anchors alive, so an id in the key cannot come to name another object.
    full = (*((id(t), _version(t)) for t in tensors if t is not None), *key)
    if full not in _CACHE:
        _CACHE[full] = anchors, make()
        while len(_CACHE) > _CACHE_SIZE:
            _CACHE.popitem(last=False)
    _CACHE.move_to_end(full)
    return _CACHE[full][1]


def linear_weight(projection: Callable[[Tensor], Tensor] | None) -> Tensor | None:
    """The matrix (D_a, C_a) of a projection known to be linear without bias, else None."""
    if isinstance(projection, torch.nn.Linear):
        return projection.weight if projection.bias is None else None
    weight = getattr(projection, "linear_weight", None)
    return weight if isinstance(weight, Tensor) else None


def image_evidence(components: Tensor, anchors: Anchors) -> Tensor:
    """(..., K, C_v) -> (..., K, M) in [0, 1]: how likely each component shows each word rather than another or none of the bank.

    A softmax over the words, and over ``visual_others`` where the encoder has them: of cosines times the
    image model's own scale where it has one, else of products (closed vocabularies: they are logits). Where
    the encoder knows a word by several kinds (``visual_kinds``), the word has the sum of theirs.
    """

    kinds, dtype, device = anchors.visual_kinds, components.dtype, components.device
    tensors = anchors.visual, anchors.visual_others, *((kinds.vectors, kinds.words) if kinds else ())
    key = "image", anchors.visual_logit_scale, dtype, device
    rows, offsets, owners = _remembered(tensors, key, anchors, lambda: _image_rows(anchors, dtype, device))
    if anchors.visual_logit_scale is not None:
        components = anchors.visual_logit_scale * torch.nn.functional.normalize(components, dim=-1)
    found = (components.reshape(-1, components.shape[-1]) @ rows).view(*components.shape[:-1], -1) + offsets
    shares: Tensor = found.softmax(-1)
    if owners is None:
        return shares[..., : len(anchors.words)]
    return shares.new_zeros(*shares.shape[:-1], len(anchors.words)).index_add_(-1, owners, shares[..., : len(owners)])


def _image_rows(anchors: Anchors, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """(C, R) words or their kinds, then others, as columns; (R,) what is added to their products; the word of each kind."""
    kinds, others = anchors.visual_kinds, anchors.visual_others
    parts = [anchors.visual if kinds is None else kinds.vectors, *(() if others is None else (others,))]
    offsets = [torch.full((len(part),), added) for part, added in zip(parts, (0.0, OTHERS))]
    if kinds is not None:
        each = torch.bincount(kinds.words, minlength=len(anchors.words)).clamp_min(1).log()
        offsets[0] = -CROWD * each[kinds.words].cpu()
    rows = torch.cat([part.detach().to(device, dtype) for part in parts])
    rows = SURENESS * rows if anchors.visual_logit_scale is None else torch.nn.functional.normalize(rows, dim=-1)
    owners = None if kinds is None else kinds.words.to(device)
    return rows.T.contiguous(), torch.cat(offsets).to(device, dtype), owners


def unit(vectors: Tensor) -> Tensor:
    """Rows (..., C) scaled to length 1; zero rows stay zero."""
    norms: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / norms.clamp_min(TINY)


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _unit_rows(name: str, value: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    value = value.detach().to(device=device, dtype=dtype)
    if not torch.isfinite(value).all():
        raise ValueRangeError(f"{name}: wanted finite values, got NaN or infinity")
    return unit(value)


def _cosine(
    rows: Tensor, words: Tensor, gram: Tensor | None, scale: float, known: Tensor | None = None
) -> tuple[Tensor, PullBack]:
    """scale (rows words^T) / |rows|_gram and its pull-back; rows (..., C), words (M, C), gram (C, C) or None."""
    metric = rows if gram is None else rows @ gram
    norm = (rows * metric).sum(-1, keepdim=True).clamp_min(TINY * TINY).sqrt()
    # The matrix products run on 2-d rows: torch's n-d by 2-d product is slower for a few rows.
    logits = known
    if logits is None:
        logits = (rows.reshape(-1, rows.shape[-1]) @ words.T).view(*rows.shape[:-1], -1) * (scale / norm)

    def pull(gradient: Tensor) -> Tensor:
        back = (gradient.reshape(-1, gradient.shape[-1]) @ words).view(rows.shape)
        along = (gradient * logits).sum(-1, keepdim=True)
        return (back * scale - along * (metric / norm)) / norm

    return logits, pull


def no_pull(gradient: Tensor) -> Tensor:
    """In place of a pull-back where no gradient was asked for."""
    raise AssertionError("asked for a gradient that was switched off")
