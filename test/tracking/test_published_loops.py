"""OSTrack's and STARK's published loops: against the official trackers, and with networks of a few lines."""

from dataclasses import replace

import numpy as np
import parity
import pytest

from ros2_tracker.engines.base import EngineError, Engines
from ros2_tracker.models.variant import TemplateUpdate, load_variant
from ros2_tracker.tracking.family import Appearance
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.sample_target import padding_mask
from ros2_tracker.tracking.settings import PUBLISHED_LOOP
from ros2_tracker.tracking.target import Target

TOLERANCE_PX = 1e-3  # suggested by the fixtures' README

SIZE_GAINS = [
    (r"box_head\.conv5_size\.weight", 0.3, 0.0),
    (r"box_head\.conv5_size\.bias", 0.0, -1.0986123),
    (r"box_head\.conv5_offset\.weight", 0.3, 0.0),
    (r"box_head\.conv5_offset\.bias", 0.0, 0.5),
]
OSTRACK = {
    # fixture: official entries, candidate elimination
    "track_ostrack_256_ce_s3": ("ostrack_256_ce", True),
    "track_ostrack_256_s4": ("ostrack_256", False),
}
STARK = {
    # fixture: variant, official entries
    "track_stark_s50_s7": ("stark-s50", "stark_s50"),
    "track_stark_st50_s45": ("stark-st50", "stark_st50"),
    "track_stark_st50_s45_lowconf": ("stark-st50", "stark_st50"),
    "track_stark_lightning_s51": ("stark-lightning", "stark_lightning"),
}


class Recorder:
    """Notes what goes into an engine."""

    def __init__(self, engine):
        self.engine, self.seen = engine, []
        self.batch, self.inputs, self.outputs = engine.batch, engine.inputs, engine.outputs

    def run(self, targets):
        self.seen += targets
        return self.engine.run(targets)


def frames_of(expected):
    seed, count, height, width, *box = (int(v) for v in expected["meta"][:8])
    frames, _ = parity.fixgen.make_sequence(count, height, width, seed, box)
    assert [parity.fixgen.crc(f) for f in frames] == expected["frame_crc"].tolist()
    return seed, [ArrayFrame(f, ColorOrder.RGB) for f in frames], Box(*(float(v) for v in box))


def crcs(arrays):
    return [parity.fixgen.crc(a) for a in arrays]


def synthetic_network(variant, keys, seed, gains):
    torch = pytest.importorskip("torch", reason="the networks need torch")
    from ros2_tracker.engines.torch import torch_engines
    from ros2_tracker.models.build import build_network

    empty = build_network(variant, empty=True).to_empty(device="cpu")
    torch.set_num_threads(1)
    engines = torch_engines(parity.load_synthetic(empty, keys, seed, gains), variant, keys)
    recorded = [engine and Recorder(engine) for engine in (engines.per_frame, engines.per_template)]
    return TrackingNetwork(variant, Engines(*recorded))


@pytest.mark.parametrize("name", OSTRACK)
def test_ostrack_follows_as_the_official_tracker(name):
    keys, eliminating = OSTRACK[name]
    expected = parity.fixture(name)
    variant = load_variant("ostrack-b256")
    if not eliminating:
        variant = replace(variant, network={})
    seed, frames, box = frames_of(expected)
    network = synthetic_network(variant, keys, seed, SIZE_GAINS)
    family = network.family
    appearance = family.appearance(frames[0], box)
    crops, errors, masked, score_maps = [appearance.inputs["template"]], [], [], []
    for i, frame in enumerate(frames[1:]):
        look = family.look(appearance, frame, Box(*expected["f64_state_before"][i]))
        (outputs,) = network.infer([look])
        errors.append(parity.max_error(family.proposal(look, outputs).box.as_tuple(), expected["f64_state_after"][i]))
        crops.append(look.inputs["search"])
        score_maps.append(outputs["score_map"])
        masked.append(int(padding_mask(look.region, frame.width, frame.height).sum()))
        assert look.region.resize_factor == expected["f64_resize_factor"][i + 1]
    maps = parity.max_error(score_maps, expected["score_maps"])
    print(f"{name}: boxes {max(errors):.1e} px, score maps {maps:.1e}")
    assert crcs(crops) == expected["crop_crc"].tolist()
    assert masked == expected["mask_true_count"][1:].tolist()
    assert max(errors) < TOLERANCE_PX
    assert maps < 5e-6

    # Free-running through the whole tracker, whatever it thinks of the reliability of synthetic weights.
    target = Target(network, PUBLISHED_LOOP, frames[0], box.as_tuple(), 0.0)
    drift = max(
        parity.max_error(target.update(f, i / 30).candidate, after)
        for i, (f, after) in enumerate(zip(frames[1:], expected["f64_state_after"], strict=True), 1)
    )
    print(f"{name}: free-running {drift:.1e} px")
    assert drift < TOLERANCE_PX


@pytest.mark.parametrize("name", STARK)
def test_stark_follows_as_the_official_tracker(name):
    variant_name, keys = STARK[name]
    expected = parity.fixture(name)
    variant = load_variant(variant_name)
    if variant.template_update:
        variant = replace(variant, template_update=TemplateUpdate(int(expected["meta"][8]), 0.5))
    seed, frames, box = frames_of(expected)
    gains = [(r"cls_head\.layers\.2\.bias", 1.0, float(expected["f64_cls_bias_addend"][0]))]
    network = synthetic_network(variant, keys, seed, gains)
    family, templates = network.family, network.family.template_engine.seen
    appearance = family.appearance(frames[0], box)
    seen = [(templates[0]["template"], templates[0]["template_padded"])]
    errors, renewed, scores = [], [], []
    for i, frame in enumerate(frames[1:], 1):
        look = family.look(appearance, frame, Box(*expected["f64_state_before"][i - 1]))
        (outputs,) = network.infer([look])
        found = family.proposal(look, outputs)
        made = len(templates)
        appearance = family.renewed(appearance, frame, found, i)
        renewed.append(len(templates) > made)
        errors.append(parity.max_error(found.box.as_tuple(), expected["f64_state_after"][i - 1]))
        scores.append(found.score)
        seen.append((look.inputs["search"], look.inputs["search_padded"]))
        seen += [(t["template"], t["template_padded"]) for t in templates[made:]]
    print(f"{name}: boxes {max(errors):.1e} px")
    if not np.isnan(expected["f64_conf"]).all():
        np.testing.assert_allclose(scores, expected["f64_conf"], atol=1e-6)
    assert renewed == expected["template_updated"].tolist()
    assert crcs(crop for crop, _ in seen) == expected["crop_crc"].tolist()
    assert [int(mask.sum()) for _, mask in seen] == expected["mask_true_count"].tolist()
    assert max(errors) < TOLERANCE_PX


class FixedCenter:
    """Finds the target in the middle of the search region, `size` search sides large."""

    description = "fixed centre"
    batch = 1
    inputs = {"template": (1, 128, 128, 3), "search": (1, 256, 256, 3)}  # noqa: RUF012
    outputs = {"box": (1, 4), "score": (1,), "score_map": (1, 16, 16)}  # noqa: RUF012

    def __init__(self, size=0.25):
        self.size = size

    def run(self, targets):
        (inputs,) = targets
        assert {name: (1, *value.shape) for name, value in inputs.items()} == self.inputs
        score_map = np.full((16, 16), 0.01, np.float32)
        score_map[8, 8] = 0.9
        box = np.array([0.5, 0.5, self.size, self.size], np.float32)
        return [{"box": box, "score": np.float32(0.9), "score_map": score_map}]


class FixedCorners:
    """Finds a centred box with a given confidence, and notes the templates it was given."""

    description = "fixed corners"
    batch = None
    outputs = {"box": (None, 4), "score": (None,), "score_map": (None, 2, 20, 20)}  # noqa: RUF012

    def __init__(self, templates, confidence=0.9, size=0.2):
        self.confidence, self.size, self.seen = confidence, size, []
        self.inputs = {f"template_{n}": (None, templates, 1) for n in ("tokens", "position")}
        self.inputs |= {"template_cells": (None, templates)}
        self.inputs |= {"search": (None, 320, 320, 3), "search_padded": (None, 320, 320)}

    def run(self, targets):
        for inputs in targets:
            assert {n: v.shape for n, v in inputs.items()} == {n: s[1:] for n, s in self.inputs.items()}
            self.seen.append(tuple(int(v) for v in inputs["template_tokens"][:, 0]))
        box = np.array([0.5, 0.5, self.size, self.size], np.float32)
        corners = np.full((2, 20, 20), 1 / 400, np.float32)
        return [{"box": box, "score": np.float32(self.confidence), "score_map": corners} for _ in targets]


class NumberedTemplates:
    """A template graph whose feature is the number of the template."""

    description = "numbers"
    batch = None
    inputs = {"template": (None, 128, 128, 3), "template_padded": (None, 128, 128)}  # noqa: RUF012
    outputs = {"tokens": (None, 1, 1), "position": (None, 1, 1), "cells": (None, 1)}  # noqa: RUF012

    def __init__(self):
        self.made = 0

    def run(self, targets):
        (inputs,) = targets
        assert {n: v.shape for n, v in inputs.items()} == {n: s[1:] for n, s in self.inputs.items()}
        self.made += 1
        tokens = np.full((1, 1), self.made, np.float32)
        return [{"tokens": tokens, "position": np.zeros((1, 1), np.float32), "cells": np.zeros(1, bool)}]


def ostrack(size=0.25):
    return TrackingNetwork(load_variant("ostrack-b256"), Engines(FixedCenter(size)))


def stark(name="stark-st50", interval=2, **settings):
    variant = load_variant(name)
    if variant.template_update:
        variant = replace(variant, template_update=TemplateUpdate(interval, 0.5))
    return TrackingNetwork(variant, Engines(FixedCorners(variant.templates, **settings), NumberedTemplates()))


GREY = ArrayFrame(np.full((240, 320, 3), 127, np.uint8))
START = Box(140.0, 100.0, 40.0, 40.0)


def follow(network, frames, frame=GREY):
    target = Target(network, PUBLISHED_LOOP, frame, START.as_tuple(), 0.0)
    return target, [target.update(frame, i / 30) for i in range(1, frames + 1)]


def test_answer_in_the_middle_keeps_the_target_where_it_is():
    _, (result,) = follow(ostrack(), 1)
    assert result.box == pytest.approx(START.as_tuple())
    assert result.score == pytest.approx(0.9)
    assert result.signals.psr > 100


@pytest.mark.parametrize("size", [np.nan, np.inf])
def test_answer_that_is_not_finite_changes_nothing(size):
    for network in (ostrack(size), stark("stark-s50", size=size)):
        target = Target(network, PUBLISHED_LOOP, GREY, START.as_tuple(), 0.0)
        with pytest.raises(FloatingPointError, match="box"):
            target.update(GREY, 0.1)
        assert target.box == START


@pytest.mark.parametrize(
    ("variant", "confidence", "expected"),
    [
        ("stark-st50", 0.9, [(1, 1), (1, 1), (1, 2), (1, 2), (1, 3)]),
        ("stark-st50", 0.5, [(1, 1)] * 5),
        ("stark-s50", 0.9, [(1,)] * 5),
    ],
)
def test_second_template_is_renewed_from_confident_frames(variant, confidence, expected):
    network = stark(variant, confidence=confidence)
    follow(network, 5)
    assert network.engine.seen == expected


def test_published_loop_follows_its_own_box_in_doubt():
    """What the authors measured: a box of low score moves the search all the same."""
    network = stark("stark-s50", confidence=0.01, size=0.1)
    target, results = follow(network, 2)
    assert results[-1].reliability < PUBLISHED_LOOP.reliability.lost_below
    assert target.box.w == pytest.approx(10.0, abs=0.2)


@pytest.mark.parametrize("shape", [(60, 80), (1080, 1920)])
def test_camera_that_changes_its_size_does_not_end_the_tracking(shape):
    frame = ArrayFrame(np.full((*shape, 3), 127, np.uint8))
    for network in (ostrack(), stark()):
        target, _ = follow(network, 1)
        box = target.update(frame, 0.1).candidate
        assert box[0] < shape[1]
        assert box[1] < shape[0]
        assert min(box[2:]) >= 10


def test_targets_share_one_run_up_to_the_graphs_batch():
    network = stark(confidence=0.9)
    looks = [network.family.look(network.family.appearance(GREY, START), GREY, START) for _ in range(3)]
    assert len(network.infer(looks)) == 3
    assert network.engine.seen == [(1, 1), (2, 2), (3, 3)]

    runs = []

    class OfTwo(FixedCenter):
        batch = 2

        def run(self, targets):
            runs.append([int(inputs["search"][0, 0, 0]) for inputs in targets])
            return [{**FixedCenter.run(self, [inputs])[0], "score": np.float32(i)} for i, inputs in enumerate(targets)]

    network = TrackingNetwork(load_variant("ostrack-b256"), Engines(OfTwo()))
    frames = [ArrayFrame(np.full((240, 320, 3), 10 * i, np.uint8)) for i in range(3)]
    family = network.family
    looks = [family.look(Appearance(family.appearance(f, START).inputs), f, START) for f in frames]
    answers = network.infer(looks)
    assert runs == [[0, 10], [20, 20]]
    assert [float(a["score"]) for a in answers] == [0.0, 1.0, 0.0]


def test_network_of_another_size_or_family_is_refused():
    with pytest.raises(EngineError, match=r"ostrack-b384.*256 px, not 384 px"):
        TrackingNetwork(load_variant("ostrack-b384"), Engines(FixedCenter()))
    with pytest.raises(EngineError, match=r"stark-s50.*no input search_padded, template_cells"):
        TrackingNetwork(load_variant("stark-s50"), Engines(FixedCenter(), NumberedTemplates()))
    with pytest.raises(EngineError, match="stark cannot be tracked"):
        TrackingNetwork(load_variant("stark-s50"), Engines(FixedCenter()))
    with pytest.raises(EngineError, match=r"onestream-192.*no output ltrb"):
        TrackingNetwork(load_variant("onestream-192"), Engines(FixedCenter()))
