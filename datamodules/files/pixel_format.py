"""Conversion of images of any mode to 8 bits a channel, in color or gray."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from zoo.spec import ImageSpec

GRAY = ("1", "L", "LA", "La")  # modes without color, besides the deep ones


@dataclass(frozen=True)
class PixelFormat:
    """The 8 bits that images are converted to.

    Attributes:
        channels: 3 for RGB, 1 for gray.
        value_range: (lowest, highest) value of deep images, which become 0 and 255. Empty is that of their type: 0 to 65,535 of
            integers; of floats 0 to 1, or to 255 if the image has values above 1.
    """

    channels: int = 3
    value_range: tuple[float, ...] = ()

    @classmethod
    def of(cls, spec: ImageSpec) -> PixelFormat:
        """That of the images of a spec."""
        return cls(spec.channels, spec.value_range)

    def convert(self, image: Image.Image) -> Image.Image:
        """An image of any mode as RGB or L; transparent parts become white, and what is not a number the lowest value."""
        if is_deep(image.mode):
            image = self._shallow(image)
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("L" if self.channels == 1 else "RGB")

    def _shallow(self, image: Image.Image) -> Image.Image:
        values = np.asarray(image, np.float64)
        low, high = self.value_range or (0, 65535 if image.mode != "F" else 1 if np.nanmax(values) <= 1 else 255)
        levels = np.nan_to_num(np.clip((values - low) / (high - low) * 255, 0, 255))
        return Image.fromarray(levels.round().astype(np.uint8))


RGB = PixelFormat()


def is_deep(mode: str) -> bool:
    """Whether a mode of Pillow's has gray values of more than 8 bits: integers or floats."""
    return mode == "F" or mode.startswith("I")


def is_gray(mode: str) -> bool:
    """Whether a mode of Pillow's has no color; a palette may have some."""
    return mode in GRAY or is_deep(mode)
