r"""IBFP's loop, our reading (SPEC 4.3): the offline map and that of a branch that learns online, mixed; ATOM's rules.

    search crop -> network -> offline map, distances, features -> online branch -> map
                                   \----------- 0.3 + 0.7 ----------------------/ -> peaks -> box; what is learnt

The branch (`models.ibfp_settings`) is torch behind a protocol. Without it the offline map is followed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import Engine, NamedArrays
from ros2_tracker.engines.batches import run_all
from ros2_tracker.models.ibfp_settings import OnlineBranch, OnlineModel, OnlineSettings
from ros2_tracker.models.variant import Variant
from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.decode import decode_ltrb
from ros2_tracker.tracking.family import Appearance, Look, Proposal, require_finite
from ros2_tracker.tracking.frame import Frame, to_rgb
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.sample_target import clipped

FEATURES = {"deep": "template_deep", "middle": "template_middle"}
"""Output of the template graph -> input of the search graph."""
_APRON_PX = 2  # bilinear sampling reads one pixel beyond the region


@dataclass(frozen=True, slots=True)
class IbfpAppearance(Appearance):
    """The first template for ever, and what was learnt since."""

    online: OnlineModel | None = None


@dataclass(frozen=True, slots=True)
class IbfpLook(Look):
    """With what was learnt so far."""

    online: OnlineModel | None = None
    zoom: float = 1.0


@dataclass(frozen=True, slots=True)
class IbfpProposal(Proposal):
    """With what may be learnt from it."""

    lesson: Lesson | None = None


@dataclass(frozen=True, slots=True)
class Lesson:
    """A frame's sample."""

    features: NDArray[np.float32]
    """(C, F, F)."""
    place: tuple[float, float, float, float]
    """cx, cy, w, h of the target in search sides."""
    hard: bool
    """Whether something else answered, too."""


@dataclass(frozen=True, slots=True)
class Peak:
    """What a score map says by ATOM's rules."""

    cell: tuple[int, int]
    """(row, column)."""
    found: bool = True
    sure: bool = True
    """Whether it may be learnt from."""
    hard: bool = False


class Ibfp:
    """Networks with a linear score map, distances to the sides, and features; see `tracking.family.Family`."""

    inputs = frozenset({*FEATURES.values(), "search"})
    outputs = frozenset({"linear_map", "ltrb", "features"})

    def __init__(
        self, variant: Variant, template_engine: Engine, settings: OnlineSettings, branch: OnlineBranch | None
    ) -> None:
        """`template_engine` runs the template graph; `branch` is None where nothing is to be learnt online."""
        self._variant = variant
        self.template_engine = template_engine
        self.settings = settings
        self.branch = branch

    def appearance(self, frame: Frame, box: Box, fill: tuple[float, float, float] | None = None) -> Appearance:
        """Maps of the template, and the branch fitted to it: a second or so of a CPU."""
        views = [View()] if self.branch is None else first_views()
        template = self._variant.template
        region = Region.around(box, template.factor)
        crops = [replicated_crop(frame, view.region(region, box.size), template.size, view) for view in views]
        made = run_all(self.template_engine, [{"template": crop} for crop in crops])
        inputs = {name: made[0][output] for output, name in FEATURES.items()}
        if self.branch is None:
            return IbfpAppearance(inputs)
        w, h = box.w / region.side, box.h / region.side
        places = [(*view.target(region.side / box.size), w, h) for view in views]
        features = np.stack([each["middle"] for each in made]).astype(np.float32)
        return IbfpAppearance(inputs, online=self.branch.fitted(features, np.array(places, np.float32)))

    def look(self, appearance: Appearance, frame: Frame, last: Box, zoom: float = 1.0) -> Look:
        """The search crop beside the template's maps."""
        search = self._variant.search
        region = Region.around(last, zoom * search.factor)
        inputs = {**appearance.inputs, "search": replicated_crop(frame, region, search.size)}
        online = appearance.online if isinstance(appearance, IbfpAppearance) else None
        return IbfpLook(inputs, region, last, frame.width, frame.height, online, zoom)

    def proposal(self, look: Look, outputs: NamedArrays, cell: tuple[int, int] | None = None) -> Proposal:
        """The box at the peak of the mixed map, clipped; the last one where the branch sees no target."""
        offline, ltrb = outputs["linear_map"], outputs["ltrb"]
        require_finite(linear_map=float(offline.sum()))  # one value that is not makes the sum so
        online = look.online if isinstance(look, IbfpLook) else None
        side, last = look.region.side, look.last
        size = (last.w / side, last.h / side)
        if online is None:
            mixed, peak = offline, Peak(_best(offline))
        else:
            features = outputs["features"]
            weight = self.settings.weight
            mixed = (1.0 - weight) * offline + weight * online.response(features)
            peak = find_peak(mixed, size, self.settings)
        if cell is not None:
            # Somebody else knows better which of the peaks is the target: what this map says of it is not learnt.
            peak = Peak(cell, sure=False)
        candidate = decode_ltrb(mixed, ltrb, None, peak.cell)
        box = last
        if peak.found:
            found = look.region.to_image(candidate.cx, candidate.cy, candidate.w, candidate.h)
            box = clipped(found, look.width, look.height)
        lesson = None
        if online is not None and peak.found and peak.sure and look.zoom == 1.0:
            place = ((box.cx - look.region.x) / side, (box.cy - look.region.y) / side, box.w / side, box.h / side)
            lesson = Lesson(np.asarray(features, np.float32), place, peak.hard)
        shown = np.clip(mixed, 0.0, 1.0).astype(np.float32)
        return IbfpProposal(box, float(shown[peak.cell]), shown[None], (peak.cell,), lesson)

    def renewed(self, appearance: Appearance, frame: Frame, found: Proposal, frame_number: int) -> Appearance:
        """With the frame's sample remembered; learnt from every few frames, at once where something else answers."""
        online = appearance.online if isinstance(appearance, IbfpAppearance) else None
        if online is None:
            return appearance
        settings = self.settings
        lesson = found.lesson if isinstance(found, IbfpProposal) else None
        if lesson is not None:
            rate = settings.hard_rate if lesson.hard else settings.rate
            online = online.remembered(lesson.features, lesson.place, rate)
        if frame_number % settings.interval == 0 or (lesson is not None and lesson.hard):
            online = online.updated()
        return replace(appearance, online=online)

    def updated(self, first: Appearance, frame: Frame, box: Box, weight: float) -> Appearance | None:
        """Nothing: the paper's offline branch keeps its template, and the online one learns in `renewed`."""
        return None


def find_peak(score_map: NDArray[np.floating], size: tuple[float, float], settings: OnlineSettings) -> Peak:
    """Which peak is the target, and what may be learnt, by ATOM's rules (SPEC 4.3).

    Args:
        score_map: (F, F), of a region that is centred where the target was.
        size: width and height of the target in search sides.
        settings: thresholds.

    """
    cells = score_map.shape[0]
    cell = _best(score_map)
    first = float(score_map[cell])
    if first < settings.not_found:
        return Peak(cell, found=False, sure=False)
    row, column = np.ogrid[:cells, :cells]
    half_w, half_h = (0.5 * settings.neighbourhood * side * cells for side in size)
    near = (np.abs(row - cell[0]) <= half_h) & (np.abs(column - cell[1]) <= half_w)
    rest = np.where(near, -np.inf, score_map)
    other = _best(rest)
    second = float(rest[other])
    if second > settings.distractor * first:
        reach = settings.displacement * math.sqrt(size[0] * size[1]) * cells
        close = [math.dist(at, (0.5 * (cells - 1),) * 2) <= reach for at in (cell, other)]
        if close[0] == close[1]:
            return Peak(cell, sure=False)
        return Peak(cell if close[0] else other, hard=True)
    return Peak(cell, hard=second > settings.hard_negative * first and second > settings.not_found)


def _best(score_map: NDArray[np.floating]) -> tuple[int, int]:
    row, column = divmod(int(score_map.argmax()), score_map.shape[1])
    return row, column


@dataclass(frozen=True, slots=True)
class View:
    """How the first frame is shown once: moved, turned, mirrored or blurred."""

    move: tuple[float, float] = (0.0, 0.0)
    """Of the region, in target sizes."""
    turn: float = 0.0
    """Degrees, around the region's middle."""
    mirror: bool = False
    blur: tuple[float, float] = (0.0, 0.0)
    """Sigma in x and y, px of the crop."""

    def region(self, region: Region, size: float) -> Region:
        """Where it looks; `size` of the target, px."""
        return Region(region.x + self.move[0] * size, region.y + self.move[1] * size, region.side)

    def target(self, factor: float) -> tuple[float, float]:
        """Centre of the target in it, in sides; `factor`: side of the region over the target's."""
        return (0.5 - self.move[0] / factor, 0.5 - self.move[1] / factor)


def first_views() -> list[View]:
    """The first frame as it is, and as ATOM augments it: moved, turned, mirrored, blurred. The amounts are ours."""
    moves = [(r * math.cos(a), r * math.sin(a)) for i in range(8) for r, a in (((0.6, 1.2)[i % 2], i * math.pi / 4),)]
    return [
        View(),
        View(mirror=True),
        *(View(move=move) for move in moves),
        *(View(turn=sign * turn) for turn in (5.0, 15.0, 30.0) for sign in (-1, 1)),
        *(View(blur=blur) for blur in ((2.0, 0.2), (0.2, 2.0), (3.0, 3.0))),
    ]


def replicated_crop(frame: Frame, region: Region, size: int, view: View | None = None) -> NDArray[np.uint8]:
    """The region resampled bilinearly to (size, size, 3) uint8 RGB, outside the image its nearest pixels (SPEC 4.3)."""
    view = view or View()
    angle = math.radians(view.turn)
    cos, sin = math.cos(angle), math.sin(angle)
    # What a turned region reaches.
    half = 0.5 * region.side * (abs(cos) + abs(sin)) + _APRON_PX
    cx, cy = region.x + 0.5 * region.side, region.y + 0.5 * region.side
    x0, x1 = _span(cx - half, cx + half, frame.width)
    y0, y1 = _span(cy - half, cy + half, frame.height)
    pixels, order = frame.region(x0, y0, x1, y1)
    step = region.side / size
    across = -step if view.mirror else step
    rotation = np.array([[cos * across, -sin * step], [sin * across, cos * step]])
    # Pixel centres lie at +0.5 in our coordinates and at whole numbers in OpenCV's.
    start = np.array([cx - x0 - 0.5, cy - y0 - 0.5]) - rotation @ np.full(2, 0.5 * size - 0.5)
    crop = to_rgb(
        cv2.warpAffine(
            pixels,
            np.column_stack([rotation, start]),
            (size, size),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        ),
        order,
    )
    if any(view.blur):
        crop = cv2.GaussianBlur(crop, (0, 0), sigmaX=view.blur[0], sigmaY=view.blur[1])
    return crop


def _span(low: float, high: float, limit: int) -> tuple[int, int]:
    """Pixels from low to high that the image has; one at its border at least."""
    first = min(max(math.floor(low), 0), limit - 1)
    return first, max(min(math.ceil(high), limit), first + 1)
