import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="the networks need torch")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.ibfp import Ibfp  # noqa: E402
from ros2_tracker.models.layers import IMAGE_MEAN, IMAGE_STD, normalized, to_map  # noqa: E402
from ros2_tracker.models.ostrack import OSTrack  # noqa: E402
from ros2_tracker.models.stark import Stark, StarkLightning  # noqa: E402
from ros2_tracker.models.variant import load_variant, variant_names  # noqa: E402

NAMES = [name for name in variant_names() if load_variant(name).weights is not None]
# cls_token and pos_embed, which the official count of OSTrack includes and no network of ours has.
UNUSED_PARAMETERS = 768 + 197 * 768


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_variant(name):
    network = build_network(load_variant(name), empty=True)
    count = sum(p.numel() for p in network.parameters())
    count += UNUSED_PARAMETERS if isinstance(network, OSTrack) else 0
    assert count == pytest.approx(load_variant(name).parameters, abs=5e3)


@pytest.mark.parametrize("name", NAMES)
def test_multiplications_are_those_of_the_variant(name):
    variant = load_variant(name)
    network = build_network(variant, empty=True)
    z, x = (torch.zeros(1, 3, s, s, device="meta") for s in (variant.template.size, variant.search.size))
    padded_z, padded_x = (torch.zeros(1, *t.shape[2:], dtype=torch.bool, device="meta") for t in (z, x))
    if isinstance(network, OSTrack):
        # As the official network counts: the template embedded each frame and taken through all blocks.
        with FlopCounterMode(display=False) as counter:
            network.box_head(to_map(network.backbone(network.template(z), x, network.elimination).search))
        with FlopCounterMode(display=False) as ours:
            network(torch.zeros(1, z.shape[2] ** 2 // 256, 768, device="meta"), x)
        assert ours.get_total_flops() < counter.get_total_flops()
        left_out = multiplications_for_dropped_candidates(variant)
    elif not isinstance(network, Stark | StarkLightning):
        target = (torch.zeros(1, 2, device="meta"),) if isinstance(network, Ibfp) else ()
        kept = network.template(z, *target)
        with FlopCounterMode(display=False) as counter:
            network(kept, x)
        left_out = 0
    else:
        templates = [network.template(z, padded_z)] * (2 if variant.template_update else 1)
        with FlopCounterMode(display=False) as counter:
            network(templates, network.search(x, padded_x))
        left_out = 0
    assert (counter.get_total_flops() / 2 + left_out) / 1e9 == pytest.approx(variant.gmacs, abs=6e-3)


def multiplications_for_dropped_candidates(variant):
    """Of the official network for candidates that it drops in the same block: query, attention and projection."""
    width, elimination = 768, variant.network["elimination"]
    count_z, count_x = ((side.size // 16) ** 2 for side in (variant.template, variant.search))
    count = 0
    for _ in elimination["blocks"]:
        stay = math.ceil(elimination["keep_ratio"] * count_x)
        count += (count_x - stay) * (2 * width**2 + 2 * (count_z + count_x) * width)
        count -= width**2  # we compute the judging token's query apart
        count_x = stay
    return count


def test_settings_that_do_not_fit_are_named():
    variant = load_variant("stark-s50")
    with pytest.raises(ValueError, match=r"stark-s50.*resnet7"):
        build_network(replace(variant, network={"backbone": "resnet7", "score_head": False}))
    with pytest.raises(ValueError, match="onestream has no torch network"):
        build_network(load_variant("onestream-192"))


def test_normalized():
    crop = torch.tensor([0, 128, 255], dtype=torch.uint8).expand(1, 4, 4, 3)
    expected = [(v / 255 - m) / s for v, m, s in zip((0, 128, 255), IMAGE_MEAN, IMAGE_STD, strict=True)]
    output = normalized(crop)
    assert output.shape == (1, 3, 4, 4)
    torch.testing.assert_close(output[0, :, 1, 2], torch.tensor(expected))
