"""Where a trained model is: a run, an exported file, or a published network; found by name without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.core.errors import UserError
from zoo.registry.registry import current_registry
from zoo.training.backbones import is_published
from zoo.training.run_folder import RunFolder, runs_folder

if TYPE_CHECKING:
    from zoo.training.exported import ExportedFile
    from zoo.training.published import PublishedNetwork


HUB_WEIGHTS = "model.safetensors"  # the file of weights in a folder for a model hub


def exported_file(path: Path) -> Path | None:
    """The file of weights that a path stands for: itself, or the one in a folder for a model hub; None for anything else."""
    file = path / HUB_WEIGHTS if path.is_dir() else path
    return file if file.suffix == ".safetensors" and file.is_file() else None


def find_trained(
    name: str | Path, weights: str | Path = "", settings: list[dict[str, dict[str, Any]]] | None = None
) -> RunFolder | ExportedFile | PublishedNetwork:
    """Find a run by name or path, an exported file or hub folder, or a network with published weights.

    Args:
        weights: of a published network, a file in place of its own.
        settings: of its model and recipe, section -> key -> value.

    Raises:
        UserError: there is none, or weights were given for something else.
    """
    path = Path(name).expanduser()
    if is_published(current_registry(), str(name)) and not path.exists() and not (runs_folder() / name).exists():
        from zoo.training.published import PublishedNetwork

        return PublishedNetwork(str(name), str(weights), settings or [])
    if weights or settings:
        what = f"--weights {weights}" if weights else "settings of model and recipe"
        raise UserError(f"{what}: {name} is no published network, as torchvision:resnet50 is, and has its own: omit them")
    if exported_file(path) and not (runs_folder() / name / "run.yaml").is_file():
        from zoo.training.exported import ExportedFile

        return ExportedFile(path)
    return RunFolder.find(str(name))
