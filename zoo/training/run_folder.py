"""The folder of one run: what lies where, how it is found by name, and how it is made without half of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from zoo.errors import UserError, unknown
from zoo.fetch import replace_file
from zoo.ranks import is_follower
from zoo.recipe import Run, read_config

RUNS = Path("runs")
HANDED_ON = "ZOO_RUN_FOLDER"  # tells the processes that a launcher starts which folder rank zero has decided on


class RunFolder:
    """``run.yaml``, ``environment.json``, ``metrics.jsonl`` and ``checkpoints/{last,best}.ckpt`` of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.yaml"
        self.metrics_file = path / "metrics.jsonl"
        self.checkpoints = path / "checkpoints"
        self.last = self.checkpoints / "last.ckpt"
        self.best = self.checkpoints / "best.ckpt"

    @property
    def name(self) -> str:
        """What a user types to name this run: the folder's name if it is under ``runs/``, else its path."""
        return self.path.name if self.path.parent == RUNS else str(self.path)

    @classmethod
    def plan(cls, name: str | None, run: Run) -> RunFolder:
        """A folder for a new run: named, possible, and not there yet.

        Raises:
            UserError: the name is taken or no name at all, or the folder could not be written.
        """
        if os.environ.get(HANDED_ON) and is_follower():
            return cls(Path(os.environ[HANDED_ON]))
        if name is None and (is_follower() or run.trainer.nodes > 1):
            raise UserError("several launched processes must agree on one folder: give the run a name with --name")
        if name is not None:
            if not name or Path(name).name != name or name.startswith("."):
                raise UserError(
                    f"--name {name}: must be a plain name, the folder runs/{Path(name).name or 'NAME'} is made for it"
                )
            path = RUNS / name
            if path.exists() and not is_follower():
                raise UserError(f"run {name!r} exists: go on with --resume {name}, or choose another --name")
        else:
            stem = f"{run.model['name']}-{run.data['name']}"
            taken = {path.name for path in RUNS.iterdir()} if RUNS.is_dir() else set()
            names = (stem if i == 1 else f"{stem}-{i}" for i in range(1, len(taken) + 2))
            path = RUNS / next(candidate for candidate in names if candidate not in taken)
        above = next(parent for parent in (path.parent, Path.cwd()) if parent.exists())
        if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
            raise UserError(f"{path}: cannot be made, {above.resolve()} is not a folder that can be written to")
        return cls(path)

    @classmethod
    def find(cls, text: str) -> RunFolder:
        """The run of that name or path.

        Raises:
            UserError: there is none.
        """
        for path in (RUNS / text, Path(text)):
            if (path / "run.yaml").is_file():
                return cls(path)
        if Path(text).exists():
            raise UserError(f"{text} is not a run: it holds no run.yaml")
        known = [path.parent.name for path in RUNS.glob("*/run.yaml")]
        raise unknown("run", text, known, "known are " + ", ".join(sorted(known)) if known else "there is none in runs/ yet")

    def create(self, run: Run, environment: dict[str, Any]) -> None:
        """Make the folder and write ``run.yaml`` and ``environment.json``; on failure nothing is left of it.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        made = not self.path.exists()
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            replace_file(self.path / "environment.json", json.dumps(environment, indent=2).encode())
            replace_file(self.run_file, run.to_yaml().encode())
        except OSError:
            if made:
                shutil.rmtree(self.path, ignore_errors=True)
            raise

    def read_run(self) -> Run:
        """The Run as it was resolved when it started."""
        try:
            return Run(**read_config(self.run_file))
        except ValueError as error:
            raise UserError(f"{self.run_file} is damaged: {' '.join(str(error).split())[:200]}") from None
