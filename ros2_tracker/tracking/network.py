"""A variant ready to track: its engine, and its family's way from frame to question and from answer to box."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np

from ros2_tracker.engines.base import Engine, EngineError, Engines, NamedArrays, Progress
from ros2_tracker.engines.batches import count_runs, run_all
from ros2_tracker.engines.load import EngineSettings, load_engines
from ros2_tracker.models.ibfp_settings import load_online_branch, online_settings
from ros2_tracker.models.variant import Variant, load_variant
from ros2_tracker.tracking.family import Family, Look
from ros2_tracker.tracking.frame import ArrayFrame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.ibfp import Ibfp
from ros2_tracker.tracking.inmo import CnnInMo, TransInMo
from ros2_tracker.tracking.multistage import MultiStage
from ros2_tracker.tracking.onestream import OneStream
from ros2_tracker.tracking.ostrack import OSTrack
from ros2_tracker.tracking.reliability import DEFAULT_RELIABILITY, ReliabilityModel
from ros2_tracker.tracking.stark import Stark


class TrackingNetwork:
    """A variant, its loaded engine and its family. Not thread-safe: one thread asks it."""

    def __init__(self, variant: Variant, engines: Engines) -> None:
        """EngineError when the network's inputs or outputs are not those of the variant."""
        self.variant = variant
        self.engine = engine = engines.per_frame
        self.reason = engines.reason
        """Why this engine, for people."""
        self.family = _family(variant, engines.per_template, engines.takes_patches)
        _check_names(variant, "input", self.family.inputs, frozenset(engine.inputs), exactly=True)
        _check_names(variant, "output", self.family.outputs, frozenset(engine.outputs))
        size = engine.inputs["search"][1]
        if size != variant.search.size:
            raise EngineError(f"model {variant.name}: the network takes {size} px, not {variant.search.size} px")
        self.reliability = (
            ReliabilityModel.load(variant.reliability) if variant.reliability else DEFAULT_RELIABILITY
        )

    @classmethod
    def load(
        cls,
        name: str = "default",
        settings: EngineSettings | None = None,
        progress: Progress = lambda phase, fraction: None,
        cancel: threading.Event | None = None,
    ) -> TrackingNetwork:
        """Network of a variant by name, warmed up.

        Args:
            name: of the variant.
            settings: which engine, from which file; None for the defaults.
            progress: of the loading, which can take minutes where an engine is built.
            cancel: ends a build early.

        Raises:
            ValueError: unknown model, or settings that do not go together.
            WeightsMissingError: the weights file is not there.
            EngineError: the engine is not installed, refuses the file or fails its self-test.

        """
        variant = load_variant(name)
        network = cls(variant, load_engines(variant, settings, progress, cancel))
        progress("warming up", None)
        network.warm_up()
        return network

    def warm_up(self) -> None:
        """Run on a grey frame, so that allocation and kernel choice do not delay the first real one."""
        side = 2 * self.variant.search.size
        frame = ArrayFrame(np.full((side, side, 3), 127, np.uint8))
        box = Box.from_center(side / 2, side / 2, side / 4, side / 4)
        appearance = self.family.appearance(frame, box)
        for _ in range(2):
            self.infer([self.family.look(appearance, frame, box)])

    def infer(self, looks: Sequence[Look]) -> list[NamedArrays]:
        """The network's raw outputs for several targets, in as few runs as its batch allows."""
        return run_all(self.engine, [look.inputs for look in looks])

    def count_runs(self, looks: int) -> int:
        """How often the network runs to answer so many looks."""
        return count_runs(self.engine, looks)


def _family(variant: Variant, template_engine: Engine | None, lazy: bool) -> Family:
    if variant.family == "onestream":
        return OneStream(variant, lazy)
    if variant.family == "ostrack":
        return OSTrack(variant, lazy)
    if variant.family == "ibfp" and template_engine is not None:
        settings = online_settings(variant)
        return Ibfp(variant, template_engine, settings, load_online_branch(variant, settings), lazy)
    if variant.family == "inmo" and template_engine is not None:
        return (CnnInMo if variant.network["backbone"] == "resnet50" else TransInMo)(variant, template_engine, lazy)
    if variant.family == "multistage" and template_engine is not None:
        return MultiStage(variant, template_engine, lazy)
    if variant.family == "stark" and template_engine is not None:
        return Stark(variant, template_engine, lazy)
    raise EngineError(f"model {variant.name}: the family {variant.family} cannot be tracked with this network")


def _check_names(
    variant: Variant, what: str, expected: frozenset[str], found: frozenset[str], exactly: bool = False
) -> None:
    missing, strange = expected - found, found - expected if exactly else frozenset()
    if missing or strange:
        problems = [f"no {what} {', '.join(sorted(missing))}"] if missing else []
        problems += [f"an unknown {what} {', '.join(sorted(strange))}"] if strange else []
        raise EngineError(f"model {variant.name}: the network has {' and '.join(problems)}")


