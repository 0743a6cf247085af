"""What a check says when a part of the contract does not hold."""

from __future__ import annotations

from typing import Any


class Violation(AssertionError):
    """A part of the contract that does not hold; the text says which value is wrong."""


def require(holds: Any, text: str) -> None:
    """Complain with ``text`` unless it holds.

    Raises:
        Violation: it does not.
    """
    if not holds:
        raise Violation(text)
