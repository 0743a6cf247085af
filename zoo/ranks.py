"""Which process of a run this is, told by the launchers' environment variables, before torch could say."""

from __future__ import annotations

import os

RANK_VARIABLES = ("LOCAL_RANK", "RANK", "SLURM_PROCID")  # of Lightning and torchrun, torchrun, Slurm


def is_follower() -> bool:
    """Whether a launcher has started this process and it is not rank zero: then another one decides and speaks."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in RANK_VARIABLES)
