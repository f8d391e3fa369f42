"""What reliability is worth, as rows of tables for the terminal and for the report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ros2_tracker.evaluation.reliability_events import EventFigures
from ros2_tracker.evaluation.reliability_summary import RELIABILITY, SCORE, ReliabilitySummary

WORTH_TITLES = ("AUROC", "ECE", "Brier", "FT@5%", "Pr", "Re", "F", "false tr.", "doubted")
WORTH_LOW_IS_GOOD = {"ECE", "Brier", "FT@5%", "false tr.", "doubted"}
EVENT_TITLES = ("events", "judged", "LOST ≤0.5s", "median s", "never", "RECOV ≤1s", "median s", "wrong")

Row = tuple[str, list[float]]
"""What it is of, and its figures; NaN where nothing can be said."""


def worth_rows(summary: ReliabilitySummary) -> list[Row]:
    """One for reliability with the states that follow from it, one for the raw score, which has none."""
    states = [summary.false_tracking, summary.good_doubted]
    rows = []
    for name, text in ((RELIABILITY, "reliability"), (SCORE, "raw score alone")):
        worth = summary.worth.get(name)
        if worth is None:
            continue
        best = worth.long_term
        figures = [
            np.nan if worth.roc is None else worth.roc.area,
            np.nan if worth.calibration is None else worth.calibration.error,
            worth.brier,
            worth.false_at_5,
            *((np.nan,) * 3 if best is None else (best.precision, best.recall, best.f)),
        ]
        rows.append((f"{summary.tracker}, {text}", figures + (states if name == RELIABILITY else [np.nan, np.nan])))
    if RELIABILITY not in summary.worth:
        # It says LOST all the same, or never.
        rows.append((f"{summary.tracker}, states", [np.nan] * 7 + states))
    return rows


def event_rows(summary: ReliabilitySummary) -> list[Row]:
    """One for each kind of disappearance, and one for all."""
    rows = [(f"{summary.tracker}, {kind}", _figures(each)) for kind, each in summary.events_by_kind.items()]
    return [*rows, (f"{summary.tracker}, all kinds", _figures(summary.events))]


def _figures(each: EventFigures) -> list[float]:
    return [
        each.events,
        each.judged,
        each.lost_in_time,
        each.lost_s,
        each.never_lost,
        each.recovered_in_time,
        each.recovered_s,
        each.wrong_recovery,
    ]


def as_text(summaries: Sequence[ReliabilitySummary]) -> list[str]:
    """Lines for a terminal."""
    lines: list[str] = []
    for footage in dict.fromkeys(summary.footage for summary in summaries):
        those = [summary for summary in summaries if summary.footage == footage]
        title = f"reliability, {footage} ({those[0].frames} frames, {those[0].good} good)"
        lines += ["", *_lines(title, WORTH_TITLES, [row for summary in those for row in worth_rows(summary)])]
    for summary in summaries:
        if summary.outcomes and summary.footage != "all":
            lines += ["", *_lines(f"events, {summary.footage}", EVENT_TITLES, event_rows(summary))]
    return lines


def _lines(title: str, titles: Sequence[str], rows: Sequence[Row]) -> list[str]:
    width = max(len(title), *(len(label) for label, _ in rows)) + 2
    cells = [max(len(each), 7) + 2 for each in titles]
    head = "".join(f"{each:>{cell}}" for each, cell in zip(titles, cells, strict=True))
    body = [
        f"{label:<{width}}" + "".join(f"{_cell(value):>{cell}}" for value, cell in zip(figures, cells, strict=True))
        for label, figures in rows
    ]
    return [f"{title:<{width}}{head}", *body]


def _cell(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if np.isnan(value) else f"{value:.3f}"
