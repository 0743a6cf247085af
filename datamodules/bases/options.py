"""Checks of options that several data sets share."""

from __future__ import annotations

from zoo.core.errors import UserError


def require_at_least(least: int, **options: int) -> None:
    """Refuse options below a bound.

    Raises:
        UserError: the first that is, by its name.
    """
    for name, value in options.items():
        if value < least:
            raise UserError(f"data.{name}={value}: must be at least {least}")


def require_fraction(**options: float) -> None:
    """Refuse options that are not between 0 and 1.

    Raises:
        UserError: the first that is not, by its name.
    """
    for name, value in options.items():
        if not 0 < value < 1:
            raise UserError(f"data.{name}={value}: must be above 0 and less than 1")
