"""What differs between families of trackers in one frame's way through: crop, network inputs, and the way back.

A family holds settings but no target: everything it must remember of one is in the `Appearance` that the target keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import NamedArrays
from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.sample_target import SampleRegion


class Drawn(NamedTuple):
    """The box that the user drew, over the network's own of the same target: others of it are made to be like it.

    People draw tight or loose, and the network has its habits: of shapes that it knows little of, boxes nearer to a
    square than they are.
    """

    w: float = 1.0
    """Ratio of the widths."""
    h: float = 1.0
    """Ratio of the heights."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """A target's look as the network takes it: the same from frame to frame until it is renewed."""

    inputs: NamedArrays
    """Network inputs that show the template."""
    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Colour outside the image (R, G, B in 0..255)."""
    drawn: Drawn = field(default=Drawn(), kw_only=True)

    @property
    def can_learn(self) -> bool:
        """Whether the network can be told what was learnt."""
        return "learnt" in self.inputs

    def told(self, learnt: NDArray[np.float32]) -> Appearance:
        """With what was learnt, as the network takes it; see `tracking.discriminator`."""
        return replace(self, inputs={**self.inputs, "learnt": learnt})


@dataclass(frozen=True, slots=True)
class Look:
    """One target's question to the network in one frame."""

    inputs: NamedArrays
    """All network inputs, those of the appearance included."""
    region: Region | SampleRegion
    """Where in the image it looks."""
    last: Box
    """The target's box before, px."""
    width: int
    """Of the image, px."""
    height: int
    drawn: Drawn = field(default=Drawn(), kw_only=True)
    """What the target's boxes are made like, for families that heed it."""

    def cut(self) -> Look:
        """The same, with the search crop cut if that was left to the engine: it holds no pixels of the camera's."""
        search = self.inputs["search"]
        if isinstance(search, np.ndarray):
            return self
        return replace(self, inputs={**self.inputs, "search": np.asarray(search)})

    def in_crop(self, box: Box) -> Box:
        """A box of the image, in px of the search crop."""
        region = self.region
        scale = self.inputs["search"].shape[0] / region.side
        return Box((box.x - region.x) * scale, (box.y - region.y) * scale, box.w * scale, box.h * scale)


@dataclass(frozen=True, slots=True)
class Proposal:
    """The network's answer, in the image."""

    box: Box
    """As the family publishes it, px."""
    score: float
    """The network's own opinion of the box, in [0, 1]."""
    score_maps: NDArray[np.float32]
    """(M, F, F) in [0, 1] before windowing: one map of the centre, or one a corner."""
    cells: tuple[tuple[int, int], ...]
    """(row, column) of the chosen cell of each map."""


class Family(Protocol):
    """One family of trackers."""

    inputs: frozenset[str]
    """Names of the network's inputs."""
    outputs: frozenset[str]
    """Names of the network's outputs that are read."""

    def appearance(self, frame: Frame, box: Box, fill: tuple[float, float, float] | None = None) -> Appearance:
        """Of a target in the frame its box was drawn on; BoxError when it cannot be cut out.

        `fill`: colour outside the image (R, G, B in 0..255), where the family takes the frame's mean; None: that.
        """
        ...

    def look(self, appearance: Appearance, frame: Frame, last: Box, zoom: float = 1.0) -> Look:
        """The question: where is what was last seen at `last`, in a region `zoom` times as large as usual?"""
        ...

    def proposal(self, look: Look, outputs: NamedArrays, cell: tuple[int, int] | None = None) -> Proposal:
        """The answer, or that of a (row, column) of a centre map which is not its best; corner heads know no other.

        Raises:
            FloatingPointError: it is not finite.

        """
        ...

    def renewed(self, appearance: Appearance, frame: Frame, found: Proposal, frame_number: int) -> Appearance:
        """The appearance after a frame as the authors' loop has it; frames count from 1 after the first one."""
        ...

    def updated(self, first: Appearance, frame: Frame, box: Box, weight: float) -> Appearance | None:
        """The first appearance with a recent view of the target beside it, or blended in with a weight in [0, 1].

        None where nothing would change.
        """
        ...


def blended(first: NDArray, recent: NDArray, weight: float) -> NDArray:
    """`weight` of the recent array and the rest of the first, in the first's type."""
    mixed = (1.0 - weight) * first.astype(np.float32) + weight * recent.astype(np.float32)
    return (np.rint(mixed) if first.dtype.kind in "ui" else mixed).astype(first.dtype)


def at_cell(cell: tuple[int, int], score_map: NDArray[np.floating], look: Look) -> tuple[Box, float]:
    """Box of the size before at a cell of a centre map, and its score: for graphs that decode their best cell alone."""
    (row, column), cells, region, last = cell, score_map.shape[0], look.region, look.last
    x = region.x + (column + 0.5) / cells * region.side
    y = region.y + (row + 0.5) / cells * region.side
    return Box.from_center(x, y, last.w, last.h), float(score_map[row, column])


def require_finite(**values: NDArray | float) -> None:
    """Raise FloatingPointError naming the network's answer unless all of it is finite."""
    if not all(np.isfinite(value).all() for value in values.values()):
        raise FloatingPointError("the network returned " + ", ".join(f"{n} {v}" for n, v in values.items()))
