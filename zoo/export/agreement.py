"""Comparison of the predictions of an exported file with those of the original network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.config.run import Run
from zoo.core.download import nothing_downloaded
from zoo.core.errors import UserError, one_line
from zoo.export.files import Opened
from zoo.registry.entry import REQUIRED
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.images import ImageModel
from zoo.training.building import build_test_data

BATCHES = (1, 2, 13, 48)  # a graph may be right only for the batch size it was traced with
IMAGES = sum(BATCHES)
TOLERANCE = 1e-4  # of a probability, or of a value relative to its scale


@dataclass(frozen=True)
class Agreement:
    """The images that were compared, the largest difference of an output, whether decisions, which are equal, were compared,
    too, and what the outputs are.
    """

    images: str
    difference: float
    has_decisions: bool
    outputs: str = "probabilities"


@dataclass(frozen=True)
class OwnData:
    """Test images of a run's data, uint8 [n, C, H, W], and the number of images per split."""

    images: Tensor
    counts: dict[str, int]


def own_test_data(registry: Registry, run: Run, spec: ImageSpec) -> OwnData | str:
    """Open a run's test data without downloading; otherwise return the reason why it is not available."""
    required = [option.name for option in registry.data_set(run.data["name"]).options if option.default == REQUIRED]
    if missing := [f"data.{name}" for name in required if name not in run.data]:
        return f"an exported file does not name {' and '.join(missing)}"
    try:
        with nothing_downloaded():
            data = build_test_data(registry, run, spec)
    except (UserError, OSError) as error:
        return one_line(error)
    split = data.splits["test"]
    places = torch.linspace(0, len(split) - 1, min(IMAGES, len(split))).round().long()
    images = torch.cat(list(split.images.batches(iter([places]))))
    return OwnData(images.cpu(), {name: len(split) for name, split in data.splits.items()})


def check_agreement(task: ImageModel, opened: Opened, data: OwnData | str) -> Agreement:
    """Compare the predictions of the original and the file in batches of several sizes.

    Args:
        data: test images, or a reason why random ones are used.

    Raises:
        UserError: a decision differs, or an output by more than the tolerance.
    """
    if isinstance(data, str):
        images, named = task.example_batch(IMAGES)["images"], f"{IMAGES} random images"
    else:
        images, named = data.images, f"{len(data.images)} test images"
        images = images[torch.arange(IMAGES) % len(images)]  # repeats a small test set
    outputs = task.describe_outputs()
    scales = torch.tensor(outputs.scales or [1.0])
    largest, others = 0.0, 0
    for batch in images.split(BATCHES):
        with torch.inference_mode():
            ours = task.predict_step({"images": batch})
        theirs = opened(batch)
        if theirs.shape != ours.shape:
            shapes = f"{tuple(theirs.shape)}, not {tuple(ours.shape)}"
            raise UserError(f"the exported network has outputs of {shapes} for {len(batch)} images; nothing was written")
        largest = max(largest, ((theirs - ours) / scales).abs().max().nan_to_num(torch.inf).item())
        if (decided := task.decisions(ours)) is not None:
            others += int((task.decisions(theirs) != decided).sum())
    if others or largest > TOLERANCE:
        classes = "" if decided is None else f", {others} predicted classes"
        raise UserError(
            f"the exported network differs from the original on {named}: {outputs.name} by up to {largest:.2g} "
            f"(tolerance {TOLERANCE:g}){classes}; nothing was written"
        )
    return Agreement(named, largest, decided is not None, outputs.name)
