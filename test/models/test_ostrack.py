import parity
import pytest

torch = pytest.importorskip("torch", reason="the networks need torch")

from ros2_tracker.models.ostrack import (  # noqa: E402
    CenterMaps,
    Elimination,
    OSTrack,
    OSTrackSettings,
    TemplateRange,
    decode_centers,
    template_rows,
)
from ros2_tracker.models.window import hann_window  # noqa: E402

MAPS, BOXES, FEATURES = 5e-6, 5e-6, 3e-5  # suggested limits of the fixtures' README

EPS_GAINS = [
    (r"backbone\.patch_embed\.proj\.", 0.003, 0.0),
    (r"backbone\.pos_embed_[zx]$", 0.003, 0.0),
    (r"box_head\..*running_var", 1e-4, 0.0),
    (r"box_head\.conv[1-4]_\w+\.1\.weight", 0.01, 0.0),
    (r"box_head\..*running_mean", 0.01, 0.0),
]
CASES = {
    # fixture: official entries, template and search px, seed, elimination, gains
    "ostrack_256_s1": ("ostrack_256", 128, 256, 1, None, ()),
    "ostrack_256_ce_ctr_point_s1": ("ostrack_256_ce", 128, 256, 1, Elimination(), ()),
    "ostrack_256_ce_gt_box_s2": (
        "ostrack_256_ce", 128, 256, 2, Elimination(template_range=TemplateRange.GT_BOX), ()
    ),
    "ostrack_384_ce_ctr_point_s1": ("ostrack_384_ce", 192, 384, 1, Elimination(), ()),
    "ostrack_256_epsprobe_s5": ("ostrack_256", 128, 256, 5, None, EPS_GAINS),
}  # fmt: skip


def network(template=128, search=256, elimination=None):
    with torch.device("meta"):
        empty = OSTrack(OSTrackSettings(template, search, elimination=elimination))
    return empty.to_empty(device="cpu")


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_equals_the_official_network(name, record_property):
    keys, template_px, search_px, seed, elimination, gains = CASES[name]
    expected = parity.fixture(name)
    model = parity.load_synthetic(network(template_px, search_px, elimination), keys, seed, gains)
    z, x = (parity.network_input(n, s, seed) for n, s in (("template", template_px), ("search", search_px)))

    rows = None
    if elimination is not None:
        box = expected["template_box_xywh_norm"][0] if "template_box_xywh_norm" in expected else None
        chosen = template_rows(elimination.template_range, template_px // 16, box)
        assert list(chosen) == expected["template_mask"][0].nonzero()[0].tolist()
        rows = torch.tensor([chosen]) if elimination.template_range is TemplateRange.GT_BOX else None

    tokens = model.template(z)
    maps = model(tokens, x, rows)
    found = model.backbone(tokens, x, model.elimination, rows)
    errors = {
        "score": parity.max_error(maps.score, expected["score_map"]),
        "size": parity.max_error(maps.size, expected["size_map"]),
        "offset": parity.max_error(maps.offset, expected["offset_map"]),
        "box": parity.max_error(decode_centers(maps)[0], expected["pred_boxes"][:, 0]),
        "features": parity.max_error(torch.cat(found[:2], dim=1)[..., ::8], expected["feat_every8"]),
    }
    if "hann" in expected:
        window = hann_window(search_px // 16)
        errors["window"] = parity.max_error(window, expected["hann"][0, 0])
        windowed, _ = decode_centers(maps, torch.from_numpy(window))
        errors["windowed box"] = parity.max_error(windowed, expected["windowed_box"])
    record_property("errors", errors)
    print(name, {key: f"{error:.1e}" for key, error in errors.items()})
    limits = {"features": FEATURES, "box": BOXES, "windowed box": BOXES}
    assert all(error <= limits.get(key, MAPS) for key, error in errors.items()), errors
    removed = [expected[f"removed_{i}"][0] for i in range(3)] if elimination else []
    assert [set(r[0].tolist()) for r in found.removed] == [set(r.tolist()) for r in removed]
    assert all(r.dtype == torch.int64 for r in found.removed)


@pytest.mark.parametrize("keys", ["ostrack_256", "ostrack_256_ce", "ostrack_384_ce"])
def test_entries_are_the_official_ones(keys):
    entries, _ = parity.official(keys)
    model = network(192, 384) if "384" in keys else network()
    ours = {name: list(value.shape) for name, value in model.state_dict().items()}
    assert ours == {name: e["shape"] for name, e in entries.items() if name not in parity.UNUSED_ENTRIES}
    parameters = {name for name, _ in model.named_parameters()}
    assert parameters == {n for n, e in entries.items() if e["kind"] == "param"} - set(parity.UNUSED_ENTRIES)


def small(elimination=None):
    torch.manual_seed(0)
    model = OSTrack(OSTrackSettings(width=32, heads=2, elimination=elimination)).eval().requires_grad_(False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_dropped_tokens_are_exactly_zero():
    model = small(Elimination())
    z, x = torch.randn(2, 3, 128, 128), torch.randn(2, 3, 256, 256)
    found = model.backbone(model.template(z), x, model.elimination)
    assert [r.shape[1] for r in found.removed] == [76, 54, 37]
    for sample in range(2):
        dropped = torch.cat([r[sample] for r in found.removed])
        assert (found.search[sample, dropped] == 0).all()
        assert int((found.search[sample] != 0).any(-1).sum()) == 89


@pytest.mark.parametrize("blocks", [(3, 6, 9), (3, 6, 11)])
def test_template_tokens_that_nobody_asks_for_change_nothing(blocks):
    model = small(Elimination(blocks))
    z, x = torch.randn(1, 3, 128, 128), torch.randn(1, 3, 256, 256)
    tokens = model.template(z)
    whole = model.backbone(tokens, x, model.elimination)
    without = model.backbone(tokens, x, model.elimination, keep_template=False)
    assert without.template.shape == (1, 0, 32)
    torch.testing.assert_close(without.search, whole.search)


def test_samples_of_a_batch_do_not_touch_each_other():
    model = small(Elimination())
    z, x = torch.randn(2, 3, 128, 128), torch.randn(2, 3, 256, 256)
    together = model(model.template(z), x)
    for i in range(2):
        alone = model(model.template(z[i : i + 1]), x[i : i + 1])
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, atol=1e-4, rtol=1e-4)


def test_elimination_is_switched_at_run_time():
    model = small(Elimination())
    z, x = torch.randn(1, 3, 128, 128), torch.randn(1, 3, 256, 256)
    tokens = model.template(z)
    eliminated = model(tokens, x).score
    full = model(tokens, x, keep_ratio=1.0).score
    assert not torch.equal(eliminated, full)
    model.elimination = None
    assert torch.equal(model(tokens, x).score, full)
    model.elimination = Elimination(template_range=TemplateRange.ALL)
    every = model(tokens, x).score
    all_rows = model(tokens, x, rows=torch.arange(64)[None]).score
    torch.testing.assert_close(every, all_rows)


@pytest.mark.parametrize(
    ("chosen", "side", "expected"),
    [
        (TemplateRange.CTR_POINT, 8, (3 * 8 + 3,)),
        (TemplateRange.CTR_POINT, 12, (5 * 12 + 5,)),
        (TemplateRange.CTR_POINT, 7, (3 * 7 + 3,)),
        (TemplateRange.CTR_POINT, 14, (6 * 14 + 6,)),
        (TemplateRange.CTR_REC, 8, (27, 28, 35, 36)),
        (TemplateRange.CTR_REC, 12, (65, 66, 77, 78)),
        (TemplateRange.CTR_REC, 7, (24,)),
        (TemplateRange.ALL, 9, None),
    ],
)
def test_template_rows(chosen, side, expected):
    assert template_rows(chosen, side) == expected


@pytest.mark.parametrize(
    ("chosen", "side", "named"),
    [
        (TemplateRange.CTR_POINT, 9, "9x9"),
        (TemplateRange.CTR_REC, 14, "14x14"),
        (TemplateRange.GT_BOX, 8, "gt_box"),
    ],
)
def test_template_rows_that_are_not_defined(chosen, side, named):
    with pytest.raises(ValueError, match=named):
        template_rows(chosen, side)


@pytest.mark.parametrize("box", [(0.27, 0.31, 0.44, 0.37), (0.0, 0.0, 1.0, 1.0), (0.4, 0.05, 0.07, 0.9)])
def test_gt_box_rows_are_those_of_a_painted_and_reduced_mask(box):
    x, y, w, h = (v * 128 for v in box)
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., int(y) : int(y + h - 1), int(x) : int(x + w - 1)] = 1.0
    reduced = torch.nn.functional.interpolate(mask, scale_factor=1 / 16, mode="bilinear", align_corners=False)
    assert list(template_rows(TemplateRange.GT_BOX, 8, box)) == reduced.flatten().nonzero().flatten().tolist()


def test_first_of_equal_scores_is_chosen():
    maps = CenterMaps(torch.full((1, 1, 16, 16), 0.5), torch.full((1, 2, 16, 16), 0.25), torch.zeros(1, 2, 16, 16))
    box, score = decode_centers(maps)
    assert box.tolist() == [[0.0, 0.0, 0.25, 0.25]]
    assert score.tolist() == [0.5]
