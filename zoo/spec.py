"""What a model must know of its data: a frozen description that the data publishes and the model is built from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from zoo.errors import UserError, some

IGNORE = -100  # the label that losses and metrics leave out, as in torch.nn.functional.cross_entropy


@dataclass(frozen=True)
class ImageSpec:
    """Images of one size, each of one class.

    Pixels are stored as integers from 0 to 255; ``mean`` and ``std`` are per channel, of pixels scaled to [0, 1].
    """

    channels: int
    height: int
    width: int
    classes: tuple[str, ...]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))
        object.__setattr__(self, "mean", tuple(self.mean) or (0.0,) * self.channels)
        object.__setattr__(self, "std", tuple(self.std) or (1.0,) * self.channels)
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"mean and std need {self.channels} values each, one a channel")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width)"""
        return self.channels, self.height, self.width

    @property
    def are_points(self) -> bool:
        """Points in the plane, which are stored as images of two channels and one pixel: their coordinates x and y."""
        return self.shape == (2, 1, 1)

    def require_size(self, model: str, smallest: int) -> None:
        """Refuse images that a network would shrink to nothing, and points, in which there is nothing to convolve.

        Raises:
            UserError: a side is shorter than ``smallest`` pixels.
        """
        if self.are_points:
            raise UserError(
                f"{model} needs images, and this data is points in the plane: take a data set of images (`zoo data list`) "
                "or a model without convolutions, as softmax or mlp"
            )
        if min(self.height, self.width) < smallest:
            raise UserError(
                f"{model} needs images of at least {smallest}x{smallest} pixels, these have {self.height}x{self.width}: "
                f"scale them with --set data.size={smallest}"
            )

    def require_patches(self, model: str, patch: int) -> None:
        """Refuse images that square patches do not fill, and points.

        Raises:
            UserError: ``patch`` pixels do not divide height and width.
        """
        self.require_size(model, 1)
        sides = math.gcd(self.height, self.width)
        if patch < 1 or sides % patch:
            fitting = (number for number in range(1, sides + 1) if sides % number == 0)
            nearest = min(fitting, key=lambda number: abs(number - patch))
            raise UserError(
                f"model.patch={patch}: must divide images of {self.height}x{self.width}; the nearest that does is {nearest}"
            )


def parse_image_shape(text: str) -> tuple[int, int, int]:
    """(channels, height, width) from ``3x224x224``.

    Raises:
        UserError: not three numbers from one.
    """
    numbers = text.lower().split("x")
    if len(numbers) != 3 or not all(number.isdecimal() and int(number) for number in numbers):
        raise UserError(f"--input {text}: write it as CHANNELSxHEIGHTxWIDTH, for example 3x224x224")
    return tuple(map(int, numbers))


@dataclass(frozen=True)
class TextSpec:
    """Text as a sequence of characters: those that there are, each known by its place in this order."""

    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))

    def encode(self, text: str, what: str = "the text") -> list[int]:
        """The place of each character.

        Raises:
            UserError: characters that the vocabulary lacks; ``what`` says in the message where they stand.
        """
        places = {character: place for place, character in enumerate(self.vocabulary)}
        if strange := sorted(set(text) - set(places)):
            raise UserError(f"{what} has characters that the model does not know: {some(map(repr, strange))}")
        return [places[character] for character in text]

    def decode(self, places: Iterable[int]) -> str:
        """The inverse of ``encode``."""
        return "".join(self.vocabulary[place] for place in places)


Spec = ImageSpec | TextSpec
KINDS = {"image": ImageSpec, "text": TextSpec}


def spec_to_primitives(spec: Spec) -> dict[str, Any]:
    """The spec as plain data, as checkpoints keep it."""
    kind = next(kind for kind, cls in KINDS.items() if type(spec) is cls)
    fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(spec).items()}
    return {"kind": kind, **fields}


def spec_from_primitives(fields: dict[str, Any]) -> Spec:
    """The inverse of ``spec_to_primitives``."""
    fields = dict(fields)
    return KINDS[fields.pop("kind")](**fields)
