"""Whether an exported file says what the original says: both are asked about the same images, alone and together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zoo.config.recipe import Run
from zoo.core.download import nothing_downloaded
from zoo.core.errors import UserError, one_line
from zoo.export.files import Opened
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.classification import Classifier
from zoo.training.building import build_test_data

BATCHES = (1, 2, 13, 48)  # one after the other; a graph may be right for the size it was made with alone
IMAGES = sum(BATCHES)
TOLERANCE = 1e-4  # of a probability


@dataclass(frozen=True)
class Agreement:
    """What was compared, and the largest difference of a probability."""

    images: str
    difference: float


@dataclass(frozen=True)
class OwnData:
    """What is known of a run's own data: some of its test images, uint8 [n, C, H, W], and the images in each split."""

    images: Tensor
    counts: dict[str, int]


def own_test_data(registry: Registry, run: Run, spec: ImageSpec) -> OwnData | str:
    """The data that a run was tested on, as far as it lies on this machine; else the reason why there is none."""
    try:
        with nothing_downloaded():
            data = build_test_data(registry, run, spec)
    except (UserError, OSError) as error:
        return one_line(error)
    split = data.splits["test"]
    places = torch.linspace(0, len(split) - 1, min(IMAGES, len(split))).round().long()
    images = torch.cat(list(split.images.batches(iter([places]))))
    return OwnData(images.cpu(), {name: len(split) for name, split in data.splits.items()})


def check_agreement(task: Classifier, opened: Opened, data: OwnData | str) -> Agreement:
    """Ask the original and the file about images in several batches.

    Args:
        data: real images, if they are to be had.

    Raises:
        UserError: another class is the likeliest of some image, or a probability differs by more than the tolerance.
    """
    if isinstance(data, str):
        images, named = task.example_batch(IMAGES)["images"], f"{IMAGES} random images"
    else:
        images, named = data.images, f"{len(data.images)} test images"
        images = images[torch.arange(IMAGES) % len(images)]  # a small test set is gone through again
    largest, others = 0.0, 0
    for batch in images.split(BATCHES):
        with torch.inference_mode():
            ours = task.predict_step({"images": batch})
        theirs = opened(batch)
        if theirs.shape != ours.shape:
            shapes = f"{tuple(theirs.shape)}, not {tuple(ours.shape)}"
            raise UserError(f"the exported network answers {len(batch)} images with {shapes}; nothing was written")
        largest = max(largest, (theirs - ours).abs().max().nan_to_num(torch.inf).item())
        others += int((theirs.argmax(1) != ours.argmax(1)).sum())
    if others or largest > TOLERANCE:
        raise UserError(
            f"the exported network is not the same: on {named} probabilities differ by up to {largest:.2g} "
            f"(at most {TOLERANCE:g} is let through), and {others} have another class; nothing was written"
        )
    return Agreement(named, largest)
