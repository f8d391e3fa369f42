"""Augmentation: cut as the tracker cuts, boxes that follow the pixels, pastes, counted losses of the target."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from ros2_tracker.models.layers import normalized  # noqa: E402
from ros2_tracker.models.variant import InputSettings  # noqa: E402
from ros2_tracker.tracking.crop import Region, crop  # noqa: E402
from ros2_tracker.tracking.frame import ArrayFrame, ColorOrder  # noqa: E402
from ros2_tracker.training.augment import AugmentSettings, plan  # noqa: E402
from ros2_tracker.training.render import Crops, render  # noqa: E402

TEMPLATE, SEARCH = InputSettings(128, 2.0), InputSettings(256, 4.0)
NOTHING = (
    "shift",
    "scale",
    "stay_inside",
    "template_shift",
    "template_scale",
    "flip",
    "colour",
    "grey",
    "blur",
    "cutout",
)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
GREEN = (20, 220, 30)


def only(**changes):
    """Settings with nothing but these changes."""
    return AugmentSettings(**(dict.fromkeys((*NOTHING, "distractor", "occluder"), 0.0) | changes))


def scene(count, box=(176, 176, 80, 43), seed=0, object_rgb=GREEN, ground=(90, 90, 90)):
    """Crops (count, 352, 352, 3) of one bright object, and its boxes."""
    images = np.empty((count, 352, 352, 3), np.uint8)
    images[:] = ground
    images += np.random.default_rng(seed).integers(0, 12, images.shape, np.uint8)
    cx, cy, w, h = box
    images[:, round(cy - h / 2) : round(cy + h / 2), round(cx - w / 2) : round(cx + w / 2)] = object_rgb
    return torch.from_numpy(images), np.tile(np.array(box, float), (count, 1))


def planned(settings, boxes, tracks=None, others=None, seed=3):
    tracks = np.arange(len(boxes)) if tracks is None else np.asarray(tracks)
    others = tracks if others is None else np.asarray(others)
    return plan(settings, TEMPLATE, SEARCH, seed, np.arange(len(boxes)), (boxes, boxes, boxes), (tracks, others))


def shown(settings, images, boxes, fill="mean", **kinds):
    """Plan, views, and the search region in 0..255."""
    made = planned(settings, boxes, **kinds)
    views = render(made, Crops(images, None, images), TEMPLATE.size, SEARCH.size, fill)
    return made, views, (views.search * STD + MEAN) * 255.0


def green_box(image):
    """cx, cy, w, h as fractions of what is green in a (3, S, S) image; pixels count by how green they are."""
    weight = ((image[1] - image[0]) / 200.0).clamp(0, 1).numpy()
    weight[weight < 0.2] = 0.0
    size = image.shape[-1]
    x, y = weight.sum(0), weight.sum(1)
    place = (np.arange(size) + 0.5) / size
    full = np.sort(x)[-5:].mean(), np.sort(y)[-5:].mean()
    return np.array([(x * place).sum() / x.sum(), (y * place).sum() / y.sum(), full[1] / size, full[0] / size])


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_regions_are_cut_as_the_tracker_cuts_them(library, fill):
    """The same region through `tracking.crop` and through here, also beyond the border."""
    images = np.stack([library.read(i) for i in (0, 12, 30)])
    settings = only(shift=2.5, scale=0.4, template_shift=0.1, template_scale=0.1)
    made, views, _ = shown(settings, torch.from_numpy(images), library.boxes[[0, 12, 30]].astype(float), fill)
    outside = 0
    for i, image in enumerate(images):
        for regions, got in ((made.template, views.template), (made.search, views.search)):
            region = Region(regions.x[i], regions.y[i], regions.side[i])
            outside += region.x < 0 or region.x + region.side > 352
            colour = tuple(image[::8, ::8].mean(axis=(0, 1))) if fill == "mean" else (0.0, 0.0, 0.0)
            expected = crop(ArrayFrame(image, ColorOrder.RGB), region, got.shape[-1], colour)
            difference = (normalized(torch.from_numpy(expected)[None])[0] - got[i]).abs() * 0.226 * 255
            assert difference.mean() < 0.5
            assert difference.quantile(0.999) < 8.0  # OpenCV has 32 steps between two pixels
    assert outside > 0


def test_boxes_follow_the_pixels():
    images, boxes = scene(16, box=(170, 180, 80, 44))
    settings = only(shift=1.0, scale=0.3, flip=0.5)
    made, views, search = shown(settings, images, boxes)
    assert made.search.flip.any()
    assert not made.search.flip.all()
    assert views.box[:, :2].std(dim=0).min() > 0.05
    for found, truth in zip(search, views.box, strict=True):
        if (truth[:2] - truth[2:] / 2).min() > 0 and (truth[:2] + truth[2:] / 2).max() < 1:
            np.testing.assert_allclose(green_box(found), truth.numpy(), atol=0.006)


def test_the_targets_size_in_the_template_follows_the_pixels():
    images, boxes = scene(8, box=(170, 180, 80, 44))
    _, views, _ = shown(only(template_scale=0.1, template_shift=0.1, flip=0.5), images, boxes)
    assert views.template_size.std(dim=0).min() > 0.005
    for found, truth in zip(views.template * STD + MEAN, views.template_size, strict=True):
        np.testing.assert_allclose(green_box(found * 255.0)[2:], truth.numpy(), atol=0.01)


def test_regions_stay_inside_their_crop_as_far_as_they_can():
    _, boxes = scene(200, box=(176, 176, 58, 58))
    chances = []
    for chance in (0.0, 0.5, 1.0):
        regions = planned(only(shift=1.0, scale=0.3, stay_inside=chance), boxes).search
        leaves = np.minimum(regions.x, regions.y) < -0.5
        leaves |= np.maximum(regions.x, regions.y) + regions.side > 352.5
        chances.append(leaves.mean())
        assert np.ptp(regions.x + regions.side / 2) > 80  # it still moves
    assert chances[2] == 0.0
    assert 0.1 < chances[1] < 0.75 * chances[0]


def test_templates_and_search_are_mirrored_together():
    ramp = np.tile(np.linspace(0, 250, 352).astype(np.uint8)[None, :, None], (352, 1, 3))
    images, boxes = torch.from_numpy(np.stack([ramp] * 12)), np.tile([176.0, 176.0, 58.0, 58.0], (12, 1))
    made = planned(only(flip=0.5), boxes)
    views = render(made, Crops(images, images, images), 128, 256, "mean")
    falling = [(v[..., 0] > v[..., -1]).all(dim=2).all(dim=1) for v in (views.template, views.recent, views.search)]
    for each in falling:
        assert each.tolist() == made.search.flip.tolist()


def test_a_sample_is_the_same_in_any_batch_but_for_pastes():
    images, boxes = scene(8)
    settings = AugmentSettings(distractor=0.0, occluder=0.0)
    _, whole, _ = shown(settings, images, boxes)
    made = plan(settings, TEMPLATE, SEARCH, 3, np.arange(5, 8), (boxes[5:],) * 3, (np.arange(3), np.arange(3)))
    part = render(made, Crops(images[5:], None, images[5:]), 128, 256, "mean")
    torch.testing.assert_close(part.box, whole.box[5:], rtol=0, atol=0)
    torch.testing.assert_close(part.search, whole.search[5:], rtol=0, atol=1e-4)
    again = shown(AugmentSettings(), images, boxes)[1]
    torch.testing.assert_close(again.search, shown(AugmentSettings(), images, boxes)[1].search, rtol=0, atol=0)


def test_distractors_lie_beside_the_target_and_occluders_over_it():
    images, boxes = scene(12)
    red, _ = scene(12, object_rgb=(230, 10, 10))
    images[1::2] = red[1::2]  # neighbours differ: what is pasted can be told from what was there
    tracks = np.arange(12)
    for name in ("distractor", "occluder"):
        settings = only(shift=0.2)
        _, plain, before = shown(settings, images, boxes, tracks=tracks)
        made, views, after = shown(only(shift=0.2, **{name: 1.0}), images, boxes, tracks=tracks)
        assert made.pastes[name == "occluder"].active.all()
        torch.testing.assert_close(views.box, plain.box)
        pasted = (after - before).abs().amax(dim=1) > 30
        assert pasted.flatten(1).any(dim=1).sum() >= 6
        box = views.box * 256
        covered = []
        for i in range(12):
            x0, y0 = (box[i, :2] - box[i, 2:] / 2).int().clamp(0, 255).tolist()
            x1, y1 = (box[i, :2] + box[i, 2:] / 2).int().clamp(0, 256).tolist()
            covered.append(pasted[i, y0:y1, x0:x1].float().mean().item())
        assert np.mean(covered) < 0.03 if name == "distractor" else np.mean(covered) > 0.05
        if name == "occluder":
            assert made.visible.mean() < 0.95


def test_nothing_of_the_targets_own_track_is_pasted():
    images, boxes = scene(6)
    settings = AugmentSettings(distractor=1.0, occluder=1.0)
    made, _, _ = shown(settings, images, boxes, tracks=[4] * 6)
    assert not any(paste.active.any() for paste in made.pastes)
    # A negative of target 4 that searches 5: neither may be pasted.
    made, _, _ = shown(settings, images, boxes, tracks=[4] * 6, others=[5] * 6)
    assert not any(paste.active.any() for paste in made.pastes)
    made, _, _ = shown(settings, images[:1], boxes[:1])
    assert not any(paste.active.any() for paste in made.pastes)


def test_cutouts_have_the_fill_colour_and_hide():
    images, boxes = scene(8)
    settings = only(cutout=1.0)
    made, _, search = shown(settings, images, boxes, fill="zero")
    for i in range(8):
        x, y = ((made.cutout[i, :2] + made.cutout[i, 2:]) / 2 * 256).astype(int)
        assert search[i, :, y, x].abs().max() < 0.1
    assert (made.visible < 1.0).all()
    green = ((search[:, 1] > 150) & (search[:, 0] < 60)).sum(dim=(1, 2)) / (80 * 43 * (256 / made.search.side[0]) ** 2)
    np.testing.assert_allclose(green.numpy(), made.visible, atol=0.08)


def test_targets_that_leave_the_region_are_not_trained_on():
    images, boxes = scene(64)
    made, views, _ = shown(only(shift=3.0), images, boxes)
    center = views.box[:, :2].numpy()
    gone = (center < 0).any(axis=1) | (center > 1).any(axis=1)
    assert gone.any()
    assert not views.used.numpy()[gone].any()
    assert views.used.any()
    assert (made.visible[views.used.numpy()] >= 0.3).all()
    assert views.present.all()


def test_negatives_are_used_and_not_present():
    images, boxes = scene(4)
    _, views, _ = shown(only(), images, boxes, tracks=[0, 1, 2, 3], others=[0, 9, 2, 8])
    assert views.present.tolist() == [True, False, True, False]
    assert views.used.all()


def test_grey_and_blur():
    images, boxes = scene(4)
    _, _, grey = shown(only(colour=0.2, grey=1.0), images, boxes)
    torch.testing.assert_close(grey[:, 0], grey[:, 2], rtol=0, atol=0.01)
    torch.testing.assert_close(grey[:, 0], grey[:, 1], rtol=0, atol=0.01)
    _, sharp, _ = shown(only(), images, boxes)
    made, soft, _ = shown(only(blur=1.0), images, boxes)
    assert (made.search_looks.sigma > 0).all()
    assert not np.isclose(made.search_looks.sigma, made.template_looks.sigma).any()
    steps = [v.search.diff(dim=-1).abs().amax(dim=(1, 2, 3)) for v in (sharp, soft)]
    assert (steps[1] < steps[0]).all()
    torch.testing.assert_close(soft.search.mean(dim=(2, 3)), sharp.search.mean(dim=(2, 3)), rtol=0, atol=0.02)


def test_everything_at_once_is_finite_and_in_range(library):
    crops = torch.from_numpy(np.stack([library.read(i) for i in range(16)]))
    settings = only(
        shift=2.0,
        scale=0.6,
        template_shift=0.5,
        template_scale=0.3,
        flip=0.5,
        colour=0.9,
        grey=0.3,
        blur=0.7,
        blur_sigma=4.0,
        cutout=0.7,
        distractor=0.9,
        occluder=0.9,
    )
    made = planned(settings, library.boxes[:16].astype(float), library.track[:16])
    views = render(made, Crops(crops, crops, crops), 128, 256, "mean")
    for view in (views.template, views.recent, views.search):
        pixels = (view * STD + MEAN) * 255
        assert torch.isfinite(pixels).all()
        assert pixels.min() > -0.01
        assert pixels.max() < 255.01
    assert torch.isfinite(views.box).all()


def test_padding_is_what_lies_outside_the_crop():
    images, boxes = scene(3, ground=(200, 200, 200))
    settings = only(shift=3.0, flip=0.5)
    _, views, search = shown(settings, images, boxes, fill="zero")
    assert views.search_padded.any()
    black = search.amax(dim=1) < 60
    assert (black == views.search_padded).float().mean() > 0.99
    assert not views.template_padded.any()


@pytest.mark.parametrize("wrong", [{"flip": 1.2}, {"shift": -0.1}, {"colour": 1.0}, {"blur_sigma": 0.0}])
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        AugmentSettings(**wrong)
