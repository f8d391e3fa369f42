"""Made disappearances: what is shown, what counts as seen, and that everything follows from the seed."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from ros2_tracker.evaluation.datasets import AnnotatedSequence, load_dataset
from ros2_tracker.evaluation.disappearance import (
    AFTER_S,
    HIDDEN_S,
    LEAD_S,
    Kind,
    MadeSequence,
    disappearances,
    forth_and_back,
    make_disappearances,
    runs_of,
)
from ros2_tracker.evaluation.disappearance_effects import Filled, LightsOff, Occluder, OtherScene, Region
from ros2_tracker.evaluation.synthetic import SyntheticClip

FRAMES, FPS = 40, 30.0


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[AnnotatedSequence]:
    folder = tmp_path_factory.mktemp("data")
    for number, name in enumerate(("first", "second", "third")):
        # The occlusion and the look-alike come later than these frames.
        clip = SyntheticClip(600, 200, 150, seed=number)
        (folder / name / "img").mkdir(parents=True)
        for i in range(FRAMES):
            cv2.imwrite(str(folder / name / "img" / f"{i + 1:04d}.png"), clip.render(i).image)
        np.savetxt(folder / name / "groundtruth_rect.txt", clip.ground_truth[:FRAMES], delimiter=",", fmt="%.3f")
    return load_dataset(folder).sequences


@pytest.fixture(scope="module")
def made(sources: list[AnnotatedSequence]) -> list[MadeSequence]:
    sequences, missing = make_disappearances(sources, seed=3, per_sequence=12)
    assert missing == []
    return sequences


def of_kind(made: list[MadeSequence], kind: Kind) -> list[MadeSequence]:
    return [sequence for sequence in made if sequence.events[0].kind == kind.value]


def inside(image: NDArray[np.uint8], box: NDArray[np.float64]) -> NDArray[np.uint8]:
    x0, y0 = np.maximum(np.ceil(box[:2]), 0).astype(int)
    x1, y1 = np.floor(box[:2] + box[2:]).astype(int)
    return image[y0:y1, x0:x1]


def true_box(sequence: MadeSequence, index: int) -> NDArray[np.float64]:
    """Where the target is in the source's frame, hidden or not."""
    return sequence.source.truth[sequence.order[index]]


def changed(sequence: MadeSequence, index: int) -> float:
    """Share of the target's pixels that are not as they were."""
    box = true_box(sequence, index)
    difference = inside(sequence.image(index), box) != inside(sequence.plain(index), box)
    return float(difference.any(axis=2).mean())


def test_as_many_of_each_kind(made: list[MadeSequence], sources: list[AnnotatedSequence]):
    assert len({sequence.name for sequence in made}) == len(made) == 12 * len(sources)
    for kind in Kind:
        assert len(of_kind(made, kind)) == 2 * len(sources)


def test_one_event_between_a_lead_and_a_rest(made: list[MadeSequence]):
    for sequence in made:
        (event,) = sequence.events
        assert runs_of(sequence.absent) == [(event.first, event.last)]
        assert disappearances(sequence, FPS) == [event]
        unknown = np.isnan(sequence.truth).any(axis=1) & ~sequence.absent
        near = np.abs(np.arange(len(sequence)) - np.clip(np.arange(len(sequence)), event.first, event.last)) <= 15
        assert not (unknown & ~near).any(), "frames that are not scored lie beside the event"
        assert sequence.scorable[0]
        assert LEAD_S[0] - 0.5 <= event.first / FPS <= LEAD_S[1] + 0.1
        assert HIDDEN_S[0] - 0.1 <= (event.last - event.first + 1) / FPS <= HIDDEN_S[1] + 1.0
        assert AFTER_S - 0.5 <= (len(sequence) - 1 - event.last) / FPS <= AFTER_S + 0.1


def test_pictures_keep_size_and_type(made: list[MadeSequence]):
    for sequence in made[:12]:
        event = sequence.events[0]
        for index in (0, event.first - 3, event.first - 1, event.first, event.last, event.last + 2, len(sequence) - 1):
            image = sequence.image(index)
            assert image.dtype == np.uint8
            assert image.shape == sequence.source.image(0).shape


def test_everything_follows_from_seed_and_name(sources: list[AnnotatedSequence], made: list[MadeSequence]):
    again, _ = make_disappearances(sources, seed=3, per_sequence=12)
    other, _ = make_disappearances(sources, seed=4, per_sequence=12)
    assert [s.digest() for s in again] == [s.digest() for s in made]
    assert not {s.digest() for s in other} & {s.digest() for s in made}
    for one, same in zip(made[:6], again[:6], strict=True):
        middle = (one.events[0].first + one.events[0].last) // 2
        np.testing.assert_array_equal(one.image(middle), same.image(middle))
        np.testing.assert_array_equal(one.truth, same.truth)
    # Fewer of them are the first of them.
    fewer, _ = make_disappearances(sources, seed=3, per_sequence=2)
    assert [s.digest() for s in fewer if s.source.name == "second"] == [s.digest() for s in made[12:14]]


def test_can_be_handed_to_another_process(made: list[MadeSequence]):
    for sequence in made[:6]:
        copy = pickle.loads(pickle.dumps(sequence))
        assert copy.digest() == sequence.digest()
        index = sequence.events[0].first
        np.testing.assert_array_equal(copy.image(index), sequence.image(index))


def test_an_occluder_covers_what_counts_as_absent(made: list[MadeSequence]):
    for sequence in of_kind(made, Kind.OCCLUDER):
        assert isinstance(sequence.effect, Occluder)
        assert sequence.donor is not None
        assert sequence.donor.name != sequence.source.name
        event = sequence.events[0]
        steps = np.array(sequence.effect.corners)
        assert (np.ptp(steps, axis=0) > 5).any(), "it moves"
        for index in range(event.first - 12, event.last + 12):
            share = changed(sequence, index)
            if sequence.absent[index]:
                assert share > 0.85, (sequence.name, index)
            elif sequence.scorable[index]:
                assert share < 0.55, (sequence.name, index)
                np.testing.assert_array_equal(sequence.truth[index], true_box(sequence, index))
        assert changed(sequence, 0) == changed(sequence, len(sequence) - 1) == 0.0
        assert min(changed(sequence, event.first + 3), changed(sequence, event.last - 3)) > 0.98


def test_frames_without_the_target(made: list[MadeSequence]):
    kinds = set()
    for sequence in of_kind(made, Kind.TARGET_FREE):
        event = sequence.events[0]
        kinds.add(type(sequence.effect))
        for index in (event.first, event.last):
            assert changed(sequence, index) > 0.8
        if isinstance(sequence.effect, Filled):
            corner = (slice(None, 5), slice(None, 5))
            np.testing.assert_array_equal(sequence.image(event.first)[corner], sequence.plain(event.first)[corner])
        else:
            assert sequence.donor is not None
    assert kinds == {Filled, OtherScene}


def test_a_filled_place_looks_like_its_surroundings():
    ramp = np.tile(np.linspace(40, 200, 120), (90, 1))
    image = np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)
    with_target = image.copy()
    with_target[30:50, 40:60] = (0, 0, 255)
    effect = Filled(0, (Region(38, 28, 62, 52),), (1.0,), (30, 0))
    shown = effect.picture(0, lambda index: with_target)
    assert np.abs(shown.astype(int) - image).max() <= 3


def test_a_camera_that_jumps_brings_the_target_back_elsewhere(made: list[MadeSequence]):
    distances = []
    for sequence in of_kind(made, Kind.CAMERA_JUMP):
        event = sequence.events[0]
        for index in (0, event.first - 1, event.last + 1, len(sequence) - 1):
            box = sequence.truth[index]
            shown = inside(sequence.image(index), box)
            before = inside(sequence.plain(index), true_box(sequence, index))
            before = cv2.resize(before, (shown.shape[1], shown.shape[0]), interpolation=cv2.INTER_LINEAR)
            assert np.corrcoef(before.ravel(), shown.ravel())[0, 1] > 0.9, (sequence.name, index)
        centers = sequence.truth[[event.first - 1, event.last + 1], :2]
        distances.append(np.hypot(*(centers[1] - centers[0])))
    assert min(distances) > 10.0
    assert np.mean(distances) > 30.0


def test_black_frozen_and_dark(made: list[MadeSequence]):
    for sequence in of_kind(made, Kind.BLACK):
        event = sequence.events[0]
        assert all(not sequence.image(i).any() for i in (event.first, event.last))
        assert all(sequence.image(i).any() for i in (event.first - 1, event.last + 1))
    for sequence in of_kind(made, Kind.FROZEN):
        event = sequence.events[0]
        for index in (event.first, event.last):
            np.testing.assert_array_equal(sequence.image(index), sequence.image(event.first - 1))
            assert (sequence.image(index) != sequence.plain(index)).any()
    for sequence in of_kind(made, Kind.LIGHTS_OFF):
        assert isinstance(sequence.effect, LightsOff)
        event = sequence.events[0]
        dark = sequence.image(event.first).astype(float)
        assert abs(np.corrcoef(dark.ravel(), sequence.plain(event.first).ravel())[0, 1]) < 0.02
        assert dark.std() > 1.0, "a sensor's noise, not zeros"
        assert (sequence.image(event.first) != sequence.image(event.first + 1)).any()
        brightness = [sequence.image(i).mean() for i in range(event.first - 10, event.first + 1)]
        assert brightness == sorted(brightness, reverse=True) or np.diff(brightness).max() < 2.0


def test_one_sequence_alone_has_nothing_to_be_occluded_by(sources: list[AnnotatedSequence]):
    made, missing = make_disappearances(sources[:1])
    assert [entry.name for entry in missing] == ["first+occluder"]
    assert "no other sequence" in missing[0].reason
    assert len(made) == 5


def test_natural_disappearances(sources: list[AnnotatedSequence]):
    one = sources[0]
    absent = np.zeros(len(one), bool)
    absent[:2] = absent[5:12] = absent[20:23] = True
    sequence = AnnotatedSequence(one.name, one.files, one.truth, absent)
    events = disappearances(sequence, fps=5.0)
    assert [(event.kind, event.first, event.last) for event in events] == [("natural", 5, 11)]


def test_forth_and_back():
    assert forth_and_back(4, 0, 9).tolist() == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert forth_and_back(4, 5, 3).tolist() == [1, 0, 1]
    assert forth_and_back(1, 1, 3).tolist() == [0, 0, 0]
