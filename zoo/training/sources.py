"""Where a trained model is: a run, an exported file, one that comes along, a published network; found by name without torch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.core.errors import UserError
from zoo.core.files import expanded
from zoo.registry.registry import current_registry
from zoo.training.run_folder import RunFolder, runs_folder
from zoo.training.trained_models import TrainedModel, trained_models
from zoo.training.weights.backbones import is_published
from zoo.training.weights.wandb_models import fetch_model, is_wandb_model

if TYPE_CHECKING:
    from zoo.training.exported import ExportedFile
    from zoo.training.weights.published import PublishedNetwork


OTHER_RUNTIMES = {".onnx": "ONNX Runtime", ".pt2": "torch.export"}  # of exported files that are not loaded here
WEIGHT_FILES = (".pth", ".pt", ".bin", ".ckpt", ".safetensors")
HUB_WEIGHTS = "model.safetensors"  # the file of weights in a folder for a model hub


def exported_file(path: Path) -> Path | None:
    """The file of weights that a path stands for: itself, or the one in a folder for a model hub; None for anything else."""
    file = path / HUB_WEIGHTS if path.is_dir() else path
    return file if file.suffix == ".safetensors" and file.is_file() else None


def included_model(name: str | Path) -> TrainedModel | None:
    """The trained model of the zoo that a name stands for; None for any other, and where a run or a path has that name."""
    model, run = trained_models().get(str(name)), RunFolder(runs_folder() / name)
    return None if model is None or expanded(name).exists() or (run.path.exists() and not run.is_left_over()) else model


def find_trained(
    name: str | Path, weights: str | Path = "", settings: list[dict[str, dict[str, Any]]] | None = None
) -> RunFolder | ExportedFile | PublishedNetwork:
    """Find a run by name or path, an exported file or hub folder, a trained model of the zoo or at W&B, or a published network.

    Args:
        weights: of a published network, a file in place of its own.
        settings: of its model and recipe, section -> key -> value.

    Raises:
        UserError: there is none, or weights were given for something else.
    """
    path = expanded(name)
    if is_published(current_registry(), str(name)) and not path.exists() and not (runs_folder() / name).exists():
        from zoo.training.weights.published import PublishedNetwork

        return PublishedNetwork(str(name), str(weights), settings or [])
    if weights or settings:
        what = f"--weights {weights}" if weights else "settings of model and recipe"
        raise UserError(f"{what}: {name} is no published network, as torchvision:resnet50 is, and has its own: omit them")
    if is_wandb_model(name) and not path.exists():
        from zoo.training.exported import ExportedFile

        return ExportedFile(fetch_model(str(name)))
    if model := included_model(name):
        from zoo.training.exported import IncludedFile

        return IncludedFile(model)
    is_run = (runs_folder() / name / "run.yaml").is_file()
    if exported_file(path) and not is_run:
        from zoo.training.exported import ExportedFile

        return ExportedFile(path)
    if path.is_file() and not is_run and (error := refusal(path)):
        raise error
    return RunFolder.find(str(name), others=trained_models())


def refusal(path: Path, last: str = "--checkpoint last") -> UserError | None:
    """The error for a known kind of file that is no trained model by itself, with what to name in its place.

    Args:
        last: what chooses the last checkpoint of a run, where ``last.ckpt`` was named.
    """
    if runtime := OTHER_RUNTIMES.get(path.suffix):
        return UserError(f"{path} is for {runtime}: `zoo export --to safetensors` writes a file that can be loaded")
    run = RunFolder(path.parent.parent)
    if path in (run.best, run.last) and run.run_file.is_file():
        which = f" {last}" if path == run.last else ""
        return UserError(f"{path} is a checkpoint of a run: name the run in its place: {run.name}{which}")
    if path.suffix not in WEIGHT_FILES:
        return None
    return UserError(
        f"{path} does not name the network of its weights: where --weights is an option, name one in its place: "
        f"torchvision:resnet50 --weights {shlex.quote(str(path))}"
    )
