"""Values of settings: plain YAML of bounded size, interpreted by the type of their key."""

from __future__ import annotations

import ast
import re
from contextlib import suppress
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml

from zoo.core.errors import one_line

LONGEST = 100_000  # characters of a file or a value
DEEPEST = 20  # levels of lists and dictionaries
PLAIN_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map"))


class Written(str):
    """A value as it was written on the command line, to be interpreted once the type of its key is known."""

    def __repr__(self) -> str:
        return str(self)


class Plain:
    """YAML of plain data: without dates, tags and keys that are repeated or no text."""

    yaml_constructors = {tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (*PLAIN_TAGS, None)}
    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in PLAIN_TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = set()
        for key, _ in node.value:
            if key.tag != PLAIN_TAGS[4]:
                name = f"the key {key.value} is no text: quote it" if isinstance(key, yaml.ScalarNode) else "a key is no text"
                raise yaml.constructor.ConstructorError(None, None, name, key.start_mark)
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key.value} is repeated", key.start_mark)
            keys.add(key.value)
        return super().construct_mapping(node, deep)  # type: ignore[misc]


class PlainLoader(Plain, yaml.SafeLoader):  # type: ignore[misc]
    """Also without aliases, which can grow without bounds, and without deep nesting."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "an alias is not allowed here", mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, f"nested deeper than {DEEPEST} levels", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class FastLoader(Plain, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Ten times as fast, for texts in which there is nothing to refuse."""


def _composed(text: str) -> tuple[PlainLoader | FastLoader, Any]:
    """The node of a text, None if it is empty, and its loader: the fast one if there can be neither an alias nor deep nesting."""
    deepest = max((len(line) - len(line.lstrip(" -")) for line in text.splitlines()), default=0) // 2
    if not re.search("[&*!\t]", text) and deepest + text.count("[") + text.count("{") < DEEPEST:
        with suppress(yaml.YAMLError):  # the other one tells where and what more clearly
            fast = FastLoader(str(text))
            return fast, fast.get_single_node()
    slow = PlainLoader(text)
    return slow, slow.get_single_node()


def load_yaml(text: str) -> Any:
    """Parse plain YAML.

    Raises:
        ValueError: with the reason in one line.
    """
    return _parse(text, Any)


def load_mapping(text: str) -> dict[str, Any]:
    """Parse a dictionary as Python, JSON or YAML write it.

    Raises:
        ValueError: it is none, with the reason in one line.
    """
    mapping = None
    if len(text) <= LONGEST:
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            mapping = ast.literal_eval(text)
    mapping = load_yaml(text) if mapping is None else mapping
    if not isinstance(mapping, dict) or not all(isinstance(key, str) for key in mapping):
        raise ValueError("not keys and values")
    return mapping


def interpret(text: Written, kind: Any) -> Any:
    """Interpret what was written by the type of its key: as it stands where that is text, and as YAML elsewhere.

    Args:
        kind: a type as an annotation gives it.

    Raises:
        ValueError: it is not plain YAML, with the reason in one line.
    """
    kinds = alternatives(kind)
    found, value = _as_text(str(text), kinds)
    if found:
        return value
    try:
        value = _parse(text, kind)
    except ValueError:
        if str in kinds:
            return str(text)
        raise
    return str(text) if str in kinds and not any(_is(value, each) for each in kinds) else value


def _parse(text: str, kind: Any) -> Any:
    if len(text) > LONGEST:
        raise ValueError(f"{len(text):,} characters are more than {LONGEST:,}")
    try:
        loader, node = _composed(text)
        return None if node is None else _construct(loader, node, kind)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ValueError(f"not YAML at line {line}: {one_line(error.problem, 100)}") from None
    except (yaml.YAMLError, ValueError, ArithmeticError) as error:
        raise ValueError(f"not YAML: {one_line(error, 100).partition(';')[0]}") from None


def _construct(loader: PlainLoader | FastLoader, node: Any, kind: Any) -> Any:
    kinds = alternatives(kind)
    if node.tag not in PLAIN_TAGS:
        return loader.construct_object(node)  # raises
    if isinstance(node, yaml.SequenceNode):
        item = _kind_of_items(kinds)
        return [_construct(loader, each, item) for each in node.value]
    if isinstance(node, yaml.ScalarNode):
        found, value = _as_text(node.value, kinds)
        if found:
            return value
        value = loader.construct_object(node)
        return node.value if str in kinds and not any(_is(value, each) for each in kinds) else value
    return loader.construct_object(node, deep=True)


def _kind_of_items(kinds: tuple[Any, ...]) -> Any:
    """The type of the items of a list, where one of the types is a list."""
    return next((get_args(each)[0] for each in kinds if get_origin(each) in (list, tuple)), Any)


def _as_text(text: str, kinds: tuple[Any, ...]) -> tuple[bool, Any]:
    """Whether the type alone decides what a text stands for, and that."""
    choices = [choice for kind in kinds if get_origin(kind) is Literal for choice in get_args(kind)]
    for choice in choices:
        if str(choice) == text:
            return True, choice
    if type(None) in kinds and text in ("", "~", "null", "None"):
        return True, None
    only_text = all(kind in (str, type(None)) or get_origin(kind) is Literal for kind in kinds)
    return only_text and all(isinstance(choice, str) for choice in choices), text


def _is(value: object, kind: Any) -> bool:
    """Whether a value is of a type that is not text; a truth value is no number."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return kind in (float, type(value))
    return not isinstance(value, str) and (get_origin(kind) or kind) is type(value)


def fault_of(value: object, kind: Any) -> str:
    """What is wrong with a value that pydantic would accept for a type; empty if nothing is.

    Python counts a truth value as a number, and takes integers of any size, which no tensor holds.
    """
    kinds = alternatives(kind)
    if isinstance(value, bool):
        is_known = any(each in (bool, Any) or (get_origin(each) is Literal and value in get_args(each)) for each in kinds)
        return "" if is_known else "a truth value is no number"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number of more than 63 bits is too large"
    if isinstance(value, (list, tuple)):
        item = _kind_of_items(kinds)
        return next(filter(None, (fault_of(each, item) for each in value)), "")
    return ""


def alternatives(kind: Any) -> tuple[Any, ...]:
    """The types of a union, or the type alone, without what is annotated."""
    if get_origin(kind) is Annotated:
        return alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return tuple(each for part in get_args(kind) for each in alternatives(part))
    return (type(None),) if kind is None else (kind,)
