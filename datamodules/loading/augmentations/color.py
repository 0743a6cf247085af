"""Changes of color and contrast with a magnitude for each image, on bytes.

Each gives what the function of that name in ``torchvision.transforms.v2.functional`` gives for each image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from zoo.datamodules.loading.augmentations.pixels import change_bytes, change_some, for_each, uniform
from zoo.datamodules.loading.loader import Batch
from zoo.registry.augmentations import Bits, Fraction, Intensity, Turn
from zoo.registry.entry import register_augmentation

# ------------------------------------------------------------------ by given parameters: uint8 images [n, C, H, W], numbers [n]


def adjust_brightness(images: Tensor, factors: Tensor) -> Tensor:
    """Multiply pixels by a factor."""
    return _to_bytes(images.float().mul_(for_each(factors, images)))


def adjust_contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the mean luma: 0 is uniformly gray, 1 the image itself."""
    return _blend(images, luma(images).floor().mean((1, 2, 3), keepdim=True), factors)


def adjust_saturation(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the luma: 0 is gray, 1 the image itself. Images without color stay as they are."""
    return _blend(images, luma(images).floor(), factors) if images.shape[1] == 3 else images


def adjust_sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with a blurred image: 0 is blurred, 1 the image itself, 2 sharpened. The border stays as it is."""
    if min(images.shape[2:]) <= 2:
        return images
    pixels = images.float()
    inner = pixels[:, :, 1:-1, 1:-1]
    rows = pixels[:, :, :-2] + pixels[:, :, 1:-1] + pixels[:, :, 2:]
    square = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    blurred = square.add_(inner, alpha=4).div_(13).round_()
    inner += blurred.sub_(inner).mul_(for_each(1 - factors, images))
    return _to_bytes(pixels)


def adjust_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue by a fraction of the color circle. Images without color stay as they are."""
    if images.shape[1] != 3:
        return images
    return turn_hue(images.float().div_(255), for_each(turns, images)).mul_(256 - 1e-3).to(torch.uint8)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the highest bits of each pixel."""
    return images & for_each(256 - 2 ** (8 - bits), images, torch.uint8)


def solarize(images: Tensor, thresholds: Tensor) -> Tensor:
    """Invert pixels at and above a threshold of at most 255."""
    return torch.where(images >= for_each(thresholds.float().ceil(), images, torch.uint8), ~images, images)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch the values of each channel to [0, 255]; constant channels stay as they are."""
    pixels = images.float()
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    constant = low == high
    scale = (high - low).mul_(1 / 255).masked_fill_(constant, 1)
    return _to_bytes(pixels.sub_(low.masked_fill_(constant, 0)).div_(scale))


def equalize(images: Tensor) -> Tensor:
    """Make all values of a channel about equally frequent, by the rule of Pillow's ``ImageOps.equalize``."""
    values = images.flatten(2).long()
    counts = values.new_zeros(*values.shape[:2], 256).scatter_add_(2, values, torch.ones_like(values))
    below = counts.cumsum(2) - counts
    step = below.gather(2, values.amax(2, keepdim=True)) // 255  # the pixels that are not of the highest value
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step == 0, torch.arange(256, device=images.device), table)
    return table.to(torch.uint8).gather(2, values).view(images.shape)


def luma(images: Tensor) -> Tensor:
    """Luma of ITU-R BT.601, float [N, 1, H, W]; images of other than three channels have their mean."""
    if images.shape[1] != 3:
        return images.float().mean(1, keepdim=True)
    red, green, blue = images.split(1, dim=1)
    return (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of colors in [0, 1], [N, 3, H, W], by fractions of the circle, [N, 1, 1, 1]; in HSV, as by Smith (1978)."""
    red, green, blue = images.split(1, dim=1)
    low, value = images.amin(1, keepdim=True), images.amax(1, keepdim=True)
    chroma = value - low
    span = chroma.clamp(min=1e-9)  # gray has no hue, and none is needed
    hue = torch.where(value == green, (blue - red) / span + 2, (red - green) / span + 4)
    hue = torch.where(value == red, (green - blue) / span, hue) + 6 * turns
    # how far each channel is below the value: a trapezoid over the circle
    place = (hue + torch.arange(5, 0, -2, device=images.device).view(1, 3, 1, 1)) % 6
    return value - chroma * torch.minimum(place, 4 - place).clamp_(0, 1)


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    own, other = for_each(factors, images), for_each(1 - factors, images)
    return _to_bytes(images.float().mul_(own).add_(others * other))


def _to_bytes(images: Tensor) -> Tensor:
    return images.clamp_(0, 255).to(torch.uint8)


# ------------------------------------------------------------------ by random parameters


@register_augmentation("brightness")
def brightness(batch: Batch, generator: torch.Generator, strength: float = 0.4) -> Batch:
    """Multiply brightness by a factor in [1 - strength, 1 + strength]."""
    return _by_factors(batch, generator, strength, adjust_brightness)


@register_augmentation("contrast")
def contrast(batch: Batch, generator: torch.Generator, strength: float = 0.4) -> Batch:
    """Multiply contrast by a factor in [1 - strength, 1 + strength]."""
    return _by_factors(batch, generator, strength, adjust_contrast)


@register_augmentation("saturation")
def saturation(batch: Batch, generator: torch.Generator, strength: float = 0.4) -> Batch:
    """Multiply the saturation of color images by a factor in [1 - strength, 1 + strength]."""
    return _by_factors(batch, generator, strength, adjust_saturation)


@register_augmentation("sharpness")
def sharpness(batch: Batch, generator: torch.Generator, strength: float = 0.9) -> Batch:
    """Blur or sharpen by a factor in [1 - strength, 1 + strength]; 1 is the image itself."""
    return _by_factors(batch, generator, strength, adjust_sharpness)


def _by_factors(batch: Batch, generator: torch.Generator, strength: float, adjust: Callable[[Tensor, Tensor], Tensor]) -> Batch:
    factors = (1 + uniform(len(batch["images"]), strength, generator)).clamp_(min=0)
    return change_bytes(batch, lambda images: adjust(images, factors))


@register_augmentation("hue")
def hue(batch: Batch, generator: torch.Generator, fraction: Turn = 0.1) -> Batch:
    """Turn the hue of color images by up to a fraction of the color circle."""
    turns = uniform(len(batch["images"]), fraction, generator)
    return change_bytes(batch, lambda images: adjust_hue(images, turns))


@register_augmentation("jitter")
def jitter(batch: Batch, generator: torch.Generator, strength: float = 0.4, hue: Turn = 0.0) -> Batch:
    """Change brightness, contrast and, in color, saturation by factors in [1 - strength, 1 + strength], and turn the hue.

    This is the order, and nothing is rounded in between. The hue turns by up to a fraction ``hue`` of the color circle.
    """
    images = batch["images"].float()
    n, channels = images.shape[:2]
    factors = 1 + strength * (torch.rand(3, n, 1, 1, 1, generator=generator) * 2 - 1)
    brightness, contrast, saturation = factors.clamp_(min=0).to(images.device)
    images = (images * brightness).clamp_(0, 255)
    images = torch.lerp(luma(images).mean((1, 2, 3), keepdim=True), images, contrast).clamp_(0, 255)
    if channels == 3:
        images = torch.lerp(luma(images), images, saturation).clamp_(0, 255)
        if hue:
            images = turn_hue(images, for_each(uniform(n, hue, generator), images))
    return {**batch, "images": images.round_().to(batch["images"].dtype)}


@register_augmentation("posterize")
def random_posterize(batch: Batch, generator: torch.Generator, bits: Bits = 4, probability: Fraction = 0.5) -> Batch:
    """Keep the highest bits of each pixel, in each image with a probability."""
    return _by_chance(batch, generator, probability, lambda images: posterize(images, torch.full((len(images),), bits)))


@register_augmentation("solarize")
def random_solarize(batch: Batch, generator: torch.Generator, threshold: Intensity = 128, probability: Fraction = 0.5) -> Batch:
    """Invert pixels at and above a threshold, in each image with a probability."""
    return _by_chance(batch, generator, probability, lambda images: solarize(images, torch.full((len(images),), threshold)))


@register_augmentation("autocontrast")
def random_autocontrast(batch: Batch, generator: torch.Generator, probability: Fraction = 0.5) -> Batch:
    """Stretch the values of each channel to the whole range, in each image with a probability."""
    return _by_chance(batch, generator, probability, autocontrast)


@register_augmentation("equalize")
def random_equalize(batch: Batch, generator: torch.Generator, probability: Fraction = 0.5) -> Batch:
    """Equalize the histogram of each channel, in each image with a probability."""
    return _by_chance(batch, generator, probability, equalize)


@register_augmentation("invert")
def random_invert(batch: Batch, generator: torch.Generator, probability: Fraction = 0.5) -> Batch:
    """Invert the colors of each image with a probability."""
    return _by_chance(batch, generator, probability, torch.bitwise_not)


def _by_chance(batch: Batch, generator: torch.Generator, probability: float, change: Callable[[Tensor], Tensor]) -> Batch:
    return change_bytes(batch, lambda images: change_some(images, probability, generator, change))
