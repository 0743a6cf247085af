"""A line on the terminal about work that takes a while, which the next output replaces."""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from zoo.core.ranks import is_follower
from zoo.core.signals import stop

ERASE = "\r\x1b[2K"  # the line that the cursor is in


class StatusLine:
    """At most one line on standard error, on a terminal alone; nothing in a pipe, a log, or another process than the first.

    Attributes:
        text: what is shown; empty if nothing is.
    """

    text = ""

    def show(self, what: str) -> None:
        """Name the work, in place of what is shown."""
        if is_follower() or sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            return
        self.clear()
        sys.stderr.write(f"{what} ...")
        sys.stderr.flush()
        self.text = what
        for stream in filter(None, (sys.stdout, sys.stderr)):  # one that was closed is None
            self._clear_before_writing(stream)

    def clear(self) -> None:
        if self.text:
            self.text = ""
            for stream in filter(None, (sys.stdout, sys.stderr)):
                vars(stream).pop("write", None)
            sys.stderr.write(ERASE)
            sys.stderr.flush()

    def _clear_before_writing(self, stream: Any) -> None:
        def write(text: str) -> int:
            vars(stream).pop("write", None)
            self.clear()
            written: int = stream.write(text)
            return written

        stream.write = write  # of this object alone: whoever prints looks it up there


status = StatusLine()


class TorchImport:
    """An import hook that shows the import of torch, which takes seconds, and defers signals until it ends.

    An exception of Python inside of the C++ that initializes torch would abort the process.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, path, target) if name == "torch" else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            sys.meta_path.remove(self)
            next_work = status.text or "working"
            status.show("loading PyTorch")
            with stop.deferred():
                execute(module)
            status.show(next_work)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
