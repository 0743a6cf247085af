"""Checkpoints: plain data with its own metadata, written atomically and read without running anything."""

from __future__ import annotations

import pickle
import re
import shlex
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import CheckpointIO
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from zoo.config.run import Run
from zoo.core.errors import UserError, one_line
from zoo.core.files import replacing, replacing_path, require_regular
from zoo.training.run_folder import RunFolder

FORMAT = 1
KEY = "bestiary"  # of the zoo's metadata in a checkpoint: format, run, spec


class PlainCheckpointIO(CheckpointIO):
    """Writes atomically; reads with ``weights_only=True``.

    Attributes:
        has_loaded: whether a checkpoint was read, which is then restored.
    """

    has_loaded = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        try:
            with replacing(path, exclusive=True) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            # torch's writer reports a full disk as a RuntimeError that names neither the disk nor the file
            reason = error.strerror if isinstance(error, OSError) else "the disk is full or cannot be written"
            raise UserError(f"{path} could not be written: {reason}; the previous checkpoint is kept") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        self.has_loaded = True
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


class Strict(BaseModel):
    """Plain data of a checkpoint, whose types are not converted."""

    model_config = ConfigDict(strict=True)


class About(Strict):
    """The zoo's metadata in a checkpoint."""

    format: int
    run: dict[str, Any]
    spec: dict[str, Any]
    callbacks: list[str] = []
    trackers: dict[str, str] = {}
    records: dict[str, NonNegativeInt] = {}


class TrainingState(Strict):
    """What a training goes on from besides the weights."""

    epoch: NonNegativeInt
    global_step: NonNegativeInt
    loops: dict[str, Any]
    callbacks: dict[str, Any]
    optimizer_states: list[dict[str, Any]]
    lr_schedulers: list[dict[str, Any]]


class Damaged(UserError):
    """A file of a run that cannot be used, with what can be done in the message."""


def read_checkpoint(path: Path, training: bool = False) -> dict[str, Any]:
    """Read a checkpoint to the CPU without running anything in it.

    Args:
        training: whether it must hold the state of the training, too.

    Raises:
        Damaged: the file is missing, damaged, not of the zoo, or contains more than plain data.
    """
    try:
        if path.exists():
            require_regular(path)
        return _read(path, training)
    except UserError as error:
        raise Damaged(f"{error}{way_out(path)}") from error


def way_out(path: Path) -> str:
    """What can be done about a checkpoint of a run that cannot be used, after the text of the error; empty for other files."""
    folder = RunFolder(path.parent.parent)
    if path not in (folder.best, folder.last) or not folder.run_file.is_file():
        return ""
    other = folder.last if path == folder.best else folder.best
    try:
        _read(other, training=True)
    except UserError:
        return f"; to start again: zoo train --config {shlex.quote(str(folder.run_file))}"
    if path == folder.best:
        return f"; to replace it: zoo train --resume {folder.name}"
    return f"; to go on from {folder.best.name}: zoo train --resume {folder.name} --checkpoint best"


def _read(path: Path, training: bool) -> dict[str, Any]:
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not verify the checksums that it writes
            if (broken := archive.testzip()) is not None:
                raise UserError(f"{path} is damaged: {broken} does not match its checksum")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except zipfile.BadZipFile:
        raise UserError(f"{path} is damaged or not a checkpoint: it is truncated, or of another format") from None
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it would run {refused_global(error) or 'code'}, but a checkpoint is plain data"
        ) from None
    except Exception as error:
        raise UserError(f"{path} is damaged: {type(error).__name__}: {one_line(error, 150)}") from None
    require_checkpoint(checkpoint, path)
    if training:
        _require(TrainingState, checkpoint, path)
    return checkpoint


def refused_global(error: pickle.UnpicklingError) -> str:
    """The global that torch refused to load, as in ``os.system``; empty where unknown."""
    named = re.search(r"GLOBAL (\S+)", str(error))
    return named[1] if named else ""


def require_checkpoint(checkpoint: Any, path: Path) -> dict[str, Any]:
    """Check the metadata and the weights of a checkpoint, and return it.

    Raises:
        UserError: it has none, is of another version, or the value of a key is none that the zoo writes.
    """
    about = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(about, dict) or not {"format", "run", "spec"} <= set(about) or "state_dict" not in checkpoint:
        raise UserError(f"{path} is not a checkpoint of the zoo")
    if about["format"] != FORMAT:
        raise UserError(f"{path} has format {about['format']}, this version of bestiary reads {FORMAT}: install a matching one")
    _require(About, about, path)
    _require(Run, about["run"], path, "run.")
    weights = checkpoint["state_dict"]
    if not isinstance(weights, dict):
        raise UserError(f"{path} is damaged: state_dict is no dictionary of weights")
    for name, value in weights.items():
        if reason := unusable(name, value):
            raise UserError(f"{path} is damaged: state_dict.{name} is {reason}")
    return checkpoint


def _require(kind: type[BaseModel], content: dict[str, Any], path: Path, prefix: str = "") -> None:
    try:
        kind(**{str(key): value for key, value in content.items()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(f"{path} is damaged: {prefix}{where}: {one_line(first['msg'].lower(), 150)}") from None


def unusable(name: Any, value: Any) -> str:
    """Why a value cannot be a weight or a buffer; empty if it can."""
    if not isinstance(value, torch.Tensor):
        is_extra = isinstance(name, str) and name.endswith("_extra_state")  # what a module of a plugin may add
        return "" if is_extra else f"{type(value).__name__}, no tensor"
    if value.layout != torch.strided or value.is_quantized:
        return "no dense tensor"
    return "without values" if value.is_meta else ""


def require_finite(task: torch.nn.Module, path: Path) -> None:
    """Refuse weights that are not finite, and buffers with nan.

    Raises:
        UserError: naming the first.
    """
    wrong = [name for name, weight in task.named_parameters() if not bool(weight.isfinite().all())]
    wrong += [name for name, buffer in task.named_buffers() if buffer.is_floating_point() and bool(buffer.isnan().any())]
    if wrong:
        raise Damaged(f"{path} is damaged: state_dict.{wrong[0]} is not finite{way_out(path)}")


def copy_checkpoint(source: Path, target: Path) -> None:
    """Replace a checkpoint atomically by a copy of another, which shares no blocks with it that damage could reach.

    Raises:
        UserError: the disk is full.
    """
    try:
        with replacing_path(target, exclusive=True) as beside:
            shutil.copyfile(source, beside)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{target} could not be written: {reason}; the previous checkpoint is kept") from error
