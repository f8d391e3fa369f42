"""Disappearances made from real footage: a clip in which nothing disappears becomes one in which the target does, once.

Each made sequence is followed for a while, loses its target in one way for 1 to 5 seconds, and gets it back. Its frames
are made when they are asked for. Everything follows from the seed, the sequence's name and which others there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation import disappearance_effects
from ros2_tracker.evaluation.datasets import AnnotatedSequence, LeftOut
from ros2_tracker.evaluation.disappearance_effects import Effect
from ros2_tracker.evaluation.metrics import clipped

LEAD_S = (1.0, 2.0)
"""The target is there for so long before anything happens, uniformly drawn."""
HIDDEN_S = (1.0, 5.0)
"""It cannot be seen for so long, drawn so that each ratio is as likely."""
AFTER_S = 2.0
"""And is there again for so long."""
ABSENT_BELOW = 0.1
"""Share of the box that can be seen under which the target counts as absent."""
KNOWN_FROM = 0.5
"""Share from which a frame is scored, with the whole box as truth; in between it is not."""
_INSIDE = 0.8
"""Share of the box that must be inside the image while the target is there."""
_TRIES = 60


class Kind(Enum):
    """Ways to disappear."""

    OCCLUDER = "occluder"
    """A textured patch of another clip moves in front."""
    TARGET_FREE = "target-free"
    """Frames without it: of another clip, or the same ones with its place filled from beside it."""
    CAMERA_JUMP = "camera-jump"
    """The camera looks elsewhere, and finds it at another place of the image when it looks back."""
    BLACK = "black"
    """Black frames."""
    FROZEN = "frozen"
    """One frame again and again while the world goes on: the picture shows a target that is no longer there."""
    LIGHTS_OFF = "lights-off"
    """The light fades until only noise is left."""


@dataclass(frozen=True, slots=True)
class Disappearance:
    """One stretch without the target."""

    kind: str
    """A `Kind`'s value; `natural` in footage as it was taken."""
    first: int
    """First frame in which it cannot be seen."""
    last: int
    """Last one."""
    detail: str = ""
    """How it was made."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MadeSequence(AnnotatedSequence):
    """A sequence whose frames are made from those of another one."""

    source: AnnotatedSequence
    order: NDArray[np.intp]
    """(N,) the source's frame behind each frame: forth and back where the source is too short."""
    effect: Effect
    events: tuple[Disappearance, ...]
    donor: AnnotatedSequence | None
    """Where foreign pixels are from."""

    def image(self, index: int) -> NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR, as large as the source's; ValueError naming the file that cannot be read."""
        return self.effect.picture(index, self.plain)

    def plain(self, index: int) -> NDArray[np.uint8]:
        """The source's frame, with nothing done to it."""
        return self.source.image(int(self.order[index]))

    def digest(self) -> str:
        """Changes with everything that the frames are made from, this code included."""
        digest = hashlib.sha256(AnnotatedSequence.digest(self).encode() + self.order.tobytes())
        digest.update(f"{self.effect!r} {self.events!r} {_code_digest()}".encode())
        digest.update(self.donor.digest().encode() if self.donor is not None else b"")
        return digest.hexdigest()


def make_disappearances(
    sequences: Sequence[AnnotatedSequence], seed: int = 0, per_sequence: int = len(Kind), fps: float = 30.0
) -> tuple[list[MadeSequence], list[LeftOut]]:
    """Make `per_sequence` sequences of each one, with as many of one kind as of another (but for a remainder).

    Args:
        sequences: the others of each are where its foreign pixels come from; one alone cannot be occluded.
        seed: of everything that is drawn.
        per_sequence: at least 1; six are one of each kind.
        fps: of the footage, Hz.

    Returns:
        The made sequences, in the order of their sources, and what could not be made, with why.

    """
    made, missing = [], []
    for source in sequences:
        donors = _donors(source, sequences)
        kinds = list(Kind)
        _generator(seed, source.name, "kinds").shuffle(kinds)  # type: ignore[arg-type]
        for number in range(per_sequence):
            kind, round_ = kinds[number % len(kinds)], number // len(kinds)
            name = f"{source.name}+{kind.value}" + (f"-{round_ + 1}" if round_ else "")
            try:
                result = _made(name, kind, source, donors, seed, fps)
            except ValueError as error:  # an image that cannot be read
                result = " ".join(str(error).split())
            if isinstance(result, str):
                missing.append(LeftOut(name, result))
            else:
                made.append(result)
    return made, missing


def disappearances(sequence: AnnotatedSequence, fps: float, at_least_s: float = HIDDEN_S[0]) -> list[Disappearance]:
    """The events of a made sequence; else the stretches of that length or more that the annotation marks as absent."""
    if isinstance(sequence, MadeSequence):
        return list(sequence.events)
    return [
        Disappearance("natural", first, last)
        for first, last in runs_of(sequence.absent)
        if last - first + 1 >= at_least_s * fps and first > 0
    ]


def runs_of(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """First and last index of each unbroken run of true values of (N,)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flags, [False]]).astype(int)))
    return [(int(first), int(end) - 1) for first, end in edges.reshape(-1, 2)]


class Stretch(NamedTuple):
    """A part of a clip in which the target is to disappear."""

    source: AnnotatedSequence
    order: NDArray[np.intp]
    """(N,) the source's frames."""
    boxes: NDArray[np.float64]
    """(N, 4) x, y, w, h px where the target would be; linear between known ones."""
    first: int
    """First frame without the target."""
    last: int
    width: int
    """Of the images, px."""
    height: int


def _made(
    name: str, kind: Kind, source: AnnotatedSequence, donors: list[AnnotatedSequence], seed: int, fps: float
) -> MadeSequence | str:
    """One made sequence, or why there is none."""
    from ros2_tracker.evaluation.disappearance_plans import PLANS

    if kind is Kind.OCCLUDER and not donors:
        return "there is no other sequence to cut an occluder from"
    height, width = source.image(0).shape[:2]
    rng = _generator(seed, name)
    for _ in range(_TRIES):
        stretch = _stretch(source, width, height, fps, rng)
        plan = None if stretch is None else PLANS[kind](stretch, donors, fps, rng)
        if stretch is None or plan is None:
            continue
        visible = np.where(source.absent[stretch.order], 0.0, plan.visible)
        unseen = visible < ABSENT_BELOW
        known = (visible >= KNOWN_FROM) & source.scorable[stretch.order]
        truth = np.where(known[:, None], plan.boxes, np.nan)
        # What can be seen before and after decides, not what was planned: an occluder leaves a bit earlier or later.
        first, last = next(run for run in runs_of(unseen) if run[0] <= stretch.last and run[1] >= stretch.first)
        return MadeSequence(
            name=name,
            files=tuple(source.files[i] for i in stretch.order),
            truth=truth,
            absent=unseen,
            source=source,
            order=stretch.order,
            effect=plan.effect,
            events=(Disappearance(kind.value, first, last, plan.detail),),
            donor=plan.donor,
        )
    return f"{_TRIES} random stretches of it did not allow a disappearance of kind {kind.value}"


def _stretch(
    source: AnnotatedSequence, width: int, height: int, fps: float, rng: np.random.Generator
) -> Stretch | None:
    """A random stretch whose target is there before and after; None when this draw has none."""
    lead = round(fps * rng.uniform(*LEAD_S))
    hidden = round(fps * np.exp(rng.uniform(*np.log(HIDDEN_S))))
    order = forth_and_back(len(source), int(rng.integers(2 * len(source))), lead + hidden + round(fps * AFTER_S))
    first, last = lead, lead + hidden - 1
    there = np.ones(len(order), bool)
    there[first : last + 1] = False
    boxes = source.truth[order]
    if not source.scorable[order][there].all():
        return None
    inside = np.prod(clipped(boxes, width, height)[:, 2:], axis=1) / np.prod(boxes[:, 2:], axis=1)
    if not (inside[there] >= _INSIDE).all():
        return None
    known = np.flatnonzero(~np.isnan(boxes).any(axis=1))
    boxes = np.stack([np.interp(np.arange(len(order)), known, column[known]) for column in boxes.T], axis=1)
    return Stretch(source, order, boxes, first, last, width, height)


def forth_and_back(frames: int, start: int, length: int) -> NDArray[np.intp]:
    """(length,) frames of a clip of so many, forth and back without end, no frame twice in a row at its ends.

    `start` counts along the way forth and back; where the clip turns, all motion in it does.
    """
    if frames == 1:
        return np.zeros(length, np.intp)
    position = (start + np.arange(length)) % (2 * (frames - 1))
    return np.minimum(position, 2 * (frames - 1) - position)


def _donors(source: AnnotatedSequence, sequences: Sequence[AnnotatedSequence]) -> list[AnnotatedSequence]:
    """The sequences of other footage: two targets can share their images."""
    folder = source.files[0].parent
    return [other for other in sequences if other.files[0].parent != folder]


def _generator(seed: int, *names: str) -> np.random.Generator:
    digest = hashlib.sha256("\n".join([str(seed), *names]).encode()).digest()
    return np.random.default_rng(list(digest))


def _code_digest() -> str:
    folder = Path(disappearance_effects.__file__).parent
    files = sorted(folder.glob("disappearance*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
