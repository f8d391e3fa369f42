"""Mean IoU on held-out pairs, which are the same at every validation and in every run on the same data."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ros2_tracker.models.variant import Variant
from ros2_tracker.training.augment import AugmentSettings
from ros2_tracker.training.counter import Stream
from ros2_tracker.training.loader import Batches, CropStore
from ros2_tracker.training.losses import iou_giou
from ros2_tracker.training.objectives import Trainee
from ros2_tracker.training.sampling import Sampler
from ros2_tracker.training.viewer import Viewer

_SEED = 0
_BATCH = 64


class Validation:
    """Held-out pairs of a run."""

    def __init__(
        self, variant: Variant, augment: AugmentSettings, store: CropStore, sampler: Sampler, pairs: int, recent: bool
    ) -> None:
        """Prepare.

        Args:
            variant: that is trained.
            augment: its shifts and changes of scale are used, nothing else.
            store: of crops.
            sampler: of held-out pairs, with the stream VALIDATION and without negatives.
            pairs: how many.
            recent: whether the network looks at two templates.

        """
        self._viewer = Viewer(variant, augment.without_changes(), sampler.library, _SEED, Stream.VALIDATION)
        self._store, self._sampler, self._pairs, self._recent = store, sampler, pairs, recent

    def blind_iou(self) -> float:
        """Of one box for all of them, in the middle of the search region and as large as they are in the mean.

        What can be answered without looking: a network that has learnt to find something is above it.
        """
        batch = min(self._pairs, _BATCH)
        samples = np.arange(-(-self._pairs // batch) * batch)
        plan = self._viewer.plan(samples, self._sampler.pick(samples))
        boxes = torch.from_numpy(plan.box[plan.used])
        blind = torch.cat([torch.full((2,), 0.5, dtype=boxes.dtype), boxes[:, 2:].log().mean(0).exp()])
        return float(iou_giou(blind.expand_as(boxes), boxes)[0].mean())

    @torch.no_grad()
    def mean_iou(self, trainee: Trainee, network: nn.Module, device: torch.device) -> float:
        """Of the boxes that a network finds, where the target can be seen."""
        batches = Batches(self._store, self._sampler, self._viewer, min(self._pairs, _BATCH), self._recent, device)
        total, count = 0.0, 0
        for batch in batches.run(0, -(-self._pairs // min(self._pairs, _BATCH))):
            views = self._viewer.views(batch.plan, batch.crops)
            iou, _ = iou_giou(trainee.find(network, views), views.box)
            total += float((iou * views.used).sum())
            count += int(views.used.sum())
        return total / max(count, 1)
