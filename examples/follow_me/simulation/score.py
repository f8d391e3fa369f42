"""How well a run went: figures from what the camera saw, what the tracker said and what was commanded."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from ros2_tracker.tracking.geometry import Box, iou
from ros2_tracker.tracking.result import TrackState

from ..control import STOP, Command
from .world import Pinhole, Scenario, Seen, Vehicle

XYWH = tuple[float, float, float, float]

VISIBLE = 0.5
"""Share of the target from which it counts as visible."""
ON_TARGET = 0.3
"""IoU from which a box is on a person."""
ZERO_WITHIN_S = 0.3
TAKEN_UP_WITHIN_S = 10.0
CENTRAL_SHARE = 0.95


@dataclass(frozen=True, slots=True)
class Answer:
    """What the tracker said of one image."""

    state: TrackState
    box: XYWH | None
    reliability: float
    arrived_s: float
    """Wall clock."""
    simulated_s: float
    """/clock when it arrived."""
    latency_s: float
    """Wall clock, from publishing the image to the status' arrival."""


@dataclass(slots=True)
class Step:
    """One image."""

    t: float
    """s of the scenario."""
    frame: int
    """Chooses the noise."""
    stamp_ns: int
    vehicle: Vehicle
    target: Seen | None
    look_alike: Seen | None
    answer: Answer | None = None
    """None where the image was not measured."""


@dataclass(frozen=True, slots=True)
class Run:
    """All that was recorded."""

    scenario: Scenario
    camera: Pinhole
    steps: list[Step]
    commands: Sequence[tuple[float, float, Command]] = field(repr=False)
    """(simulated s, wall s, command)."""


@dataclass(frozen=True, slots=True)
class Loss:
    """One time that the tracker said LOST."""

    t: float
    """s of the scenario."""
    zero_after_s: float
    """Simulated time from the image's stamp to the first zero; infinite if there was none before it was found."""
    zero_after_wall_s: float
    """The same by the wall clock, from the status' arrival; 0 if zero was commanded before it came here."""
    commands_after: int
    """Other than zero, more than `ZERO_WITHIN_S` after it and before it was found again."""


def summary(run: Run) -> dict[str, object]:
    """One run as JSON can hold it."""
    steps = run.steps
    visible = [s for s in steps if _is_visible(s.target)]
    central = [s for s in visible if is_central(s, run.camera)]
    losses = find_losses(run)
    answered = [s.answer for s in steps if s.answer is not None]
    emerged_s, taken_up_s = taken_up(run)
    return {
        "seed": run.scenario.seed,
        "duration_s": round(len(steps) / 30.0, 2),
        "images": len(steps),
        "answered": len(answered),
        "visible_s": round(len(visible) / 30.0, 2),
        "central_share_while_visible": round(len(central) / max(len(visible), 1), 4),
        "look_alike_in_view_s": round(sum(_is_visible(s.look_alike) for s in steps) / 30.0, 2),
        "look_alike_followed_images": sum(map(is_on_look_alike, steps)),
        "hidden_s": round(sum(s.target is not None and s.target.visible == 0.0 for s in steps) / 30.0, 2),
        "emerged_at_s": emerged_s,
        "taken_up_after_s": taken_up_s,
        "on_target_at_end": any(_on(s, s.target) for s in steps[-15:]),
        "losses": [
            {
                "at_s": round(loss.t, 2),
                "zero_after_s": round(loss.zero_after_s, 3),
                "zero_after_wall_s": round(loss.zero_after_wall_s, 3),
                "commands_other_than_zero": loss.commands_after,
            }
            for loss in losses
        ],
        "status_latency_ms": _percentiles([a.latency_s for a in answered]),
        "mean_iou_while_tracking": _mean_iou(steps),
        "pace": _pace(answered),
    }


def goals(summaries: Sequence[dict[str, object]]) -> dict[str, object]:
    """The four things to show, of all runs."""
    n = len(summaries)
    losses = [s["losses"] for s in summaries]
    return {
        "runs": n,
        "central_share_lowest": min(s["central_share_while_visible"] for s in summaries),
        "central_share_mean": round(float(np.mean([s["central_share_while_visible"] for s in summaries])), 4),
        "central_runs": sum(s["central_share_while_visible"] >= CENTRAL_SHARE for s in summaries),
        "look_alike_followed_runs": sum(s["look_alike_followed_images"] > 0 for s in summaries),
        "lost_runs": sum(bool(each) for each in losses),
        "zero_in_time_runs": sum(bool(each) and all(_zero_in_time(loss) for loss in each) for each in losses),
        "taken_up_runs": sum(
            s["taken_up_after_s"] is not None and s["taken_up_after_s"] <= TAKEN_UP_WITHIN_S for s in summaries
        ),
        "on_target_at_end_runs": sum(bool(s["on_target_at_end"]) for s in summaries),
    }


def reached(total: dict[str, object]) -> bool:
    """Whether all goals were, 18 of 20 for the target taken up again."""
    n = total["runs"]
    return bool(
        total["central_runs"] == n
        and total["look_alike_followed_runs"] == 0
        and total["zero_in_time_runs"] == n
        and total["taken_up_runs"] >= 0.9 * n
    )


def is_central(step: Step, camera: Pinhole) -> bool:
    """Whether the target's middle is in the middle half of the image's width and of its height."""
    if step.target is None:
        return False
    x, y, w, h = step.target.box
    aside, above = abs(x + w / 2 - camera.width / 2), abs(y + h / 2 - camera.height / 2)
    return aside <= camera.width / 4 and above <= camera.height / 4


def is_on_look_alike(step: Step) -> bool:
    """Whether the tracker, TRACKING, is on the look-alike and not on the target."""
    if step.answer is None or step.answer.state is not TrackState.TRACKING or step.answer.box is None:
        return False
    there = overlap(step.answer.box, step.look_alike)
    return there >= ON_TARGET and there > overlap(step.answer.box, step.target)


def find_losses(run: Run) -> list[Loss]:
    """Every change to LOST, and what was commanded then."""
    answered = [(s, s.answer) for s in run.steps if s.answer is not None]
    losses = []
    for (_, before), (step, now) in pairwise(answered):
        if now.state is not TrackState.LOST or before.state is TrackState.LOST:
            continue
        found = next((a for s, a in answered if s.t > step.t and a.state is not TrackState.LOST), None)
        until_wall = found.arrived_s if found is not None else float("inf")
        stamp_s = step.stamp_ns / 1e9
        # Commands for this status are stamped with its image's time or later.
        after = [c for c in run.commands if c[0] >= stamp_s - 1e-6 and c[1] < until_wall]
        zero = next((c for c in after if c[2] == STOP), None)
        # Found again: its first commands may be on their way before its status is here.
        late = [c for c in after if c[0] - stamp_s > ZERO_WITHIN_S and c[1] < until_wall - 0.02]
        losses.append(
            Loss(
                step.t,
                max(zero[0] - stamp_s, 0.0) if zero else float("inf"),
                max(zero[1] - now.arrived_s, 0.0) if zero else float("inf"),
                sum(c[2] != STOP for c in late),
            )
        )
    return losses


def taken_up(run: Run) -> tuple[float | None, float | None]:
    """When the target came out from behind the roof, s, and how many s later the tracker was on it again."""
    hidden = [s.t for s in run.steps if s.target is not None and s.target.visible == 0.0]
    hidden = [t for t in hidden if abs(t - run.scenario.hidden_about_s) < 10.0]
    if not hidden:
        return None, None
    out = [s for s in run.steps if s.t > hidden[-1] and _is_visible(s.target)]
    if not out:
        return None, None
    again = next((s.t for s in out if _on(s, s.target)), None)
    return round(out[0].t, 2), None if again is None else round(again - out[0].t, 2)


def overlap(box: XYWH, seen: Seen | None) -> float:
    """IoU with all of a person."""
    return 0.0 if seen is None else iou(Box(*box), Box(*seen.box))


def _is_visible(seen: Seen | None) -> bool:
    return seen is not None and seen.visible >= VISIBLE


def _on(step: Step, seen: Seen | None) -> bool:
    answer = step.answer
    if answer is None or answer.box is None or answer.state is not TrackState.TRACKING:
        return False
    return overlap(answer.box, seen) >= ON_TARGET


def _zero_in_time(loss: dict[str, float]) -> bool:
    return (
        max(loss["zero_after_s"], loss["zero_after_wall_s"]) <= ZERO_WITHIN_S and loss["commands_other_than_zero"] == 0
    )


def _mean_iou(steps: Sequence[Step]) -> float | None:
    values = [
        overlap(s.answer.box, s.target)
        for s in steps
        if s.answer is not None and s.answer.box is not None and s.answer.state is TrackState.TRACKING
    ]
    return round(float(np.mean(values)), 3) if values else None


def _percentiles(seconds: Sequence[float]) -> dict[str, float] | None:
    if not seconds:
        return None
    p50, p99 = np.percentile(seconds, [50, 99]) * 1e3
    return {"p50": round(float(p50), 1), "p99": round(float(p99), 1)}


def _pace(answered: Sequence[Answer]) -> float | None:
    """Simulated seconds for each of the wall clock."""
    if len(answered) < 2:
        return None
    first, last = answered[0], answered[-1]
    return round((last.simulated_s - first.simulated_s) / max(last.arrived_s - first.arrived_s, 1e-9), 3)


def write_csv(path: Path, run: Run) -> None:
    """A row an image: where vehicle and target were, what the tracker said."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            ("t", "x", "y", "z", "yaw", "target_x", "target_y", "visible", "central", "state", "reliability", "iou",
             "iou_look_alike", "box_x", "box_y", "box_w", "box_h")
        )  # fmt: skip
        for s in run.steps:
            vehicle, target = s.vehicle, run.scenario.target(s.t)
            numbers = [s.t, vehicle.x, vehicle.y, vehicle.z, vehicle.yaw, target.x, target.y]
            visible = s.target.visible if s.target is not None else 0.0
            said: tuple[object, ...] = ("",) * 8
            if s.answer is not None:
                box = s.answer.box
                overlaps = [f"{overlap(box, seen):.3f}" if box else "" for seen in (s.target, s.look_alike)]
                corners = [f"{v:.2f}" for v in box] if box else [""] * 4
                said = (s.answer.state.name, f"{s.answer.reliability:.3f}", *overlaps, *corners)
            row = [f"{v:.3f}" for v in numbers]
            writer.writerow([*row, f"{visible:.2f}", int(is_central(s, run.camera)), *said])
