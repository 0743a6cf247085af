"""Specs of images: their size and normalization, and what is learned of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from zoo.core.errors import UserError

IGNORE = -100  # the label that losses and metrics ignore, as in torch.nn.functional.cross_entropy


@dataclass(frozen=True)
class Crop:
    """How an image of another size is resized and cropped to that of the spec.

    Attributes:
        mode: ``fit`` resizes the largest center crop; ``center`` resizes the shorter side to ``size / pct`` and crops the
            center, as torchvision and timm do; ``squash`` does so with both sides resized.
        pct: fraction of the resized side that is kept, in (0, 1]; unused by ``fit``.
        interpolation: bilinear, bicubic, nearest or lanczos, always with antialiasing.
    """

    mode: str = "fit"
    pct: float = 1.0
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.mode not in CROP_MODES or self.interpolation not in INTERPOLATIONS or not 0 < self.pct <= 1:
            raise ValueError(
                f"{self}: the mode is {', '.join(CROP_MODES)}, pct in (0, 1], interpolation {', '.join(INTERPOLATIONS)}"
            )


CROP_MODES = ("fit", "center", "squash")
INTERPOLATIONS = ("bilinear", "bicubic", "nearest", "lanczos")


@dataclass(frozen=True)
class ImageSpec:
    """Images of one size, each with one class.

    Pixels are stored as integers from 0 to 255; ``mean`` and ``std`` are per channel, of pixels scaled to [0, 1]. Images of other
    sizes are resized and cropped as ``crop`` says. In gray images of more than 8 bits, the two values of ``value_range`` become
    0 and 255; empty is the range of their type.

    ``temperature`` divides the logits in front of the softmax. Data sets leave it at 1; a calibrated network has one that was
    fitted on validation images.
    """

    channels: int
    height: int
    width: int
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    crop: Crop = Crop()
    value_range: tuple[float, ...] = ()
    temperature: float = 1.0

    task: ClassVar[str] = "classification"  # whose loop trains networks for such images

    def __post_init__(self) -> None:
        crop = Crop(**self.crop) if isinstance(self.crop, dict) else self.crop  # a checkpoint has plain data
        object.__setattr__(self, "crop", crop)
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "mean", tuple(self.mean) or (0.0,) * self.channels)
        object.__setattr__(self, "std", tuple(self.std) or (1.0,) * self.channels)
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} values each, one per channel")
        object.__setattr__(self, "value_range", tuple(map(float, self.value_range)))
        if self.value_range and not is_range(self.value_range):
            raise ValueError(f"value_range={list(self.value_range)}: must be two finite numbers, the lower first")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature}: must be finite and above zero")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return self.channels, self.height, self.width

    @property
    def output_names(self) -> tuple[str, ...]:
        """What each output of a network for these images stands for."""
        return self.classes

    @property
    def outputs(self) -> int:
        """The number of outputs of a network for these images."""
        return len(self.output_names)

    @property
    def are_points(self) -> bool:
        """Whether these are points in the plane, stored as images of two channels and one pixel: their coordinates x and y."""
        return self.shape == (2, 1, 1)

    def require_size(self, model: str, smallest: int) -> None:
        """Refuse images too small for a network, and points, which have nothing to convolve.

        Raises:
            UserError: a side is shorter than ``smallest`` pixels.
        """
        if self.are_points:
            raise UserError(
                f"{model} needs images, and this data is points in the plane: choose a data set of images (`zoo data list`) "
                "or a model without convolutions, such as softmax or mlp"
            )
        if min(self.height, self.width) < smallest:
            raise UserError(
                f"{model} needs images of at least {smallest}x{smallest} pixels, these have {self.height}x{self.width}: "
                f"scale them with --set data.size={smallest}"
            )

    def require_patches(self, model: str, patch_size: int) -> None:
        """Refuse images that square patches do not tile, and points.

        Raises:
            UserError: ``patch_size`` does not divide height and width.
        """
        self.require_size(model, 1)
        sides = math.gcd(self.height, self.width)
        if patch_size < 1 or sides % patch_size:
            fitting = (number for number in range(1, sides + 1) if sides % number == 0)
            nearest = min(fitting, key=lambda number: abs(number - patch_size))
            raise UserError(
                f"model.patch_size={patch_size}: must divide images of {self.height}x{self.width}; the nearest is {nearest}"
            )


@dataclass(frozen=True)
class MultiLabelSpec(ImageSpec):
    """Images of one size, each with any number of classes at once.

    Labels are int8 [N, classes]: 1 or 0, or ``IGNORE`` where that is unknown. A class is predicted from its probability in
    ``thresholds`` on, which training chooses on the validation images; without any it is 0.5.
    """

    thresholds: tuple[float, ...] = ()

    task: ClassVar[str] = "multilabel"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        if len(self.thresholds) not in (0, len(self.classes)):
            raise ValueError(f"thresholds need {len(self.classes)} values, one per class")


@dataclass(frozen=True)
class RegressionSpec(ImageSpec):
    """Images of one size, each with a number for every one of ``targets``.

    Labels are float [N, targets], nan where they are unknown. ``target_mean`` and ``target_std`` are theirs over the training
    images: a network gives numbers of zero mean and unit deviation, from which its predictions are computed.
    """

    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    target_mean: tuple[float, ...] = ()
    target_std: tuple[float, ...] = ()

    task: ClassVar[str] = "regression"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "targets", tuple(self.targets))
        object.__setattr__(self, "target_mean", tuple(self.target_mean) or (0.0,) * len(self.targets))
        object.__setattr__(self, "target_std", tuple(self.target_std) or (1.0,) * len(self.targets))
        if not len(self.target_mean) == len(self.target_std) == len(self.targets):
            raise ValueError(f"target_mean and target_std need {len(self.targets)} values each, one per target")
        if not all(0 < each < math.inf for each in self.target_std):
            raise ValueError("target_std must be above zero")

    @property
    def output_names(self) -> tuple[str, ...]:
        return self.targets


def is_range(values: Sequence[float]) -> bool:
    """Whether these are two finite numbers, the lower first."""
    return len(values) == 2 and all(map(math.isfinite, values)) and values[0] < values[1]


def parse_image_shape(text: str) -> tuple[int, int, int]:
    """(channels, height, width) from ``3x224x224``.

    Raises:
        UserError: not three positive numbers.
    """
    numbers = text.lower().split("x")
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise UserError(f"--input {text}: write it as CHANNELSxHEIGHTxWIDTH, for example 3x224x224")
    channels, height, width = map(int, numbers)
    return channels, height, width
