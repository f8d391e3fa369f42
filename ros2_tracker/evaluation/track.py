"""`ros2-tracker track`: follow one target through recorded footage, frame by frame and without leaving one out."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ros2_tracker.evaluation.metrics import Agreement, agreement
from ros2_tracker.evaluation.results import OverlayVideo, TracksFile
from ros2_tracker.evaluation.sequences import FrameSource
from ros2_tracker.tracking.overlay import draw_footer, draw_target
from ros2_tracker.tracking.result import TrackState
from ros2_tracker.tracking.tracker import Tracker


@dataclass(frozen=True, slots=True)
class TrackSummary:
    """What a run over one sequence gave."""

    sequence: str
    model: str
    engine: str
    frames: int
    """With the init frame."""
    expected_frames: int
    """What the source announced; 0 when it did not."""
    fps: float
    """Of the footage, Hz: frame i counts as taken at i / fps seconds."""
    update_ms_p50: float | None
    """None when there was no frame after the first."""
    update_ms_p99: float | None
    reliability_mean: float | None
    states: dict[str, int]
    """Frames per state, the init frame as TRACKING."""
    agreement: Agreement | None
    """With the truth where it is known: the published boxes, LOST counting as a miss, with the init frame."""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """For a terminal."""
        lines = [
            f"sequence     {self.sequence}: {self.frames} frames at {self.fps:g} Hz",
            f"model        {self.model} on {self.engine}",
            "states       " + ", ".join(f"{name} {count}" for name, count in self.states.items() if count),
        ]
        if self.update_ms_p50 is not None:
            lines += [
                f"reliability  mean {self.reliability_mean:.2f}",
                f"update       p50 {self.update_ms_p50:.1f} ms, p99 {self.update_ms_p99:.1f} ms",
            ]
        if self.agreement is not None:
            a = self.agreement
            lines.append(
                f"truth        mean IoU {a.mean_iou:.3f}, success AUC {a.success_auc:.3f}, "
                f"precision at 20 px {a.precision:.3f} over {a.frames} frames"
            )
        return "\n".join(lines)


def track_sequence(
    tracker: Tracker,
    source: FrameSource,
    box: Sequence[float],
    fps: float,
    results: Path | None = None,
    output: Path | None = None,
) -> TrackSummary:
    """Follow `box`, (x, y, w, h) px in the first frame, to the end of the source, with a progress bar on stderr.

    Args:
        tracker: used for this target.
        source: at least one frame.
        box: drawn on the first frame.
        fps: frame i counts as taken at i / fps seconds.
        results: where to write the boxes as CSV.
        output: where to write the overlay video.

    Raises:
        BoxError: the box cannot be followed in the first frame.
        ValueError: a frame cannot be read.
        OSError: a file cannot be written.

    """
    boxes: list[Sequence[float]] = []
    update_s: list[float] = []
    reliabilities: list[float] = []
    states: Counter[TrackState] = Counter()
    truth = source.ground_truth
    with ExitStack() as files:
        tracks = files.enter_context(TracksFile(results)) if results else None
        video = files.enter_context(OverlayVideo(output, fps)) if output else None
        images = tqdm(source, total=len(source) or None, unit="frame", desc=source.name, disable=None, leave=False)
        for index, image in enumerate(images):
            stamp = index / fps
            if index == 0:
                tracker.init(image, box, stamp)
                found, candidate, reliability, state = tuple(box), tuple(box), 1.0, TrackState.TRACKING
            else:
                started = time.perf_counter()
                result = tracker.update(image, stamp)
                update_s.append(time.perf_counter() - started)
                found, candidate, reliability, state = result.box, result.candidate, result.reliability, result.state
                reliabilities.append(reliability)
            boxes.append(found if found is not None else (np.nan,) * 4)
            states[state] += 1
            if tracks is not None:
                tracks.write(index, stamp, found, reliability, state)
            if video is not None:
                picture = image.copy()
                draw_target(
                    picture,
                    "",
                    found,
                    reliability,
                    state,
                    candidate=candidate,
                    truth=None if truth is None else truth[index],
                    latency_s=update_s[-1] if update_s else None,
                )
                draw_footer(picture, [f"{source.name}  frame {index}  {stamp:.2f} s"])
                video.write(picture)
    measured = None
    if truth is not None:
        measured = agreement(np.array(boxes, np.float64), truth[: len(boxes)])
    p50, p99 = (float(np.percentile(update_s, q)) * 1e3 if update_s else None for q in (50, 99))
    return TrackSummary(
        sequence=source.name,
        model=tracker.network.variant.name,
        engine=tracker.network.engine.description,
        frames=len(boxes),
        expected_frames=len(source),
        fps=fps,
        update_ms_p50=p50,
        update_ms_p99=p99,
        reliability_mean=float(np.mean(reliabilities)) if reliabilities else None,
        states={state.name: states[state] for state in TrackState},
        agreement=measured,
    )
