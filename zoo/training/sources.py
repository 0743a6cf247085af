"""Where a trained model is: a run, or an exported file; found by name without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.training.run_folder import RunFolder

if TYPE_CHECKING:
    from zoo.training.exported import ExportedFile


def find_trained(name: str | Path) -> RunFolder | ExportedFile:
    """Find a run by name or path, or an exported file.

    Raises:
        UserError: there is none.
    """
    path = Path(name).expanduser()
    if path.suffix == ".safetensors" and path.is_file():
        from zoo.training.exported import ExportedFile

        return ExportedFile(path)
    return RunFolder.find(str(name))
