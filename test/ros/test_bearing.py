import math
import re
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from ros2_tracker.ros.bearing import BearingModel, why_no_bearing

WIDTH, HEIGHT = 1280, 720
K = (700.0, 0.0, 650.0, 0.0, 710.0, 350.0, 0.0, 0.0, 1.0)
DISTORTIONS = {
    "none": ("plumb_bob", ()),
    "zero": ("plumb_bob", (0.0,) * 5),
    "unnamed": ("", ()),
    "barrel": ("plumb_bob", (-0.3, 0.1, 0.001, -0.002, 0.01)),
    "barrel of four": ("plumb_bob", (-0.25, 0.08, 0.001, -0.002)),
    "pincushion": ("plumb_bob", (0.3, -0.1, 0.001, 0.0, 0.02)),
    "rational": ("rational_polynomial", (3.0, 1.5, 0.0003, -0.0002, 0.1, 3.3, 2.6, 0.5)),
    "equidistant": ("equidistant", (-0.05, 0.01, -0.003, 0.0005)),
    "fisheye": ("fisheye", (0.02, -0.004, 0.001, 0.0)),
    "ideal fisheye": ("equidistant", ()),
}


def camera_info(model="plumb_bob", d=(), k=K, width=WIDTH, height=HEIGHT, binning=(0, 0), roi=(0, 0, 0, 0)):
    """Fields of sensor_msgs/CameraInfo; `roi` is (x, y, width, height)."""
    x, y, w, h = roi
    return SimpleNamespace(
        k=np.array(k),
        d=d,
        distortion_model=model,
        width=width,
        height=height,
        binning_x=binning[0],
        binning_y=binning[1],
        roi=SimpleNamespace(x_offset=x, y_offset=y, width=w, height=h),
    )


def project(ray, model, d):
    """Pixel (u, v) of a direction by OpenCV, in our convention: 0.5 more than OpenCV's."""
    d = np.array(d, np.float64) if len(d) else np.zeros(4)
    function = cv2.fisheye.projectPoints if model in ("equidistant", "fisheye") else cv2.projectPoints
    point = np.array(ray, np.float64).reshape(1, 1, 3) / ray[2]
    pixel = function(point, np.zeros(3), np.zeros(3), np.array(K).reshape(3, 3), d)[0].ravel()
    return pixel[0] + 0.5, pixel[1] + 0.5


@pytest.mark.parametrize("lens", DISTORTIONS)
@settings(max_examples=150, deadline=None)
@given(x=st.floats(-0.95, 0.95), y=st.floats(-0.55, 0.55))
def test_bearing_inverts_projection(lens, x, y):
    model, d = DISTORTIONS[lens]
    ray = np.array([x, y, 1.0]) / math.sqrt(x * x + y * y + 1)
    found = BearingModel.from_camera_info(camera_info(model, d)).bearing(*project(ray, model, d), WIDTH, HEIGHT)
    np.testing.assert_allclose(found, ray, atol=1e-8)


@pytest.mark.parametrize("lens", DISTORTIONS)
@settings(max_examples=100, deadline=None)
@given(u=st.floats(0, WIDTH), v=st.floats(0, HEIGHT))
def test_projection_inverts_bearing(lens, u, v):
    model, d = DISTORTIONS[lens]
    ray = BearingModel.from_camera_info(camera_info(model, d)).bearing(u, v, WIDTH, HEIGHT)
    assert all(type(value) is float for value in ray)
    assert math.hypot(*ray) == pytest.approx(1, abs=1e-12)
    assert project(ray, model, d) == pytest.approx((u, v), abs=1e-4)


def test_axes_and_pixel_convention():
    model = BearingModel.from_camera_info(camera_info())
    cx, cy = K[2] + 0.5, K[5] + 0.5
    assert model.bearing(cx, cy, WIDTH, HEIGHT) == (0.0, 0.0, 1.0)
    right = model.bearing(cx + K[0], cy, WIDTH, HEIGHT)
    assert right == pytest.approx((math.sqrt(0.5), 0, math.sqrt(0.5)))
    down = model.bearing(cx, cy + K[4], WIDTH, HEIGHT)
    assert down == pytest.approx((0, math.sqrt(0.5), math.sqrt(0.5)))


def test_fisheye_sees_behind_itself():
    k = (200.0, 0.0, 640.0, 0.0, 200.0, 360.0, 0.0, 0.0, 1.0)
    model = BearingModel.from_camera_info(camera_info("equidistant", (), k))
    ray = model.bearing(640.5 + 200 * math.radians(110), 360.5, WIDTH, HEIGHT)
    assert ray == pytest.approx((math.sin(math.radians(110)), 0, math.cos(math.radians(110))))
    assert model.bearing(640.5 + 200 * math.radians(181), 360.5, WIDTH, HEIGHT) is None


def test_pixels_that_no_ray_reaches():
    # r (1 - 0.3 r²) is at most 0.703, at r = 1.054.
    model = BearingModel.from_camera_info(camera_info("plumb_bob", (-0.3, 0.0, 0.0, 0.0)))
    cx, cy = K[2] + 0.5, K[5] + 0.5
    assert model.bearing(cx + 0.69 * K[0], cy, WIDTH, HEIGHT) is not None
    assert model.bearing(cx + 0.71 * K[0], cy, WIDTH, HEIGHT) is None
    assert model.bearing(cx + 5 * K[0], cy, WIDTH, HEIGHT) is None
    fisheye = BearingModel.from_camera_info(camera_info("equidistant", (-0.3, 0.0, 0.0, 0.0)))
    assert fisheye.bearing(cx + 0.69 * K[0], cy, WIDTH, HEIGHT) is not None
    assert fisheye.bearing(cx + 0.71 * K[0], cy, WIDTH, HEIGHT) is None


def test_solutions_beyond_a_fold_are_not_taken():
    # r (1 - 0.5 r² + 0.1 r⁴) grows to 0.6 at r = 1, falls, and grows again from r = 1.41.
    model = BearingModel.from_camera_info(camera_info("plumb_bob", (-0.5, 0.1, 0.0, 0.0)))
    cx, cy = K[2] + 0.5, K[5] + 0.5
    assert model.bearing(cx + 0.59 * K[0], cy, WIDTH, HEIGHT) is not None
    for radius in np.linspace(0.61, 3, 40):
        assert model.bearing(cx + radius * K[0], cy, WIDTH, HEIGHT) is None
    fisheye = BearingModel.from_camera_info(camera_info("equidistant", (-0.5, 0.1, 0.0, 0.0)))
    for radius in np.linspace(0.61, 3, 40):
        assert fisheye.bearing(cx + radius * K[0], cy, WIDTH, HEIGHT) is None


@pytest.mark.parametrize("lens", ["barrel", "equidistant"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e300])
def test_pixels_without_sense(lens, bad):
    model = BearingModel.from_camera_info(camera_info(*DISTORTIONS[lens]))
    assert model.bearing(bad, 10.0, WIDTH, HEIGHT) is None
    assert model.bearing(10.0, bad, WIDTH, HEIGHT) is None


# --- images that are not the whole sensor -------------------------------------------------------------------------

FULL = camera_info(*DISTORTIONS["barrel"])


def bearing_of_full_image(u, v):
    return BearingModel.from_camera_info(FULL).bearing(u, v, WIDTH, HEIGHT)


def test_region_of_interest():
    info = camera_info(*DISTORTIONS["barrel"], roi=(300, 100, 640, 480))
    found = BearingModel.from_camera_info(info).bearing(50.0, 60.0, 640, 480)
    assert found == pytest.approx(bearing_of_full_image(350.0, 160.0))


def test_offset_without_size_reaches_to_the_border():
    info = camera_info(*DISTORTIONS["barrel"], roi=(300, 100, 0, 0))
    found = BearingModel.from_camera_info(info).bearing(50.0, 60.0, WIDTH - 300, HEIGHT - 100)
    assert found == pytest.approx(bearing_of_full_image(350.0, 160.0))


def test_binning():
    info = camera_info(*DISTORTIONS["barrel"], binning=(2, 4))
    found = BearingModel.from_camera_info(info).bearing(100.0, 50.0, WIDTH // 2, HEIGHT // 4)
    assert found == pytest.approx(bearing_of_full_image(200.0, 200.0))


def test_binning_of_a_region_that_it_does_not_divide():
    info = camera_info(*DISTORTIONS["barrel"], binning=(2, 2), roi=(300, 100, 641, 481))
    found = BearingModel.from_camera_info(info).bearing(320.0, 240.0, 320, 240)
    assert found == pytest.approx(bearing_of_full_image(940.0, 580.0))


@settings(deadline=None)
@given(
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.sampled_from([(0, 0), (1, 1), (2, 4)]),
)
def test_resized_image(x, y, image_width, image_height, binning):
    assume(image_width not in (WIDTH // 2, WIDTH // 4))
    info = camera_info(*DISTORTIONS["barrel"], binning=binning)
    found = BearingModel.from_camera_info(info).bearing(x * image_width, y * image_height, image_width, image_height)
    np.testing.assert_allclose(found, bearing_of_full_image(x * WIDTH, y * HEIGHT), atol=1e-7)


def test_camera_info_without_a_size_is_taken_to_fit():
    info = camera_info(*DISTORTIONS["barrel"], width=0, height=0)
    found = BearingModel.from_camera_info(info).bearing(50.0, 60.0, 640, 480)
    assert found == pytest.approx(bearing_of_full_image(50.0, 60.0))


# --- cameras without bearings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("info", "named"),
    [
        (camera_info(k=(0.0,) * 9), r"not calibrated.*K\[0\]=0"),
        (camera_info(k=(700.0, *K[1:4], 0.0, *K[5:])), r"K\[4\]=0"),
        (camera_info(k=(-700.0, *K[1:])), "K.0.=-700"),
        (camera_info(k=(math.nan, *K[1:])), "not finite"),
        (camera_info(k=(*K[:2], math.inf, *K[3:])), "not finite"),
        (camera_info(d=(0.1, math.nan, 0.0, 0.0, 0.0)), "not finite"),
        (camera_info("omnidirectional", (0.1,) * 4), "'omnidirectional' is not supported"),
        (camera_info("kannala_brandt5", ()), "'kannala_brandt5' is not supported"),
        (camera_info("", (0.1,) * 5), "'' is not supported"),
        (camera_info("plumb_bob", (0.1,) * 3), "3 coefficients"),
        (camera_info("equidistant", (0.1,) * 5), "5 coefficients"),
        (camera_info("x" * 100_000), "'xxxx"),
    ],
)
def test_unusable_camera_info(info, named):
    assert BearingModel.from_camera_info(info) is None
    assert re.search(named, why_no_bearing(info))
    assert len(why_no_bearing(info)) < 200


def test_real_message():
    pytest.importorskip("sensor_msgs.msg")
    from sensor_msgs.msg import CameraInfo

    assert BearingModel.from_camera_info(CameraInfo()) is None
    assert "not calibrated" in why_no_bearing(CameraInfo())
    model, d = DISTORTIONS["barrel"]
    info = CameraInfo(width=WIDTH, height=HEIGHT, distortion_model=model, d=d, k=K)
    assert why_no_bearing(info) is None
    found = BearingModel.from_camera_info(info).bearing(100.0, 60.0, WIDTH, HEIGHT)
    assert found == pytest.approx(bearing_of_full_image(100.0, 60.0))
