#!/usr/bin/env python3
"""Pseudo-labels: make a pack of training crops of what moves in unlabelled clips.

A detector (NanoDet's ONNX graph) proposes objects twice a second or so, a tracker (NanoTrack in OpenCV) follows each
forwards and, from where it ends, back. Kept is what both ways agree on, where the thing, or the camera, has moved; the
detector's box is averaged in where it sees the same thing. The weights of both are the user's. Look at the pack before
you train on it.

Example: python scripts/label_clips.py clips/*.mp4 --detector nanodet_m.onnx --tracker weights/nanotrack -o packs/clips
(needs `pip install 'ros2-tracker[train]' tqdm`; the pack is packs/clips.json and .bin)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from tqdm import tqdm

from ros2_tracker.evaluation.peers import OpenCVTracker, PeerError
from ros2_tracker.tracking.geometry import Box, iou
from ros2_tracker.training.packs import PackWriter

Image = NDArray[np.uint8]
Propose = Callable[[Image], list[Box]]
"""Boxes of objects in an image, the surest first."""
Follow = Callable[[list[Image], Box], list[Box]]
"""A box an image, from the first one on, until the object is lost."""

_MOST_FRAMES = 240
_MOST_SIDE_PX = 960
_EVERY, _LONGEST, _SHORTEST = 60, 100, 10
_PROPOSALS, _MOST_TRACKS, _CROPS = 4, 8, 21
_SMALLEST_PX = 18.0
_LARGEST_SHARE = 0.4
# Both ways: in every frame, at the start, and in the mean.
_AGREED, _AGREED_FIRST, _AGREED_MEAN = 0.4, 0.6, 0.7
# Of its size: what moves less in a still camera shows the same picture again and again.
_LEAST_MOTION = 0.35
# Mean change of a small grey picture from which a frame is of another scene.
_CUT = 35.0


class NanoDet:
    """NanoDet-m (github.com/RangiLyu/nanodet): three levels of class scores and of distances to the box's sides.

    Each distance is the mean of a distribution over 0..7 strides (Li et al. 2020, Generalized Focal Loss, eq. 5).
    """

    _STRIDES = (8, 16, 32)
    _MEAN, _STD = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)

    def __init__(self, graph: Path, least: float = 0.4) -> None:
        """`least`: score of a proposal. ValueError when the graph is another one's."""
        if not graph.is_file():
            raise ValueError(f"{graph}: there is no such file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(str(graph), options)
        (given,) = self._session.get_inputs()
        self._input, self._side, self._least = given.name, given.shape[-1], least
        if len(self._session.get_outputs()) != 2 * len(self._STRIDES):
            raise ValueError(f"{graph}: has {len(self._session.get_outputs())} outputs, NanoDet-m's graph has 6")

    def __call__(self, image: Image) -> list[Box]:
        """See `Propose`."""
        height, width = image.shape[:2]
        scale = self._side / max(height, width)
        small = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        padded = np.zeros((self._side, self._side, 3), np.float32)
        padded[: small.shape[0], : small.shape[1]] = (small - np.array(self._MEAN)) / self._STD
        answers = self._session.run(None, {self._input: padded.transpose(2, 0, 1)[None]})
        levels = len(self._STRIDES)
        found = [self._level(answers[i], answers[i + levels], stride) for i, stride in enumerate(self._STRIDES)]
        boxes, scores = (np.concatenate(part) for part in zip(*found, strict=True))
        boxes = np.clip(boxes / scale, 0.0, [width, height, width, height])
        boxes[:, 2:] -= boxes[:, :2]
        kept = np.array(cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), self._least, 0.5), np.int64).reshape(-1)
        return [Box(*boxes[i]) for i in kept[np.argsort(-scores[kept])]]

    def _level(self, scores: NDArray, distances: NDArray, stride: int) -> tuple[NDArray, NDArray]:
        """Corners (N, 4) px of the input and scores (N,) of a level's proposals."""
        cells = self._side // stride
        y, x = np.mgrid[:cells, :cells].reshape(2, -1) * stride + 0.5 * (stride - 1)
        best = scores.reshape(cells * cells, -1).max(axis=1)
        shares = np.exp(distances.reshape(cells * cells, 4, -1))
        reach = (shares / shares.sum(-1, keepdims=True)) @ np.arange(shares.shape[-1]) * stride
        corners = np.stack([x - reach[:, 0], y - reach[:, 1], x + reach[:, 2], y + reach[:, 3]], axis=1)
        return corners[best > self._least], best[best > self._least]


def nanotrack(folder: Path) -> Follow:
    """OpenCV's NanoTrack with the weights of a folder; PeerError when they are not there."""
    tracker = OpenCVTracker("nano", folder)

    def follow(frames: list[Image], box: Box) -> list[Box]:
        tracker.init(frames[0], box.as_tuple(), 0.0)
        boxes = [box]
        for frame in frames[1:]:
            answer = tracker.update(frame, 0.0)
            if answer.box is None or answer.score is None or answer.score < 0.5 or min(answer.box[2:]) < 12.0:
                break
            boxes.append(Box(*answer.box))
        return boxes

    return follow


def tracks_of(frames: list[Image], propose: Propose, follow: Follow) -> list[dict[int, Box]]:
    """Boxes by frame number of each object that is followed well."""
    cuts = [i for i in range(1, len(frames)) if np.abs(_small(frames[i]) - _small(frames[i - 1])).mean() > _CUT]
    tracks: list[dict[int, Box]] = []
    for start in range(0, len(frames) - _SHORTEST, _EVERY):
        end = min([cut for cut in cuts if cut > start] + [len(frames), start + _LONGEST])
        area = frames[start].shape[0] * frames[start].shape[1]
        for box in propose(frames[start])[:_PROPOSALS]:
            known = any(start in track and iou(track[start], box) > 0.4 for track in tracks)
            if known or min(box.w, box.h) < _SMALLEST_PX or box.w * box.h > _LARGEST_SHARE * area:
                continue
            agreed = both_ways(frames[start:end], box, follow)
            if agreed and _moves(agreed):
                tracks.append({start + i: seen for i, seen in _with_proposals(frames[start:], agreed, propose).items()})
            if len(tracks) == _MOST_TRACKS:
                return tracks
    return tracks


def both_ways(frames: list[Image], box: Box, follow: Follow) -> dict[int, Box]:
    """Means of the boxes forwards and backwards where both agree; none when they do not on the whole."""
    forwards = follow(frames, box)
    if len(forwards) < _SHORTEST:
        return {}
    backwards = follow(frames[: len(forwards)][::-1], forwards[-1])[::-1]
    if len(backwards) < len(forwards):
        return {}
    agreement = [iou(a, b) for a, b in zip(forwards, backwards, strict=True)]
    if agreement[0] < _AGREED_FIRST or min(agreement) < _AGREED or np.mean(agreement) < _AGREED_MEAN:
        return {}
    pairs = enumerate(zip(forwards, backwards, strict=True))
    return {i: _mean(a, b) for i, (a, b) in pairs if agreement[i] >= _AGREED_FIRST}


def _with_proposals(frames: list[Image], track: dict[int, Box], propose: Propose) -> dict[int, Box]:
    """The track at the times of its crops, with the detector's box averaged in where it sees the same thing."""
    times = sorted(track)
    seen = {}
    for time in times[:: max(1, len(times) // (_CROPS - 1))][:_CROPS]:
        same = max(propose(frames[time]), key=lambda box: iou(box, track[time]), default=None)
        close = same is not None and iou(same, track[time]) > 0.5
        seen[time] = _mean(same, track[time]) if close else track[time]
    return seen


def _moves(track: dict[int, Box]) -> bool:
    centers = np.array([(box.cx, box.cy) for box in track.values()])
    return bool(np.ptp(centers, axis=0).max() >= _LEAST_MOTION * np.mean([box.size for box in track.values()]))


def _mean(a: Box, b: Box) -> Box:
    return Box(*((p + q) / 2 for p, q in zip(a.as_tuple(), b.as_tuple(), strict=True)))


def _small(image: Image) -> NDArray[np.float32]:
    return cv2.cvtColor(cv2.resize(image, (32, 18)), cv2.COLOR_BGR2GRAY).astype(np.float32)


def frames_of(clip: Path) -> Iterator[Image]:
    """Up to `_MOST_FRAMES` images of a clip, about 30 a second, of at most `_MOST_SIDE_PX`."""
    video = cv2.VideoCapture(str(clip))
    step = max(1, round((video.get(cv2.CAP_PROP_FPS) or 25.0) / 30.0))
    for number in range(_MOST_FRAMES * step):
        there, image = video.read()
        if not there:
            return
        if number % step == 0:
            scale = min(1.0, _MOST_SIDE_PX / max(image.shape[:2]))
            yield image if scale == 1.0 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path, metavar="CLIP", help="a file that OpenCV reads")
    parser.add_argument("--detector", type=Path, required=True, metavar="FILE", help="NanoDet-m's ONNX graph")
    parser.add_argument("--tracker", type=Path, required=True, metavar="FOLDER", help="NanoTrack's two ONNX graphs")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PACK", help="name of the pack, no ending")
    arguments = parser.parse_args()
    try:
        propose, follow = NanoDet(arguments.detector), nanotrack(arguments.tracker)
        total = 0
        with PackWriter(arguments.output.with_suffix(".json")) as pack:
            for clip in tqdm(arguments.clips, unit="clip"):
                frames = list(frames_of(clip))
                if not frames:
                    tqdm.write(f"{clip}: no images, left out", file=sys.stderr)
                try:
                    for track in tracks_of(frames, propose, follow):
                        pack.add_track([frames[time] for time in track], list(track.values()))
                        total += 1
                except ValueError as error:
                    # A box that the tracker or the pack refuses must not cost the other clips' tracks.
                    tqdm.write(f"{clip}: left out from here on: {error}", file=sys.stderr)
        print(f"{total} tracks" if total else "nothing was found, there is no pack")
    except (PeerError, ValueError, OSError) as error:
        print(f"label_clips: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
