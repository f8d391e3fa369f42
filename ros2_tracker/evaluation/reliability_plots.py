"""The plots of reliability: failure detection, calibration, and how soon a loss is admitted and a target found."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ros2_tracker.evaluation.plots import plot
from ros2_tracker.evaluation.reliability_events import LOST_WITHIN_S, RECOVERED_WITHIN_S
from ros2_tracker.evaluation.reliability_metrics import CALIBRATION_BINS
from ros2_tracker.evaluation.reliability_summary import SCORE, ReliabilitySummary

_TIMES_S = np.linspace(0.0, 2.0, 121)


def roc_plot(summaries: Sequence[ReliabilitySummary]) -> str:
    """Share of good frames kept over share of bad ones, with the area."""
    axis = np.linspace(0.0, 1.0, 401)
    curves = []
    for name, worth, text in _values(summaries):
        if worth.roc is not None:
            kept = np.interp(axis, worth.roc.bad_kept, worth.roc.good_kept)
            curves.append((f"{name}{text}  {worth.roc.area:.3f}", kept))
    legend = ("AUROC", "lower right")
    return plot("Failure detection", "bad frames kept", axis, curves, legend, ylabel="good frames kept", diagonal=True)


def calibration_plot(summaries: Sequence[ReliabilitySummary]) -> str:
    """Share of good frames over what was said, with the expected calibration error."""
    axis = (np.arange(CALIBRATION_BINS) + 0.5) / CALIBRATION_BINS
    curves = [
        (f"{name}{text}  {worth.calibration.error:.3f}", worth.calibration.accuracy)
        for name, worth, text in _values(summaries)
        if worth.calibration is not None
    ]
    title, legend = "Calibration", ("ECE", "upper left")
    return plot(title, "said", axis, curves, legend, ylabel="share of good frames", diagonal=True, points=True)


def lost_plot(summaries: Sequence[ReliabilitySummary]) -> str:
    """Share of disappearances that the tracker has said LOST in by a time."""
    return _times(summaries, "lost_s", "Loss admitted", "since the target was last seen, s", LOST_WITHIN_S)


def recovery_plot(summaries: Sequence[ReliabilitySummary]) -> str:
    """Share of reappearances after which the tracker is on the target by a time."""
    return _times(summaries, "recovered_s", "Target found", "since the target is back, s", RECOVERED_WITHIN_S)


def _times(summaries: Sequence[ReliabilitySummary], name: str, title: str, axis_label: str, limit: float) -> str:
    curves = []
    for summary in summaries:
        judged = [o for o in summary.outcomes if o.followed and (name == "lost_s" or o.judged_recovery)]
        if judged:
            # NaN, never, is within no time.
            by_then = np.array([getattr(o, name) for o in judged])[None, :] <= _TIMES_S[:, None] + 1e-9
            share = by_then.mean(axis=1)
            curves.append((f"{summary.tracker}  {share[np.searchsorted(_TIMES_S, limit - 1e-6)]:.3f}", share))
    legend = (f"at {limit:g} s", "lower right")
    return plot(title, axis_label, _TIMES_S, curves, legend, ylabel="share of events", mark=limit)


def _values(summaries: Sequence[ReliabilitySummary]) -> list[tuple]:
    """(tracker, worth, what of) of everything that has a value, the raw scores last."""
    found = [(s.tracker, worth, name) for s in summaries for name, worth in s.worth.items()]
    found.sort(key=lambda each: each[2] == SCORE)
    return [(tracker, worth, ", raw score" if name == SCORE else "") for tracker, worth, name in found]
