"""A coarse map brought to the image's own edges, without any network: the guided filter (He, Sun and Tang 2010, colour)."""

from __future__ import annotations

import cv2
import numpy as np

from taco.segmentation.wordmap import enlarge

SIDE = 128  # px, longer side of the image that guides
RADIUS = 20  # px of that: half the window within which colours tell thing from surroundings
SMOOTHNESS = 1e-4  # variance of colours in [0, 1] below which the map is smoothed instead


def small_size(size: tuple[int, int], side: int = SIDE) -> tuple[int, int]:
    """(height, width) of an image scaled down so that its longer side is at most ``side`` px; at least 2 x 2."""
    scale = min(1.0, side / max(size))
    return max(2, round(size[0] * scale)), max(2, round(size[1] * scale))


def spread(coarse: np.ndarray, rgb: np.ndarray) -> np.ndarray:
    """(h, w) map in [0, 1] and an (H, W, 3) uint8 image -> the map at ``small_size``, float32 in [0, 1].

    In every window the map is fitted by a linear function of the colours: it reaches as far as they do.
    """
    size = small_size(rgb.shape[:2])
    guide = cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    return np.clip(guided_filter(guide, enlarge(coarse, size)), 0, 1)


def guided_filter(guide: np.ndarray, values: np.ndarray, radius: int = RADIUS, smoothness: float = SMOOTHNESS) -> np.ndarray:
    """guide: (h, w, 3) float32 in [0, 1]. values: (h, w) float32 -> (h, w) float32."""

    def mean(x: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(x, -1, (2 * radius + 1, 2 * radius + 1), borderType=cv2.BORDER_REFLECT)

    radius = min(radius, min(values.shape) - 1)  # the border is mirrored once at most
    r, g, b = cv2.split(guide)
    mr, mg, mb = mean(r), mean(g), mean(b)
    mv = mean(values)
    cr, cg, cb = mean(r * values) - mr * mv, mean(g * values) - mg * mv, mean(b * values) - mb * mv
    rr, gg, bb = (mean(c * c) - m * m + smoothness for c, m in ((r, mr), (g, mg), (b, mb)))
    rg, rb, gb = mean(r * g) - mr * mg, mean(r * b) - mr * mb, mean(g * b) - mg * mb
    # The 3 x 3 systems, one a pixel, by cofactors: the matrices are positive definite.
    a, d, f = gg * bb - gb * gb, rb * gb - rg * bb, rg * gb - rb * gg
    e, h, i = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    det = np.maximum(rr * a + rg * d + rb * f, 1e-20)
    wr = (a * cr + d * cg + f * cb) / det
    wg = (d * cr + e * cg + h * cb) / det
    wb = (f * cr + h * cg + i * cb) / det
    shift = mv - wr * mr - wg * mg - wb * mb
    return mean(wr) * r + mean(wg) * g + mean(wb) * b + mean(shift)
