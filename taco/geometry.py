"""From pixels to directions and places: camera calibration, depth images, laser scans.

Optical frames (REP-103): x right, y down, z forward, metres. Depth (REP-118) is the z of a point, 0 or NaN for none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from taco.config import TargetsConfig
from taco.errors import ShapeError, ValueRangeError, shown

# Numbers of coefficients by the distortion models of sensor_msgs/CameraInfo.
COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,), "": (0,), "none": (0,)}
ALIASES = {"fisheye": "equidistant", "kannala_brandt": "equidistant"}
# Ours: OpenCV's fixed-point iteration gets as far as Newton's method did in this many steps (at wide angles 40 are too few).
UNDISTORT_UNTIL = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 500, 1e-12)
FISHEYE_STEPS = 50  # ours: Newton's method needs a handful, so that more means there is no answer
ROUND_TRIP = 1e-6  # ours, in normalised image coordinates: a ray that the lens does not bend back to its pixel is none
MAD_TO_SIGMA = 1.4826  # median absolute deviation of a normal distribution to its standard deviation
MIN_BEAMS = 3  # of a laser inside a mask; ours: a median of fewer is a beam picked by chance

_undistort_points = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)  # two functions before OpenCV 5, one from there on


@dataclass(frozen=True, slots=True)
class Range:
    """A measured place inside a mask.

    point: (x, y, z) m in the camera's optical frame, the median.
    spread: robust standard deviation over median of the distances.
    count: valid pixels or beams.
    share: of the mask's pixels that were valid; 1 for beams.
    """

    point: tuple[float, float, float]
    spread: float
    count: int
    share: float

    @property
    def distance_m(self) -> float:
        """How far the place is from the origin of the frame, m."""
        return math.hypot(*self.point)


@dataclass(frozen=True, slots=True)
class Camera:
    """A calibrated camera, from the arrays of sensor_msgs/CameraInfo.

    size: (height, width) px of the calibration.
    k: 3 x 3 camera matrix.
    d: coefficients of ``model``, as OpenCV takes them.
    model: plumb_bob, rational_polynomial or equidistant (fisheye); empty for none.
    r: 3 x 3 rectification.
    p: 3 x 4 projection of the rectified image; its fourth column: see ``centre``.
    binning: (x, y).
    offset: (x, y) px of the region of interest.

    ValueRangeError for a camera that is not calibrated.
    """

    size: tuple[int, int]
    k: np.ndarray
    d: np.ndarray
    model: str
    r: np.ndarray
    p: np.ndarray
    binning: tuple[int, int] = (1, 1)
    offset: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
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
                f"camera_info: wanted distortion of {known}, got {shown(self.model)} with {len(self.d)} coefficients"
            )

    def centre(self, rectified: bool = False) -> np.ndarray:
        """(3,) m, where the camera's rays start, in the frame of the calibration.

        The origin, but for rectified images of the second camera of a stereo pair: the fourth column of its P holds
        -baseline x focal length, and its calibration is in the frame of the first camera (sensor_msgs/CameraInfo; image_geometry
        and RViz read it so, too).
        """
        if not rectified:
            return np.zeros(3)
        return np.asarray(-np.array([self.p[0, 3] / self.p[0, 0], self.p[1, 3] / self.p[1, 1], 0.0]) @ self.r)

    def rays(self, pixels: np.ndarray, image_size: tuple[int, int] | None = None, rectified: bool = False) -> np.ndarray:
        """(n, 2) pixel coordinates (x, y), 0 at the centre of the top left pixel -> (n, 3) unit vectors, optical frame.

        They are the directions in which the camera sees, from its own optical centre: what is at a pixel lies on
        ``centre(rectified) + s * ray`` for some s > 0. image_size: (height, width) of the image they are in where it was
        scaled; its proportions must be the calibration's. rectified: the pixels are of the rectified image. NaN where the
        lens model has no answer.
        """
        full = self._to_full(np.asarray(pixels, np.float64).reshape(-1, 2), image_size)
        matrix = self.p if rectified else self.k
        y = (full[:, 1] - matrix[1, 2]) / matrix[1, 1]
        flat = np.stack([(full[:, 0] - matrix[0, 2] - matrix[0, 1] * y) / matrix[0, 0], y], 1)
        if rectified:
            ray = _homogeneous(flat) @ self.r  # R turns the camera's axes to the rectified ones
        else:
            ray = self._undistort(flat)
        return np.asarray(ray / np.linalg.norm(ray, axis=1, keepdims=True))

    def project(self, points: np.ndarray, image_size: tuple[int, int] | None = None, rectified: bool = False) -> np.ndarray:
        """(n, 3) points in the optical frame, m -> (n, 2) pixel coordinates; NaN for points behind the camera.

        Points are relative to the origin of the calibration's frame, which ``centre`` may lie beside.
        """
        points = np.asarray(points, np.float64).reshape(-1, 3) - self.centre(rectified)
        if rectified:
            points = points @ self.r.T
        ahead = points[:, 2] > 1e-6
        flat = np.full((len(points), 2), np.nan)
        flat[ahead] = points[ahead, :2] / points[ahead, 2:]
        if not rectified:
            flat = self._distort(flat)[0]
        matrix = self.p if rectified else self.k
        full = flat @ matrix[:2, :2].T + matrix[:2, 2]
        return np.asarray((full - self.offset + 0.5) / self.binning / self._scale(image_size) - 0.5)

    def _to_full(self, pixels: np.ndarray, image_size: tuple[int, int] | None) -> np.ndarray:
        """To pixels of the calibration: undo a scaled image, binning and the region of interest (pixel centres)."""
        return np.asarray((pixels + 0.5) * self._scale(image_size) * self.binning - 0.5 + self.offset)

    def _scale(self, image_size: tuple[int, int] | None) -> np.ndarray:
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

    def _distort(self, flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Normalised image coordinates (n, 2) -> those that the lens makes of them, and the determinant of its slope (n,).

        The slope is that of the lens models of OpenCV's ``projectPoints``; 1 for the others. NaN stays NaN.
        """
        bent, slope = flat.copy(), np.ones(len(flat))
        known = np.isfinite(flat).all(1)
        if not len(self.d) or not known.any():
            return bent, slope
        if self.model == "equidistant":
            bent[known] = cv2.fisheye.distortPoints(flat[known, None], np.eye(3), self.d)[:, 0]
            return bent, slope
        zero = np.zeros(3)
        found, jacobian = cv2.projectPoints(_homogeneous(flat[known]), zero, zero, np.eye(3), self.d)
        bent[known] = found[:, 0]
        slope[known] = np.linalg.det(jacobian[:, 3:5].reshape(-1, 2, 2))  # by the x and y of a translation
        return bent, slope

    def _undistort(self, bent: np.ndarray) -> np.ndarray:
        """The rays (n, 3), not of unit length, that the lens bends to ``bent``; NaN where it bends none there."""
        if not len(self.d) or not len(bent):
            return _homogeneous(bent)
        if self.model == "equidistant":
            return self._undistort_fisheye(bent)
        flat = _undistort_points(bent[:, None], np.eye(3), self.d, R=None, P=None, criteria=UNDISTORT_UNTIL)[:, 0]
        back, slope = self._distort(flat)
        missed = ~(np.abs(back - bent).max(1) < ROUND_TRIP)
        # Where a model is used beyond its range it folds over: such answers lie on another branch.
        folded = ~(slope > 0) | ((flat * bent).sum(1) < 0)
        flat[missed | folded] = np.nan
        return _homogeneous(flat)

    def _undistort_fisheye(self, bent: np.ndarray) -> np.ndarray:
        """The angle from the axis by Newton's method; OpenCV's ends at 90 degrees, wide lenses look sideways or back."""
        lens = np.polynomial.Polynomial([0, 1, 0, self.d[0], 0, self.d[1], 0, self.d[2], 0, self.d[3]])
        slope = lens.deriv()
        r = np.hypot(bent[:, 0], bent[:, 1])
        angle = np.minimum(r, math.pi / 2)
        for _ in range(FISHEYE_STEPS):
            steep = slope(angle)
            angle = angle - np.clip((lens(angle) - r) / np.where(np.abs(steep) < 1e-9, np.nan, steep), -0.5, 0.5)
        angle = np.where((np.abs(lens(angle) - r) < ROUND_TRIP) & (angle >= 0) & (angle < math.pi), angle, np.nan)
        side = bent / np.where(r > 1e-12, r, 1)[:, None]
        return np.hstack([side * np.sin(angle)[:, None], np.cos(angle)[:, None]])


def _homogeneous(flat: np.ndarray) -> np.ndarray:
    """(n, 2) -> (n, 3) with z = 1."""
    return np.hstack([flat, np.ones((len(flat), 1))])


def centre_ray(camera: Camera, mask: np.ndarray, rectified: bool = False) -> np.ndarray:
    """(3,) unit vector to the centroid of a (H, W) bool mask. ValueRangeError where the lens model has no answer there."""
    ys, xs = np.nonzero(mask)
    ray: np.ndarray = camera.rays(np.array([[xs.mean(), ys.mean()]]), mask.shape, rectified)[0]
    if not np.isfinite(ray).all():
        raise ValueRangeError(
            f"camera_info: wanted a lens model that reaches pixel ({xs.mean():.0f}, {ys.mean():.0f}), got one that does not"
        )
    return ray


def range_in_depth(
    depth: np.ndarray, mask: np.ndarray, ray: np.ndarray, config: TargetsConfig, centre: np.ndarray | None = None
) -> Range:
    """The place of a mask from a registered depth image.

    depth: (H, W) z in m, of the mask's size; 0, negative, NaN and infinite mean none. ray: unit vector to the mask's centre,
    which starts at ``centre`` (m; None: the origin).
    ShapeError: another size. ValueRangeError: too few valid pixels, or too wide a spread (no one surface).
    """
    if depth.shape != mask.shape:
        raise ShapeError(
            f"depth: wanted {mask.shape[1]} x {mask.shape[0]} px like the camera's image, "
            f"got {depth.shape[1]} x {depth.shape[0]}; use the depth that is registered to the colour image"
        )
    z = _without_rim(depth, mask)
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
    x, y, z = ray / ray[2] * middle + (0.0 if centre is None else centre)
    return Range((float(x), float(y), float(z)), spread, len(valid), share)


def scan_points(ranges: np.ndarray, angle_min: float, angle_increment: float, range_min: float, range_max: float) -> np.ndarray:
    """The valid beams of a sensor_msgs/LaserScan as (n, 3) points in the laser's frame, m (x forward, z up).

    ranges, range_min, range_max: m. angle_min, angle_increment: rad.
    """
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
            f"scan: wanted {MIN_BEAMS} beams on the object, got {int(good.sum())}; does the laser see what the camera sees?"
        )
    _, spread = _median_spread(distance[good], config)
    x, y, z = inside[good][np.argsort(distance[good])[int(good.sum()) // 2]]
    return Range((float(x), float(y), float(z)), spread, int(good.sum()), 1.0)


def rotate(vectors: np.ndarray, quaternion: Sequence[float]) -> np.ndarray:
    """(..., 3) vectors turned by a quaternion (x, y, z, w)."""
    from scipy.spatial.transform import Rotation  # a third of a second, at the first target

    vectors = np.asarray(vectors, np.float64)
    return np.asarray(Rotation.from_quat(quaternion).apply(vectors.reshape(-1, 3)).reshape(vectors.shape))


def quaternion_facing(direction: np.ndarray, up: np.ndarray) -> tuple[float, float, float, float]:
    """Quaternion (x, y, z, w) whose x axis is the unit ``direction`` and whose z axis is as near ``up`` as it can be."""
    from scipy.spatial.transform import Rotation  # as in ``rotate``

    forward = np.asarray(direction, np.float64)
    left = np.cross(up, forward)
    if np.linalg.norm(left) < 1e-6:  # straight up or down: any other axis will do
        left = np.cross(np.roll(up, 1), forward)
    left = left / np.linalg.norm(left)
    x, y, z, w = Rotation.from_matrix(np.stack([forward, left, np.cross(forward, left)], 1)).as_quat(canonical=True)
    return float(x), float(y), float(z), float(w)


def _without_rim(depth: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Depth inside the mask, without its rim, where colour and depth seldom agree; a thin mask keeps its rim."""
    core = mask.copy()
    core[1:] &= mask[:-1]
    core[:-1] &= mask[1:]
    core[:, 1:] &= mask[:, :-1]
    core[:, :-1] &= mask[:, 1:]
    return np.asarray(depth[core if core.sum() * 2 >= mask.sum() else mask], np.float64)


def _median_spread(values: np.ndarray, config: TargetsConfig) -> tuple[float, float]:
    middle = float(np.median(values))
    spread = MAD_TO_SIGMA * float(np.median(np.abs(values - middle))) / middle
    if spread > config.max_spread:
        raise ValueRangeError(
            f"range: wanted a spread of at most {config.max_spread:.0%}, got {spread:.0%}; the mask holds several surfaces"
        )
    return middle, spread
