"""Predictions of a classifier on test data: the confusion matrix and the most confident mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from zoo.config.resolution import resolve_test
from zoo.config.run import Run
from zoo.config.settings import parse_setting
from zoo.core.counts import out_of
from zoo.core.errors import UserError
from zoo.pictures.figure import SEQUENTIAL, Picture
from zoo.pictures.tiles import draw_tiles
from zoo.registry.registry import Registry
from zoo.spec import IGNORE, ImageSpec
from zoo.tasks.task import Task
from zoo.training.building import build_test_data, load_task
from zoo.training.data_record import DataRecord
from zoo.training.exported import ExportedFile, read_trained
from zoo.training.run_folder import RunFolder

SHOWN_MISTAKES = 24
TILE = 240  # pixels
MAX_NUMBERS = 20  # classes, with counts in the cells of a confusion matrix
MAX_NAMES = 100  # classes, with names along the axes
SHARES = (0, 0.05, 0.25, 0.5, 1)  # ticks of the color bar of a confusion matrix


@dataclass(frozen=True)
class Predictions:
    """Predictions for a test split.

    Attributes:
        data: data module, after ``setup``.
        labels: true classes, int64 [N].
        probabilities: [N, classes], on the CPU.
    """

    run_name: str
    task: Task
    data: Any
    labels: Tensor
    probabilities: Tensor

    @property
    def predictions(self) -> Tensor:
        return self.probabilities.argmax(1)

    @property
    def accuracy(self) -> float:
        return float((self.predictions == self.labels).double().mean())

    @property
    def kind(self) -> str:
        return "test points" if self.task.spec.are_points else "test images"


def load_trained(registry: Registry, folder: RunFolder | ExportedFile, checkpoint: str) -> tuple[Task, Run]:
    """Load the network of a run or an exported file in evaluation mode, and the Run it was trained with."""
    file = folder.checkpoint(checkpoint)
    return load_task(registry, read_trained(file), file)


def open_test_data(
    registry: Registry, run: Run, spec: ImageSpec, data: str, settings: Sequence[str], folder: Path | None = None
) -> Any:
    """Open the run's data, or other data with the same classes, for a network trained on data of ``spec``.

    Args:
        folder: of the run, to leave out what it was trained on.

    Raises:
        UserError: the data cannot be read or does not fit.
    """
    section, _ = resolve_test(registry, run, data or None, [parse_setting(text, ("data",)) for text in settings])
    return build_test_data(registry, run, spec, section, DataRecord.read(folder) if folder else None)


def predict_test_data(registry: Registry, folder: RunFolder, checkpoint: str, data: str, settings: Sequence[str]) -> Predictions:
    """Predict the test split of a run's data, or of other data with the same classes.

    Raises:
        UserError: the checkpoint or the data cannot be read, or the data does not fit.
    """
    task, run = load_trained(registry, folder, checkpoint)
    module = open_test_data(registry, run, task.spec, data, settings, folder.path)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task.to(device)
    labels, probabilities = [], []
    with torch.inference_mode():
        for batch in module.test_dataloader():
            labels.append(batch["labels"])
            probabilities.append(task.predict_step({"images": batch["images"].to(device)}).cpu())
    if not labels:
        raise UserError(f"{data or run.data['name']} has no test images")
    counted = (torch.cat(labels) != IGNORE).nonzero()[:, 0]
    if len(counted) < len(module.splits["test"]):  # without unreadable files
        module.splits["test"] = module.splits["test"].subset(counted)
    return Predictions(folder.path.name, task, module, torch.cat(labels)[counted], torch.cat(probabilities)[counted])


def confusion(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Draw the confusion matrix of a classifier."""
    tested = predict_test_data(registry, runs[0], checkpoint, data, settings)
    classes = tested.task.spec.classes
    counts = confusion_counts(tested)
    wrong = int((tested.predictions != tested.labels).sum())
    title = f"{tested.run_name}: {out_of(len(tested.labels) - wrong, len(tested.labels), tested.kind)} correct"
    return Picture(
        draw_confusion(counts, classes, title),
        "rows are true classes and columns predictions, so the diagonal is correct; " + _most_confused(counts, classes),
        f"zoo picture mistakes {runs[0].name}",
    )


def confusion_counts(tested: Predictions) -> np.ndarray:
    """Confusion matrix, int64 [classes, classes]: true classes in rows, predicted classes in columns."""
    classes = len(tested.task.spec.classes)
    cells = tested.labels * classes + tested.predictions
    return cells.bincount(minlength=classes**2).reshape(classes, classes).numpy()


def _most_confused(counts: np.ndarray, classes: Sequence[str]) -> str:
    wrong = counts - np.diag(np.diag(counts))
    if not wrong.any():
        return "there are no mistakes"
    true, predicted = np.unravel_index(wrong.argmax(), wrong.shape)
    return (
        f"most frequent: {classes[true]} predicted as {classes[predicted]} ({wrong[true, predicted]:,} of {counts[true].sum():,})"
    )


def draw_confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix with colors normalized by row and, for few classes, counts in the cells.

    The color scale is the square root of the share, which keeps rare confusions visible.
    """
    n = len(classes)
    side = min(max(5.0, 1.8 + 0.45 * n), 14.0)  # inches
    figure = Figure((side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap=SEQUENTIAL, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, shrink=0.6, label="percentage of the true class")
    bar.set_ticks(SHARES, labels=[f"{share:.0%}" for share in SHARES])
    size = 9 if n <= MAX_NUMBERS else min(9.0, 0.6 * 72 * (side - 2) / n)
    if n <= MAX_NAMES:
        upright = max(map(len, classes)) > 2 and n > 4
        axes.set_xticks(range(n), classes, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks(range(n), classes, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.spines[:].set_visible(False)
    if n <= MAX_NUMBERS:
        for row, column in np.ndindex(n, n):
            if counts[row, column]:
                color = "black" if shares[row, column] > 0.3 else "white"
                axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color, fontsize=8)
    return figure


def mistakes(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Draw the misclassified test images, most confident first."""
    folder = runs[0]
    tested = predict_test_data(registry, folder, checkpoint, data, settings)
    if tested.task.spec.are_points:
        raise UserError(f"mistakes are drawn as images; for points in the plane: zoo picture regions {folder.name}")
    order = most_confident_mistakes(tested)
    if not len(order):
        raise UserError(f"{folder.name} makes no mistake on its {len(tested.labels):,} test images: there is nothing to draw")
    shown = order[:SHOWN_MISTAKES]
    split, classes = tested.data.splits["test"], tested.task.spec.classes
    files = [split.files[index] for index in shown.tolist()] if split.files else [""] * len(shown)
    columns = tested.labels[shown], tested.predictions[shown], tested.probabilities.amax(1)[shown]
    titles = [
        f"true {classes[true]}\npredicted {classes[predicted]} ({probability:.0%})\n{Path(file).name}".rstrip()
        for true, predicted, probability, file in zip(*(column.tolist() for column in columns), files, strict=True)
    ]
    heading = f"{tested.run_name}: {out_of(len(order), len(tested.labels), tested.kind)} misclassified; most confident first"
    images = next(split.images.batches(iter([shown])))
    return Picture(
        draw_tiles(to_rgb(images), titles, heading, side=TILE),
        "above each image are the true class, the prediction and its probability: look for wrong labels, ambiguous images, and "
        "for what the others have in common" + (f"; the most confident is {files[0]}" if files[0] else ""),
        f"zoo picture confusion {folder.name}",
    )


def most_confident_mistakes(tested: Predictions) -> Tensor:
    """Indices of the misclassified images, int64, by descending probability of the prediction; ties keep their order."""
    wrong = (tested.predictions != tested.labels).nonzero()[:, 0]
    return wrong[tested.probabilities.amax(1)[wrong].argsort(descending=True, stable=True)]


def to_rgb(images: Tensor) -> np.ndarray:
    """Convert uint8 [n, C, H, W] to RGB in [0, 1], [n, H, W, 3]; of more than three channels the first three are kept."""
    return images[:, :3].expand(-1, 3, -1, -1).permute(0, 2, 3, 1).float().div(255).numpy()
