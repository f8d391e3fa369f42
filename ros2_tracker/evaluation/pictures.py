"""Pictures of the frames in which a tracker was furthest off, for an evaluation's report."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ros2_tracker.evaluation import plots
from ros2_tracker.evaluation.comparison import Entry
from ros2_tracker.tracking.result import TrackState

# Of each tracker; more would make the report heavy and say little.
_PICTURES = 6
_WIDTH = 400
_JPEG_QUALITY = 80
_TRUTH, _TRUTH_EDGE = "#ffffff", "#000000"


class Picture(NamedTuple):
    """One frame with boxes."""

    jpeg: bytes
    caption: str


def worst_frames(entries: Sequence[Entry], number: int) -> list[Picture]:
    """Of tracker `number`, from each of the sequences with its lowest AUC the first frame with its lowest IoU.

    Raises:
        ValueError: an image cannot be read.

    """
    scores = entries[number].scores
    known = [i for i, score in enumerate(scores) if score.counted[1:].any()]
    worst = sorted(known, key=lambda i: scores[i].scores.success_auc)[:_PICTURES]
    return [_picture(entries, number, index) for index in worst]


def _picture(entries: Sequence[Entry], number: int, index: int) -> Picture:
    """The worst frame of sequence `index` for tracker `number`."""
    entry = entries[number]
    score, run = entry.scores[index], entry.runs[index]
    iou = np.where(score.counted, score.iou, np.inf)
    iou[0] = np.inf
    frame = int(np.argmin(iou))
    record = run.records[frame]
    others = [(each.runs[index].records[frame].box, plots.color_of(i)) for i, each in enumerate(entries) if i != number]
    image = drawn(
        run.sequence.image(frame),
        run.sequence.truth[frame],
        (record.box, plots.color_of(number)),
        others,
        record.state is TrackState.LOST,
    )
    said = f", reliability {record.reliability:.2f}" if record.reliability is not None else ""
    caption = f"{run.sequence.name}, frame {frame} of {len(run.records)}: IoU {score.iou[frame]:.2f}, "
    caption += f"{record.state.name}{said}; AUC {score.scores.success_auc:.3f}"
    return Picture(as_jpeg(image, run.sequence.files[frame].name), caption)


def as_jpeg(image: NDArray[np.uint8], name: str) -> bytes:
    """For a report; ValueError with the name when OpenCV cannot make it."""
    encoded, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not encoded:
        raise ValueError(f"{name}: OpenCV cannot make a JPEG of it")
    return data.tobytes()


Outline = tuple[tuple[float, float, float, float] | None, str]
"""A box and its colour."""


def drawn(
    image: NDArray[np.uint8],
    truth: NDArray[np.float64],
    box: Outline,
    others: Sequence[Outline],
    lost: bool,
    width: int = _WIDTH,
) -> NDArray[np.uint8]:
    """A picture `width` px wide with truth, the tracker's box (dashed when it is lost) and those of others."""
    scale = width / image.shape[1]
    smooth = cv2.INTER_AREA if scale < 1.0 else cv2.INTER_LINEAR
    shown = cv2.resize(image, None, fx=scale, fy=scale, interpolation=smooth)
    for other, color in others:
        if other is not None:
            _outline(shown, np.array(other) * scale, color, 1)
    if not np.isnan(truth).any():
        _outline(shown, truth * scale, _TRUTH_EDGE, 3)
        _outline(shown, truth * scale, _TRUTH, 1)
    if box[0] is not None:
        _outline(shown, np.array(box[0]) * scale, box[1], 2, dashed=lost)
    return shown  # type: ignore[return-value]


def _outline(image: NDArray[np.uint8], box: NDArray[np.float64], color: str, line: int, dashed: bool = False) -> None:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    # A box can be far outside: OpenCV takes 32 bits.
    ends = np.clip([*box[:2], *(box[:2] + box[2:])], -1e4, 1e4)
    x0, y0, x1, y1 = ends.round().astype(int).tolist()
    corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        pieces = max(int(np.hypot(end[0] - start[0], end[1] - start[1]) // 7), 1) if dashed else 1
        stops = np.linspace(start, end, pieces + 1).round().astype(int).tolist()
        for number, (a, b) in enumerate(pairwise(stops)):
            if number % 2 == 0:
                cv2.line(image, a, b, (blue, green, red), line, cv2.LINE_AA)
