"""The part of an evaluation's report that says how far reliability and states can be trusted."""

from __future__ import annotations

from collections.abc import Iterator

from ros2_tracker.evaluation import reliability_plots
from ros2_tracker.evaluation.comparison import Comparison
from ros2_tracker.evaluation.event_pictures import worst_events
from ros2_tracker.evaluation.html_parts import figure, label, svg, table
from ros2_tracker.evaluation.reliability_tables import (
    EVENT_TITLES,
    WORTH_LOW_IS_GOOD,
    WORTH_TITLES,
    event_rows,
    worth_rows,
)
from ros2_tracker.evaluation.run import DISAPPEARANCE

_WORTH = """<p class=muted>Good frames have IoU ≥ 0.5; bad ones less, or no target. <b>AUROC</b>: how well the
value tells them apart. <b>ECE</b>: expected calibration error over ten bins. <b>FT@5%</b>: share of frames with
IoU &lt; 0.1 or no target that a plain threshold on the value keeps when it gives up 5 % of the good ones.
<b>Pr, Re, F</b>: VOT-LT at the best threshold. <b>false tr.</b>: share of frames with state TRACKING and IoU
&lt; 0.1 or no target. <b>doubted</b>: share of good frames called UNCERTAIN or LOST.</p>"""
_EVENTS = """<p class=muted>Only disappearances before which the tracker was on the target are judged. LOST: from
the first frame without the target. RECOVERED: from the first frame with it to TRACKING with IoU ≥ 0.5. Wrong:
TRACKING with IoU &lt; 0.1 or no target after LOST, before the target was found.</p>"""


def reliability_section(comparison: Comparison) -> Iterator[str]:
    """Tables, plots and the worst events."""
    numbers = {name: index for index, name in enumerate(comparison.trackers)}
    yield "<h2>Reliability</h2>" + _WORTH
    for footage in dict.fromkeys(summary.footage for summary in comparison.reliability):
        summaries = [summary for summary in comparison.reliability if summary.footage == footage]
        yield f"<h3>{footage}: {summaries[0].frames} frames, {summaries[0].good} of the first tracker's good</h3>"
        rows = [(numbers[summary.tracker], *row) for summary in summaries for row in worth_rows(summary)]
        labels, figures = [label(number, text) for number, text, _ in rows], [each for *_, each in rows]
        yield table("", labels, WORTH_TITLES, figures, WORTH_LOW_IS_GOOD)
        drawn = [reliability_plots.roc_plot(summaries), reliability_plots.calibration_plot(summaries)]
        if footage != "all" and any(outcome.followed for summary in summaries for outcome in summary.outcomes):
            drawn += [reliability_plots.lost_plot(summaries), reliability_plots.recovery_plot(summaries)]
        yield "<div class=plots>" + "".join(svg(each) for each in drawn) + "</div>"
    eventful = [summary for summary in comparison.reliability if summary.outcomes and summary.footage != "all"]
    if eventful:
        yield "<h2>Disappearances</h2>" + _EVENTS
    for summary in eventful:
        labels, figures = zip(
            *((label(numbers[summary.tracker], text), each) for text, each in event_rows(summary)), strict=True
        )
        yield f"<h3>{summary.footage}</h3>" + table("", labels, EVENT_TITLES, figures, set(), best=False)
    for entry in comparison.modes.get(DISAPPEARANCE, []):
        summary = next(s for s in eventful if s.tracker == entry.tracker and s.footage == DISAPPEARANCE)
        strips = worst_events(entry, numbers[entry.tracker], summary.outcomes, comparison.fps)
        if strips:
            yield f"<h3>{label(numbers[entry.tracker], entry.tracker)}: worst events</h3><p class=muted>White: the "
            yield "truth. Coloured: the tracker's box, dashed while it says LOST. Above: seconds from the first frame "
            yield "without the target, state and reliability.</p><div class=pictures>"
            yield "".join(figure(strip.jpeg, strip.caption, "strip") for strip in strips) + "</div>"
