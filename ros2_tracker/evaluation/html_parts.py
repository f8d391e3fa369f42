"""Pieces of an evaluation's report: tables, plots and pictures as HTML that needs nothing beside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence

import numpy as np

from ros2_tracker.evaluation import plots


def table(
    corner: str,
    labels: Sequence[str],
    titles: Sequence[str],
    rows: Sequence[Sequence[float]],
    low_is_good: set[str],
    best: bool = True,
    by_row: int = 0,
) -> str:
    """A table of numbers; the best of each column is bold, or with `by_row` that of each row's first so many cells."""
    numbers = np.array(rows, np.float64)
    bold = np.zeros(numbers.shape, bool)
    signs = np.array([-1.0 if title in low_is_good else 1.0 for title in titles])
    signed = np.nan_to_num(numbers * signs, nan=-np.inf)
    if by_row:
        bold[:, :by_row] = signed[:, :by_row] == signed[:, :by_row].max(axis=1, keepdims=True)
    elif best:
        bold = signed == signed.max(axis=0, keepdims=True)
    head = "".join(f"<th>{title}</th>" for title in [corner, *titles])
    body = "".join(
        f"<tr><td>{label}</td>"
        + "".join(
            f"<td{' class=best' if mark else ''}>{_number(value, title)}</td>"
            for value, mark, title in zip(row, marks, titles, strict=True)
        )
        + "</tr>"
        for label, row, marks in zip(labels, rows, bold, strict=True)
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def figure(jpeg: bytes, caption: str, kind: str = "") -> str:
    """A picture with what it shows; `kind` is a class of the style sheet."""
    data = base64.b64encode(jpeg).decode()
    shown = f"<img alt='' src='data:image/jpeg;base64,{data}'><figcaption>{html.escape(caption)}</figcaption>"
    return f"<figure{f' class={kind}' if kind else ''}>{shown}</figure>"


def _number(value: float, title: str) -> str:
    if isinstance(value, int):
        return str(value)
    if np.isnan(value):
        return "–"
    return f"{value:.1f}" if title.startswith("ms") else f"{value:.3f}"


def dot(index: int) -> str:
    """A tracker's colour, by its place among all."""
    return f"<span class=dot style='background:{plots.color_of(index)}'></span>"


def label(index: int, name: str) -> str:
    """A tracker's colour and name."""
    return dot(index) + html.escape(name)


def svg(text: str) -> str:
    """A plot."""
    # As an image of its own, the names inside cannot clash with those of the next plot.
    return f"<img alt='' src='data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}'>"
