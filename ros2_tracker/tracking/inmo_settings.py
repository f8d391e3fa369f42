"""What InMo's authors tuned in their loops for each benchmark (SPEC 3.7)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ros2_tracker.tracking.settings import require


@dataclass(frozen=True, slots=True)
class LoopSettings:
    """What the authors tuned for each benchmark."""

    penalty: float
    """Of a change of size or shape from frame to frame. Higher: steadier boxes, which follow real changes later."""
    size_rate: float
    """Weight of a new size against the old, at most. Lower: smoother sizes, which follow real changes later."""
    window: float
    """Share of the window in a cell's rank. Higher: fewer jumps to look-alikes, and to a target that moved far."""

    def __post_init__(self) -> None:
        """ValueError naming a value out of range."""
        for name in ("penalty", "size_rate", "window"):
            require(f"loop.{name}", getattr(self, name), 0.0, 1.0)


TRANSINMO: Mapping[str, LoopSettings] = {
    name: LoopSettings(penalty, size_rate, 0.49)
    for name, penalty, size_rate in (
        ("otb", 0.147, 0.699),
        ("lasot", 0.0, 1.0),
        ("tnl2k", 0.0, 1.0),
        ("got10k", 0.049, 1.0),
        ("trackingnet", 0.049, 1.0),
        ("uav123", 0.128, 0.913),
        ("nfs", 0.015, 0.944),
        ("vot", 0.143, 0.803),
        ("tc128", 0.063, 0.519),
        ("totb", 0.103, 0.82),
    )
}
CNNINMO: Mapping[str, LoopSettings] = {
    name: LoopSettings(*values)
    for names, values in (
        (("otb", "vot", "nfs"), (0.2, 0.35, 0.45)),
        (("uav123",), (0.2, 0.4, 0.3)),
        (("lasot", "tnl2k", "trackingnet"), (0.04, 0.33, 0.3)),
        (("got10k",), (0.06, 0.7, 0.1)),
        (("totb",), (0.103, 0.82, 0.49)),
        (("tc128",), (0.063, 0.519, 0.49)),
    )
    for name in names
}


def loop_settings(published: Mapping[str, LoopSettings], given: Mapping[str, Any]) -> LoopSettings:
    """Settings of a variant's `loop`: those of a `dataset`, or of LaSOT, with single ones replaced.

    Raises:
        ValueError: an unknown dataset or setting, or a value out of range.

    """
    dataset = given.get("dataset", "lasot")
    if dataset not in published:
        raise ValueError(f"loop.dataset is {dataset!r}, must be one of {', '.join(published)}")
    names = [item.name for item in fields(LoopSettings)]
    strange = given.keys() - {"dataset", *names}
    if strange:
        raise ValueError(f"unknown setting loop.{', loop.'.join(sorted(strange))}")
    return LoopSettings(*(float(given.get(name, getattr(published[dataset], name))) for name in names))
