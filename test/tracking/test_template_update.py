"""What the network compares with: learnt only from what can be trusted, and taken back when it did harm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.family import Appearance, blended
from ros2_tracker.tracking.frame import ArrayFrame
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.onestream import OneStream
from ros2_tracker.tracking.ostrack import OSTrack
from ros2_tracker.tracking.settings import TemplateUpdateSettings
from ros2_tracker.tracking.stark import FEATURES, Stark
from ros2_tracker.tracking.template_update import Templates

DT = 0.1
BOX = Box.from_center(160.0, 120.0, 40.0, 40.0)
SETTINGS = TemplateUpdateSettings(above=0.8, after=0.25, interval=0.5, weight=0.5, rollback_within=0.35)
UNCERTAIN_BELOW = 0.4


def grey(level: int) -> ArrayFrame:
    return ArrayFrame(np.full((240, 320, 3), level, np.uint8))


FAMILY = OneStream(load_variant("onestream-192"))


def follow(
    reliabilities: list[float], level: int = 200, settings: TemplateUpdateSettings = SETTINGS
) -> list[Templates]:
    history = [Templates.of(FAMILY.appearance(grey(100), BOX))]
    for reliability in reliabilities:
        history.append(history[-1].after(FAMILY, grey(level), BOX, reliability, DT, UNCERTAIN_BELOW, settings))
    return history[1:]


def shown(templates: Templates) -> int:
    """Grey level of the middle of what the network is given."""
    return int(templates.current.inputs["template"][64, 64, 0])


def test_reliable_view_is_learnt_after_it_has_lasted_and_beside_the_first():
    levels = [shown(t) for t in follow([0.9] * 6)]
    assert levels == [100] * 4 + [150] * 2, "0.5 s after the start, half of the recent view"


def test_nothing_is_learnt_from_doubt():
    assert {shown(t) for t in follow([0.79] * 40)} == {100}
    assert {shown(t) for t in follow([0.9, 0.9, 0.5] * 20)} == {100}, "never long enough at a time"


def test_second_update_starts_from_the_first_view_again():
    levels = [shown(t) for t in follow([0.9] * 30)]
    assert levels[-1] == 150, "a mixture of mixtures would creep to the recent view"


def test_update_is_taken_back_when_reliability_falls_right_after():
    history = follow([0.9] * 5 + [0.9, 0.3, 0.3])
    assert [shown(t) for t in history[4:]] == [150, 150, 100, 100]
    assert history[6].age == 0.0, "the next attempt waits for the whole interval"


def test_update_is_kept_when_reliability_falls_later():
    levels = [shown(t) for t in follow([0.9] * 5 + [0.9] * 4 + [0.3] * 5)]
    assert levels[-1] == 150


def test_weight_of_nothing_changes_nothing():
    assert {shown(t) for t in follow([0.95] * 30, settings=replace(SETTINGS, weight=0.0))} == {100}


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_blending_keeps_the_type_and_rounds(weight):
    first, recent = np.array([0, 10, 255], np.uint8), np.array([1, 20, 255], np.uint8)
    mixed = blended(first, recent, weight)
    assert mixed.dtype == np.uint8
    assert np.abs(mixed - (first * (1 - weight) + recent * weight)).max() <= 0.5
    assert blended(first.astype(np.float16), recent, weight).dtype == np.float16


def test_ostrack_blends_its_crops():
    family = OSTrack(load_variant("ostrack-b256"))
    first = family.appearance(grey(100), BOX)
    updated = family.updated(first, grey(200), BOX, 0.5)
    assert updated is not None
    assert set(np.unique(updated.inputs["template"])) == {150}
    assert family.updated(first, grey(200), BOX, 0.0) is None


class _LevelFeatures:
    """A template graph whose tokens are the mean of the crop."""

    batch = None
    inputs = {"template": (None, 128, 128, 3), "template_padded": (None, 128, 128)}  # noqa: RUF012
    outputs = {"tokens": (None, 1, 1), "position": (None, 1, 1), "cells": (None, 1)}  # noqa: RUF012
    description = "level"

    def run(self, targets):
        (inputs,) = targets
        tokens = np.full((1, 1), inputs["template"].mean(), np.float32)
        return [{"tokens": tokens, "position": np.zeros((1, 1), np.float32), "cells": np.zeros(1, bool)}]


@pytest.mark.parametrize(("name", "tokens"), [("stark-st50", [100.0, 200.0]), ("stark-s50", None)])
def test_stark_replaces_its_second_template_where_it_has_one(name, tokens):
    family = Stark(load_variant(name), _LevelFeatures())
    first: Appearance = family.appearance(grey(100), BOX)
    updated = family.updated(first, grey(200), BOX, 0.5)
    if tokens is None:
        assert updated is None
    else:
        assert updated is not None
        assert updated.inputs[FEATURES["tokens"]].ravel().tolist() == tokens
