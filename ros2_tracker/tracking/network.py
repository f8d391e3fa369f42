"""A network as the tracking loop sees it: two crops in, one candidate and its score map out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.engines.base import Engine, EngineError, load_engine
from ros2_tracker.models.variant import Variant, load_variant
from ros2_tracker.models.window import hann_window
from ros2_tracker.tracking.decode import Candidate, decode_ltrb
from ros2_tracker.tracking.reliability import DEFAULT_RELIABILITY, ReliabilityModel


@dataclass(frozen=True, slots=True)
class Proposal:
    """What the network found in one search region."""

    candidate: Candidate
    score_map: NDArray[np.float32]
    """(F, F) scores in [0, 1] before windowing."""


class TrackingNetwork:
    """A variant, its loaded engine and its decoder. Not thread-safe: one thread proposes."""

    def __init__(self, variant: Variant, engine: Engine) -> None:
        """EngineError when the graph's outputs are not those that the decoder reads."""
        self.variant = variant
        self.engine = engine
        missing = {"score_map", "ltrb"} - set(engine.outputs)
        if missing:
            raise EngineError(f"model {variant.name}: the graph has no output {', '.join(sorted(missing))}")
        self._window = hann_window(engine.outputs["score_map"][-1])
        self.reliability = (
            ReliabilityModel.load(variant.reliability) if variant.reliability else DEFAULT_RELIABILITY
        )

    @classmethod
    def load(
        cls,
        name: str = "default",
        engine: str = "auto",
        precision: str = "auto",
        weights: str | Path | None = None,
        threads: int = 0,
    ) -> TrackingNetwork:
        """Network of a variant by name, warmed up.

        Raises:
            ValueError: unknown model, engine or precision.
            WeightsMissingError: the weights file is not there.
            EngineError: the engine is not installed or refuses the file.

        """
        variant = load_variant(name)
        network = cls(variant, load_engine(engine, precision, variant.require_graph(precision, weights), threads))
        network.warm_up()
        return network

    def warm_up(self) -> None:
        """Run on grey crops, so that allocation and kernel choice do not delay the first frame."""
        template = np.full((self.variant.template.size,) * 2 + (3,), 127, np.uint8)
        search = np.full((self.variant.search.size,) * 2 + (3,), 127, np.uint8)
        for _ in range(2):
            self.propose(template, search)

    def infer(self, template: NDArray[np.uint8], search: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """The network's raw outputs for one target; crops are (S, S, 3) uint8 RGB."""
        return self.engine.run({"template": template[None], "search": search[None]})

    def decode(self, outputs: dict[str, NDArray[np.float32]]) -> Proposal:
        """The candidate in raw outputs; FloatingPointError when they are not finite."""
        score_map = outputs["score_map"][0]
        return Proposal(decode_ltrb(score_map, outputs["ltrb"][0], self._window), score_map)

    def propose(self, template: NDArray[np.uint8], search: NDArray[np.uint8]) -> Proposal:
        """`decode(infer(...))`."""
        return self.decode(self.infer(template, search))
