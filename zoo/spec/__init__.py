"""Specs: shapes, classes and vocabularies, published by data sets, from which models are built."""

from zoo.spec.image_text import (
    END,
    PAD,
    SPECIAL_WORDS,
    START,
    UNKNOWN,
    UNKNOWN_ANSWER,
    CaptionSpec,
    DialogueSpec,
    ImageTextSpec,
    NavigationSpec,
    QuestionSpec,
)
from zoo.spec.images import (
    CROP_MODES,
    IGNORE,
    Crop,
    ImageSpec,
    MultiLabelSpec,
    RegressionSpec,
    is_range,
    parse_image_shape,
)
from zoo.spec.primitives import KINDS, Spec, image_spec, spec_from_primitives, spec_to_primitives
from zoo.spec.sequences import SequenceSpec, TextSpec

__all__ = [
    "CROP_MODES",
    "CaptionSpec",
    "Crop",
    "DialogueSpec",
    "END",
    "IGNORE",
    "ImageSpec",
    "ImageTextSpec",
    "KINDS",
    "MultiLabelSpec",
    "NavigationSpec",
    "PAD",
    "QuestionSpec",
    "RegressionSpec",
    "SPECIAL_WORDS",
    "START",
    "SequenceSpec",
    "Spec",
    "TextSpec",
    "UNKNOWN",
    "UNKNOWN_ANSWER",
    "image_spec",
    "is_range",
    "parse_image_shape",
    "spec_from_primitives",
    "spec_to_primitives",
]
