"""What is learnt of a target: against the equations, and against what it is for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.discriminator import Discriminator, _solution, nothing_learnt, unmixed_score
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.settings import LearningSettings

CELLS, CHANNELS = 16, 24
REGION = Region(100.0, 40.0, 160.0)
SETTINGS = LearningSettings()
DT = 1 / 30


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def directions(seed: int, count: int) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(count, CHANNELS)))


def box_at(row: int, column: int, size: float = 40.0) -> Box:
    step = REGION.side / CELLS
    return Box.from_center(REGION.x + (column + 0.5) * step, REGION.y + (row + 0.5) * step, size, size)


def scene(things: dict[tuple[int, int], np.ndarray], seed: int = 0) -> np.ndarray:
    """Cells of a search region: of a background, with things of 3x3 cells around places."""
    rng = np.random.default_rng(seed)
    cells = np.broadcast_to(directions(99, 1)[0], (CELLS, CELLS, CHANNELS)) + 0.3 * rng.normal(
        size=(CELLS, CELLS, CHANNELS)
    ) / np.sqrt(CHANNELS)
    for (row, column), look in things.items():
        cells[row - 1 : row + 2, column - 1 : column + 2] = look + 0.1 * rng.normal(size=(3, 3, CHANNELS))
    return unit(cells.reshape(-1, CHANNELS))


def response(learnt: np.ndarray, features: np.ndarray) -> np.ndarray:
    return (features @ learnt[:-2] + learnt[-2]).reshape(CELLS, CELLS)


def first(features: np.ndarray, box: Box, settings: LearningSettings = SETTINGS) -> Discriminator:
    return Discriminator.of([(features, REGION)], box, settings)


def learns(known: Discriminator, *frame, rules: LearningSettings = SETTINGS) -> Discriminator:
    """What is known after a frame: features, box, reliability, seconds since the one before."""
    features, box, reliability, dt = frame
    return known.after(features, REGION, box, reliability, dt, rules)


def test_it_solves_the_weighted_ridge_regression():
    """By its definition: minimise sum of weight * (sample . w - label)^2 + ridge |w|^2, in double precision."""
    features, box = scene({(8, 6): directions(1, 1)[0]}), box_at(8, 6, 35.0)
    expected = regression(features, box, 35.0)
    learnt = first(features, box).learnt
    assert learnt.dtype == np.float32
    np.testing.assert_allclose(learnt[:-2], expected[:-1], atol=2e-3)
    assert learnt[-2] == pytest.approx(0.3 * expected[-1], abs=2e-3)
    assert learnt[-1] == SETTINGS.weight


def regression(features: np.ndarray, box: Box, size: float) -> np.ndarray:
    step, (x, y) = REGION.side / CELLS, (box.cx - REGION.x, box.cy - REGION.y)
    at = (np.arange(CELLS) + 0.5) * step
    sigma = max(0.25 * size, 0.5 * step)
    label = np.exp(-0.5 * (((at - y) / sigma)[:, None] ** 2 + ((at - x) / sigma)[None, :] ** 2)).ravel()
    weight = 0.5 * label / label.sum() + 0.5 * (1 - label) / (1 - label).sum()
    samples = np.hstack([features, np.full((len(features), 1), 0.3)]).astype(np.float64)
    squares = samples.T @ (weight[:, None] * samples)
    ridge = 0.03 * np.trace(squares) / len(squares)
    return np.linalg.solve(squares + ridge * np.eye(len(squares)), samples.T @ (weight * label))


@settings(deadline=None)
@given(st.integers(2, 13), st.integers(2, 13), st.integers(0, 50))
def test_it_answers_highest_at_the_target_wherever_that_goes(row: int, column: int, seed: int):
    look = directions(seed, 1)[0]
    known = first(scene({(8, 8): look}, seed), box_at(8, 8))
    found = response(known.learnt, scene({(row, column): look}, seed + 1))
    best = np.unravel_index(found.argmax(), found.shape)
    assert max(abs(best[0] - row), abs(best[1] - column)) <= 1


def test_a_look_alike_that_was_there_from_the_first_frame_answers_less():
    target, other = directions(3, 2)
    alike = unit(target + 0.6 * other)
    features = scene({(8, 8): target, (8, 13): alike})
    found = response(first(features, box_at(8, 8)).learnt, features)
    # The template's own likeness: what a network that only compares has to go by.
    compared = (features @ target).reshape(CELLS, CELLS)
    assert found[8, 13] / found[8, 8] < 0.5 * compared[8, 13] / compared[8, 8]


def test_a_changing_look_is_followed_and_the_first_one_kept():
    before, after = directions(4, 2)
    known = first(scene({(8, 8): before}), box_at(8, 8))
    changed = scene({(8, 8): after}, 1)
    unknown = response(known.learnt, changed)[8, 8]
    for i in range(90):
        known = learns(known, scene({(8, 8): after}, i), box_at(8, 8), 0.9, DT)
    assert response(known.learnt, changed)[8, 8] > unknown + 0.3
    shown_before = response(known.learnt, scene({(5, 5): before}, 7))
    assert np.unravel_index(shown_before.argmax(), shown_before.shape) == pytest.approx((5, 5), abs=1)


def test_lessons_are_taken_at_the_interval_of_image_time_and_only_while_reliable():
    features, box = scene({(8, 8): directions(5, 1)[0]}), box_at(8, 8)
    rules = LearningSettings(interval=0.1, above=0.6)
    start = first(features, box, rules)

    def lessons(reliability: float, dt: float, frames: int) -> int:
        known, count = start, 0
        for _ in range(frames):
            after = learns(known, features, box, reliability, dt, rules=rules)
            count += after.learnt is not known.learnt
            known = after
        return count

    assert lessons(0.9, 0.05, 20) == 10
    assert lessons(0.9, 0.2, 20) == 20
    assert lessons(0.59, 0.2, 20) == 0


def test_what_was_learnt_is_the_same_array_until_more_is_learnt():
    """So that an engine on a GPU uploads it once."""
    features, box = scene({(8, 8): directions(6, 1)[0]}), box_at(8, 8)
    known = first(features, box)
    assert learns(known, features, box, 0.1, DT).learnt is known.learnt


def test_a_long_pause_does_not_make_one_view_outweigh_all_before_it():
    before, after = directions(8, 2)
    known = first(scene({(8, 8): before}), box_at(8, 8))
    for i in range(30):
        known = learns(known, scene({(8, 8): before}, i), box_at(8, 8), 0.9, DT)
    shown = scene({(8, 8): before}, 60)
    usual = response(known.learnt, shown)[8, 8]
    known = learns(known, scene({(8, 8): after}, 50), box_at(8, 8), 0.9, 100.0)
    assert response(known.learnt, shown)[8, 8] > 0.85 * usual


@pytest.mark.parametrize("box", [Box(-500, -500, 40, 40), Box(100, 40, 2, 2), Box(0, 0, 1000, 1000)])
def test_boxes_outside_or_of_no_size_leave_numbers(box: Box):
    assert np.isfinite(first(scene({}), box).learnt).all()


def test_nothing_learnt_is_a_share_of_nothing():
    assert not nothing_learnt(CHANNELS).any()
    assert nothing_learnt(CHANNELS).shape == (CHANNELS + 2,)


@pytest.mark.parametrize(
    "wrong", [{"weight": 1.1}, {"above": -0.1}, {"interval": float("nan")}, {"half_life": 0.0}, {"drawn": 1.5}]
)
def test_settings_out_of_range_are_named(wrong: dict[str, float]):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf"learning\.{name}"):
        LearningSettings(**wrong)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_refused(value: float):
    features, box = scene({(8, 8): directions(7, 1)[0]}), box_at(8, 8)
    known = first(features, box)
    broken = features.copy()
    broken[17, 3] = value
    with pytest.raises(FloatingPointError, match="features"):
        learns(known, broken, box, 0.9, 1.0)
    with pytest.raises(FloatingPointError, match="features"):
        first(broken, box)


@pytest.mark.parametrize("channels", [5, 97, 98, 99, 192, 450])
def test_networks_of_any_width_can_learn(channels: int):
    """Elimination by halves gives what the whole matrix does."""
    rng = np.random.default_rng(channels)
    features, box = unit(rng.normal(size=(CELLS * CELLS, channels))), box_at(8, 8)
    expected = regression(features, box, 40.0)
    np.testing.assert_allclose(first(features, box).learnt[:-2], expected[:-1], atol=2e-3)


def test_the_half_life_is_that_of_image_time_at_any_interval():
    before, after = directions(9, 2)
    shown = scene({(8, 8): after}, 1)
    answers = []
    for interval in (0.1, 1.0):
        rules = LearningSettings(interval=interval, half_life=2.0)
        known = first(scene({(8, 8): before}), box_at(8, 8), rules)
        for _ in range(round(4.0 / interval)):
            known = learns(known, shown, box_at(8, 8), 0.9, interval, rules=rules)
        answers.append(response(known.learnt, shown)[8, 8])
    assert answers[0] == pytest.approx(answers[1], rel=0.02)


def test_in_several_regions_it_is_told_by_its_look_and_not_by_its_place():
    """Features that know their place, as a network's with positions do, and a target that moves on."""
    look, places = directions(11, 1)[0], unit(np.random.default_rng(12).normal(size=(CELLS, CELLS, CHANNELS)))

    def seen(row: int, column: int, seed: int) -> np.ndarray:
        cells = scene({(row, column): look}, seed).reshape(CELLS, CELLS, CHANNELS)
        return unit((cells + 0.8 * places).reshape(-1, CHANNELS))

    step = REGION.side / CELLS
    shifted = [(0, 0), (-4, -4), (-4, 4), (4, -4), (4, 4)]
    views = [
        (seen(8 - down, 8 - across, i), Region(REGION.x + across * step, REGION.y + down * step, REGION.side))
        for i, (down, across) in enumerate(shifted)
    ]
    once, often = (Discriminator.of(some, box_at(8, 8), SETTINGS).learnt for some in (views[:1], views))

    def excess(learnt: np.ndarray) -> float:
        """Of the response at the target's new place over that at its old one, which is empty now."""
        found = response(learnt, seen(12, 4, 20))
        return found[12, 4] - found[8, 8]

    assert excess(often) > excess(once) + 0.1


@given(st.floats(1e-3, 1.0), st.floats(0.0, 0.94), st.integers(0, 20))
def test_the_networks_own_score_is_had_from_the_mixed_one(own: float, share: float, seed: int):
    learnt = np.random.default_rng(seed).normal(0.0, 0.5, CHANNELS + 2).astype(np.float32)
    learnt[-1] = share
    features = directions(seed + 100, 1)[0]
    answer = min(max(float(features @ learnt[:-2] + learnt[-2]), 0.05), 1.0)
    mixed = own ** (1.0 - float(learnt[-1])) * answer ** float(learnt[-1])
    assert unmixed_score(mixed, features, learnt) == pytest.approx(own, rel=2e-3)
    for much in (0.96, 0.99999, 1.0):
        learnt[-1] = much
        assert unmixed_score(mixed, features, learnt) == mixed, "too little is left of it"
    learnt[-1] = 0.5
    assert unmixed_score(0.0, features, learnt) == 0.0


def test_moments_of_nothing_are_solved_by_nothing():
    for nothing in (np.zeros((6, 6), np.float32), np.full((6, 6), 1e-25, np.float32)):
        assert not _solution(nothing, np.zeros(5, np.float32), 20).any()
