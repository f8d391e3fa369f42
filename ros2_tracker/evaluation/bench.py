"""`ros2-tracker bench`: how long each stage of an update takes on this machine, and how much memory a tracker needs.

Several engines and numbers of targets are timed in turns, frame by frame: on a noisy machine only what ran side by side
can be compared.
"""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

import ros2_tracker
from ros2_tracker.engines.load import EngineSettings
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.tracking.frame import ArrayFrame, frame_from_array
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.settings import TargetSettings
from ros2_tracker.tracking.target import Target

STAGES = ("crop", "network", "decode", "update", "learn")
_SHOWN = {"update": "update (whole)", "learn": "after the answer"}
_WARM_UP_FRAMES = 5
# Rendered frames, played to and fro: enough not to lie in the cache at camera sizes, few enough to be ready soon.
_DISTINCT_FRAMES = 24
_FRAME_PERIOD_S = 1.0 / 30.0
_MIB = 1024.0 * 1024.0


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one stage, in ms."""

    p50: float
    p99: float
    mean: float
    max: float

    @classmethod
    def of(cls, seconds: list[float]) -> Latency:
        """Percentiles of at least one measurement."""
        ms = np.array(seconds) * 1e3
        return cls(*(float(v) for v in (*np.percentile(ms, [50, 99]), ms.mean(), ms.max())))


@dataclass(frozen=True, slots=True)
class BenchReport:
    """One run of the bench."""

    machine: dict[str, Any]
    model: str
    engine: str
    size: tuple[int, int]
    """Width and height of the frames, px."""
    frames: int
    targets: int
    runs: int
    """Of the network in a frame, for all targets."""
    stages: dict[str, Latency]
    """Per frame, for all targets: crops, runs of the network, decode with motion and reliability, all of it (`update`),
    and what waits until the answer is out (`learn`): memory and lessons."""
    load_s: float
    """From asking for the model to a warmed-up network."""
    memory_before_mib: float
    """Resident before the model was asked for: Python, NumPy, OpenCV."""
    memory_loaded_mib: float
    """Resident with the network loaded and warmed up, before any frame."""
    memory_peak_mib: float
    """Highest resident, with the bench's own rendered frames."""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def as_text(self) -> str:
        """For a terminal."""
        machine = self.machine
        rows = [f"{'ms':<22}{'p50':>9}{'p99':>9}{'mean':>9}{'max':>9}"]
        for name, latency in self.stages.items():
            shown = _SHOWN.get(name, name)
            rows.append(f"{shown:<22}{latency.p50:9.2f}{latency.p99:9.2f}{latency.mean:9.2f}{latency.max:9.2f}")
        return "\n".join(
            [
                f"{machine['cpu']}, {machine['usable_cores']} of {machine['cores']} cores usable, "
                f"Python {machine['python']}, NumPy {machine['numpy']}, OpenCV {machine['opencv']}",
                f"{self.model} on {self.engine}, {self.frames} frames of {self.size[0]}x{self.size[1]}, "
                f"{self.targets} target{'s' if self.targets != 1 else ''} in {self.runs} "
                f"run{'s' if self.runs != 1 else ''} of the network a frame",
                "",
                *rows,
                "",
                f"start-up {self.load_s:.2f} s; resident memory {self.memory_before_mib:.0f} MiB before, "
                f"{self.memory_loaded_mib:.0f} MiB with the network, {self.memory_peak_mib:.0f} MiB at most "
                "(with the frames of this test)",
            ]
        )


def machine_description() -> dict[str, Any]:
    """CPU, cores and versions, for reports."""
    cpu = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Model")):
                cpu = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 2),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "opencv": cv2.__version__,
        "ros2_tracker": ros2_tracker.__version__,
    }


def run_bench(
    model: str = "default",
    frames: int = 300,
    size: tuple[int, int] = (640, 480),
    targets: Sequence[int] = (1,),
    settings: Sequence[EngineSettings] = (EngineSettings(),),
) -> list[BenchReport]:
    """Load the model with each of the settings and time `frames` frames with each number of targets, all in turns.

    Args:
        model: a variant's name.
        frames: how many to time.
        size: their (width, height), px.
        targets: numbers of targets.
        settings: engines to compare.

    Returns:
        A report for each of the settings and each number of targets.

    Raises:
        ValueError: an unknown model or engine, no frames, no targets, a size that the clip does not have.
        FileNotFoundError: the weights are not there.
        EngineError: the engine is not installed or refuses the file.

    """
    if frames < 1 or not targets or min(targets) < 1:
        raise ValueError(f"frames and targets must be at least 1, got {frames} and {', '.join(map(str, targets))}")
    machine = machine_description()
    footage, boxes = _footage(size, max(targets))
    loaded = [_Loaded.of(model, each) for each in settings]
    groups = [(each, _Group(each.network, footage[0], boxes[:count])) for each in loaded for count in targets]
    for index in tqdm(range(1, frames + _WARM_UP_FRAMES + 1), unit="frame", desc="bench", disable=None, leave=False):
        image = footage[_to_and_fro(index, len(footage))]
        for _, group in groups:
            group.update(image, index * _FRAME_PERIOD_S, timed=index > _WARM_UP_FRAMES)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0
    return [
        BenchReport(
            machine=machine,
            model=each.network.variant.name,
            engine=each.network.engine.description,
            size=size,
            frames=frames,
            targets=len(group.targets),
            runs=each.network.count_runs(len(group.targets)),
            stages={stage: Latency.of(seconds) for stage, seconds in group.seconds.items()},
            load_s=each.load_s,
            memory_before_mib=each.before_mib,
            memory_loaded_mib=each.after_mib,
            memory_peak_mib=peak,
        )
        for each, group in groups
    ]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A network and what loading it took."""

    network: TrackingNetwork
    load_s: float
    before_mib: float
    after_mib: float

    @classmethod
    def of(cls, model: str, settings: EngineSettings) -> _Loaded:
        before, started = _resident_mib(), time.perf_counter()
        network = TrackingNetwork.load(model, settings)
        return cls(network, time.perf_counter() - started, before, _resident_mib())


class _Group:
    """Targets that share the runs of one network, and their measurements."""

    def __init__(self, network: TrackingNetwork, image: ArrayFrame, boxes: Sequence[Box]) -> None:
        self._network = network
        self.targets = [Target(network, TargetSettings(), image, box.as_tuple(), 0.0) for box in boxes]
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def update(self, image: ArrayFrame, stamp: float, timed: bool) -> None:
        """One frame for all targets, as the session does it."""
        started = time.perf_counter()
        questions = [target.ask(image, stamp) for target in self.targets]
        asked = time.perf_counter()
        answers = iter(self._network.infer([look for question in questions for look in question.looks]))
        answered = time.perf_counter()
        for target, question in zip(self.targets, questions, strict=True):
            # A target that a network loses is looked for in several places.
            target.take(question, list(islice(answers, len(question.looks))), 0.0)
        taken = time.perf_counter()
        for target in self.targets:
            target.settle()
        settled = time.perf_counter()
        if timed:
            durations = (asked - started, answered - asked, taken - answered, taken - started, settled - taken)
            for stage, seconds in zip(STAGES, durations, strict=True):
                self.seconds[stage].append(seconds)


def _footage(size: tuple[int, int], targets: int) -> tuple[list[ArrayFrame], list[Box]]:
    """Rendered frames, and a box for each target in the first: the clip's target, then places in a grid."""
    clip = SyntheticClip(300, *size)
    rendered = [clip.render(index) for index in range(_DISTINCT_FRAMES)]
    first = rendered[0].box
    columns = max(int(np.ceil(np.sqrt(targets))), 2)
    grid = [
        Box.from_center(size[0] * (i % columns + 0.5) / columns, size[1] * (i // columns + 0.5) / columns, *first_size)
        for i, first_size in enumerate([(first.w, first.h)] * (targets - 1))
    ]
    return [frame_from_array(frame.image) for frame in rendered], [first, *grid]


def _to_and_fro(index: int, count: int) -> int:
    """0, 1 ... count - 1, count - 2 ... 1, 0, 1 ..., so that the target never jumps."""
    position = index % (2 * count - 2)
    return min(position, 2 * count - 2 - position)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB
