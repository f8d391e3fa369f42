"""Crops of InMo and IBFP that an engine cuts itself, beside those of the CPU: all of it on CPU tensors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ros2_tracker.engines.patch import Patch
from ros2_tracker.models.ibfp_settings import OnlineSettings
from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.ibfp import Ibfp
from ros2_tracker.tracking.ibfp_crop import replicated_crop, replicated_patch
from ros2_tracker.tracking.inmo import CnnInMo, TransInMo
from ros2_tracker.tracking.inmo_crop import window_crop, window_patch
from ros2_tracker.tracking.sample_target import SampleRegion

SIZE, HEIGHT, WIDTH = 32, 90, 120
FILL = (200.0, 100.0, 50.0)
# Before release 5, `warpAffine` rounds places to 1/32 px, which is 8 of 255 levels from one pixel to the next.
LEVELS = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 9


def noise(order: ColorOrder) -> ArrayFrame:
    """Neighbouring pixels have nothing in common, so that a hundredth of a pixel shows."""
    shape = (HEIGHT, WIDTH) if order is ColorOrder.GRAY else (HEIGHT, WIDTH, order.channels)
    return ArrayFrame(np.random.default_rng(3).integers(0, 256, shape, np.uint8), order)


FRAMES = {order: noise(order) for order in ColorOrder}
corners = st.tuples(st.floats(-150, 150), st.floats(-120, 120))
orders = st.sampled_from(list(ColorOrder))


def difference(found: Patch | np.ndarray, expected: np.ndarray) -> int:
    """Of the crop that torch cuts to the one cut on the CPU, in grey levels."""
    torch_crop = pytest.importorskip("ros2_tracker.engines.torch_crop", reason="this engine needs torch")
    torch = pytest.importorskip("torch")
    row = torch.full((1, torch_crop.row_bytes(SIZE)), 77, dtype=torch.uint8)
    torch_crop.pack(row[0].numpy(), found, SIZE)
    return int(np.abs(torch_crop.cut(row, SIZE)[0].numpy().astype(int) - expected).max())


@settings(max_examples=60, deadline=None)
@given(orders, corners, st.integers(1, 70) | st.integers(1, 600))
def test_region_of_inmo(order: ColorOrder, corner: tuple[float, float], side: int):
    region = SampleRegion(round(corner[0]), round(corner[1]), side, SIZE)
    found, expected = (cut(FRAMES[order], region, FILL) for cut in (window_patch, window_crop))
    np.testing.assert_array_equal(found, expected)
    assert difference(found, expected) <= 1


@settings(max_examples=60, deadline=None)
@given(orders, corners, st.floats(2, 70) | st.floats(2, 600))
def test_region_of_ibfp(order: ColorOrder, corner: tuple[float, float], side: float):
    found, expected = (cut(FRAMES[order], Region(*corner, side), SIZE) for cut in (replicated_patch, replicated_crop))
    np.testing.assert_array_equal(found, expected)
    assert difference(found, expected) <= LEVELS


class Features:
    """An engine that answers every template with nothing."""

    batch = 1

    def __init__(self, size: int) -> None:
        self.inputs = {"template": (1, size, size, 3)}
        self.outputs = {"deep": (1, 1), "middle": (1, 1), "size": (1, 2)}

    def run(self, looks):
        """Zeros."""
        return [{name: np.zeros((1, 1), np.float32) for name in self.outputs} for _ in looks]


@pytest.mark.parametrize("name", ["transinmo", "cnninmo", "ibfp-r18"])
def test_a_look_may_leave_the_cutting_to_the_engine(name: str):
    variant = load_variant(name)
    engine = Features(variant.template.size)
    made = {
        "transinmo": lambda lazy: TransInMo(variant, engine, lazy),
        "cnninmo": lambda lazy: CnnInMo(variant, engine, lazy),
        "ibfp-r18": lambda lazy: Ibfp(variant, engine, OnlineSettings(kind="off"), None, lazy),
    }[name]
    pixels = np.random.default_rng(2).integers(0, 256, (480, 640, 3), np.uint8)
    frame, box = ArrayFrame(pixels), Box(20.0, 200.3, 90.4, 70.1)
    eager, lazy = made(False), made(True)
    appearance = eager.appearance(frame, box)
    now, later = (family.look(appearance, frame, box) for family in (eager, lazy))
    assert isinstance(now.inputs["search"], np.ndarray)
    assert isinstance(later.inputs["search"], Patch)
    np.testing.assert_array_equal(later.inputs["search"], now.inputs["search"])
    assert now.region == later.region
