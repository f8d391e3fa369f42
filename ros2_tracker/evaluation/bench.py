"""`ros2-tracker bench`: how long each stage of an update takes on this machine, and how much memory a tracker needs."""

from __future__ import annotations

import os
import platform
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import ros2_tracker
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.tracking.crop import Region, crop, mean_rgb
from ros2_tracker.tracking.frame import ArrayFrame, frame_from_array
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.settings import TargetSettings
from ros2_tracker.tracking.target import Target

STAGES = ("crop", "network", "decode", "update")
_WARM_UP_FRAMES = 5
# Rendered frames, played to and fro: enough not to lie in the cache at camera sizes, few enough to be ready soon.
_DISTINCT_FRAMES = 24
_FRAME_PERIOD_S = 1.0 / 30.0
_MIB = 1024.0 * 1024.0

_Result = TypeVar("_Result")


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
    stages: dict[str, Latency]
    """Per target: crop, network, decode, and the whole update, which is those and motion and reliability."""
    frame: Latency
    """All targets' updates for one frame."""
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
        stages = [(name if name != "update" else "update (whole)", latency) for name, latency in self.stages.items()]
        if self.targets > 1:
            stages.append((f"frame ({self.targets} targets)", self.frame))
        for name, latency in stages:
            rows.append(f"{name:<22}{latency.p50:9.2f}{latency.p99:9.2f}{latency.mean:9.2f}{latency.max:9.2f}")
        return "\n".join(
            [
                f"{machine['cpu']}, {machine['usable_cores']} of {machine['cores']} cores usable, "
                f"Python {machine['python']}, NumPy {machine['numpy']}, OpenCV {machine['opencv']}",
                f"{self.model} on {self.engine}, {self.frames} frames of {self.size[0]}x{self.size[1]}, "
                f"{self.targets} target{'s' if self.targets != 1 else ''}",
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
    engine: str = "auto",
    frames: int = 300,
    size: tuple[int, int] = (640, 480),
    targets: int = 1,
) -> BenchReport:
    """Load the model and time `frames` frames of `size` = (width, height) px with `targets` targets.

    The stages are timed by calling, once per target and frame, the functions that the update calls; stages and
    updates take turns in going first, so that neither always finds the frame in the cache.

    Raises:
        ValueError: an unknown model or engine, no frames, no targets, a size that the clip does not have.
        FileNotFoundError: the weights are not there.
        EngineError: the engine is not installed or refuses the file.

    """
    if frames < 1 or targets < 1:
        raise ValueError(f"frames and targets must be at least 1, got {frames} and {targets}")
    machine = machine_description()
    before = _resident_mib()
    started = time.perf_counter()
    network = TrackingNetwork.load(model, engine)
    load_s = time.perf_counter() - started
    loaded = _resident_mib()

    images, boxes = _footage(size, targets)
    lanes = [_Lane(network, images[0], box) for box in boxes]
    frame_s: list[float] = []
    for index in tqdm(range(1, frames + _WARM_UP_FRAMES + 1), unit="frame", desc="bench", disable=None, leave=False):
        image = images[_to_and_fro(index, len(images))]
        if index == _WARM_UP_FRAMES + 1:
            for lane in lanes:
                lane.clear()
            frame_s.clear()
        if index % 2:
            for lane in lanes:
                lane.time_stages(image)
        frame_s.append(sum(lane.time_update(image, index * _FRAME_PERIOD_S) for lane in lanes))
        if not index % 2:
            for lane in lanes:
                lane.time_stages(image)
    return BenchReport(
        machine=machine,
        model=network.variant.name,
        engine=network.engine.description,
        size=size,
        frames=frames,
        targets=targets,
        stages={stage: Latency.of([s for lane in lanes for s in lane.seconds[stage]]) for stage in STAGES},
        frame=Latency.of(frame_s),
        load_s=load_s,
        memory_before_mib=before,
        memory_loaded_mib=loaded,
        memory_peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
    )


class _Lane:
    """One target and its measurements."""

    def __init__(self, network: TrackingNetwork, image: ArrayFrame, box: Box) -> None:
        self._network = network
        self._target = Target(network, TargetSettings(), image, box.as_tuple(), 0.0)
        self._fill = mean_rgb(image)
        template = network.variant.template
        self._template: NDArray[np.uint8] = crop(image, Region.around(box, template.factor), template.size, self._fill)
        self.seconds: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def clear(self) -> None:
        """Forget what was measured."""
        for seconds in self.seconds.values():
            seconds.clear()

    def time_stages(self, image: ArrayFrame) -> None:
        """Crop, infer and decode as the next update would."""
        network, search = self._network, self._network.variant.search
        region = Region.around(self._target.box, search.factor)
        patch = self._timed("crop", lambda: crop(image, region, search.size, self._fill))
        outputs = self._timed("network", lambda: network.infer(self._template, patch))
        self._timed("decode", lambda: network.decode(outputs))

    def time_update(self, image: ArrayFrame, stamp: float) -> float:
        """One whole update; its seconds."""
        self._timed("update", lambda: self._target.update(image, stamp))
        return self.seconds["update"][-1]

    def _timed(self, stage: str, call: Callable[[], _Result]) -> _Result:
        started = time.perf_counter()
        result = call()
        self.seconds[stage].append(time.perf_counter() - started)
        return result


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
