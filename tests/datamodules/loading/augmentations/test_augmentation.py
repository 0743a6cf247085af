"""Augmentation held against slicing, torch, torchvision, scipy and the papers' formulas."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as vision

from zoo.core.errors import UserError
from zoo.datamodules.loading.augmentations.augmentation import Augmentation
from zoo.datamodules.loading.augmentations.cropping import flip_left_right
from zoo.datamodules.loading.augmentations.erasing import cutout
from zoo.datamodules.loading.augmentations.mixing import _beta
from zoo.datamodules.loading.augmentations.policies import rand_augment
from zoo.registry.augmentations import parse_augmentation
from zoo.registry.registry import current_registry

GEOMETRY = ["crop:2", "hflip", "vflip", "resized-crop:0.3", "jitter:0.4", "cutout:3"]
OPERATIONS = [
    "rotate:90", "shear-x:0.9", "shear-y:0.9", "translate-x:0.5", "translate-y:0.5", "affine", "brightness", "contrast",
    "sharpness", "erasing:0.9", "trivial", "rand:2,20",
]  # fmt: skip
BY_CHANCE = ["posterize:2", "solarize:90", "autocontrast", "invert"]
OF_COLOR = ["saturation", "hue:0.4", "jitter:0.4,0.2"]
MIXING = ["mixup:0.5", "cutmix:1.0"]
EVERYTHING = ",".join(GEOMETRY + MIXING)
SHAPES = [(1, 8, 8), (3, 6, 10), (1, 9, 5), (3, 7, 4)]


def make_batch(n: int, shape: tuple[int, int, int], smallest: int = 0) -> dict[str, torch.Tensor]:
    """Random pixels, and a class of its own for every image."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(smallest, 256, (n, *shape), generator=generator, dtype=torch.uint8)
    return {"images": images, "labels": torch.arange(n)}


def augment(description: str, batch: dict, seed: int = 0) -> dict:
    return Augmentation(description, len(batch["labels"]))(batch, seed)


def hand_made(images: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"images": images, "labels": torch.zeros(len(images), dtype=torch.long)}


# ------------------------------------------------------------------ what holds for all


@pytest.mark.parametrize("description", [*GEOMETRY, *OPERATIONS, *BY_CHANCE, *MIXING, EVERYTHING])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_seed_alone_decides_and_the_input_is_left_alone(description, shape):
    batch = make_batch(16, shape)
    images, labels = batch["images"].clone(), batch["labels"].clone()
    first = augment(description, batch, seed=5)
    torch.manual_seed(99)
    again, other = augment(description, batch, seed=5), augment(description, batch, seed=6)
    assert torch.equal(first["images"], again["images"])
    assert not torch.equal(first["images"], other["images"])
    assert torch.equal(batch["images"], images) and batch.keys() == {"images", "labels"}
    assert first["images"].shape == images.shape and first["images"].min() >= 0 and first["images"].max() <= 255
    if "labels" in first:
        assert torch.equal(first["labels"], labels)


@pytest.mark.parametrize("description", [*GEOMETRY, *OPERATIONS, *BY_CHANCE, "equalize", *OF_COLOR])
@pytest.mark.parametrize("channels", [1, 3])
def test_copies_of_one_image_are_changed_differently(description, channels):
    image = 40 + make_batch(1, (channels, 18, 16))["images"] // 2
    changed = augment(description, hand_made(image.repeat(64, 1, 1, 1)))["images"]
    different = len(changed.flatten(1).unique(dim=0))
    if description in ("saturation", "hue:0.4") and channels == 1:
        assert torch.equal(changed[:1], image) and different == 1
    elif description in ("hflip", "vflip", "equalize", *BY_CHANCE):
        assert different == 2
    else:
        assert different > (4 if "translate" in description else 15)
    assert changed.dtype == torch.uint8


@pytest.mark.parametrize("description", [*GEOMETRY, *OPERATIONS, *BY_CHANCE, *OF_COLOR, *MIXING])
def test_the_memory_layout_of_the_images_does_not_matter(description):
    batch = make_batch(8, (3, 6, 10))
    striding = {**batch, "images": batch["images"].contiguous(memory_format=torch.channels_last)}
    assert torch.equal(augment(description, batch)["images"], augment(description, striding)["images"])


@pytest.mark.parametrize("description", [*OPERATIONS, *BY_CHANCE, *OF_COLOR])
def test_operations_take_the_floating_point_images_of_mixing(description):
    batch = make_batch(16, (3, 8, 10))
    mixed = augment(f"mixup:1,{description}", batch)
    assert mixed["images"].is_floating_point() and mixed["images"].min() >= 0 and mixed["images"].max() <= 255
    assert "targets" in mixed


@pytest.mark.parametrize("description", ["", "none", " , none"])
def test_nothing_is_done_when_nothing_is_asked_for(description):
    batch = make_batch(4, (1, 8, 8))
    assert augment(description, batch) is batch


def test_transforms_are_applied_in_the_order_they_are_named():
    batch = hand_made(torch.full((200, 1, 6, 6), 200, dtype=torch.uint8))
    blank_borders = (augment("cutout:20,crop:2", batch)["images"] == 0).all(2).all(2).sum()
    cropped_first = augment("crop:2,cutout:20", batch)["images"]
    assert blank_borders == 200 and not cropped_first.any()  # the hole covers everything
    offsets = augment("crop:2 , cutout:1", batch)["images"]
    assert ((offsets[:, 0] == 0).sum((1, 2)) >= 1).all()


# ------------------------------------------------------------------ one by one


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_is_a_slice_of_the_padded_image_at_every_offset(shape):
    batch, padding = make_batch(600, shape, smallest=1), 2
    _, height, width = shape
    padded = F.pad(batch["images"], (padding,) * 4)
    changed = augment(f"crop:{padding}", batch)["images"]
    found = torch.zeros(len(changed), dtype=torch.long)
    seen = set()
    for down in range(2 * padding + 1):
        for right in range(2 * padding + 1):
            hits = (padded[:, :, down : down + height, right : right + width] == changed).flatten(1).all(1)
            found += hits
            seen |= {(down, right)} if hits.any() else set()
    assert (found == 1).all()
    assert len(seen) == (2 * padding + 1) ** 2


@pytest.mark.parametrize(("name", "axis"), [("hflip", -1), ("vflip", -2)])
@pytest.mark.parametrize("shape", SHAPES)
def test_flip_mirrors_about_half_of_the_images(name, axis, shape):
    batch = make_batch(2000, shape)
    changed = augment(name, batch)["images"]
    mirrored = (changed == torch.flip(batch["images"], [axis])).flatten(1).all(1)
    kept = (changed == batch["images"]).flatten(1).all(1)
    assert (mirrored ^ kept).all()
    assert 0.45 < mirrored.float().mean() < 0.55  # 4.5 standard deviations


@pytest.mark.parametrize("side", [1, 3, 4, 30])
@pytest.mark.parametrize("channels", [1, 3])
def test_cutout_blanks_a_square_around_any_pixel_cut_at_the_border(side, channels):
    height, width = 9, 6
    batch = make_batch(1500, (channels, height, width), smallest=1)
    changed = augment(f"cutout:{side}", batch)["images"]
    hole = changed == 0
    assert torch.equal(changed[~hole], batch["images"][~hole])
    assert (hole == hole[:, :1]).all()  # the same in all channels
    hole = hole[:, 0]
    rows, columns = hole.any(2), hole.any(1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None, :])

    def around_each(length):
        return {tuple(center - side // 2 <= i < center - side // 2 + side for i in range(length)) for center in range(length)}

    assert {tuple(row) for row in rows.tolist()} == around_each(height)
    assert {tuple(column) for column in columns.tolist()} == around_each(width)


def boxes(smallest: float, n: int, height: int, width: int, seed: int) -> torch.Tensor:
    """Recover each box from ramps, which stay linear: (left, top, share of width, share of height) in shares of the image."""
    x = (torch.arange(width) + 0.5) / width
    y = (torch.arange(height) + 0.5) / height
    # large numbers, since the result is rounded
    ramps = 1e5 * torch.stack([x.expand(height, width), y[:, None].expand(height, width)])
    changed = augment(f"resized-crop:{smallest}", hand_made(ramps.repeat(n, 1, 1, 1)), seed)["images"].double() / 1e5
    # in the middle half no pixel of the border has a part
    columns, rows = changed[:, 0, height // 2], changed[:, 1, :, width // 2]
    first, last = width // 4, width - 1 - width // 4
    across = (columns[:, last] - columns[:, first]) * width / (last - first)
    left = columns[:, first] - across * (first + 0.5) / width
    first, last = height // 4, height - 1 - height // 4
    down = (rows[:, last] - rows[:, first]) * height / (last - first)
    top = rows[:, first] - down * (first + 0.5) / height
    return torch.stack([left, top, across, down], 1)


@pytest.mark.parametrize("smallest", [0.1, 0.35, 0.8, 0.97])
def test_resized_crop_keeps_to_its_area_and_aspect_ratio_inside_the_image(smallest):
    left, top, across, down = boxes(smallest, 2000, 32, 48, seed=3).T
    slack = 1e-3
    area, ratio = across * down, across / down
    assert area.min() >= smallest - slack and area.max() <= 1 + slack
    assert ratio.min() >= 3 / 4 - slack and ratio.max() <= 4 / 3 + slack
    for start, length in ((left, across), (top, down)):
        assert start.min() >= -slack and (start + length).max() <= 1 + slack
    # uniform in area, and over the whole range of what is possible
    assert stats.kstest(area.numpy(), stats.uniform(smallest, 1 - smallest).cdf).pvalue > 1e-3
    widest = min(4 / 3, 1 / smallest)
    assert ratio.max() > 1 + 0.9 * (widest - 1) and ratio.min() < 1 - 0.9 * (1 - 1 / widest)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("smallest", [0.2, 0.9])  # a large box touches the border, where pixels are mirrored
def test_resized_crop_samples_its_box_bilinearly(channels, smallest):
    n, height, width = 20, 32, 24
    batch = make_batch(n, (channels, height, width), smallest=128)
    changed = augment(f"resized-crop:{smallest}", batch, seed=4)["images"].numpy().astype(float)
    for image, result, (left, top, across, down) in zip(
        batch["images"].numpy(), changed, boxes(smallest, n, height, width, seed=4).tolist(), strict=True
    ):
        y = (top + down * (np.arange(height) + 0.5) / height) * height - 0.5
        x = (left + across * (np.arange(width) + 0.5) / width) * width - 0.5
        grid = np.meshgrid(y, x, indexing="ij")
        expected = [ndimage.map_coordinates(plane.astype(float), grid, order=1, mode="reflect") for plane in image]
        assert np.abs(result - np.stack(expected)).max() <= 1  # rounding


@pytest.mark.parametrize("shape", SHAPES)
def test_resized_crop_of_the_whole_area_changes_nothing(shape):
    batch = make_batch(20, shape)
    assert torch.equal(augment("resized-crop:1", batch)["images"], batch["images"])


@pytest.mark.parametrize("channels", [1, 3])
def test_jitter_changes_brightness_contrast_and_saturation_as_torchvision_does(channels):
    n, strength = 300, 0.4
    batch = {"images": 80 + make_batch(n, (channels, 32, 32))["images"] % 41, "labels": torch.zeros(n, dtype=torch.long)}
    changed = augment(f"jitter:{strength}", batch)["images"]
    # no pixel is clipped here, so all three are linear, and the factors follow from means and slopes
    before, after = batch["images"].double(), changed.double()
    luma = torch.tensor([0.299, 0.587, 0.114] if channels == 3 else [1.0], dtype=torch.float64).view(1, -1, 1, 1)
    gray_before, gray_after = (before * luma).sum(1, keepdim=True), (after * luma).sum(1, keepdim=True)

    def slope(of, on):
        of, on = (pixels.flatten(1) - pixels.flatten(1).mean(1, keepdim=True) for pixels in (of, on))
        return (of * on).sum(1) / (on * on).sum(1)

    brightness = gray_after.flatten(1).mean(1) / gray_before.flatten(1).mean(1)
    contrast = slope(gray_after, gray_before) / brightness
    factors = {"brightness": brightness, "contrast": contrast}
    if channels == 3:
        factors["saturation"] = slope(after - gray_after, before - gray_before) / (brightness * contrast)
    for factor in factors.values():
        assert 1 - strength - 0.03 < factor.min() < 1 - 0.9 * strength
        assert 1 + 0.9 * strength < factor.max() < 1 + strength + 0.03
    pairs = [(a, b) for a in factors for b in factors if a < b]
    assert all(abs(float(torch.corrcoef(torch.stack([factors[a], factors[b]]))[0, 1])) < 0.2 for a, b in pairs)
    for i in range(n):
        expected = batch["images"][i].float() / 255
        for name, factor in factors.items():
            expected = getattr(vision, f"adjust_{name}")(expected, float(factor[i]))
        assert (expected * 255 - changed[i]).abs().max() < 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("strength", [0.5, 3])
def test_jitter_clips_instead_of_wrapping_around(channels, strength):
    white = torch.full((500, channels, 4, 4), 255, dtype=torch.uint8)
    changed = augment(f"jitter:{strength}", hand_made(white))["images"]
    brightness = changed[:, 0, 0, 0].double() / 255
    assert (changed == changed[:, :1, :1, :1]).all()
    # all that is brightened stays white, and the rest is uniform from max(0, 1 - strength) on
    assert 0.4 < (brightness == 1).double().mean() < 0.6
    assert brightness.min() == pytest.approx(max(0, 1 - strength), abs=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_mixup_averages_images_and_labels_with_one_share(shape):
    n = 24
    batch = make_batch(n, shape)
    mixed = augment("mixup:1.0", batch)
    images, result = batch["images"].double().flatten(1), mixed["images"].double().flatten(1)
    shares, partners = set(), []
    for i in range(n):
        # which partner explains the pixels, and with what share of the image itself
        direction = images[i] - images
        norm = (direction**2).sum(1).clamp(min=1e-9)
        share = ((result[i] - images) * direction).sum(1) / norm
        error = (share[:, None] * images[i] + (1 - share[:, None]) * images - result[i]).abs().amax(1)
        error[i] = (result[i] - images[i]).abs().max()  # its own partner
        partner = int(error.argmin())
        assert error[partner] < 1e-2
        share = 1.0 if partner == i else float(share[partner])
        expected = share * F.one_hot(torch.tensor(i), n) + (1 - share) * F.one_hot(torch.tensor(partner), n)
        torch.testing.assert_close(mixed["targets"][i], expected.float(), rtol=0, atol=1e-4)
        shares.add(round(share, 6))
        if share < 1 - 1e-6:  # otherwise any partner explains the pixels
            partners.append(partner)
    assert len(partners) == len(set(partners)) > n // 2
    assert len(shares) > n // 2  # a share for every image


@pytest.mark.parametrize("shape", [(1, 16, 16), (3, 12, 20), (3, 7, 5)])
def test_cutmix_pastes_a_box_and_weighs_the_labels_by_its_area(shape):
    n, (_, height, width) = 40, shape
    batch = make_batch(n, shape)
    images = batch["images"] // n * n + torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1)  # each pixel tells its image
    images = torch.where(images < batch["images"] // n * n, images + 216, images)
    mixed = augment("cutmix:1.0", {**batch, "images": images})
    areas = set()
    for i in range(n):
        fits = ((mixed["images"][i] == images[i]) | (mixed["images"][i] == images)).flatten(1).all(1)
        fits[i] = torch.equal(mixed["images"][i], images[i])
        assert fits.any()
        partner = int(fits.nonzero()[0, 0]) if not fits[i] else i
        box = (mixed["images"][i] != images[i]).any(0)
        rows, columns = box.any(1), box.any(0)
        assert torch.equal(box, rows[:, None] & columns[None, :])
        for side in (rows, columns):
            assert int(side.int().diff().abs().sum()) <= 2  # one stretch
        own = 1 - float(box.float().mean())
        expected = own * F.one_hot(torch.tensor(i), n) + (1 - own) * F.one_hot(torch.tensor(partner), n)
        torch.testing.assert_close(mixed["targets"][i], expected.float(), rtol=0, atol=1e-6)
        areas.add(round(own * height * width))
    assert len(areas) > 8 and mixed["images"].dtype == torch.uint8


def test_each_batch_is_mixed_by_mixup_or_by_cutmix():
    batch, pixels = make_batch(16, (3, 8, 8)), []
    for seed in range(200):
        mixed = Augmentation("mixup-or-cutmix:1,1", 16)(batch, seed)
        torch.testing.assert_close(mixed["targets"].sum(1), torch.ones(16))
        pixels.append(mixed["images"].dtype)
    assert set(pixels) == {torch.float32, torch.uint8} and 70 < pixels.count(torch.uint8) < 130


@pytest.mark.parametrize("description", [*MIXING, "mixup,cutmix"])
def test_mixing_leaves_the_labels_and_keeps_all_probability(description):
    batch = make_batch(32, (3, 8, 8))
    mixed = augment(description, batch)
    assert torch.equal(mixed["labels"], batch["labels"])
    torch.testing.assert_close(mixed["targets"].sum(1), torch.ones(32))
    assert mixed["targets"].min() >= 0


def test_mixing_twice_weighs_up_to_four_labels():
    n = 200
    colors = torch.eye(n).mul(255).view(n, 1, 1, n)  # so that the pixels are the shares
    mixed = augment("mixup:4,mixup:4", {"images": colors, "labels": torch.arange(n)})
    torch.testing.assert_close(mixed["images"].view(n, n) / 255, mixed["targets"])
    assert (mixed["targets"] > 0).sum(1).max() == 4


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_follow_the_beta_distribution(alpha):
    draws = _beta(alpha, 4000, torch.Generator().manual_seed(0)).double()
    assert float(draws.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(draws.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)
    assert stats.kstest(draws.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [1e-6, 1e6])
def test_extreme_alphas_give_finite_targets(alpha):
    mixed = augment(f"mixup:{alpha}", make_batch(64, (1, 2, 2)))
    assert mixed["targets"].isfinite().all() and mixed["images"].isfinite().all()


# ------------------------------------------------------------------ the description


@pytest.mark.parametrize(
    ("description", "nearest"), [("crp:4", "'crop'"), ("crop:4,cutmx", "'cutmix'"), ("hflop", "'hflip'"), ("mix-up", "'mixup'")]
)
def test_an_unknown_transform_is_one_line_with_the_nearest_name(description, nearest):
    with pytest.raises(UserError, match=nearest) as error:
        Augmentation(description, 10)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "item",
    ["crop:x", "crop:", "crop:0", "crop:-1", "crop:2.5", "cutout:0", "jitter:-0.1", "mixup:nan", "mixup:inf", "cutmix:0",
     "resized-crop:1.5", "resized-crop:0", "hue:0.6", "rotate:181", "posterize:9", "posterize:2.5", "solarize:256", "rand:2,31",
     "rand:11,9", "rand:0,9", "rand:2,9,1,2", "erasing:2", "crop:4,4", "affine:10,2"],
)  # fmt: skip
def test_a_wrong_strength_is_one_line_that_names_the_transform(item):
    with pytest.raises(UserError, match=item.partition(":")[0]) as error:
        Augmentation(f"hflip,{item}", 10)
    assert "\n" not in str(error.value) and item in str(error.value)


@pytest.mark.parametrize("item", ["hflip:0.5", "trivial:9", "trivial:9,9"])
def test_a_strength_where_none_is_taken_is_one_line(item):
    with pytest.raises(UserError, match=f"{item[:5]}.*takes no argument"):
        Augmentation(item, 10)


@pytest.mark.parametrize("description", ["4", "crop,4", "hflip,crop,4,cutout:2"])
def test_a_number_without_a_name_is_one_line(description):
    with pytest.raises(UserError, match=f"data.augment={description}: 4 has no name.* as in crop:4"):
        Augmentation(description, 10)


def test_the_example_in_a_message_can_be_followed():
    registry = current_registry()
    for name, entry in registry.entries("augmentation").items():
        with pytest.raises(UserError, match=f"{name} takes .*, as in") as error:
            parse_augmentation(registry, f"{name}:1{',1' * len(entry.options)}")
        example = str(error.value).rpartition("as in ")[2]
        ((found, arguments),) = parse_augmentation(registry, example)
        assert found.name == name and list(arguments) == [option.name for option in entry.options]


def test_a_number_after_a_comma_is_a_further_argument():
    batch = make_batch(16, (3, 8, 10))
    both = augment("hflip, rand:2, 20 ,cutout:3", batch)["images"]
    generator = torch.Generator().manual_seed(0)
    steps = [flip_left_right, partial(rand_augment, operations=2, magnitude=20), partial(cutout, size=3)]
    for step in steps:
        batch = step(batch, generator)
    assert torch.equal(both, batch["images"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a second kind of device")
@pytest.mark.parametrize("description", [*GEOMETRY, *OPERATIONS, *BY_CHANCE, *OF_COLOR, *MIXING])
def test_a_seed_gives_the_same_pictures_on_a_gpu(description):
    batch = make_batch(16, (3, 12, 10))
    there = augment(description, {key: value.cuda() for key, value in batch.items()})
    here = augment(description, batch)
    assert (here["images"].double() - there["images"].cpu().double()).abs().max() <= 1  # rounding
    assert there["images"].is_cuda and math.isfinite(float(there["images"].float().mean()))
