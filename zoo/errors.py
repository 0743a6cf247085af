"""The one exception for a user's mistake: a single line that names the thing and the nearest right one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can put right. The command prints its text as one line and exits with code 2."""


def unknown(what: str, name: str, known: Iterable[str], hint: str = "") -> UserError:
    """The error for a name that does not exist, with the nearest names that do.

    Args:
        what: the kind of thing, as it reads after "no" ("model", "recipe key").
        name: what was asked for.
        known: the names that exist.
        hint: what to do when no name is near; by default the known names are listed.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return UserError(f"no {what} {name!r}: did you mean {' or '.join(map(repr, near))}?")
    if not known and not hint:
        return UserError(f"no {what} {name!r}: there is none")
    return UserError(f"no {what} {name!r}: {hint or 'known are ' + ', '.join(known)}")
