"""From context crops to what the network sees, as `training.augment` planned it; on the CPU or a GPU, batch at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ros2_tracker.models.layers import IMAGE_MEAN, IMAGE_STD
from ros2_tracker.training.augment import SOFT_EDGE, Looks, Paste, Plan, Regions, needed_px
from ros2_tracker.training.source import CROP_PX

# Every so many pixels a side count for the mean colour of a crop.
_MEAN_STEP = 8


@dataclass(frozen=True, slots=True)
class Crops:
    """Context crops of a batch, (B, 352, 352, 3) uint8 RGB each, on the device that trains."""

    template: Tensor
    recent: Tensor | None
    """For networks with two templates."""
    search: Tensor


@dataclass(frozen=True, slots=True)
class Views:
    """Input of the network and truth."""

    template: Tensor
    """(B, 3, T, T) float32, normalised (SPEC 0.2)."""
    recent: Tensor | None
    search: Tensor
    """(B, 3, S, S)."""
    template_padded: Tensor
    """(B, T, T) bool, outside the context crop."""
    recent_padded: Tensor | None
    search_padded: Tensor
    template_size: Tensor
    """(B, 2) float32 width and height of the target in template sides."""
    box: Tensor
    """(B, 4) float32 cx, cy, w, h in search sides."""
    present: Tensor
    """(B,) bool: the target is in the search region."""
    used: Tensor
    """(B,) bool: whether the sample is trained on."""


def render(plan: Plan, crops: Crops, template_px: int, search_px: int, fill: str) -> Views:
    """Cut, paste, colour, normalise.

    Args:
        plan: of this batch.
        crops: its context crops.
        template_px: side of the network's template.
        search_px: side of the network's search region.
        fill: outside the crop: `mean` colour of the template's crop, or `zero`.

    """
    colour = _fill(crops.template, fill)
    search = _cut(crops.search, plan.search, search_px, colour)
    for paste in plan.pastes:
        _put_on(search, crops.search, paste)
    _cut_out(search, plan.cutout, colour)
    template = _cut(crops.template, plan.template, template_px, colour)
    recent = None if crops.recent is None else _cut(crops.recent, plan.recent, template_px, colour)
    device = crops.search.device
    return Views(
        _finished(template, plan.template_looks),
        None if recent is None else _finished(recent, plan.recent_looks),
        _finished(search, plan.search_looks),
        _padded(plan.template, template_px, device),
        None if recent is None else _padded(plan.recent, template_px, device),
        _padded(plan.search, search_px, device),
        _tensor(plan.template_size, device),
        _tensor(plan.box, device),
        torch.from_numpy(plan.present).to(device),
        torch.from_numpy(plan.used).to(device),
    )


def _tensor(values: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(device)


def _fill(images: Tensor, fill: str) -> Tensor:
    """(B, 3, 1, 1) colour, 0..255."""
    if fill == "zero":
        return torch.zeros(len(images), 3, 1, 1, device=images.device)
    return images[:, ::_MEAN_STEP, ::_MEAN_STEP].float().mean(dim=(1, 2))[:, :, None, None]


def _cut(images: Tensor, regions: Regions, size: int, colour: Tensor) -> Tensor:
    """(B, 3, size, size) float32 0..255: bilinear samples at pixel centres, `colour` outside, as `tracking.crop`."""
    x0, y0, x1, y1 = needed_px(regions)
    part = images[:, y0:y1, x0:x1].permute(0, 3, 1, 2).float() - colour
    sign = np.where(regions.flip, -1.0, 1.0)
    center = np.stack([regions.x + regions.side / 2 - x0, regions.y + regions.side / 2 - y0], axis=1)
    return _sampled(part, center, sign * regions.side, regions.side, size) + colour


def _sampled(part: Tensor, center: np.ndarray, width: np.ndarray, height: np.ndarray, size: int) -> Tensor:
    """Squares around `center` (B, 2), of signed `width` and `height` (B,), px of `part`; 0 outside."""
    rows, columns = part.shape[2:]
    theta = np.zeros((len(center), 2, 3))
    theta[:, 0, 0], theta[:, 0, 2] = width / columns, 2.0 * center[:, 0] / columns - 1.0
    theta[:, 1, 1], theta[:, 1, 2] = height / rows, 2.0 * center[:, 1] / rows - 1.0
    grid = F.affine_grid(_tensor(theta, part.device), [len(center), 3, size, size], align_corners=False)
    return F.grid_sample(part, grid, "bilinear", "zeros", align_corners=False)


def _put_on(search: Tensor, images: Tensor, paste: Paste) -> None:
    """Paste other samples' objects where they are active, in place."""
    (where,) = np.nonzero(paste.active)
    if not len(where):
        return
    size = search.shape[-1]
    mate = paste.mate[where]
    px = paste.magnification[where]
    center = paste.source[where] + (0.5 - paste.center[where]) * px[:, None]
    at = torch.from_numpy(where).to(images.device)
    objects = images[torch.from_numpy(mate).to(images.device)].permute(0, 3, 1, 2).float()
    pasted = _sampled(objects, center, px, px, size)
    place = (torch.arange(size, device=search.device) + 0.5) / size
    middle, half = _tensor(paste.center[where], search.device), _tensor(paste.half[where], search.device)
    dx = (place - middle[:, :1]) / half[:, :1]
    dy = (place - middle[:, 1:]) / half[:, 1:]
    radius = torch.hypot(dx[:, None, :], dy[:, :, None])
    alpha = ((1.0 - radius) / SOFT_EDGE + 0.5).clamp(0.0, 1.0)[:, None]
    search[at] = torch.lerp(search[at], pasted, alpha)


def _cut_out(search: Tensor, corners: np.ndarray, colour: Tensor) -> None:
    (where,) = np.nonzero(corners[:, 2] > corners[:, 0])
    if not len(where):
        return
    place = (torch.arange(search.shape[-1], device=search.device) + 0.5) / search.shape[-1]
    at, c = torch.from_numpy(where).to(search.device), _tensor(corners[where], search.device)
    in_x = (place > c[:, :1]) & (place < c[:, 2:3])
    in_y = (place > c[:, 1:2]) & (place < c[:, 3:])
    hole = (in_x[:, None, :] & in_y[:, :, None])[:, None]
    search[at] = torch.where(hole, colour[at], search[at])


def _finished(images: Tensor, looks: Looks) -> Tensor:
    """Coloured, blurred, clamped to 0..255 and normalised."""
    matrix, offset = _tensor(looks.matrix, images.device), _tensor(looks.offset, images.device)
    flat = torch.baddbmm(offset[:, :, None], matrix, images.flatten(2))
    images = flat.view_as(images).clamp_(0.0, 255.0)
    (where,) = np.nonzero(looks.sigma > 0.0)
    if len(where):
        at = torch.from_numpy(where).to(images.device)
        images[at] = _blurred(images[at], looks.sigma[where])
    mean = torch.tensor(IMAGE_MEAN, device=images.device).view(3, 1, 1) * 255.0
    std = torch.tensor(IMAGE_STD, device=images.device).view(3, 1, 1) * 255.0
    return images.sub_(mean).div_(std)


def _blurred(images: Tensor, sigma: np.ndarray) -> Tensor:
    """Each image with its own Gaussian, in two passes."""
    count, size = len(images), images.shape[-1]
    radius = int(np.ceil(2.5 * sigma.max()))
    offsets = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = _tensor(np.repeat(kernel / kernel.sum(axis=1, keepdims=True), 3, axis=0), images.device)[:, None]
    flat = F.pad(images.reshape(1, 3 * count, size, size), [radius] * 4, mode="replicate")
    flat = F.conv2d(flat, weights[:, :, None, :], groups=3 * count)
    flat = F.conv2d(flat, weights[:, :, :, None], groups=3 * count)
    return flat.view(count, 3, size, size)


def _padded(regions: Regions, size: int, device: torch.device) -> Tensor:
    """(B, size, size) bool, True at pixels whose centres lie outside the context crop."""
    place = (np.arange(size) + 0.5) / size
    mirrored = np.where(regions.flip[:, None], 1.0 - place, place)
    x = regions.x[:, None] + mirrored * regions.side[:, None]
    y = regions.y[:, None] + place * regions.side[:, None]
    out_x, out_y = ((v < 0.0) | (v > CROP_PX) for v in (x, y))
    return torch.from_numpy(out_x).to(device)[:, None, :] | torch.from_numpy(out_y).to(device)[:, :, None]
