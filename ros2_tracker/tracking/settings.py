"""What a user can set about tracking: small frozen dataclasses that refuse values out of range.

Each field says what happens to the behaviour when it goes up or down; config/tracker.yaml repeats it for ROS users.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from typing import Any

from ros2_tracker.models.variant import Variant


def require(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError naming the setting unless low <= value <= high (NaN never is)."""
    if not (low <= value <= high):
        raise ValueError(f"{name} is {value!r}, must be within [{low:g}, {high:g}]")


@dataclass(frozen=True, slots=True)
class ReliabilitySettings:
    """Thresholds of the TRACKING / UNCERTAIN / LOST state machine. Durations are seconds of image time."""

    tracking_above: float = 0.6
    """Reliability from which a target counts as found. Higher: recovers later, and less often on a look-alike."""
    uncertain_below: float = 0.45
    """Reliability under which a box becomes a guess. Higher: warns earlier, and more often for nothing."""
    lost_below: float = 0.4
    """Reliability under which the target counts as gone. Higher: gives up sooner, and more often for nothing."""
    uncertain_after: float = 0.2
    """How long reliability must stay just under `uncertain_below`; the deeper it falls the shorter, down to a ninth.
    Longer: ignores short dips, warns later."""
    lost_after: float = 0.3
    """How long reliability must stay under `lost_below`. Longer: rides out occlusions, admits a loss later."""
    recover_after: float = 0.1
    """How long reliability must stay over `tracking_above` to be TRACKING again. Longer: surer, later."""
    frozen_after: float = 0.1
    """A camera that repeats an image for this long is taken to be stuck: reliability is 0 until there is another one.
    Longer: puts up with repeated images. 0: never, for simulators whose still scenes have no noise."""

    def __post_init__(self) -> None:
        """Check ranges and order; ValueError names the setting and its value."""
        for name in ("tracking_above", "uncertain_below", "lost_below"):
            require(f"reliability.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("uncertain_after", "lost_after", "recover_after", "frozen_after"):
            require(f"reliability.{name}", getattr(self, name), 0.0, 60.0)
        if not self.lost_below <= self.uncertain_below <= self.tracking_above:
            raise ValueError(
                "reliability thresholds must be ordered lost_below <= uncertain_below <= tracking_above, got "
                f"{self.lost_below:g}, {self.uncertain_below:g}, {self.tracking_above:g}"
            )

    def is_stuck(self, frozen_for: float) -> bool:
        """Whether a camera that has repeated its image for so many seconds is taken to be stuck."""
        return 0.0 < self.frozen_after <= frozen_for


@dataclass(frozen=True, slots=True)
class MotionSettings:
    """Noise of the constant-velocity model, relative to the target's size (side of the square of equal area)."""

    acceleration: float = 12.0
    """Standard deviation of the centre's acceleration, sizes/s^2. Higher: follows manoeuvres, predicts nervously."""
    size_rate: float = 0.5
    """Standard deviation of the size's change, 1/s. Higher: width and height react faster and vary more."""
    position_noise: float = 0.05
    """Standard deviation of a fully reliable measured centre, in sizes. Higher: smoother, slower velocity."""
    size_noise: float = 0.12
    """Standard deviation of a fully reliable measured width or height, in sizes."""

    def __post_init__(self) -> None:
        """Check ranges; ValueError names the setting and its value."""
        for name in ("acceleration", "size_rate", "position_noise", "size_noise"):
            require(f"motion.{name}", getattr(self, name), 1e-4, 1e4)


@dataclass(frozen=True, slots=True)
class TemplateUpdateSettings:
    """When the appearance that is searched for follows the target's. The first view stays in it for ever."""

    enabled: bool = True
    """Off: as the authors' loop does it, ungated; the shipped default then keeps its first template."""
    above: float = 0.8
    """Reliability that a view must have to be learnt from, in [0, 1]. Higher: learns less, and less of mistakes."""
    after: float = 0.5
    """Seconds of image time that reliability must have stayed there. Longer: learns later, from calmer moments."""
    interval: float = 1.0
    """Seconds of image time between two updates. Shorter: follows a changing look sooner, and drifts sooner."""
    weight: float = 0.0
    """Of the recent view against the first, in [0, 1], for networks with one template; 0: the first alone."""
    rollback_within: float = 0.5
    """An update is taken back when reliability falls under `reliability.uncertain_below` this soon, s."""

    def __post_init__(self) -> None:
        """Check ranges; ValueError names the setting and its value."""
        for name in ("above", "weight"):
            require(f"template_update.{name}", getattr(self, name), 0.0, 1.0)
        for name in ("after", "interval", "rollback_within"):
            require(f"template_update.{name}", getattr(self, name), 0.0, 3600.0)


@dataclass(frozen=True, slots=True)
class LearningSettings:
    """What is learnt, while a target is followed, to tell it from what looks like it: for networks that can be told.

    Of the shipped ones that is the default. What is switched on later holds for targets that are drawn afterwards.
    """

    enabled: bool = True
    """Off: what the network says of the first view is followed alone, and its boxes are taken as they are."""
    weight: float = 0.5
    """Of what was learnt against the network's score, in [0, 1]. Higher: fewer look-alikes, and more trust in what was
    learnt by mistake."""
    above: float = 0.5
    """Reliability of what is learnt from, in [0, 1]. Higher: learns less, and less of mistakes."""
    interval: float = 0.1
    """Seconds of image time between two lessons. Shorter: follows a changing look sooner; each costs 1 ms of a core."""
    half_life: float = 1.0
    """Seconds of image time after which a lesson counts half of a new one. Shorter: follows a changing look sooner, and
    drifts sooner. The first view keeps three tenths of all for ever."""
    drawn: float = 0.5
    """How far boxes are made like the one that was drawn, in [0, 1], where the network's own of that frame has another
    size or shape. Higher: keeps what the user meant, and also where that was drawn badly."""

    def __post_init__(self) -> None:
        """Check ranges; ValueError names the setting and its value."""
        for name in ("weight", "above", "drawn"):
            require(f"learning.{name}", getattr(self, name), 0.0, 1.0)
        require("learning.interval", self.interval, 0.0, 60.0)
        require("learning.half_life", self.half_life, 0.01, 3600.0)


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """How a LOST target is searched for."""

    enabled: bool = True
    """Off: it is looked for only where it was last seen."""
    windows_per_image: int = 1
    """Places elsewhere in the image that are looked into, each for one more run of the network: in turns where the
    target's colours are, and all over the image. More: found sooner."""
    growth: float = 1.0
    """How much larger the search around the last place gets, in usual sides per second."""
    zoom: float = 1.5
    """Side of the search at most, in usual sides. Larger: fewer windows for an image, and small targets are missed."""
    candidate_above: float = 0.2
    """The network's score from which a find is looked at more closely. Lower: more finds, more of them in vain."""
    accept_above: float = 0.6
    """Reliability that a find must have to be the target where it could not be more alike, in [0, 1]; the less alike,
    the more, up to a quarter of what is left to 1. Higher: fewer mistaken recoveries, more missed."""
    accept_likeness: float = 0.55
    """Likeness of a find to what was lost, in [0, 1], from which it is the target; a less convincing one stays
    UNCERTAIN. Higher: fewer look-alikes are taken, and the target itself later when it comes back looking different."""
    accept_after: float = 0.2
    """Seconds of image time that its reliability must have stayed up; down to a third of it, the more alike the find
    is. Longer: surer, later."""
    guess_after: float = 0.5
    """Seconds after which a find that convinces less is published, as UNCERTAIN. Longer: fewer wrong boxes, later."""

    def __post_init__(self) -> None:
        """Check ranges; ValueError names the setting and its value."""
        for name in ("candidate_above", "accept_above", "accept_likeness"):
            require(f"recovery.{name}", getattr(self, name), 0.0, 1.0)
        require("recovery.windows_per_image", self.windows_per_image, 0, 64)
        require("recovery.growth", self.growth, 0.0, 100.0)
        require("recovery.zoom", self.zoom, 1.0, 8.0)
        for name in ("accept_after", "guess_after"):
            require(f"recovery.{name}", getattr(self, name), 0.0, 60.0)


@dataclass(frozen=True, slots=True)
class DistractorSettings:
    """How look-alikes beside the target are kept apart from it."""

    enabled: bool = True
    """Off: the best answer of the network is the target, wherever it is."""
    above: float = 0.3
    """Score of a second answer, as a share of the best, from which it is remembered. Lower: remembers more of them."""
    memory: float = 0.5
    """Seconds that one which is not seen any more is remembered."""

    def __post_init__(self) -> None:
        """Check ranges; ValueError names the setting and its value."""
        require("distractors.above", self.above, 0.0, 1.0)
        require("distractors.memory", self.memory, 0.0, 60.0)


@dataclass(frozen=True, slots=True)
class EgoMotionSettings:
    """Whether the camera's own motion is looked for in the background."""

    enabled: bool = False
    """On: search and prediction move with the background, for 2 ms an image. Pays for moving cameras, slow networks."""


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """Everything about following one target that may change while it is followed."""

    reliability: ReliabilitySettings = field(default_factory=ReliabilitySettings)
    motion: MotionSettings = field(default_factory=MotionSettings)
    ego_motion: EgoMotionSettings = field(default_factory=EgoMotionSettings)
    template_update: TemplateUpdateSettings = field(default_factory=TemplateUpdateSettings)
    learning: LearningSettings = field(default_factory=LearningSettings)
    recovery: RecoverySettings = field(default_factory=RecoverySettings)
    distractors: DistractorSettings = field(default_factory=DistractorSettings)


PUBLISHED_LOOP = TargetSettings(
    template_update=TemplateUpdateSettings(enabled=False),
    learning=LearningSettings(enabled=False),
    recovery=RecoverySettings(enabled=False),
    distractors=DistractorSettings(enabled=False),
)
"""A family's loop as its authors have it: nothing is learnt, searched for or kept apart by us."""


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """Everything about one camera's targets and its buffer of recent frames."""

    target: TargetSettings = field(default_factory=TargetSettings)
    max_targets: int = 4
    """Further boxes are refused. Each target costs one inference a frame."""
    max_image_age: float = 0.5
    """Seconds; an image older than this is not answered. 0: any age. Lower: fewer stale answers, more gaps."""
    frame_buffer_duration: float = 2.0
    """Seconds of images kept for boxes drawn on an older one. Longer: more patience with operators, more memory."""
    frame_buffer_bytes: int = 256 * 1024 * 1024
    """Upper bound on those images' memory; the oldest go first."""
    predict_at_camera_rate: bool = True
    """Images that come while the worker is busy are answered at once by the motion model. Off: they stay unanswered."""

    def __post_init__(self) -> None:
        """Check ranges; ValueError names the setting and its value."""
        require("max_targets", self.max_targets, 1, 64)
        require("max_image_age", self.max_image_age, 0.0, 3600.0)
        require("frame_buffer_duration", self.frame_buffer_duration, 0.0, 600.0)
        require("frame_buffer_bytes", self.frame_buffer_bytes, 0, math.inf)


def default_settings(variant: Variant) -> TargetSettings:
    """What holds for a model where the user says nothing: the noise of motion and the update can be its own."""
    # A branch that learns online is a family's own way of following the target's look.
    update = TemplateUpdateSettings(enabled=not variant.online)
    return TargetSettings(motion=MotionSettings(**variant.motion), template_update=update)


def target_settings(
    overrides: Mapping[str, str | float | bool], base: TargetSettings | None = None
) -> TargetSettings:
    """`base` (or the defaults) with some settings changed, each under the name of the node's parameter.

    Args:
        overrides: `group.field` -> value, as a number, a bool or its text: {"reliability.lost_after": "0.6"}.
        base: what holds for all others.

    Raises:
        ValueError: there is no such setting, or the value cannot be one of it; the text names both.

    """
    settings = base or TargetSettings()
    groups = {group.name: getattr(settings, group.name) for group in fields(settings)}
    known = {f"{group}.{f.name}": getattr(held, f.name) for group, held in groups.items() for f in fields(held)}
    changes: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            meant = f"is {near[0]} meant?" if near else f"there are {', '.join(known)}"
            raise ValueError(f"there is no setting {name}: {meant}")
        group, _, setting = name.partition(".")
        changes.setdefault(group, {})[setting] = _converted(name, value, type(known[name]))
    # All of a group at once: its thresholds are checked together.
    return replace(settings, **{group: replace(groups[group], **values) for group, values in changes.items()})


def _converted(name: str, value: str | float | bool, kind: type) -> bool | int | float | str:
    """The value as this type; ValueError naming the setting if it is of another."""
    text = str(value).strip()
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind in (int, float) and not isinstance(value, bool):
            return kind(text)  # type: ignore[no-any-return]
        if kind is str:
            return text
    except (KeyError, ValueError):
        pass
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
    raise ValueError(f"{name} is {value!r}, must be {wanted}")
