"""The pictures of a run: a video of what the camera saw beside a top view of all paths, and the top view by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.results import OverlayVideo
from ros2_tracker.tracking.overlay import draw_footer, draw_target, draw_text

from .render import Renderer
from .scenery import Ground
from .score import Run, Step
from .world import Place, placed

_TARGET, _LOOK_ALIKE, _VEHICLE = (40, 40, 230), (30, 140, 255), (255, 225, 80)
_LOST = (255, 255, 255)
_PANEL = 480
_VIEW_M = 32.0
"""Side of the moving top view."""


def write_film(path: Path, run: Run, renderer: Renderer) -> None:
    """What the camera saw, with the tracker's box and the central half, and the surroundings from above."""
    camera = run.camera
    with OverlayVideo(path, 30.0) as video:
        command = iter(run.commands)
        pending, held = next(command, None), None
        last_box = None
        for index, step in enumerate(run.steps):
            while pending is not None and pending[0] <= step.stamp_ns / 1e9 + 1e-6:
                held, pending = pending[2], next(command, None)
            picture = renderer.render(step.vehicle, step.t, step.frame)
            quarter = (camera.width // 4, camera.height // 4)
            corner = (3 * camera.width // 4, 3 * camera.height // 4)
            cv2.rectangle(picture, quarter, corner, (235, 235, 235), 1, cv2.LINE_AA)
            draw_text(picture, "central half", (quarter[0], quarter[1] - 6))
            if step.answer is not None:
                last_box = step.answer.box or last_box
                draw_target(
                    picture, "target", step.answer.box, step.answer.reliability, step.answer.state, candidate=last_box,
                )  # fmt: skip
            text = f"{step.t:5.1f} s"
            if held is not None:
                text += f"   forward {held.forward:+.1f} m/s  climb {held.climb:+.1f} m/s"
                text += f"  yaw {held.yaw_rate:+.2f} rad/s"
            draw_footer(picture, [text])
            video.write(np.hstack([picture, _surroundings(run, renderer.ground, index)]))


def write_top_view(path: Path, run: Run, ground: Ground) -> None:
    """All paths on the ground, small enough for a document."""
    points = np.array([(s.vehicle.x, s.vehicle.y) for s in run.steps])
    target = np.array([_xy(run.scenario.target(s.t)) for s in run.steps])
    corners = ground.to_picture(np.vstack([points, target]))
    low, high = corners.min(axis=0) - 120, corners.max(axis=0) + 120
    size = np.array(ground.picture.shape[1::-1])
    low, high = np.maximum(low, 0).astype(int), np.minimum(high, size).astype(int)
    scale = 1000.0 / (high - low).max()
    part = ground.picture[low[1] : high[1], low[0] : high[0]]
    picture = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    to_picture = lambda xy: (ground.to_picture(xy) - low) * scale  # noqa: E731
    _paths(picture, run, run.steps, to_picture, 2)
    # North up, as maps are.
    picture = np.ascontiguousarray(picture[::-1])
    _legend(picture)
    cv2.imwrite(str(path), picture)


def _surroundings(run: Run, ground: Ground, index: int) -> NDArray[np.uint8]:
    """(480, 480, 3): the ground about the vehicle, paths of the last seconds, the camera's view as a wedge."""
    step = run.steps[index]
    scale = _PANEL / _VIEW_M
    here = Place(step.vehicle.x, step.vehicle.y, step.vehicle.yaw)
    corner = placed(here, np.array([[6.0, 0.0]]))[0] - _VIEW_M / 2
    to_panel = np.array([[scale, 0.0, -corner[0] * scale], [0.0, scale, -corner[1] * scale], [0.0, 0.0, 1.0]])
    panel = cv2.warpPerspective(
        ground.picture,
        to_panel @ ground.matrix(),
        (_PANEL, _PANEL),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    to_picture = lambda xy: (xy - corner) * scale  # noqa: E731
    back = np.linalg.inv(run.camera.plane_to_image(step.vehicle))
    w, h = run.camera.width, run.camera.height
    edges = np.array([[0, 0, 1], [w, 0, 1], [w, h, 1], [0, h, 1]]) @ back.T
    wedge = to_picture(edges[:, :2] / edges[:, 2:])
    shade = panel.copy()
    cv2.fillPoly(shade, [np.int32(wedge)], (255, 255, 255), cv2.LINE_AA)
    panel = cv2.addWeighted(panel, 0.78, shade, 0.22, 0.0)
    _paths(panel, run, run.steps[max(index - 450, 0) : index + 1], to_picture, 1)
    for place, color in (
        (run.scenario.target(step.t), _TARGET),
        (run.scenario.look_alike(step.t), _LOOK_ALIKE),
        (here, _VEHICLE),
    ):
        marker = placed(place, np.array([[0.9, 0.0], [-0.6, 0.5], [-0.6, -0.5]]))
        cv2.fillPoly(panel, [np.int32(to_picture(marker))], color, cv2.LINE_AA)
    panel = np.ascontiguousarray(panel[::-1])
    _legend(panel)
    return panel


def _paths(picture: NDArray[np.uint8], run: Run, steps: Sequence[Step], to_picture: object, line: int) -> None:
    corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * np.array(run.scenario.roof_size) / 2
    roof = np.int32(to_picture(placed(run.scenario.roof, corners)))  # type: ignore[operator]
    shade = picture.copy()
    cv2.fillPoly(shade, [roof], (150, 156, 160), cv2.LINE_AA)
    picture[:] = cv2.addWeighted(picture, 0.35, shade, 0.65, 0.0)
    cv2.polylines(picture, [roof], True, (60, 60, 66), line, cv2.LINE_AA)
    for points, color in (
        ([_xy(run.scenario.look_alike(s.t)) for s in steps], _LOOK_ALIKE),
        ([_xy(run.scenario.target(s.t)) for s in steps], _TARGET),
        ([(s.vehicle.x, s.vehicle.y) for s in steps], _VEHICLE),
    ):
        track = np.int32(to_picture(np.array(points)))  # type: ignore[operator]
        cv2.polylines(picture, [track], False, (24, 22, 20), line + 2, cv2.LINE_AA)
        cv2.polylines(picture, [track], False, color, line, cv2.LINE_AA)


def _legend(picture: NDArray[np.uint8]) -> None:
    for row, (text, color) in enumerate((("target", _TARGET), ("look-alike", _LOOK_ALIKE), ("camera", _VEHICLE))):
        y = 18 + 18 * row
        cv2.line(picture, (10, y - 4), (34, y - 4), (24, 22, 20), 5, cv2.LINE_AA)
        cv2.line(picture, (10, y - 4), (34, y - 4), color, 3, cv2.LINE_AA)
        draw_text(picture, text, (42, y))


def _xy(place: Place) -> tuple[float, float]:
    return place.x, place.y
