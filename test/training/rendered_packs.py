"""Write packs in tests."""

from __future__ import annotations

import json

import cv2

from ros2_tracker.tracking.crop import Region, crop, mean_rgb
from ros2_tracker.tracking.frame import frame_from_array

CROP_PX = 352


def context_crop(image, box):
    """JPEG of the object's surroundings, and its box in it."""
    frame = frame_from_array(image)
    region = Region.around(box, 6.0)
    rgb = crop(frame, region, CROP_PX, mean_rgb(frame))
    scale = CROP_PX / region.side
    inside = [176.0, 176.0, box.w * scale, box.h * scale]
    return cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes(), inside


def write_pack(folder, name, crops):
    """`crops`: (track, JPEG, box)."""
    entries, offset = [], 0
    with (folder / f"{name}.bin").open("wb") as file:
        for track, jpeg, box in crops:
            file.write(jpeg)
            entries.append([track, offset, len(jpeg), box])
            offset += len(jpeg)
    (folder / f"{name}.json").write_text(json.dumps(entries))
    return folder / f"{name}.json"
