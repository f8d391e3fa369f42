"""A point in space becomes a pixel and a box: against OpenCV's own rotations and lenses written out; through tf2."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not there")
pytest.importorskip("vision_msgs.msg", reason="vision_msgs is not there")
pytest.importorskip("ros2_tracker.msg", reason="the messages of ros2_tracker are not built")

import rclpy
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from node_process import WAIT_S, free_domain
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from scene import time_of
from sensor_msgs.msg import CameraInfo, RegionOfInterest
from std_msgs.msg import Header

from ros2_tracker.ros.bearing import BearingModel
from ros2_tracker.ros.projection import Refused, box_of_point, project, rotated, transformed
from ros2_tracker.ros.qos import EVENT
from ros2_tracker.ros.transforms import Transforms, tf2_ros
from ros2_tracker.tracking.events import Reason

WIDTH, HEIGHT = 1280, 720
K = np.array([[900.0, 0.0, 650.3], [0.0, 910.0, 355.8], [0.0, 0.0, 1.0]])
LENSES = {
    "none": ("", []),
    "plumb_bob": ("plumb_bob", [-0.28, 0.09, 0.0007, -0.0004, -0.01]),
    "rational_polynomial": ("rational_polynomial", [0.6, 0.1, 0.0005, -0.0003, 0.02, 0.9, 0.2, 0.04]),
    "equidistant": ("equidistant", [-0.02, 0.004, -0.003, 0.0005]),
}

number = st.floats(-1.0, 1.0)


def camera(lens: str = "none", **changes: Any) -> BearingModel:
    name, coefficients = LENSES[lens]
    values = {"width": WIDTH, "height": HEIGHT, "distortion_model": name, "d": coefficients, "k": K.ravel(), **changes}
    model = BearingModel.from_camera_info(CameraInfo(**values))
    assert model is not None
    return model


CAMERAS = {lens: camera(lens) for lens in LENSES}


def imaged(lens: str, x: float, y: float, z: float) -> tuple[float, float]:
    """The lens models as OpenCV's manual writes them; px from the centre of the first pixel."""
    a, b, coefficients = x / z, y / z, LENSES[lens][1]
    r2 = a * a + b * b
    if lens == "equidistant":
        r = math.sqrt(r2)
        theta = math.atan(r)
        bent = theta * (1 + sum(k * theta ** (2 * i + 2) for i, k in enumerate(coefficients)))
        factor = bent / r if r > 0 else 1.0
        a, b = a * factor, b * factor
    elif coefficients:
        k1, k2, p1, p2, k3, k4, k5, k6 = [*coefficients, 0.0, 0.0, 0.0][:8]
        factor = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
        a, b = (
            a * factor + 2 * p1 * a * b + p2 * (r2 + 2 * a * a),
            b * factor + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b,
        )
    return K[0, 0] * a + K[0, 2], K[1, 1] * b + K[1, 2]


@st.composite
def poses(draw: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A rotation vector and a translation from the world to the camera, and a point of the world in its view."""
    axis = np.array([draw(number), draw(number), draw(number)])
    assume(np.linalg.norm(axis) > 0.01)
    rotation = axis / np.linalg.norm(axis) * draw(st.floats(-math.pi, math.pi))
    translation = np.array([draw(st.floats(-1e3, 1e3)) for _ in range(3)])
    depth = draw(st.floats(0.1, 500.0))
    point = np.array([draw(st.floats(-0.65, 0.65)) * depth, draw(st.floats(-0.35, 0.35)) * depth, depth])
    return rotation, translation, cv2.Rodrigues(rotation)[0].T @ (point - translation)


def quaternion_of(rotation: np.ndarray) -> tuple[float, float, float, float]:
    angle = float(np.linalg.norm(rotation))
    x, y, z = rotation / angle * math.sin(angle / 2) if angle else np.zeros(3)
    return (float(x), float(y), float(z), math.cos(angle / 2))


def reference(lens: str, world: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> tuple[float, float]:
    """The pixel that OpenCV finds with the rotation vector, by its own way to the camera; px from the corner."""
    if lens == "equidistant":
        x, y, z = cv2.Rodrigues(rotation)[0] @ world + translation
        u, v = imaged(lens, x, y, z)
    else:
        coefficients = np.array(LENSES[lens][1] or [0.0] * 4)
        u, v = cv2.projectPoints(world.reshape(1, 1, 3), rotation, translation, K, coefficients)[0].ravel()
    return u + 0.5, v + 0.5


@pytest.mark.parametrize("lens", LENSES)
@settings(max_examples=1000, deadline=None)
@given(pose=poses())
def test_pixel_is_where_opencv_has_it_for_any_pose(lens: str, pose: tuple[np.ndarray, np.ndarray, np.ndarray]):
    rotation, translation, world = pose
    point = transformed(tuple(translation), quaternion_of(rotation), tuple(world))
    pixel = project(CAMERAS[lens], point, WIDTH, HEIGHT)
    assert pixel == pytest.approx(reference(lens, world, rotation, translation), abs=0.01)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("point", [(0.0, 0.0, 2.0), (0.9, -0.4, 2.0), (-30.0, 20.0, 60.0)])
def test_lens_is_the_one_of_the_manual(lens: str, point: tuple[float, float, float]):
    u, v = imaged(lens, *point)
    assert project(camera(lens), point, WIDTH, HEIGHT) == pytest.approx((u + 0.5, v + 0.5), abs=1e-6)


@pytest.mark.parametrize("lens", LENSES)
@settings(max_examples=100, deadline=None)
@given(x=number, y=number, resized=st.sampled_from([1.0, 0.5, 2.0]), binning=st.sampled_from([0, 1, 2]))
def test_it_is_the_bearing_the_other_way_round(lens: str, x: float, y: float, resized: float, binning: int):
    roi = RegionOfInterest(x_offset=200, y_offset=100, width=800, height=600)
    model = camera(lens, roi=roi, binning_x=binning, binning_y=binning)
    width, height = round(800 * resized), round(600 * resized)
    u, v = project(model, (0.6 * x, 0.3 * y, 1.0), width, height)
    bearing = model.bearing(u, v, width, height)
    assert bearing is not None
    assert (bearing[0] / bearing[2], bearing[1] / bearing[2]) == pytest.approx((0.6 * x, 0.3 * y), abs=1e-6)


def test_box_is_as_large_as_the_object_looks():
    x, y, w, h = box_of_point(camera(), (1.0, 0.5, 10.0), 0.5, WIDTH, HEIGHT)
    assert (w, h) == pytest.approx((900 * 0.5 / 10, 910 * 0.5 / 10))
    assert (x + w / 2, y + h / 2) == pytest.approx((650.8 + 90.0, 356.3 + 45.5))
    # An image of half the size.
    assert box_of_point(camera(), (1.0, 0.5, 10.0), 0.5, WIDTH // 2, HEIGHT // 2) == pytest.approx(
        (x / 2, y / 2, w / 2, h / 2)
    )


def test_box_of_a_fisheye_counts_the_distance_in_space():
    *_, w, h = box_of_point(camera("equidistant"), (3.0, 0.0, 4.0), 0.5, 4000, HEIGHT)
    assert (w, h) == pytest.approx((900 * 4000 / WIDTH * 0.5 / 5, 91.0))


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize(
    ("point", "reason", "text"),
    [
        ((0.0, 0.0, -1.0), Reason.BOX_OUTSIDE_IMAGE, "behind the camera: (0, 0, -1) m"),
        ((1.0, 1.0, 0.0), Reason.BOX_OUTSIDE_IMAGE, "behind the camera"),
        ((0.0, 0.0, -0.0), Reason.BOX_OUTSIDE_IMAGE, "behind the camera"),
        ((20.0, 0.0, 5.0), Reason.BOX_OUTSIDE_IMAGE, "outside the image"),
        ((0.0, -1e300, 5.0), Reason.BOX_OUTSIDE_IMAGE, ""),
        ((1e308, 1e308, 1e-308), Reason.BOX_OUTSIDE_IMAGE, ""),
        ((math.nan, 0.0, 5.0), Reason.BOX_INVALID, "(nan, 0, 5) is not finite"),
        ((0.0, math.inf, 5.0), Reason.BOX_INVALID, "is not finite"),
        ((0.0, 0.0, math.nan), Reason.BOX_INVALID, "is not finite"),
    ],
)
def test_refusal_says_why(lens: str, point: tuple[float, float, float], reason: Reason, text: str):
    with pytest.raises(Refused) as refusal:
        box_of_point(camera(lens), point, 1.0, WIDTH, HEIGHT)
    assert refusal.value.reason is reason
    assert text in str(refusal.value)


def test_point_beyond_the_lens_is_refused_and_not_folded_back_into_the_image():
    model = camera(distortion_model="plumb_bob", d=[-0.28, 0.02, 0.0, 0.0])
    point = (2.2, 0.0, 1.0)
    # Its polynomial images it near the middle.
    u, _ = cv2.projectPoints(np.array([[point]]), np.zeros(3), np.zeros(3), K, model.distortion)[0].ravel()
    assert 650 < u < 900
    with pytest.raises(Refused, match="66° off the camera's axis, further than its lens model reaches"):
        project(model, point, WIDTH, HEIGHT)


@pytest.mark.parametrize("quaternion", [(0.0, 0.0, 0.0, 0.0), (math.nan, 0.0, 0.0, 1.0), (math.inf, 0.0, 0.0, 1.0)])
def test_what_is_no_rotation_is_refused(quaternion: tuple[float, float, float, float]):
    with pytest.raises(Refused, match="is no quaternion"):
        rotated(quaternion, (1.0, 2.0, 3.0))


# -- through tf2 ----------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes() -> Iterator[tuple[Any, Any]]:
    """Two nodes of one domain that are spun in the background."""
    with free_domain() as domain:
        context = Context()
        rclpy.init(args=[], context=context, domain_id=domain)
        pair = tuple(rclpy.create_node(name, context=context) for name in ("listener", "broadcaster"))
        executor = SingleThreadedExecutor(context=context)
        for node in pair:
            executor.add_node(node)

        def spin() -> None:
            with suppress(ExternalShutdownException):
                executor.spin()

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        yield pair
        context.try_shutdown()
        thread.join(10.0)
        executor.shutdown()


def stamped(parent: str, child: str, rotation: np.ndarray, translation: np.ndarray, stamp_ns: int) -> TransformStamped:
    x, y, z, w = quaternion_of(rotation)
    tx, ty, tz = (float(value) for value in translation)
    transform = Transform(translation=Vector3(x=tx, y=ty, z=tz), rotation=Quaternion(x=x, y=y, z=z, w=w))
    header = Header(frame_id=parent, stamp=time_of(stamp_ns))
    return TransformStamped(header=header, child_frame_id=child, transform=transform)


def test_pixel_through_tf2_is_where_opencv_has_it(nodes: tuple[Any, Any]):
    pytest.importorskip("tf2_ros", reason="tf2_ros is not there")
    from tf2_msgs.msg import TFMessage

    listener, broadcaster = nodes
    transforms = Transforms(listener)
    rng = np.random.default_rng(3)
    count, step_ns, begin_ns = 1000, 5_000_000, 1_000_000_000_000
    mount = rng.uniform(-2, 2, 3), rng.uniform(-1, 1, 3)
    motions = [(rng.uniform(-1.8, 1.8, 3), rng.uniform(-100, 100, 3)) for _ in range(count)]
    publisher = broadcaster.create_publisher(TFMessage, "/tf", 100)
    fixed = broadcaster.create_publisher(TFMessage, "/tf_static", EVENT)
    deadline = time.monotonic() + WAIT_S
    while not publisher.get_subscription_count():
        assert time.monotonic() < deadline, "no subscription to /tf"
        time.sleep(0.02)
    fixed.publish(TFMessage(transforms=[stamped("body", "camera", *mount, 0)]))
    for first in range(0, count, 100):
        batch = motions[first : first + 100]
        stamps = (begin_ns + (first + i) * step_ns for i in range(len(batch)))
        publisher.publish(
            TFMessage(transforms=[stamped("map", "body", *m, s) for m, s in zip(batch, stamps, strict=True)])
        )
    model, worst = camera("plumb_bob"), 0.0
    for index, (rotation, translation) in enumerate(motions):
        seen = np.array([rng.uniform(-0.6, 0.6), rng.uniform(-0.35, 0.35), 1.0]) * rng.uniform(0.5, 200)
        to_map = cv2.composeRT(*mount, rotation, translation)
        back = cv2.Rodrigues(to_map[0])[0].T
        world = cv2.Rodrigues(to_map[0])[0] @ seen + to_map[1].ravel()
        point = transforms.to_frame("camera", "/map", tuple(world), begin_ns + index * step_ns)
        u, v = project(model, point, WIDTH, HEIGHT)
        inverse, _ = cv2.Rodrigues(back)
        expected = reference("plumb_bob", world, inverse, -back @ to_map[1].ravel())
        worst = max(worst, math.dist((u, v), expected))
    assert worst < 0.01
    with pytest.raises(Refused, match="no transform from 'moon' to 'camera'"):
        transforms.to_frame("camera", "moon", (0.0, 0.0, 1.0), begin_ns)
    with pytest.raises(Refused, match=r"no transform from 'map' to 'camera': .*extrapolation"):
        transforms.to_frame("camera", "map", (0.0, 0.0, 1.0), begin_ns + 60 * 1_000_000_000)
    transforms.close()


@pytest.mark.skipif(tf2_ros is not None, reason="tf2_ros is there")
def test_without_tf2_the_point_must_be_in_the_images_frame(nodes: tuple[Any, Any]):
    transforms = Transforms(nodes[0])
    assert transforms.to_frame("camera", "/camera", (1.0, 2.0, 3.0), 0) == (1.0, 2.0, 3.0)
    with pytest.raises(Refused, match=r"'map'; without tf2_ros .* must be in the image's optical frame, 'camera'"):
        transforms.to_frame("camera", "map", (1.0, 2.0, 3.0), 0)


@pytest.mark.parametrize(
    ("target", "source", "text"),
    [("camera", "", "the point's header has no frame_id"), ("", "map", "neither the images nor camera_info")],
)
def test_frame_without_a_name_is_refused(nodes: tuple[Any, Any], target: str, source: str, text: str):
    with pytest.raises(Refused, match=text):
        Transforms(nodes[0]).to_frame(target, source, (1.0, 2.0, 3.0), 0)
