"""A curve as one line of text."""

from __future__ import annotations

import math
from collections.abc import Sequence

BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """One bar for each value, the lowest for the least and the highest for the greatest of them, at most ``width`` bars.

    More values share bars, each their mean. What is not finite is left blank; if all are equal the bars are low.
    """
    count = min(width, len(values))
    shares = [values[i * len(values) // count : (i + 1) * len(values) // count] for i in range(count)]
    means = [sum(share) / len(share) for share in shares]
    finite = [each for each in means if math.isfinite(each)]
    least, span = min(finite, default=0.0), max(finite, default=0.0) - min(finite, default=0.0)
    return "".join(
        BARS[min(len(BARS) - 1, int((each - least) / span * len(BARS))) if span else 0] if math.isfinite(each) else " "
        for each in means
    )
