"""Published JSON files, read with one clear line for whatever is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoo.core.errors import UserError, one_line


def read_json(path: Path, read: Callable[[Any], Any]) -> Any:
    """What ``read`` makes of the content of a JSON file.

    Raises:
        UserError: the file is missing, no JSON, or not laid out as ``read`` expects.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror.lower()}") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: is no JSON: {one_line(error, 100)}") from None
    try:
        return read(content)
    except KeyError as error:
        raise UserError(f"{path}: has no {error} where one is expected") from None
    except (TypeError, AttributeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: is not laid out as published: {one_line(error, 100)}") from None
