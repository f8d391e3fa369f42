from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks need torch")

from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.layers import normalized, to_tokens  # noqa: E402
from ros2_tracker.models.local_stages import ConvStages, MlpStages  # noqa: E402
from ros2_tracker.models.multistage import DropPath, MultiStage, MultiStageSettings  # noqa: E402
from ros2_tracker.models.ostrack import decode_centers  # noqa: E402
from ros2_tracker.models.prepare import prepared  # noqa: E402
from ros2_tracker.models.variant import load_variant  # noqa: E402
from ros2_tracker.tracking.crop import Region, crop  # noqa: E402
from ros2_tracker.tracking.frame import frame_from_array  # noqa: E402
from ros2_tracker.tracking.geometry import Box  # noqa: E402

KINDS = {
    "mlp": {"local": "mlp", "heads": 4, "levels": (1, 2), "depths": (1, 1, 3), "widths": (16, 24, 32)},
    "mixing": {"local": "mlp", "local_mixing": True, "heads": 2, "levels": (1,), "depths": (1, 1, 2),
               "widths": (8, 16, 24)},
    "conv": {"local": "conv", "heads": 3, "levels": (2,), "depths": (1, 1, 3), "widths": (8, 16, 24),
             "normed_levels": False, "head": "distances", "mlp_ratio": 3},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(kind, **more):
    torch.manual_seed(3)
    return MultiStage(MultiStageSettings(**{**KINDS[kind], **more}))


def randomised(network):
    """Without the zeros and small numbers that training starts from."""
    torch.manual_seed(4)
    for module in network.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.2)
        elif isinstance(module, torch.nn.Conv2d) and module.bias is not None and module.kernel_size == (1, 1):
            torch.nn.init.normal_(module.weight, std=0.3)  # the last of a tower
        elif isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, std=0.3)
    for position in (network.pos_z, network.pos_x):
        torch.nn.init.normal_(position, std=0.5)
    return network.eval().requires_grad_(False)


def crops(batch=2):
    torch.manual_seed(5)
    return torch.randn(batch, 3, 128, 128), torch.randn(batch, 3, 256, 256)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_maps(kind, training):
    network = small(kind, drop_path=0.5).train(training)
    z, x = crops()
    tokens = network.template(z)
    assert tokens.shape == (2, 64, network.settings.widths[2])
    maps = network(tokens, x)
    assert maps.score.shape == (2, 1, 16, 16)
    assert maps.size.shape == maps.offset.shape == (2, 2, 16, 16)
    assert maps.score.min() >= 1e-4
    assert maps.score.max() <= 1.0 - 1e-4
    assert (maps.size > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_an_untrained_network_doubts_and_expects_a_common_box(kind):
    z, x = crops()
    network = small(kind).train()
    maps = network(network.template(z), x)
    assert maps.score.mean().item() == pytest.approx(0.01, abs=0.005)
    assert maps.size.mean().item() == pytest.approx(0.25, abs=0.02)
    assert maps.offset.mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("kind", ["mlp", "mixing"])
def test_mlp_stages_see_a_patch_and_nothing_else(kind):
    """A patch's tokens are where it is in the image, and change with its own pixels only."""
    network = randomised(small(kind))
    stages = network.local
    assert isinstance(stages, MlpStages)
    assert not [m for m in stages.modules() if isinstance(m, torch.nn.Conv2d) and m.kernel_size != m.stride]
    _, x = crops(1)
    before = stages(x)
    x[:, :, 5 * 16 + 3, 9 * 16 + 14] += 3.0
    after = stages(x)
    for old, new in zip((before.tokens, *before.shallow), (after.tokens, *after.shallow), strict=True):
        changed = (old != new).any(-1)[0].nonzero().flatten().tolist()
        assert changed == [5 * 16 + 9]
    # Of the 16 units of 4 px that one is touched: (0, 3), the second unit of the second quadrant.
    units = (before.shallow[0] != after.shallow[0])[0, 5 * 16 + 9].unflatten(0, (16, -1)).any(-1)
    quadrants = (before.shallow[1] != after.shallow[1])[0, 5 * 16 + 9].unflatten(0, (4, -1)).any(-1)
    if kind == "mlp":
        assert units.nonzero().flatten().tolist() == [5]
        assert quadrants.nonzero().flatten().tolist() == [1]
    else:
        assert units.all()


def test_conv_stages_give_each_patch_its_own_part_of_the_maps():
    stages = randomised(small("conv")).local
    assert isinstance(stages, ConvStages)
    _, x = crops(1)
    fine = stages.stage1(stages.embed(x))
    coarse = stages.stage2(fine)
    found = stages(x)
    for shallow, features, cells in zip(found.shallow, (fine, coarse), (4, 2), strict=True):
        patch = features[0, :, 7 * cells : 8 * cells, 2 * cells : 3 * cells]
        assert shallow[0, 7 * 16 + 2].tolist() == patch.flatten().tolist()
        expected = to_tokens(torch.nn.functional.pixel_unshuffle(features, cells))
        assert torch.equal(shallow, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_a_batch_do_not_touch_each_other(kind):
    network = randomised(small(kind))
    z, x = crops()
    together = network(network.template(z), x)
    for i in range(2):
        alone = network(network.template(z[i : i + 1]), x[i : i + 1])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_template_is_looked_at(kind):
    network = randomised(small(kind))
    z, x = crops(1)
    one, other = (network(network.template(t), x).score for t in (z, z.flip(-1)))
    assert (one - other).abs().max() > 1e-3


def test_integration_starts_with_the_plain_network_and_reads_every_level():
    network = small("mlp").eval()
    z, x = crops(1)
    seen = []
    network.integration.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    network(network.template(z), x)
    levels, output = seen[0]
    assert [level.shape[-1] for level in levels] == [16 * 16, 4 * 24, 32, 32, 32]
    assert torch.equal(levels[-1], output)
    torch.nn.init.normal_(network.integration.fuse.weight)
    plain = network.integration(levels)
    for i, level in enumerate(levels):
        changed = [*levels]
        changed[i] = torch.randn_like(level)
        assert (network.integration(changed) - plain).abs().max() > 1e-2


def test_template_tokens_that_nobody_asks_for_change_nothing():
    network = randomised(small("mlp"))
    z, x = crops(1)
    tokens = torch.cat([network.template(z), network.local(x).tokens + network.pos_x], dim=1)
    for block in network.main.blocks:
        tokens = block(tokens)
    last = network.main(network.template(z), network.local(x).tokens + network.pos_x)[-1]
    torch.testing.assert_close(last, network.main.norm(tokens[:, 64:]))


def test_drop_path_is_of_training_and_keeps_the_mean():
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    assert drop.eval()(x) is x
    dropped = drop.train()(x)
    assert dropped.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert dropped.mean().item() == pytest.approx(1.0, abs=0.05)
    assert (dropped == dropped[:, :1, :1]).all()  # whole samples
    rates = [block.drop_path.rate for block in small("mlp", drop_path=0.2).main.blocks]
    assert rates == [0.0, pytest.approx(0.1), pytest.approx(0.2)]


def test_scores_stay_below_1_in_mixed_precision():
    head = randomised(small("conv")).box_head
    torch.nn.init.constant_(head.cls[-1].bias, 30.0)
    with torch.autocast("cpu", torch.bfloat16):
        maps = head(torch.randn(1, 24, 16, 16))
    assert all(values.dtype == torch.float32 for values in maps)
    assert (maps.score < 1.0).all()


def test_distances_are_decoded_as_sides_of_a_box():
    """The maps of a distance head stand for the same box as its distances from the cell's centre."""
    network = randomised(small("conv"))
    features = torch.randn(1, 24, 16, 16)
    maps = network.box_head(features)
    left, top, right, bottom = (torch.nn.functional.softplus(network.box_head.reg(features)) / 4)[0]
    box, _ = decode_centers(maps)
    row, column = divmod(int(maps.score.argmax()), 16)
    x, y = (column + 0.5) / 16, (row + 0.5) / 16
    sides = [x - left[row, column], y - top[row, column], x + right[row, column], y + bottom[row, column]]
    cx, cy, w, h = box[0].tolist()
    assert [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] == pytest.approx([float(s) for s in sides], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_two_crops_by_heart_with_every_parameter(kind, clip):
    """Two pairs of the rendered clip, the target at two places of the search region."""
    network = small(kind).train()
    found = [clip.render(i) for i in (0, 20)]
    frames = [frame_from_array(each.image) for each in found]
    z = [crop(f, Region.around(each.box, 2.0), 128, (0, 0, 0)) for f, each in zip(frames, found, strict=True)]
    # Off the centre by these parts of the search side.
    places = torch.tensor([[0.15, -0.1], [-0.2, 0.12]])
    x, sizes = [], []
    for frame, each, (dx, dy) in zip(frames, found, places.tolist(), strict=True):
        side = 4.0 * each.box.size
        shifted = Box(each.box.x - dx * side, each.box.y - dy * side, each.box.w, each.box.h)
        x.append(crop(frame, Region.around(shifted, 4.0), 256, (0, 0, 0)))
        sizes.append([each.box.w / side, each.box.h / side])
    z, x = (normalized(torch.from_numpy(np.stack(crops))) for crops in (z, x))
    sizes, centers = torch.tensor(sizes), 0.5 + places
    cells = (centers * 16).long()
    rows = torch.arange(2)
    label = torch.zeros(2, 1, 16, 16)
    label[rows, 0, cells[:, 1], cells[:, 0]] = 1.0

    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    reached, losses = set(), []
    for _ in range(12):
        maps = network(network.template(z), x)
        there = (rows, slice(None), cells[:, 1], cells[:, 0])
        score = torch.nn.functional.binary_cross_entropy(maps.score, label, weight=1.0 + 50.0 * label)
        box = (maps.size[there] - sizes).abs().mean() + (maps.offset[there] - (centers * 16 - cells)).abs().mean()
        loss = score + box
        optimizer.zero_grad()
        loss.backward()
        reached |= {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        optimizer.step()
        losses.append(loss.item())
    assert {name for name, _ in network.named_parameters()} - reached == set()
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_for_engines_it_answers_the_same(kind):
    network = randomised(small(kind))
    fast = prepared(network)
    assert not [m for m in fast.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    z, x = crops(1)
    for a, b in zip(network(network.template(z), x), fast(fast.template(z), x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"local": "lstm"}, "lstm"),
        ({"head": "corner"}, "corner"),
        ({"heads": 5}, "5 heads"),
        ({"levels": [2, 6]}, "levels"),
        ({"depths": [1, 6]}, "three stages"),
        ({"drop_path": 1.0}, "drop_path is 1"),
        ({"with": 192}, "unknown setting with"),
    ],
)
def test_settings_that_do_not_fit_are_named(wrong, named):
    variant = load_variant("multistage-tiny")
    with pytest.raises(ValueError, match=f"multistage-tiny.*{named}"):
        build_network(replace(variant, network={**variant.network, **wrong}), empty=True)


def test_multistage_b_has_the_defaults_of_the_specification():
    settings = build_network(load_variant("multistage-b"), empty=True).settings
    assert settings == MultiStageSettings(drop_path=0.1)
