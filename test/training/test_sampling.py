"""Sampling: a pure function of seed and number, and the shares that the settings say."""

from __future__ import annotations

import numpy as np
import pytest

from ros2_tracker.training.counter import Stream, integer, uniform
from ros2_tracker.training.sampling import Sampler, SamplingSettings

MANY = np.arange(20_000)


@pytest.fixture
def every_track(library):
    return np.arange(len(library.track_start))


def test_numbers_depend_on_seed_stream_sample_and_attempt_only():
    whole = uniform(3, Stream.PICK, np.arange(100), 4)
    np.testing.assert_array_equal(uniform(3, Stream.PICK, [17, 99], 4), whole[[17, 99]])
    np.testing.assert_array_equal(uniform(3, Stream.PICK, [17], 9)[:, :4], whole[[17]])
    for other in (
        uniform(4, Stream.PICK, np.arange(100), 4),
        uniform(3, Stream.AUGMENT, np.arange(100), 4),
        uniform(3, Stream.PICK, np.arange(100), 4, attempt=1),
        uniform(3, Stream.PICK, np.arange(100, 200), 4),
    ):
        assert not np.isclose(whole, other).any(axis=1).any()
    assert integer(3, Stream.STEP, 5) != integer(3, Stream.STEP, 6)
    assert 0 <= integer(3, Stream.STEP, 5) < 2**63


def test_numbers_are_uniform_and_uncorrelated():
    u = uniform(0, Stream.PICK, MANY, 4)
    assert u.min() >= 0.0
    assert u.max() < 1.0
    np.testing.assert_allclose(u.mean(axis=0), 0.5, atol=0.01)
    np.testing.assert_allclose(u.var(axis=0), 1 / 12, atol=0.003)
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.03
    assert abs(np.corrcoef(u[1:, 0], u[:-1, 0])[0, 1]) < 0.03


def test_a_sample_is_the_same_in_any_batch(library, every_track):
    sampler = Sampler(library, every_track, SamplingSettings(), seed=5)
    whole = sampler.pick(np.arange(64))
    part = Sampler(library, every_track, SamplingSettings(), seed=5).pick(np.arange(40, 50))
    for name in ("template", "recent", "search", "negative"):
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[40:50])
    assert (sampler.pick(np.arange(64), attempt=1).template != whole.template).any()


def test_pairs_are_of_one_track_within_the_gap_and_in_order(library, every_track):
    picks = Sampler(library, every_track, SamplingSettings(max_gap=4, negatives=0.0), seed=1).pick(MANY)
    assert not picks.negative.any()
    track = library.track[picks.template]
    np.testing.assert_array_equal(library.track[picks.search], track)
    np.testing.assert_array_equal(library.track[picks.recent], track)
    gap = np.abs(picks.search - picks.template)
    assert gap.max() == 4
    low, high = np.minimum(picks.template, picks.search), np.maximum(picks.template, picks.search)
    assert ((low <= picks.recent) & (picks.recent <= high)).all()
    still = library.track_count[track] == 1
    assert still.any()
    np.testing.assert_array_equal(picks.template[still], picks.search[still])


def test_negatives_show_another_track_in_the_shares_asked_for(library, every_track):
    settings = SamplingSettings(negatives=0.3, same_source=0.5)
    picks = Sampler(library, every_track, settings, seed=1).pick(MANY)
    assert picks.negative.mean() == pytest.approx(0.3, abs=0.02)
    target, other = library.track[picks.template], library.track[picks.search]
    np.testing.assert_array_equal(target != other, picks.negative)
    n = picks.negative
    alike = library.track_source[target[n]] == library.track_source[other[n]]
    # Half of them must be; of the others some are by chance.
    assert 0.5 < alike.mean() < 0.95
    only = Sampler(library, every_track, SamplingSettings(negatives=1.0, same_source=1.0), seed=1).pick(MANY)
    assert only.negative.all()
    target, other = library.track[only.template], library.track[only.search]
    np.testing.assert_array_equal(library.track_source[target], library.track_source[other])


def test_no_negative_where_there_is_one_track(library):
    picks = Sampler(library, np.array([9]), SamplingSettings(negatives=1.0), seed=1).pick(np.arange(50))
    assert not picks.negative.any()


def test_tracks_are_taken_by_their_number_of_crops(library, every_track):
    def shares(power, weights=None):
        settings = SamplingSettings(track_power=power)
        picks = Sampler(library, every_track, settings, 2, weights).pick(MANY)
        return np.bincount(library.track[picks.template], minlength=len(every_track)) / len(MANY)

    np.testing.assert_allclose(shares(1.0), library.track_count / len(library), atol=0.01)
    np.testing.assert_allclose(shares(0.0), 1 / len(every_track), atol=0.01)
    assert shares(1.0, {"stills": 0.0})[: (library.track_source == 0).sum()].sum() == 0.0


def test_only_the_given_tracks(library):
    picks = Sampler(library, np.array([0, 9]), SamplingSettings(negatives=0.5), seed=1).pick(np.arange(500))
    assert set(library.track[picks.template]) | set(library.track[picks.search]) == {0, 9}


def test_what_cannot_be_sampled_is_refused(library, every_track):
    with pytest.raises(ValueError, match="no track"):
        Sampler(library, every_track[:0], SamplingSettings(), 0)
    with pytest.raises(ValueError, match="no source 'x'"):
        Sampler(library, every_track, SamplingSettings(), 0, {"x": 1.0})
    with pytest.raises(ValueError, match="no track has a chance"):
        Sampler(library, every_track, SamplingSettings(), 0, {"stills": 0.0, "video": 0.0})
    for wrong in ({"negatives": 1.5}, {"max_gap": -1}, {"same_source": -0.1}, {"track_power": 3.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SamplingSettings(**wrong)
