"""`make demo`: the real node over real DDS, fed a clip as a camera would, with a summary and an overlay at the end.

Run as `python -m ros2_tracker.ros.demo [--sequence FOLDER | --video FILE --init x,y,w,h] --output FOLDER`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np
import rclpy
from numpy.typing import NDArray
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tqdm import tqdm
from vision_msgs.msg import Detection2D, Detection2DArray

from ros2_tracker.evaluation.metrics import agreement
from ros2_tracker.evaluation.results import OverlayVideo, TracksFile
from ros2_tracker.evaluation.sequences import FrameSource, open_frames
from ros2_tracker.evaluation.synthetic import SyntheticClip
from ros2_tracker.msg import TrackEvent, TrackStatus
from ros2_tracker.ros import boxes, processes, qos
from ros2_tracker.ros.environment import isolate, share_file, use_large_image_profile
from ros2_tracker.ros.image_view import image_message
from ros2_tracker.ros.memory import tune_malloc
from ros2_tracker.ros.messages import stamp_ns
from ros2_tracker.tracking.frame_buffer import NANOSECONDS
from ros2_tracker.tracking.overlay import draw_footer, draw_target
from ros2_tracker.tracking.result import TrackState

_TARGET_ID = "demo"
_READY_TIMEOUT_S = 60.0
_INIT_TIMEOUT_S = 20.0
_RESEND_S = 1.0
# After the last image: for the answers still under way.
_TAIL_S = 1.0
_DEFAULT_FPS = 30.0
_READ_AHEAD_BYTES = 400 * 1024 * 1024

XYWH = tuple[float, float, float, float]


class DemoError(RuntimeError):
    """The demo cannot go on; the text says why."""


@dataclass(slots=True)
class _Answer:
    """What the node said about one frame."""

    box: XYWH | None
    reliability: float
    state: TrackState
    latency_s: float


@dataclass(slots=True)
class _Recording:
    """Everything that was sent and came back, by frame number."""

    stamps_ns: dict[int, int] = field(default_factory=dict)
    answers: dict[int, _Answer] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)


class _DemoNode(Node):
    """Camera, operator and listener in one: publishes images and the box, collects the answers."""

    def __init__(self) -> None:
        super().__init__("demo")
        self.recording = _Recording()
        self.initialized = threading.Event()
        self.rejection = ""
        self._frame_of: dict[int, int] = {}
        self._arrived_ns: dict[int, int] = {}
        self._images = self.create_publisher(Image, "image", qos.image_qos("best_effort"))
        self._init = self.create_publisher(Detection2D, "tracker/init", qos.COMMAND)
        self.create_subscription(TrackEvent, "tracker/events", self._on_event, qos.EVENT)
        self.create_subscription(Detection2DArray, "tracker/tracks", self._on_tracks, qos.RESULT)
        self.create_subscription(TrackStatus, "tracker/status", self._on_status, qos.STATUS)

    def heard(self) -> bool:
        """Whether the node listens to both images and boxes."""
        return self._images.get_subscription_count() > 0 and self._init.get_subscription_count() > 0

    def send_image(self, frame: int, image: NDArray[np.uint8]) -> Header:
        """Publish an (H, W, 3) BGR image stamped now; returns its header."""
        header = Header(stamp=self.get_clock().now().to_msg(), frame_id="camera_optical_frame")
        stamp = stamp_ns(header.stamp)
        self._frame_of[stamp] = frame
        self.recording.stamps_ns[frame] = stamp
        self._images.publish(image_message(image, header))
        return header

    def send_box(self, box: XYWH, header: Header) -> None:
        """Publish the box to follow, under the header of the image it was drawn on."""
        self._init.publish(boxes.detection(box, _TARGET_ID, 1.0, header))

    def _on_event(self, msg: TrackEvent) -> None:
        if msg.type == TrackEvent.INITIALIZED:
            self.initialized.set()
        elif msg.type == TrackEvent.REJECTED:
            self.rejection = msg.text
        else:
            frame = self._frame_of.get(stamp_ns(msg.header.stamp), -1)
            name = {TrackEvent.UNCERTAIN: "UNCERTAIN", TrackEvent.LOST: "LOST", TrackEvent.RECOVERED: "RECOVERED"}
            after = f" after {msg.duration:.2f} s" if msg.type == TrackEvent.RECOVERED else ""
            self.recording.events.append(f"frame {frame}: {name.get(msg.type, str(msg.type))}{after}")

    def _on_tracks(self, msg: Detection2DArray) -> None:
        self._arrived_ns[stamp_ns(msg.header.stamp)] = self.get_clock().now().nanoseconds

    def _on_status(self, msg: TrackStatus) -> None:
        stamp = stamp_ns(msg.header.stamp)
        frame = self._frame_of.get(stamp)
        if frame is None or msg.predicted:  # a measured one follows, or the frame counts as not answered
            return
        state = TrackState(msg.state)
        cx, cy, w, h = (float(v) for v in msg.box)
        box = None if state is TrackState.LOST else (cx - w / 2, cy - h / 2, w, h)
        latency_s = (self._arrived_ns.get(stamp, self.get_clock().now().nanoseconds) - stamp) / NANOSECONDS
        self.recording.answers[frame] = _Answer(box, float(msg.reliability), state, latency_s)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; exit status 1 when no track came out, 2 for wrong arguments."""
    arguments = _parser().parse_args(argv)
    try:
        source, box = _clip(arguments)
        recording = _play(source, box, arguments)
        return _finish(source, box, recording, Path(arguments.output), _fps(source, arguments))
    except (DemoError, ValueError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--sequence", help="folder in OTB layout: img/ and groundtruth_rect.txt")
    parser.add_argument("--video", help="video file; needs --init")
    parser.add_argument("--init", help="x,y,w,h of the target in the first frame, px")
    parser.add_argument("--output", default="demo_output", help="folder for overlay.mp4 and tracks.csv")
    parser.add_argument("--fps", type=float, help="play at this rate instead of the clip's own (30 Hz if unknown)")
    parser.add_argument("--model", default="default")
    parser.add_argument("--system-dds", action="store_true", help="do not use our Fast DDS profile")
    parser.add_argument("--system-malloc", action="store_true", help="do not tune malloc")
    return parser


def _clip(arguments: argparse.Namespace) -> tuple[FrameSource, XYWH]:
    path = arguments.sequence or arguments.video
    source: FrameSource = open_frames(path) if path else SyntheticClip()
    if arguments.init:
        try:
            x, y, w, h = (float(v) for v in arguments.init.split(","))
        except ValueError:
            raise DemoError(f"--init is {arguments.init!r}, expected x,y,w,h in pixels") from None
        return source, (x, y, w, h)
    if source.ground_truth is None or np.isnan(source.ground_truth[0]).any():
        raise DemoError(f"{path}: the first frame's box is not known, give it with INIT=x,y,w,h")
    x, y, w, h = (float(v) for v in source.ground_truth[0])
    return source, (x, y, w, h)


def _fps(source: FrameSource, arguments: argparse.Namespace) -> float:
    fps = arguments.fps or source.fps or _DEFAULT_FPS
    if not 0.1 <= fps <= 1000.0:
        raise DemoError(f"frame rate is {fps:g} Hz, must be within [0.1, 1000]")
    return float(fps)


def _play(source: FrameSource, box: XYWH, arguments: argparse.Namespace) -> _Recording:
    """Start the node, play the clip to it, stop it."""
    environment = dict(os.environ)
    isolate(environment)
    if not arguments.system_dds:
        use_large_image_profile(environment)
    os.environ.update(environment)
    if not arguments.system_malloc:
        tune_malloc()
    with tempfile.NamedTemporaryFile("w+", suffix=".log", prefix="tracker_node_") as log:
        process = processes.start("ros2_tracker.node", _node_arguments(arguments), environment, log)
        rclpy.init()
        node = _DemoNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        spinner = threading.Thread(target=_spin, args=(executor,), daemon=True)
        spinner.start()
        try:
            _wait_until(node.heard, _READY_TIMEOUT_S, lambda: process.poll() is None, "the node did not come up")
            images = _prepared(source)
            _initialise(node, next(images), box)
            _stream(node, images, len(source), _fps(source, arguments))
            time.sleep(_TAIL_S)
        except DemoError as error:
            log.seek(0)
            raise DemoError(f"{error}\n--- what the node printed ---\n{log.read()[-4000:]}") from None
        finally:
            processes.stop(process)
            rclpy.try_shutdown()
            spinner.join(2.0)
        return node.recording


def _node_arguments(arguments: argparse.Namespace) -> list[str]:
    return [
        "--ros-args",
        "--params-file", str(share_file(Path("config") / "tracker.yaml")),
        "-p", f"model:={arguments.model}",
        "-p", f"tune_malloc:={str(not arguments.system_malloc).lower()}",
    ]  # fmt: skip


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


def _wait_until(condition: Callable[[], bool], timeout_s: float, alive: Callable[[], bool], failure: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if not alive():
            raise DemoError(f"{failure}: it ended")
        if time.monotonic() > deadline:
            raise DemoError(f"{failure} within {timeout_s:g} s")
        time.sleep(0.05)


def _prepared(source: FrameSource) -> Iterator[NDArray[np.uint8]]:
    """The frames, the first of them read ahead: decoding beside the tracker would take its processor time."""
    frames = iter(source)
    ready: list[NDArray[np.uint8]] = []
    n_bytes = 0
    for frame in tqdm(frames, total=len(source) or None, unit="frame", desc="reading"):
        ready.append(frame)
        n_bytes += frame.nbytes
        if n_bytes > _READ_AHEAD_BYTES:
            break
    if not ready:
        raise DemoError(f"{source.name}: no frames")
    return chain(ready, frames)


def _initialise(node: _DemoNode, image: NDArray[np.uint8], box: XYWH) -> None:
    """Send the first frame and the box until the node says that it follows."""
    deadline = time.monotonic() + _INIT_TIMEOUT_S
    while time.monotonic() < deadline:
        node.send_box(box, node.send_image(0, image))
        if node.initialized.wait(_RESEND_S):
            return
    raise DemoError(f"the box was not accepted: {node.rejection or 'no answer'}")


def _stream(node: _DemoNode, images: Iterator[NDArray[np.uint8]], total: int, fps: float) -> None:
    """Publish the other frames at the camera's rate."""
    due = time.monotonic()
    for frame, image in enumerate(tqdm(images, total=max(total - 1, 0), unit="frame", desc="playing"), start=1):
        due = max(due + 1.0 / fps, time.monotonic() - 1.0 / fps)
        time.sleep(max(due - time.monotonic(), 0.0))
        node.send_image(frame, image)


def _finish(source: FrameSource, box: XYWH, recording: _Recording, output: Path, fps: float) -> int:
    """Write tracks.csv and overlay.mp4, print the summary."""
    output.mkdir(parents=True, exist_ok=True)
    recording.answers[0] = _Answer(box, 1.0, TrackState.TRACKING, 0.0)
    truth = source.ground_truth
    first_ns = recording.stamps_ns[0]
    last_box = box
    with TracksFile(output / "tracks.csv") as tracks, OverlayVideo(output / "overlay.mp4", fps) as overlay:
        for frame, image in enumerate(tqdm(source, total=len(source) or None, unit="frame", desc="overlay")):
            answer = recording.answers.get(frame)
            picture = image.copy()
            if answer is not None:
                last_box = answer.box or last_box
                stamp = (recording.stamps_ns[frame] - first_ns) / NANOSECONDS
                tracks.write(frame, stamp, answer.box, answer.reliability, answer.state)
                known = truth is not None and not np.isnan(truth[frame]).any()
                draw_target(
                    picture,
                    _TARGET_ID,
                    answer.box,
                    answer.reliability,
                    answer.state,
                    candidate=last_box,
                    truth=truth[frame] if known and truth is not None else None,
                    latency_s=answer.latency_s if frame else None,
                )
            draw_footer(picture, [f"frame {frame}" + ("" if answer is not None else "  skipped: the node was busy")])
            overlay.write(picture)
    return _summarise(source, recording, output)


def _summarise(source: FrameSource, recording: _Recording, output: Path) -> int:
    answers = {frame: answer for frame, answer in recording.answers.items() if frame > 0}
    tracked = [answer for answer in answers.values() if answer.box is not None]
    print(f"frames in        {len(recording.stamps_ns) - 1} (after the init frame)")
    print(f"frames answered  {len(answers)}, with a track {len(tracked)}")
    if answers:
        latencies = np.array([answer.latency_s for answer in answers.values()]) * 1e3
        p50, p99 = np.percentile(latencies, [50, 99])
        reliabilities = [answer.reliability for answer in answers.values()]
        print(f"stamp to track   p50 {p50:.1f} ms, p99 {p99:.1f} ms")
        print(f"reliability      mean {np.mean(reliabilities):.2f}, lowest {min(reliabilities):.2f}")
    for event in recording.events:
        print(f"                 {event}")
    if source.ground_truth is not None and answers:
        frames = sorted(answers)
        given = np.array([answers[f].box or (np.nan,) * 4 for f in frames])
        result = agreement(given, source.ground_truth[frames])
        if result is not None:
            print(f"mean IoU         {result.mean_iou:.3f} over {result.frames} answered frames with a visible target")
    print(f"written          {output / 'overlay.mp4'}, {output / 'tracks.csv'}")
    if not tracked:
        print("demo: no track came out", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
