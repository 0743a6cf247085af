"""Run the ``zoo`` command with ``python -m zoo``, and as the program ``zoo``."""

from __future__ import annotations

import signal
import sys

from zoo.core.ranks import rank_zero_print
from zoo.core.signals import NUMBERS, stop


def main() -> None:
    """Own the signals before anything else is imported, which takes a while, and until the command has ended."""
    try:
        with stop.owned(is_command=True):
            from zoo.cli import app

            app()
    except KeyboardInterrupt:
        rank_zero_print("interrupted")
        sys.exit(130)
    except Exception:
        if not stop.was_raised:
            raise
        rank_zero_print("interrupted")  # an import was, which some libraries hide and then fail at
        sys.exit(130)
    finally:
        for number in NUMBERS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)  # the interpreter would print a traceback while it ends


if __name__ == "__main__":
    main()
