"""Fit the reliability of a network: which signals, with which weights, and how good that is on clips left out.

Frames of one clip resemble each other, and clips differ in length. So a clip's frames, with all that was made from it,
are in one fold, each sequence weighs the same as another of its kind, and footage as it was taken weighs as much as
made disappearances do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation.disappearance import MadeSequence
from ros2_tracker.evaluation.metrics import overlap
from ros2_tracker.evaluation.reliability_metrics import CALIBRATION_BINS
from ros2_tracker.evaluation.run import Run
from ros2_tracker.tracking.reliability import DIRECTIONS, ReliabilityModel, Term

_GOOD_IOU = 0.5
_SEED = 0
# Of the squared weights of signals scaled to a deviation of 1.
_SHRINKAGE = 1e-4
# A further signal must take this share off the log loss of the clips left out.
_WORTH_HAVING = 0.01
_MOST_SIGNALS = 6
# Signals are chosen on one frame of so many: neighbours say nearly the same.
_THINNING = 3
_TRANSFORMS = {"psr": "log1p", "apce": "log1p", "peak": "logit", "sharpness": "log"}
# Signals are cut at these quantiles of what was seen, so that nothing is extrapolated, and where transforms end.
_CUT = 0.005
_LIMITS = {"peak": (0.01, 0.99), "psr": (0.0, np.inf), "apce": (0.0, np.inf), "sharpness": (0.05, 1.0)}

_NUMPY = {"linear": np.asarray, "log": np.log, "log1p": np.log1p, "logit": lambda v: np.log(v / (1.0 - v))}
Floats = NDArray[np.float64]


class CalibrationError(ValueError):
    """The footage does not allow a fit; the text says why."""


@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """N answered frames whose truth is known."""

    signals: dict[str, Floats]
    """Name -> (N,)."""
    score: Floats
    """(N,) the network's own."""
    good: Floats
    """(N,) 1 where the best box has IoU >= 0.5 with the target, else 0."""
    clip: NDArray[np.intp]
    """(N,) which clip it is from, or was made from."""
    made: NDArray[np.bool_]
    """(N,) whether it is of a made disappearance."""
    weight: Floats
    """(N,) adding up to 1."""
    clips: tuple[str, ...]
    """Names."""

    def __len__(self) -> int:
        """Number of frames."""
        return len(self.good)


def samples_of(runs: Sequence[Run], frozen_after: float) -> Samples:
    """The frames that a model is fitted on.

    Left out are frames whose truth is not known, and those of a stuck camera, whose reliability a setting decides.
    While the target is LOST, the network's best box counts: reliability must tell when that is the target again.

    Args:
        runs: of one tracker, over sequences as they were taken and made ones.
        frozen_after: see `ReliabilitySettings`.

    Raises:
        CalibrationError: a kind of frame is missing, or there are fewer than two clips.

    """
    clips = sorted({_clip(run) for run in runs})
    rows: list[tuple[Any, ...]] = []
    weights: list[float] = []
    made_runs = sum(isinstance(run.sequence, MadeSequence) for run in runs)
    for run in runs:
        made = isinstance(run.sequence, MadeSequence)
        boxes = np.array([record.box or (np.nan,) * 4 for record in run.records], np.float64)
        iou = np.nan_to_num(overlap(boxes, run.sequence.truth))
        known = run.sequence.absent | run.sequence.scorable
        usable = [
            (record.signals, record.score, float(iou[i] >= _GOOD_IOU and not run.sequence.absent[i]))
            for i, record in enumerate(run.records)
            if record.signals is not None and known[i] and not 0.0 < frozen_after <= record.signals.frozen_for
        ]
        rows += [(*each, clips.index(_clip(run)), made) for each in usable]
        weights += [1.0 / (len(usable) * (made_runs if made else len(runs) - made_runs))] * len(usable)
    good = np.array([row[2] for row in rows])
    if len(clips) < 2 or not 0.0 < good.sum() < len(good):
        raise CalibrationError(f"{len(clips)} clips with {int(good.sum())} good frames of {len(good)} allow no fit")
    signals = {name: np.array([getattr(row[0], name) for row in rows], np.float64) for name in DIRECTIONS}
    score = np.array([row[1] for row in rows], np.float64)
    clip, made_rows = np.array([row[3] for row in rows], np.intp), np.array([row[4] for row in rows], bool)
    weight = np.array(weights)
    return Samples(signals, score, good, clip, made_rows, weight / weight.sum(), tuple(clips))


def _clip(run: Run) -> str:
    sequence = run.sequence
    return sequence.source.name if isinstance(sequence, MadeSequence) else sequence.name


# -- one fit ----------------------------------------------------------------------------------------------------------


class _Design(NamedTuple):
    """Frames as the regression takes them."""

    matrix: Floats
    """(N, 1 + signals): ones, and each signal cut, transformed and scaled."""
    good: Floats
    weight: Floats


class _Scaling(NamedTuple):
    """How signals become columns of about the same size."""

    names: Sequence[str]
    ranges: list[tuple[float, float]]
    scale: Floats

    @classmethod
    def of(cls, samples: Samples, names: Sequence[str]) -> _Scaling:
        """From the frames that are fitted on."""
        ranges = [_range(samples.signals[name], name) for name in names]
        columns = (_column(samples.signals[n], n, r) for n, r in zip(names, ranges, strict=True))
        return cls(names, ranges, np.array([max(float(column.std()), 1e-9) for column in columns]))

    def design(self, samples: Samples) -> _Design:
        """Of these or of other frames."""
        columns = (_column(samples.signals[n], n, r) for n, r in zip(self.names, self.ranges, strict=True))
        matrix = np.column_stack([np.ones(len(samples)), *columns])
        matrix[:, 1:] /= self.scale
        return _Design(matrix, samples.good, samples.weight / samples.weight.sum())


def _range(values: Floats, name: str) -> tuple[float, float]:
    low, high = _LIMITS.get(name, (-np.inf, np.inf))
    cut = np.clip(np.quantile(values, [_CUT, 1.0 - _CUT]), low, high)
    return float(cut[0]), float(cut[1])


def _column(values: Floats, name: str, limits: tuple[float, float]) -> Floats:
    return _NUMPY[_TRANSFORMS.get(name, "linear")](np.clip(values, *limits))


def _regression(design: _Design, names: Sequence[str], start: Floats | None = None) -> Floats:
    """(1 + signals,) weights of a logistic regression, each signal's with its known sign."""
    from scipy.optimize import minimize
    from scipy.special import expit

    matrix, good, weight = design

    def loss(weights: Floats) -> tuple[float, Floats]:
        logit = matrix @ weights
        shrunk = np.concatenate([[0.0], weights[1:]])
        value = weight @ (np.logaddexp(0.0, logit) - good * logit) + _SHRINKAGE * shrunk @ shrunk
        return float(value), matrix.T @ (weight * (expit(logit) - good)) + 2.0 * _SHRINKAGE * shrunk

    bounds = [(None, None), *((0.0, None) if DIRECTIONS[name] > 0 else (None, 0.0) for name in names)]
    start = np.zeros(len(bounds)) if start is None else start
    found: Floats = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-7}).x
    return found


def fitted(samples: Samples, names: Sequence[str]) -> ReliabilityModel:
    """The model of these signals that explains the frames best."""
    scaling = _Scaling.of(samples, names)
    bias, *weights = _regression(scaling.design(samples), names)
    terms = [
        Term(name, _TRANSFORMS.get(name, "linear"), *limits, float(weight / scale))
        for name, limits, weight, scale in zip(names, scaling.ranges, weights, scaling.scale, strict=True)
    ]
    return ReliabilityModel(float(bias), tuple(terms), calibrated=True)


def probabilities(model: ReliabilityModel, samples: Samples) -> Floats:
    """(N,) what the model says of the frames."""
    logit = np.full(len(samples), model.bias)
    for term in model.terms:
        logit += term.weight * _column(samples.signals[term.signal], term.signal, (term.low, term.high))
    return 1.0 / (1.0 + np.exp(-logit))


# -- which signals ----------------------------------------------------------------------------------------------------


def fold_of_clips(clips: int, folds: int) -> NDArray[np.intp]:
    """(clips,) the fold of each: as many in one as in another, at random but always the same."""
    return np.random.default_rng(_SEED).permutation(clips) % folds


def selected(samples: Samples, folds: NDArray[np.intp]) -> list[str]:
    """Signals one after another, each the one that helps the clips left out most, while it is worth having.

    `folds` (N,) says which frames are left out together.
    """
    names = list(DIRECTIONS)
    thin = np.arange(len(samples)) % _THINNING == 0
    splits = []
    for fold in np.unique(folds):
        rest = part(samples, thin & (folds != fold))
        scaling = _Scaling.of(rest, names)
        splits.append((scaling.design(rest), scaling.design(part(samples, thin & (folds == fold)))))
    share = [float(samples.weight[folds == fold].sum()) for fold in np.unique(folds)]

    chosen: list[int] = []
    weights = [np.zeros(1) for _ in splits]
    best = np.inf
    while len(chosen) < _MOST_SIGNALS:
        tried = {}
        for i in (i for i in range(len(names)) if i not in chosen):
            columns = [0, *(j + 1 for j in (*chosen, i))]
            wanted = [names[j] for j in (*chosen, i)]
            loss, found = 0.0, []
            for (rest, out), start, size in zip(splits, weights, share, strict=True):
                design = _Design(rest.matrix[:, columns], rest.good, rest.weight)
                found.append(_regression(design, wanted, np.append(start, 0.0)))
                loss += size * log_loss(1.0 / (1.0 + np.exp(-out.matrix[:, columns] @ found[-1])), out.good, out.weight)
            tried[i] = (loss, found)
        i = min(tried, key=lambda i: tried[i][0])
        if tried[i][0] > (1.0 - _WORTH_HAVING) * best:
            break
        best, weights = tried[i]
        chosen.append(i)
    return [names[i] for i in chosen]


def part(samples: Samples, where: NDArray[np.bool_]) -> Samples:
    """The frames in `where` (N,)."""
    signals = {name: values[where] for name, values in samples.signals.items()}
    weight = samples.weight[where] / samples.weight[where].sum()
    of = (samples.score[where], samples.good[where], samples.clip[where], samples.made[where])
    return Samples(signals, *of, weight, samples.clips)


# -- how good it is ---------------------------------------------------------------------------------------------------


class Quality(NamedTuple):
    """Of probabilities, on weighted frames."""

    auroc: float
    """Probability that a good frame has a higher one than a bad frame."""
    ece: float
    """Expected calibration error, ten bins of equal width."""
    brier: float
    log_loss: float


def quality(probability: Floats, good: Floats, weight: Floats) -> Quality:
    """Of (N,) probabilities with (N,) weights."""
    weight = weight / weight.sum()
    bins = np.minimum((probability * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    gaps = np.bincount(bins, weight * (good - probability), CALIBRATION_BINS)
    brier = float(weight @ (probability - good) ** 2)
    ece = float(np.abs(gaps).sum())
    return Quality(_auroc(probability, good, weight), ece, brier, log_loss(probability, good, weight))


def log_loss(probability: Floats, good: Floats, weight: Floats) -> float:
    """Mean of -log of the probability of what came true."""
    right = np.clip(np.where(good > 0.5, probability, 1.0 - probability), 1e-9, 1.0)
    return float(-(weight @ np.log(right)) / weight.sum())


def _auroc(value: Floats, good: Floats, weight: Floats) -> float:
    """Weighted, ties counted half; NaN where all frames are of one kind."""
    levels, level = np.unique(value, return_inverse=True)
    good_at = np.bincount(level, weight * good, len(levels))
    bad_at = np.bincount(level, weight * (1.0 - good), len(levels))
    both = good_at.sum() * bad_at.sum()
    return float(good_at @ (np.cumsum(bad_at) - 0.5 * bad_at) / both) if both > 0.0 else float("nan")


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """A fit, and how good fits like it are on clips left out."""

    model: ReliabilityModel
    """Of all frames."""
    probability: Floats
    """(N,) of each frame by a model that was chosen and fitted without its clip."""
    score_alone: Floats
    """(N,) the same of a model of the raw score alone."""
    chosen: tuple[tuple[str, ...], ...]
    """The signals of each fold's model."""


def calibrate(samples: Samples, folds: int, signals: Sequence[str] = ()) -> Calibrated:
    """Choose signals and fit; in each fold both without the clips that are left out.

    Args:
        samples: frames of at least three clips.
        folds: of the cross-validation.
        signals: these, instead of choosing.

    Raises:
        CalibrationError: there are fewer clips than folds or than three, one fold has all good frames, or all bad, or
            there is no signal of a name.

    """
    unknown = [name for name in signals if name not in DIRECTIONS]
    if unknown:
        raise CalibrationError(f"signals: {', '.join(unknown)} can't be used, there are {', '.join(DIRECTIONS)}")
    if not 3 <= folds <= len(samples.clips):  # with one left out, the signals are chosen by leaving out another one
        raise CalibrationError(f"{folds} folds of {len(samples.clips)} clips: 3 at least, with a clip in each")
    fold = fold_of_clips(len(samples.clips), folds)[samples.clip]
    probability, alone = np.empty(len(samples)), np.empty(len(samples))
    chosen = []
    for out in (fold == number for number in range(folds)):
        rest, left_out = part(samples, ~out), part(samples, out)
        if not 0.0 < rest.good.sum() < len(rest):
            raise CalibrationError("without one of the folds all frames are good, or all bad: take fewer folds")
        names = list(signals) or selected(rest, fold[~out])
        chosen.append(tuple(names))
        probability[out] = probabilities(fitted(rest, names), left_out)
        alone[out] = probabilities(fitted(rest, ["peak"]), left_out)
    return Calibrated(fitted(samples, list(signals) or selected(samples, fold)), probability, alone, tuple(chosen))
