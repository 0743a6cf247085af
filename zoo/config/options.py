"""Validation of options against the types in the code, before anything heavy is imported."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.fields import FieldInfo

from zoo.config.values import Written, alternatives, fault_of, interpret
from zoo.core.errors import UserError, did_you_mean, one_line, unknown
from zoo.core.printing import is_utf8
from zoo.registry.annotations import parse_annotation
from zoo.registry.entry import REQUIRED, Entry

Schema = TypeVar("Schema", bound=BaseModel)


def check_options(entry: Entry, given: dict[str, Any], as_json: bool = False) -> dict[str, Any]:
    """Validate options and return all of an entry: the given ones, converted to their types, over the defaults.

    Raises:
        UserError: an unknown option, a missing one, or a value of the wrong type.
    """
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    given = {name: _plain(value) for name, value in _with_network_args(entry, given).items()}
    fields: dict[str, Any] = {
        option.name: (parse_annotation(option.type), ... if option.default == REQUIRED else option.default)
        for option in entry.options
    }
    section = entry.kind if entry.kind in ("model", "data") else f"recipe.{entry.kind}_args"
    config = ConfigDict(extra="forbid", protected_namespaces=(), allow_inf_nan=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an option may be named as a method of pydantic's, such as copy
        schema: type[BaseModel] = create_model("Options", __config__=config, **fields)
    options = validate(schema, given, section, f"option of {entry.name}")
    return options.model_dump(mode="json" if as_json else "python", warnings=False)


def _with_network_args(entry: Entry, given: dict[str, Any]) -> dict[str, Any]:
    """Move unknown options into ``network_args`` if the entry has it: they are for the library that builds the network."""
    known = {option.name for option in entry.options}
    others = {name: value for name, value in given.items() if name not in known}
    if "network_args" not in known or not others:
        return given
    own = {name: value for name, value in given.items() if name in known}
    return {**own, "network_args": {**(own.get("network_args") or {}), **others}}


def _plain(value: Any) -> Any:
    """The items of a dictionary, whose types nobody knows, as YAML has them."""
    if not isinstance(value, dict):
        return value
    try:
        return {key: interpret(item, Any) if isinstance(item, Written) else _plain(item) for key, item in value.items()}
    except ValueError as error:
        raise UserError(f"{_shown(value)}: {error}") from None


def _shown(value: object) -> str:
    """A value in a message, shortened."""
    text = one_line(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def validate(schema: type[Schema], given: dict[str, Any], section: str, what: str) -> Schema:
    """Create a pydantic model from the given values, with the first validation error as one line.

    Args:
        section: prefix of the key in the message, as in ``recipe``.
        what: the term for an unknown key, as in ``recipe key``.

    Raises:
        UserError: an unknown key, a missing one, or a value of the wrong type.
    """
    given = {name: _interpreted(schema, name, value, section) for name, value in given.items()}
    try:
        return schema(**given)
    except ValidationError as error:
        # an unknown key is the likelier cause of a missing one
        first = min(error.errors(), key=lambda item: item["type"] != "extra_forbidden")
        name = str(first["loc"][0])
        if first["type"] == "extra_forbidden":
            raise unknown(what, name, schema.model_fields) from None
        if first["type"] == "missing" and len(first["loc"]) == 1:
            raise UserError(f"{section}.{name} must be given: --set {section}.{name}=...") from None
        reason = first["msg"].removeprefix("Value error, ") if first["type"] != "missing" else "too few values"
        if first["type"] == "literal_error":
            reason += did_you_mean(str(given.get(name)), re.findall("'([^']*)'", first["ctx"]["expected"]))
        if first["type"] in ("list_type", "tuple_type", "missing") and not isinstance(given.get(name), dict):
            reason += f", as in {section}.{name}={_example(schema.model_fields[name], given.get(name))}"
        raise UserError(f"{section}.{name}={_shown(given.get(name))}: {reason[0].lower()}{reason[1:]}") from None


def _example(field: FieldInfo, value: Any) -> str:
    """What a key of several values takes: its default, if their number is fixed, and else a list of the one that was given."""
    fixed = any(get_origin(kind) is tuple and ... not in get_args(kind) for kind in alternatives(field.annotation))
    return str(list(field.default)) if fixed and isinstance(field.default, tuple) else f"[{_shown(value)}]"


def _interpreted(schema: type[BaseModel], name: str, value: Any, section: str) -> Any:
    """A value by the type of its key, if there is such a key.

    Raises:
        UserError: it is not YAML, a truth value in place of a number, or text that is not UTF-8.
    """
    field = schema.model_fields.get(name)
    if field is None:
        return value
    # a type that cannot be read is that of the default
    kind = str if field.annotation is Any and isinstance(field.default, str) else field.annotation
    try:
        known = interpret(value, kind) if isinstance(value, Written) else value
        if fault := fault_of(known, field.annotation):
            raise ValueError(fault)
        if isinstance(known, str) and not is_utf8(known):
            raise ValueError("is not UTF-8")
    except ValueError as error:
        raise UserError(f"{section}.{name}={_shown(value)}: {error}") from None
    return known


def require_positive(**options: int) -> None:
    """Check that options of a model are at least 1.

    Raises:
        UserError: with the first option that is not.
    """
    for name, value in options.items():
        if value < 1:
            raise UserError(f"model.{name}={value}: must be at least 1")
