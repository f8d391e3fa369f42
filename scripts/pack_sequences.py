#!/usr/bin/env python3
"""Make a pack of training crops of annotated sequences, in any of the layouts that `ros2-tracker eval` reads.

Of each sequence some frames are taken, evenly from the first to the last in which the target is in view. Never pack
what you test on: compare clips, not names.

Example: python scripts/pack_sequences.py UAV123 -o packs/uav123 --crops 60 --without boat1,group2_2
(needs `pip install 'ros2-tracker[train]' tqdm`; the pack is packs/uav123.json and .bin)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ros2_tracker.evaluation.datasets import AnnotatedSequence, load_dataset
from ros2_tracker.tracking.geometry import Box
from ros2_tracker.training.packs import PackWriter

# Fewer crops of a track teach no more than a still.
_FEWEST = 8
_SMALLEST_PX = 4.0
# Share of a box that must lie in its image, and how many times as long as wide it may be.
_LEAST_INSIDE, _LONGEST = 0.4, 5.0


def main() -> int:
    """Command line; exit status 1: nothing to pack, or a folder that cannot be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="PACK", help="without .json or .bin")
    parser.add_argument("--crops", type=int, default=60, help="of a sequence, at most (default: 60)")
    parser.add_argument("--without", default="", metavar="A,B", help="sequences to leave out")
    arguments = parser.parse_args()
    if arguments.crops < _FEWEST:
        parser.error(f"--crops is {arguments.crops}, must be at least {_FEWEST}")
    without = set(filter(None, arguments.without.split(",")))
    try:
        index = arguments.output.with_name(f"{arguments.output.name}.json")
        tracks = pack(arguments.folders, index, arguments.crops, without)
    except (ValueError, OSError) as error:
        print(f"pack_sequences: {error}", file=sys.stderr)
        return 1
    print(f"{index}: {tracks} tracks" if tracks else f"{index} is not written: there is no track")
    return 0 if tracks else 1


def pack(folders: list[Path], index: Path, most: int, without: set[str]) -> int:
    """Write the pack; returns its number of tracks. What is left out is named on stderr.

    Raises:
        ValueError: a folder is no data set, or a name in `without` is in none of them.
        FileExistsError: there is such a pack already.

    """
    datasets = [load_dataset(folder) for folder in folders]
    strange = without - {each.name for dataset in datasets for each in (*dataset.sequences, *dataset.left_out)}
    if strange:
        raise ValueError(f"no sequence is called {', '.join(sorted(strange))}")
    for left_out in (each for dataset in datasets for each in dataset.left_out):
        print(f"left out: {left_out.name}: {left_out.reason}", file=sys.stderr)
    wanted = [each for dataset in datasets for each in dataset.sequences if each.name not in without]
    tracks = 0
    with PackWriter(index) as writer:
        for sequence in tqdm(wanted, unit="sequence", disable=None, leave=False):
            try:
                frames = frames_of(sequence, most)
                if len(frames) >= _FEWEST:
                    writer.add_track([sequence.image(i) for i in frames], [Box(*sequence.truth[i]) for i in frames])
                    tracks += 1
                    continue
                problem = f"shows its target in {len(frames)} frames, {_FEWEST} are needed"
            except ValueError as error:
                problem = str(error)
            tqdm.write(f"left out: {sequence.name}: {problem}", file=sys.stderr)
    return tracks


def frames_of(sequence: AnnotatedSequence, most: int) -> list[int]:
    """At most so many frames, evenly spread over those with a box that can be learnt from.

    ValueError naming the first image when it cannot be read.
    """
    boxes = np.asarray(sequence.truth, np.float64)
    image = sequence.image(0)
    height, width = image.shape[:2]
    x, y, w, h = boxes.T
    with np.errstate(invalid="ignore"):
        inside_w = np.minimum(x + w, width) - np.maximum(x, 0.0)
        inside_h = np.minimum(y + h, height) - np.maximum(y, 0.0)
        inside = (inside_w > 0.0) & (inside_h > 0.0) & (inside_w * inside_h >= _LEAST_INSIDE * w * h)
        fine = (np.minimum(w, h) >= _SMALLEST_PX) & (np.maximum(w, h) <= _LONGEST * np.minimum(w, h)) & inside
    frames = np.flatnonzero(fine & sequence.scorable)
    if len(frames) > most:
        frames = frames[np.unique(np.linspace(0, len(frames) - 1, most).round().astype(int))]
    return frames.tolist()


if __name__ == "__main__":
    sys.exit(main())
