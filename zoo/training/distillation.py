"""The teacher of knowledge distillation: it adds what it predicts to each training batch, where the loss of the task finds it.

So it is no part of the network that is trained: not of its weights, optimizer, averages, monitors or checkpoints.
"""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from zoo.config.run import Run
from zoo.core.errors import UserError, some
from zoo.core.fingerprint import sha256_of_state
from zoo.registry.registry import Registry
from zoo.spec import ImageSpec
from zoo.tasks.classification import TEACHER
from zoo.tasks.images import ImageModel
from zoo.tasks.task import Task
from zoo.training.building import open_trained


def teaching(registry: Registry, run: Run, task: Task) -> list[L.Callback]:
    """The callback of the teacher that a recipe names; none without.

    It works within a step, so its place is behind callbacks that measure how long batches take to come.

    Raises:
        UserError: there is no such trained model, or it cannot teach the classes or the images of ``task``.
    """
    return [Distillation(registry, run.recipe.teacher, task.spec)] if run.recipe.teacher else []


class Distillation(L.Callback):
    """Adds the teacher's logits, [N, classes], to each training batch as ``teacher_logits``.

    A checkpoint holds a hash of its weights, by which a resumed training finds the same teacher or none.

    Args:
        name: of the teacher, as ``find_trained`` takes it.
        spec: of the images and classes that are learned.
    """

    def __init__(self, registry: Registry, name: str, spec: ImageSpec) -> None:
        self.name = f"recipe.teacher={name}"
        try:
            self.teacher = open_trained(registry, name)
        except UserError as error:
            raise UserError(f"{self.name}: {error}") from error
        self._require_images(spec)
        self.columns = self._columns(spec.classes)
        normalization = {"input_scale": self.teacher.input_scale, "input_shift": self.teacher.input_shift}
        self.sha256 = sha256_of_state({**self.teacher.state_dict(), **normalization})

    def _require_images(self, spec: ImageSpec) -> None:
        if not isinstance(self.teacher, ImageModel) or self.teacher.task != spec.task:
            raise UserError(f"{self.name}: is for {self.teacher.task}, and the data for {spec.task}: name an image classifier")
        own = self.teacher.spec
        if own.are_points != spec.are_points or own.channels < spec.channels:
            takes, these = ("points" if each.are_points else f"{each.channels}-channel images" for each in (own, spec))
            raise UserError(f"{self.name}: takes {takes}, and the data is {these}: name another teacher")
        if own.value_range and own.value_range != spec.value_range:
            low, high = own.value_range
            raise UserError(f"{self.name}: takes gray values from {low:g} to {high:g}: set data.value_range=[{low:g},{high:g}]")

    def _columns(self, classes: tuple[str, ...]) -> Tensor:
        """Where the teacher has each class, by its name."""
        known = self.teacher.spec.classes
        if lacking := [name for name in classes if name not in known]:
            raise UserError(
                f"{self.name}: lacks {len(lacking)} of {len(classes)} classes of the data: {some(lacking)}; it has {some(known)}"
            )
        return torch.tensor([known.index(name) for name in classes])

    def state_dict(self) -> dict[str, Any]:
        return {"sha256": self.sha256}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict["sha256"] != self.sha256:
            raise UserError(f"{self.name}: has other weights than when the run began: put those back, or start a new run")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.teacher.to(pl_module.device, pl_module.dtype)
        self.columns = self.columns.to(pl_module.device)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        # monitors follow the functions that are called, of which these are not the student's
        with torch.no_grad(), trainer.precision_plugin.forward_context(), torch._C.DisableTorchFunction():
            batch[TEACHER] = self.logits(batch["images"])

    def logits(self, images: Tensor) -> Tensor:
        """Logits [N, classes] of the student's images, pixels from 0 to 255, [N, C, H, W], in the teacher's size and channels."""
        channels, height, width = self.teacher.spec.shape
        images = images.expand(-1, channels, -1, -1)
        if images.shape[2:] != (height, width):
            images = F.interpolate(images.float(), (height, width), mode="bilinear", antialias=True)
        return self.teacher.logits({"images": images})[:, self.columns]
