import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sensor_msgs.msg")
from geometry_msgs.msg import Point32, PolygonStamped
from sensor_msgs.msg import RegionOfInterest
from std_msgs.msg import Header

from ros2_tracker.ros.boxes import CLASS_ID, detection, from_detection, from_polygon, from_roi

pixels = st.floats(-1e4, 1e4)
sizes = st.floats(0, 1e4)


def detection_like(x, y, w, h, theta=0.0, target_id="", stamp=None):
    """The fields of vision_msgs 4.x that are read, for machines without it."""
    center = SimpleNamespace(position=SimpleNamespace(x=x, y=y), theta=theta)
    return SimpleNamespace(
        bbox=SimpleNamespace(center=center, size_x=w, size_y=h), id=target_id, header=SimpleNamespace(stamp=stamp)
    )


def polygon(*points):
    msg = PolygonStamped()
    msg.polygon.points = [Point32(x=float(x), y=float(y)) for x, y in points]
    return msg


def test_detection_centre_becomes_corner():
    stamp = object()
    box, target_id, read_stamp = from_detection(detection_like(50.0, 40.0, 20.0, 10.0, 0.0, "car", stamp))
    assert box == (40.0, 35.0, 20.0, 10.0)
    assert target_id == "car"
    assert read_stamp is stamp


@given(pixels, pixels, sizes, sizes, st.floats(-10, 10))
def test_rotated_detection_becomes_the_box_around_it(x, y, w, h, theta):
    box = from_detection(detection_like(x, y, w, h, theta)).box
    corners = np.array([[-w, -h], [w, -h], [w, h], [-w, h]]) / 2
    cos, sin = math.cos(theta), math.sin(theta)
    corners = corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y)
    np.testing.assert_allclose(box[:2], corners.min(axis=0), atol=1e-6)
    np.testing.assert_allclose(box[2:], np.ptp(corners, axis=0), atol=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["x", "y", "w", "h", "theta"])
def test_values_that_are_not_finite_pass_through(bad, field):
    values = {"x": 1.0, "y": 2.0, "w": 3.0, "h": 4.0, field: bad}
    assert not all(math.isfinite(value) for value in from_detection(detection_like(**values)).box)


def test_negative_size_stays_negative():
    assert from_detection(detection_like(0.0, 0.0, -4.0, 2.0)).box[2] == -4.0


def test_region_of_interest():
    box = from_roi(RegionOfInterest(x_offset=3, y_offset=4, width=50, height=60))
    assert box == (3.0, 4.0, 50.0, 60.0)
    assert all(isinstance(value, float) for value in box)


@pytest.mark.parametrize(
    "points",
    [
        [(10, 20), (40, 25)],
        [(40, 25), (10, 20)],
        [(40, 20), (10, 25)],
        [(10, 20), (40, 20), (40, 25), (10, 25)],
        [(10, 22), (25, 20), (40, 22), (30, 25), (12, 24)],
    ],
)
def test_polygon(points):
    assert from_polygon(polygon(*points)) == (10.0, 20.0, 30.0, 5.0)


@pytest.mark.parametrize("points", [[], [(1, 2)]])
def test_polygon_without_extent_is_refused(points):
    with pytest.raises(ValueError, match=f"polygon of {len(points)} points"):
        from_polygon(polygon(*points))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_polygon_with_a_value_that_is_not_finite(bad, at):
    points = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    points[at][0] = bad
    x, y, w, h = from_polygon(polygon(*points))
    assert not (math.isfinite(x) and math.isfinite(w))
    assert (y, h) == (2.0, 4.0)


def test_published_detection():
    pytest.importorskip("vision_msgs.msg")
    header = Header(frame_id="camera")
    header.stamp.sec = 7
    msg = detection((np.float64(10), 20, np.float32(30), 5.0), "car", np.float32(0.5), header)
    assert msg.header == header
    assert msg.id == "car"
    assert (msg.bbox.center.position.x, msg.bbox.center.position.y) == (25.0, 22.5)
    assert (msg.bbox.size_x, msg.bbox.size_y, msg.bbox.center.theta) == (30.0, 5.0, 0.0)
    assert [(r.hypothesis.class_id, r.hypothesis.score) for r in msg.results] == [(CLASS_ID, 0.5)]


@given(pixels, pixels, sizes, sizes)
def test_detection_round_trip(x, y, w, h):
    pytest.importorskip("vision_msgs.msg")
    box, target_id, stamp = from_detection(detection((x, y, w, h), "a", 1.0, Header()))
    assert box == pytest.approx((x, y, w, h), abs=1e-9)
    assert (target_id, stamp.sec) == ("a", 0)
