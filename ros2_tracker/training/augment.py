"""What is done to each sample of a batch: regions, flips, colours, pastes; and the true box that follows from it.

Only small arrays are computed here, from (seed, sample); `training.render` applies them to the pixels. Coordinates are
continuous (`tracking.geometry`): px of the context crop, or fractions of a region's side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ros2_tracker.models.variant import InputSettings
from ros2_tracker.training.counter import Stream, uniform
from ros2_tracker.training.limits import check_range
from ros2_tracker.training.source import CROP_PX

Floats = NDArray[np.float64]
_DRAWS = 64
# Points a side at which the visible share of a box is looked at.
_PROBES = 12
SOFT_EDGE = 0.15
"""Width of the edge over which a pasted object fades, in half axes of its ellipse."""
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class AugmentSettings:
    """How much each sample is changed. Chances are shares of the samples; sizes are of the target, sqrt(w * h)."""

    shift: float = 1.0
    """Largest shift of the search region along each axis, in target sizes: how far it may move between two frames."""
    scale: float = 0.3
    """Largest change of the search region's side: exp(+-scale)."""
    stay_inside: float = 0.6
    """Chance that the shift keeps the search region inside its context crop as far as its side allows: where the crop
    ends tells where the target is."""
    template_shift: float = 0.08
    """The same for templates, which are cut around a box that is nearly true."""
    template_scale: float = 0.06
    flip: float = 0.5
    """Chance to mirror templates and search together."""
    colour: float = 0.25
    """Strength of brightness, contrast, saturation and tint: 0 is none."""
    grey: float = 0.08
    """Chance of grey images, templates and search together."""
    blur: float = 0.15
    """Chance of a blurred image, each by itself."""
    blur_sigma: float = 2.0
    """Largest sigma, px of the network's input."""
    cutout: float = 0.1
    """Chance of a rectangle without content over a part of the target."""
    distractor: float = 0.3
    """Chance of another object beside the target, pasted from a crop of the same batch."""
    occluder: float = 0.15
    """Chance of another object over a part of the target."""
    min_visible: float = 0.3
    """Samples that show less of their target than this share are not trained on (and counted)."""

    def __post_init__(self) -> None:
        """ValueError naming a value out of range."""
        for name in ("stay_inside", "flip", "grey", "blur", "cutout", "distractor", "occluder", "min_visible"):
            check_range(name, getattr(self, name), 0.0, 1.0)
        for name, limit in (("shift", 3.0), ("scale", 1.0), ("template_shift", 1.0), ("template_scale", 0.5)):
            check_range(name, getattr(self, name), 0.0, limit)
        check_range("colour", self.colour, 0.0, 0.9)
        check_range("blur_sigma", self.blur_sigma, 0.1, 5.0)

    def without_changes(self) -> AugmentSettings:
        """Only the regions move; for validation."""
        return replace(self, flip=0.0, colour=0.0, grey=0.0, blur=0.0, cutout=0.0, distractor=0.0, occluder=0.0)


class Regions(NamedTuple):
    """One square a sample, in px of its context crop."""

    x: Floats
    """(B,) left."""
    y: Floats
    side: Floats
    flip: NDArray[np.bool_]
    """(B,) mirrored left to right."""


class Looks(NamedTuple):
    """Colour and sharpness of one image a sample."""

    matrix: Floats
    """(B, 3, 3) from RGB to RGB."""
    offset: Floats
    """(B, 3) added, in 0..255."""
    sigma: Floats
    """(B,) of the blur, px of the network's input; 0 is sharp."""


class Paste(NamedTuple):
    """An object of another sample's search crop, put into the search region. Fractions of the region's side."""

    active: NDArray[np.bool_]
    """(B,)."""
    mate: NDArray[np.int64]
    """(B,) sample of the batch that it is taken from."""
    source: Floats
    """(B, 2) the object's middle in that sample's crop, px."""
    center: Floats
    """(B, 2)."""
    half: Floats
    """(B, 2) half axes of its ellipse."""
    magnification: Floats
    """(B,) px of the mate's crop per search side."""


class Plan(NamedTuple):
    """All that is done to a batch."""

    template: Regions
    recent: Regions
    search: Regions
    template_looks: Looks
    recent_looks: Looks
    search_looks: Looks
    pastes: tuple[Paste, ...]
    """In the order in which they are put on: distractors, then occluders."""
    cutout: Floats
    """(B, 4) x0, y0, x1, y1 as fractions of the search side; without area where there is none."""
    template_size: Floats
    """(B, 2) width and height of the target as fractions of the template's side."""
    box: Floats
    """(B, 4) cx, cy, w, h of the searched object, fractions of the search side."""
    visible: Floats
    """(B,) share of its box that is in the region and not covered."""
    present: NDArray[np.bool_]
    """(B,) the target is there to be found."""
    used: NDArray[np.bool_]
    """(B,) whether the sample is trained on; not where the target has (nearly) left the region or is covered."""


def plan(
    settings: AugmentSettings,
    template: InputSettings,
    search: InputSettings,
    seed: int,
    samples: NDArray[np.int64],
    boxes: tuple[Floats, Floats, Floats],
    tracks: tuple[NDArray[np.int64], NDArray[np.int64]],
    stream: Stream = Stream.AUGMENT,
) -> Plan:
    """Decide what is done to each sample.

    Args:
        settings: how much.
        template: the network's template.
        search: the network's search region.
        seed: of the run.
        samples: (B,) numbers in the run.
        boxes: (B, 4) cx, cy, w, h px in the crops of template, recent template and search.
        tracks: (B,) of template and search; they differ in negatives.
        stream: of random numbers.

    """
    u = _Draws(uniform(seed, stream, samples, _DRAWS))
    flip = u.below(settings.flip)
    t = _regions(boxes[0], template.factor, settings.template_shift, settings.template_scale, flip, u)
    r = _regions(boxes[1], template.factor, settings.template_shift, settings.template_scale, flip, u)
    s = _regions(boxes[2], search.factor, settings.shift, settings.scale, flip, u, settings.stay_inside)
    grey = u.below(settings.grey)
    looks = [_looks(settings, grey, u) for _ in range(3)]
    box = _seen_in(boxes[2], s)
    pastes = (
        _distractor(settings.distractor, box, boxes[2], tracks, u),
        _occluder(settings.occluder, box, boxes[2], tracks, u),
    )
    cutout = _cutout(settings.cutout, box, u)
    visible = _visible_share(box, pastes, cutout)
    present = tracks[0] == tracks[1]
    inside = ((box[:, :2] > 0.0) & (box[:, :2] < 1.0)).all(axis=1)
    used = ~present | (inside & (visible >= settings.min_visible))
    return Plan(t, r, s, *looks, pastes, cutout, _seen_in(boxes[0], t)[:, 2:], box, visible, present, used)


class _Draws:
    """Columns of random numbers, each taken once."""

    def __init__(self, numbers: Floats) -> None:
        self._numbers = numbers
        self._next = 0

    def __call__(self, low: float = 0.0, high: float = 1.0) -> Floats:
        """(B,) uniform numbers."""
        column = self._numbers[:, self._next]
        self._next += 1
        return low + (high - low) * column

    def below(self, chance: float) -> NDArray[np.bool_]:
        """(B,) True with this chance."""
        return self() < chance


def _regions(
    boxes: Floats, factor: float, shift: float, scale: float, flip: NDArray, u: _Draws, stay_inside: float = 0.0
) -> Regions:
    size = np.sqrt(boxes[:, 2] * boxes[:, 3])
    side = factor * size * np.exp(u(-scale, scale))
    room = np.maximum(CROP_PX - side, 0.0) / 2
    reach = np.where(u.below(stay_inside), np.minimum(shift * size, room), shift * size)
    x = boxes[:, 0] + u(-1.0, 1.0) * reach - side / 2
    y = boxes[:, 1] + u(-1.0, 1.0) * reach - side / 2
    return Regions(x, y, side, flip)


def _seen_in(boxes: Floats, regions: Regions) -> Floats:
    """Boxes as fractions of their regions."""
    x = (boxes[:, 0] - regions.x) / regions.side
    y = (boxes[:, 1] - regions.y) / regions.side
    x = np.where(regions.flip, 1.0 - x, x)
    return np.stack([x, y, boxes[:, 2] / regions.side, boxes[:, 3] / regions.side], axis=1)


def _looks(settings: AugmentSettings, grey: NDArray[np.bool_], u: _Draws) -> Looks:
    c = settings.colour
    saturation = np.where(grey, 0.0, 1.0 + u(-c, c))[:, None, None]
    contrast, brightness = 1.0 + u(-c, c), u(-c, c) * 100.0
    tint = 1.0 + np.where(grey, 0.0, 0.4)[:, None] * np.stack([u(-c, c) for _ in range(3)], axis=1)
    mixed = saturation * np.eye(3) + (1.0 - saturation) * _LUMA
    matrix = contrast[:, None, None] * tint[:, :, None] * mixed
    # Contrast turns around the middle of the range.
    offset = (128.0 * (1.0 - contrast) + brightness)[:, None] * np.ones(3)
    sigma = np.where(u.below(settings.blur), u(0.3, settings.blur_sigma), 0.0)
    return Looks(matrix, offset, sigma)


def _mates(u: _Draws, tracks: tuple[NDArray, NDArray]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Another sample of the batch for each, and whether it shows something else than the target and the searched."""
    count = len(tracks[0])
    step = 1 + np.minimum((u() * (count - 1)).astype(np.int64), max(count - 2, 0))
    mate = (np.arange(count) + step) % count
    shown = tracks[1][mate]
    return mate, (shown != tracks[0]) & (shown != tracks[1])


def _paste(active: NDArray, mate: NDArray, center: Floats, size: Floats, crop_boxes: Floats) -> Paste:
    """An object of `size` (sqrt(w * h), fractions) in its own aspect."""
    wh = crop_boxes[mate, 2:]
    magnification = np.sqrt(wh.prod(axis=1)) / size
    return Paste(active, mate, crop_boxes[mate, :2], center, wh / (2.0 * magnification[:, None]), magnification)


def _distractor(chance: float, box: Floats, crop_boxes: Floats, tracks: tuple[NDArray, NDArray], u: _Draws) -> Paste:
    """About as large as the target, beside it."""
    mate, other = _mates(u, tracks)
    size = np.sqrt(box[:, 2] * box[:, 3]) * np.exp(u(-0.4, 0.4))
    angle = u(0.0, 2.0 * np.pi)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    paste = _paste(u.below(chance) & other, mate, box[:, :2], size, crop_boxes)
    reach = paste.half + box[:, 2:] / 2
    # Just beyond touching, as the boxes lie to each other in this direction.
    touching = 1.0 / np.maximum(np.abs(direction) / reach, 1e-9).max(axis=1)
    return paste._replace(center=box[:, :2] + direction * (touching * u(0.95, 2.0))[:, None])


def _occluder(chance: float, box: Floats, crop_boxes: Floats, tracks: tuple[NDArray, NDArray], u: _Draws) -> Paste:
    """Smaller than the target, over its edge."""
    mate, other = _mates(u, tracks)
    center = box[:, :2] + np.stack([u(-0.7, 0.7), u(-0.7, 0.7)], axis=1) * box[:, 2:]
    size = np.sqrt(box[:, 2] * box[:, 3]) * u(0.4, 1.0)
    return _paste(u.below(chance) & other, mate, center, size, crop_boxes)


def _cutout(chance: float, box: Floats, u: _Draws) -> Floats:
    half = np.stack([u(0.1, 0.35), u(0.1, 0.35)], axis=1) * box[:, 2:]
    center = box[:, :2] + np.stack([u(-0.5, 0.5), u(-0.5, 0.5)], axis=1) * box[:, 2:]
    corners = np.concatenate([center - half, center + half], axis=1)
    return np.where(u.below(chance)[:, None], corners, 0.0)


def _visible_share(box: Floats, pastes: tuple[Paste, ...], cutout: Floats) -> Floats:
    """(B,) share of each box inside the region and under neither paste nor cut-out, on a grid of points."""
    steps = (np.arange(_PROBES) + 0.5) / _PROBES - 0.5
    x = box[:, 0, None] + box[:, 2, None] * steps  # (B, P)
    y = box[:, 1, None] + box[:, 3, None] * steps
    seen = (((x > 0.0) & (x < 1.0))[:, None, :] & ((y > 0.0) & (y < 1.0))[:, :, None]).astype(np.float64)
    for paste in pastes:
        dx = (x - paste.center[:, :1]) / paste.half[:, :1]
        dy = (y - paste.center[:, 1:]) / paste.half[:, 1:]
        seen *= 1.0 - paste.active[:, None, None] * opacity(np.hypot(dx[:, None, :], dy[:, :, None]))
    in_x = (x > cutout[:, :1]) & (x < cutout[:, 2:3])
    in_y = (y > cutout[:, 1:2]) & (y < cutout[:, 3:])
    seen *= ~(in_x[:, None, :] & in_y[:, :, None])
    return seen.mean(axis=(1, 2))


def opacity(radius: Floats) -> Floats:
    """Of a pasted object at a distance from its centre in half axes: 1 inside, fading over SOFT_EDGE around 1."""
    return np.clip((1.0 - radius) / SOFT_EDGE + 0.5, 0.0, 1.0)


def needed_px(regions: Regions) -> tuple[int, int, int, int]:
    """Part of the context crops that any region reads: x0, y0, x1, y1 px, not empty."""
    low = np.floor([regions.x.min(), regions.y.min()]).astype(int) - 2
    high = np.ceil([(regions.x + regions.side).max(), (regions.y + regions.side).max()]).astype(int) + 2
    x0, y0 = np.clip(low, 0, CROP_PX - 1)
    x1, y1 = np.clip(high, 1, CROP_PX)
    return int(x0), int(y0), max(int(x1), int(x0) + 1), max(int(y1), int(y0) + 1)
