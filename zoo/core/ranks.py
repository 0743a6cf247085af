"""Rank of this process, from the launchers' environment variables before torch is initialized, and printing from rank zero."""

from __future__ import annotations

import os
import sys

from zoo.core.errors import UserError
from zoo.core.printing import printable

# of Lightning and torchrun, torchrun, Slurm; and of the machine, where Lightning is started once on each
RANK_VARIABLES = ("LOCAL_RANK", "RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")


LAUNCHER_NUMBERS = (*RANK_VARIABLES, "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT", "SLURM_NTASKS", "SLURM_LOCALID")


def is_follower() -> bool:
    """Whether a launcher has started this process with another rank than zero."""
    return any(_is_number(text) and int(text) for text in (os.environ.get(name, "0") for name in RANK_VARIABLES))


def require_valid_launch() -> None:
    """Refuse variables of a launcher that are no numbers, before a library reads them.

    Raises:
        UserError: the first that is none.
    """
    for name in LAUNCHER_NUMBERS:
        if not _is_number(text := os.environ.get(name, "") or "0"):
            raise UserError(f"the environment variable {name}={text}: must be a number from 0, or unset")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def rank_zero_print(text: str) -> None:
    """Print a line to standard error from rank zero only."""
    if not is_follower():
        print(printable(text), file=sys.stderr, flush=True)
