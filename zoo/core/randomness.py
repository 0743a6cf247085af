"""Seeds as a function of (seed, epoch, step, rank), never of history.

This makes a resumed run equal to an uninterrupted one: no generator has a state that would have to be saved.
"""

from __future__ import annotations

from hashlib import blake2b


def derive_seed(seed: int, *position: int | str) -> int:
    """Derive a seed in [0, 2**63) for a position; different positions give independent seeds.

    Args:
        seed: the seed of the run.
        position: purpose and place of the draw, as in ``derive_seed(7, "augment", epoch, step, rank)``.
    """
    text = "/".join(map(str, (seed, *position)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
