"""Which images of a folder belong to a sequence, where a benchmark publishes longer folders than sequences."""

from __future__ import annotations

OTB_FIRST_IMAGE: dict[str, int] = {"BlurCar1": 247, "BlurCar3": 3, "BlurCar4": 18, "David": 300}
"""Number of the first annotated image (OTB-100's sequence list)."""
OTB_SHORTER = frozenset({"David", "Diving", "Football1", "Freeman3", "Freeman4", "Tiger1"})
"""Sequences of OTB-100 with more images than boxes: the last ones do not belong to them."""

# First and last image of each part, counted from 1 (UAV123's sequence list).
_UAV123_FOLDERS: dict[str, tuple[tuple[int, int], ...]] = {
    "bird1": ((1, 253), (775, 1477), (1573, 2437)),
    "car1": ((1, 751), (751, 1627), (1627, 2629)),
    "car6": ((1, 487), (487, 1807), (1807, 2953), (2953, 3925), (3925, 4861)),
    "car8": ((1, 1357), (1357, 2575)),
    "car16": ((1, 415), (415, 1993)),
    "group1": ((1, 1333), (1333, 2515), (2515, 3925), (3925, 4873)),
    "group2": ((1, 907), (907, 1771), (1771, 2683)),
    "group3": ((1, 1567), (1567, 2827), (2827, 4369), (4369, 5527)),
    "person2": ((1, 1189), (1189, 2623)),
    "person4": ((1, 1501), (1501, 2743)),
    "person5": ((1, 877), (877, 2101)),
    "person7": ((1, 1249), (1249, 2065)),
    "person8": ((1, 1075), (1075, 1525)),
    "person12": ((1, 601), (601, 1621)),
    "person14": ((1, 847), (847, 1813), (1813, 2923)),
    "person17": ((1, 1501), (1501, 2347)),
    "person19": ((1, 1243), (1243, 2791), (2791, 4357)),
    "truck4": ((1, 577), (577, 1261)),
    "uav1": ((1, 1555), (1555, 2377), (2473, 3469)),
}
UAV123_PARTS: dict[str, tuple[str, int, int | None]] = {
    f"{folder}_{number}": (folder, first, last)
    for folder, parts in _UAV123_FOLDERS.items()
    for number, (first, last) in enumerate(parts, start=1)
}
"""Sequence -> folder of its images, number of its first and of its last."""
