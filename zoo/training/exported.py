"""A trained network as one safetensors file: its weights and the metadata of its checkpoint."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from zoo.config.recipe import Run
from zoo.core.errors import UserError, one_line
from zoo.registry.registry import current_registry
from zoo.training.checkpoints import KEY, read_checkpoint, require_checkpoint

SUFFIX = ".safetensors"
T = TypeVar("T")


class ExportedFile:
    """Stands in for a run where only its weights are needed, not the records of its training."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = shlex.quote(str(path))

    def read_run(self) -> Run:
        """The Run of its training.

        Raises:
            UserError: its model is that of a plugin, which was not given.
        """
        run = run_of_exported(self.path)
        if run.plugins and run.model["name"] not in current_registry().models:  # a file of weights must not name code to run
            plugins = " ".join(Path(plugin).name for plugin in run.plugins)
            raise UserError(
                f"{self.path} needs the plugin that has {run.model['name']!r}, trained with {plugins}: zoo --plugin FILE"
            )
        return run

    def test_metrics(self) -> dict[str, float]:
        """None: metrics are in the records of a run."""
        return {}

    def checkpoint(self, which: str) -> Path:
        """The file itself, which is of the checkpoint that was exported.

        Raises:
            UserError: another checkpoint was requested.
        """
        if which != "best":
            raise UserError(f"--checkpoint {which}: {self.path} contains the weights of one checkpoint, omit it")
        return self.path


def was_exported(path: Path) -> bool:
    """Whether the zoo wrote a safetensors file, by its metadata.

    Raises:
        UserError: the file is damaged.
    """
    return bool(_open(path, lambda file: KEY in (file.metadata() or {})))


def read_trained(path: Path) -> dict[str, Any]:
    """Read a checkpoint or an exported file, by its suffix.

    Raises:
        UserError: as ``read_checkpoint`` does.
    """
    return read_exported(path) if path.suffix == SUFFIX else read_checkpoint(path)


def read_exported(path: Path, weights: bool = True) -> dict[str, Any]:
    """The ``state_dict`` of an exported network and, under ``KEY``, its format, run and spec, as ``read_checkpoint`` gives them.

    Raises:
        UserError: the file is missing, damaged, or was not exported by the zoo.
    """

    def content(file: Any) -> dict[str, Any]:
        about = json.loads((file.metadata() or {}).get(KEY, "null"))
        return {KEY: about, "state_dict": {name: file.get_tensor(name) for name in (file.keys() if weights else ())}}

    return require_checkpoint(_open(path, content), path)


def run_of_exported(path: Path) -> Run:
    """Read the Run of an exported network, without its weights.

    Raises:
        UserError: as ``read_exported`` does.
    """
    try:
        return Run(**read_exported(path, weights=False)[KEY]["run"])
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged: {one_line(error, 150)}") from None


def _open(path: Path, read: Callable[[Any], T]) -> T:
    """Open a file and return the result of ``read``."""
    if not path.is_file():
        raise UserError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    try:
        with safe_open(path, framework="pt") as file:
            return read(file)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or no {SUFFIX} file: {one_line(error, 150)}") from None


def write_exported(checkpoint: dict[str, Any], path: Path) -> None:
    """Write the weights and metadata of a checkpoint, without the state of the training.

    Raises:
        OSError: the file cannot be written.
    """
    # the format takes neither strides nor two names for one memory; networks may have both
    weights = {name: value.contiguous().clone() for name, value in checkpoint["state_dict"].items()}
    about = {key: checkpoint[KEY][key] for key in ("format", "run", "spec")}
    path.write_bytes(save(weights, metadata={KEY: json.dumps(about, ensure_ascii=False)}))
