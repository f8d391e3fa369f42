r"""IBFP's loop, our reading (SPEC 4.3): the offline map and that of a branch that learns online, mixed; ATOM's rules.

    search crop -> network -> offline map, distances, features -> online branch -> map
                                   \----------- 0.3 + 0.7 ----------------------/ -> peaks -> box; what is learnt

The branch (`models.ibfp_settings`) is torch behind a protocol. Without it the offline map is followed alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import Engine, NamedArrays
from ros2_tracker.engines.batches import run_all
from ros2_tracker.models.ibfp_settings import OnlineBranch, OnlineModel, OnlineSettings
from ros2_tracker.models.variant import Variant
from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.decode import decode_ltrb
from ros2_tracker.tracking.family import Appearance, Look, Proposal, require_finite
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.ibfp_crop import View, first_views, replicated_crop, replicated_patch
from ros2_tracker.tracking.sample_target import clipped

FEATURES = {"deep": "template_deep", "middle": "template_middle", "size": "template_size"}
"""Output of the template graph -> input of the search graph."""


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
        self,
        variant: Variant,
        template_engine: Engine,
        settings: OnlineSettings,
        branch: OnlineBranch | None,
        lazy: bool = False,
    ) -> None:
        """Prepare.

        Args:
            variant: of this family.
            template_engine: runs the template graph.
            settings: of the branch.
            branch: None where nothing is to be learnt online.
            lazy: search crops are left to the engine; see `engines.patch`.

        """
        self._cut = replicated_patch if lazy else replicated_crop
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
        w, h = box.w / region.side, box.h / region.side
        target = np.array([round(w * template.size), round(h * template.size)], np.int32)
        made = run_all(self.template_engine, [{"template": crop, "template_target": target} for crop in crops])
        inputs = {name: made[0][output] for output, name in FEATURES.items()}
        if self.branch is None:
            return IbfpAppearance(inputs)
        places = [(*view.target(region.side / box.size), w, h) for view in views]
        features = np.stack([each["middle"] for each in made]).astype(np.float32)
        return IbfpAppearance(inputs, online=self.branch.fitted(features, np.array(places, np.float32)))

    def look(self, appearance: Appearance, frame: Frame, last: Box, zoom: float = 1.0) -> Look:
        """The search crop beside the template's maps."""
        search = self._variant.search
        region = Region.around(last, zoom * search.factor)
        inputs = {**appearance.inputs, "search": self._cut(frame, region, search.size)}
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
        reach = settings.displacement * 0.5 * cells
        close = [math.dist(at, (0.5 * (cells - 1),) * 2) <= reach for at in (cell, other)]
        if close[0] == close[1]:
            return Peak(cell, sure=False)
        return Peak(cell if close[0] else other, hard=True)
    return Peak(cell, hard=second > settings.hard_negative * first and second > settings.not_found)


def _best(score_map: NDArray[np.floating]) -> tuple[int, int]:
    row, column = divmod(int(score_map.argmax()), score_map.shape[1])
    return row, column
