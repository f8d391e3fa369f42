from dataclasses import replace

import numpy as np
import parity
import pytest

from ros2_tracker.models.variant import TemplateUpdate, load_variant
from ros2_tracker.tracking.families import OSTrackLoop, StarkLoop
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.sample_target import padding_mask

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
    """Notes every crop on its way to a network."""

    def __init__(self):
        self.crops = []

    def tensor(self, crop):
        import torch

        from ros2_tracker.models.layers import normalized

        self.crops.append(crop)
        return normalized(torch.from_numpy(crop)[None])


class TorchOSTrack(Recorder):
    def __init__(self, network):
        super().__init__()
        self.network = network
        self.score_maps = []

    def template(self, crop):
        return self.network.template(self.tensor(crop))

    def search(self, template, crop):
        maps = self.network(template, self.tensor(crop))
        self.score_maps.append(maps.score[0, 0].numpy())
        return maps.score[0, 0].numpy(), maps.size[0].numpy(), maps.offset[0].numpy()


class TorchStark(Recorder):
    def __init__(self, network):
        super().__init__()
        self.network = network
        self.masks = []

    def mask(self, padded):
        import torch

        self.masks.append(padded)
        return torch.from_numpy(padded)[None]

    def template(self, crop, padded):
        return self.network.template(self.tensor(crop), self.mask(padded))

    def search(self, templates, crop, padded):
        output = self.network(templates, self.network.search(self.tensor(crop), self.mask(padded)))
        confidence = None if output.confidence is None else float(output.confidence.sigmoid())
        return output.box[0].numpy(), confidence


def frames_of(expected):
    seed, count, height, width, *box = (int(v) for v in expected["meta"][:8])
    frames, _ = parity.fixgen.make_sequence(count, height, width, seed, box)
    assert [parity.fixgen.crc(f) for f in frames] == expected["frame_crc"].tolist()
    return seed, [ArrayFrame(f, ColorOrder.RGB) for f in frames], Box(*(float(v) for v in box))


def crcs(arrays):
    return [parity.fixgen.crc(a) for a in arrays]


def torch_network(variant, keys, seed, gains):
    torch = pytest.importorskip("torch", reason="the networks need torch")
    from ros2_tracker.models.build import build_network

    empty = build_network(variant, empty=True).to_empty(device="cpu")
    torch.set_num_threads(1)
    return parity.load_synthetic(empty, keys, seed, gains)


@pytest.mark.parametrize("name", OSTRACK)
def test_ostrack_follows_as_the_official_tracker(name):
    keys, eliminating = OSTRACK[name]
    expected = parity.fixture(name)
    variant = load_variant("ostrack-b256")
    if not eliminating:
        variant = replace(variant, network={})
    seed, frames, box = frames_of(expected)
    network = TorchOSTrack(torch_network(variant, keys, seed, SIZE_GAINS))
    loop = OSTrackLoop(network, variant, frames[0], box)
    errors, masked = [], []
    for i, frame in enumerate(frames[1:]):
        loop.box = Box(*expected["f64_state_before"][i])
        step = loop.update(frame)
        errors.append(parity.max_error(step.box.as_tuple(), expected["f64_state_after"][i]))
        masked.append(int(padding_mask(step.region, frame.width, frame.height).sum()))
        assert step.region.resize_factor == expected["f64_resize_factor"][i + 1]
    maps = parity.max_error(network.score_maps, expected["score_maps"])
    print(f"{name}: boxes {max(errors):.1e} px, score maps {maps:.1e}")
    assert crcs(network.crops) == expected["crop_crc"].tolist()
    assert masked == expected["mask_true_count"][1:].tolist()
    assert max(errors) < TOLERANCE_PX
    assert maps < 5e-6

    free = OSTrackLoop(network, variant, frames[0], box)
    drift = max(
        parity.max_error(free.update(f).box.as_tuple(), after)
        for f, after in zip(frames[1:], expected["f64_state_after"], strict=True)
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
    network = TorchStark(torch_network(variant, keys, seed, gains))
    loop = StarkLoop(network, variant, frames[0], box)
    errors, renewed, confidence = [], [], []
    for i, frame in enumerate(frames[1:]):
        loop.box = Box(*expected["f64_state_before"][i])
        before = len(network.crops)
        step = loop.update(frame)
        renewed.append(len(network.crops) == before + 2)
        confidence.append(np.nan if step.score is None else step.score)
        errors.append(parity.max_error(step.box.as_tuple(), expected["f64_state_after"][i]))
    print(f"{name}: boxes {max(errors):.1e} px")
    np.testing.assert_allclose(confidence, expected["f64_conf"], atol=1e-6)
    assert renewed == expected["template_updated"].tolist()
    assert crcs(network.crops) == expected["crop_crc"].tolist()
    assert [int(m.sum()) for m in network.masks] == expected["mask_true_count"].tolist()
    assert max(errors) < TOLERANCE_PX


class FixedCenter:
    """Finds the target at a cell, `size` search sides large."""

    def __init__(self, cell=(8, 8), size=0.25):
        self.cell, self.size = cell, size

    def template(self, crop):
        return crop.shape

    def search(self, template, crop):
        assert template == (128, 128, 3)
        score = np.zeros((16, 16), np.float32)
        score[self.cell] = 0.9
        return score, np.full((2, 16, 16), self.size, np.float32), np.zeros((2, 16, 16), np.float32)


class FixedCorners:
    """Finds a centred box with a given confidence; a template is its number."""

    def __init__(self, confidence=0.9, size=0.2):
        self.confidence, self.size, self.made, self.seen = confidence, size, 0, []

    def template(self, crop, padded):
        assert crop.shape == (128, 128, 3)
        assert padded.shape == (128, 128)
        self.made += 1
        return self.made

    def search(self, templates, crop, padded):
        self.seen.append(tuple(templates))
        return np.array([0.5, 0.5, self.size, self.size], np.float32), self.confidence


GREY = ArrayFrame(np.full((240, 320, 3), 127, np.uint8))
START = Box(140.0, 100.0, 40.0, 40.0)


def test_centre_cell_keeps_the_target_where_it_is():
    step = OSTrackLoop(FixedCenter(), load_variant("ostrack-b256"), GREY, START).update(GREY)
    assert step.box.as_tuple() == pytest.approx(START.as_tuple())
    assert step.score == pytest.approx(0.9)


@pytest.mark.parametrize("size", [np.nan, np.inf])
def test_answer_that_is_not_finite_changes_nothing(size):
    loop = OSTrackLoop(FixedCenter(size=size), load_variant("ostrack-b256"), GREY, START)
    with pytest.raises(FloatingPointError, match="size"):
        loop.update(GREY)
    assert loop.box == START
    stark = StarkLoop(FixedCorners(size=size), load_variant("stark-s50"), GREY, START)
    with pytest.raises(FloatingPointError, match="box"):
        stark.update(GREY)
    assert stark.box == START


@pytest.mark.parametrize(
    ("variant", "confidence", "expected"),
    [
        ("stark-st50", 0.9, [(1, 1), (1, 1), (1, 2), (1, 2), (1, 3)]),
        ("stark-st50", 0.5, [(1, 1)] * 5),
        ("stark-s50", None, [(1,)] * 5),
    ],
)
def test_second_template_is_renewed_from_confident_frames(variant, confidence, expected):
    network = FixedCorners(confidence)
    settings = load_variant(variant)
    if settings.template_update:
        settings = replace(settings, template_update=TemplateUpdate(2, 0.5))
    loop = StarkLoop(network, settings, GREY, START)
    for _ in range(5):
        loop.update(GREY)
    assert network.seen == expected
