"""Operations on whole batches, held against torchvision's function for each image with the same parameters."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2 import functional as vision

from zoo.datamodules.loading.augmentations import affine, color

CHANNELS = pytest.mark.parametrize("channels", [1, 3])
SIDES = [(32, 32), (24, 33), (7, 10)]


def make_images(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    """Smooth images of different brightness, contrast and color, with noise, and one constant image."""
    generator = torch.Generator().manual_seed(height)
    coarse = torch.rand(n, channels, 4, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    spread = torch.rand(n, 1, 1, 1, generator=generator)
    noise = 0.05 * torch.rand(n, channels, height, width, generator=generator)
    images = ((smooth * spread + noise) * 255).clamp(0, 255).to(torch.uint8)
    images[0] = 77
    return images


def spaced(low: float, high: float, n: int) -> torch.Tensor:
    return torch.linspace(low, high, n, dtype=torch.float64)


def compare(ours: torch.Tensor, images: torch.Tensor, function, values: torch.Tensor, most: int, share: float) -> None:
    """``most``: the largest difference; ``share``: of values that differ."""
    theirs = torch.stack([function(image, value) for image, value in zip(images, values.tolist(), strict=True)])
    assert ours.dtype == torch.uint8 and ours.shape == images.shape
    difference = (ours.int() - theirs.int()).abs()
    assert difference.max() <= most
    assert (difference > 0).double().mean() <= share


INTEGER = {
    "brightness": (color.adjust_brightness, vision.adjust_brightness, 0.0, 2.5),
    "sharpness": (color.adjust_sharpness, vision.adjust_sharpness, 0.0, 2.5),
    "posterize": (color.posterize, lambda image, bits: vision.posterize(image, int(bits)), 0, 8),
    "solarize": (color.solarize, vision.solarize, 0.0, 255.0),
    "autocontrast": (lambda images, _: color.autocontrast(images), lambda image, _: vision.autocontrast(image), 0, 1),
    "equalize": (lambda images, _: color.equalize(images), lambda image, _: vision.equalize(image), 0, 1),
}
FLOAT = {
    "contrast": (color.adjust_contrast, vision.adjust_contrast, 0.0, 2.5),
    "saturation": (color.adjust_saturation, vision.adjust_saturation, 0.0, 2.5),
    "hue": (color.adjust_hue, vision.adjust_hue, -0.5, 0.5),
}


@CHANNELS
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", [*INTEGER, *FLOAT])
def test_color_equals_torchvision(name, side, channels):
    ours, theirs, low, high = {**INTEGER, **FLOAT}[name]
    images = make_images(18, channels, *side)
    values = spaced(low, high, len(images))
    values = values.floor() if name == "posterize" else values
    before = images.clone()
    compare(ours(images, values), images, theirs, values, *((0, 0) if name in INTEGER else (1, 0.01)))
    assert torch.equal(images, before)


def theirs_affine(image, **given):
    return vision.affine(image, **{"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0], **given})


def degrees(slope: float) -> float:
    return float(torch.tensor(slope, dtype=torch.float64).atan().rad2deg())


WARPS = {
    "rotation": (affine.rotation, vision.rotate, 180),
    "shear-x": (affine.horizontal_shear, lambda x, s: theirs_affine(x, shear=[degrees(s), 0.0], center=[0, 0]), 0.99),
    "shear-y": (affine.vertical_shear, lambda x, s: theirs_affine(x, shear=[0.0, degrees(s)], center=[0, 0]), 0.99),
    "translate-x": (affine.horizontal_translation, lambda x, t: theirs_affine(x, translate=[int(t), 0]), 32),
    "translate-y": (affine.vertical_translation, lambda x, t: theirs_affine(x, translate=[0, int(t)]), 32),
}  # fmt: skip


@CHANNELS
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", WARPS)
def test_affine_transforms_equal_torchvision(name, side, channels):
    ours, theirs, most = WARPS[name]
    images = make_images(31, channels, *side)
    values = spaced(-most, most, len(images)) * 0.997
    compare(affine.warp(images, ours(values, *side)), images, theirs, values, 0, 0)


@CHANNELS
def test_a_composed_transform_equals_torchvision(channels):
    images, generator = make_images(40, channels, 24, 33), torch.Generator().manual_seed(2)
    angle, shear = ((torch.rand(40, generator=generator) * 2 - 1).double() * most for most in (180, 40))
    scale = 0.5 + torch.rand(40, generator=generator).double()
    right, down = (torch.randint(-8, 9, (40,), generator=generator).double() for _ in range(2))
    ours = affine.warp(images, affine.composed(angle, right, down, scale, shear))
    rows = zip(images, *(each.tolist() for each in (angle, right, down, scale, shear)), strict=True)
    theirs = [theirs_affine(x, angle=a, translate=[r, d], scale=z, shear=[s, 0.0]) for x, a, r, d, z, s in rows]
    assert torch.equal(ours, torch.stack(theirs))


def test_jitter_turns_the_hue_as_torchvision_does():
    images, generator = make_images(20, 3, 24, 33), torch.Generator().manual_seed(5)
    ours = color.jitter({"images": images}, generator, strength=1e-6, hue=0.3)["images"]
    generator.manual_seed(5)
    torch.rand(3, 20, generator=generator)  # brightness, contrast and saturation
    turns = (torch.rand(20, generator=generator, dtype=torch.float64) * 2 - 1) * 0.3
    compare(ours, images, vision.adjust_hue, turns, 1, 0.8)  # which rounds down
