"""From pixels to directions and places: camera calibration, depth images and laser scans, as plain arrays.

Optical frames (REP-103): x right, y down, z forward, metres. Depth (REP-118) is the z of a point, 0 or NaN for none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from taco.config import TargetsConfig
from taco.errors import ShapeError, ValueRangeError

COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,), "": (0,), "none": (0,)}
ALIASES = {"fisheye": "equidistant", "kannala_brandt": "equidistant"}
UNDISTORT_STEPS = 50
UNDISTORT_TOLERANCE = 1e-9  # in normalised image coordinates
MAD_TO_SIGMA = 1.4826  # median absolute deviation of a normal distribution to its standard deviation
MIN_BEAMS = 3  # of a laser inside a mask


@dataclass(frozen=True, slots=True)
class Range:
    """A measured place inside a mask.

    point: (x, y, z) m in the camera's optical frame, the median. spread: robust standard deviation over median of
    the distances. count: valid pixels or beams. share: of the mask's pixels that were valid; 1 for beams.
    """

    point: tuple[float, float, float]
    spread: float
    count: int
    share: float

    @property
    def distance_m(self) -> float:
        """How far the place is from the camera."""
        return math.hypot(*self.point)


@dataclass(frozen=True, slots=True)
class Camera:
    """A calibrated camera, from the arrays of sensor_msgs/CameraInfo.

    size: (height, width) px of the calibration. k: 3 x 3. d: coefficients of ``model`` (plumb_bob,
    rational_polynomial, equidistant; empty for none). r: 3 x 3 rectification. p: 3 x 4 projection of the rectified image.
    binning: (x, y). offset: (x, y) px of the region of interest. ValueRangeError for a camera that is not calibrated.
    """

    size: tuple[int, int]
    k: np.ndarray
    d: np.ndarray
    model: str
    r: np.ndarray
    p: np.ndarray
    binning: tuple[int, int] = (1, 1)
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self):
        put = object.__setattr__
        put(self, "k", np.asarray(self.k, np.float64).reshape(3, 3))
        put(self, "d", np.asarray(self.d, np.float64).ravel())
        put(self, "r", np.asarray(self.r, np.float64).reshape(3, 3))
        put(self, "p", np.asarray(self.p, np.float64).reshape(3, 4))
        put(self, "model", ALIASES.get(self.model, self.model))
        put(self, "binning", tuple(max(1, int(b)) for b in self.binning))
        if not self.d.any():
            put(self, "d", np.zeros(0))
        finite = all(np.isfinite(a).all() for a in (self.k, self.d, self.r, self.p))
        if not finite or self.k[0, 0] <= 0 or self.k[1, 1] <= 0:
            raise ValueRangeError(
                f"camera_info: wanted a calibrated camera, got focal lengths {self.k[0, 0]:g} and {self.k[1, 1]:g}; "
                "calibrate it or set the driver's camera_info_url"
            )
        if not self.r.any():
            put(self, "r", np.eye(3))
        if self.p[0, 0] <= 0:
            put(self, "p", np.hstack([self.k, np.zeros((3, 1))]))
        if len(self.d) and len(self.d) not in COEFFICIENTS.get(self.model, ()):
            known = ", ".join(name for name in COEFFICIENTS if name)
            raise ValueRangeError(
                f"camera_info: wanted distortion of {known}, got {self.model!r} with {len(self.d)} coefficients"
            )

    def rays(self, pixels: np.ndarray, image_size: tuple[int, int] | None = None, rectified: bool = False) -> np.ndarray:
        """(n, 2) pixel coordinates (x, y), 0 at the centre of the top left pixel -> (n, 3) unit vectors, optical frame.

        image_size: (height, width) of the image they are in where it was scaled; its proportions must be the
        calibration's. rectified: the pixels are of the rectified image. NaN where the lens model has no answer.
        """
        full = self._to_full(np.asarray(pixels, np.float64).reshape(-1, 2), image_size)
        if rectified:
            ray = np.stack([(full[:, 0] - self.p[0, 2]) / self.p[0, 0], (full[:, 1] - self.p[1, 2]) / self.p[1, 1]], 1)
            ray = np.hstack([ray, np.ones((len(ray), 1))]) @ self.r  # R turns the camera's axes to the rectified ones
        else:
            y = (full[:, 1] - self.k[1, 2]) / self.k[1, 1]
            x = (full[:, 0] - self.k[0, 2] - self.k[0, 1] * y) / self.k[0, 0]
            ray = self._undistort(np.stack([x, y], 1))
        return ray / np.linalg.norm(ray, axis=1, keepdims=True)

    def project(self, points: np.ndarray, image_size: tuple[int, int] | None = None, rectified: bool = False) -> np.ndarray:
        """(n, 3) points in the optical frame, m -> (n, 2) pixel coordinates; NaN for points behind the camera."""
        points = np.asarray(points, np.float64).reshape(-1, 3)
        if rectified:
            points = points @ self.r.T
        ahead = points[:, 2] > 1e-6
        flat = np.full((len(points), 2), np.nan)
        flat[ahead] = points[ahead, :2] / points[ahead, 2:]
        if rectified:
            full = flat * [self.p[0, 0], self.p[1, 1]] + [self.p[0, 2], self.p[1, 2]]
        else:
            flat = self._distort(flat)
            full = np.stack(
                [
                    self.k[0, 0] * flat[:, 0] + self.k[0, 1] * flat[:, 1] + self.k[0, 2],
                    self.k[1, 1] * flat[:, 1] + self.k[1, 2],
                ],
                1,
            )
        scale = self._scale(image_size)
        return (full - self.offset + 0.5) / self.binning / scale - 0.5

    def _to_full(self, pixels: np.ndarray, image_size) -> np.ndarray:
        """To pixels of the calibration: undo a scaled image, binning and the region of interest (pixel centres)."""
        return (pixels + 0.5) * self._scale(image_size) * self.binning - 0.5 + self.offset

    def _scale(self, image_size) -> np.ndarray:
        """How much larger the camera's own image is than the one in use, (x, y)."""
        if image_size is None or 0 in self.size:
            return np.ones(2)
        own = np.array([self.size[1] / self.binning[0], self.size[0] / self.binning[1]])
        used = np.array([image_size[1], image_size[0]], np.float64)
        if np.allclose(used, [self.size[1], self.size[0]]) or self.offset != (0, 0):
            return np.ones(2)
        scale = own / used
        if abs(scale[0] / scale[1] - 1) > 0.02:
            raise ShapeError(
                f"camera_info: wanted one for images of {image_size[1]} x {image_size[0]} px, "
                f"got {self.size[1]} x {self.size[0]}; is it another camera's?"
            )
        return scale

    def _distort(self, flat: np.ndarray) -> np.ndarray:
        """Normalised image coordinates (n, 2) -> those that the lens makes of them."""
        if not len(self.d):
            return flat
        x, y = flat[:, 0], flat[:, 1]
        if self.model == "equidistant":
            r = np.hypot(x, y)
            angle = np.arctan(r)
            bent = angle * (1 + sum(c * angle ** (2 * i + 2) for i, c in enumerate(self.d)))
            return flat * np.where(r > 1e-12, bent / np.where(r > 1e-12, r, 1), 1.0)[:, None]
        d = np.pad(self.d, (0, 14 - len(self.d)))
        if d[12:].any():
            raise ValueRangeError("camera_info: wanted no tilted sensor (coefficients 13 and 14), got one")
        r2 = x * x + y * y
        radial = (1 + r2 * (d[0] + r2 * (d[1] + r2 * d[4]))) / (1 + r2 * (d[5] + r2 * (d[6] + r2 * d[7])))
        dx = 2 * d[2] * x * y + d[3] * (r2 + 2 * x * x) + d[8] * r2 + d[9] * r2 * r2
        dy = d[2] * (r2 + 2 * y * y) + 2 * d[3] * x * y + d[10] * r2 + d[11] * r2 * r2
        return np.stack([x * radial + dx, y * radial + dy], 1)

    def _undistort(self, bent: np.ndarray) -> np.ndarray:
        """The rays (n, 3), not of unit length, that the lens bends to ``bent``; NaN where it bends none there."""
        if not len(self.d):
            return np.hstack([bent, np.ones((len(bent), 1))])
        if self.model == "equidistant":
            return self._undistort_fisheye(bent)
        flat = bent.copy()
        for _ in range(UNDISTORT_STEPS):  # Newton
            error = self._distort(flat) - bent
            if np.nanmax(np.abs(error), initial=0.0) < UNDISTORT_TOLERANCE:
                break
            (a, b, c, d), det = self._slope(flat)
            move = np.stack([d * error[:, 0] - b * error[:, 1], a * error[:, 1] - c * error[:, 0]], 1) / det[:, None]
            flat = flat - np.clip(move, -0.5, 0.5)
        missed = ~(np.abs(self._distort(flat) - bent).max(1) < 1e-6)
        # Where a model is used beyond its range it folds over: such answers lie on another branch.
        folded = ~(self._slope(flat)[1] > 0) | ((flat * bent).sum(1) < 0)
        flat[missed | folded] = np.nan
        return np.hstack([flat, np.ones((len(flat), 1))])

    def _slope(self, flat: np.ndarray, h: float = 1e-6):
        """Jacobian (a b; c d) of the lens at (n, 2) points, by central differences, and its determinant; NaN where it is 0."""
        (a, c), (b, d) = (((self._distort(flat + step) - self._distort(flat - step)) / (2 * h)).T for step in np.eye(2) * h)
        det = a * d - b * c
        return (a, b, c, d), np.where(np.abs(det) < 1e-9, np.nan, det)

    def _undistort_fisheye(self, bent: np.ndarray) -> np.ndarray:
        """The angle from the axis by Newton's method; wide lenses may look sideways or back."""
        r = np.hypot(bent[:, 0], bent[:, 1])
        angle = np.minimum(r, math.pi / 2)
        for _ in range(UNDISTORT_STEPS):
            powers = [angle ** (2 * i + 2) for i in range(4)]
            value = angle * (1 + sum(c * p for c, p in zip(self.d, powers))) - r
            slope = 1 + sum((2 * i + 3) * c * p for i, (c, p) in enumerate(zip(self.d, powers)))
            angle = angle - np.clip(value / np.where(np.abs(slope) < 1e-9, np.nan, slope), -0.5, 0.5)
        value = angle * (1 + sum(c * angle ** (2 * i + 2) for i, c in enumerate(self.d))) - r
        angle = np.where((np.abs(value) < 1e-6) & (angle >= 0) & (angle < math.pi), angle, np.nan)
        side = bent / np.where(r > 1e-12, r, 1)[:, None]
        return np.hstack([side * np.sin(angle)[:, None], np.cos(angle)[:, None]])


def centre_ray(camera: Camera, mask: np.ndarray, rectified: bool = False) -> np.ndarray:
    """(3,) unit vector to the centroid of a (H, W) bool mask. ValueRangeError where the lens model has no answer there."""
    ys, xs = np.nonzero(mask)
    ray = camera.rays(np.array([[xs.mean(), ys.mean()]]), mask.shape, rectified)[0]
    if not np.isfinite(ray).all():
        raise ValueRangeError(
            f"camera_info: wanted a lens model that reaches pixel ({xs.mean():.0f}, {ys.mean():.0f}), got one that does not"
        )
    return ray


def range_in_depth(depth: np.ndarray, mask: np.ndarray, ray: np.ndarray, config: TargetsConfig) -> Range:
    """The place of a mask from a registered depth image.

    depth: (H, W) z in m, of the mask's size; 0, negative, NaN and infinite mean none. ray: unit vector to the mask's centre.
    ShapeError: another size. ValueRangeError: too few valid pixels, or too wide a spread (no one surface).
    """
    if depth.shape != mask.shape:
        raise ShapeError(
            f"depth: wanted {mask.shape[1]} x {mask.shape[0]} px like the camera's image, "
            f"got {depth.shape[1]} x {depth.shape[0]}; use the depth that is registered to the colour image"
        )
    z = _inner(depth, mask)
    low, high = config.min_range_m, config.max_range_m
    valid = z[np.isfinite(z) & (z >= low) & (z <= high)]
    share = len(valid) / max(1, len(z))
    if len(valid) < config.min_valid_pixels or share < config.min_valid_share:
        raise ValueRangeError(
            f"depth: wanted {config.min_valid_pixels} pixels and {config.min_valid_share:.0%} of the mask "
            f"with {low:g} to {high:g} m, got {len(valid)} ({share:.0%})"
        )
    middle, spread = _median_spread(valid, config)
    if ray[2] <= 1e-3:
        raise ValueRangeError("depth: wanted a direction ahead of the camera, got one to its side")
    point = ray / ray[2] * middle
    return Range(tuple(map(float, point)), spread, len(valid), share)


def scan_points(ranges: np.ndarray, angle_min: float, angle_increment: float, range_min: float, range_max: float) -> np.ndarray:
    """The valid beams of a sensor_msgs/LaserScan as (n, 3) points in the laser's frame, m (x forward, z up)."""
    ranges = np.asarray(ranges, np.float64)
    angles = angle_min + angle_increment * np.arange(len(ranges))
    with np.errstate(invalid="ignore"):
        good = np.isfinite(ranges) & (ranges >= range_min) & (ranges <= range_max) & (ranges > 0)
    r, a = ranges[good], angles[good]
    return np.stack([r * np.cos(a), r * np.sin(a), np.zeros_like(r)], 1)


def range_in_scan(points: np.ndarray, camera: Camera, mask: np.ndarray, config: TargetsConfig, rectified: bool = False) -> Range:
    """The place of a mask from laser points (n, 3) in the optical frame: the median of those that fall into it."""
    pixels = camera.project(points, mask.shape, rectified)
    with np.errstate(invalid="ignore"):
        seen = np.isfinite(pixels).all(1) & (pixels > -0.5).all(1)
        seen &= (pixels[:, 0] < mask.shape[1] - 0.5) & (pixels[:, 1] < mask.shape[0] - 0.5)
    columns, rows = np.round(pixels[seen]).astype(int).T if seen.any() else (np.zeros(0, int),) * 2
    inside = points[seen][mask[rows, columns]]
    distance = np.linalg.norm(inside, axis=1)
    good = (distance >= config.min_range_m) & (distance <= config.max_range_m)
    if good.sum() < MIN_BEAMS:
        raise ValueRangeError(
            f"scan: wanted {MIN_BEAMS} beams on the thing, got {int(good.sum())}; does the laser see what the camera sees?"
        )
    _, spread = _median_spread(distance[good], config)
    middle = inside[good][np.argsort(distance[good])[int(good.sum()) // 2]]
    return Range(tuple(map(float, middle)), spread, int(good.sum()), 1.0)


def rotate(vectors: np.ndarray, quaternion) -> np.ndarray:
    """(..., 3) vectors turned by a quaternion (x, y, z, w)."""
    x, y, z, w = np.asarray(quaternion, np.float64) / np.linalg.norm(quaternion)
    u = np.array([x, y, z])
    vectors = np.asarray(vectors, np.float64)
    cross = 2 * np.cross(u, vectors)
    return vectors + w * cross + np.cross(u, cross)


def facing(direction: np.ndarray, up: np.ndarray) -> tuple[float, float, float, float]:
    """Quaternion (x, y, z, w) whose x axis is the unit ``direction`` and whose z axis is as near ``up`` as it can be."""
    x = np.asarray(direction, np.float64)
    side = np.cross(up, x)
    if np.linalg.norm(side) < 1e-6:
        side = np.cross(np.roll(up, 1), x)
    y = side / np.linalg.norm(side)
    m = np.stack([x, y, np.cross(x, y)], 1)
    # The products q_i q_j; the row of the greatest component gives the others without loss of digits, half turns included.
    products = np.empty((4, 4))
    products[:3, :3] = (m + m.T) / 4
    products[3, :3] = products[:3, 3] = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]) / 4
    trace = np.trace(m)
    np.fill_diagonal(products, (1 + 2 * np.append(np.diag(m), trace) - trace) / 4)
    greatest = int(np.argmax(np.diag(products)))
    q = products[greatest] / math.sqrt(products[greatest, greatest])
    return tuple(float(part) for part in (q if q[3] >= 0 else -q))


def _inner(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Depth inside the mask, without its rim, where colour and depth seldom agree; a thin mask keeps its rim."""
    core = mask.copy()
    core[1:] &= mask[:-1]
    core[:-1] &= mask[1:]
    core[:, 1:] &= mask[:, :-1]
    core[:, :-1] &= mask[:, 1:]
    return depth[core if core.sum() * 2 >= mask.sum() else mask].astype(np.float64)


def _median_spread(values: np.ndarray, config: TargetsConfig) -> tuple[float, float]:
    middle = float(np.median(values))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(values - middle))) / middle
    if spread > config.max_spread:
        raise ValueRangeError(
            f"range: wanted a spread of at most {config.max_spread:.0%}, got {spread:.0%}; the mask holds several surfaces"
        )
    return middle, spread
