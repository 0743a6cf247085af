"""Pictures of what a classifier says of its test images: which classes it confuses, and where it is most surely wrong."""

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

from zoo.config.recipe import Run, parse_setting, resolve_test
from zoo.core.errors import UserError
from zoo.pictures.figure import SEQUENTIAL, Picture
from zoo.pictures.tiles import draw_tiles
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.task import Task
from zoo.training.building import build_test_data, load_task
from zoo.training.exported import ExportedFile, read_trained
from zoo.training.run_folder import RunFolder

SHOWN_MISTAKES = 24
MOST_NUMBERS = 20  # classes up to which the cells of a confusion matrix hold their counts
MOST_NAMES = 100  # classes up to which they are named along the edges


@dataclass(frozen=True)
class Tested:
    """What a trained network says of each image of a test split.

    Attributes:
        data: the data module, set up.
        labels: the true classes, int64 [N].
        probabilities: of each class, [N, classes], on the CPU.
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


def load_trained(registry: Registry, folder: RunFolder | ExportedFile, checkpoint: str) -> tuple[Task, Run]:
    """The network of a run or of an exported file, ready to evaluate, and the Run it was trained by."""
    file = folder.checkpoint(checkpoint)
    return load_task(registry, read_trained(file), file)


def open_test_data(registry: Registry, run: Run, spec: ImageSpec, data: str, settings: Sequence[str]) -> Any:
    """The run's own data, or other data with the same classes, for a network that was trained on data of ``spec``.

    Raises:
        UserError: the data cannot be read or does not fit.
    """
    section, _ = resolve_test(registry, run, data or None, [parse_setting(text, ("data",)) for text in settings])
    return build_test_data(registry, run.model_copy(update={"data": section}), spec)


def ask(registry: Registry, folder: RunFolder, checkpoint: str, data: str, settings: Sequence[str]) -> Tested:
    """Put the test images of a run's own data, or of other data with the same classes, to its network.

    Raises:
        UserError: the checkpoint or the data cannot be read, or they do not fit each other.
    """
    task, run = load_trained(registry, folder, checkpoint)
    module = open_test_data(registry, run, task.spec, data, settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task.to(device)
    labels, probabilities = [], []
    with torch.inference_mode():
        for batch in module.test_dataloader():
            labels.append(batch["labels"])
            probabilities.append(task.predict_step({"images": batch["images"].to(device)}).cpu())
    if not labels:
        raise UserError(f"{data or run.data['name']} has no test images")
    return Tested(folder.path.name, task, module, torch.cat(labels), torch.cat(probabilities))


def confusion(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """Which classes a classifier takes for which others."""
    tested = ask(registry, runs[0], checkpoint, data, settings)
    classes = tested.task.spec.classes
    counts = confusion_counts(tested)
    title = f"{tested.run_name}: test accuracy {tested.accuracy:.2%} ({len(tested.labels):,} samples)"
    return Picture(
        draw_confusion(counts, classes, title),
        "rows are what is there, columns what the network says, so the diagonal is right; " + _most_confused(counts, classes),
        f"zoo picture mistakes {runs[0].name}",
    )


def confusion_counts(tested: Tested) -> np.ndarray:
    """int64 [classes, classes]: how many images of each true class (row) are taken for each class (column)."""
    classes = len(tested.task.spec.classes)
    cells = tested.labels * classes + tested.predictions
    return cells.bincount(minlength=classes**2).reshape(classes, classes).numpy()


def _most_confused(counts: np.ndarray, classes: Sequence[str]) -> str:
    wrong = counts - np.diag(np.diag(counts))
    if not wrong.any():
        return "here nothing is wrong"
    true, said = np.unravel_index(wrong.argmax(), wrong.shape)
    return f"most often {classes[true]} is taken for {classes[said]} ({wrong[true, said]:,} of {counts[true].sum():,})"


def draw_confusion(counts: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """A matrix whose colors are shares of each row, and whose numbers, where they can be read, are counts.

    Colors follow the square root of the share, so that rare confusions can still be seen.
    """
    n = len(classes)
    side = min(max(5.0, 1.8 + 0.45 * n), 14.0)  # inches
    figure = Figure((side + 0.8, side), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    picture = axes.imshow(shares, cmap=SEQUENTIAL, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    figure.colorbar(picture, ax=axes, shrink=0.6, label="share of the true class")
    size = 9 if n <= MOST_NUMBERS else min(9.0, 0.6 * 72 * (side - 2) / n)
    if n <= MOST_NAMES:
        upright = max(map(len, classes)) > 2 and n > 4
        axes.set_xticks(range(n), classes, rotation=90 if upright else 0, fontsize=size)
        axes.set_yticks(range(n), classes, fontsize=size)
    axes.set(xlabel="predicted", ylabel="true", title=title)
    axes.spines[:].set_visible(False)
    if n <= MOST_NUMBERS:
        for row, column in np.ndindex(n, n):
            if counts[row, column]:
                color = "black" if shares[row, column] > 0.3 else "white"
                axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", color=color, fontsize=8)
    return figure


def mistakes(
    registry: Registry, runs: list[RunFolder], checkpoint: str = "best", data: str = "", settings: Sequence[str] = ()
) -> Picture:
    """The test images on which a classifier is most surely wrong, the surest first."""
    folder = runs[0]
    tested = ask(registry, folder, checkpoint, data, settings)
    if tested.task.spec.are_points:
        raise UserError(f"points are no images to look at; where {folder.name} is wrong: zoo picture regions {folder.name}")
    order = most_confident_mistakes(tested)
    if not len(order):
        raise UserError(f"{folder.name} makes no mistake on its {len(tested.labels):,} test images: there is nothing to draw")
    shown = order[:SHOWN_MISTAKES]
    split = tested.data.splits["test"]
    images = next(split.images.batches(iter([shown])))
    files = [split.files[index] for index in shown.tolist()] if split.files else []
    classes = tested.task.spec.classes
    titles = [
        f"{classes[true]}\n{probability:.0%} {classes[said]}"
        for true, said, probability in zip(
            tested.labels[shown].tolist(),
            tested.predictions[shown].tolist(),
            tested.probabilities.amax(1)[shown].tolist(),
            strict=True,
        )
    ]
    if files:
        titles = [f"{title}\n{_short(Path(file).name)}" for title, file in zip(titles, files, strict=True)]
    share = f"{len(order):,} of {len(tested.labels):,} test images are wrong"
    heading = f"{tested.run_name}: {share}; the surest first, with what they are and what the network says"
    figure = draw_tiles(as_colors(images), titles, heading, side=160)
    return Picture(
        figure,
        "above each image stands what it is, and below that what the network says, with its probability: look for wrong labels, "
        "for images that you could not tell either, and for what the rest has in common"
        + (f"; the surest is {files[0]}" if files else ""),
        f"zoo picture confusion {folder.name}",
    )


def _short(name: str, longest: int = 14) -> str:
    """The name of a file, which may be long and all digits, with room to the one beside it."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def most_confident_mistakes(tested: Tested) -> Tensor:
    """Indices of the wrong predictions, int64, from the most probable to the least; equals stay in their order."""
    wrong = (tested.predictions != tested.labels).nonzero()[:, 0]
    return wrong[tested.probabilities.amax(1)[wrong].argsort(descending=True, stable=True)]


def as_colors(images: Tensor) -> np.ndarray:
    """uint8 [n, C, H, W] as colors in [0, 1], [n, H, W, 3]; one channel is gray, of many the first three are shown."""
    return images[:, :3].expand(-1, 3, -1, -1).permute(0, 2, 3, 1).float().div(255).numpy()
