"""Trackers that an evaluation runs side by side: ours, and those of OpenCV with weights that the user gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

import ros2_tracker
from ros2_tracker.engines.load import EngineSettings
from ros2_tracker.models.digest import file_sha256
from ros2_tracker.models.variant import find_weights, load_variant, template_graph
from ros2_tracker.tracking import motion
from ros2_tracker.tracking.network import TrackingNetwork
from ros2_tracker.tracking.result import ReliabilitySignals, TrackResult, TrackState
from ros2_tracker.tracking.settings import default_settings, target_settings
from ros2_tracker.tracking.tracker import Tracker

BoxTuple = tuple[float, float, float, float]
KINDS = ("csrt", "kcf", "nano:FOLDER", "vit:FILE", "model:NAME")


class PeerError(ValueError):
    """A tracker that cannot be run here; the text says what it needs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a tracker says after one frame."""

    box: BoxTuple | None
    """(x, y, w, h) px: its best guess, even when it says that it lost the target; None when it has none."""
    state: TrackState
    reliability: float | None = None
    score: float | None = None
    signals: ReliabilitySignals | None = None


class SequenceTracker(Protocol):
    """Follows one target at a time through frames given as (H, W, 3) uint8 BGR. Stamps are seconds."""

    description: str
    """What runs, with versions and threads."""

    def init(self, frame: NDArray[np.uint8], box: BoxTuple, stamp: float) -> None:
        """Start on `box`, (x, y, w, h) px; ValueError when it cannot be followed."""
        ...

    def update(self, frame: NDArray[np.uint8], stamp: float) -> Answer:
        """Find the target in the next frame."""
        ...

    def predict(self, stamp: float) -> BoxTuple | None:
        """Where the target should be at a later time, without an image; None: where it was."""
        ...


@dataclass(frozen=True, slots=True)
class TrackerSpec:
    """A tracker by name: small enough to be handed to another process, which loads it."""

    name: str
    """In tables and in names of folders."""
    kind: str
    """`model`, or one of OpenCV's."""
    source: str = ""
    """A variant's name, or the folder or file of a peer's weights."""
    settings: EngineSettings = field(default_factory=EngineSettings)
    """Only for `model`."""
    changed: tuple[tuple[str, str], ...] = ()
    """Only for `model`: (name, value) of settings that are not at their defaults, see `target_settings`."""

    def load(self, threads: int = 0) -> SequenceTracker:
        """Make it, on that many threads (0: its own choice).

        Raises:
            PeerError: this OpenCV does not have it, or its weights are not there.
            ValueError, OSError, EngineError: as `Tracker.load`.

        """
        if self.kind == "model":
            engine = replace(self.settings, threads=threads or self.settings.threads)
            return OurTracker(self.source, engine, dict(self.changed))
        return OpenCVTracker(self.kind, Path(self.source))

    def fingerprint(self) -> dict[str, Any]:
        """What its results depend on: other ones are not taken up again."""
        versions = {"ros2_tracker": ros2_tracker.__version__, "opencv": cv2.__version__}
        if self.kind != "model":
            files = weight_files(self.kind, Path(self.source))
            return {**versions, "kind": self.kind, "weights": {f.name: file_sha256(f) for f in files}}
        settings = {key: str(value) for key, value in asdict(self.settings).items()}
        files = _our_files(self.source, self.settings)
        weights = {file.name: file_sha256(file) for file in files}
        ours = {"model": self.source, "settings": settings, "changed": dict(self.changed)}
        return {**versions, **ours, "weights": weights, "code": _code_digest()}


def our_spec(model: str, settings: EngineSettings, changed: Mapping[str, str] | None = None) -> TrackerSpec:
    """The tracker of this package with that variant, and with settings changed as `target_settings` takes them."""
    name = model if model != "default" else "ours"
    return TrackerSpec(name, "model", model, settings, tuple(sorted((changed or {}).items())))


def parse_peer(text: str, settings: EngineSettings) -> TrackerSpec:
    """`csrt`, `kcf`, `nano:FOLDER`, `vit:FILE`, or `model:NAME` for another variant of ours.

    Raises:
        PeerError: something else, or what it needs is not there; the text says what to do.

    """
    kind, _, source = text.partition(":")
    if kind == "model" and source:
        try:
            load_variant(source)
        except ValueError as error:
            raise PeerError(f"--peer {text}: {error}") from error
        return TrackerSpec(source, "model", source, replace(settings, weights=None))
    if kind not in _OPENCV or (bool(source) != (kind in _WEIGHTS)):
        raise PeerError(f"peer {text!r} must be one of {', '.join(KINDS)}")
    weight_files(kind, Path(source))
    _creator(kind)
    return TrackerSpec(kind, kind, source)


class OurTracker:
    """`ros2_tracker.Tracker` as the others are run."""

    def __init__(self, model: str, settings: EngineSettings, changed: Mapping[str, str] | None = None) -> None:
        """Load a variant; errors as those of `Tracker.load` and of `target_settings`."""
        network = TrackingNetwork.load(model, settings)
        self._settings = target_settings(changed or {}, default_settings(network.variant))
        self._tracker = Tracker(network, self._settings)
        self._last: TrackResult | None = None
        self._stamp = 0.0
        self.description = f"{self._tracker.network.variant.name} on {self._tracker.network.engine.description}"

    def init(self, frame: NDArray[np.uint8], box: BoxTuple, stamp: float) -> None:
        """Start on a box."""
        self._tracker.init(frame, box, stamp)
        self._last, self._stamp = None, stamp

    def update(self, frame: NDArray[np.uint8], stamp: float) -> Answer:
        """The published box, and while LOST the network's best one."""
        result = self._tracker.update(frame, stamp)
        self._last, self._stamp = result, stamp
        return Answer(result.candidate, result.state, result.reliability, result.score, result.signals)

    def predict(self, stamp: float) -> BoxTuple | None:
        """The motion model's box, as the node reports it with every status."""
        if self._last is None or self._last.state is TrackState.LOST:
            return None
        return motion.predict(self._last.estimate, stamp - self._stamp, self._settings.motion).box.as_tuple()


class OpenCVTracker:
    """One of OpenCV's single-object trackers. It says only whether it has the target, and some give a score."""

    def __init__(self, kind: str, weights: Path) -> None:
        """Find it in this OpenCV; PeerError when it is not there or refuses the weights."""
        self._create = _creator(kind, weights)
        self._tracker: Any = None
        threads = cv2.getNumThreads()
        self.description = f"OpenCV {cv2.__version__} {_OPENCV[kind]}, {threads} thread{'s' if threads != 1 else ''}"

    def init(self, frame: NDArray[np.uint8], box: BoxTuple, stamp: float) -> None:
        """Start on a box, rounded to whole pixels because OpenCV takes no others; ValueError when it is refused."""
        try:
            self._tracker = self._create()
            self._tracker.init(frame, tuple(round(v) for v in box))
        except cv2.error as error:
            raise ValueError(f"{self.description} refuses box {box}: {error.err}") from error

    def update(self, frame: NDArray[np.uint8], stamp: float) -> Answer:
        """OpenCV's answer; LOST where it says that it found nothing, and then without a box."""
        try:
            found, box = self._tracker.update(frame)
        except cv2.error as error:
            raise ValueError(f"{self.description}: {error.err}") from error
        score = float(self._tracker.getTrackingScore()) if hasattr(self._tracker, "getTrackingScore") else None
        if not found:
            return Answer(None, TrackState.LOST, score=score)
        x, y, w, h = (float(v) for v in box)
        return Answer((x, y, w, h), TrackState.TRACKING, score=score)

    def predict(self, stamp: float) -> BoxTuple | None:
        """They have no motion model."""
        return None


_OPENCV = {"csrt": "TrackerCSRT", "kcf": "TrackerKCF", "nano": "TrackerNano", "vit": "TrackerVit"}
# What the names of the weight files must contain.
_WEIGHTS = {"nano": ("backbone", "head"), "vit": ("",)}


def weight_files(kind: str, source: Path) -> list[Path]:
    """The weight files of a peer: NanoTrack's backbone and head in a folder, VitTrack's one file.

    Raises:
        PeerError: they are not there, or more than one could be meant.

    """
    found = []
    for part in _WEIGHTS.get(kind, ()):
        matching = [source] if not part else sorted(source.glob(f"*{part}*.onnx"))
        if len(matching) != 1 or not matching[0].is_file():
            wanted = f"one file *{part}*.onnx in it" if part else "an ONNX file"
            raise PeerError(f"--peer {kind}:{source}: expected {wanted}, found {len(matching) if part else 'none'}")
        found.append(matching[0])
    return found


def _creator(kind: str, weights: Path | None = None) -> Callable[[], Any]:
    """What makes the tracker in this OpenCV: in its main module, or among its legacy ones."""
    name = _OPENCV[kind]
    homes = (cv2, getattr(cv2, "legacy", None))
    create = next((c for home in homes if (c := getattr(home, f"{name}_create", None)) is not None), None)
    if create is None:
        package = "opencv-contrib-python in place of opencv-python" if kind in ("csrt", "kcf") else "opencv-python>=4.9"
        raise PeerError(f"--peer {kind}: this OpenCV ({cv2.__version__}) has no {name}; `pip install {package}` has it")
    if kind not in _WEIGHTS or weights is None:
        return create
    parameters = getattr(cv2, f"{name}_Params")()
    files = [str(file) for file in weight_files(kind, weights)]
    if kind == "nano":
        parameters.backbone, parameters.neckhead = files
    else:
        (parameters.net,) = files
    return lambda: create(parameters)


def _our_files(model: str, settings: EngineSettings) -> list[Path]:
    """Everything beside the code that a variant's answers can depend on, as far as it is there."""
    variant = load_variant(model)
    named = [Path(settings.weights)] if settings.weights else []
    own = [find_weights(name) for name in (*variant.graphs.values(), *([variant.weights] if variant.weights else []))]
    found = [*named, *(file for file in own if file is not None)]
    candidates = [*found, *map(template_graph, found), *([variant.reliability] if variant.reliability else [])]
    return [file for file in candidates if file.is_file()]


def _code_digest() -> str:
    """Changes with the code that follows a target, so that figures of an older state are not taken up again."""
    digest = hashlib.sha256()
    package = Path(ros2_tracker.__file__).parent
    for folder in ("tracking", "models", "engines"):
        for file in sorted(f for f in (package / folder).rglob("*") if f.suffix in (".py", ".yaml")):
            digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()
