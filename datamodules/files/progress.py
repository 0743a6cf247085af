"""Progress of long work on many images."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

WORTH_A_LINE = 1000  # images; fewer take no time


def shown(results: Iterable[Any], count: int, part: int, what: str) -> Iterator[Any]:
    """Pass on results, one for each ``part`` of ``count`` images, with a progress bar on a terminal and one line in a log.

    Args:
        what: a verb for the work, as in "decoding".
    """
    if not sys.stderr.isatty():
        if count >= WORTH_A_LINE:
            print(f"{what} {count:,} images", file=sys.stderr, flush=True)
        yield from results
        return
    from rich.console import Console
    from rich.progress import Progress

    # what is printed to standard output goes there, and not beside the bar: it may be a file
    with Progress(console=Console(stderr=True), transient=True, redirect_stdout=False) as progress:
        yield from progress.track(results, -(-count // part), description=f"{what} {count:,} images")
