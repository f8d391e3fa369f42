"""Multi-Stage's loop: with a network of a few lines, with random weights, and beside the shipped network."""

from __future__ import annotations

import weakref
from dataclasses import astuple, replace
from itertools import islice

import numpy as np
import pytest

from ros2_tracker.engines.base import EngineError, Engines
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.models.variant import WEIGHTS_DIR, load_variant
from ros2_tracker.tracking.family import Drawn
from ros2_tracker.tracking.frame import ArrayFrame, frame_from_array
from ros2_tracker.tracking.geometry import Box, iou
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.result import TrackState
from ros2_tracker.tracking.settings import PUBLISHED_LOOP, LearningSettings, TargetSettings
from ros2_tracker.tracking.target import Target
from ros2_tracker.tracking.tracker import Tracker
from ros2_tracker.tracking.views import View

TINY = load_variant("multistage-tiny")


class Scripted:
    """Both engines, answering what they are told and noting what they are asked."""

    description, batch = "scripted", None

    def __init__(self, inputs, outputs, answer):
        self.inputs, self.outputs, self.answer, self.seen = inputs, outputs, answer, []

    def run(self, targets):
        self.seen += targets
        return [dict(self.answer) for _ in targets]


@pytest.fixture
def scripted():
    score_map = np.full((16, 16), 0.1, np.float32)
    score_map[0, 15] = 0.9  # so far out that the graph prefers the next
    score_map[9, 6] = 0.8
    answer = {"box": np.array([0.4, 0.6, 0.2, 0.3], np.float32), "score": np.float32(0.8), "score_map": score_map}
    answer["cell"] = np.array([9, 6], np.int32)
    answer["features"] = np.random.default_rng(0).normal(0.0, 192**-0.5, (256, 192)).astype(np.float32)
    per_frame = Scripted(
        {"template_tokens": (None, 64, 192), "search": (None, 256, 256, 3), "learnt": (None, 194)},
        {"box": (None, 4), "score": (None,), "score_map": (None, 16, 16), "cell": (None, 2),
         "features": (None, 256, 192)},
        answer,
    )
    tokens = {"tokens": np.arange(64 * 192, dtype=np.float32).reshape(64, 192)}
    per_template = Scripted({"template": (None, 128, 128, 3)}, {"tokens": (None, 64, 192)}, tokens)
    return Engines(per_frame, per_template)


def test_the_way_back_from_the_graph(scripted):
    family = TrackingNetwork(TINY, scripted).family
    frame = ArrayFrame(np.random.default_rng(1).integers(0, 256, (240, 320, 3), np.uint8))
    last = Box(100.0, 80.0, 40.0, 40.0)
    look = family.look(family.appearance(frame, last), frame, last)
    assert look.inputs["search"].shape == (256, 256, 3)
    found = family.proposal(look, scripted.per_frame.answer)
    # The region is 160 px at (40, 20); the size is 0.4 of the new one and 0.6 of the old one.
    w, h = 0.4 * 0.2 * 160 + 0.6 * 40, 0.4 * 0.3 * 160 + 0.6 * 40
    assert found.box.as_tuple() == pytest.approx((40 + 64 - w / 2, 20 + 96 - h / 2, w, h), abs=1e-4)
    assert found.score == pytest.approx(0.8)
    assert found.cells == ((9, 6),)
    assert found.score_maps.shape == (1, 16, 16)


def test_boxes_are_made_like_the_one_that_was_drawn(scripted):
    family = TrackingNetwork(TINY, scripted).family
    frame = ArrayFrame(np.zeros((240, 320, 3), np.uint8))
    last = Box.from_center(120.0, 100.0, 40.0, 40.0)
    appearance = replace(family.appearance(frame, last), drawn=Drawn(1.2, 0.8))
    found = family.proposal(family.look(appearance, frame, last), scripted.per_frame.answer).box
    assert (found.w, found.h) == pytest.approx((0.4 * 1.2 * 0.2 * 160 + 24, 0.4 * 0.8 * 0.3 * 160 + 24), abs=1e-4)
    assert (found.cx, found.cy) == pytest.approx((104.0, 116.0), abs=1e-4)
    assert family.updated(appearance, frame, last, 0.5).drawn == Drawn(1.2, 0.8)


def test_a_centre_outside_the_image_is_brought_back(scripted):
    family = TrackingNetwork(TINY, scripted).family
    frame = ArrayFrame(np.zeros((60, 80, 3), np.uint8))
    last = Box(0.0, 0.0, 20.0, 20.0)
    look = family.look(family.appearance(frame, last), frame, last)
    scripted.per_frame.answer["box"] = np.array([0.1, 0.5, 0.2, 0.2], np.float32)
    found = family.proposal(look, scripted.per_frame.answer)
    assert (found.box.cx, found.box.cy) == pytest.approx((0.0, 10.0), abs=1e-4)


@pytest.mark.parametrize("name", ["box", "score"])
def test_an_answer_that_is_not_finite_is_refused(scripted, name):
    family = TrackingNetwork(TINY, scripted).family
    frame = ArrayFrame(np.zeros((60, 80, 3), np.uint8))
    look = family.look(family.appearance(frame, Box(5, 5, 20, 20)), frame, Box(5, 5, 20, 20))
    scripted.per_frame.answer[name] = scripted.per_frame.answer[name] * np.float32(np.nan)
    with pytest.raises(FloatingPointError, match=f"{name}.*nan"):
        family.proposal(look, scripted.per_frame.answer)


def test_the_template_is_computed_once(scripted, clip):
    tracker = Tracker(TrackingNetwork(TINY, scripted))
    tracker.init(clip.render(0).image, clip.render(0).box.as_tuple())
    for i in range(1, 4):
        tracker.update(clip.render(i).image)
    assert len(scripted.per_template.seen) == 1
    assert list(scripted.per_template.seen[0]) == ["template"]
    kept = [inputs["template_tokens"] for inputs in scripted.per_frame.seen]
    assert len(kept) == 5 + 3  # the first frame is looked at, too, from five places
    assert all(tokens is kept[0] for tokens in kept)  # so that a GPU engine does not upload it again


def test_what_is_learnt_of_the_first_frame_is_told_to_the_network(scripted, clip):
    sharp = np.full((16, 16), 0.001, np.float32)
    sharp[9, 6] = 0.8
    scripted.per_frame.answer["score_map"] = sharp
    tracker = Tracker(TrackingNetwork(TINY, scripted))
    tracker.init(clip.render(0).image, clip.render(0).box.as_tuple())
    for i in range(1, 6):
        tracker.update(clip.render(i).image)
    seen = [inputs["learnt"] for inputs in scripted.per_frame.seen]
    first, told = seen[:5], seen[5:]
    assert not np.any(first), "nothing is known yet"
    assert told[0].shape == (194,)
    assert told[0][-1] == 0.5
    assert told[0][:-2].any()
    assert told[1] is told[0], "between two lessons a GPU has nothing to upload"
    assert told[-1] is not told[0], "0.1 s later it has learnt more"


def test_a_target_that_is_partly_beyond_the_border_says_nothing_of_how_it_was_drawn(scripted, clip):
    """The network draws the part that can be seen."""
    image = frame_from_array(clip.render(0).image)

    def drawn(x: float) -> Drawn:
        # The scripted answer is 0.2 by 0.3 of the region, whose side is four times the box's.
        scripted.per_frame.answer["box"] = np.array([0.5, 0.5, 0.2, 0.3], np.float32)
        target = Target(TrackingNetwork(TINY, scripted), TargetSettings(), image, (x, 40.0, 40.0, 40.0), 0.0)
        return target._memory.templates.first.drawn

    assert drawn(-15.0) == Drawn()
    assert drawn(40.0) != Drawn()


def test_learning_can_be_switched_off_while_a_target_is_followed(scripted, clip):
    tracker = Tracker(TrackingNetwork(TINY, scripted))
    tracker.init(clip.render(0).image, clip.render(0).box.as_tuple())
    assert tracker._target is not None
    tracker._target.settings = PUBLISHED_LOOP
    tracker.update(clip.render(1).image)
    assert not scripted.per_frame.seen[-1]["learnt"].any()
    tracker._target.settings = TargetSettings()
    tracker.update(clip.render(2).image)
    assert not scripted.per_frame.seen[-1]["learnt"].any(), "what was learnt before is stale"


def test_the_authors_loop_learns_nothing_and_looks_at_the_first_frame_once(scripted, clip):
    tracker = Tracker(TrackingNetwork(TINY, scripted), PUBLISHED_LOOP)
    tracker.init(clip.render(0).image, clip.render(0).box.as_tuple())
    assert scripted.per_frame.seen == []
    tracker.update(clip.render(1).image)
    assert not scripted.per_frame.seen[0]["learnt"].any()


def test_nothing_is_learnt_from_a_target_that_is_gone(scripted, clip):
    settings = TargetSettings(learning=LearningSettings(above=0.0))
    tracker = Tracker(TrackingNetwork(TINY, scripted), settings)
    tracker.init(clip.render(0).image, clip.render(0).box.as_tuple())
    tracker.update(clip.render(1).image)
    flat = np.full((16, 16), 0.05, np.float32)
    scripted.per_frame.answer.update(score=np.float32(0.05), score_map=flat)
    results = [tracker.update(clip.render(i).image) for i in range(2, 40)]
    gone = next(i for i, result in enumerate(results) if result.state is TrackState.LOST)
    told = [inputs["learnt"] for inputs in scripted.per_frame.seen if inputs["learnt"].any()]
    assert len({id(each) for each in told[: gone + 1]}) > 1, "it learns until then"
    # The search may ask several times a frame.
    assert len({id(each) for each in told[gone + 2 :]}) == 1


def test_a_new_weight_holds_at_once(scripted, clip):
    tracker = Tracker(TrackingNetwork(TINY, scripted))
    tracker.init(clip.render(0).image, clip.render(0).box.as_tuple())
    assert tracker._target is not None
    tracker._target.settings = TargetSettings(learning=LearningSettings(weight=0.25, above=1.0))
    tracker.update(clip.render(1).image)
    assert scripted.per_frame.seen[-1]["learnt"][-1] == 0.25


def test_without_a_template_engine_it_is_refused(scripted):
    with pytest.raises(EngineError, match=r"multistage-tiny: the family multistage cannot be tracked"):
        TrackingNetwork(TINY, Engines(scripted.per_frame))


def engines_of(name, weights=None):
    torch = pytest.importorskip("torch", reason="the networks need torch")
    from ros2_tracker.engines.torch import torch_engines
    from ros2_tracker.models.build import build_network

    torch.set_num_threads(1)
    torch.manual_seed(7)
    variant = load_variant(name)
    network = build_network(variant)
    if weights:
        network.load_state_dict(weights)
    return TrackingNetwork(variant, torch_engines(network, variant, "weights of a test"))


def test_random_weights_follow_something_to_the_end():
    """Nonsense, but in the image, finite, and without an error."""
    tracker = Tracker(engines_of("multistage-tiny"))
    clip = SyntheticClip(45, fps=6.0)
    results = []
    for i, image in enumerate(clip):
        if i == 0:
            tracker.init(image, clip.render(0).box.as_tuple())
            continue
        results.append(tracker.update(image))
    height, width = clip.render(0).image.shape[:2]
    assert len(results) == 44
    for result in results:
        x, y, w, h = result.candidate
        assert -1e-6 <= x + w / 2 <= width + 1e-6
        assert -1e-6 <= y + h / 2 <= height + 1e-6
        assert 2.0 <= w <= 2.0 * width
        assert 0.0 <= result.reliability <= 1.0
        assert (result.box is None) == (result.state is TrackState.LOST)


def test_with_the_weights_of_the_stand_in_it_follows_as_the_stand_in():
    pytest.importorskip("onnx", reason="the graph is read with onnx")
    pytest.importorskip("torch", reason="the networks need torch")
    from ros2_tracker.models.stand_in import stand_in_weights

    # Their templates mix differently, tokens here and pixels there.
    ours = Tracker(engines_of("multistage-tiny", stand_in_weights(WEIGHTS_DIR / "onestream-192.onnx")), PUBLISHED_LOOP)
    theirs = Tracker.load("onestream-192", precision="fp32", settings=PUBLISHED_LOOP)
    clip = SyntheticClip(300)
    overlaps, against_truth = [], []
    for i, frame in enumerate(islice(clip.frames(), 40)):
        if i == 0:
            for tracker in (ours, theirs):
                tracker.init(frame.image, frame.box.as_tuple())
            continue
        mine, other = (Box(*tracker.update(frame.image).candidate) for tracker in (ours, theirs))
        overlaps.append(iou(mine, other))
        against_truth.append(iou(mine, frame.box))
    # Crops begin at whole pixels, so a rounding in a network can move one by a pixel.
    assert min(overlaps) > 0.95
    assert sum(against_truth) / len(against_truth) > 0.6


def test_a_crop_beyond_the_image_has_its_mean_colour(scripted):
    family = TrackingNetwork(TINY, scripted).family
    image = np.zeros((100, 100, 3), np.uint8)
    image[..., 2] = 200  # red in BGR
    frame = frame_from_array(image)
    family.appearance(frame, Box(-10, -10, 40, 40))
    assert scripted.per_template.seen[0]["template"][0, 0].tolist() == [200, 0, 0]


def test_a_lesson_may_be_taken_when_the_answer_is_out_and_is_the_same(scripted, clip):
    def told(settles: bool) -> list[np.ndarray]:
        scripted.per_frame.seen.clear()
        target = Target(TrackingNetwork(TINY, scripted), TargetSettings(), frame(0), clip.render(0).box.as_tuple(), 0.0)
        for i in range(1, 9):
            target.update(frame(i), i / 30)
            if settles:
                target.settle()
                target.settle()  # there is nothing more to do
        return [inputs["learnt"] for inputs in scripted.per_frame.seen]

    def frame(index: int) -> ArrayFrame:
        return frame_from_array(clip.render(index).image)

    sharp = np.full((16, 16), 0.001, np.float32)
    sharp[9, 6] = 0.8
    scripted.per_frame.answer["score_map"] = sharp
    later, at_once = told(settles=False), told(settles=True)
    assert len({value.tobytes() for value in later}) > 2, "something was learnt"
    assert all(np.array_equal(a, b) for a, b in zip(later, at_once, strict=True))


def test_a_camera_may_write_its_next_image_over_the_last_one(scripted, clip):
    """What is made of an answer after it is out must not read the frame, which may be another one by then."""

    def told(reused: bool) -> list[tuple]:
        tracker, buffer = Tracker(TrackingNetwork(TINY, scripted)), clip.render(0).image.copy()
        tracker.init(buffer, clip.render(0).box.as_tuple())
        results = []
        for i in range(1, 9):
            if reused:
                buffer[:] = clip.render(i).image
            results.append(tracker.update(buffer if reused else clip.render(i).image))
        buffer[:] = 0
        return [(result.candidate, result.reliability, *astuple(result.signals)) for result in results]

    assert told(reused=True) == told(reused=False)


def test_results_that_are_kept_do_not_keep_the_search_crop(scripted, clip):
    target = Target(
        TrackingNetwork(TINY, scripted), TargetSettings(), frame_of(clip, 0), clip.render(0).box.as_tuple(), 0.0
    )
    crops, results = [], []
    for i in range(1, 6):
        results.append(target.update(frame_of(clip, i), i / 30))
        crops.append(weakref.ref(scripted.per_frame.seen.pop()["search"]))
    target.settle()
    # The last one may be a view to remember.
    assert [crop() for crop in crops[1:-1]] == [None] * (len(crops) - 2)
    assert all(0.0 <= result.signals.similarity_first <= 1.0 for result in results)


@pytest.mark.parametrize("asked", [True, False])
def test_features_that_are_not_finite_cost_a_lesson_and_nothing_else(scripted, clip, asked: bool):
    sharp = np.full((16, 16), 0.001, np.float32)
    sharp[9, 6] = 0.8
    scripted.per_frame.answer["score_map"] = sharp
    target = Target(
        TrackingNetwork(TINY, scripted), TargetSettings(), frame_of(clip, 0), clip.render(0).box.as_tuple(), 0.0
    )
    before = scripted.per_frame.seen[-1]["learnt"]
    good = scripted.per_frame.answer["features"]
    scripted.per_frame.answer["features"] = np.full_like(good, np.nan)
    assert target.update(frame_of(clip, 3), 0.1).box is not None
    if asked:
        with pytest.raises(FloatingPointError, match="features"):
            target.settle()
        target.settle()
    scripted.per_frame.answer["features"] = good
    for i in range(4, 12):
        target.update(frame_of(clip, i), i / 30)
    after = scripted.per_frame.seen[-1]["learnt"]
    assert all(np.isfinite(view.own) for view in target._memory.remembered if view is not None)
    assert np.isfinite(after).all()
    assert not np.array_equal(after, before)


def test_what_fails_after_an_answer_is_out_fails_once(scripted, clip, monkeypatch: pytest.MonkeyPatch):
    target = Target(
        TrackingNetwork(TINY, scripted), TargetSettings(), frame_of(clip, 0), clip.render(0).box.as_tuple(), 0.0
    )
    target.update(frame_of(clip, 1), 1 / 30)
    with monkeypatch.context() as broken:
        broken.setattr(View, "keep", lambda view: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            target.settle()
    assert target.update(frame_of(clip, 2), 2 / 30).box is not None


def frame_of(clip: SyntheticClip, index: int) -> ArrayFrame:
    return frame_from_array(clip.render(index).image)
