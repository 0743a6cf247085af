"""Seeds as a function of position: (seed, epoch, step, rank), never of what happened before.

That is what makes a resumed run equal to one that was never stopped: no generator has a history that would have to be saved.
"""

from __future__ import annotations

from hashlib import blake2b


def derive_seed(seed: int, *position: int | str) -> int:
    """A seed in [0, 2**63) for one position; different positions give independent seeds.

    Args:
        seed: the seed of the run.
        position: what the draw is for and where it stands, as in ``derive_seed(7, "augment", epoch, step, rank)``.
    """
    text = "/".join(map(str, (seed, *position)))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
