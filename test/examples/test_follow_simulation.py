"""The simulation's world: what it draws is where it says, and what it scores is what happened. No ROS."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from examples.follow_me.control import STOP, Command, Follower, FollowSettings
from examples.follow_me.sighting import Camera as SightingCamera
from examples.follow_me.sighting import sighting_of
from examples.follow_me.simulation.render import Renderer
from examples.follow_me.simulation.score import (
    Answer,
    Run,
    Step,
    find_losses,
    goals,
    is_central,
    reached,
    summary,
    write_csv,
)
from examples.follow_me.simulation.world import (
    DISTANCE_M,
    LAW,
    MEETINGS,
    Pinhole,
    Place,
    Scenario,
    Vehicle,
    see,
)
from ros2_tracker.tracking.result import TrackState

CAMERA = Pinhole()
SCENARIO = Scenario.make(3, 14.0)


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(SCENARIO, CAMERA)


def test_the_same_seed_is_the_same_world_and_another_is_not():
    assert SCENARIO.target(4.2) == Scenario.make(3, 14.0).target(4.2)
    assert SCENARIO.target(4.2) != Scenario.make(4, 14.0).target(4.2)


def test_the_box_is_where_the_target_is_drawn():
    t = 2.0
    vehicle = dataclasses.replace(CAMERA.start(SCENARIO.target(t), 9.0), yaw=SCENARIO.target(t).heading + 0.1)
    seen = see(SCENARIO.target(t), vehicle, CAMERA, SCENARIO)
    # The same moment with and without people, the same noise in both, and no shadows, which are no part of the box.
    away = Place(1e3, 1e3, 0.0)

    class Empty(Scenario):
        def target(self, t: float) -> Place:
            return away

        def look_alike(self, t: float) -> Place:
            return away

    empty = Empty(**{f.name: getattr(SCENARIO, f.name) for f in dataclasses.fields(Scenario)})
    images = []
    for scenario in (SCENARIO, empty):
        renderer = Renderer(scenario, CAMERA)
        renderer._shadow[..., 3] = 0
        images.append(renderer.render(vehicle, t, 7))
    changed = cv2.absdiff(*images).max(axis=2) > 20
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    x, y, w, h = seen.box
    drawn = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    assert drawn == pytest.approx((x, y, x + w, y + h), abs=3.0)
    assert seen.visible == 1.0


def test_no_two_images_are_equal(renderer: Renderer):
    vehicle = CAMERA.start(SCENARIO.target(0.0), 9.0)
    images = [renderer.render(vehicle, 0.0, frame) for frame in range(3)]
    assert cv2.absdiff(images[0], images[1]).mean() > 1.0
    assert cv2.absdiff(images[1], images[2]).mean() > 1.0
    assert np.array_equal(images[2], renderer.render(vehicle, 0.0, 2))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("meeting", MEETINGS)
def test_every_scenario_hides_the_target_and_brings_the_look_alike_near(seed: int, meeting: str):
    scenario = Scenario.make(seed, 60.0, meeting)
    hidden, company, nearest = 0.0, 0.0, np.inf
    for t in np.arange(0.0, 60.0, 0.1):
        target, other = scenario.target(t), scenario.look_alike(t)
        vehicle = CAMERA.start(target, 11.0)
        gone = see(target, vehicle, CAMERA, scenario).visible == 0.0
        there = see(other, vehicle, CAMERA, scenario)
        hidden += 0.1 * gone
        company += 0.1 * (gone and there is not None and there.visible > 0.5)
        nearest = min(nearest, np.hypot(target.x - other.x, target.y - other.y))
    assert 0.8 <= hidden <= 3.5
    assert nearest == pytest.approx(1.1, abs=0.05)
    assert (company > 0.3) == (meeting == "hidden")


def test_the_vehicle_takes_up_commands_in_the_body_frame():
    vehicle = Vehicle(0.0, 0.0, 10.0, np.pi / 2)
    for i in range(60):
        vehicle = vehicle.after(2.0, 0.5, 0.0, i / 30.0, 1.0 / 30.0)
    assert vehicle.y == pytest.approx(2.0 * (2.0 - 0.4), abs=0.3)
    assert abs(vehicle.x) < 0.3
    assert vehicle.z == pytest.approx(10.0 + 0.5 * (2.0 - 0.4), abs=0.15)


def test_wrong_arguments_are_refused_by_name():
    for arguments in ({"duration": 5.0}, {"meeting": "never"}, {"likeness": 1.5}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            Scenario.make(**{"seed": 0, "duration": 20.0, **arguments})


# -- scores -----------------------------------------------------------------------------------------------------------


def told(states: list[TrackState], commands: list[tuple[float, Command]], on: str = "target") -> Run:
    """A run at 30 Hz in which the tracker was on somebody, and what was commanded at which simulated time."""
    steps = []
    for i, state in enumerate(states):
        t = i / 30.0
        vehicle = CAMERA.start(SCENARIO.target(t), 9.0)
        target, other = (see(p, vehicle, CAMERA, SCENARIO) for p in (SCENARIO.target(t), SCENARIO.target(t - 1.0)))
        box = None if state is TrackState.LOST else {"target": target, "other": other}[on].box
        answer = Answer(state, box, 0.9, t, t, 0.02)
        steps.append(Step(t, i, round((100.0 + t) * 1e9), vehicle, target, other, answer))
    return Run(SCENARIO, CAMERA, steps, [(100.0 + t, t, command) for t, command in commands])


T, L = TrackState.TRACKING, TrackState.LOST
GO = Command(1.0, 0.0, 0.0)


def test_a_zero_in_time_and_one_too_late():
    states = [T] * 10 + [L] * 20 + [T] * 10
    (loss,) = find_losses(told(states, [(0.3, GO), (10 / 30, STOP), (0.5, STOP)]))
    assert loss.zero_after_s == pytest.approx(0.0, abs=1e-6)
    assert loss.commands_after == 0
    (late,) = find_losses(told(states, [(0.3, GO), (0.4, GO), (0.8, GO), (0.9, STOP)]))
    assert late.zero_after_s == pytest.approx(0.9 - 10 / 30)
    assert late.commands_after == 1
    (never,) = find_losses(told(states, [(0.3, GO)]))
    assert never.zero_after_s == np.inf


def test_the_look_alike_is_not_the_target(tmp_path):
    good = summary(told([T] * 30, []))
    bad = summary(told([T] * 30, [], on="other"))
    assert good["look_alike_followed_images"] == 0
    assert good["central_share_while_visible"] == 1.0
    assert good["on_target_at_end"]
    assert bad["look_alike_followed_images"] == 30
    assert not bad["on_target_at_end"]
    assert not reached(goals([good, bad]))
    write_csv(tmp_path / "run.csv", told([T, L], []))
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 3


# -- the law in the world, with perfect eyes ---------------------------------------------------------------------------


def followed(seed: int, found_after_s: float) -> tuple[float, float]:
    """A minute with a tracker that always knows, but late after the roof; central share, and the height at the end."""
    scenario = Scenario.make(seed, 60.0)
    follower = Follower(FollowSettings(**LAW))
    camera = SightingCamera(CAMERA.focal, CAMERA.focal, CAMERA.pitch)
    vehicle, held, waiting = CAMERA.start(scenario.target(0.0), DISTANCE_M), STOP, []
    visible = central = 0
    seen_s, before = 9.0, None
    for i in range(1800):
        t = i / 30.0
        seen = see(scenario.target(t), vehicle, CAMERA, scenario)
        step = Step(t, i, 0, vehicle, seen, None)
        visible += seen.visible >= 0.5
        central += seen.visible >= 0.5 and is_central(step, CAMERA)
        seen_s = seen_s + 1.0 / 30.0 if seen.visible >= 0.5 else 0.0
        x, y, w, h = seen.box
        right, down = (x + w / 2 - 320.0) / CAMERA.focal, (y + h / 2 - 240.0) / CAMERA.focal
        length = np.sqrt(right**2 + down**2 + 1.0)
        speed = (0.0, 0.0) if before is None else ((right - before[0]) * 30 * 560.0, (down - before[1]) * 30 * 560.0)
        before = (right, down)
        status = SimpleNamespace(
            header=SimpleNamespace(stamp=SimpleNamespace(sec=100 + i // 30, nanosec=round(i % 30 / 30 * 1e9))),
            id="me", session=1, state=1 if seen_s >= found_after_s else 3, predicted=False, bearing_valid=True,
            box=(x + w / 2, y + h / 2, w, h), velocity=speed,
            bearing=SimpleNamespace(x=right / length, y=down / length, z=1.0 / length),
        )  # fmt: skip
        waiting.append((t + 0.05, follower.follow(sighting_of(status, camera), 100.0 + t)))
        for part in range(6):
            while waiting and waiting[0][0] <= t + part / 180.0 + 1e-6:
                held = waiting.pop(0)[1]
            vehicle = vehicle.after(held.forward, held.climb, held.yaw_rate, t, 1.0 / 180.0)
    return central / visible, vehicle.z


@pytest.mark.parametrize("seed", range(4))
def test_the_law_keeps_a_walking_target_in_the_middle(seed: int):
    always, height = followed(seed, 0.0)
    assert always > 0.99
    assert 5.0 < height < 15.0
    late, _ = followed(seed, 1.0)
    assert late > 0.95
