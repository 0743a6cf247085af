"""Reading published JSON files, with a one-line error for whatever is wrong with them."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, one_line
from zoo.core.files import require_regular


def read_json(path: Path, parse: Callable[[Any], Any], object_hook: Callable[[dict], Any] | None = None) -> Any:
    """Read a JSON file, which may be gzipped, and return the result of ``parse`` for its content.

    Args:
        object_hook: as in ``json.load``.

    Raises:
        UserError: the file is missing, damaged, not JSON, or not laid out as ``parse`` expects.
    """
    require_regular(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = json.load(file, object_hook=object_hook)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {one_line(getattr(error, 'strerror', None) or error)}") from None
    except (ValueError, RecursionError) as error:  # also of its encoding
        raise UserError(f"{path}: is not valid JSON: {one_line(error, 100)}") from None
    try:
        return parse(content)
    except KeyError as error:
        raise UserError(f"{path}: has no {error} where one is expected") from None
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: is not laid out as published: {one_line(error, 100)}") from None


def identifier(value: object) -> int | str:
    """An identifier, whether it is written as a number or as text: 12, 12.0, "12" and "012" are one.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise TypeError(f"{value!r} is no identifier")
    return int(value) if str(value).isdecimal() else value


def text_of(value: object) -> str:
    """A text, or a number as text.

    Raises:
        TypeError: it is neither.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"{value!r} is no text")
    return str(value)
