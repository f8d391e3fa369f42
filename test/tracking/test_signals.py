"""Signals of one answer: each against its formula, or against what it is to tell apart."""

from __future__ import annotations

import math
import pickle
import weakref
from dataclasses import FrozenInstanceError, astuple, fields, replace

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ros2_tracker.tracking.crop import Region, crop
from ros2_tracker.tracking.family import Look, Proposal
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.result import ReliabilitySignals
from ros2_tracker.tracking.score_map import MapShape
from ros2_tracker.tracking.signals import Familiar, Seen
from ros2_tracker.tracking.views import View

score_maps = npst.arrays(np.float32, (16, 16), elements=st.floats(0, 1, width=32))
cells = st.tuples(st.integers(0, 15), st.integers(0, 15))
GREY = (127.0, 127.0, 127.0)
DT = 1 / 30


# -- the score map ----------------------------------------------------------------------------------------------------


@given(score_maps, cells)
def test_psr_by_its_formula(score_map: np.ndarray, cell: tuple[int, int]):
    row, column = cell
    sidelobe = [
        float(score_map[r, c]) for r in range(16) for c in range(16) if abs(r - row) > 2 or abs(c - column) > 2
    ]
    mean = sum(sidelobe) / len(sidelobe)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in sidelobe) / len(sidelobe))
    expected = (float(score_map[cell]) - mean) / (deviation + 1e-3)
    assert MapShape(score_map, cell).psr() == pytest.approx(expected, rel=1e-3, abs=1e-3)


@given(score_maps)
def test_apce_by_its_formula(score_map: np.ndarray):
    values = [float(v) for v in score_map.ravel()]
    low, high = min(values), max(values)
    energy = sum((v - low) ** 2 for v in values) / len(values)
    expected = (high - low) ** 2 / (energy + 1e-6)
    assert MapShape(score_map, (0, 0)).apce() == pytest.approx(expected, rel=1e-3, abs=1e-4)


@given(score_maps, cells, st.tuples(st.integers(2, 20), st.integers(2, 20)))
def test_margin_is_to_the_highest_score_outside_the_target(score_map: np.ndarray, cell, reach):
    outside = [
        float(score_map[r, c])
        for r in range(16)
        for c in range(16)
        if abs(r - cell[0]) > reach[0] or abs(c - cell[1]) > reach[1]
    ]
    expected = float(score_map[cell]) - max(outside, default=0.0)
    assert MapShape(score_map, cell).margin(reach) == pytest.approx(expected, abs=1e-6)


@given(score_maps)
def test_entropy_by_its_formula(score_map: np.ndarray):
    total = float(score_map.sum())
    expected = 1.0
    if total > 1e-3:
        expected = -math.log(sum((float(v) / total) ** 2 for v in score_map.ravel())) / math.log(256)
        assert MapShape(score_map, (0, 0)).entropy() == pytest.approx(expected, abs=1e-4)


def test_entropy_is_0_for_one_cell_and_1_for_uniform():
    one = np.zeros((16, 16), np.float32)
    one[3, 4] = 0.7
    assert MapShape(one, (3, 4)).entropy() == pytest.approx(0.0, abs=1e-6)
    assert MapShape(np.full((16, 16), 0.2, np.float32), (3, 4)).entropy() == pytest.approx(1.0)
    assert MapShape(np.zeros((16, 16), np.float32), (3, 4)).entropy() == 1.0


def test_a_second_peak_lowers_all_and_a_higher_one_makes_the_margin_negative():
    one = np.zeros((16, 16), np.float32)
    one[4, 4] = 0.8
    two = one.copy()
    two[12, 12] = 0.9
    clear, torn = MapShape(one, (4, 4)), MapShape(two, (4, 4))
    assert torn.psr() < clear.psr()
    assert torn.apce() < clear.apce()
    assert torn.entropy() > clear.entropy()
    assert torn.margin((2, 2)) == pytest.approx(-0.1)


def test_map_that_is_not_finite_raises_nothing():
    shape = MapShape(np.full((16, 16), np.nan, np.float32), (3, 3))
    assert all(map(math.isnan, (shape.psr(), shape.apce(), shape.margin((2, 2)))))


# -- what the box shows -----------------------------------------------------------------------------------------------


def scene(seed: int = 0, x: float = 100.0, size: int = 40) -> np.ndarray:
    """A 320x240 meadow with noise, and a patterned target with its left upper corner at (x, 80)."""
    rng = np.random.default_rng(5)
    image = cv2.resize(rng.integers(60, 120, (24, 32, 3), dtype=np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
    image[..., 1] += 60
    pattern = np.random.default_rng(seed).integers(0, 255, (5, 5, 3), dtype=np.uint8)
    image[80 : 80 + size, round(x) : round(x) + size] = cv2.resize(pattern, (size, size))
    noise = np.random.default_rng(1000 + seed).integers(-3, 4, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def box_at(x: float, size: float = 40.0) -> Box:
    return Box(x, 80.0, size, size)


def view_of(image: np.ndarray, box: Box) -> View:
    return View.of(ArrayFrame(image), box, GREY)


@pytest.mark.parametrize("size", [6, 13, 40, 120])
def test_same_target_looks_the_same_and_another_one_does_not(size: int):
    first = view_of(scene(0, 100, size), box_at(100, size))
    moved = view_of(scene(0, 130, size), box_at(130, size))
    other = view_of(scene(1, 100, size), box_at(100, size))
    assert moved.same_pattern(first) > 0.9
    assert moved.same_colours(first) > 0.8
    assert other.same_pattern(first) < moved.same_pattern(first) - 0.3
    assert other.same_colours(first) < moved.same_colours(first) - 0.1


def test_similarities_are_symmetric_and_1_with_itself():
    a, b = view_of(scene(0), box_at(100)), view_of(scene(1), box_at(100))
    assert a.same_pattern(a) == pytest.approx(1.0)
    assert a.same_colours(a) == pytest.approx(1.0)
    assert a.same_pattern(b) == pytest.approx(b.same_pattern(a))
    assert a.same_colours(b) == pytest.approx(b.same_colours(a))


def test_brightness_and_contrast_do_not_change_the_pattern():
    image = scene()
    darker = (0.5 * image + 20).astype(np.uint8)
    assert view_of(darker, box_at(100)).same_pattern(view_of(image, box_at(100))) > 0.99


def test_box_a_little_off_still_looks_the_same():
    image = scene()
    assert view_of(image, box_at(102)).same_pattern(view_of(image, box_at(100))) > 0.8


def test_plain_colour_has_no_pattern():
    plain = np.full((240, 320, 3), 90, np.uint8)
    assert view_of(plain, box_at(100)).same_pattern(view_of(scene(), box_at(100))) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("order", list(ColorOrder))
def test_every_order_of_channels_compares_with_itself(order: ColorOrder):
    bgr = scene()
    pixels = {
        ColorOrder.BGR: bgr,
        ColorOrder.RGB: bgr[..., ::-1].copy(),
        ColorOrder.BGRA: cv2.cvtColor(bgr, cv2.COLOR_BGR2BGRA),
        ColorOrder.RGBA: cv2.cvtColor(bgr, cv2.COLOR_BGR2RGBA),
        ColorOrder.GRAY: cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY),
    }[order]
    frame = ArrayFrame(pixels, order)
    familiar = Familiar.of(frame, box_at(100), GREY)
    signals = answer(familiar, frame, box_at(100)).signals
    assert signals.similarity_first == pytest.approx(1.0)
    assert signals.similarity_recent == pytest.approx(1.0)
    assert signals.exposure > 0.7


@pytest.mark.parametrize("box", [Box(-20, 80, 40, 40), Box(300, 220, 60, 60), Box(-500, -500, 40, 40)])
def test_box_over_the_border_or_outside_has_finite_signals(box: Box):
    frame = ArrayFrame(scene())
    familiar = Familiar.of(frame, box_at(100), GREY)
    assert all(map(math.isfinite, vars_of(answer(familiar, frame, box))))


# -- the answer as a whole --------------------------------------------------------------------------------------------


def vars_of(seen: Seen) -> list[float]:
    return list(astuple(seen.signals))


class Counting:
    """A frame that counts the single rows that are read of it."""

    def __init__(self, frame: ArrayFrame) -> None:
        self.frame, self.rows = frame, 0

    def __getattr__(self, name: str):
        return getattr(self.frame, name)

    def region(self, x0: int, y0: int, x1: int, y1: int):
        self.rows += y1 == y0 + 1
        return self.frame.region(x0, y0, x1, y1)


def answer(familiar: Familiar, frame: ArrayFrame, box: Box, last: Box | None = None, size_update: float = 1.0) -> Seen:
    score_map = np.full((1, 16, 16), 0.01, np.float32)
    score_map[0, 8, 8] = 0.9
    last = last or box
    look = Look({}, Region.around(last, 4.0), last, frame.width, frame.height)
    return seen_of(familiar, frame, look, Proposal(box, 0.9, score_map, ((8, 8),)), size_update)


def seen_of(familiar: Familiar, frame: ArrayFrame, look: Look, found: Proposal, size_update: float = 1.0) -> Seen:
    maps = tuple(map(MapShape, found.score_maps, found.cells))
    return familiar.seen(frame, look, found, maps, familiar.strips_of(frame), DT, 0.0, size_update)


@pytest.mark.parametrize("order", [ColorOrder.BGR, ColorOrder.RGB, ColorOrder.GRAY])
def test_a_view_of_the_search_crop_is_as_one_of_the_frame(order: ColorOrder):
    """The first view is of the frame, later ones are of crops, which are RGB whatever the camera's order is."""

    def frame_of(image: np.ndarray) -> ArrayFrame:
        if order is ColorOrder.GRAY:
            return ArrayFrame(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), order)
        return ArrayFrame(image if order is ColorOrder.BGR else image[..., ::-1].copy(), order)

    def signals_at(frame: ArrayFrame, box: Box) -> ReliabilitySignals:
        region = Region.around(box_at(100), 4.0)
        look = Look({"search": crop(frame, region, 256, GREY)}, region, box_at(100), frame.width, frame.height)
        score_map = np.full((1, 16, 16), 0.01, np.float32)
        return seen_of(familiar, frame, look, Proposal(box, 0.9, score_map, ((8, 8),))).signals

    familiar = Familiar.of(frame_of(scene(0)), box_at(100), GREY)
    same = signals_at(frame_of(scene(0, 110)), box_at(110))
    other = signals_at(frame_of(scene(1, 110)), box_at(110))
    assert same.similarity_first > 0.85
    assert same.similarity_recent > 0.9
    assert other.similarity_recent < same.similarity_recent - 0.2


@pytest.mark.parametrize("size_update", [0.4, 1.0])
def test_changes_of_size_and_aspect_are_those_that_the_network_said(size_update: float):
    frame, last = ArrayFrame(scene()), box_at(100)
    found = Box.from_center(last.cx, last.cy, 80.0, 40.0)
    smoothed = Box.from_center(
        last.cx, last.cy, *(size_update * new + (1 - size_update) * 40.0 for new in (found.w, found.h))
    )
    signals = answer(Familiar.of(frame, last, GREY), frame, smoothed, last, size_update).signals
    assert signals.size_change == pytest.approx(math.log(2))
    assert signals.aspect_change == pytest.approx(math.log(2))


def test_blur_lowers_the_sharpness():
    image = scene()
    familiar = Familiar.of(ArrayFrame(image), box_at(100), GREY)
    blurred = ArrayFrame(cv2.GaussianBlur(image, (0, 0), 4.0))
    assert answer(familiar, ArrayFrame(image), box_at(100)).signals.sharpness == pytest.approx(1.0)
    assert answer(familiar, blurred, box_at(100)).signals.sharpness < 0.6


@pytest.mark.parametrize("level", [0, 255])
def test_black_and_white_images_show_in_the_exposure(level: int):
    familiar = Familiar.of(ArrayFrame(scene()), box_at(100), GREY)
    signals = answer(familiar, ArrayFrame(np.full((240, 320, 3), level, np.uint8)), box_at(100)).signals
    assert signals.exposure == 0.0
    assert answer(familiar, ArrayFrame(scene()), box_at(100)).signals.exposure > 0.9


@pytest.mark.parametrize("step", [0, 1, 7, 30])
def test_repeated_image_counts_as_frozen_until_another_comes(step: int):
    image = scene(0)
    familiar = Familiar.of(ArrayFrame(image), box_at(100), GREY)
    for i in range(1, 5):
        # The box moves on: the tracker does not know yet; a search jumps.
        seen = answer(familiar, ArrayFrame(image.copy()), box_at(100 + i * step))
        assert seen.signals.frozen_for == pytest.approx(i * DT)
        familiar = familiar.after(seen, 0.9)
    one_pixel_of_noise = image.copy()
    one_pixel_of_noise[::2, ::2] ^= 1
    assert answer(familiar, ArrayFrame(one_pixel_of_noise), box_at(100 + 4 * step)).signals.frozen_for == 0.0


@pytest.mark.parametrize("far", [2, 30])
def test_strips_are_read_again_where_the_target_has_left_them(far: int):
    def reads(box: Box) -> int:
        frame = Counting(ArrayFrame(scene(0)))
        answer(familiar, frame, box).signals.sharpness  # noqa: B018
        return frame.rows

    familiar = Familiar.of(ArrayFrame(scene(0)), box_at(100), GREY)
    assert reads(box_at(100 + far)) == (5 if far == 2 else 7)


def test_target_that_moves_before_a_still_background_is_not_frozen():
    still = scene(0)
    moved = still.copy()
    moved[80:120, 100:140] = np.roll(still[80:120, 100:140], 3, axis=1)
    familiar = Familiar.of(ArrayFrame(still), box_at(100), GREY)
    assert answer(familiar, ArrayFrame(moved), box_at(100)).signals.frozen_for == 0.0


def test_only_reliable_views_become_familiar():
    frame, other = ArrayFrame(scene(0)), ArrayFrame(scene(1))
    familiar = Familiar.of(frame, box_at(100), GREY)
    strange = answer(familiar, other, box_at(100))
    doubted, believed = familiar.after(strange, 0.3), familiar.after(strange, 0.95)
    assert answer(doubted, other, box_at(100)).signals.similarity_recent < 0.8
    assert answer(believed, other, box_at(100)).signals.similarity_recent > 0.95
    assert doubted.trusted is None
    assert believed.trusted == strange.signals
    assert answer(believed, other, box_at(100)).signals.similarity_first < 0.9, "the first view stays for ever"


def test_of_two_corners_the_worse_one_counts():
    frame = ArrayFrame(scene())
    familiar = Familiar.of(frame, box_at(100), GREY)
    maps = np.full((2, 20, 20), 0.001, np.float32)
    maps[:, 10, 10] = 0.9
    look = Look({}, Region.around(box_at(100), 5.0), box_at(100), 320, 240)
    clear = Proposal(box_at(100), 0.9, maps, ((10, 10), (10, 10)))
    torn_maps = maps.copy()
    torn_maps[1, 2, 2] = 0.8
    torn = replace(clear, score_maps=torn_maps)
    good, bad = (seen_of(familiar, frame, look, found).signals for found in (clear, torn))
    assert good.margin == pytest.approx(0.899)
    assert bad.margin == pytest.approx(0.1)
    assert bad.psr < good.psr
    assert bad.entropy > good.entropy


# -- signals are computed when they are asked for ----------------------------------------------------------------------


def test_signals_are_of_their_own_image_however_late_they_are_asked_for():
    image = scene(0)
    familiar = Familiar.of(ArrayFrame(image.copy()), box_at(100), GREY)
    expected = astuple(answer(familiar, ArrayFrame(image.copy()), box_at(103)).signals)
    late = answer(familiar, ArrayFrame(image), box_at(103))
    image[:] = 0  # the camera's buffer is used again
    for i in range(3):
        familiar = familiar.after(late, 0.9)
        answer(familiar, ArrayFrame(scene(i + 1)), box_at(100))
    assert astuple(late.signals) == expected


def test_late_signals_are_like_any_others():
    frame = ArrayFrame(scene())
    familiar = Familiar.of(frame, box_at(100), GREY)
    early, late, copied = (answer(familiar, frame, box_at(104)).signals for _ in range(3))
    values = [getattr(early, field.name) for field in fields(ReliabilitySignals)]
    assert isinstance(late, ReliabilitySignals)
    assert late == early
    assert [getattr(pickle.loads(pickle.dumps(copied)), field.name) for field in fields(copied)] == values
    assert replace(late, peak=0.1).margin == early.margin
    assert replace(late, peak=0.1).peak == 0.1
    assert "similarity_recent=" in repr(late)
    with pytest.raises(FrozenInstanceError):
        late.psr = 1.0  # type: ignore[misc]
    with pytest.raises(AttributeError, match="colour"):
        late.colour  # noqa: B018


def test_what_was_seen_is_not_kept_for_ever():
    # Signals that nobody asked for hold what they are computed from, but not the frames before.
    frames = [ArrayFrame(scene(i)) for i in range(2)]
    familiar = Familiar.of(frames[0], box_at(100), GREY)
    kept: list[weakref.ref] = []
    for i in range(6):
        seen = answer(familiar, frames[i % 2], box_at(100 + i))
        kept.append(weakref.ref(seen.signals._answer.maps[0].scores.base))
        familiar = familiar.after(seen, 0.95)
    del seen
    assert [ref() is None for ref in kept] == [True] * 5 + [False]
