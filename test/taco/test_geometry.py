"""Rays, ranges and rotations, against OpenCV's lens models and by hand."""

import math

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from taco import geometry
from taco.config import TargetsConfig
from taco.errors import ShapeError, ValueRangeError
from taco.geometry import Camera

K = np.array([[500.0, 0, 320], [0, 510.0, 240], [0, 0, 1]])
LENSES = {
    "none": ("", []),
    "plumb_bob": ("plumb_bob", [-0.28, 0.07, 0.001, -0.0005, 0.02]),
    "rational": ("rational_polynomial", [0.3, -0.05, 0.0008, -0.0003, 0.01, 0.6, -0.1, 0.02]),
    "thin_prism": ("rational_polynomial", [0.3, -0.05, 0.0008, -0.0003, 0.01, 0.6, -0.1, 0.02, 0.002, -0.001, 0.003, 0.0005]),
    "tilted": ("rational_polynomial", [-0.1, 0.02, 0.0008, -0.0003, 0.001, 0, 0, 0, 0.002, -0.001, 0.003, 0.0005, 0.02, -0.01]),
    "fisheye": ("equidistant", [-0.02, 0.005, -0.003, 0.0004]),
}


def camera(model="", d=(), size=(480, 640), k=K, r=None, p=None, **rest):
    p = np.hstack([k, np.zeros((3, 1))]) if p is None else p
    return Camera(size, k, np.array(d), model, np.eye(3) if r is None else r, p, **rest)


def by_opencv(points, model, d):
    if model == "equidistant":
        return cv2.fisheye.projectPoints(points[:, None], np.zeros(3), np.zeros(3), K, np.array(d))[0][:, 0]
    return cv2.projectPoints(points, np.zeros(3), np.zeros(3), K, np.array(d) if len(d) else None)[0][:, 0]


@pytest.mark.parametrize("lens", LENSES)
def test_projection_agrees_with_opencv_and_rays_undo_it(lens):
    model, d = LENSES[lens]
    noise = np.random.default_rng(0)
    points = np.column_stack([noise.uniform(-0.6, 0.6, (200, 2)), np.ones(200)]) * noise.uniform(0.5, 8, (200, 1))
    pixels = camera(model, d).project(points)
    assert np.abs(pixels - by_opencv(points, model, d)).max() < 1e-6
    rays = camera(model, d).rays(pixels)
    assert np.abs(np.linalg.norm(rays, axis=1) - 1).max() < 1e-12
    assert np.abs(rays - points / np.linalg.norm(points, axis=1, keepdims=True)).max() < 1e-7


@given(st.floats(0, 639), st.floats(0, 479), st.sampled_from(sorted(LENSES)))
@settings(max_examples=100, deadline=None)
def test_a_ray_projects_back_onto_its_pixel(x, y, lens):
    cam = camera(*LENSES[lens])
    ray = cam.rays(np.array([[x, y]]))
    if np.isfinite(ray).all() and ray[0, 2] > 0.05:
        assert np.abs(cam.project(ray) - [x, y]).max() < 1e-3


def test_pixels_that_are_no_rectangles_are_heeded():
    """K's second number, which most calibrations leave 0."""
    askew = np.array(K, float)
    askew[0, 1] = 40.0
    cam = camera(k=askew)
    assert cam.project([[0, 0.5, 1]])[0] == pytest.approx([K[0][2] + 0.5 * 40, K[1][2] + 0.5 * K[1][1]])
    assert cam.rays(cam.project([[0.2, 0.5, 1]]))[0] == pytest.approx(np.array([0.2, 0.5, 1]) / math.hypot(0.2, 0.5, 1))


def test_the_axes_are_those_of_rep_103():
    cam = camera()
    middle, right, below = cam.rays(np.array([[320, 240], [420, 240], [320, 340]]))
    assert middle == pytest.approx([0, 0, 1]) and right[0] > 0 and right[1] == 0 and below[1] > 0 and below[0] == 0
    assert math.degrees(math.atan2(right[0], right[2])) == pytest.approx(math.degrees(math.atan(100 / 500)))


def test_rectified_pixels_use_the_projection_and_turn_back():
    turn = cv2.Rodrigues(np.array([0.0, 0.1, 0.0]))[0]
    p = np.array([[400.0, 0, 300, -40], [0, 400, 200, 0], [0, 0, 1, 0]])
    cam = camera("plumb_bob", LENSES["plumb_bob"][1], r=turn, p=p)
    ray = cam.rays(np.array([[300.0, 200.0]]), rectified=True)[0]
    assert turn @ ray == pytest.approx([0, 0, 1])
    points = np.array([[0.3, -0.2, 2.0]])
    seen = points[0] - cam.centre(rectified=True)
    assert cam.rays(cam.project(points, rectified=True), rectified=True)[0] == pytest.approx(seen / np.linalg.norm(seen))


def test_the_right_camera_of_a_stereo_pair_sees_from_its_own_place():
    """Baseline 0.12 m, focal length 400 px: P[0, 3] = -48. Points are in the left camera's frame, worked out by hand."""
    left = camera(p=np.array([[400.0, 0, 300, 0], [0, 400, 200, 0], [0, 0, 1, 0]]))
    right = camera(p=np.array([[400.0, 0, 300, -48], [0, 400, 200, 0], [0, 0, 1, 0]]))
    point = np.array([[0.36, -0.2, 2.0]])
    assert left.project(point, rectified=True)[0] == pytest.approx([372, 160])
    assert right.project(point, rectified=True)[0] == pytest.approx([348, 160]), "a disparity of 400 x 0.12 / 2 = 24 px"
    assert left.centre(rectified=True) == pytest.approx([0, 0, 0]) and right.centre() == pytest.approx([0, 0, 0])
    assert right.centre(rectified=True) == pytest.approx([0.12, 0, 0])
    ray = right.rays(np.array([[348.0, 160.0]]), rectified=True)[0]
    assert ray / ray[2] == pytest.approx([0.12, -0.1, 1])
    mask = np.zeros((480, 640), bool)
    mask[158:163, 346:351] = True
    depth = np.full(mask.shape, 2.0)
    centre = right.centre(rectified=True)
    found = geometry.range_in_depth(
        depth, mask, geometry.centre_ray(right, mask, True), TargetsConfig(min_valid_pixels=9), centre
    )
    assert found.point == pytest.approx(point[0])


def test_scaled_images_binning_and_regions_of_interest():
    point = np.array([[0.2, 0.1, 1.0]])
    full = camera().project(point)
    half = camera().project(point, (240, 320))
    assert half == pytest.approx((full + 0.5) / 2 - 0.5)
    binned = camera(binning=(2, 2))
    assert binned.project(point, (240, 320)) == pytest.approx(half)
    assert binned.rays(half, (240, 320)) == pytest.approx(camera().rays(full))
    cut = camera(offset=(100, 50))
    assert cut.project(point, (200, 300)) == pytest.approx(full - [100, 50])
    with pytest.raises(ShapeError, match="another camera's"):
        camera().rays(full, (480, 480))


@pytest.mark.parametrize("k", [np.zeros((3, 3)), np.full((3, 3), np.nan), np.diag([0.0, 500, 1]), np.diag([-1.0, 1, 1])])
def test_an_uncalibrated_camera_is_refused(k):
    with pytest.raises(ValueRangeError, match="wanted a calibrated camera"):
        camera(k=k, p=np.zeros((3, 4)))


def test_missing_rectification_and_projection_are_filled_in():
    cam = camera(r=np.zeros((3, 3)), p=np.zeros((3, 4)))
    assert (cam.r == np.eye(3)).all() and (cam.p[:, :3] == K).all()
    assert camera("some_vendor_model", [0.0] * 5).rays(np.array([[320.0, 240.0]]))[0] == pytest.approx([0, 0, 1])


@pytest.mark.parametrize(("model", "d"), [("ftheta", [0.1]), ("plumb_bob", [0.1] * 3), ("equidistant", [0.1] * 5), ("", [0.1])])
def test_unknown_lenses_are_refused(model, d):
    with pytest.raises(ValueRangeError, match="wanted distortion of plumb_bob"):
        camera(model, d)


def test_a_wide_fisheye_lens_sees_sideways_and_back():
    """theta_d = theta: a pixel at f x theta from the middle lies theta off the axis."""
    cam = camera("equidistant", [0.0, 0.0, 0.0, 1e-12])
    for angle in (0.5, math.pi / 2, 1.9):
        ray = cam.rays(np.array([[320 + 500 * angle, 240.0]]))[0]
        assert ray == pytest.approx([math.sin(angle), 0, math.cos(angle)], abs=1e-6)


def test_a_pixel_that_the_lens_cannot_reach_has_no_ray():
    cam = camera("plumb_bob", [-0.9, 0.0, 0.0, 0.0, 0.0])
    far = np.array([[5000.0, 240.0]])
    assert np.isnan(cam.rays(far)).all()
    mask = np.zeros((480, 640), bool)
    mask[:, 638:] = True
    with pytest.raises(ValueRangeError, match="does not"):
        geometry.centre_ray(camera("plumb_bob", [-3.0, 0, 0, 0, 0]), mask)


def mask_of(rows=slice(100, 200), columns=slice(100, 200), size=(480, 640)):
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


AHEAD = np.array([0.0, 0.0, 1.0])


def test_range_is_the_median_of_the_valid_depth():
    noise = np.random.default_rng(0)
    depth = np.full((480, 640), 9.0, np.float32)
    depth[100:200, 100:200] = 2.0 + noise.normal(0, 0.01, (100, 100))
    depth[100:140, 100:200] = np.nan
    depth[140:150, 100:200] = 0.0
    mask = mask_of()
    ray = geometry.centre_ray(camera(), mask)
    found = geometry.range_in_depth(depth, mask, ray, TargetsConfig())
    assert found.point[2] == pytest.approx(2.0, abs=0.01) and found.spread < 0.01
    assert np.cross(found.point, ray) == pytest.approx([0, 0, 0], abs=1e-9), "the point lies on the bearing"
    assert found.share == pytest.approx(0.5, abs=0.02) and 4500 < found.count < 5200


def test_range_survives_a_tenth_of_wild_pixels_and_a_background_rim():
    noise = np.random.default_rng(0)
    depth = np.full((480, 640), 3.0)
    wild = noise.random((480, 640)) < 0.1
    depth[wild] = noise.uniform(0.2, 19, wild.sum())
    mask = mask_of()
    depth[mask & ~mask_of(slice(101, 199), slice(101, 199))] = 8.0
    assert geometry.range_in_depth(depth, mask, AHEAD, TargetsConfig()).point[2] == pytest.approx(3.0, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, 0.05, 50.0])
def test_depth_without_valid_range_is_refused(value):
    with pytest.raises(ValueRangeError, match=r"depth: wanted 20 pixels .* got 0"):
        geometry.range_in_depth(np.full((480, 640), value), mask_of(), AHEAD, TargetsConfig())


def test_depth_of_another_size_several_surfaces_and_too_few_pixels():
    with pytest.raises(ShapeError, match="wanted 640 x 480 px like the camera's image, got 320 x 240"):
        geometry.range_in_depth(np.ones((240, 320)), mask_of(), AHEAD, TargetsConfig())
    depth = np.full((480, 640), 2.0)
    depth[100:200, 150:200] = 10.0
    with pytest.raises(ValueRangeError, match="several surfaces"):
        geometry.range_in_depth(depth, mask_of(), AHEAD, TargetsConfig())
    sparse = np.zeros((480, 640))
    sparse[110, 110:120] = 2.0
    with pytest.raises(ValueRangeError, match="got 10"):
        geometry.range_in_depth(sparse, mask_of(), AHEAD, TargetsConfig())


def test_a_thin_mask_keeps_its_rim():
    depth = np.full((480, 640), 2.0)
    assert geometry.range_in_depth(depth, mask_of(slice(100, 101)), AHEAD, TargetsConfig()).count == 100


def test_laser_beams_inside_the_mask():
    points = geometry.scan_points(np.array([1.0, np.inf, np.nan, 0.0, 2.0, 99.0]), -0.5, 0.25, 0.1, 30.0)
    assert points == pytest.approx(np.array([[math.cos(0.5), -math.sin(0.5), 0], [2 * math.cos(0.5), 2 * math.sin(0.5), 0]]))
    wall = np.column_stack([np.linspace(-1, 1, 81), np.zeros(81), np.full(81, 2.0)])
    thing = wall.copy()
    near = np.abs(wall[:, 0]) < 0.3
    thing[near, 2] = 1.5
    mask = mask_of(slice(200, 280), slice(270, 370))
    found = geometry.range_in_scan(thing, camera(), mask, TargetsConfig())
    assert found.point[2] == pytest.approx(1.5) and abs(found.point[0]) < 0.15 and found.count >= 5
    with pytest.raises(ValueRangeError, match="scan: wanted 3 beams"):
        geometry.range_in_scan(thing, camera(), mask_of(slice(0, 50)), TargetsConfig())
    with pytest.raises(ValueRangeError, match="got 0"):
        geometry.range_in_scan(-thing, camera(), mask, TargetsConfig())


@given(st.tuples(*[st.floats(-1, 1)] * 4), st.tuples(*[st.floats(-5, 5)] * 3))
@settings(max_examples=100, deadline=None)
def test_rotate_agrees_with_scipy(q, v):
    if np.linalg.norm(q) > 0.1:
        from scipy.spatial.transform import Rotation

        assert geometry.rotate(np.array(v), q) == pytest.approx(Rotation.from_quat(q).apply(v), abs=1e-9)


@given(st.tuples(*[st.floats(-1, 1)] * 3))
@example((-1.0, 0.0, 1.1e-6))  # almost a half turn
@settings(max_examples=200, deadline=None)
def test_facing_turns_x_to_the_direction(v):
    length = np.linalg.norm(v)
    if length > 0.1:
        direction, up = np.array(v) / length, np.array([0.0, -1.0, 0.0])
        q = geometry.quaternion_facing(direction, up)
        assert np.linalg.norm(q) == pytest.approx(1, abs=1e-9)
        assert geometry.rotate(np.array([1.0, 0, 0]), q) == pytest.approx(direction, abs=1e-9)
        assert geometry.rotate(np.array([0, 0, 1.0]), q) @ up >= -1e-6


def test_the_rim_of_a_mask_is_left_out():
    found = geometry.range_in_depth(np.full((480, 640), 2.0), mask_of(), AHEAD, TargetsConfig())
    assert found.count == 98 * 98 and found.share == 1.0


def test_beams_below_the_lasers_least_range_are_none():
    assert geometry.scan_points(np.array([0.05, 0.2, 1.0]), 0.0, 0.0, 0.1, 30.0)[:, 0] == pytest.approx([0.2, 1.0])


@pytest.mark.parametrize(("x", "y", "column", "row"), [(320.6, 239.6, 321, 240), (320.4, 240.4, 320, 240), (-0.3, -0.4, 0, 0)])
def test_a_beam_belongs_to_the_pixel_whose_centre_is_nearest(x, y, column, row):
    point = [(x - 320) / 500 * 2, (y - 240) / 510 * 2, 2.0]
    mask = mask_of(slice(row, row + 1), slice(column, column + 1))
    assert geometry.range_in_scan(np.array([point] * 3), camera(), mask, TargetsConfig()).point == pytest.approx(point)


def test_beams_nearer_than_the_least_range_of_a_target_are_none():
    with pytest.raises(ValueRangeError, match="got 0"):
        geometry.range_in_scan(np.array([[0, 0, 0.05]] * 3), camera(), mask_of(slice(230, 250), slice(310, 330)), TargetsConfig())


def test_a_second_camera_below_the_first_sees_from_there():
    lower = camera(p=np.array([[400.0, 0, 300, 0], [0, 400, 200, -48], [0, 0, 1, 0]]))
    assert lower.centre(rectified=True) == pytest.approx([0, 0.12, 0])


def test_a_small_share_of_valid_depth_and_a_direction_to_the_side_have_no_range():
    sparse = np.zeros((480, 640))
    sparse[110:115, 110:120] = 2.0
    with pytest.raises(ValueRangeError, match=r"got 50 \(1%\)"):
        geometry.range_in_depth(sparse, mask_of(), AHEAD, TargetsConfig())
    with pytest.raises(ValueRangeError, match="a direction ahead of the camera"):
        geometry.range_in_depth(np.full((480, 640), 2.0), mask_of(), np.array([1.0, 0, 0]), TargetsConfig())
