"""IBFP's network: each equation of the paper against NumPy, the ablation's switches, and what other modules rely on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the networks need torch")

from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.ibfp import (  # noqa: E402
    ChannelSelection,
    Ibfp,
    IbfpSettings,
    InformationBridge,
    as_centers,
    depthwise_correlation,
    roi_align,
)
from ros2_tracker.models.ibfp_backbone import ResNet18  # noqa: E402
from ros2_tracker.models.ostrack import decode_centers  # noqa: E402
from ros2_tracker.models.prepare import prepared  # noqa: E402
from ros2_tracker.models.variant import load_variant  # noqa: E402

NARROW = {"size": 96, "width": 4, "head_width": 8}
TARGET = torch.tensor([[0.3, 0.15]])
"""Width and height in template sides."""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def randomised(module, seed=2):
    """With statistics of norms, biases and last layers as after training."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.running_var, 0.5, 2.0)
            torch.nn.init.normal_(part.running_mean, std=0.3)
            torch.nn.init.uniform_(part.weight, 0.5, 1.5)
            torch.nn.init.normal_(part.bias, std=0.2)
        elif isinstance(part, torch.nn.Conv2d) and part.bias is not None:
            torch.nn.init.normal_(part.weight, std=0.03)
            torch.nn.init.normal_(part.bias, std=0.2)
    return module.eval().requires_grad_(False)


def narrow(**more):
    torch.manual_seed(1)
    network = randomised(Ibfp(IbfpSettings(**{**NARROW, **more})))
    network.box_head.reg[-1].weight.mul_(0.01)  # of an exponent
    return network


def crops(batch=2, size=96):
    torch.manual_seed(3)
    return torch.randn(batch, 3, size, size), torch.randn(batch, 3, size, size)


def drawn(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# --- the equations, transcribed ---


def np_conv(x, weight, bias=None, stride=1, padding=0):
    """(C, H, W) by (O, C, k, k)."""
    out_channels, _, k, _ = weight.shape
    padded = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    rows, columns = ((side - k) // stride + 1 for side in padded.shape[1:])
    found = np.zeros((out_channels, rows, columns))
    for i in range(rows):
        for j in range(columns):
            patch = padded[:, i * stride : i * stride + k, j * stride : j * stride + k]
            found[:, i, j] = (weight * patch).sum((1, 2, 3))
    return found if bias is None else found + bias[:, None, None]


def np_transposed_conv(x, weight, stride, padding):
    """(C, H, W) by (C, O, k, k): what every input adds to the output."""
    _, rows, columns = x.shape
    k = weight.shape[2]
    full = np.zeros((weight.shape[1], (rows - 1) * stride + k, (columns - 1) * stride + k))
    for i in range(rows):
        for j in range(columns):
            add = np.tensordot(x[:, i, j], weight, 1)
            full[:, i * stride : i * stride + k, j * stride : j * stride + k] += add
    return full[:, padding : full.shape[1] - padding, padding : full.shape[2] - padding]


def np_norm_relu(x, norm):
    mean, var, weight, bias = (
        t.numpy()[:, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return np.maximum((x - mean) / np.sqrt(var + norm.eps) * weight + bias, 0.0)


def np_correlation(target, searched):
    """Eq. 3: R = T0 *dw U0, divided by the number of places."""
    k, (channels, rows, columns) = target.shape[1], searched.shape
    padded = np.pad(searched, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    found = np.zeros_like(searched, dtype=np.float64)
    for c in range(channels):
        for i in range(rows):
            for j in range(columns):
                found[c, i, j] = (padded[c, i : i + k, j : j + k] * target[c]).sum() / k**2
    return found


@pytest.mark.parametrize("k", [3, 5])
def test_equation_3_depthwise_correlation(k):
    target, searched = drawn(2, 3, k, k), drawn(2, 3, 6, 6, seed=1)
    found = depthwise_correlation(torch.from_numpy(target), torch.from_numpy(searched))
    for i in range(2):
        np.testing.assert_allclose(found[i], np_correlation(target[i], searched[i]), atol=1e-5)


@pytest.mark.parametrize("informed", [True, False])
def test_equations_4_and_5_information_bridge(informed):
    bridge = randomised(InformationBridge(4, informed))
    target, searched, finer = drawn(1, 4, 3, 3), drawn(1, 4, 5, 5, seed=1), drawn(1, 2, 10, 10, seed=2)
    u0 = searched[0]
    # Eq. 4: V = TConv(Conv(Concat(R, U0))).
    joined = np.concatenate([np_correlation(target[0], u0), u0]) if informed else u0
    reduced = np_norm_relu(np_conv(joined, bridge.reduce[0].weight.numpy()), bridge.reduce[1])
    v = np_norm_relu(np_transposed_conv(reduced, bridge.up[0].weight.numpy(), 2, 1), bridge.up[1])
    assert v.shape == finer[0].shape
    np.testing.assert_allclose(bridge.up(bridge.reduce(torch.from_numpy(joined[None]).float()))[0], v, atol=1e-5)
    # Eq. 5: U1 = Conv(Concat(V, F1)).
    u1 = np_norm_relu(np_conv(np.concatenate([v, finer[0]]), bridge.fuse[0].weight.numpy(), padding=1), bridge.fuse[1])
    found = bridge(*map(torch.from_numpy, (target, searched, finer)))
    np.testing.assert_allclose(found[0], u1, atol=1e-5)


def test_equations_6_to_8_channel_selection():
    selection = randomised(ChannelSelection(6))
    template, searched = drawn(1, 6, 4, 4), drawn(1, 6, 5, 5, seed=1)
    f, u = template[0].astype(np.float64), searched[0].astype(np.float64)

    def one_by_one(conv, x):
        return np.tensordot(conv.weight.numpy()[:, :, 0, 0], x, 1) + conv.bias.numpy()[:, None, None]

    # Eq. 6: W = conv(gap(U1)) + conv(gmp(U1)).
    average, highest = u.mean((1, 2), keepdims=True), u.max((1, 2), keepdims=True)
    w = one_by_one(selection.average, average) + one_by_one(selection.highest, highest)
    assert w.shape == (3, 1, 1)  # eta = 0.5
    # Eq. 7: A = W (channel-wise) conv(F_z1). Eq. 8: G = conv(A) + F_z1.
    a = w * one_by_one(selection.compress, f)
    g = one_by_one(selection.expand, a) + f
    found = selection(torch.from_numpy(template), torch.from_numpy(searched))
    np.testing.assert_allclose(found[0], g, atol=1e-5)


@pytest.mark.parametrize(("k", "cells"), [(3, 9), (5, 18)])
def test_roi_align_samples_the_targets_box(k, cells):
    features = drawn(2, 2, cells, cells)
    sizes = np.array([[0.2, 0.2], [0.32, 0.125]], np.float32)
    found = roi_align(torch.from_numpy(features), k, torch.from_numpy(sizes)).numpy()

    def bilinear(sample, y, x):
        y0, x0 = int(np.floor(y)), int(np.floor(x))
        fy, fx = y - y0, x - x0
        part = features[sample, :, y0 : y0 + 2, x0 : x0 + 2]
        return np.einsum("cij,i,j->c", part, [1 - fy, fy], [1 - fx, fx])

    for sample, (width, height) in enumerate(sizes * cells / k):
        left, top = 0.5 * (cells - k * width), 0.5 * (cells - k * height)
        for i in range(k):
            for j in range(k):
                points = [
                    bilinear(sample, top + (i + dy) * height - 0.5, left + (j + dx) * width - 0.5)
                    for dy in (0.25, 0.75)
                    for dx in (0.25, 0.75)
                ]
                np.testing.assert_allclose(found[sample, :, i, j], np.mean(points, axis=0), atol=1e-5)


def test_roi_of_the_whole_map_stays_inside_it():
    features = torch.ones(1, 1, 9, 9)
    torch.testing.assert_close(roi_align(features, 3, torch.ones(1, 2)), torch.ones(1, 1, 3, 3))


# --- the network ---


def test_maps_of_the_published_sizes():
    network = build_network(load_variant("ibfp-r18"), empty=True)
    x = torch.zeros(1, 3, 288, 288, device="meta")
    kept = network.template(x, TARGET.to("meta"))
    maps = network.find(kept, x)
    assert kept.deep.shape == (1, 512, 9, 9)
    assert kept.middle.shape == maps.middle.shape == (1, 256, 18, 18)
    assert maps.score.shape == (1, 1, 36, 36)
    assert maps.sides.shape == (1, 4, 36, 36)
    assert network.bridges[1].fuse[0].out_channels == 128
    assert network.settings == IbfpSettings()


def test_resnet_is_torchvisions_by_name_and_shape():
    """So that ImageNet weights fit; a few of its published entries, and their number without the classifier."""
    entries = {name: tuple(value.shape) for name, value in ResNet18().state_dict().items()}
    assert entries["conv1.weight"] == (64, 3, 7, 7)
    assert entries["layer1.1.bn2.running_var"] == (64,)
    assert entries["layer2.0.downsample.0.weight"] == (128, 64, 1, 1)
    assert entries["layer4.1.conv2.weight"] == (512, 512, 3, 3)
    assert len(entries) == 120
    assert sum(p.numel() for p in ResNet18().parameters()) == 11_689_512 - 513_000


def test_an_untrained_network_expects_nothing_but_a_target_of_common_size():
    torch.manual_seed(0)
    network = Ibfp(IbfpSettings(**NARROW)).train()
    z, x = crops()
    maps = network.find(network.template(z, TARGET), x)
    assert maps.score.abs().mean() < 0.1
    assert maps.sides.median().item() == pytest.approx(0.1, abs=0.01)


def test_distances_are_bounded():
    network = narrow()
    network.box_head.reg[-1].bias.fill_(100.0)
    z, x = crops(1)
    sides = network.find(network.template(z, TARGET), x).sides
    assert sides.max().item() == pytest.approx(np.exp(5.0) * 8 / 96, rel=1e-5)


@pytest.mark.parametrize("switch", ["ibu", "cscs"])
def test_switches_of_the_ablation_change_the_answer_and_leave_the_template_to_be_looked_at(switch):
    z, x = crops(1)
    answers = {}
    for on in (True, False):
        network = narrow(**{switch: on})
        answers[on] = network.find(network.template(z, TARGET), x).score
        other = network.find(network.template(z.flip(-1), TARGET), x).score
        assert (answers[on] - other).abs().max() > 1e-5
    assert (answers[True] - answers[False]).abs().max() > 1e-3


def test_without_the_bridge_the_deep_template_is_not_read():
    z, x = crops(1)
    network = narrow(ibu=False)
    kept = network.template(z, TARGET)
    changed = kept._replace(deep=torch.randn_like(kept.deep))
    assert torch.equal(network.find(kept, x).score, network.find(changed, x).score)
    informed = narrow()
    kept = informed.template(z, TARGET)
    assert not torch.equal(
        informed.find(kept, x).score, informed.find(kept._replace(deep=changed.deep), x).score
    )


def test_the_targets_shape_is_read_from_its_box():
    """An elongated target is not what a square one with the same area would be."""
    network = narrow()
    z, x = crops(1)
    square = network.find(network.template(z, TARGET.prod().sqrt().expand(1, 2)), x).score
    for target in (TARGET, TARGET.flip(1)):
        assert (network.find(network.template(z, target), x).score - square).abs().max() > 1e-3


def test_samples_of_a_batch_do_not_touch_each_other():
    network = narrow()
    z, x = crops()
    targets = torch.cat([TARGET, TARGET.flip(1)])
    together = network(network.template(z, targets), x)
    for i in range(2):
        alone = network(network.template(z[i : i + 1], targets[i : i + 1]), x[i : i + 1])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, atol=1e-4, rtol=1e-4)


def test_every_parameter_learns():
    torch.manual_seed(0)
    network = Ibfp(IbfpSettings(**NARROW)).train()
    z, x = crops(4)
    maps = network.find(network.template(z, TARGET), x)
    ((maps.score - 0.3).square().mean() + maps.sides.log().square().mean()).backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


def test_boxes_from_distances():
    network = narrow()
    z, x = crops(1)
    maps = network.find(network.template(z, TARGET), x)
    box, score = decode_centers(as_centers(maps))
    row, column = divmod(int(maps.score.argmax()), 12)
    left, top, right, bottom = maps.sides[0, :, row, column].tolist()
    px, py = (column + 0.5) / 12, (row + 0.5) / 12
    expected = (px + (right - left) / 2, py + (bottom - top) / 2, left + right, top + bottom)
    assert box[0].tolist() == pytest.approx(expected, abs=1e-5)
    assert score.item() == maps.score.max().item() > 0.0


def test_scores_below_0_count_as_none():
    network = narrow()
    network.box_head.cls[-1].bias.fill_(-100.0)
    z, x = crops(1)
    assert network.find(network.template(z, TARGET), x).score.max() < 0.0
    assert (network(network.template(z, TARGET), x).score == 1e-4).all()


def test_prepared_for_engines_it_answers_the_same():
    network = narrow()
    fast = prepared(network)
    assert not [m for m in fast.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    z, x = crops(1)
    for a, b in zip(network.find(network.template(z, TARGET), x), fast.find(fast.template(z, TARGET), x), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_frozen_norms_keep_their_statistics():
    torch.manual_seed(0)
    for frozen in (True, False):
        network = Ibfp(IbfpSettings(**NARROW, frozen_norms=frozen)).train()
        before = network.backbone.bn1.running_mean.clone()
        network.template(crops()[0], TARGET)
        assert torch.equal(before, network.backbone.bn1.running_mean) is frozen


@pytest.mark.parametrize(
    ("wrong", "named"),
    [({"width": 0}, "width is 0"), ({"eta": 0.5}, "unknown setting eta"), ({"size": 300}, "unknown setting size")],
)
def test_settings_that_do_not_fit_are_named(wrong, named):
    variant = load_variant("ibfp-r18")
    with pytest.raises(ValueError, match=f"ibfp-r18.*{named}"):
        build_network(replace(variant, network={**variant.network, **wrong}), empty=True)


def test_sizes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="300 px"):
        IbfpSettings(size=300)
    variant = load_variant("ibfp-r18")
    with pytest.raises(ValueError, match=r"256 px.*differ"):
        build_network(replace(variant, template=replace(variant.template, size=256)), empty=True)
