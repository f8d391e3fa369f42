"""The plots of an evaluation's report, as SVG. Needs matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation import metrics
from ros2_tracker.evaluation.comparison import Entry

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f", "#000000")
"""Of trackers, in their order: Okabe and Ito's, which colour-blind people can tell apart."""
_LINES = ("-", "--", "-.", ":")


def require_matplotlib() -> None:
    """OSError saying what to install when matplotlib is not there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OSError(f"--report needs matplotlib: `pip install 'ros2-tracker[eval]'` ({error})") from error


def color_of(index: int) -> str:
    """A tracker's colour by its place among all."""
    return COLORS[index % len(COLORS)]


def success_plot(entries: Sequence[Entry]) -> str:
    """Share of frames over IoU thresholds, with AUC."""
    curves = [(f"{e.tracker}  {e.summary.mean.success_auc:.3f}", e.summary.success) for e in entries]
    return plot("Success", "IoU threshold", metrics.SUCCESS_THRESHOLDS, curves, ("AUC", "lower left"))


def precision_plot(entries: Sequence[Entry]) -> str:
    """Share of frames over centre errors, with the value at 20 px."""
    curves = [(f"{e.tracker}  {e.summary.mean.precision:.3f}", e.summary.precision) for e in entries]
    thresholds = metrics.PRECISION_THRESHOLDS_PX
    return plot("Precision", "centre error, px", thresholds, curves, ("at 20 px", "lower right"), mark=20.0)


def normalized_precision_plot(entries: Sequence[Entry]) -> str:
    """Share of frames over centre errors in sizes of the target, with the value at 0.2."""
    curves = [(f"{e.tracker}  {e.summary.mean.normalized_precision:.3f}", e.summary.normalized) for e in entries]
    thresholds = metrics.NORMALIZED_PRECISION_THRESHOLDS
    legend = ("at 0.2", "lower right")
    return plot("Normalised precision", "centre error, target sizes", thresholds, curves, legend, mark=0.2)


def expected_overlap_plot(entries: Sequence[Entry]) -> str:
    """Expected average overlap over sequence lengths, with EAO over the shaded interval."""
    known = [(entry.tracker, entry.robustness) for entry in entries if entry.robustness is not None]
    curves = [(f"{name}  {r.eao:.3f}", r.curve) for name, r in known]
    axis = np.arange(1.0, len(curves[0][1]) + 1.0)
    span, legend = known[0][1].interval, ("EAO", "upper right")
    return plot("Expected average overlap", "frames", axis, curves, legend, ylabel="overlap", span=span)


def failure_plot(entries: Sequence[Entry], threshold: float) -> str:
    """Share of sequences that are not lost yet after a share of their length."""
    share = np.linspace(0.0, 1.0, 101)
    name = "nt2f20" if threshold < 0.3 else "nt2f50"
    curves = []
    for entry in entries:
        times = np.array([getattr(score.scores, name) for score in entry.scores])
        times = times[~np.isnan(times)]
        alive = np.mean(times[None, :] >= share[:, None], axis=1) if len(times) else np.full(101, np.nan)
        curves.append((f"{entry.tracker}  {getattr(entry.summary.mean, name):.3f}", alive))
    title, legend = f"Not failed so far (IoU ≥ {threshold:g})", ("NT2F", "lower left")
    return plot(title, "share of the sequence", share, curves, legend, ylabel="share of sequences")


def plot(
    title: str,
    axis_label: str,
    axis: NDArray[np.float64],
    curves: Sequence[tuple[str, NDArray[np.float64]]],
    legend: tuple[str, str],
    *,
    ylabel: str = "share of frames",
    mark: float | None = None,
    span: tuple[int, int] | None = None,
    diagonal: bool = False,
    points: bool = False,
) -> str:
    """An SVG of named curves in [0, 1]; `legend` is its title and place.

    `mark` draws a line at that place of the axis, `span` shades a part of it, `diagonal` draws what equality would be,
    `points` marks each value, and joins those between which nothing is known.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": title}):
        figure = Figure(figsize=(4.6, 3.6), layout="constrained")
        axes: Axes = figure.subplots()
        for index, (label, curve) in enumerate(curves):
            line = _LINES[index // len(COLORS) % len(_LINES)]
            known = ~np.isnan(curve) if points else slice(None)
            marker = "o" if points else ""
            axes.plot(axis[known], curve[known], line, color=color_of(index), label=label, lw=1.8, marker=marker, ms=4)
        if mark is not None:
            axes.axvline(mark, color="#999999", lw=0.8, ls=":")
        if diagonal:
            axes.plot([0.0, 1.0], [0.0, 1.0], color="#999999", lw=0.8, ls=":")
        if span is not None:
            axes.axvspan(*span, color="#999999", alpha=0.15, lw=0)
        limits = (0.0, 1.0) if diagonal else (axis[0], axis[-1])
        axes.set(title=title, xlabel=axis_label, ylabel=ylabel, xlim=limits, ylim=(0.0, 1.02))
        axes.grid(alpha=0.25, lw=0.6)
        name, place = legend
        if curves:
            axes.legend(title=name, loc=place, framealpha=0.7, edgecolor="none", fontsize=8, title_fontsize=8)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
