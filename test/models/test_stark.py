import parity
import pytest

torch = pytest.importorskip("torch", reason="the networks need torch")

import fixgen  # noqa: E402

from ros2_tracker.models.layers import fuse_repvgg  # noqa: E402
from ros2_tracker.models.stark import Stark, StarkLightning, StarkSettings  # noqa: E402

BOX, ENCODER, LOGITS = 1e-5, 2e-5, 3e-4  # suggested limits of the fixtures' README

EPS_GAINS = [
    (r"^bottleneck\.", 0.003, 0.0),
    (r"transformer\.encoder\.layers\.0\.self_attn\..*bias", 0.003, 0.0),
    (r"backbone\.0\.body\.bn1\.running_var", 1e-4, 0.0),
    (r"backbone\.0\.body\.bn1\.weight", 0.01, 0.0),
    (r"backbone\.0\.body\.bn1\.running_mean", 0.01, 0.0),
]
NETWORKS = {
    "stark_s50": Stark,
    "stark_st50": lambda: Stark(StarkSettings(score_head=True)),
    "stark_st101": lambda: Stark(StarkSettings(depths=(3, 4, 23), score_head=True)),
    "stark_lightning": StarkLightning,
}
CASES = {
    # fixture: official entries, seed, gains
    "stark_s50_s7": ("stark_s50", 7, ()),
    "stark_st50_s45": ("stark_st50", 45, ()),
    "stark_st101_s7": ("stark_st101", 7, ()),
    "stark_s50_epsprobe_s7": ("stark_s50", 7, EPS_GAINS),
    "stark_lightning_s51": ("stark_lightning", 51, ()),
}


def inputs(expected, seed):
    """(name, image, padded) per template and for the search region."""
    names = [*["template", "template2"][: len(expected["pads"]) - 1], "search"]
    for name, pads in zip(names, expected["pads"], strict=True):
        size = 320 if name == "search" else 128
        padded = torch.from_numpy(fixgen.make_mask((size, size), pads))
        yield name, parity.network_input(name, size, seed).masked_fill(padded.unsqueeze(1), 0.0), padded


def run(model, expected, seed):
    """The model's output on a fixture's inputs, and its intermediate values under the fixture's names."""
    *templates, search = inputs(expected, seed)
    z = [model.template(image, padded) for _, image, padded in templates]
    x = model.search(*search[1:])
    kept = {}
    transformer = model.transformer
    hooks = [transformer.encoder.register_forward_hook(lambda m, i, o: kept.update(encoder=o))]
    if "hs" in expected:
        hooks.append(transformer.decoder.register_forward_hook(lambda m, i, o: kept.update(hs=o)))
    output = model(z, x)
    for hook in hooks:
        hook.remove()
    return output, z, x, kept


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_equals_the_official_network(name):
    keys, seed, gains = CASES[name]
    expected = parity.fixture(name)
    model = parity.load_synthetic(NETWORKS[keys](), keys, seed, gains)
    output, z, x, kept = run(model, expected, seed)

    assert (z[0].padded.numpy() == expected["mask_z"]).all()
    assert (x.padded.numpy() == expected["mask_x"]).all()
    encoder_step = 4 if "enc_every4" in expected else 8
    errors = {
        "template": parity.max_error(z[0].tokens[..., ::8].transpose(0, 1), expected["bottleneck_z_every8"]),
        "search": parity.max_error(x.tokens[..., ::8].transpose(0, 1), expected["bottleneck_x_every8"]),
        "encoder": parity.max_error(
            kept["encoder"][..., ::encoder_step].transpose(0, 1), expected[f"enc_every{encoder_step}"]
        ),
        "box": parity.max_error(output.box, expected["pred_boxes"].reshape(1, 4)),
        "tl": parity.max_error(output.corner_logits[0, 0], expected["corner_tl_logits"].reshape(20, 20)),
        "br": parity.max_error(output.corner_logits[0, 1], expected["corner_br_logits"].reshape(20, 20)),
    }
    if "hs" in expected:
        errors["hs"] = parity.max_error(kept["hs"], expected["hs"][0])
        errors["position"] = parity.max_error(x.position[..., ::8].transpose(0, 1), expected["pos_x_every8"])
    if "pred_logits" in expected:
        errors["confidence"] = parity.max_error(output.confidence, expected["pred_logits"][0, 0])
    else:
        assert output.confidence is None
    print(name, {key: f"{error:.1e}" for key, error in errors.items()})
    limits = {"box": BOX, "tl": LOGITS, "br": LOGITS}
    assert all(error <= limits.get(key, ENCODER) for key, error in errors.items()), errors


@pytest.mark.parametrize("keys", NETWORKS)
def test_entries_are_the_official_ones(keys):
    entries, _ = parity.official(keys)
    model = NETWORKS[keys]()
    assert {n: list(v.shape) for n, v in model.state_dict().items()} == {n: e["shape"] for n, e in entries.items()}
    assert {n for n, _ in model.named_parameters()} == {n for n, e in entries.items() if e["kind"] == "param"}


@torch.inference_mode()
def test_fused_lightning_finds_the_same_box():
    expected = parity.fixture("stark_lightning_s51")
    model = parity.load_synthetic(StarkLightning(), "stark_lightning", 51)
    fuse_repvgg(model)
    assert not [name for name in model.state_dict() if "rbr_" in name]
    output, *_ = run(model, expected, 51)
    assert parity.max_error(output.box, expected["pred_boxes"]) <= BOX
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(2.15e6, abs=5e3)


@pytest.mark.parametrize("keys", ["stark_s50", "stark_lightning"])
@torch.inference_mode()
def test_what_lies_under_the_padding_does_not_matter_to_the_transformer(keys):
    torch.manual_seed(1)
    model = NETWORKS[keys]().eval()
    padded = torch.zeros(1, 320, 320, dtype=torch.bool)
    padded[:, :, 160:] = True
    z = model.template(torch.randn(1, 3, 128, 128), torch.zeros(1, 128, 128, dtype=torch.bool))
    x = model.search(torch.randn(1, 3, 320, 320), padded)
    other = x._replace(tokens=torch.where(x.padded.unsqueeze(-1), torch.randn(1, 400, 1), x.tokens))
    encoder = model.transformer.encoder
    if keys == "stark_lightning":
        a, b = encoder(z, x), encoder(z, other)
    else:
        a, b = (encoder(*(torch.cat(parts, 1) for parts in zip(z, s, strict=True)))[:, 64:] for s in (x, other))
    torch.testing.assert_close(a[~x.padded], b[~x.padded])
