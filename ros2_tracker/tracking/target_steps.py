"""What passes through `tracking.target` from step to step: memory, question, finding, and what is still to be made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from ros2_tracker.engines.base import NamedArrays
from ros2_tracker.tracking import motion
from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.discriminator import Discriminator
from ros2_tracker.tracking.distractors import LookAlikes, Second
from ros2_tracker.tracking.ego_motion import warp_box
from ros2_tracker.tracking.events import Reason
from ros2_tracker.tracking.family import Look, Proposal
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.likeness import Memories
from ros2_tracker.tracking.recovery import Search
from ros2_tracker.tracking.reliability import Hysteresis
from ros2_tracker.tracking.sample_target import SampleRegion
from ros2_tracker.tracking.score_map import MapShape
from ros2_tracker.tracking.signals import Familiar, Seen
from ros2_tracker.tracking.template_update import Templates
from ros2_tracker.tracking.views import Strips


class Memory(NamedTuple):
    """All that a target carries from frame to frame; replaced as a whole, so a failed update changes nothing."""

    stamp: float
    box: Box
    """Where the next search is centred, px."""
    trusted: Box
    """The last one that was more than a guess, px."""
    motion: motion.MotionState
    hysteresis: Hysteresis
    templates: Templates
    familiar: Familiar
    """What reliability's signals are relative to."""
    look_alikes: LookAlikes = LookAlikes()
    learnt: Discriminator | None = None
    """What tells it from what is around it, for networks that can be told."""
    remembered: Memories = Memories()
    """The target as it was while reliability was high."""
    search: Search | None = None
    """From when it is LOST until it is TRACKING again, if lost targets are searched for."""
    cause: Reason = Reason.NONE
    """Why it is not TRACKING, where the signals told."""
    frames: int = 0
    """Since the first."""
    answered: Answered | None = None
    """What `Target.settle` will take in."""

    def carried(self, ego: motion.Homography | None) -> Memory:
        """The places to look at as the camera's motion has moved them; the motion model's own is for `predict_seen`."""
        if ego is None:
            return self
        search = self.search
        if search is not None:
            candidate = None if search.candidate is None else warp_box(search.candidate, ego)
            search = replace(search, place=warp_box(search.place, ego), candidate=candidate)
        return self._replace(box=warp_box(self.box, ego), trusted=warp_box(self.trusted, ego), search=search)


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A target's part in one run of the network: between `Target.ask` and `Target.take`.

    It holds what does not depend on the answer: that is quicker made while the caches still hold the tracker's code
    and the pixels of the search crop.
    """

    frame: Frame
    stamp: float
    looks: tuple[Look, ...]
    """First where the target should be; while it is LOST, further places in the image."""
    memory: Memory
    """The target's, as the camera's motion has moved it."""
    dt: float
    """Seconds since its last frame, as the motion model counts them."""
    predicted: motion.MotionState
    strips: Strips
    """Of the frame; see `Familiar.strips_of`."""
    backward: bool = False
    """Whether the last look is into the past, for the likeness of a candidate."""


class Found(NamedTuple):
    """What the network says of one frame, put in order."""

    look: Look
    """That the box is from."""
    proposal: Proposal
    maps: tuple[MapShape, ...]
    """Of the proposal."""
    second: Second | None
    answers: tuple[Proposal, ...]
    """Through all windows, in their order."""
    likeness: float | None = None
    """Of a candidate to what was lost, where that was asked."""


class Answered(NamedTuple):
    """An answer that is out, of which what only later frames need is still to be made."""

    found: Found
    lasting: Look | None
    """What it was found in, if that is to be remembered."""
    seen: Seen
    outputs: NamedArrays
    """Of the look around the last place."""
    region: Region | SampleRegion
    """Of that look."""
    reliability: float
    gone: bool
    dt: float
    """Seconds since the frame before."""
