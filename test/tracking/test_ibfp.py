"""IBFP's loop: peaks, crops, both maps mixed and what is learnt of it, with a branch that notes what it is told.

The branch itself is tested in test/models/test_ibfp_online.py; here it runs once for real, at the end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from ros2_tracker.engines.base import EngineError, Engines
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.models.ibfp_settings import OnlineSettings
from ros2_tracker.models.variant import load_variant
from ros2_tracker.tracking.crop import Region
from ros2_tracker.tracking.frame import ArrayFrame, frame_from_array
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.ibfp import Ibfp, Peak, find_peak
from ros2_tracker.tracking.ibfp_crop import View, first_views, replicated_crop
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.settings import PUBLISHED_LOOP
from ros2_tracker.tracking.tracker import Tracker

VARIANT = load_variant("ibfp-r18")
SETTINGS = OnlineSettings()
LAST = Box(100.0, 80.0, 40.0, 40.0)
"""Its region is 200 px at (20, 0)."""


class Scripted:
    """Both engines, answering what they are told and noting what they are asked."""

    description, batch = "scripted", None

    def __init__(self, inputs, outputs, answer):
        self.inputs, self.outputs, self.answer, self.seen = inputs, outputs, answer, []

    def run(self, targets):
        self.seen += targets
        return [dict(self.answer) for _ in targets]


@dataclass(frozen=True)
class Noting:
    """A model that answers a map and lists what happened to it."""

    answer: np.ndarray
    notes: tuple = ()

    def response(self, features):
        assert features.shape == (4, 18, 18)
        return self.answer

    def remembered(self, features, place, rate):
        return replace(self, notes=(*self.notes, ("remembered", place, rate)))

    def updated(self):
        return replace(self, notes=(*self.notes, "updated"))


@dataclass
class NotingBranch:
    answer: np.ndarray
    fitted_to: list = field(default_factory=list)

    def fitted(self, features, places):
        self.fitted_to.append((features, places))
        return Noting(self.answer)


def bumps(*peaks):
    """(36, 36) map with smooth peaks: (row, column, height)."""
    rows, columns = np.mgrid[:36, :36]
    made = np.full((36, 36), -0.1)
    for row, column, height in peaks:
        made = np.maximum(made, height * np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / 8.0))
    return made.astype(np.float32)


def engines(score_map=None):
    ltrb = np.full((4, 36, 36), 0.1, np.float32)
    answer = {
        "box": np.zeros(4, np.float32),
        "score": np.float32(0.5),
        "linear_map": bumps((18, 18, 0.9)) if score_map is None else score_map,
        "ltrb": ltrb,
        "features": np.zeros((4, 18, 18), np.float32),
    }
    kept = {"template_deep": (None, 8, 9, 9), "template_middle": (None, 4, 18, 18), "template_size": (None, 2)}
    kept |= {"search": (None, 288, 288, 3)}
    per_frame = Scripted(kept, {name: (None, *value.shape) for name, value in answer.items()}, answer)
    made = {"deep": np.ones((8, 9, 9), np.float32), "middle": np.ones((4, 18, 18), np.float16)}
    made["size"] = np.full(2, 0.2, np.float32)
    shown = {"template": (None, 288, 288, 3), "template_target": (None, 2)}
    return Engines(per_frame, Scripted(shown, dict.fromkeys(made), made))


def family(offline, online=None, settings=SETTINGS):
    """With a branch that answers `online`, and a frame."""
    scripted = engines(offline)
    branch = None if online is None else NotingBranch(online)
    made = Ibfp(VARIANT, scripted.per_template, settings, branch)
    return made, scripted, frame_from_array(np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8))


def asked(offline, online=None, settings=SETTINGS, zoom=1.0, cell=None):
    """One frame of a family: itself, frame, appearance and proposal."""
    made, scripted, frame = family(offline, online, settings)
    appearance = made.appearance(frame, LAST)
    look = made.look(appearance, frame, LAST, zoom)
    return made, frame, appearance, made.proposal(look, scripted.per_frame.answer, cell)


# --- peaks ---

SIZE = (0.2, 0.2)
"""Of the target: 7.2 cells; what is within 7.9 cells of a peak belongs to it; 14.4 cells from the middle are near."""


def test_a_clear_peak_is_found_and_learnt_from():
    assert find_peak(bumps((20, 15, 0.8)), SIZE, SETTINGS) == Peak((20, 15), found=True, sure=True, hard=False)


def test_without_a_peak_nothing_is_found():
    assert find_peak(bumps((20, 15, 0.24)), SIZE, SETTINGS) == Peak((20, 15), found=False, sure=False)
    assert find_peak(bumps((20, 15, 0.26)), SIZE, SETTINGS).found


def test_a_second_peak_is_a_hard_negative():
    peak = find_peak(bumps((18, 18, 0.8), (18, 30, 0.5)), SIZE, SETTINGS)
    assert peak == Peak((18, 18), hard=True)
    assert not find_peak(bumps((18, 18, 0.8), (18, 30, 0.39)), SIZE, SETTINGS).hard  # below half of the first
    assert not find_peak(bumps((18, 18, 0.4), (18, 30, 0.24)), SIZE, SETTINGS).hard  # below what counts as found
    assert not find_peak(bumps((18, 18, 0.8), (18, 24, 0.5)), SIZE, SETTINGS).hard  # a part of the target


def test_of_two_like_peaks_the_one_near_the_last_place_is_taken():
    assert find_peak(bumps((18, 34, 0.8), (18, 18, 0.7)), SIZE, SETTINGS) == Peak((18, 18), hard=True)
    assert find_peak(bumps((18, 18, 0.8), (18, 34, 0.7)), SIZE, SETTINGS) == Peak((18, 18), hard=True)


def test_two_like_peaks_both_near_or_both_far_teach_nothing():
    assert find_peak(bumps((18, 18, 0.8), (18, 30, 0.7)), SIZE, SETTINGS) == Peak((18, 18), sure=False)
    assert find_peak(bumps((1, 4, 0.8), (18, 34, 0.7)), SIZE, SETTINGS) == Peak((1, 4), sure=False)


# --- crops ---


def test_a_crop_repeats_the_border():
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    found = replicated_crop(frame_from_array(image), Region(-10.0, 25.0, 30.0), 30)
    rows, columns = np.clip(np.arange(25, 55), 0, 39), np.clip(np.arange(-10, 20), 0, 49)
    assert np.array_equal(found, image[rows[:, None], columns][..., ::-1])


def test_a_crop_beside_the_image_shows_its_nearest_pixels():
    image = np.zeros((40, 50, 3), np.uint8)
    image[:, -1] = (10, 20, 30)
    assert (replicated_crop(frame_from_array(image), Region(200.0, 5.0, 30.0), 30) == (30, 20, 10)).all()


@pytest.mark.parametrize("view", first_views())
def test_views_show_the_target_where_they_say(view):
    image = np.zeros((400, 400, 3), np.uint8)
    box = Box(180.0, 150.0, 40.0, 40.0)
    image[168:172, 198:202] = 255  # its centre
    region = Region.around(box, 5.0)
    crop = replicated_crop(frame_from_array(image), view.region(region, box.size), 288, view).max(axis=2)
    rows, columns = np.nonzero(crop >= 0.6 * crop.max())
    x, y = ((v.mean() + 0.5) / 288 for v in (columns, rows))
    assert (x, y) == pytest.approx(view.target(5.0), abs=2e-3)


def test_a_turned_view_is_turned_and_a_mirrored_one_mirrored():
    image = np.zeros((200, 200, 3), np.uint8)
    image[98:102, 148:152] = 255  # 50 px to the right of the middle
    region = Region(0.0, 0.0, 200.0)

    def place(view):
        rows, columns = np.nonzero(replicated_crop(frame_from_array(image), region, 200, view)[..., 0] > 100)
        return columns.mean() + 0.5 - 100, rows.mean() + 0.5 - 100

    assert place(View()) == pytest.approx((50.0, 0.0), abs=0.3)
    assert place(View(mirror=True)) == pytest.approx((-50.0, 0.0), abs=0.3)
    x, y = place(View(turn=30.0))
    assert (x, abs(y)) == pytest.approx((50 * math.cos(math.pi / 6), 25.0), abs=0.6)


# --- the loop ---


def test_the_branch_is_fitted_to_views_of_the_first_frame():
    made, _, frame = family(bumps((18, 18, 0.9)), bumps((18, 18, 1.0)))
    made.appearance(frame, LAST)
    ((features, places),) = made.branch.fitted_to
    assert features.shape == (len(first_views()), 4, 18, 18)
    assert features.dtype == places.dtype == np.float32
    assert places[0].tolist() == pytest.approx([0.5, 0.5, 0.2, 0.2])
    moved = places[2]  # by 0.6 of 40 px in a region of 200 px
    assert moved.tolist() == pytest.approx([0.5 - 0.12, 0.5, 0.2, 0.2])


def test_the_template_is_shown_with_the_targets_shape():
    made, scripted, frame = family(bumps((18, 18, 0.9)))
    kept = made.appearance(frame, Box(100.0, 80.0, 80.0, 20.0)).inputs
    (asked,) = scripted.per_template.seen
    # The same area as a square of 40 px, which has a fifth of the side.
    assert asked["template_target"].tolist() == [round(288 * 0.4), round(288 * 0.1)]
    assert asked["template_target"].dtype == np.int32
    assert kept["template_size"] is scripted.per_template.answer["size"]


def test_both_maps_are_mixed():
    """The offline map prefers another place than the online one, and its distances there make the box."""
    offline, online = bumps((18, 18, 1.0)), bumps((14, 22, 1.0))
    _, _, _, found = asked(offline, online)
    assert found.cells == ((14, 22),)
    expected = np.clip(0.3 * offline + 0.7 * online, 0.0, 1.0)
    np.testing.assert_allclose(found.score_maps[0], expected, atol=1e-6)
    assert found.score == pytest.approx(float(expected[14, 22]))
    x, y = 20 + 200 * 22.5 / 36, 200 * 14.5 / 36
    assert found.box.as_tuple() == pytest.approx((x - 20, y - 20, 40, 40), abs=1e-3)


def test_without_a_branch_the_offline_map_is_followed_alone():
    made, frame, appearance, found = asked(bumps((14, 22, 0.2), (18, 18, 0.1)))
    assert found.cells == ((14, 22),)
    assert found.box.cx == pytest.approx(20 + 200 * 22.5 / 36, abs=1e-3)
    assert made.renewed(appearance, frame, found, 10) is appearance
    assert len(made.template_engine.seen) == 1


def test_where_nothing_is_found_the_box_stays_and_nothing_is_remembered():
    made, frame, appearance, found = asked(bumps((14, 22, 0.2)), bumps((14, 22, 0.2)))
    assert found.box == LAST
    assert made.renewed(appearance, frame, found, 3).online.notes == ()


def test_samples_are_remembered_each_frame_and_learnt_every_ten():
    made, frame, appearance, found = asked(bumps((18, 18, 0.9)), bumps((18, 18, 1.0)))
    for number in range(1, 21):
        appearance = made.renewed(appearance, frame, found, number)
    notes = appearance.online.notes
    assert [i for i, note in enumerate(notes) if note == "updated"] == [10, 21]
    (_, place, rate), *_ = notes
    assert rate == 0.01
    assert place == pytest.approx((18.5 / 36, 18.5 / 36, 0.2, 0.2), abs=1e-5)
    assert set(appearance.inputs) == {"template_deep", "template_middle", "template_size"}


def test_a_hard_negative_is_learnt_at_once_and_twice_as_much():
    both = bumps((18, 18, 1.0), (18, 31, 0.7))
    made, frame, appearance, found = asked(both, both)
    assert [n if n == "updated" else n[2] for n in made.renewed(appearance, frame, found, 3).online.notes] == [
        0.02,
        "updated",
    ]


def test_a_wider_look_and_another_cell_teach_nothing():
    one = bumps((18, 18, 1.0))
    for more in ({"zoom": 2.0}, {"cell": (10, 12)}):
        made, frame, appearance, found = asked(one, one, **more)
        assert made.renewed(appearance, frame, found, 3).online.notes == ()
        assert found.cells == (more.get("cell", (18, 18)),)


def test_a_template_is_never_renewed():
    made, frame, appearance, found = asked(bumps((18, 18, 0.9)), bumps((18, 18, 1.0)))
    assert made.updated(appearance, frame, found.box, 0.5) is None


def test_an_answer_that_is_not_finite_is_refused():
    broken = bumps((18, 18, 0.9))
    broken[3, 3] = np.nan
    with pytest.raises(FloatingPointError, match="linear_map"):
        asked(broken)
    made, scripted, frame = family(bumps((18, 18, 0.9)))
    scripted.per_frame.answer["ltrb"][:] = np.inf
    with pytest.raises(FloatingPointError, match="ltrb"):
        made.proposal(made.look(made.appearance(frame, LAST), frame, LAST), scripted.per_frame.answer)


def test_a_box_is_clipped_to_the_image():
    made, scripted, frame = family(bumps((18, 0, 0.9)))
    last = Box(0.0, 100.0, 40.0, 40.0)
    look = made.look(made.appearance(frame, last), frame, last)
    assert made.proposal(look, scripted.per_frame.answer).box.as_tuple()[0::2] == (0.0, 10.0)


def test_without_a_template_engine_it_is_refused():
    with pytest.raises(EngineError, match=r"ibfp-r18: the family ibfp cannot be tracked"):
        TrackingNetwork(VARIANT, Engines(engines().per_frame))


def test_random_weights_follow_something_to_the_end_and_learn():
    """Nonsense, but in the image, finite, and without an error; with a narrow network, as the published one is slow."""
    torch = pytest.importorskip("torch", reason="the networks need torch")
    from ros2_tracker.engines.torch import torch_engines
    from ros2_tracker.models.build import build_network

    torch.set_num_threads(1)
    torch.manual_seed(7)
    variant = replace(VARIANT, network={"width": 8, "head_width": 16}, online={"fit_steps": 2})
    network = TrackingNetwork(variant, torch_engines(build_network(variant), variant, "weights of a test"))
    clip = SyntheticClip(14, fps=6.0)
    frame = ArrayFrame(clip.render(0).image)
    appearance = network.family.appearance(frame, clip.render(0).box)
    look = network.family.look(appearance, frame, clip.render(0).box)
    (answer,) = network.infer([look])
    found = network.family.proposal(look, answer)
    later = network.family.renewed(appearance, frame, found, 10)
    assert later.online.response(answer["features"]).shape == (36, 36)
    assert not np.array_equal(
        later.online.response(answer["features"]), appearance.online.response(answer["features"])
    )

    tracker = Tracker(network, PUBLISHED_LOOP)
    for i, image in enumerate(clip):
        if i == 0:
            tracker.init(image, clip.render(0).box.as_tuple())
            continue
        result = tracker.update(image)
        x, y, w, h = result.candidate
        height, width = image.shape[:2]
        assert 0.0 <= x + w / 2 <= width
        assert 0.0 <= y + h / 2 <= height
        assert 0.0 <= result.reliability <= 1.0
