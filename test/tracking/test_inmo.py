"""InMo's published loops: against the official trackers, and with networks of a few lines."""

from dataclasses import replace

import numpy as np
import parity
import pytest

from ros2_tracker.engines.base import EngineError, Engines
from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.inmo import CnnInMo, TransInMo, shape_penalty
from ros2_tracker.tracking.inmo_crop import context_side, sub_window, window_crop
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.settings import TargetSettings
from ros2_tracker.tracking.target import Target

TOLERANCE_PX = 1e-3  # suggested by the fixtures' README

CNN_GAINS = [
    (r"^backbone\.conv1\.weight", 0.008, 0.0),
    (r"^head\.bbox_pred\.weight", 0.3, 0.0),
    (r"^head\.bbox_pred\.bias", 0.0, 3.4),
]
TRACKED = {
    # fixture: variant, official entries, gains, dataset
    "track_transinmo_star_s1_lasot": ("transinmo-star", "transinmo_star", (), "lasot"),
    "track_transinmo_star_s1_uav123": ("transinmo-star", "transinmo_star", (), "uav123"),
    "track_cnninmo_s1_uav123": ("cnninmo", "cnninmo", CNN_GAINS, "uav123"),
}


class Recorder:
    """Notes what goes into an engine."""

    def __init__(self, engine):
        self.engine, self.seen = engine, []
        self.batch, self.inputs, self.outputs = engine.batch, engine.inputs, engine.outputs

    def run(self, targets):
        self.seen += targets
        return self.engine.run(targets)


@pytest.mark.parametrize("name", TRACKED)
def test_follows_as_the_official_tracker(name):
    torch = pytest.importorskip("torch", reason="the networks need torch")
    from inmo_weights import load_official

    from ros2_tracker.engines.torch import torch_engines
    from ros2_tracker.models.build import build_network

    variant_name, keys, gains, dataset = TRACKED[name]
    expected = parity.fixture(name)
    variant = replace(load_variant(variant_name), loop={"dataset": dataset})
    seed, count, height, width, *box = (int(v) for v in expected["meta"])
    frames, _ = parity.fixgen.make_sequence(count, height, width, seed, box)
    assert [parity.fixgen.crc(f) for f in frames] == expected["frame_crc"].tolist()
    # The official trackers took the arrays as they were: TransInMo as RGB, CNNInMo as BGR.
    order = ColorOrder.BGR if keys == "cnninmo" else ColorOrder.RGB
    frames = [ArrayFrame(f, order) for f in frames]
    torch.set_num_threads(1)
    engines = torch_engines(load_official(build_network(variant), keys, seed, gains), variant, keys)
    per_template = Recorder(engines.per_template)
    network = TrackingNetwork(variant, Engines(engines.per_frame, per_template))
    family = network.family
    loop = family.loop
    np.testing.assert_allclose([loop.penalty, loop.size_rate, loop.window], expected["hyper"], atol=1e-7)

    appearance = family.appearance(frames[0], Box(*(float(v) for v in box)))
    crops, sides, errors = [per_template.seen[0]["template"]], [], []
    for i, frame in enumerate(frames[1:]):
        look = family.look(appearance, frame, Box.from_center(*expected["f64_state_before_cxcywh"][i]))
        (outputs,) = network.infer([look])
        found = family.proposal(look, outputs)
        after = (found.box.cx, found.box.cy, found.box.w, found.box.h)
        errors.append(parity.max_error(after, expected["f64_state_after_cxcywh"][i]))
        crops.append(look.inputs["search"])
        sides.append(look.region.side)
    print(f"{name}: boxes {max(errors):.1e} px")
    assert sides == expected["f64_original_sz"][1:].tolist()
    as_seen = [crop if order is ColorOrder.RGB else crop[..., ::-1] for crop in crops]
    assert [parity.fixgen.crc(crop.transpose(2, 0, 1)) for crop in as_seen] == expected["crop_crc_chw"].tolist()
    assert max(errors) < TOLERANCE_PX


class Template:
    """A template graph whose feature is the mean colour of the crop."""

    description = "mean colour"
    batch = None

    def __init__(self, size):
        self.inputs = {"template": (None, size, size, 3)}
        self.outputs = {"tokens": (None, 1, 3)}

    def run(self, targets):
        return [{"tokens": t["template"].mean((0, 1), dtype=np.float32)[None]} for t in targets]


class Maps:
    """A graph of every frame that always answers the same."""

    description = "the same maps"
    batch = None

    def __init__(self, size, **maps):
        self.maps = {"box": np.full(4, 0.5, np.float32), "score": np.float32(0.5), **maps}
        self.inputs = {"template_tokens": (None, 1, 3), "search": (None, size, size, 3)}
        self.outputs = {name: (None, *value.shape) for name, value in self.maps.items()}

    def run(self, targets):
        for inputs in targets:
            assert {n: v.shape for n, v in inputs.items()} == {n: s[1:] for n, s in self.inputs.items()}
        return [self.maps for _ in targets]


def token_maps(cell, box, score=0.9):
    """TransInMo's: one cell is sure, and every cell says `box` (cx, cy, w, h in search sides)."""
    score_map = np.full((32, 32), 0.01, np.float32)
    score_map[cell] = score
    box_map = np.broadcast_to(np.array(box, np.float32)[:, None, None], (4, 32, 32)).copy()
    return Maps(256, score_map=score_map, box_map=box_map)


def cell_maps(cell, sides, score=0.9):
    """CNNInMo's: a peak at `cell`, and every cell says `sides` (left, top, right, bottom in search sides)."""
    rows, columns = np.mgrid[:25, :25]
    peak = np.exp(-0.5 * ((rows - cell[0]) ** 2 + (columns - cell[1]) ** 2)).astype(np.float32)
    ltrb = np.broadcast_to(np.array(sides, np.float32)[:, None, None], (4, 25, 25)).copy()
    return Maps(255, score_map=score * peak, center_map=4 * peak - 2, ltrb=ltrb)


def network_of(name, maps, **loop):
    variant = replace(load_variant(name), loop=loop)
    return TrackingNetwork(variant, Engines(maps, Template(variant.template.size)))


def grey(width=640, height=480, value=90):
    return ArrayFrame(np.full((height, width, 3), value, np.uint8))


def asked(network, last, frame=None, zoom=1.0):
    family, frame = network.family, frame or grey()
    look = family.look(family.appearance(frame, last), frame, last, zoom)
    return look, network.infer([look])[0]


MIDDLE = Box.from_center(320.0, 240.0, 64.0, 48.0)


def test_transinmo_answers_in_the_image():
    network = network_of("transinmo", token_maps((16, 16), (0.6, 0.45, 0.25, 0.2)))
    look, outputs = asked(network, MIDDLE)
    side = look.region.side
    assert side == int(np.ceil(np.sqrt((64 + 1.5 * 112) * (48 + 1.5 * 112))))
    found = network.family.proposal(look, outputs)
    expected = (320 + 0.1 * side, 240 - 0.05 * side, 0.25 * side, 0.2 * side)
    np.testing.assert_allclose((found.box.cx, found.box.cy, found.box.w, found.box.h), expected, atol=1e-4)
    assert found.cells == ((16, 16),)
    assert found.score == pytest.approx(0.9)
    # A region twice as large: the same answer means twice as far and large.
    look, outputs = asked(network, MIDDLE, zoom=2.0)
    assert look.region.side == np.ceil(2 * context_side(MIDDLE, 4.0))
    assert network.family.proposal(look, outputs).box.w == pytest.approx(0.25 * look.region.side)


def test_cnninmo_answers_in_the_image():
    network = network_of("cnninmo", cell_maps((12, 15), (0.12, 0.1, 0.12, 0.1)), size_rate=1.0, penalty=0.0)
    look, outputs = asked(network, MIDDLE)
    found = network.family.proposal(look, outputs)
    pixel = context_side(MIDDLE, 2.0) / 127
    assert found.cells == ((12, 15),)
    assert found.box.cx - 320 == pytest.approx(3 * 193 / 25 * pixel, abs=pixel)
    assert found.box.cy == pytest.approx(240, abs=pixel)
    rate = found.score
    assert found.box.w == pytest.approx(rate * 0.24 * 255 * pixel + (1 - rate) * 64, rel=1e-3)
    # A region twice as large: the same answer means twice as far.
    look, outputs = asked(network, MIDDLE, zoom=2.0)
    assert network.family.proposal(look, outputs).box.cx - 320 == pytest.approx(2 * (found.box.cx - 320), abs=pixel)


@pytest.mark.parametrize(
    ("name", "maps"),
    [
        ("transinmo", token_maps((16, 20), (0.5, 0.5, 0.25, 0.2))),
        ("cnninmo", cell_maps((12, 15), (0.12, 0.1, 0.12, 0.1))),
    ],
)
def test_another_cell_can_be_asked_for(name, maps):
    network = network_of(name, maps)
    look, outputs = asked(network, MIDDLE)
    best = network.family.proposal(look, outputs)
    other = network.family.proposal(look, outputs, (10, 10))
    assert other.cells == ((10, 10),)
    assert other.score < best.score
    assert network.family.proposal(look, outputs, best.cells[0]).cells == best.cells
    if name == "cnninmo":
        assert other.box.cx < best.box.cx


@pytest.mark.parametrize("name", ["transinmo", "cnninmo"])
def test_settings_of_the_loop(name):
    maps = (
        token_maps((16, 29), (0.5, 0.5, 0.5, 0.5), 0.3) if name == "transinmo" else cell_maps((12, 23), [0.25] * 4, 0.3)
    )

    def answer(**loop):
        network = network_of(name, maps, **loop)
        look, outputs = asked(network, MIDDLE)
        return network.family.proposal(look, outputs)

    assert answer(window=0.0, penalty=0.0).cells[0][1] >= 22
    assert answer(window=0.6).cells[0][1] < 20
    steady, nervous = answer(window=0.0, penalty=0.3, size_rate=1.0), answer(window=0.0, penalty=0.0, size_rate=1.0)
    assert abs(steady.box.w - 64) < abs(nervous.box.w - 64)
    slow = answer(window=0.0, penalty=0.0, size_rate=0.1)
    assert abs(slow.box.w - 64) < 0.2 * abs(nervous.box.w - 64)


@pytest.mark.parametrize("family", [TransInMo, CnnInMo])
def test_published_settings_by_dataset(family):
    variant = load_variant("transinmo" if family is TransInMo else "cnninmo")
    template = Template(variant.template.size)

    def loop(**given):
        return family(replace(variant, loop=given), template).loop

    assert loop() == loop(dataset="lasot") != loop(dataset="uav123") != loop(dataset="got10k")
    assert loop(dataset="otb", penalty=0.5) == replace(loop(dataset="otb"), penalty=0.5)
    for wrong, message in (
        ({"dataset": "mine"}, "loop.dataset is 'mine', must be one of"),
        ({"speed": 1.0}, "unknown setting loop.speed"),
        ({"window": 1.5}, "loop.window is 1.5"),
    ):
        with pytest.raises(ValueError, match=message):
            loop(**wrong)


def test_penalty_of_a_change():
    assert shape_penalty(40.0, 30.0, 40.0, 30.0, 0.2) == 1.0
    # Twice as large; half as large; twice as wide for its height.
    assert shape_penalty(80.0, 60.0, 40.0, 30.0, 0.2) == pytest.approx(np.exp(-0.2))
    assert shape_penalty(20.0, 15.0, 40.0, 30.0, 0.2) == pytest.approx(np.exp(-0.2))
    assert shape_penalty(80.0, 30.0, 40.0, 30.0, 0.2) < np.exp(-0.2)


def test_outside_is_the_first_frames_mean_colour():
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[:, 50:] = (201, 100, 51)  # BGR
    network = network_of("transinmo", token_maps((16, 16), (0.5, 0.5, 0.2, 0.2)))
    appearance = network.family.appearance(ArrayFrame(pixels), Box(0, 0, 20, 20))
    assert appearance.fill == (25.0, 50.0, 100.0)  # RGB, without fractions
    look = network.family.look(appearance, grey(100, 100), Box(-10, -10, 20, 20))
    assert look.inputs["search"][0, 0].tolist() == [25, 50, 100]
    assert look.inputs["search"][-1, -1].tolist() == [90, 90, 90]
    # Nothing of the image: a camera that changed its size.
    away = window_crop(grey(100, 100), sub_window(Box(900, 900, 20, 20), 80, 256), appearance.fill)
    assert (away == (25, 50, 100)).all()


def test_box_stays_in_the_image_and_over_ten_pixels():
    network = network_of("transinmo", token_maps((16, 16), (3.0, -3.0, 0.001, 9.0)))
    look, outputs = asked(network, MIDDLE)
    box = network.family.proposal(look, outputs).box
    assert (box.cx, box.cy, box.w, box.h) == (640.0, 0.0, 10.0, 480.0)


@pytest.mark.parametrize("name", ["transinmo", "cnninmo"])
def test_what_is_not_finite_is_refused(name):
    maps = token_maps((16, 16), (0.5,) * 4) if name == "transinmo" else cell_maps((12, 12), (0.1,) * 4)
    maps.maps["box_map" if name == "transinmo" else "ltrb"][0, 3, 3] = np.nan
    network = network_of(name, maps)
    look, outputs = asked(network, MIDDLE)
    with pytest.raises(FloatingPointError):
        network.family.proposal(look, outputs)


def test_recent_views_are_blended_and_keep_the_first_scale():
    network = network_of("transinmo", token_maps((16, 16), (0.5,) * 4))
    family = network.family
    first = family.appearance(grey(value=100), MIDDLE)
    assert family.updated(first, grey(value=200), MIDDLE, 0.0) is None
    mixed = family.updated(first, grey(value=200), Box(300, 200, 80, 80), 0.25)
    np.testing.assert_allclose(mixed.inputs["template_tokens"], 125.0)
    assert mixed.template_side == first.template_side == round(context_side(MIDDLE, 2.0))


@pytest.mark.parametrize("name", ["transinmo", "cnninmo"])
def test_a_target_is_followed_by_the_common_core(name):
    maps = token_maps((16, 16), (0.55, 0.5, 0.25, 0.2)) if name == "transinmo" else cell_maps((12, 14), (0.12, 0.1) * 2)
    target = Target(network_of(name, maps), TargetSettings(), grey(), MIDDLE.as_tuple(), 0.0)
    places = [target.update(grey(), i / 30).candidate for i in range(1, 4)]
    assert places[0][0] < places[1][0] < places[2][0]


def test_other_networks_are_refused():
    variant = load_variant("transinmo")
    with pytest.raises(EngineError, match="no output"):
        TrackingNetwork(variant, Engines(cell_maps((12, 12), (0.1,) * 4), Template(128)))
    with pytest.raises(EngineError, match="cannot be tracked"):
        TrackingNetwork(variant, Engines(token_maps((16, 16), (0.5,) * 4)))


def test_a_variant_runs_by_name(tmp_path):
    """As `ros2-tracker track` and the node load it: name and weights file."""
    torch = pytest.importorskip("torch", reason="the networks need torch")
    safetensors = pytest.importorskip("safetensors.torch", reason="weights are kept as safetensors")
    from ros2_tracker import Tracker
    from ros2_tracker.models.build import build_network

    torch.manual_seed(1)
    weights = tmp_path / "random.safetensors"
    safetensors.save_file(build_network(load_variant("transinmo")).state_dict(), weights)
    tracker = Tracker.load("transinmo", weights=weights)
    frame = parity.fixgen.make_image(240, 320, 5)
    tracker.init(frame, (100, 80, 60, 50))
    result = tracker.update(frame)
    assert 0.0 <= result.score <= 1.0
    assert all(np.isfinite(result.candidate))
