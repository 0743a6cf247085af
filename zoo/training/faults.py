"""What a training says when it cannot begin, go on or end: one line, with the command that helps."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from zoo.config.recipe import Recipe
from zoo.config.run import Run
from zoo.core.errors import Failure, Interrupted, UserError, one_line
from zoo.core.ranks import is_follower
from zoo.core.signals import stop
from zoo.registry.registry import Registry
from zoo.tasks.records import Diverged
from zoo.training.checkpoints import Damaged, way_out
from zoo.training.memory import is_out_of_memory
from zoo.training.run_folder import RunFolder
from zoo.training.saving import Checkpoints


@contextmanager
def stopped_by_signals(folder: RunFolder, is_new: bool) -> Iterator[None]:
    """Say of every interrupt what was saved; of a new run without a checkpoint nothing is kept.

    Raises:
        Interrupted: by a signal.
    """
    former = stop.farewell
    stop.farewell = lambda text: f"{text}. {_command_to_resume(folder)}" if folder.run_file.exists() else text
    try:
        with stop.owned():
            yield
    except Interrupted:
        if folder.last.exists():
            again = f"zoo.load({folder.name!r}).resume() continues"
            raise Interrupted(f"interrupted, and saved: {again}", folder.name, is_saved=True) from None
        if not is_new:
            raise Interrupted("interrupted before the first checkpoint", folder.name) from None
        if not is_follower():
            folder.remove()
        raise Interrupted("interrupted before the first checkpoint: nothing was kept") from None
    finally:
        stop.farewell = former


@contextmanager
def hinting_at_resume(registry: Registry, folder: RunFolder, run: Run, started: Event) -> Iterator[None]:
    """Add the command that goes on with the run to every exception."""
    try:
        yield
    except Damaged:  # says itself what can be done
        raise
    except Diverged as error:  # and would diverge again
        started.set()
        lr = min(run.recipe.lr / 10, registry.model(run.model["name"]).recipe.get("lr", Recipe.model_fields["lr"].default))
        changed = "recipe.weight_decay=0" if run.recipe.decays_past_zero else f"recipe.lr={lr:g}"
        again = f"zoo train --config {shlex.quote(str(folder.run_file))} --set {changed}"
        raise Diverged(f"{error}. To start again: {again}") from error
    except Exception as error:
        if not (started.is_set() or folder.last.exists() or folder.autopsy_file.exists()):
            raise  # nothing to resume
        if isinstance(error, (UserError, Failure)):
            kind = Failure if isinstance(error, Failure) else UserError
            raise kind(f"{error}. {_command_to_resume(folder)}") from error
        error.add_note(_command_to_resume(folder))
        raise


@contextmanager
def explained(run: Run, saving: Checkpoints, started: Event) -> Iterator[None]:
    """Turn what Lightning or torch refuses because of the settings into user errors, and tell whether a step has ended."""
    size = f"recipe.batch_size={run.recipe.batch_size}"
    try:
        yield
    except MisconfigurationException as error:
        raise UserError(f"Lightning refuses the settings: {one_line(error, 300)}") from error
    except (MemoryError, RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise UserError(f"out of memory with {size}: a smaller one needs less, and `zoo tune` finds the largest") from error
        if not saving.has_stepped and "more than 1 value per channel" in str(error):
            larger = "a larger one" if run.recipe.batch_size == 1 else "more training images"
            raise UserError(f"{size}: batch norm needs more than one value of each channel in a batch: {larger}") from error
        raise
    finally:
        if saving.has_stepped:
            started.set()


@contextmanager
def restoring(trainer: L.Trainer, saving: Checkpoints, file: Path | None) -> Iterator[None]:
    """Turn what Lightning and torch raise about a checkpoint, before the first step, into an error of the user."""
    try:
        yield
    except (UserError, torch.OutOfMemoryError):
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError) as error:
        if saving.has_started or not trainer.strategy.checkpoint_io.has_loaded:
            raise
        reason = f"{type(error).__name__}: {one_line(error, 150)}"
        raise Damaged(f"{file} cannot be restored: {reason}{way_out(file)}") from error


def way_out_of_changes(folder: RunFolder, run: Run, kind: str) -> str:
    """What to do where the files of a run have changed."""
    ways = [f"put them back, or start a new run: zoo train --config {shlex.quote(str(folder.run_file))}"]
    if kind == "classification":
        ways.append(f"with its weights: zoo finetune {folder.name} {_same_images(run.data)} --keep-head")
    return ", or ".join(ways)


def _same_images(data: dict[str, Any]) -> str:
    """The arguments that name the images of a run."""
    if data["name"] == "folder":
        return f"--data {shlex.quote(data['root'])}"
    keys = ("path", "root", "config", "revision", "image_column", "label_column", "split_column")
    given = [f"--set {shlex.quote(f'data.{key}={data[key]}')}" for key in keys if data.get(key)]
    return " ".join([f"--data {data['name']}", *given])


def _command_to_resume(folder: RunFolder) -> str:
    return f"{'To resume' if folder.last.exists() else 'To start again'}: zoo train --resume {folder.name}"
