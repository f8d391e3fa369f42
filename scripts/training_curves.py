"""Losses and held-out mean IoU of training runs against their steps, as a picture.

    python scripts/training_curves.py OUT.png "TITLE=FOLDER" ... [--blind IOU ...]

FOLDER is what `ros2-tracker train` wrote. `--blind` is, for each run, what it said at its start: the held-out mean IoU
of a box in the middle, without looking.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ros2_tracker.training.curves import CURVES

_AFTER_LOSSES = "total"
_PANEL_IN = (5.2, 3.2)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("runs", nargs="+", metavar="TITLE=FOLDER")
    parser.add_argument("--blind", nargs="*", type=float, default=[])
    given = parser.parse_args()
    blind = [*given.blind, *[None] * len(given.runs)]
    figure = Figure(figsize=(_PANEL_IN[0] * len(given.runs), 2 * _PANEL_IN[1]), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(given.runs), squeeze=False)
    for column, run in enumerate(given.runs):
        title, _, folder = run.partition("=")
        draw(panels[0][column], panels[1][column], Path(folder) / CURVES, blind[column])
        panels[0][column].set_title(title)
    figure.savefig(given.output, dpi=80)


def draw(above: Axes, below: Axes, file: Path, blind: float | None) -> None:
    """Held-out mean IoU above, each loss as a share of its first value below."""
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    names = list(rows[0])[1 : list(rows[0]).index(_AFTER_LOSSES)]
    steps = [int(row["step"]) for row in rows]
    # A row repeats the last validation's value until the next one.
    found: dict[str, int] = {}
    for step, row in zip(steps, rows, strict=True):
        if row["mean_iou"]:
            found.setdefault(row["mean_iou"], step)
    above.plot(list(found.values()), [float(value) for value in found], marker="o", label="network")
    if blind is not None:
        above.axhline(blind, color="grey", linestyle="--", label="without looking")
    above.set(ylabel="held-out mean IoU", xlim=(0, steps[-1]), ylim=(0, None))
    for name in names:
        values = [float(row[name]) for row in rows]
        below.plot(steps, [value / values[0] for value in values], label=f"{name}, from {values[0]:.3g}")
    below.set(xlabel="step", ylabel="loss over that of the first row", xlim=(0, steps[-1]), ylim=(0, None))
    for panel in (above, below):
        panel.grid(alpha=0.3)
        panel.legend()


if __name__ == "__main__":
    main()
