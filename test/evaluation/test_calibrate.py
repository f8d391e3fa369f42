"""The fit of reliability: what it finds in frames whose truth is known, and how honest its figures are."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("scipy")

from scripted_tracking import NAN_ROW, numbered_sequence

from ros2_tracker.cli import main
from ros2_tracker.evaluation.calibrate import (
    CalibrationError,
    Samples,
    calibrate,
    fitted,
    fold_of_clips,
    part,
    probabilities,
    quality,
    samples_of,
    selected,
)
from ros2_tracker.evaluation.results import FrameEvent, FrameRecord
from ros2_tracker.evaluation.run import Run
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.tracking.reliability import DIRECTIONS, ReliabilityModel
from ros2_tracker.tracking.result import ReliabilitySignals, TrackState


def samples(clips: int = 8, frames: int = 300, seed: int = 0) -> Samples:
    """Truth follows the margin and, less, the entropy; all other signals are noise."""
    rng = np.random.default_rng(seed)
    count = clips * frames
    signals = {name: rng.uniform(0.1, 0.9, count) for name in DIRECTIONS}
    logit = 8.0 * (signals["margin"] - 0.4) - 4.0 * (signals["entropy"] - 0.5)
    good = (rng.random(count) < 1.0 / (1.0 + np.exp(-logit))).astype(np.float64)
    clip = np.repeat(np.arange(clips), frames)
    weight = np.full(count, 1.0 / count)
    names = tuple(f"clip{i}" for i in range(clips))
    return Samples(signals, signals["peak"], good, clip, np.zeros(count, bool), weight, names)


def test_fit_finds_the_weights_that_made_the_data():
    model = fitted(samples(frames=2000), ["margin", "entropy"])
    weights = {term.signal: term.weight for term in model.terms}
    assert weights["margin"] == pytest.approx(8.0, rel=0.15)
    assert weights["entropy"] == pytest.approx(-4.0, rel=0.2)
    assert model.calibrated


def test_weights_never_have_the_wrong_sign():
    upside_down = samples()
    upside_down = replace(upside_down, good=1.0 - upside_down.good)
    model = fitted(upside_down, list(DIRECTIONS))
    assert all(term.weight * DIRECTIONS[term.signal] >= 0.0 for term in model.terms)
    assert {t.signal: t.weight for t in model.terms}["margin"] == pytest.approx(0.0, abs=1e-6)


def test_arrays_and_the_model_itself_say_the_same():
    data = samples(frames=20)
    model = fitted(data, ["margin", "psr", "peak", "sharpness"])
    others = {"similarity_recent": 0.5, "frozen_for": 0.0}  # not offered to a model
    for i in range(0, len(data), 17):
        signals = ReliabilitySignals(**{n: float(v[i]) for n, v in data.signals.items()}, **others)
        assert model.probability(signals) == pytest.approx(probabilities(model, data)[i])


def test_signals_that_tell_are_chosen_and_noise_is_not():
    data = samples()
    assert selected(data, fold_of_clips(8, 4)[data.clip]) == ["margin", "entropy"]


def test_cross_validated_figures_are_those_of_new_clips():
    data, new = samples(seed=1), samples(seed=2)
    result = calibrate(data, 4)
    left_out = quality(result.probability, data.good, data.weight)
    unseen = quality(probabilities(result.model, new), new.good, new.weight)
    assert left_out.auroc == pytest.approx(unseen.auroc, abs=0.02)
    assert left_out.ece < 0.05
    assert left_out.auroc > quality(result.score_alone, data.good, data.weight).auroc + 0.2


def test_a_clip_left_out_does_not_touch_its_own_figures():
    data = samples()
    fold = fold_of_clips(8, 4)[data.clip]
    lying = replace(data, good=np.where(fold == 0, 1.0 - data.good, data.good))
    honest, fooled = calibrate(data, 4), calibrate(lying, 4)
    assert np.allclose(honest.probability[fold == 0], fooled.probability[fold == 0])


def test_signals_can_be_given_instead_of_chosen():
    data = samples()
    given = calibrate(data, 4, ["entropy", "peak"])
    assert [term.signal for term in given.model.terms] == ["entropy", "peak"]
    assert set(given.chosen) == {("entropy", "peak")}
    with pytest.raises(CalibrationError, match="signals: hue can't be used, there are peak"):
        calibrate(data, 4, ["entropy", "hue"])


def test_every_clip_is_left_out_once_in_folds_of_equal_size():
    assert sorted(np.bincount(fold_of_clips(26, 5))) == [5, 5, 5, 5, 6]


@pytest.mark.parametrize("folds", [2, 9])
def test_impossible_folds_are_refused(folds: int):
    with pytest.raises(CalibrationError, match="8 clips"):
        calibrate(samples(frames=10), folds)


def test_quality_by_hand():
    q = quality(np.array([0.9, 0.8, 0.3, 0.1]), np.array([1.0, 0.0, 1.0, 0.0]), np.ones(4))
    assert q.auroc == pytest.approx(3 / 4)
    assert q.brier == pytest.approx((0.01 + 0.64 + 0.49 + 0.01) / 4)
    assert q.ece == pytest.approx((0.1 + 0.8 + 0.7 + 0.1) / 4)
    assert q.log_loss == pytest.approx(-np.log([0.9, 0.2, 0.3, 0.9]).mean())
    assert quality(np.full(4, 0.5), np.array([1.0, 0.0, 1.0, 0.0]), np.ones(4)).auroc == 0.5


def test_weights_count_as_repeated_frames():
    p, good = np.array([0.9, 0.7, 0.6, 0.2]), np.array([1.0, 0.0, 1.0, 0.0])
    times = np.array([1, 3, 2, 1])
    repeated = quality(np.repeat(p, times), np.repeat(good, times), np.ones(times.sum()))
    assert quality(p, good, times.astype(float)) == pytest.approx(repeated)


SIGNALS = ReliabilitySignals(*[0.5] * 12, frozen_for=0.0)


def run_of(folder: Path, boxes: list, truth: list, frozen: int | None = None) -> Run:
    sequence = numbered_sequence(folder, truth)
    records = [FrameRecord(FrameEvent.INIT, boxes[0], TrackState.TRACKING, 1.0)]
    for i, box in enumerate(boxes[1:], start=1):
        signals = replace(SIGNALS, frozen_for=0.5) if i == frozen else SIGNALS
        records.append(FrameRecord(FrameEvent.TRACKED, box, TrackState.LOST, 0.1, 0.7, 1.0, signals))
    return Run("ours", "one-pass", sequence, records, (160, 120), "")


def test_labels_are_those_of_the_best_box_and_sequences_weigh_the_same(tmp_path: Path):
    here, there = (10.0, 10.0, 20.0, 20.0), (90.0, 80.0, 20.0, 20.0)
    long = run_of(tmp_path / "long", [here] * 5, [here, here, there, NAN_ROW, here], frozen=4)
    short = run_of(tmp_path / "short", [here] * 2, [here, here])
    data = samples_of([long, short], frozen_after=0.1)
    # On the target although LOST, elsewhere, absent; the frame of a stuck camera is left out.
    assert data.good.tolist() == [1.0, 0.0, 0.0, 1.0]
    assert data.weight.tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    assert data.clips == ("long", "short")
    assert len(part(data, data.clip == 0)) == 3
    assert len(samples_of([long, short], frozen_after=0.0)) == 5


def test_footage_without_a_single_loss_is_refused(tmp_path: Path):
    here = (10.0, 10.0, 20.0, 20.0)
    runs = [run_of(tmp_path / name, [here] * 3, [here] * 3) for name in ("a", "b")]
    with pytest.raises(CalibrationError, match="4 good frames of 4"):
        samples_of(runs, 0.1)


def test_command_writes_a_model_that_is_found_and_says_where_it_is_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    for seed in range(3):
        clip = SyntheticClip(60, 320, 240, seed=seed)  # of which the first half, before the occlusion
        (tmp_path / "data" / f"clip{seed}" / "img").mkdir(parents=True)
        for i, image in enumerate(islice(clip, 30)):
            cv2.imwrite(str(tmp_path / "data" / f"clip{seed}" / "img" / f"{i + 1:04d}.jpg"), image)
        np.savetxt(tmp_path / "data" / f"clip{seed}" / "groundtruth_rect.txt", clip.ground_truth[:30], fmt="%.2f")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home"))
    command = ["calibrate", "onestream-192", str(tmp_path / "data"), "--folds", "3"]
    command += ["--disappearances", "1", "--fps", "10"]
    assert main([*command, "--store", str(tmp_path / "store"), "--note", "rendered", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    file = tmp_path / "home" / "ros2_tracker" / "weights" / "onestream-192.reliability.json"
    model = ReliabilityModel.load(file)
    assert model.calibrated
    assert model.provenance["note"] == "rendered"
    assert model.provenance["clips"] == ["clip0", "clip1", "clip2"]
    assert model.provenance["made_disappearances"] == 3
    assert model.provenance["weights_sha256"]
    assert set(report["left_out"]["all"]) == {"raw score", "raw score, fitted", "reliability"}

    from ros2_tracker.models.variant import load_variant

    assert load_variant("onestream-192").reliability == file
