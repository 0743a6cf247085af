"""Types of options, parsed from annotations without evaluating them."""

from __future__ import annotations

import ast
import functools
import operator
from typing import Any, Literal, get_args

Activation = Literal["sigmoid", "tanh", "relu", "leaky-relu", "elu", "gelu", "silu"]
Norm = Literal["none", "batch", "layer", "instance", "group"]
NAMES = {"Activation": Activation, "Norm": Norm}

NAMED_TYPES: dict[str, Any] = {
    "int": int, "float": float, "str": str, "bool": bool, "list": list, "tuple": tuple, "dict": dict,
    "None": None, "Any": Any, "Path": str,
}  # fmt: skip


def parse_annotation(text: str) -> Any:
    """Parse an annotation without evaluating it, since it may come from a file that must not be run.

    Supports the types of a command line: int, float, str, bool, None, list, tuple, dict, Literal and unions, and takes a Path as
    text; others, and what is no annotation, are Any.
    """
    try:
        return _type_of(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return Any


def _type_of(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str(text)):
            return parse_annotation(text)
        case ast.Constant(value=value) if value is ...:
            return ...
        case ast.Name(id=name) if name in NAMED_TYPES:
            return NAMED_TYPES[name]
        case ast.BinOp(op=ast.BitOr()):
            return functools.reduce(operator.or_, (_type_of(node.left), _type_of(node.right)))
        case ast.Subscript(value=ast.Name(id="Optional"), slice=inner):
            return _type_of(inner) | None
        case ast.Subscript(value=ast.Name(id="Union"), slice=ast.Tuple(elts=parts)):
            return functools.reduce(operator.or_, map(_type_of, parts))
        case ast.Subscript(value=ast.Name(id="Literal"), slice=choices):
            return Literal[ast.literal_eval(choices)]
        case ast.Subscript(value=ast.Name(id=name), slice=inner) if name in ("list", "tuple", "dict"):
            arguments = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if len(arguments) != {"list": 1, "dict": 2}.get(name, len(arguments)):
                return Any
            return NAMED_TYPES[name][tuple(_type_of(argument) for argument in arguments)]
    return Any


def spelled_out(annotation: str) -> str:
    """Replace the names above by the literals that they stand for."""
    return f"Literal[{', '.join(map(repr, get_args(NAMES[annotation])))}]" if annotation in NAMES else annotation
