"""What held-out pairs are compared with."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from ros2_tracker.models.variant import load_variant  # noqa: E402
from ros2_tracker.training.augment import AugmentSettings  # noqa: E402
from ros2_tracker.training.counter import Stream  # noqa: E402
from ros2_tracker.training.loader import CropStore  # noqa: E402
from ros2_tracker.training.sampling import Sampler, SamplingSettings  # noqa: E402
from ros2_tracker.training.validation import Validation  # noqa: E402


def validation(library, **moved):
    settings = SamplingSettings(negatives=0.0)
    sampler = Sampler(library, np.arange(len(library.track_start)), settings, 0, stream=Stream.VALIDATION)
    store = CropStore(library, "none", torch.device("cpu"), 1, lambda count: None)
    return Validation(load_variant("default"), AugmentSettings(**moved), store, sampler, 70, False)


class Blind:
    """Answers with one box for all."""

    def __init__(self, box):
        self.box = box

    def find(self, network, views):
        """(B, 4)."""
        return torch.tensor(self.box).expand(len(views.box), 4)


def test_the_blind_answer_is_that_of_the_same_pairs(library):
    held = validation(library)
    found = held.blind_iou()
    looked = {
        side: held.mean_iou(Blind((0.5, 0.5, side, 0.75 * side)), None, torch.device("cpu"))
        for side in (0.1, 0.25, 0.3, 0.8)
    }
    assert 0.05 < found < 1.0
    # It has the mean size: others that do not look either are no better, or hardly.
    assert max(looked.values()) < found + 0.03
    assert looked[0.8] < 0.7 * found


def test_targets_in_the_middle_are_met_without_looking(library):
    assert validation(library, shift=0.0, scale=0.0).blind_iou() > 1.5 * validation(library).blind_iou()
