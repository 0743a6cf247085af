"""The class scores that saliency maps and Grad-CAM explain: those of which images, and for which classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import fill

import numpy as np
import torch
from torch import Tensor

from zoo.core.errors import UserError, unknown
from zoo.core.printing import shell_word
from zoo.pictures.predictions import load_trained, to_rgb
from zoo.pictures.shown import SelectedImages, select_images
from zoo.registry.registry import Registry
from zoo.tasks.images import ImageModel, require_image_model
from zoo.training.run_folder import RunFolder

TEST_IMAGES = 6
MAX_FILES = 16
CHARACTERS = 40  # of a line beside an image, where a name may be that of many labels


@dataclass(frozen=True)
class Explained:
    """Images, and the class of each whose score is explained.

    Attributes:
        task: on the GPU if there is one, without gradients of weights.
        classes: int64 [n], on that device.
        titles: one for each image: its name or true class, and its prediction.
        whose: the class that they have in common, for a heading.
        again: the command that explains another class.
    """

    task: ImageModel
    shown: SelectedImages
    classes: Tensor
    titles: list[str]
    whose: str
    again: str

    @property
    def pixels(self) -> Tensor:
        """Values from 0 to 255, float [n, C, H, W], on the device of the task."""
        return self.shown.images.to(self.task.device).float()

    @property
    def rgb(self) -> np.ndarray:
        """RGB in [0, 1], [n, H, W, 3]."""
        return to_rgb(self.shown.images)


def explain(
    registry: Registry,
    folder: RunFolder,
    kind: str,
    images: Sequence[str],
    checkpoint: str,
    data: str,
    settings: Sequence[str],
    class_name: str,
) -> Explained:
    """Predict images with a run, and choose the predicted class of each, or ``class_name``.

    Args:
        kind: of the picture, for messages.

    Raises:
        UserError: it is no network of images, has no gradients or no such class, or the images cannot be read.
    """
    task, run = load_trained(registry, folder, checkpoint)
    require_image_model(task, folder.name, f"zoo picture {kind}")
    if task.one_pass:
        raise UserError(f"{folder.name} has no gradients ({run.model['name']}): choose the run of a network")
    classes = task.spec.classes
    if class_name and class_name not in classes:
        raise unknown("class", class_name, classes)
    shown = select_images(registry, run, task.spec, images, data, settings, TEST_IMAGES, MAX_FILES)
    task.to("cuda" if torch.cuda.is_available() else "cpu").requires_grad_(False)
    with torch.no_grad():
        likely = task.predict_step({"images": shown.images.to(task.device).float()}).sort(1, descending=True)
    chosen = torch.full_like(likely.indices[:, 0], classes.index(class_name)) if class_name else likely.indices[:, 0]
    probabilities = likely.values[likely.indices == chosen[:, None]].tolist()
    word = "class" if class_name else "predicted"
    titles = [
        f"{fill(name, CHARACTERS)}\n{word} {classes[i]} ({p:.0%})"
        for name, p, i in zip(shown.names, probabilities, chosen.tolist(), strict=True)
    ]
    again = " ".join([f"zoo picture {kind}", folder.name, *map(shell_word, images)])
    another = again if class_name else f"{again} --class {shell_word(classes[likely.indices[0, 1]])}"
    return Explained(task, shown, chosen, titles, f"class {class_name}" if class_name else "the predicted class", another)
