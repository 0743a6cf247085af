"""Where a trained model is: a run, or an exported file; found by name without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from zoo.training.run_folder import RunFolder, runs_folder

if TYPE_CHECKING:
    from zoo.training.exported import ExportedFile


HUB_WEIGHTS = "model.safetensors"  # the file of weights in a folder for a model hub


def exported_file(path: Path) -> Path | None:
    """The file of weights that a path stands for: itself, or the one in a folder for a model hub; None for anything else."""
    file = path / HUB_WEIGHTS if path.is_dir() else path
    return file if file.suffix == ".safetensors" and file.is_file() else None


def find_trained(name: str | Path) -> RunFolder | ExportedFile:
    """Find a run by name or path, or an exported file or hub folder.

    Raises:
        UserError: there is none.
    """
    path = Path(name).expanduser()
    if exported_file(path) and not (runs_folder() / name / "run.yaml").is_file():
        from zoo.training.exported import ExportedFile

        return ExportedFile(path)
    return RunFolder.find(str(name))
