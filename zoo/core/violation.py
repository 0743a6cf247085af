"""The error of a check of the contract."""

from __future__ import annotations

from typing import Any


class Violation(AssertionError):
    """A violated part of the contract; the message names the wrong value."""


def require(holds: Any, text: str) -> None:
    """Complain with ``text`` unless it holds.

    Raises:
        Violation: it does not.
    """
    if not holds:
        raise Violation(text)
