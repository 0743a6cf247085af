"""Rank of this process, from the launchers' environment variables before torch is initialized, and printing from rank zero."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from contextlib import suppress

from zoo.core.errors import UserError
from zoo.core.printing import printable

# of Lightning and torchrun, torchrun, Slurm; and of the machine, where Lightning is started once on each
RANK_VARIABLES = ("LOCAL_RANK", "RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
LOCAL_VARIABLES = ("LOCAL_RANK", "SLURM_LOCALID")  # the rank among the processes of a machine
LAUNCHER_NUMBERS = (*RANK_VARIABLES, "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT", "SLURM_NTASKS", "SLURM_LOCALID")
LAST_PORT = 65535


def is_follower() -> bool:
    """Whether a launcher has started this process with another rank than zero."""
    return _has_rank(RANK_VARIABLES)


def is_first_of_machine() -> bool:
    """Whether no launcher has started this process with another rank than zero on its machine."""
    return not _has_rank(LOCAL_VARIABLES)


def _has_rank(variables: Iterable[str]) -> bool:
    return any(_is_number(text) and int(text) for text in (os.environ.get(name, "0") for name in variables))


def require_valid_launch() -> None:
    """Refuse variables of a launcher that are no numbers, or no port, before a library reads them.

    Raises:
        UserError: the first that is none.
    """
    for name in LAUNCHER_NUMBERS:
        if not _is_number(text := os.environ.get(name, "") or "0"):
            raise UserError(f"the environment variable {name}={text}: must be a number from 0, or unset")
    port = os.environ.get("MASTER_PORT") or "1"
    if not 0 < int(port) <= LAST_PORT:
        raise UserError(f"the environment variable MASTER_PORT={port}: must be a port, a number from 1 to {LAST_PORT}, or unset")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def rank_zero_print(text: str) -> None:
    """Print a line to standard error from rank zero only."""
    if not is_follower():
        _print(text)


def error_print(text: str) -> None:
    """Print a line to standard error from the first process of each machine, as another may not have the error."""
    if is_first_of_machine():
        _print(text)


def _print(text: str) -> None:
    with suppress(OSError):  # the terminal was closed, which is no reason to end in another way
        print(printable(text), file=sys.stderr, flush=True)
