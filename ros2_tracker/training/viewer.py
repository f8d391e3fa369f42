"""From context crops to the network's input for one variant: augmentation planned, then rendered."""

from __future__ import annotations

from numpy.typing import NDArray

from ros2_tracker.models.variant import Variant
from ros2_tracker.training.augment import AugmentSettings, Plan, plan
from ros2_tracker.training.counter import Stream
from ros2_tracker.training.library import Library
from ros2_tracker.training.render import Crops, Views, render
from ros2_tracker.training.sampling import Picks


class Viewer:
    """Augmentation for one variant."""

    def __init__(
        self,
        variant: Variant,
        settings: AugmentSettings,
        library: Library,
        seed: int,
        stream: Stream = Stream.AUGMENT,
    ) -> None:
        self._variant, self._settings, self._library = variant, settings, library
        self._seed, self._stream = seed, stream

    def plan(self, samples: NDArray, picks: Picks) -> Plan:
        """What is done to these samples (numbers in the run) and their crops."""
        library = self._library
        template, recent, search = (
            library.boxes[crops].astype(float) for crops in (picks.template, picks.recent, picks.search)
        )
        return plan(
            self._settings,
            self._variant.template,
            self._variant.search,
            self._seed,
            samples,
            (template, recent, search),
            (library.track[picks.template], library.track[picks.search]),
            self._stream,
        )

    def views(self, made: Plan, crops: Crops) -> Views:
        """Cut, pasted, coloured, normalised, on the device of the crops."""
        return render(made, crops, self._variant.template.size, self._variant.search.size, self._variant.fill)
