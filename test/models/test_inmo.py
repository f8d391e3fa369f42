"""InMo's networks: against reference outputs of the official code, and what their settings change."""

import zlib
from dataclasses import replace

import numpy as np
import parity
import pytest

torch = pytest.importorskip("torch", reason="the networks need torch")

from inmo_weights import load_official  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.nn.attention import SDPBackend, sdpa_kernel  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from ros2_tracker.models.build import build_network  # noqa: E402
from ros2_tracker.models.inmo import CnnInMo, InMoSettings, TransInMo  # noqa: E402
from ros2_tracker.models.inmo_attention import (  # noqa: E402
    GroupAttention,
    InteractionModeler,
    Interactions,
    from_groups,
    to_groups,
)
from ros2_tracker.models.inmo_heads import CorrelationNeck, correlate  # noqa: E402
from ros2_tracker.models.inmo_swin import Memory  # noqa: E402
from ros2_tracker.models.variant import load_variant  # noqa: E402

LIMIT = 1e-5  # suggested by the fixtures' README


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def relative_error(actual, expected):
    """Of values between the layers, which are larger than those at the end: over the largest."""
    return parity.max_error(actual, expected) / float(np.abs(expected).max())


def watched(modules, calls):
    """Notes what modules return, in the order of the calls."""
    return [m.register_forward_hook(lambda m, i, o, n=n: calls.setdefault(n, []).append(o)) for n, m in modules.items()]


@torch.inference_mode()
def test_transinmo_star_equals_the_official_network():
    expected = parity.fixture("transinmo_star_s1")
    network = load_official(TransInMo(), "transinmo_star", 1)
    body = network.backbone[0].body
    calls = {}
    modules = {f"stage{i}": stage.blocks[-1] for i, stage in enumerate(body.layers)}
    modules |= {"feat": body, "neck": network.neck.decoder, "encoder": network.neck.encoder.layers[-1]}
    watched(modules, calls)
    z, x = (parity.network_input(name, size, 1) for name, size in (("template", 128), ("search", 256)))
    assert [parity.fixgen.crc(i.numpy()) for i in (z, x)] == expected["input_crc"].tolist()
    maps = network(network.template(z), x)
    errors = {
        "cls": parity.max_error(maps.logits, expected["cls"]),
        "reg": parity.max_error(maps.boxes, expected["reg"]),
        "encoder": parity.max_error(calls["encoder"][0][0][..., ::8], expected["enc_z_every8"]),
        "neck": parity.max_error(calls["neck"][0][None, ..., ::8], expected["neck_every8"]),
    }
    for k, name in enumerate("zx"):
        errors[f"{name}_feat"] = parity.max_error(calls["feat"][k][0][:, ::8], expected[f"{name}_feat_every8"])
        for i in range(4):
            tokens = calls[f"stage{i}"][k][0].flatten(1, 2)[..., ::16]
            errors[f"{name}_stage{i}"] = relative_error(tokens, expected[f"{name}_stage{i}_every16"])
    print({key: f"{error:.1e}" for key, error in errors.items()})
    assert max(errors.values()) <= LIMIT, errors


@torch.inference_mode()
def test_cnninmo_equals_the_official_network():
    expected = parity.fixture("cnninmo_s1")
    network = load_official(CnnInMo(), "cnninmo", 1)
    z, x = (parity.network_input(name, size, 1) for name, size in (("template", 127), ("search", 255)))
    assert [parity.fixgen.crc(i.numpy()) for i in (z, x)] == expected["input_crc"].tolist()
    calls = {}
    watched({"backbone": network.backbone}, calls)
    template = network.template(z)
    maps = network(template, x)
    errors = {
        "cls": parity.max_error(maps.logits, expected["cls"]),
        # Up to 3.5: with the kernels of a processor that has AVX2 alone it is 1.9e-5 off, absolutely.
        "reg": relative_error(maps.ltrb, expected["reg"]),
        "cen": parity.max_error(maps.centerness, expected["cen"]),
    }
    for i in range(3):
        neck = template.tokens[:, 256 * i : 256 * (i + 1)][:, ::8]
        errors[f"z_neck{i}"] = parity.max_error(neck, expected[f"z_neck{i}_every8"])
        for k, name in enumerate("zx"):
            level = calls["backbone"][k][0][i][:, ::64]
            errors[f"{name}_p{i + 2}"] = relative_error(level, expected[f"{name}_p{i + 2}_every64"])
    print({key: f"{error:.1e}" for key, error in errors.items()})
    assert max(errors.values()) <= LIMIT, errors


# --- The paper's equations, each against a plain transcription ----------------------------------------------------


def random(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def group_of(x, grid, row, column):
    """Eq. 1: the tokens at one place of all windows, for a map (H, W, C) cut in grid x grid windows."""
    height, width = (-(-side // grid) for side in x.shape[:2])
    tokens = []
    for i in range(grid):
        for j in range(grid):
            y, x_ = min(i * height + row, x.shape[0] - 1), min(j * width + column, x.shape[1] - 1)
            tokens.append(x[y, x_])
    return np.stack(tokens)


def attention(q, k, v, heads):
    """Eq. 2 of (Nq, D), (Nk, D), (Nk, D), head by head."""
    answers = []
    for a, b, c in zip(*(np.split(part, heads, axis=1) for part in (q, k, v)), strict=True):
        logits = a.astype(np.float64) @ b.T / np.sqrt(a.shape[1])
        weights = np.exp(logits - logits.max(1, keepdims=True))
        answers.append(weights / weights.sum(1, keepdims=True) @ c)
    return np.concatenate(answers, axis=1)


def linear(layer, x):
    return x @ layer.weight.numpy().T + layer.bias.numpy()


def normed(layer, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * layer.weight.numpy() + layer.bias.numpy()


def interact(x, keys_of, norm_x, norm_keys, layers, heads, grids):
    """Eq. 3 and 4: every group of `x` looks at the same group of `keys_of`."""
    answer = x.astype(np.float64)
    height, width = (-(-side // grids[0]) for side in x.shape[:2])
    for row in range(height):
        for column in range(width):
            own = group_of(normed(norm_x, x), grids[0], row, column)
            other = group_of(normed(norm_keys, keys_of), grids[1], row, column)
            q, k, v = linear(layers.q, own), linear(layers.k, other), linear(layers.v, other)
            taken = linear(layers.proj, attention(q, k, v, heads))
            for n in range(grids[0] ** 2):
                y, x_ = n // grids[0] * height + row, n % grids[0] * width + column
                if y < x.shape[0] and x_ < x.shape[1]:
                    answer[y, x_] += taken[n]
    return answer


@pytest.fixture(scope="module")
def modeler():
    torch.manual_seed(5)
    module = InteractionModeler(12, 8, 2, Interactions("paper")).requires_grad_(False)
    for parameter in module.parameters():
        parameter.normal_(std=0.5)
    return module


@pytest.mark.parametrize(("height", "width", "grid"), [(16, 16, 8), (8, 8, 4), (15, 13, 4), (31, 31, 8), (5, 5, 1)])
def test_equation_1_window_process(height, width, grid):
    x = random(1, height, width, 3)
    groups = to_groups(torch.from_numpy(x)[None], grid)
    columns = -(-width // grid)
    assert groups.shape == (1, -(-height // grid) * columns, grid * grid, 3)
    for place, group in enumerate(groups[0].numpy()):
        assert (group == group_of(x, grid, *divmod(place, columns))).all()
    assert (from_groups(groups, grid, height, width)[0].numpy() == x).all()


def test_equation_2_attention():
    module = GroupAttention(12, 8, 2).requires_grad_(False)
    q, k, v = random(1, 3, 5, 8), random(2, 3, 7, 8), random(3, 3, 7, 8)
    found = module(*(torch.from_numpy(part)[None] for part in (q, k, v)))[0]
    for group in range(3):
        expected = linear(module.proj, attention(q[group], k[group], v[group], 2))
        assert parity.max_error(found[group], expected) < 1e-5


@pytest.mark.parametrize("side", [16, 15])
@torch.inference_mode()
def test_equation_3_context_aware_self_attention(modeler, side):
    x, z = random(1, side, side, 12), random(2, side // 2, side // 2, 12)
    own, norm = modeler.context, modeler.norm_context
    expected = interact(x, x, norm, norm, own, 2, (8, 8))
    assert parity.max_error(modeler.search(torch.from_numpy(x)[None], None)[0], expected) < 1e-4
    # The template in the same way with the same weights, in half as many windows.
    expected = interact(z, z, norm, norm, own, 2, (4, 4))
    assert parity.max_error(modeler.template(torch.from_numpy(z)[None])[0][0], expected) < 1e-4


@torch.inference_mode()
def test_equation_4_target_aware_cross_attention(modeler):
    x, z = random(1, 16, 16, 12), random(2, 8, 8, 12)
    own, norm = modeler.context, modeler.norm_context
    x1, z1 = interact(x, x, norm, norm, own, 2, (8, 8)), interact(z, z, norm, norm, own, 2, (4, 4))
    expected = interact(x1, z1, modeler.norm_search, modeler.norm_template, modeler.target, 2, (8, 4))
    _, keys, values = modeler.template(torch.from_numpy(z)[None])
    found = modeler.search(torch.from_numpy(x)[None], Memory(keys, values))[0]
    assert parity.max_error(found, expected) < 1e-4
    assert parity.max_error(found, x1) > 0.1


@torch.inference_mode()
def test_a_group_sees_all_windows_and_no_other_place(modeler):
    x = torch.from_numpy(random(1, 1, 16, 16, 12))
    other = x.clone()
    other[0, 2, 4] += torch.arange(12.0)
    changed = (modeler.search(other, None) != modeler.search(x, None)).any(-1)[0]
    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[::2, ::2] = True
    assert (changed == expected).all()


@torch.inference_mode()
def test_a_template_of_another_scale_is_named(modeler):
    _, keys, values = modeler.template(torch.zeros(1, 16, 16, 12))
    with pytest.raises(ValueError, match="twice as large"):
        modeler.search(torch.zeros(1, 16, 16, 12), Memory(keys, values))


@pytest.mark.parametrize(("window_process", "growth"), [(True, 4.0), (False, 16.0)])
def test_the_cost_of_attention_in_the_images_area(window_process, growth):
    """Counted operations of the products between tokens: four times the area."""

    def cost(side):
        modeler = InteractionModeler(12, 8, 2, Interactions("paper", window_process=window_process))
        # Only this way of computing attention is made of products that are counted.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.inference_mode():
            _, keys, values = modeler.template(torch.zeros(1, side // 2, side // 2, 12))
            modeler.search(torch.zeros(1, side, side, 12), Memory(keys, values))
        return counter.get_flop_counts()["Global"][torch.ops.aten.bmm]

    assert cost(64) / cost(32) == growth


# --- Settings -----------------------------------------------------------------------------------------------------

NARROW = {"depths": (2, 2, 2, 2), "width": 12}


def narrow(backbone="swin-t", seed=3, **changed):
    torch.manual_seed(seed)
    neck = changed.pop("neck", "encoder")
    interactions = Interactions(**changed)
    settings = InMoSettings(backbone, neck, 1, search_size=256 if backbone == "swin-t" else 255, **NARROW)
    settings = replace(settings, interactions=interactions)
    network = (TransInMo if backbone == "swin-t" else CnnInMo)(settings)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
            # The released attention of CNNInMo grows with the square of its input.
            gain = 0.4 if "_map_" in name or "_proj" in name or "conv3" in name else 1.0
            parameter.data.normal_(std=gain * parameter[0].numel() ** -0.5, generator=generator)
    return network.eval().requires_grad_(False)


def logits(network):
    small, large = (128, 256) if isinstance(network, TransInMo) else (127, 255)
    z, x = (torch.from_numpy(random(side, 1, 3, side, side)) for side in (small, large))
    return network(network.template(z), x).logits


@pytest.mark.parametrize("backbone", ["swin-t", "resnet50"])
@torch.inference_mode()
def test_switches_of_the_papers_tables_change_the_answer(backbone):
    """The same weights by name: each switch alone makes another network."""
    answers = {
        str(changed): logits(narrow(backbone, **changed))
        for changed in (
            {},
            {"target_aware": False},
            {"attention": "paper"},
            {"attention": "paper", "target_aware": False},
            {"attention": "paper", "window_process": False},
        )
    }
    for name, answer in answers.items():
        assert answer.isfinite().all()
        for other, different in answers.items():
            assert name == other or (answer - different).abs().max() > 1e-3, (name, other)


@pytest.mark.parametrize("attention_mode", ["released", "paper"])
@pytest.mark.parametrize("backbone", ["swin-t", "resnet50"])
@torch.inference_mode()
def test_templates_are_the_callers(backbone, attention_mode):
    """Nothing of a template stays in the network, and a batch is as good as one after another."""
    network = narrow(backbone, attention=attention_mode)
    small, large = (128, 256) if backbone == "swin-t" else (127, 255)
    z, x = (torch.from_numpy(random(side, 2, 3, side, side)) for side in (small, large))
    first, second = network.template(z[:1]), network.template(z[1:])
    a, b = network(first, x[:1]), network(second, x[1:])
    torch.testing.assert_close(network(first, x[:1]).logits, a.logits)
    both = network(network.template(z), x)
    torch.testing.assert_close(both.logits, torch.cat([a.logits, b.logits]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("attention_mode", ["released", "paper"])
@torch.inference_mode()
def test_a_new_encoder_tells_cells_apart(attention_mode):
    """Its attention starts as nothing: at random it gave all cells the same, and more of it than they differed in."""
    torch.manual_seed(2)
    settings = InMoSettings(layers=1, **NARROW, interactions=Interactions(attention_mode))
    network = TransInMo(settings)
    # As photographs are: neighbours are alike, and a picture differs more from others than in itself.
    z, x = (
        0.8 + 0.4 * F.interpolate(torch.from_numpy(random(side, 1, 3, 8, 8)), side, mode="bilinear")
        for side in (128, 256)
    )

    def differing():
        template = network.template(z)
        tokens = network.neck(template.tokens, network.backbone[0].body(x, template.memories)[0])
        return float(tokens.var(1, correction=0).sum() / tokens.square().mean(1).sum())

    new = differing()
    for name, parameter in network.neck.named_parameters():
        if name.endswith("attn.fc.weight"):
            assert not parameter.any(), name
            torch.nn.init.xavier_uniform_(parameter)
    assert new > 1.5 * differing()


@torch.inference_mode()
def test_correlation_slides_the_middle_of_the_template():
    x, z = random(1, 2, 5, 9, 11), random(2, 2, 5, 4, 3)
    found = correlate(torch.from_numpy(x), torch.from_numpy(z))
    assert found.shape == (2, 5, 6, 9)
    for row in range(6):
        for column in range(9):
            expected = (x[:, :, row : row + 4, column : column + 3] * z).sum((2, 3))
            assert parity.max_error(found[:, :, row, column], expected) < 1e-5
    neck = CorrelationNeck(8).eval()
    tokens = neck.template(torch.zeros(1, 8, 16, 16))
    assert tokens.shape == (1, 64, 8)
    found = neck(tokens, torch.zeros(1, 8, 32, 32))
    assert found.shape == (1, 1024, 8)
    # Where everything looks the same, tokens still say where they are, as the head has to.
    apart = torch.cdist(found[0], found[0]) + 9.0 * torch.eye(1024)
    assert apart.min() > 1e-3


@pytest.mark.parametrize("name", ["transinmo", "transinmo-star", "cnninmo"])
def test_variants(name):
    variant = load_variant(name)
    network = build_network(variant, empty=True)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(variant.parameters, abs=5e3)
    assert network.settings.cells == {"swin-t": 32, "resnet50": 25}[network.settings.backbone]


@pytest.mark.parametrize("keys", ["transinmo_star", "cnninmo"])
def test_entries_are_the_official_ones(keys):
    entries, _ = parity.official(keys)
    network = build_network(load_variant(keys.replace("_", "-")), empty=True)
    found = {n: (list(v.shape), str(v.dtype)) for n, v in network.state_dict().items()}
    assert found == {n: (e["shape"], f"torch.{e['dtype']}") for n, e in entries.items()}
    assert {n for n, _ in network.named_parameters()} == {n for n, e in entries.items() if e["kind"] == "param"}


@pytest.mark.parametrize(
    ("network", "text"),
    [
        ({"backbone": "resnet18"}, "backbone is 'resnet18'"),
        ({"neck": "none"}, "neck is 'none'"),
        ({"layers": 0}, "layers is 0"),
        ({"attention": "global"}, "attention is 'global'"),
        ({"window_process": False}, "needs attention: paper"),
        ({"windows": 7}, "unknown setting windows"),
        ({"depths": [2, 2]}, r"depths is \(2, 2\)"),
        ({"width": 8}, "width is 8, must be a multiple of 12"),
        ({"width": 6, "backbone": "resnet50"}, "width is 6, must be a multiple of 4"),
        ({"neck_width": 48}, "neck_width is 48"),
    ],
)
def test_wrong_settings_are_named(network, text):
    variant = load_variant("transinmo-star")
    with pytest.raises(ValueError, match=text):
        build_network(replace(variant, network={**variant.network, **network}), empty=True)
