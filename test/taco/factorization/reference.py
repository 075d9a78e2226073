"""An independent autograd implementation of the paper's objective and solver, only for tests and benchmarks' checks."""

import torch
import torch.nn.functional as F


def frame_loss(x_v, x_a, u_v, v_v, u_a, v_a, anchors, config):
    """Loss of one frame and k*: activations (N, K), factors (K, C)."""
    if config.descriptor == "component":
        c_v, c_a = u_v.T @ x_v / len(x_v), u_a.T @ x_a / len(x_a)
    else:
        c_v, c_a = v_v, v_a
    if anchors.audio_projection is not None:
        c_a = anchors.audio_projection(c_a)
    d_v = F.cosine_similarity(c_v[:, None], anchors.visual[None], dim=-1)
    d_a = anchors.audio_logit_scale * F.cosine_similarity(c_a[:, None], anchors.audio[None], dim=-1)
    ce_v = F.cross_entropy(d_v, d_a.softmax(-1), reduction="none")
    ce_a = F.cross_entropy(d_a, d_v.softmax(-1), reduction="none")
    b1, b2 = config.reconstruction_weights
    loss = b1 * torch.linalg.norm(x_v - u_v @ v_v) + b2 * torch.linalg.norm(x_a - u_a @ v_a)
    if config.penalty == "min":
        loss = loss + config.penalty_weight * ce_v.min() + config.reverse_penalty_weight * ce_a.min()
    elif config.penalty == "mean":
        loss = loss + config.penalty_weight * ce_v.mean() + config.reverse_penalty_weight * ce_a.mean()
    return loss, int(ce_v.argmin())


def clip_loss(tokens, parts, anchors, config, previous=None):
    """Summed loss over frames; tokens: list of (x_v, x_a), parts: list of (u_v, v_v, u_a, v_a)."""
    losses, best = zip(*(frame_loss(*x, *p, anchors, config) for x, p in zip(tokens, parts)))
    total = sum(losses)
    if config.temporal == "joint" and len(tokens) > 1:
        term = sum(
            F.cosine_similarity(parts[t][i][best[t]], parts[t + 1][i][best[t + 1]], dim=0)
            for t in range(len(tokens) - 1)
            for i in (1, 3)
        )
        total = total - len(tokens) * config.temporal_weight * term
    if config.temporal == "causal" and previous is not None:
        for frame, past in enumerate(previous):
            for i, rows in ((1, past.visual_factors), (3, past.audio_factors)):
                cosine = F.cosine_similarity(parts[frame][i][best[frame]], rows[past.sounding], dim=0)
                total = total - config.temporal_weight * cosine
    return total, best


def descend(tokens, starts, anchors, config, steps, previous=None):
    """The paper's solver by autograd: (u_v, v_v, u_a, v_a) a frame, k* a frame."""
    leaves = [
        [torch.logit(p).clone().requires_grad_() if i % 2 == 0 else p.clone().requires_grad_() for i, p in enumerate(start)]
        for start in starts
    ]
    rate, kept = config.learning_rate, None
    for step in range(steps):
        if step in (500, 1000, 1500):
            rate /= 2
        parts = [[leaf.sigmoid() if i % 2 == 0 else leaf for i, leaf in enumerate(frame)] for frame in leaves]
        loss, best = clip_loss(tokens, parts, anchors, config, previous)
        flat = [leaf for frame in leaves for leaf in frame]
        grads = torch.autograd.grad(loss, flat)
        kept = [[parts[f][0].detach(), None, parts[f][2].detach(), None] for f in range(len(parts))]
        with torch.no_grad():
            for leaf, grad in zip(flat, grads):
                leaf -= rate * grad
            for f, frame in enumerate(leaves):
                for i in (1, 3):
                    frame[i].clamp_(min=0)
                    kept[f][i] = frame[i].detach()
    return kept, best


def kmeans(points, uniforms, iterations=100):
    """k-means in plain loops: the best of the restarts by the sum of squared distances; points (N, D), uniforms (R, K)."""
    best, least = None, float("inf")
    for draws in uniforms:
        seeds = [min(int(draws[0] * len(points)), len(points) - 1)]
        for draw in draws[1:]:
            square = torch.stack([((points - points[s]) ** 2).sum(1) for s in seeds]).min(0).values
            seeds.append(min(int((square.cumsum(0) <= draw * square.sum()).sum()), len(points) - 1))
        centres = points[seeds].clone()
        for _ in range(iterations):
            labels = torch.cdist(points, centres).argmin(1)
            for k in range(len(centres)):
                if (labels == k).any():
                    centres[k] = points[labels == k].mean(0)
        inertia = float(torch.cdist(points, centres).min(1).values.square().sum())
        if inertia < least:
            best, least = centres, inertia
    return best
