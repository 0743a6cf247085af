"""A trained network as one safetensors file: its weights and the metadata of its checkpoint.

Names of weights are translated here alone: in the file, a network of a library has those of the library.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from zoo.config.run import Run
from zoo.core.errors import UserError, one_line
from zoo.registry.registry import current_registry
from zoo.training.checkpoints import KEY, read_checkpoint, require_checkpoint
from zoo.training.sources import exported_file
from zoo.training.trained_models import KIND, TrainedModel

SUFFIX = ".safetensors"
PREFIX = "prefix"  # metadata key of what the names of weights begin with in the zoo, and not in the file
T = TypeVar("T")


class ExportedFile:
    """Stands in for a run where only its weights are needed, not the records of its training; a file, or a hub folder."""

    kind = "an exported file"
    remedy = ""  # what to do where the records of a run are needed

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, exported_file(path) or path
        self.name = shlex.quote(str(path))

    def read_run(self) -> Run:
        """The Run of its training.

        Raises:
            UserError: its model is that of a plugin, which was not given.
        """
        run = run_of_exported(self.file)
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
        return self.file


class IncludedFile(ExportedFile):
    """A trained model that comes along, under its name in place of a path."""

    kind = KIND

    def __init__(self, model: TrainedModel) -> None:
        super().__init__(model.file)
        self.path, self.name, self.remedy = Path(model.name), model.name, model.remedy
        self.metrics, self.license = model.metrics, model.license

    def test_metrics(self) -> dict[str, float]:
        """Those of the weights in the file."""
        return self.metrics


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

    Weights that are stored in half precision are given in single precision, in which a network computes.

    Raises:
        UserError: the file is missing, damaged, or was not exported by the zoo.
    """

    def content(file: Any) -> dict[str, Any]:
        metadata = file.metadata() or {}
        about, prefix = json.loads(metadata.get(KEY, "null")), metadata.get(PREFIX, "")
        names = file.keys() if weights else ()
        return {KEY: about, "state_dict": {prefix + name: _single(file.get_tensor(name)) for name in names}}

    return require_checkpoint(_open(path, content), path)


def _single(value: Tensor) -> Tensor:
    return value.float() if value.dtype == torch.float16 else value


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


def write_exported(checkpoint: dict[str, Any], path: Path, prefix: str = "", half: bool = False, **metadata: str) -> None:
    """Write the weights and metadata of a checkpoint, without the state of the training and without what belongs to this machine.

    Args:
        prefix: that all names of weights begin with, and that they lose in the file.
        half: store the weights in half precision.
        metadata: added to the file's own.

    Raises:
        OSError: the file cannot be written.
    """
    # the format takes neither strides nor two names for one memory; networks may have both
    weights = {name.removeprefix(prefix): value.contiguous().clone() for name, value in checkpoint["state_dict"].items()}
    if half:
        weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    about = {"format": checkpoint[KEY]["format"], "run": portable(checkpoint[KEY]["run"]), "spec": checkpoint[KEY]["spec"]}
    own = {"format": "pt", PREFIX: prefix, KEY: json.dumps(about, ensure_ascii=False)}  # other libraries ask for the first
    path.write_bytes(_in_fixed_order(save(weights, metadata={**metadata, **own})))


def _in_fixed_order(content: bytes) -> bytes:
    """A safetensors file with its metadata sorted, so that equal networks are equal files: the library writes it in any order."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight bytes
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def portable(run: dict[str, Any]) -> dict[str, Any]:
    """A Run as plain data, without folders and files of this machine and without the account of a tracker.

    Options of the data that name them are left out, since whoever reads it has others; elsewhere the last part of the path stays.
    """
    data = {key: value for key, value in run["data"].items() if key != "root" and not _is_path(value, bare=key == "path")}
    model = {key: Path(value).name if _is_path(value) else value for key, value in run["model"].items()}
    recipe = {key: Path(value).name if _is_path(value) else value for key, value in run["recipe"].items()}
    plugins = [Path(plugin).name for plugin in run.get("plugins", ())]
    return {**run, "data": data, "model": model, "recipe": recipe, "plugins": plugins, "wandb": {}}


def _is_path(value: Any, bare: bool = False) -> bool:
    """Whether a value is a path of this machine: absolute, or with folders, or ``bare``, and there."""
    if not isinstance(value, str):
        return False
    path = Path(os.path.expanduser(value))
    return path.is_absolute() or ((bare or os.sep in value) and path.exists())
