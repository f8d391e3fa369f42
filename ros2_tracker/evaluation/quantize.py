"""`ros2-tracker quantize`: calibrate on sequences, write the int8 graph, see on other frames that it still tracks."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import ros2_tracker
from ros2_tracker.engines.base import EngineError, stacked
from ros2_tracker.engines.onnxruntime import load_onnx_engines
from ros2_tracker.engines.quantize import DEFAULT_METHOD, quantize_graph, require_float
from ros2_tracker.evaluation.calibration import cut, find_sequences, plan
from ros2_tracker.models.variant import EXPLICIT_INT8, Variant, template_graph, user_weights_dir
from ros2_tracker.models.window import hann_window
from ros2_tracker.tracking.decode import decode_ltrb
from ros2_tracker.tracking.family import Look
from ros2_tracker.tracking.network import TrackingNetwork

LARGEST_MEDIAN = 0.01
"""Of the box difference, search sides. The shipped network has 0.002."""
LARGEST_P90 = 0.05
"""Of the same. Where the network wavers between two places any rounding tips it over; that is not a tenth of all."""
LEAST_CORRELATION = 0.95
"""Of the scores. The shipped network has 0.99."""


@dataclass(frozen=True, slots=True)
class Check:
    """The int8 graph against the fp32 one, on frames that it was not calibrated with."""

    frames: int
    box_median: float
    """Largest difference of centre, width and height, search sides: median over the frames."""
    box_p90: float
    """The same, 90th percentile."""
    box_p99: float
    """The same, 99th percentile."""
    score_correlation: float
    """Pearson's, of the raw scores."""

    @property
    def problem(self) -> str:
        """What is wrong, for people; empty when nothing is."""
        if not self.box_median <= LARGEST_MEDIAN:  # NaN is a problem, too
            return f"its boxes are {self.box_median:.1e} search sides off, allowed are {LARGEST_MEDIAN:g} in the median"
        if not self.box_p90 <= LARGEST_P90:
            return f"a tenth of its boxes is {self.box_p90:.1e} search sides off, allowed are {LARGEST_P90:g}"
        if not self.score_correlation >= LEAST_CORRELATION:
            return f"its scores correlate by {self.score_correlation:.3f}, at least {LEAST_CORRELATION:g} is asked for"
        return ""

    def as_text(self) -> str:
        """For people, one line."""
        return (
            f"{self.frames} other frames compared with fp32: box difference median {self.box_median:.1e}, p90 "
            f"{self.box_p90:.1e}, p99 {self.box_p99:.1e} search sides; score correlation {self.score_correlation:.4f}"
        )


@dataclass(frozen=True, slots=True)
class QuantizeReport:
    """What was written."""

    model: str
    graph: str
    """The fp32 graph."""
    method: str
    sequences: int
    frames: int
    """Calibrated with."""
    left_out: int
    """Frames that could not be read, or did not show their true box."""
    products: int
    """Convolutions and matrix products that are int8."""
    files: dict[str, int]
    """Path -> size, bytes."""
    check: Check | None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """For people."""
        left_out = f", {self.left_out} frames left out (unreadable, or without the target)" if self.left_out else ""
        lines = [
            *(f"{file}: {size / 1e6:.1f} MB" for file, size in self.files.items()),
            f"{self.products} products in int8, calibrated ({self.method}) with {self.frames} frames of "
            f"{self.sequences} sequences{left_out}",
            "not checked" if self.check is None else self.check.as_text(),
        ]
        return "\n".join(lines)


def quantize_checked(
    variant: Variant,
    graph: Path,
    folder: Path,
    output: Path | None = None,
    frames: int = 200,
    method: str = DEFAULT_METHOD,
    check: bool = True,
    threads: int = 0,
) -> QuantizeReport:
    """Quantise a fp32 graph, with progress bars on stderr; what was at `output` stays until the new file was checked.

    STARK's template graph stays fp32 and is copied beside `output`: it runs once a target, so that int8 would save
    nothing, and its features are read in every frame.

    Args:
        variant: whose graph it is.
        graph: the fp32 graph.
        folder: a sequence, or a folder of them, with truth.
        output: None: where `precision: int8` looks for it.
        frames: to calibrate with; half as many again, others, are checked with.
        method: one of `engines.quantize.METHODS`.
        check: whether to compare with the fp32 graph.
        threads: of the CPU; 0 lets ONNX Runtime choose.

    Raises:
        ValueError: the sequences are missing, without truth or broken.
        OSError: `output` cannot be written.
        EngineError: the graph is not what it should be, or the int8 graph is too far off.

    """
    require_float(graph)
    if output is None and EXPLICIT_INT8 not in variant.graphs:
        raise ValueError(f"model {variant.name} names no {EXPLICIT_INT8} graph: say where to write it with -o")
    target = output or user_weights_dir() / variant.graphs[EXPLICIT_INT8]
    if target.resolve() == graph.resolve():
        raise ValueError(f"{target} is the fp32 graph: name another file to write")
    network = TrackingNetwork(variant, load_onnx_engines(variant, graph, threads))
    sequences = find_sequences(folder)
    chosen = plan(sequences, frames, max(frames // 2, 1) if check else 0)
    if check and not chosen.check:
        raise ValueError(f"{folder}: all frames are needed to calibrate with, none is left to check with")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".quantize-") as unfinished:
        file = Path(unfinished) / target.name
        calibration = cut(network.family, sequences, _bar(chosen.calibration, "reading"))
        if not calibration.looks:
            raise ValueError(f"{folder}: none of the {calibration.left_out} frames could be used")
        runs = _runs(calibration.looks, network.engine.batch or 1)
        metadata = {
            "variant": variant.name,
            "ros2_tracker": ros2_tracker.__version__,
            "calibration_frames": str(len(calibration.looks)),
        }
        with _bar(total=len(runs), label="calibrating") as bar:
            products = quantize_graph(graph, file, runs, method, metadata, bar.update)
        files = [file]
        if template_graph(graph).is_file() and "template" not in network.engine.inputs:
            files.append(Path(shutil.copy(template_graph(graph), template_graph(file))))
        found = None
        left_out = calibration.left_out
        if check:
            others = cut(network.family, sequences, _bar(chosen.check, "reading other frames"))
            left_out += others.left_out
            int8 = TrackingNetwork(variant, load_onnx_engines(variant, file, threads))
            found = compare(int8, network, others.looks)
            if found.problem:
                raise EngineError(
                    f"{target} is not written: {found.problem} ({found.as_text()}); --no-check writes it all the same"
                )
        placed = [made.replace(target.with_name(made.name)) for made in files]
    sizes = {str(made): made.stat().st_size for made in placed}
    return QuantizeReport(
        variant.name,
        str(graph),
        method,
        len(sequences),
        len(calibration.looks),
        left_out,
        products,
        sizes,
        found,
    )


def compare(tested: TrackingNetwork, reference: TrackingNetwork, looks: Sequence[Look]) -> Check:
    """Ask both about the same crops, at least one."""
    if not looks:
        raise ValueError("there is no frame to compare the graphs on")
    size = reference.engine.batch or 1
    groups = [looks[start : start + size] for start in range(0, len(looks), size)]
    pairs = [(_answers(tested, group), _answers(reference, group)) for group in _bar(groups, "checking")]
    actual, expected = (np.concatenate(each) for each in zip(*pairs, strict=True))
    off = np.abs(actual[:, :4] - expected[:, :4]).max(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # scores that are all the same correlate with nothing
        correlation = float(np.corrcoef(actual[:, 4], expected[:, 4])[0, 1]) if len(looks) > 1 else 1.0
    return Check(len(looks), *(float(q) for q in np.percentile(off, (50, 90, 99))), correlation)


def _answers(network: TrackingNetwork, looks: Sequence[Look]) -> NDArray[np.float64]:
    """(N, 5): cx, cy, w, h in search sides, and the raw score."""
    rows = []
    for outputs in network.infer(looks):
        if "box" in outputs:
            rows.append((*outputs["box"], outputs["score"]))
        else:
            score_map = outputs["score_map"]
            best = decode_ltrb(score_map, outputs["ltrb"], hann_window(score_map.shape[0]))
            rows.append((best.cx, best.cy, best.w, best.h, best.score))
    return np.array(rows, np.float64)


def _runs(looks: Sequence[Look], batch: int) -> list[dict[str, NDArray]]:
    """Inputs of whole runs; the last is filled up with its last look."""
    inputs = [look.inputs for look in looks]
    inputs += inputs[-1:] * (-len(inputs) % batch)
    return [stacked(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]


def _bar(items: Sequence[Any] | None = None, label: str = "", total: int | None = None) -> tqdm:
    return tqdm(items, desc=label, total=total, unit="frame", disable=None, leave=False)
