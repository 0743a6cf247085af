"""Which process of a run this is, told by the launchers' environment variables before torch could say, and who speaks."""

from __future__ import annotations

import os
import sys

# of Lightning and torchrun, torchrun, Slurm; and of the machine, where Lightning is started once on each
RANK_VARIABLES = ("LOCAL_RANK", "RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")


def is_follower() -> bool:
    """Whether a launcher has started this process and it is not rank zero: then another one decides and speaks."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in RANK_VARIABLES)


def rank_zero_print(text: str) -> None:
    """A line for whoever waits, from one process alone."""
    if not is_follower():
        print(text, file=sys.stderr, flush=True)
