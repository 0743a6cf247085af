"""Specs: shapes, classes and vocabularies, published by data sets, from which models are built."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import takewhile
from typing import Any, ClassVar

from zoo.core.errors import UserError, some

IGNORE = -100  # the label that losses and metrics ignore, as in torch.nn.functional.cross_entropy
LARGEST = 2**20  # side of an image, length of a sequence and the like
UNKNOWN_ANSWER = -1  # label of an answer that is not in the spec: ignored in training, wrong in evaluation


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


@dataclass(frozen=True)
class TextSpec:
    """Text as a sequence of characters, each encoded as its index into ``vocabulary``."""

    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "vocabulary", tuple(self.vocabulary))

    def encode(self, text: str, what: str = "the text") -> list[int]:
        """The index of each character.

        Raises:
            UserError: characters outside the vocabulary; ``what`` names the text in the message.
        """
        places = {character: place for place, character in enumerate(self.vocabulary)}
        if strange := sorted(set(text) - set(places)):
            raise UserError(f"{what} has unknown characters: {some(map(repr, strange))}")
        return [places[character] for character in text]

    def decode(self, places: Iterable[int]) -> str:
        """The inverse of ``encode``."""
        return "".join(self.vocabulary[place] for place in places)


@dataclass(frozen=True)
class SequenceSpec:
    """Sequences of ``length`` steps with ``features`` numbers each, and a target.

    With ``symbols``, the target is one of them at each step, the first of which is the blank. Without, it is one number after the
    last step.
    """

    length: int
    features: int
    symbols: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "symbols", tuple(self.symbols))


PAD, START, END, UNKNOWN = range(4)  # indices in every vocabulary of words
SPECIAL_WORDS = ("<pad>", "<start>", "<end>", "<unknown>")


@dataclass(frozen=True)
class ImageTextSpec:
    """Images of one size, and words, each encoded as its index into ``vocabulary``, which begins with ``SPECIAL_WORDS``.

    The base of the specs for images with text. ``image`` has no classes.
    """

    image: ImageSpec
    vocabulary: tuple[str, ...]

    def __post_init__(self) -> None:
        image = ImageSpec(**self.image) if isinstance(self.image, dict) else self.image  # a checkpoint has plain data
        object.__setattr__(self, "image", image)
        for name, value in vars(self).items():
            if isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        if self.vocabulary[: len(SPECIAL_WORDS)] != SPECIAL_WORDS:
            raise ValueError(f"a vocabulary of words begins with {', '.join(SPECIAL_WORDS)}")

    @property
    def columns(self) -> dict[str, int]:
        """The columns of a batch besides its images, at least, with the number of values that each may take, from 0.

        A column is int64, [N, ...]; ``IGNORE`` or, among words, ``PAD`` stands for what is missing.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what its columns are")

    def encode(self, words: Iterable[str]) -> list[int]:
        """The index of each word, ``UNKNOWN`` for one outside the vocabulary."""
        return [self._places.get(word, UNKNOWN) for word in words]

    def decode(self, places: Iterable[int]) -> list[str]:
        """The words up to the first ``END`` or ``PAD``, without a ``START`` in front."""
        kept = takewhile(lambda place: place not in (END, PAD), places)
        return [self.vocabulary[place] for place in kept if place != START]

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.vocabulary)}


@dataclass(frozen=True)
class CaptionSpec(ImageTextSpec):
    """Images, each with captions; ``length`` is that of the longest in words, ``END`` included."""

    length: int

    @property
    def columns(self) -> dict[str, int]:
        return {"labels": len(self.vocabulary)}


@dataclass(frozen=True)
class QuestionSpec(ImageTextSpec):
    """Images with questions of at most ``length`` words, each with one of ``answers``.

    ``kinds`` of questions, as in relational and non-relational, have their own accuracy; there may be none.
    """

    answers: tuple[str, ...]
    length: int
    kinds: tuple[str, ...] = ()

    @property
    def columns(self) -> dict[str, int]:
        kinds = {"kinds": len(self.kinds)} if self.kinds else {}
        return {"labels": len(self.answers), "questions": len(self.vocabulary), **kinds}


@dataclass(frozen=True)
class DialogueSpec(ImageTextSpec):
    """Images, each with a caption and up to ``rounds`` of question and answer.

    ``answers`` are those of the training dialogues, the most frequent first. ``candidates`` is their number in each round.
    ``length`` is that of the longest caption, question or answer in words, ``END`` included.
    """

    answers: tuple[str, ...]
    length: int
    rounds: int
    candidates: int

    @property
    def columns(self) -> dict[str, int]:
        return {"labels": self.candidates, **dict.fromkeys(("captions", "questions", "answers"), len(self.vocabulary))}


@dataclass(frozen=True)
class NavigationSpec(ImageTextSpec):
    """Views from inside an environment, with instructions of at most ``length`` words, ``END`` included.

    ``actions`` are the choices at each step, the last of them to stop; an episode ends after at most ``steps``. It succeeds less
    than ``success_distance`` from the goal, in ``unit``; if ``requires_stop``, the agent must have stopped there.

    If ``panoramic``, actions are the directions in which one can go from where one is, which differ from place to place (Fried et
    al. 2018, arXiv:1806.02724): a view is not of pixels, but has a column of features for each action, [features, 1, actions],
    zero where there is no such action.
    """

    actions: tuple[str, ...]
    length: int
    steps: int
    panoramic: bool = False
    success_distance: float = 1.0
    requires_stop: bool = True
    unit: str = "steps"


Spec = ImageSpec | TextSpec | SequenceSpec | ImageTextSpec
KINDS: dict[str, type[Spec]] = {
    "image": ImageSpec, "multilabel": MultiLabelSpec, "regression": RegressionSpec, "text": TextSpec, "sequence": SequenceSpec,
    "caption": CaptionSpec, "question": QuestionSpec, "dialogue": DialogueSpec, "navigation": NavigationSpec,
}  # fmt: skip


def image_spec(spec: Spec) -> ImageSpec:
    """The part of a spec that is about images."""
    if isinstance(spec, (TextSpec, SequenceSpec)):
        raise TypeError(f"{type(spec).__name__} has no images")
    return spec if isinstance(spec, ImageSpec) else spec.image


def spec_to_primitives(spec: Spec) -> dict[str, Any]:
    """Convert a spec to plain data, as checkpoints store it."""
    kind = next(kind for kind, cls in KINDS.items() if type(spec) is cls)
    return {"kind": kind, **_plain(asdict(spec))}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, (tuple, list)) else value


def spec_from_primitives(fields: dict[str, Any]) -> Spec:
    """The inverse of ``spec_to_primitives``.

    Raises:
        ValueError: naming the first key whose value is none of a spec.
    """
    kind, values = fields.get("kind"), {key: value for key, value in fields.items() if key != "kind"}
    if kind not in KINDS:
        raise ValueError(f"spec.kind={kind!r}: must be one of {', '.join(KINDS)}")
    if KINDS[kind].__module__ == __name__:  # that of a plugin may have fields of any type
        _require_types(KINDS[kind], values)
    return KINDS[kind](**values)


def _require_types(kind: type[Spec], values: dict[str, Any]) -> None:
    from pydantic import TypeAdapter, ValidationError  # whose import takes longer than all of listing names

    try:
        TypeAdapter(kind).validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, ("spec", *first["loc"])))
        value = f"={first['input']!r}" if first["loc"] else ""
        raise ValueError(f"{where}{value}: {first['msg'].lower().removeprefix('value error, ')}") from None
    for part in (values, values.get("image", {})):
        for key, value in part.items():
            if type(value) is int and not 1 <= value <= LARGEST:
                raise ValueError(f"spec.{key}={value}: must be from 1 to {LARGEST:,}")
        if not all(map(math.isfinite, part.get("mean", ()))):
            raise ValueError(f"spec.mean={part['mean']}: must be finite")
        if not all(0 < each < math.inf for each in part.get("std", ())):
            raise ValueError(f"spec.std={part['std']}: must be above zero")
