"""IBFP's online branch as the tracker knows it: settings, and what it can do. Torch is loaded only where it is used."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.models.variant import Variant

_log = logging.getLogger(__name__)

KINDS = ("filter", "layers", "off")
_RANGES = {
    "weight": (0.0, 1.0),
    "interval": (1, 1000),
    "memory": (32, 10_000),
    "channels": (1, 1024),
    "hidden": (1, 1024),
    "rate": (0.0, 1.0),
    "hard_rate": (0.0, 1.0),
    "first_weight": (0.0, 0.99),
    "fit_steps": (1, 1000),
    "fit_iterations": (1, 1000),
    "iterations": (1, 1000),
    "filter_regularisation": (0.0, 1e3),
    "projection_regularisation": (0.0, 1e3),
    "hinge": (0.0, 1.0),
    "sigma": (0.01, 1.0),
    "not_found": (0.0, 1.0),
    "distractor": (0.0, 1.0),
    "hard_negative": (0.0, 1.0),
    "neighbourhood": (0.1, 10.0),
    "displacement": (0.0, 1.5),
}


@dataclass(frozen=True, slots=True)
class OnlineSettings:
    """How the branch learns and is listened to; the defaults are SPEC 4's, most of them ATOM's (arXiv 1811.07628)."""

    kind: str = "filter"
    """`filter`: ATOM's projection and 4x4 filter; `layers`: four convolutions trained by SGD, which the paper words and
    which cost many times as much; `off`."""
    weight: float = 0.7
    """Of its map against the offline one's. Higher: fewer look-alikes, and more trust in what was learnt."""
    interval: int = 10
    """Frames between two updates. Lower follows a changing look sooner, and costs more."""
    memory: int = 250
    """Samples that are kept; the least important goes first."""
    channels: int = 64
    """Of the projected features (`filter`)."""
    hidden: int = 256
    """Of the convolutions (`layers`)."""
    rate: float = 0.01
    """Weight of a frame's sample against all before it. Higher forgets sooner."""
    hard_rate: float = 0.02
    """The same where a distractor was seen."""
    first_weight: float = 0.25
    """What the samples of the first frame weigh at least, all together. Higher holds on to the first look."""
    fit_steps: int = 6
    """Gauss-Newton steps on the first frame; tens of steps of SGD for `layers`."""
    fit_iterations: int = 10
    """Conjugate gradients of each."""
    iterations: int = 5
    """Conjugate gradients, or steps of SGD, of an update. Higher follows a changing look sooner, and costs more."""
    filter_regularisation: float = 0.1
    projection_regularisation: float = 1e-4
    hinge: float = 0.05
    """Labels below it ask for a response of 0 or less."""
    sigma: float = 0.25
    """Of a label, over the root of the target's area."""
    not_found: float = 0.25
    """Where the highest score is below, the target was not found: its box stays. Higher gives up sooner."""
    distractor: float = 0.8
    """A second peak of more than this share of the first is a distractor: the one near the last place is taken."""
    hard_negative: float = 0.5
    """A second peak of more than this share of the first is learnt at once."""
    neighbourhood: float = 2.2
    """In widths and heights of the target around a peak: what belongs to it."""
    displacement: float = 0.8
    """How far, in halves of the search side, a target may have moved where there is a distractor."""

    def __post_init__(self) -> None:
        """ValueError naming a value out of range."""
        if self.kind not in KINDS:
            raise ValueError(f"online.kind is {self.kind!r}, must be one of {', '.join(KINDS)}")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"online.{name} is {value!r}, must be within [{low:g}, {high:g}]")


class OnlineModel(Protocol):
    """What was learnt of one target. Never changed: what has learnt more is another one.

    Features are (C, F, F) float32, the search map of stride 16; places are cx, cy, w, h in search sides.
    """

    def response(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(2F, 2F) on the cells of the head: about 1 at the target, 0 or less elsewhere."""
        ...

    def remembered(self, features: NDArray[np.float32], place: Sequence[float], rate: float) -> OnlineModel:
        """With one more sample, whose weight is `rate` of all; nothing is learnt yet."""
        ...

    def updated(self) -> OnlineModel:
        """After some iterations on all samples."""
        ...


class OnlineBranch(Protocol):
    """Makes models of targets."""

    def fitted(self, features: NDArray[np.float32], places: NDArray[np.float32]) -> OnlineModel:
        """From samples of the first frame, (N, C, F, F) and (N, 4), the one without augmentation first."""
        ...


def online_settings(variant: Variant) -> OnlineSettings:
    """Of a variant; ValueError names what does not fit."""
    try:
        return OnlineSettings(**variant.online)
    except (TypeError, ValueError) as error:
        raise ValueError(f"model {variant.name}: {error}") from error


def load_online_branch(variant: Variant, settings: OnlineSettings) -> OnlineBranch | None:
    """The branch of a variant; None where it is off, or, with a warning, where there is no torch to run it."""
    if settings.kind == "off":
        return None
    if find_spec("torch") is None:
        _log.warning(
            "model %s runs without its online branch, which needs `pip install torch`: it tells look-alikes apart less "
            "well (`online.kind: off` in its variant says that this is wanted)",
            variant.name,
        )
        return None
    if settings.kind == "layers":
        from ros2_tracker.models.ibfp_online_layers import LayersBranch

        return LayersBranch(settings)
    from ros2_tracker.models.ibfp_online import FilterBranch

    return FilterBranch(settings)
