"""Telling several sounding things apart inside one sounding region (ours; the paper gives all of it one label).

A segmenter's queries are its single things: each has a mask and a vector in the space of the words.
Inside the region, every query that carries enough of it gets its own mask, and its own label by image
and sound together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

MIN_SHARE = 0.05  # of the region's evidence that a query must carry
MIN_INSIDE = 0.5  # of a query's own mask that must lie in the region
SAME_THING = 0.6  # overlap, as a share of the smaller mask, from which two queries mean one thing


@dataclass(frozen=True, slots=True)
class Parts:
    """The things in a region, strongest first. queries: their indices. shares: (n,) of the region's evidence, in [0, 1]."""

    queries: list[int]
    shares: Tensor


def choose_queries(region: Tensor, masks: Tensor, strength: Tensor) -> Parts:
    """The queries that are things of the region; none where no query fits.

    region: (H, W) bool. masks: (Q, H, W) probabilities. strength: (Q,) share of the sounding prompt in
    each query, in [0, 1]. A query counts if it carries enough of the region's evidence and lies mostly
    in it; of queries with nearly the same mask the strongest stays.
    """
    evidence = torch.einsum("qhw,hw->q", masks, region.to(masks.dtype)) * strength
    evidence = evidence / evidence.sum().clamp(min=1e-12)
    solid = masks > 0.5
    area = solid.sum((1, 2))
    inside = (solid & region).sum((1, 2)) / area.clamp(min=1)
    fits = (evidence >= MIN_SHARE) & (inside >= MIN_INSIDE) & (area > 0)
    kept: list[int] = []
    for query in evidence.argsort(descending=True).tolist():
        if not fits[query]:
            continue
        overlaps = ((solid[query] & solid[other]).sum() / torch.minimum(area[query], area[other]) for other in kept)
        if all(overlap < SAME_THING for overlap in overlaps):
            kept.append(query)
    return Parts(kept, evidence[kept])


def share_out(region: Tensor, masks: Tensor, strength: Tensor) -> list[Tensor]:
    """(H, W) bool masks of the chosen queries within the region, one of them at most a pixel (arguments as above)."""
    winner = (masks * strength.view(-1, 1, 1)).argmax(0)
    return [region & (masks[index] > 0.5) & (winner == index) for index in range(len(masks))]


def label_scores(image: Tensor, sound: Tensor) -> tuple[Tensor, float]:
    """(M,) probabilities of words, and the agreement in [0, 1] of what is seen in a part with what is heard.

    image, sound: (M,) logits of the words. The probabilities are the geometric mean of both; the
    agreement is its sum before it is scaled to 1 (Bhattacharyya's coefficient).
    """
    joint = 0.5 * (image.log_softmax(-1) + sound.log_softmax(-1))
    return joint.softmax(-1), float(joint.logsumexp(-1).exp().clamp(0, 1))
