"""Specs as plain data, as checkpoints store them, and back."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from zoo.spec.image_text import CaptionSpec, DialogueSpec, ImageTextSpec, NavigationSpec, QuestionSpec
from zoo.spec.images import ImageSpec, MultiLabelSpec, RegressionSpec
from zoo.spec.sequences import SequenceSpec, TextSpec

LARGEST = 2**20  # side of an image, length of a sequence and the like

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
    if KINDS[kind].__module__.startswith(f"{__package__}."):  # that of a plugin may have fields of any type
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
