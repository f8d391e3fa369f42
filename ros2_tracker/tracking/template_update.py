"""What the network compares with: the first view for ever, a recent one beside it while it can be trusted."""

from __future__ import annotations

from dataclasses import dataclass

from ros2_tracker.tracking.family import Appearance, Family
from ros2_tracker.tracking.frame import Frame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.settings import TemplateUpdateSettings


@dataclass(frozen=True, slots=True)
class Templates:
    """Of one target; replaced as a whole."""

    first: Appearance
    """Of the box that the user drew."""
    current: Appearance
    """What the network is given."""
    before: Appearance | None = None
    """What it was given before the last update, as long as that can be taken back."""
    reliable_for: float = 0.0
    """Seconds that reliability has been high enough to learn from."""
    age: float = 0.0
    """Seconds since the last update, or since one was taken back."""

    @classmethod
    def of(cls, appearance: Appearance) -> Templates:
        """On the frame the box was drawn on."""
        return cls(appearance, appearance)

    def after(
        self,
        family: Family,
        frame: Frame,
        box: Box,
        reliability: float,
        dt: float,
        uncertain_below: float,
        settings: TemplateUpdateSettings,
    ) -> Templates:
        """Templates after a frame in which the target was found at `box`, `dt` seconds after the one before."""
        age = self.age + dt
        reliable_for = self.reliable_for + dt if reliability >= settings.above else 0.0
        if self.before is not None and age <= settings.rollback_within and reliability < uncertain_below:
            return Templates(self.first, self.before)
        before = self.before if age <= settings.rollback_within else None
        if reliable_for > settings.after and age >= settings.interval:
            updated = family.updated(self.first, frame, box, settings.weight)
            if updated is not None:
                return Templates(self.first, updated, before=self.current)
        return Templates(self.first, self.current, before, reliable_for, age)
