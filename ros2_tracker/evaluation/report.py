"""An evaluation's report: one HTML file that needs nothing beside it, with plots, tables and the worst frames."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ros2_tracker.evaluation import plots
from ros2_tracker.evaluation.comparison import SCORE_TITLES, Comparison, Entry, failures_in
from ros2_tracker.evaluation.html_parts import dot, figure, label, svg, table
from ros2_tracker.evaluation.pictures import worst_frames
from ros2_tracker.evaluation.reliability_report import reliability_section
from ros2_tracker.evaluation.run import DISAPPEARANCE, ONE_PASS, RESTARTS
from ros2_tracker.evaluation.scoring import Summary

REPORT_FILE, SUMMARY_FILE, SEQUENCES_FILE = "report.html", "summary.json", "sequences.csv"

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2430;background:#fff}
body{max-width:1180px;margin:2rem auto;padding:0 1.2rem}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin:2.2rem 0 .6rem;border-bottom:1px solid #d8dee6}
h3{font-size:1rem;margin:1.4rem 0 .4rem}p,ul{max-width:60rem}.muted{color:#5b6675}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.88rem}
th,td{padding:.28rem .6rem;text-align:right;border-bottom:1px solid #e6eaef;white-space:nowrap}
th{color:#5b6675;font-weight:600;position:sticky;top:0;background:#fff;cursor:pointer}
th:first-child,td:first-child{text-align:left}td.best{font-weight:700}.wide{overflow-x:auto}
.plots{margin-top:1rem;display:flex;flex-wrap:wrap;gap:.8rem}.plots img{width:370px;max-width:100%}
.pictures{display:flex;flex-wrap:wrap;gap:.9rem}
figure{margin:0;width:370px;max-width:100%}figure img{width:100%;border-radius:4px;display:block}
figure.strip{width:100%}
figcaption{font-size:.8rem;color:#5b6675}
.dot{display:inline-block;width:.75em;height:.75em;border-radius:50%;margin-right:.45em}
.warn{background:#fff4e0;border-left:4px solid #e69f00;padding:.5rem .8rem}
"""
# Click on a column's title to sort by it.
_SCRIPT = """
for(const h of document.querySelectorAll("th"))h.onclick=()=>{const t=h.closest("table"),i=h.cellIndex,b=t.tBodies[0];
const d=h.dataset.d=h.dataset.d==="1"?"-1":"1";
const k=r=>{const s=r.cells[i].textContent,n=parseFloat(s);return isNaN(n)?s:n};
[...b.rows].sort((x,y)=>(k(x)>k(y)?1:k(x)<k(y)?-1:0)*d).forEach(r=>b.append(r))};
"""


def write_report(comparison: Comparison, folder: Path) -> Path:
    """Write `report.html`, `summary.json` and `sequences.csv` into a folder; returns the first.

    Raises:
        OSError: matplotlib is not there, or a file cannot be written.

    """
    plots.require_matplotlib()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SUMMARY_FILE).write_text(json.dumps(comparison.as_dict(), indent=1), encoding="utf-8")
    _write_sequences(comparison, folder / SEQUENCES_FILE)
    page = folder / REPORT_FILE
    page.write_text("\n".join(_page(comparison)), encoding="utf-8")
    return page


def _write_sequences(comparison: Comparison, file: Path) -> None:
    """A row for each mode, tracker and sequence."""
    counts = ("frames", "absent", "outside", "answered", "lost", "lost_right", "wrong")
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(["mode", "tracker", "sequence", *SCORE_TITLES, *counts, "failures"])
        for mode, entries in comparison.modes.items():
            for entry in entries:
                for run, score in zip(entry.runs, entry.scores, strict=True):
                    figures: list[str] = [""] * len(SCORE_TITLES)
                    if entry.robustness is None:
                        figures = [f"{getattr(score.scores, name):.6f}" for name in SCORE_TITLES]
                    failures = failures_in(run) if entry.robustness is not None else ""
                    counted = [getattr(score, name) for name in counts]
                    writer.writerow([mode, entry.tracker, score.sequence, *figures, *counted, failures])


def _page(comparison: Comparison) -> Iterator[str]:
    yield "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
    title = f"Evaluation on {html.escape(comparison.dataset.name)}"
    yield f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>"
    machine = comparison.machine
    yield (
        f"<p class=muted>{html.escape(str(machine['cpu']))}, {machine['usable_cores']} of {machine['cores']} cores "
        f"usable, load {machine['load_average']} at the end; Python {machine['python']}, OpenCV {machine['opencv']}, "
        f"ros2_tracker {machine['ros2_tracker']}</p>"
    )
    if comparison.note:
        yield f"<p class=warn>{html.escape(comparison.note)}</p>"
    yield "".join(f"<p>{html.escape(remark)}</p>" for remark in comparison.remarks if remark != comparison.note)
    if comparison.left_out:
        rows = "".join(f"<li>{html.escape(name)}: {html.escape(why)}</li>" for name, why in comparison.left_out)
        yield f"<div class=warn>Left out:<ul>{rows}</ul></div>"
    yield "<ul>"
    for index, (name, what) in enumerate(comparison.trackers.items()):
        yield f"<li>{dot(index)}<b>{html.escape(name)}</b>: {html.escape(what)}</li>"
    yield "</ul>"
    for mode, entries in comparison.modes.items():
        yield f"<h2>{_mode_title(mode)}</h2>"
        yield from _restart_section(entries) if entries[0].robustness else _plain_section(entries)
    if comparison.reliability:
        yield from reliability_section(comparison)
    first = next((entries for entries in comparison.modes.values() if entries[0].robustness is None), None)
    if first is not None:
        yield from _worst_section(first)
    yield f"<script>{_SCRIPT}</script></html>"


def _mode_title(mode: str) -> str:
    if mode == ONE_PASS:
        return "One pass"
    if mode == RESTARTS:
        return "Runs with restarts"
    if mode == DISAPPEARANCE:
        return "Made disappearances: frames in which the target can be seen"
    return "Streaming: " + html.escape(", ".join(mode.split("-")[1:]))


def _plain_section(entries: Sequence[Entry]) -> Iterator[str]:
    titles = [*SCORE_TITLES.values(), "ms p50", "ms p99", "answered"]
    rows = []
    for entry in entries:
        s = entry.summary
        asked = s.frames - s.sequences
        figures = [getattr(s.mean, name) for name in SCORE_TITLES]
        rows.append([*figures, s.ms_p50, s.ms_p99, s.answered / asked if asked else np.nan])
    low_is_good = {"ms", "ms p50", "ms p99"}
    yield table("tracker", [label(i, e.tracker) for i, e in enumerate(entries)], titles, rows, low_is_good)
    drawn = [
        plots.success_plot(entries),
        plots.precision_plot(entries),
        plots.normalized_precision_plot(entries),
        plots.failure_plot(entries, 0.2),
        plots.failure_plot(entries, 0.5),
    ]
    yield "<div class=plots>" + "".join(svg(each) for each in drawn) + "</div>"
    yield "<h3>Saying LOST</h3><p class=muted>Of the frames a tracker said LOST on: the share in which the target was "
    yield "absent or the best box had IoU below 0.5 (<i>right</i>). Of the frames in which that was so: the share it "
    yield "said LOST on (<i>admitted</i>).</p>"
    loss = [_loss(entry.summary) for entry in entries]
    titles = ["said LOST", "right", "wrong boxes or no target", "admitted"]
    yield table("tracker", [label(i, e.tracker) for i, e in enumerate(entries)], titles, loss, set(), best=False)
    yield "<h3>Success AUC of each sequence</h3>"
    names = [html.escape(score.sequence) for score in entries[0].scores]
    columns = [[score.scores.success_auc for score in entry.scores] for entry in entries]
    frames = [[score.frames, score.absent] for score in entries[0].scores]
    rows = [[*column, *count] for column, count in zip(zip(*columns, strict=True), frames, strict=True)]
    titles = [*(html.escape(entry.tracker) for entry in entries), "frames", "absent"]
    yield table("sequence", names, titles, rows, set(), by_row=len(entries))


def _restart_section(entries: Sequence[Entry]) -> Iterator[str]:
    yield "<p class=muted>Overlap 0 is a failure; five frames later the tracker starts again with the true box. "
    yield "Accuracy leaves out ten frames from each start on; EAO averages over the shaded lengths.</p>"
    rows = []
    for entry in entries:
        r = entry.robustness
        assert r is not None
        rows.append([r.accuracy, r.failures, r.robustness, r.eao])
    titles = ["accuracy", "failures", "failures in 100 frames", "EAO"]
    labels = [label(i, e.tracker) for i, e in enumerate(entries)]
    yield table("tracker", labels, titles, rows, {"failures", "failures in 100 frames"})
    yield f"<div class=plots>{svg(plots.expected_overlap_plot(entries))}</div>"
    yield "<h3>Failures in each sequence</h3>"
    names = [html.escape(score.sequence) for score in entries[0].scores]
    failures = zip(*([failures_in(run) for run in entry.runs] for entry in entries), strict=True)
    titles = [html.escape(entry.tracker) for entry in entries]
    yield table("sequence", names, titles, [list(row) for row in failures], set(titles), by_row=len(entries))


def _worst_section(entries: Sequence[Entry]) -> Iterator[str]:
    yield "<h2>Worst frames</h2><p class=muted>In each of the sequences with a tracker's lowest AUC, the first frame "
    yield "with its lowest IoU. White: the truth. Thick: the tracker's box, dashed while it says LOST. Thin: "
    yield "those of the others.</p>"
    for number, entry in enumerate(entries):
        figures = "".join(figure(picture.jpeg, picture.caption) for picture in worst_frames(entries, number))
        yield f"<h3>{label(number, entry.tracker)}</h3><div class=pictures>{figures}</div>"


def _loss(summary: Summary) -> list[float]:
    right = summary.lost_right / summary.lost if summary.lost else np.nan
    admitted = summary.lost_right / summary.wrong if summary.wrong else np.nan
    return [summary.lost, right, summary.wrong, admitted]
