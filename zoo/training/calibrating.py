"""Calibration of a trained classifier: a temperature for each checkpoint, fitted on the validation images and kept there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo.core.errors import UserError
from zoo.core.json_lines import JsonLinesWriter, read_json_lines
from zoo.metrics.calibration import CalibrationError, fit_temperature
from zoo.registry.registry import Registry
from zoo.spec import IGNORE
from zoo.tasks.classification import Classifier
from zoo.training.building import build_data, load_task
from zoo.training.checkpoints import KEY, PlainCheckpointIO, read_checkpoint
from zoo.training.data_record import DataRecord, exclude_trained
from zoo.training.run_folder import RunFolder

TEST_LOSS = "test/loss"


@dataclass(frozen=True)
class Quality:
    """How good the probabilities of a split are: its accuracy, mean loss and expected calibration error."""

    accuracy: float
    loss: float
    calibration_error: float


@dataclass(frozen=True)
class Calibration:
    """The temperature of a checkpoint, 1 without calibration, and the quality of each split with the former and with the new one.

    Attributes:
        checkpoint: best or last.
        images: the number of validation images.
        before, after: of ``val`` and, of the best checkpoint, ``test``.
    """

    checkpoint: str
    temperature: float
    images: int
    before: dict[str, Quality]
    after: dict[str, Quality]


def calibrate(registry: Registry, folder: RunFolder, is_undone: bool = False) -> list[Calibration]:
    """Fit a temperature for each checkpoint of a run, and write it into its spec; nothing is written before all are fitted.

    The recorded test loss of the best checkpoint follows.

    Args:
        is_undone: set the temperatures to 1 again.

    Raises:
        UserError: there are no validation images, no temperature fits them, or another process is training the run.
    """
    with folder.locked():
        names = ["best", *(["last"] if folder.last.exists() else [])]
        contents = {which: read_checkpoint(folder.checkpoint(which)) for which in names}
        tasks = {which: load_task(registry, contents[which], folder.checkpoint(which)) for which in names}
        task, run = tasks["best"]
        record = DataRecord.read(folder.path)
        data = build_data(registry, run, record, task.spec)
        if not len(data.splits["val"]):
            raise UserError(f"{folder.name} has no validation images to fit a temperature on: train with data.validation above 0")
        splits = ["val", *(["test"] if data.splits["test"] is not data.splits["val"] else [])]
        exclude_trained(data, record.trained_on)
        found = [_fit(task, which, data, splits if which == "best" else ["val"], is_undone) for which, (task, _) in tasks.items()]
        for each in found:
            _write(folder, contents[each.checkpoint], each)
        _record_test_loss(folder, found[0].after)
    return found


def _fit(task: Classifier, which: str, data: Any, splits: list[str], is_undone: bool) -> Calibration:
    task.to("cuda" if torch.cuda.is_available() else "cpu")
    found = {split: _predict(task, data, split) for split in splits}
    logits, labels = found["val"]
    try:
        temperature = 1.0 if is_undone else fit_temperature(logits, labels)
    except ValueError as error:
        raise UserError(f"no temperature fits {which}.ckpt on its {len(labels):,} validation images: {error}") from None
    before, after = (
        {split: _quality(task, *each, divisor) for split, each in found.items()}
        for divisor in (task.spec.temperature, temperature)
    )
    return Calibration(which, temperature, len(labels), before, after)


@torch.inference_mode()
def _predict(task: Classifier, data: Any, split: str) -> tuple[Tensor, Tensor]:
    """The logits of a split, float32 [N, classes], and its labels, int64 [N], on the CPU."""
    logits, labels = [], []
    for batch in data.build_loader(split):
        counted = batch["labels"] != IGNORE  # unreadable images
        logits.append(task.logits({"images": batch["images"].to(task.device)}).float().cpu()[counted])
        labels.append(batch["labels"][counted].cpu())
    return torch.cat(logits), torch.cat(labels)


def _quality(task: Classifier, logits: Tensor, labels: Tensor, temperature: float) -> Quality:
    """The quality of the probabilities that logits have with a temperature."""
    logits = logits / temperature
    error = CalibrationError()
    error.update(logits.softmax(1), labels)
    losses = task.test_losses(logits.to(task.device), labels.to(task.device))
    accuracy = (logits.argmax(1) == labels).double().mean()
    return Quality(float(accuracy), float(losses.double().mean()), float(error.compute()))


def _write(folder: RunFolder, checkpoint: dict[str, Any], found: Calibration) -> None:
    """Replace a checkpoint by itself with another temperature, wherever it holds its spec."""
    for holder in (checkpoint[KEY], checkpoint.get("hyper_parameters", {})):
        if "spec" in holder:
            holder["spec"] = {**holder["spec"], "temperature": found.temperature}
    PlainCheckpointIO().save_checkpoint(checkpoint, folder.checkpoint(found.checkpoint))


def _record_test_loss(folder: RunFolder, qualities: dict[str, Quality]) -> None:
    """Record the last test again, at its place in the training, with another loss."""
    tested = [record for record in read_json_lines(folder.metrics_file) if TEST_LOSS in record]
    if tested:  # where there is no test split, on the validation images
        JsonLinesWriter(folder.metrics_file).append({**tested[-1], TEST_LOSS: qualities.get("test", qualities["val"]).loss})
