"""How a target is made to disappear in a given stretch of a clip: one function a kind, which draws what can vary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.datasets import AnnotatedSequence
from ros2_tracker.evaluation.disappearance import ABSENT_BELOW, KNOWN_FROM, Kind, Stretch, forth_and_back
from ros2_tracker.evaluation.disappearance_effects import (
    Black,
    CameraJump,
    Effect,
    Filled,
    Frozen,
    LightsOff,
    Occluder,
    OtherScene,
    Region,
    View,
    seam,
    textured_region,
)
from ros2_tracker.evaluation.metrics import clipped

# Annotated boxes leave out limbs: what hides a target is so many of its sizes larger, on each side.
_MARGIN = 0.15
# An occluder half a size, and at most so many pixels: the boxes of large targets are exact enough.
_OCCLUDER_MARGIN, _OCCLUDER_MARGIN_PX = 0.5, 30.0
_OCCLUDER_RAMP_S = (0.15, 0.5)
_LIGHT_RAMP_S = 0.25
# Share of the light from which a frame is scored; it is 0 while the target counts as absent.
_LIGHT_ENOUGH, _LAST_LIGHT = 0.3, 0.02
_ZOOMS = (1.5, 1.35, 1.2, 1.1, 1.05)
_MOST_ZOOM, _MOST_ANGLE = 4.0, 25.0
_AWAY_TRIES = 400


class Plan(NamedTuple):
    """What is shown, and what can be seen of the target in it."""

    effect: Effect
    visible: NDArray[np.float64]
    """(N,) share of the box that can be seen."""
    boxes: NDArray[np.float64]
    """(N, 4) x, y, w, h px in the pictures that are shown."""
    detail: str
    donor: AnnotatedSequence | None = None


Planner = Callable[[Stretch, Sequence[AnnotatedSequence], float, np.random.Generator], "Plan | None"]


def _occluder(
    stretch: Stretch, donors: Sequence[AnnotatedSequence], fps: float, rng: np.random.Generator
) -> Plan | None:
    """A patch that comes in from a side, follows the target's path as stiffly as its size allows, and goes on."""
    ramp = max(round(fps * rng.uniform(*_OCCLUDER_RAMP_S)), 2)
    centers = stretch.boxes[:, :2] + stretch.boxes[:, 2:] / 2
    covered = slice(stretch.first, stretch.last + 1)
    sizes = stretch.boxes[covered, 2:]
    half = 0.5 * sizes + np.minimum(_OCCLUDER_MARGIN * sizes + 2.0, _OCCLUDER_MARGIN_PX)
    path = _stiff_path(centers[covered], half)
    size = 2.0 * (np.abs(centers[covered] - path) + half).max(axis=0)

    angle = rng.integers(4) * np.pi / 2
    side = np.round([np.cos(angle), np.sin(angle)])
    far = float(np.abs(side) @ (size + sizes.max(axis=0))) / 2
    start, end = stretch.first - ramp, min(stretch.last + ramp, len(centers) - 1)
    frames = np.arange(start, end + 1)
    middle = np.empty((len(frames), 2))
    for row, frame in enumerate(frames):
        inside = np.clip(frame, stretch.first, stretch.last)
        away = (frame - inside) / ramp * far
        middle[row] = centers[frame] + path[inside - stretch.first] - centers[inside] + away * side
    whole = (int(np.ceil(size[0])), int(np.ceil(size[1])))
    corners = np.round(middle - np.array(whole) / 2).astype(int)

    patch = np.hstack([corners, np.tile(whole, (len(corners), 1))]).astype(np.float64)
    visible = np.ones(len(centers))
    visible[frames] = _uncovered(stretch.boxes[frames], patch, stretch.width, stretch.height)
    donor = donors[rng.integers(len(donors))]
    file = donor.files[rng.integers(len(donor))]
    texture = textured_region(donor.image(donor.files.index(file)), whole, rng)
    moves = tuple((int(x), int(y)) for x, y in corners)
    effect = Occluder(int(start), moves, whole, texture, file)
    detail = f"patch of {donor.name}, {whole[0]}x{whole[1]} px, in and out within {ramp / fps:.2f} s"
    return Plan(effect, visible, stretch.boxes, detail, donor)


def _stiff_path(centers: NDArray[np.float64], half: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K, 2) the smoothest of some paths from which a patch of at most twice the needed size covers every centre."""
    time = np.linspace(-1.0, 1.0, len(centers))
    for degree in (1, 2, 4, 8):
        fit = np.polynomial.chebyshev.chebfit(time, centers, min(degree, len(centers) - 1))
        path = np.polynomial.chebyshev.chebval(time, fit).T
        if ((np.abs(centers - path) + half).max(axis=0) <= 2.0 * half.max(axis=0)).all():
            return path
    return centers


def _uncovered(
    boxes: NDArray[np.float64], patch: NDArray[np.float64], width: float, height: float
) -> NDArray[np.float64]:
    """(K,) share of each box's part inside the image that the patch of that frame leaves free."""
    seen = clipped(boxes, width, height)
    low = np.maximum(seen[:, :2], patch[:, :2])
    high = np.minimum(seen[:, :2] + seen[:, 2:], patch[:, :2] + patch[:, 2:])
    hidden = np.prod(np.maximum(high - low, 0.0), axis=1)
    area = np.prod(seen[:, 2:], axis=1)
    return 1.0 - np.divide(hidden, area, out=np.ones(len(boxes)), where=area > 0.0)


def _target_free(
    stretch: Stretch, donors: Sequence[AnnotatedSequence], fps: float, rng: np.random.Generator
) -> Plan | None:
    """Half of them another clip, with real pixels throughout; half the same scene, which gives no hint by a cut."""
    fade = max(round(0.1 * fps), 1)
    start, end = stretch.first - fade, min(stretch.last + fade, len(stretch.boxes) - 1)
    frames = np.arange(start, end + 1)
    places = tuple(_place(box, stretch.width, stretch.height) for box in stretch.boxes[frames])
    shift = _filling(places, stretch)
    if donors and (shift is None or rng.random() < 0.5):
        donor = donors[rng.integers(len(donors))]
        order = forth_and_back(len(donor), int(rng.integers(2 * len(donor))), stretch.last - stretch.first + 1)
        effect = OtherScene(stretch.first, tuple(donor.files[i] for i in order))
        return Plan(effect, _hidden(stretch), stretch.boxes, f"frames of {donor.name}", donor)
    strength = 1.0 - _outside_by(frames, stretch) / (fade + 1.0)
    visible = np.ones(len(stretch.boxes))
    visible[frames] = 1.0 - strength
    filled = Filled(int(start), places, tuple(float(s) for s in strength), shift)
    how = "spread inwards" if shift is None else f"from {shift[0]:+d}, {shift[1]:+d} px"
    return Plan(filled, visible, stretch.boxes, f"the same frames with the target's place filled {how}")


def _place(box: NDArray[np.float64], width: int, height: int) -> Region:
    """Whole pixels that hold a box and what may stick out of it, inside the image; at least one pixel."""
    margin = _MARGIN * box[2:] + 1.0
    low, high = np.floor(box[:2] - margin), np.ceil(box[:2] + box[2:] + margin)
    x0, y0 = int(np.clip(low[0], 0, width - 1)), int(np.clip(low[1], 0, height - 1))
    return Region(x0, y0, int(np.clip(high[0], x0 + 1, width)), int(np.clip(high[1], y0 + 1, height)))


def _filling(places: Sequence[Region], stretch: Stretch) -> tuple[int, int] | None:
    """How far away the filling can be taken in all frames, where it fits best beside the target; None when nowhere."""
    w = max(place.x1 - place.x0 for place in places) + 2
    h = max(place.y1 - place.y0 for place in places) + 2
    size = (stretch.width, stretch.height)
    shifts = [s for s in ((w, 0), (-w, 0), (0, h), (0, -h)) if all(place.moved(*s).inside(*size) for place in places)]
    image = stretch.source.image(int(stretch.order[stretch.first]))
    at = _place(stretch.boxes[stretch.first], *size)
    return min(shifts, key=lambda shift: seam(image, at, shift), default=None)


def _camera_jump(
    stretch: Stretch, donors: Sequence[AnnotatedSequence], fps: float, rng: np.random.Generator
) -> Plan | None:
    """Closer views of parts of the picture: nothing outside of it has to be made up."""
    width, height, boxes = stretch.width, stretch.height, stretch.boxes
    before, after = slice(0, stretch.first), slice(stretch.last + 1, len(boxes))
    best: tuple[float, View, View] | None = None
    for zoom in _ZOOMS:
        pairs = [
            (one, other)
            for one in _views_on(boxes[before], zoom, width, height)
            for other in _views_on(boxes[after], zoom, width, height)
        ]
        for one, other in pairs:
            there = one.boxes(boxes[stretch.first - 1 : stretch.first], width, height)[0]
            back = other.boxes(boxes[stretch.last + 1 : stretch.last + 2], width, height)[0]
            distance = float(np.hypot(*(back[:2] + back[2:] / 2 - there[:2] - there[2:] / 2)))
            if best is None or distance > best[0]:
                best = (distance, one, other)
        if best is not None:
            break
    away = _view_without(boxes[stretch.first : stretch.last + 1], width, height, rng)
    if best is None or away is None:
        return None
    distance, one, other = best
    until = slice(0, stretch.last + 1)
    shown = np.concatenate([one.boxes(boxes[until], width, height), other.boxes(boxes[after], width, height)])
    effect = CameraJump(stretch.first, stretch.last, (one, away, other))
    size = float(np.sqrt(np.prod(shown[stretch.last + 1, 2:])))
    detail = f"zoom {one.zoom:g}, away {away.zoom:.1f} and {away.angle:.0f} deg, back {distance / size:.1f} sizes off"
    return Plan(effect, _hidden(stretch), shown, detail)


def _views_on(boxes: NDArray[np.float64], zoom: float, width: int, height: int) -> list[View]:
    """Up to four views in which all boxes stay as far inside the image as they are in the picture: in its corners."""
    kept = clipped(boxes, width, height)
    low, high = kept[:, :2].min(axis=0), (kept[:, :2] + kept[:, 2:]).max(axis=0)
    full = np.array([width, height], np.float64)
    window = full / zoom
    lowest, highest = np.maximum(high - window, 0.0), np.minimum(full - window, low)
    if (lowest > highest).any():
        return []
    return [
        View(float(x + window[0] / 2), float(y + window[1] / 2), zoom)
        for x in (lowest[0], highest[0])
        for y in (lowest[1], highest[1])
    ]


def _view_without(boxes: NDArray[np.float64], width: int, height: int, rng: np.random.Generator) -> View | None:
    """The widest of random views that show nothing of any box and nothing outside the picture."""
    low, high = boxes[:, :2] - _MARGIN * boxes[:, 2:], boxes[:, :2] + (1.0 + _MARGIN) * boxes[:, 2:]
    best: View | None = None
    for _ in range(_AWAY_TRIES):
        zoom, angle = float(rng.uniform(1.3, _MOST_ZOOM)), float(rng.uniform(-_MOST_ANGLE, _MOST_ANGLE))
        cosine, sine = np.cos(np.radians(angle)), abs(np.sin(np.radians(angle)))
        half = np.array([width * cosine + height * sine, width * sine + height * cosine]) / (2.0 * zoom)
        room = np.array([width, height]) - 2.0 * half
        if (room < 0.0).any():
            continue
        center = half + rng.random(2) * room
        free = ((high <= center - half) | (low >= center + half)).any(axis=1).all()
        if free and (best is None or zoom < best.zoom):
            best = View(float(center[0]), float(center[1]), zoom, angle)
    return best


def _black(stretch: Stretch, donors: Sequence[AnnotatedSequence], fps: float, rng: np.random.Generator) -> Plan | None:
    return Plan(Black(stretch.first, stretch.last), _hidden(stretch), stretch.boxes, "zeros")


def _frozen(stretch: Stretch, donors: Sequence[AnnotatedSequence], fps: float, rng: np.random.Generator) -> Plan | None:
    return Plan(Frozen(stretch.first, stretch.last), _hidden(stretch), stretch.boxes, "the last frame repeated")


def _lights_off(
    stretch: Stretch, donors: Sequence[AnnotatedSequence], fps: float, rng: np.random.Generator
) -> Plan | None:
    """The light falls by the same factor in each frame of the ramp; what is left of it is what can be seen."""
    ramp = max(round(fps * _LIGHT_RAMP_S), 2)
    start, end = stretch.first - ramp, min(stretch.last + ramp, len(stretch.boxes) - 1)
    frames = np.arange(start, end + 1)
    distance = _outside_by(frames, stretch)
    gains = np.where(distance == 0, 0.0, _LAST_LIGHT ** (1.0 - distance / (ramp + 1.0)))
    visible = np.ones(len(stretch.boxes))
    dim = (ABSENT_BELOW + KNOWN_FROM) / 2  # dark, but not hidden: neither seen nor absent
    visible[frames] = np.select([gains == 0.0, gains < _LIGHT_ENOUGH], [0.0, dim], 1.0)
    seed = tuple(int(word) for word in rng.integers(2**32, size=2))
    effect = LightsOff(int(start), tuple(float(g) for g in gains), seed)
    return Plan(effect, visible, stretch.boxes, f"to nothing but noise within {ramp / fps:.2f} s")


def _hidden(stretch: Stretch) -> NDArray[np.float64]:
    """(N,) nothing can be seen between the first and the last frame, all of it outside."""
    visible = np.ones(len(stretch.boxes))
    visible[stretch.first : stretch.last + 1] = 0.0
    return visible


def _outside_by(frames: NDArray[np.intp], stretch: Stretch) -> NDArray[np.intp]:
    """(K,) how many frames before or after the stretch without the target; 0 in it."""
    return np.maximum(np.maximum(stretch.first - frames, frames - stretch.last), 0)


PLANS: dict[Kind, Planner] = {
    Kind.OCCLUDER: _occluder,
    Kind.TARGET_FREE: _target_free,
    Kind.CAMERA_JUMP: _camera_jump,
    Kind.BLACK: _black,
    Kind.FROZEN: _frozen,
    Kind.LIGHTS_OFF: _lights_off,
}
