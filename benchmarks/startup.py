"""Time of ``zoo list`` over that of importing Typer: what a name costs beyond starting Python and the command line.

The two run in turn, and the smallest times count, since whatever else a machine does only adds to them.

    python benchmarks/startup.py --runs 30
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

COMMANDS = {
    "import typer": [sys.executable, "-c", "import typer"],
    "zoo list": [sys.executable, "-c", "import sys; sys.argv = ['zoo', 'list']; from zoo.cli import app; app()"],
}


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one run, its output thrown away."""
    silent = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    _, status, usage = os.wait4(os.posix_spawn(command[0], command, os.environ, file_actions=silent), 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return usage.ru_utime + usage.ru_stime


def main(runs: Annotated[int, typer.Option(help="Runs of each.")] = 20) -> None:
    best = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(runs):
        for name, command in COMMANDS.items():
            best[name] = min(best[name], cpu_seconds(command))
    for name, seconds in best.items():
        print(f"{name:14} {seconds * 1000:.0f} ms")
    print(f"ratio {best['zoo list'] / best['import typer']:.2f}")


if __name__ == "__main__":
    typer.run(main)
